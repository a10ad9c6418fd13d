"""The reduction engine: preload, difference, drain and range of accumulator banks, and sums over neighbours.

A bank holds fp32, or the int32 sums of int8 products. Only element type int32 moves a bank's words unchanged
(`acc_load`, `acc_drain`); every other type, `acc_range`, `acc_sub` and `acc_add` take them as fp32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isa import columns as col
from isa import dtypes
from isa.table import BY_NAME
from simulator.jit import inner_kernel
from simulator.meaning import codes
from simulator.meaning.convert import store_plain
from simulator.meaning.order import larger, larger_plain, smaller, smaller_plain
from simulator.meaning.plain import Command
from simulator.meaning.tables import Array, Floats, Integers, Scalar

_LOAD, _DRAIN, _SEND, _ADD, _RANGE, SUB = (
    BY_NAME[name].opcode for name in ("acc_load", "acc_drain", "acc_send", "acc_add", "acc_range", "acc_sub")
)
_INT32, _FP32 = dtypes.INT32.code, dtypes.FP32.code


@inner_kernel
def run(fields: Integers, values: Integers, a: Floats, out: Floats, banks: Floats, link: Floats) -> Scalar:
    """Execute a command of the reduction engine on fp32 scratch `a` and `out`."""
    opcode, rows, columns = fields[col.OPCODE], values[6], values[7]
    bank = banks[fields[col.BANK]]
    if opcode == _RANGE:
        _range(bank, rows, columns, out)
        return codes.OK
    for row in range(rows):
        for column in range(columns):
            if opcode == _LOAD:
                bank[row, column] = a[row * columns + column]
            elif opcode == _DRAIN:
                out[row * columns + column] = bank[row, column]
            elif opcode == _SEND:
                link[row, column] = bank[row, column]
            elif opcode == SUB:
                bank[row, column] -= a[row * columns + column]
            elif opcode == _ADD:
                bank[row, column] += link[row, column]
            else:
                return codes.NO_MEANING
    return codes.OK


@inner_kernel
def _range(bank: Array, rows: Scalar, columns: Scalar, out: Floats) -> None:
    for row in range(rows):
        least, greatest = np.float32(np.inf), np.float32(-np.inf)
        for column in range(columns):
            least = smaller(least, bank[row, column])
            greatest = larger(greatest, bank[row, column])
        out[2 * row], out[2 * row + 1] = least, greatest


def _acc_load(command: Command) -> None:
    if command.dtype(1) == _INT32:
        rows = 1 if command.word == "row" else command.rows
        columns = 1 if command.word == "column" else command.columns
        words = np.ascontiguousarray(command.view(1, rows, 4 * columns)).view(np.int32)
        command.bank.view(np.int32)[...] = words
    else:
        command.bank[...] = command.read_spread(1)


def _acc_drain(command: Command) -> None:
    if command.dtype(0) == _INT32:
        command.view(0, command.rows, 4 * command.columns)[...] = np.ascontiguousarray(command.bank).view(np.uint8)
    else:
        command.write(command.bank)


def _acc_send(command: Command) -> None:
    command.link[: command.rows, : command.columns] = command.bank


def _acc_add(command: Command) -> None:
    command.bank[...] += command.link[: command.rows, : command.columns]


def _acc_sub(command: Command) -> None:
    command.bank[...] -= command.read_spread(1)


def _acc_range(command: Command) -> None:
    least = np.full(command.rows, np.inf, dtype=np.float32)
    greatest = -least
    for column in range(command.columns):
        least = smaller_plain(least, command.bank[:, column])
        greatest = larger_plain(greatest, command.bank[:, column])
    command.view(0, command.rows, 8)[...] = store_plain(np.stack([least, greatest], axis=1), _FP32)


PLAIN: dict[str, Callable[[Command], None]] = {
    "acc_load": _acc_load,
    "acc_drain": _acc_drain,
    "acc_send": _acc_send,
    "acc_add": _acc_add,
    "acc_range": _acc_range,
    "acc_sub": _acc_sub,
}
