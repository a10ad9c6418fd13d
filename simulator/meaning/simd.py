"""How the SIMD engine walks its operands: row by row, widened to fp32, one operation or function, stored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isa import columns as col
from isa.table import Timing
from simulator.jit import kernel
from simulator.meaning import codes, elementwise, functions
from simulator.meaning.convert import load, store
from simulator.meaning.plain import Command
from simulator.meaning.tables import CHUNK

_LUT = int(Timing.LUT)
_ROW, _COLUMN = 1, 2
_apply_operation, _apply_function = elementwise.apply, functions.apply


@kernel
def run(fields, values, out_address, a_address, b_address, local, tables):
    """Execute an element-wise command; `b_address` is -1 where there is no operand b."""
    opcode, out_dtype, a_dtype = fields[col.OPCODE], fields[col.D0], fields[col.D1]
    out_size, a_size = tables.element_bytes[out_dtype], tables.element_bytes[a_dtype]
    is_function = tables.timing_of_opcode[opcode] == _LUT
    value = np.int32(fields[col.IMMEDIATE]).view(np.float32)
    a, b, out = tables.row[0], tables.row[1], tables.row[2]
    b[:] = value
    for row in range(values[6]):
        for start in range(0, values[7], CHUNK):
            count = min(CHUNK, values[7] - start)
            load(local, a_address + row * values[3] + start * a_size, a_dtype, count, tables, a)
            if b_address >= 0:
                _load_b(fields, b_address, row, start, values[5], count, local, tables, b)
            if is_function:
                is_known = _apply_function(opcode, a, out, count)
            else:
                limit = values[4] + row * values[5] - start
                is_known = _apply_operation(opcode, a, b, value, limit, out, count)
            if not is_known:
                return codes.NO_MEANING
            store(out, count, out_dtype, local, out_address + row * values[1] + start * out_size)
    return codes.OK


@kernel
def _load_b(fields, address, row, start, pitch, count, local, tables, b):
    """Load a piece of row `row` of operand b: of its only row, or its only column repeated, as `spread` says."""
    dtype, spread = fields[col.D2], fields[col.MODE]
    if spread == _COLUMN:
        load(local, address + row * pitch, dtype, 1, tables, b)
        b[:count] = b[0]
    else:
        first = address if spread == _ROW else address + row * pitch
        load(local, first + start * tables.element_bytes[dtype], dtype, count, tables, b)


def _binary(name: str) -> Callable[[Command], None]:
    def execute(command: Command) -> None:
        a = command.read(1, command.rows, command.columns)
        command.write(elementwise.BINARY[name](a, command.read_spread(2), command.constant))

    return execute


def _unary(name: str) -> Callable[[Command], None]:
    def execute(command: Command) -> None:
        command.write(elementwise.UNARY[name](command.read(1, command.rows, command.columns), command))

    return execute


def _function(name: str) -> Callable[[Command], None]:
    def execute(command: Command) -> None:
        command.write(functions.PLAIN[name](command.read(1, command.rows, command.columns)))

    return execute


PLAIN: dict[str, Callable[[Command], None]] = {
    **{name: _binary(name) for name in elementwise.BINARY},
    **{name: _unary(name) for name in elementwise.UNARY},
    **{name: _function(name) for name in functions.PLAIN},
}
