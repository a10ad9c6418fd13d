"""Transfers between local memory, SRAM and DRAM: rows of bytes, some chosen by indices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isa import columns as col
from isa.memory_map import DRAM_BASE, SRAM_BASE
from isa.table import BY_NAME
from simulator.jit import inner_kernel
from simulator.meaning import codes
from simulator.meaning.plain import Command, MeaningError, rows_of
from simulator.meaning.tables import Bytes, Integers, Scalar

_DMA_IN, _DMA_OUT, _GATHER, _SCATTER, _COPY = (
    BY_NAME[name].opcode for name in ("dma_in", "dma_out", "dma_gather", "dma_scatter", "dma_copy")
)


@inner_kernel
def copy_rows(
    target: Bytes,
    target_start: Scalar,
    target_pitch: Scalar,
    source: Bytes,
    source_start: Scalar,
    source_pitch: Scalar,
    rows: Scalar,
    row_bytes: Scalar,
) -> None:
    """Copy rows between byte arrays (uint8[n])."""
    for row in range(rows):
        to, start = target_start + row * target_pitch, source_start + row * source_pitch
        for index in range(row_bytes):
            target[np.uint64(to + index)] = source[np.uint64(start + index)]


@inner_kernel
def run(
    fields: Integers,
    values: Integers,
    out_address: Scalar,
    a_address: Scalar,
    b_address: Scalar,
    local: Bytes,
    sram: Bytes,
    dram: Bytes,
) -> Scalar:
    """Execute a transfer; every index is checked, since only the data tell where it leads."""
    opcode, rows, row_bytes = fields[col.OPCODE], values[6], values[7]
    if opcode == _DMA_IN:
        memory, start = _shared(values[2], sram, dram)
        copy_rows(local, out_address, values[1], memory, start, values[3], rows, row_bytes)
    elif opcode == _DMA_OUT:
        memory, start = _shared(values[0], sram, dram)
        copy_rows(memory, start, values[1], local, a_address, values[3], rows, row_bytes)
    elif opcode == _COPY:
        memory, start = _shared(values[0], sram, dram)
        source, source_start = _shared(values[2], sram, dram)
        copy_rows(memory, start, values[1], source, source_start, values[3], rows, row_bytes)
    elif opcode == _GATHER:
        return _gather(values, out_address, local, a_address, _shared(values[4], sram, dram))
    elif opcode == _SCATTER:
        return _scatter(values, a_address, local, b_address, _shared(values[0], sram, dram))
    else:
        return codes.NO_MEANING
    return codes.OK


@inner_kernel
def _shared(address: Scalar, sram: Bytes, dram: Bytes) -> tuple[Bytes, Scalar]:
    """Return the shared memory of a device address and the byte index in it."""
    if address >= DRAM_BASE:
        return dram, address - DRAM_BASE
    return sram, address - SRAM_BASE


@inner_kernel
def index_at(local: Bytes, address: Scalar, row: Scalar) -> Scalar:
    """Return the int32 at local[address + 4 * row], sign-extended."""
    word = np.uint32(0)
    for byte in range(4):
        word |= np.uint32(local[address + 4 * row + byte]) << np.uint32(8 * byte)
    return np.int64(np.int32(word))


@inner_kernel
def _row_start(place: tuple[Bytes, Scalar], index: Scalar, pitch: Scalar, row_bytes: Scalar) -> Scalar:
    """Return the byte index of a table's row, or -1 if it is not inside the memory."""
    memory, start = place
    first = start + index * pitch
    return first if index >= 0 and first >= 0 and first + row_bytes <= memory.size else -1


@inner_kernel
def _gather(
    values: Integers, out_address: Scalar, local: Bytes, indices_address: Scalar, place: tuple[Bytes, Scalar]
) -> Scalar:
    for row in range(values[6]):
        start = _row_start(place, index_at(local, indices_address, row), values[5], values[7])
        if start < 0:
            return codes.ROW_OUTSIDE_MEMORY
        copy_rows(local, out_address + row * values[1], values[1], place[0], start, values[1], np.int64(1), values[7])
    return codes.OK


@inner_kernel
def _scatter(
    values: Integers, a_address: Scalar, local: Bytes, indices_address: Scalar, place: tuple[Bytes, Scalar]
) -> Scalar:
    for row in range(values[6]):
        start = _row_start(place, index_at(local, indices_address, row), values[1], values[7])
        if start < 0:
            return codes.ROW_OUTSIDE_MEMORY
        copy_rows(place[0], start, values[1], local, a_address + row * values[3], values[3], np.int64(1), values[7])
    return codes.OK


def _dma_in(command: Command) -> None:
    memory, start = command.memory(2)
    rows, row_bytes = command.rows, command.columns
    command.view(0, rows, row_bytes)[...] = rows_of(memory, start, int(command.values[3]), rows, row_bytes)


def _dma_out(command: Command) -> None:
    memory, start = command.memory(0)
    rows, row_bytes = command.rows, command.columns
    for row in range(rows):
        first = start + row * int(command.values[1])
        memory[first : first + row_bytes] = command.view(1, rows, row_bytes)[row]


def _dma_copy(command: Command) -> None:
    (target, to), (source, start) = command.memory(0), command.memory(2)
    for row in range(command.rows):
        for index in range(command.columns):
            byte = source[start + row * command.values[3] + index]
            target[to + row * command.values[1] + index] = byte


def _chosen_rows(command: Command, operand: int, slot: int) -> list[slice]:
    memory, start = command.memory(slot)
    chosen = []
    for index in command.indices(operand):
        first = start + int(index) * int(command.values[slot + 1])
        if index < 0 or not 0 <= first <= memory.size - command.columns:
            raise MeaningError(codes.ROW_OUTSIDE_MEMORY)
        chosen.append(slice(first, first + command.columns))
    return chosen


def _dma_gather(command: Command) -> None:
    out = command.view(0, command.rows, command.columns)
    for row, place in enumerate(_chosen_rows(command, 1, 4)):
        out[row] = command.memory(4)[0][place]


def _dma_scatter(command: Command) -> None:
    a = command.view(1, command.rows, command.columns)
    for row, place in enumerate(_chosen_rows(command, 2, 0)):
        command.memory(0)[0][place] = a[row]


PLAIN: dict[str, Callable[[Command], None]] = {
    "dma_in": _dma_in,
    "dma_out": _dma_out,
    "dma_gather": _dma_gather,
    "dma_scatter": _dma_scatter,
    "dma_copy": _dma_copy,
}
