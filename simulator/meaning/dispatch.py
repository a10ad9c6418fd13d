"""The entrance: execute one command on memories. The timing class of the instruction's row leads to
its topic; operands are widened to fp32 before and rounded after, by the types and shapes in its row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isa import columns as col
from isa import dtypes
from isa.table import BY_OPCODE, Instruction, Timing
from simulator import traits as tr
from simulator.jit import inner_kernel, kernel
from simulator.meaning import accumulator, codes, elementwise, functions, layout, matrix, reduction, transfer
from simulator.meaning.convert import WORDS, load_block, store_block
from simulator.meaning.plain import Command, MeaningError
from simulator.meaning.tables import Bytes, Floats, Integers, Scalar, Tables, dtype_column

_TRANSFER, _LAYOUT, _MATRIX, _ACCUMULATOR, _LINK, _SIMD, _LUT, _REDUCTION, _VECTOR_MATRIX = (
    int(timing)
    for timing in (
        Timing.TRANSFER, Timing.LAYOUT, Timing.MATRIX, Timing.ACCUMULATOR, Timing.LINK, Timing.SIMD, Timing.LUT,
        Timing.REDUCTION, Timing.VECTOR_MATRIX,
    )
)  # fmt: skip
_run_transfer, _run_layout, _run_matrix, _run_accumulator = transfer.run, layout.run, matrix.run, accumulator.run
_run_elementwise, _run_limit, _run_function = elementwise.run, elementwise.limit, functions.run
_run_reduction = reduction.run
_FILL, _LIMIT, _SUB = layout.FILL, elementwise.LIMIT, accumulator.SUB
_spread_groups = elementwise.spread_groups
_INT32, _FP32, _INT4 = dtypes.INT32.code, dtypes.FP32.code, dtypes.INT4.code
_OUT, _A, _B = (np.int64(operand) for operand in range(3))


@kernel
def execute(
    fields: Integers,
    values: Integers,
    out_address: Scalar,
    a_address: Scalar,
    b_address: Scalar,
    local: Bytes,
    sram: Bytes,
    dram: Bytes,
    banks: Floats,
    link: Floats,
    tables: Tables,
) -> Scalar:
    """Execute one command and return a code of `simulator.meaning.codes`.

    fields: int64[18] row of `isa.columns`; values: int64[8], what the registers in slots r0..r7 hold; *_address: byte
    index of an operand in `local`, -1 if unused; local, sram, dram: uint8[n], local's size a multiple of 4; banks:
    float32[banks, rows, columns] of this PE; link: float32[rows, columns], a neighbour's message; tables:
    `make_tables`. Ranges have been checked, except of rows chosen by indices.
    """
    addresses = (out_address, a_address, b_address)
    for operand in range(3):
        problem = _check(fields, values, addresses[operand], operand, tables)
        if problem != codes.OK:
            return problem
    opcode = fields[col.OPCODE]
    timing = tables.traits[opcode, tr.TIMING]
    if timing == _TRANSFER:
        return _run_transfer(fields, values, out_address, a_address, b_address, local, sram, dram)
    if timing == _LAYOUT and opcode != _FILL:
        return _run_layout(fields, values, out_address, a_address, local, tables.element_bytes)
    if _most_elements(fields, values, timing, tables) > local.shape[0]:
        return codes.TOO_LARGE
    last = _A if timing in (_MATRIX, _VECTOR_MATRIX) else _B  # products read b themselves
    for operand in range(_A, last + 1):
        if addresses[operand] >= 0:
            _load(fields, values, addresses[operand], operand, local, tables, tables.a if operand == _A else tables.b)
    problem = _compute(timing, fields, values, banks, link, local, b_address, tables)
    if problem == codes.OK and out_address >= 0:
        rows, columns = _shape(fields, values, _OUT, tables)
        store_block(tables.out, rows, columns, _dtype(fields, _OUT, tables), local, out_address, values[1])
    return problem


@inner_kernel
def _compute(
    timing: Scalar,
    fields: Integers,
    values: Integers,
    banks: Floats,
    link: Floats,
    local: Bytes,
    b_address: Scalar,
    tables: Tables,
) -> Scalar:
    """Compute tables.out, a bank or a message from tables.a, tables.b, the constant, a bank or a message.

    A product's b is still in `local`.
    """
    opcode, count = fields[col.OPCODE], values[6] * values[7]
    if timing in (_MATRIX, _VECTOR_MATRIX):
        depth = _shape(fields, values, _A, tables)[1]
        return _run_matrix(fields, values, depth, banks, local, b_address, tables)
    if timing in (_ACCUMULATOR, _LINK):
        return _run_accumulator(fields, values, tables.a, tables.out, banks, link)
    if timing == _REDUCTION:
        return _run_reduction(opcode, values[6], values[7], tables.a, tables.out)
    value = np.int32(fields[col.IMMEDIATE]).view(np.float32)
    if timing == _LUT:
        return _run_function(opcode, tables.a, tables.b, value, tables.out, count)
    if opcode == _LIMIT:
        _run_limit(values, tables.a, value, tables.out)
        return codes.OK
    if b_address < 0:
        target = tables.out if opcode == _FILL else tables.b
        for index in range(count):
            target[index] = value
    if opcode == _FILL:
        return codes.OK
    if timing == _SIMD:
        return _run_elementwise(opcode, tables.a, tables.b, value, tables.out, count)
    return codes.NO_MEANING


@inner_kernel
def _most_elements(fields: Integers, values: Integers, timing: Scalar, tables: Tables) -> Scalar:
    """Return the elements of the largest operand: the scratch of `Tables` holds as many as local memory has bytes."""
    if timing in (_MATRIX, _VECTOR_MATRIX):
        return max(values[6], values[7]) * _shape(fields, values, _A, tables)[1]
    return values[6] * values[7]


@inner_kernel
def _shape(fields: Integers, values: Integers, operand: Scalar, tables: Tables) -> tuple[Scalar, Scalar]:
    """Return (rows, elements per row) of out (0), a (1) or b (2), a spread operand being spread already."""
    first = tr.OUT_ROWS + 3 * operand
    traits = tables.traits[fields[col.OPCODE]]
    rows = values[6]
    if traits[first] == tr.ONE:
        rows = 1
    elif traits[first] == tr.FROM_R7:
        rows = values[7]
    columns = values[7]
    if traits[first + 1] == tr.ONE_ELEMENT:
        columns = 1
    elif traits[first + 1] == tr.PAIR:
        columns = 2
    elif traits[first + 1] == tr.GROUPS:
        group = max(fields[col.IMMEDIATE], 1)
        columns = (values[7] + group - 1) // group
    elif traits[first + 1] == tr.K_BLOCKS:
        columns = values[0] * tables.block_k_bytes[0] // tables.element_bytes[fields[col.D1]]
    return rows, columns


@inner_kernel
def _dtype(fields: Integers, operand: Scalar, tables: Tables) -> Scalar:
    """Return the element type of an operand; banks exchange int32 unchanged, and have others in fp32."""
    opcode = fields[col.OPCODE]
    column = tables.dtype_column[opcode, operand]
    if column < 0:
        return _FP32
    dtype = fields[column]
    is_exchange = tables.traits[opcode, tr.TIMING] == _ACCUMULATOR and opcode != _SUB
    return WORDS if is_exchange and dtype == _INT32 else dtype


@inner_kernel
def _load(
    fields: Integers, values: Integers, address: Scalar, operand: Scalar, local: Bytes, tables: Tables, out: Floats
) -> None:
    rows, columns = _shape(fields, values, operand, tables)
    is_spread = tables.traits[fields[col.OPCODE], tr.SPREAD_OPERAND] == operand
    spread = fields[col.MODE] if is_spread else 0
    dtype = _dtype(fields, operand, tables)
    load_block(local, address, values[2 * operand + 1], rows, columns, spread, dtype, tables.bytes_as_float, out)
    if tables.traits[fields[col.OPCODE], tr.OUT_ROWS + 3 * operand + 1] == tr.GROUPS:
        _spread_groups(out, rows, values[7], max(fields[col.IMMEDIATE], 1))


@inner_kernel
def _check(fields: Integers, values: Integers, address: Scalar, operand: Scalar, tables: Tables) -> Scalar:
    """Return the problem with the element type or alignment of operand out (0), a (1) or b (2), or OK."""
    column = tables.dtype_column[fields[col.OPCODE], operand]
    if column < 0 or address < 0:
        return codes.OK
    size = tables.element_bytes[fields[column]]
    if size == 0:
        timing = tables.traits[fields[col.OPCODE], tr.TIMING]
        if fields[column] != _INT4 or operand == _OUT or timing != _SIMD:
            return codes.UNSUPPORTED_DTYPE
        size = 1
    if address % size or values[2 * operand + 1] % size:
        return codes.MISALIGNED
    return codes.OK


PLAIN: dict[str, Callable[[Command], None]] = {
    **transfer.PLAIN,
    **layout.PLAIN,
    **matrix.PLAIN,
    **accumulator.PLAIN,
    **elementwise.PLAIN,
    **functions.PLAIN,
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
        if _most_elements_plain(command, instruction) > len(local):
            raise MeaningError(codes.TOO_LARGE)
        with np.errstate(all="ignore"):
            PLAIN[instruction.name](command)
    except MeaningError as error:
        return error.code
    return codes.OK


def _most_elements_plain(command: Command, instruction: Instruction) -> int:
    rows, columns = int(command.values[6]), int(command.values[7])
    if instruction.timing in (Timing.MATRIX, Timing.VECTOR_MATRIX):
        dtype = dtypes.BY_CODE[int(command.fields[col.D1])]
        return max(rows, columns) * (int(command.values[0]) * command.block_k_bytes // dtype.bytes)
    moves = instruction.timing in (Timing.TRANSFER, Timing.LAYOUT) and instruction.name != "fill"
    return 0 if moves else rows * columns


def _check_plain(command: Command, instruction: Instruction, operand: int, address: int) -> None:
    column = dtype_column(instruction, operand)
    if column < 0 or address < 0:
        return
    dtype = dtypes.BY_CODE.get(int(command.fields[column]))
    if dtype is None or (dtype.bits < 8 and (operand == _OUT or instruction.timing is not Timing.SIMD)):
        raise MeaningError(codes.UNSUPPORTED_DTYPE)
    size = dtype.row_bytes(1)
    if address % size or int(command.values[2 * operand + 1]) % size:
        raise MeaningError(codes.MISALIGNED)
