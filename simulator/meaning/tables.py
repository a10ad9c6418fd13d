"""Constant tables and scratch space that the fast forms work with; they allocate nothing themselves."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from isa.columns import INDEX
from isa.dtypes import DTYPES
from isa.table import INSTRUCTIONS, SLOTS, Instruction, Kind
from simulator.traits import traits_table

K_CHUNK = 128
"""Elements of K that are multiplied at a time."""

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Scalar: TypeAlias = Any
"""A number inside a kernel: numba infers its machine type."""


class Tables(NamedTuple):
    """See `make_tables`; never more than one set of array types, so kernels are compiled once."""

    traits: Integers
    dtype_column: Integers
    element_bytes: Integers
    bytes_as_float: Floats
    a: Floats
    b: Floats
    out: Floats
    block_a: Floats
    block_b: Floats
    block_k_bytes: Integers


def make_tables(block_k_bytes: int, bank_rows: int, bank_columns: int, local_bytes: int) -> Tables:
    """Return tables for a machine's matrix block (bytes of K), accumulator banks, and bytes of local memory.

    traits: see `simulator.traits`; dtype_column: int64[256, 3], see there; element_bytes: int64[16] by dtype code, 0 if
    not addressable; bytes_as_float: float32[16, 256], the values of all codes of the one-byte types; block_k_bytes:
    int64[1]. The rest is scratch: operands as fp32, and pieces of matrix operands with K outermost.
    """
    columns = np.full((1 << SLOTS["opcode"][1], 3), -1, dtype=np.int64)
    for instruction in INSTRUCTIONS:
        columns[instruction.opcode] = [dtype_column(instruction, operand) for operand in range(3)]
    codes = 1 << SLOTS["d0"][1]
    element_bytes = np.zeros(codes, dtype=np.int64)
    bytes_as_float = np.zeros((codes, 256), dtype=np.float32)
    for dtype in DTYPES:
        element_bytes[dtype.code] = dtype.bits // 8
        if dtype.bits == 8:
            bytes_as_float[dtype.code] = np.arange(256, dtype=np.uint8).view(dtype.numpy).astype(np.float32)
    return Tables(
        traits=traits_table(),
        dtype_column=columns,
        element_bytes=element_bytes,
        bytes_as_float=bytes_as_float,
        a=np.zeros(local_bytes, dtype=np.float32),
        b=np.zeros(local_bytes, dtype=np.float32),
        out=np.zeros(local_bytes, dtype=np.float32),
        block_a=np.zeros(K_CHUNK * bank_rows, dtype=np.float32),
        block_b=np.zeros(K_CHUNK * bank_columns, dtype=np.float32),
        block_k_bytes=np.array([block_k_bytes], dtype=np.int64),
    )


def dtype_column(instruction: Instruction, operand: int) -> int:
    """Return the column of `isa.columns` with the element type of out (0), a (1) or b (2).

    An operand without a type of its own has that of a; -1 if it is absent or no rows of elements.
    """
    slots = [each.slot for each in instruction.operands if each.kind is Kind.DTYPE]
    name = ("out", "a", "b")[operand]
    if not slots or name not in instruction.by_name or f"{name}_pitch" not in instruction.by_name:
        return -1
    own = f"d{operand}"
    return INDEX[own if own in slots else "d1"]
