"""Reductions over rows and columns in fp32, in ascending order from 0, 1, -infinity or +infinity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isa.table import BY_NAME
from simulator.jit import inner_kernel
from simulator.meaning import codes
from simulator.meaning.order import larger, larger_plain, smaller, smaller_plain
from simulator.meaning.plain import Command
from simulator.meaning.tables import Floats, Scalar

_ROWSUM, _ROWMAX, _ROWMIN, _ROWPROD, _COLSUM = (
    BY_NAME[name].opcode for name in ("rowsum", "rowmax", "rowmin", "rowprod", "colsum")
)


@inner_kernel
def run(opcode: Scalar, rows: Scalar, columns: Scalar, a: Floats, out: Floats) -> Scalar:
    """Execute a reduction of fp32 rows x columns to one value per row, or per column."""
    if opcode == _COLSUM:
        for column in range(columns):
            out[column] = 0.0
        for row in range(rows):
            for column in range(columns):
                out[column] += a[np.uint64(row * columns + column)]
        return codes.OK
    if opcode != _ROWSUM and opcode != _ROWMAX and opcode != _ROWMIN and opcode != _ROWPROD:
        return codes.NO_MEANING
    for row in range(rows):
        out[row] = _fold(opcode, a, row * columns, (row + 1) * columns)
    return codes.OK


@inner_kernel
def _fold(opcode: Scalar, a: Floats, first: Scalar, end: Scalar) -> Scalar:
    total = np.float32(0.0) if opcode == _ROWSUM else np.float32(-np.inf if opcode == _ROWMAX else np.inf)
    if opcode == _ROWPROD:
        total = np.float32(1.0)
    for index in range(first, end):
        if opcode == _ROWSUM:
            total += a[index]
        elif opcode == _ROWPROD:
            total *= a[index]
        elif opcode == _ROWMAX:
            total = larger(total, a[index])
        else:
            total = smaller(total, a[index])
    return total


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
    "rowprod": _rows_folded(lambda total, a: total * a, 1.0),
    "colsum": _colsum,
}
