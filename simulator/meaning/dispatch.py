"""The entrance: execute one command on memories. The topic is found by the timing class of the instruction's row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isa import columns as col
from isa import dtypes
from isa.table import BY_OPCODE, Instruction, Timing
from simulator.jit import kernel
from simulator.meaning import accumulator, codes, layout, matrix, reduction, simd, transfer
from simulator.meaning.plain import Bytes, Command, Floats, Integers, MeaningError
from simulator.meaning.tables import Tables, dtype_column

_TRANSFER, _LAYOUT, _MATRIX, _ACCUMULATOR, _LINK, _SIMD, _LUT, _REDUCTION = (
    int(timing)
    for timing in (
        Timing.TRANSFER, Timing.LAYOUT, Timing.MATRIX, Timing.ACCUMULATOR, Timing.LINK, Timing.SIMD, Timing.LUT,
        Timing.REDUCTION,
    )
)  # fmt: skip
_transfer, _layout, _matrix, _accumulator = transfer.run, layout.run, matrix.run, accumulator.run
_simd, _reduction = simd.run, reduction.run


@kernel
def execute(fields, values, out_address, a_address, b_address, local, sram, dram, banks, link, tables):
    """Execute one command and return a code of `simulator.meaning.codes`.

    fields: int64[18] row of `isa.columns`; values: int64[8], what the registers in slots r0..r7 hold; *_address: byte
    index of an operand in `local`, -1 if unused; local, sram, dram: uint8[n]; banks: float32[banks, rows, columns] of
    this PE; link: float32[rows, columns] of the neighbour message; tables: `make_tables`. Ranges have been checked,
    except of rows chosen by indices.
    """
    timing = tables.timing_of_opcode[fields[col.OPCODE]]
    if timing == _TRANSFER:
        return _transfer(fields, values, out_address, a_address, b_address, local, sram, dram)
    addresses = (out_address, a_address, b_address)
    for operand in range(3):
        problem = _check(fields, values, addresses[operand], operand, tables)
        if problem != codes.OK:
            return problem
    if timing == _SIMD or timing == _LUT:
        return _simd(fields, values, out_address, a_address, b_address, local, tables)
    if timing == _REDUCTION:
        return _reduction(fields, values, out_address, a_address, local, tables)
    if timing == _MATRIX:
        return _matrix(fields, values, a_address, b_address, local, banks, tables)
    if timing == _ACCUMULATOR or timing == _LINK:
        return _accumulator(fields, values, out_address, a_address, local, banks, link, tables)
    if timing == _LAYOUT:
        return _layout(fields, values, out_address, a_address, local, tables)
    return codes.NO_MEANING


@kernel
def _check(fields, values, address, operand, tables):
    """Return the problem with the element type or alignment of operand out (0), a (1) or b (2), or OK."""
    column = tables.dtype_column[fields[col.OPCODE], operand]
    if column < 0:
        return codes.OK
    size = tables.element_bytes[fields[column]]
    if size == 0:
        return codes.UNSUPPORTED_DTYPE
    if address % size or values[2 * operand + 1] % size:
        return codes.MISALIGNED
    return codes.OK


PLAIN: dict[str, Callable[[Command], None]] = {
    **transfer.PLAIN,
    **layout.PLAIN,
    **matrix.PLAIN,
    **accumulator.PLAIN,
    **simd.PLAIN,
    **reduction.PLAIN,
}


def execute_plain(
    fields: Integers,
    values: Integers,
    out_address: int,
    a_address: int,
    b_address: int,
    local: Bytes,
    sram: Bytes,
    dram: Bytes,
    banks: Floats,
    link: Floats,
    tables: Tables,
) -> int:
    """As `execute`, in obvious NumPy; of `tables` only the block size is used."""
    addresses, block_k_bytes = (out_address, a_address, b_address), int(tables.block_k_bytes[0])
    command = Command(fields, values, addresses, local, sram, dram, banks, link, block_k_bytes)
    instruction = BY_OPCODE[int(fields[col.OPCODE])]
    try:
        for operand, address in enumerate(addresses):
            _check_plain(command, instruction, operand, address)
        with np.errstate(all="ignore"):
            PLAIN[instruction.name](command)
    except MeaningError as error:
        return error.code
    return codes.OK


def _check_plain(command: Command, instruction: Instruction, operand: int, address: int) -> None:
    column = dtype_column(instruction, operand)
    if column < 0:
        return
    dtype = dtypes.BY_CODE.get(int(command.fields[column]))
    if dtype is None or dtype.bits < 8:
        raise MeaningError(codes.UNSUPPORTED_DTYPE)
    if address % dtype.bytes or int(command.values[2 * operand + 1]) % dtype.bytes:
        raise MeaningError(codes.MISALIGNED)
