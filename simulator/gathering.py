"""Gather and scatter: which rows of a table a command touches, and what that costs at the memories.

A run serves the rows that its indices choose. A profile has no indices: rows are drawn from a stated distribution over
the rows that the table has, which is the part of a storage from the command's address on. A draw depends on the seed,
the stream, the number of the command in it and the row, never on time, so that equal launches touch equal rows.
`words` draws for machines whose cores read the indices.
"""

from __future__ import annotations

import math

from simulator import codes, commands, operands
from simulator import hardware as hw
from simulator import memory_system as memory
from simulator import state as st
from simulator.hardware import Hardware
from simulator.jit import inner_kernel
from simulator.meaning.transfer import index_at
from simulator.state import Chip, Code, Integers, Scalar

_MASK = (1 << 32) - 1
_ATTEMPTS = 64


@inner_kernel
def mixed(number: Scalar) -> Scalar:
    """Return 32 bits that look random and depend on all bits of a number (below 2^62)."""
    number = (number ^ (number >> 31)) & _MASK
    for _ in range(2):
        number = ((number ^ (number >> 16)) * 0x045D9F3B) & _MASK
    return number ^ (number >> 16)


@inner_kernel
def _area(power: Scalar, place: Scalar) -> Scalar:
    """Return the integral of x^-power, up to a constant."""
    return math.log(place) if power == 1.0 else math.pow(place, 1.0 - power) / (1.0 - power)


@inner_kernel
def _place(power: Scalar, area: Scalar) -> Scalar:
    """Return the x up to which `_area` is `area`."""
    return math.exp(area) if power == 1.0 else math.pow(area * (1.0 - power), 1.0 / (1.0 - power))


@inner_kernel
def zipf_rank(power: Scalar, rows: Scalar, draw: Scalar) -> Scalar:
    """Return a rank in 1..rows with a chance proportional to rank^-power.

    Rejection-inversion (Hormann and Derflinger, 1996); `draw` seeds the numbers.
    """
    low, high = _area(power, 1.5) - 1.0, _area(power, rows + 0.5)
    for attempt in range(_ATTEMPTS):
        first = mixed(draw * _ATTEMPTS + attempt)
        share = (first * (1 << 21) + (mixed(first + attempt + 1) >> 11)) / (1 << 53)
        area = high + share * (low - high)
        place = _place(power, area)
        rank = min(max(int(place + 0.5), 1), rows)
        if area >= _area(power, rank + 0.5) - math.pow(rank, -power):
            return rank
    return 1


@inner_kernel
def rows_behind(code: Code, address: Scalar, pitch: Scalar, size: Scalar) -> tuple[Scalar, Scalar]:
    """Return (number of the table, its rows): what of a storage lies behind an address; 0 rows outside of all."""
    for number in range(code.tables.shape[0]):
        first, end = code.tables[number, 0], code.tables[number, 1]
        if first <= address and address + size <= end and pitch > 0:
            return number, (end - address - size) // pitch + 1
    return -1, 0


@inner_kernel
def drawn_row(hardware: Hardware, stream: Scalar, number: Scalar, row: Scalar, table: Scalar, rows: Scalar) -> Scalar:
    """Return the row of a table that row `row` of command `number` of a stream touches in a profile."""
    numbers = hardware.numbers
    draw = mixed(mixed(numbers[hw.INDEX_SEED] * 65536 + stream) + number)
    draw = mixed(draw + row)
    if numbers[hw.INDEX_MILLI] == 0:
        return (draw * (1 << 20) + (mixed(draw + 1) >> 12)) % rows
    rank = zipf_rank(numbers[hw.INDEX_MILLI] / 1000.0, rows, draw)
    # Popular rows lie anywhere in the table.
    place = mixed(mixed(table + 1) + rank)
    return (place * (1 << 20) + (mixed(place + 1) >> 12)) % rows


@inner_kernel
def serve_indexed(
    chip: Chip,
    stream: Scalar,
    pe: Scalar,
    record: Integers,
    functional: Scalar,
    start: Scalar,
) -> tuple[Scalar, Scalar]:
    """Serve a gather or scatter row by row; return (error, time of its last byte).

    Rows outside of the memory take no time: executing the command reports them.
    """
    hardware, code, state, stats = chip.hardware, chip.code, chip.state, chip.stats
    is_write = record[st.R_READ] < 0
    address = commands.address_written(state, record, pe) if is_write else commands.address_read(state, record, pe)
    pitch = record[st.R_VALUES + (record[st.R_WRITE] if is_write else record[st.R_READ]) + 1]
    rows, size = record[st.R_VALUES + 6], record[st.R_VALUES + 7]
    if memory.check_range(hardware, state, address, 1, size, 0) == codes.NO_ADDRESS:
        return codes.NO_ADDRESS, 0
    done = start
    indices = table = behind = 0
    if functional:
        indices = operands.address_of(code, state, pe, record, operands.B if is_write else operands.A)
    else:
        table, behind = rows_behind(code, address, pitch, size)
        stats.counts[st.ROWS_DRAWN] += rows
    for row in range(rows):
        index = row
        if functional:
            index = index_at(chip.memories.local[pe], indices, row)
        elif behind > 0:
            index = drawn_row(hardware, stream, state.stream[stream, st.STARTED], row, table, behind)
        place = address + index * pitch
        if memory.check_range(hardware, state, place, 1, size, 0) == codes.OK:
            served = memory.serve_memory(hardware, code, state, stats, place, 1, size, 0, start, is_write)
            done = max(done, served)
    group = memory.group_of(code, pe, is_write)
    return codes.OK, memory.serve_links(hardware, code, state, stats, group, done, start)
