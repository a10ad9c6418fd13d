"""Reductions over rows and columns in fp32, in ascending order from 0, -infinity or +infinity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isa import columns as col
from isa.table import BY_NAME
from simulator.jit import kernel
from simulator.meaning import codes
from simulator.meaning.convert import load, store
from simulator.meaning.order import larger, larger_plain, smaller, smaller_plain
from simulator.meaning.plain import Command, Floats
from simulator.meaning.tables import CHUNK

_ROWSUM, _ROWMAX, _ROWMIN, _COLSUM = (BY_NAME[name].opcode for name in ("rowsum", "rowmax", "rowmin", "colsum"))


@kernel
def run(fields, values, out_address, a_address, local, tables):
    """Execute a reduction."""
    opcode, a_dtype, out_dtype = fields[col.OPCODE], fields[col.D1], fields[col.D0]
    if opcode == _COLSUM:
        _column_sums(values, a_dtype, out_dtype, out_address, a_address, local, tables)
        return codes.OK
    if opcode != _ROWSUM and opcode != _ROWMAX and opcode != _ROWMIN:
        return codes.NO_MEANING
    line, total = tables.row[0], tables.row[1]
    size = tables.element_bytes[a_dtype]
    for row in range(values[6]):
        total[0] = 0.0 if opcode == _ROWSUM else (-np.inf if opcode == _ROWMAX else np.inf)
        for start in range(0, values[7], CHUNK):
            count = min(CHUNK, values[7] - start)
            load(local, a_address + row * values[3] + start * size, a_dtype, count, tables, line)
            total[0] = _fold(opcode, line, count, total[0])
        store(total, 1, out_dtype, local, out_address + row * values[1])
    return codes.OK


@kernel
def _fold(opcode, line, count, total):
    if opcode == _ROWSUM:
        for index in range(count):
            total += line[index]
    elif opcode == _ROWMAX:
        for index in range(count):
            total = larger(total, line[index])
    else:
        for index in range(count):
            total = smaller(total, line[index])
    return total


@kernel
def _column_sums(values, a_dtype, out_dtype, out_address, a_address, local, tables):
    line, total = tables.row[0], tables.row[1]
    a_size, out_size = tables.element_bytes[a_dtype], tables.element_bytes[out_dtype]
    for start in range(0, values[7], CHUNK):
        count = min(CHUNK, values[7] - start)
        total[:count] = np.float32(0.0)
        for row in range(values[6]):
            load(local, a_address + row * values[3] + start * a_size, a_dtype, count, tables, line)
            for index in range(count):
                total[index] += line[index]
        store(total, count, out_dtype, local, out_address + start * out_size)


def _rows_folded(step: Callable[[Floats, Floats], Floats], first: float) -> Callable[[Command], None]:
    def reduce(command: Command) -> None:
        a = command.read(1, command.rows, command.columns)
        total = np.full(command.rows, first, dtype=np.float32)
        for column in range(command.columns):
            total = step(total, a[:, column])
        command.write(total[:, None])

    return reduce


def _colsum(command: Command) -> None:
    total = np.zeros(command.columns, dtype=np.float32)
    for row in command.read(1, command.rows, command.columns):
        total = total + row
    command.write(total[None, :])


PLAIN: dict[str, Callable[[Command], None]] = {
    "rowsum": _rows_folded(lambda total, a: total + a, 0.0),
    "rowmax": _rows_folded(larger_plain, -np.inf),
    "rowmin": _rows_folded(smaller_plain, np.inf),
    "colsum": _colsum,
}
