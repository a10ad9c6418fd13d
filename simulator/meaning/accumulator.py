"""The reduction engine: preload, drain and range of accumulator banks, and sums over neighbours.

A bank holds fp32, or the int32 sums of int8 products. Only element type int32 moves a bank's words unchanged
(`acc_load`, `acc_drain`); every other type, `acc_range` and `acc_add` take them as fp32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isa import columns as col
from isa import dtypes
from isa.table import BY_NAME
from simulator.jit import kernel
from simulator.meaning import codes
from simulator.meaning.convert import load, store, store_plain
from simulator.meaning.order import larger, larger_plain, smaller, smaller_plain
from simulator.meaning.plain import Command

_LOAD, _DRAIN, _SEND, _ADD, _RANGE = (
    BY_NAME[name].opcode for name in ("acc_load", "acc_drain", "acc_send", "acc_add", "acc_range")
)
_INT32, _FP32 = dtypes.INT32.code, dtypes.FP32.code
_ROW, _COLUMN = 1, 2


@kernel
def run(fields, values, out_address, a_address, local, banks, link, tables):
    """Execute a command of the reduction engine; a bank's columns fit a row of scratch."""
    opcode, rows, columns = fields[col.OPCODE], values[6], values[7]
    bank = banks[fields[col.BANK]]
    if opcode == _LOAD:
        _load_bank(fields, values, a_address, local, bank, tables)
    elif opcode == _DRAIN:
        _drain_bank(fields, values, out_address, local, bank, tables)
    elif opcode == _SEND:
        for row in range(rows):
            for column in range(columns):
                link[row, column] = bank[row, column]
    elif opcode == _ADD:
        for row in range(rows):
            for column in range(columns):
                bank[row, column] += link[row, column]
    elif opcode == _RANGE:
        _range(values, out_address, local, bank, tables)
    else:
        return codes.NO_MEANING
    return codes.OK


@kernel
def _load_bank(fields, values, a_address, local, bank, tables):
    dtype, mode, columns = fields[col.D1], fields[col.MODE], values[7]
    line = tables.row[0]
    count = 1 if mode == _COLUMN else columns
    for row in range(values[6]):
        address = a_address if mode == _ROW else a_address + row * values[3]
        load(local, address, _FP32 if dtype == _INT32 else dtype, count, tables, line)
        for column in range(columns):
            bank[row, column] = line[0 if mode == _COLUMN else column]


@kernel
def _drain_bank(fields, values, out_address, local, bank, tables):
    dtype, columns = fields[col.D0], values[7]
    line, bank_words = tables.row[0], bank.view(np.uint32)
    for row in range(values[6]):
        address = out_address + row * values[1]
        if dtype == _INT32:
            words = local[address : address + 4 * columns].view(np.uint32)
            for column in range(columns):
                words[column] = bank_words[row, column]
            continue
        for column in range(columns):
            line[column] = bank[row, column]
        store(line, columns, dtype, local, address)


@kernel
def _range(values, out_address, local, bank, tables):
    line = tables.row[0]
    for row in range(values[6]):
        line[0], line[1] = np.float32(np.inf), np.float32(-np.inf)
        for column in range(values[7]):
            line[0] = smaller(line[0], bank[row, column])
            line[1] = larger(line[1], bank[row, column])
        store(line, 2, _FP32, local, out_address + row * values[1])


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
}
