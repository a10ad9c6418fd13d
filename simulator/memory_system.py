"""Bandwidth of the shared memories and the network: each slice, channel and link is a server that serves in order.

A transfer asks all servers on its way at its start; it is complete when the slowest has passed its last byte, plus the
latencies of the way. SRAM serves whole interleave units; what a DRAM channel does is in `dram`. See `docs/timing.md`.
"""

from __future__ import annotations

from isa.memory_map import BANK_FOLDS, DRAM_BASE, SRAM_BASE, fold_count
from simulator import codes, dram
from simulator import hardware as hw
from simulator import state as st
from simulator.hardware import Hardware
from simulator.jit import inlined_kernel, inner_kernel
from simulator.state import Integers, Scalar, State, Stats

_fold_count = inner_kernel(fold_count)


@inner_kernel
def check_range(
    hardware: Hardware, state: State, address: Scalar, rows: Scalar, row_bytes: Scalar, pitch: Scalar
) -> Scalar:
    """Return OK if rows at `address` lie inside one memory, else an error code with its details in the state."""
    state.scratch[st.ERROR_DETAIL] = address
    state.scratch[st.ERROR_EXTRA] = (rows - 1) * min(pitch, SRAM_BASE) + row_bytes
    if address < SRAM_BASE:
        return codes.NO_ADDRESS
    if pitch < 0:
        state.scratch[st.ERROR_DETAIL] = pitch
        return codes.NEGATIVE_PITCH
    is_dram = address >= DRAM_BASE
    limit = hardware.numbers[hw.DRAM_BYTES if is_dram else hw.SRAM_BYTES]
    room = limit - row_bytes - (address - (DRAM_BASE if is_dram else SRAM_BASE))
    # Divided, not multiplied: a product of registers may overflow.
    if room < 0 or (pitch > 0 and rows - 1 > room // pitch):
        return codes.OUTSIDE_DRAM if is_dram else codes.OUTSIDE_SRAM
    return codes.OK


@inlined_kernel
def _unit_of(index: Scalar, units: Scalar, folds: Scalar) -> Scalar:
    """Return the slice or channel of an interleave unit: the sum of its lowest digits in base `units`."""
    digits, rest = index, index
    for _ in range(1, folds):
        rest //= units
        digits += rest
    return digits % units


@inlined_kernel
def _occupy(state: State, stats: Stats, unit: Scalar, start: Scalar, duration: Scalar) -> Scalar:
    """Keep a slice busy; return when it is free again."""
    state.servers[st.SLICES, unit] = max(state.servers[st.SLICES, unit], start) + duration
    stats.server_busy[st.SLICES, unit] += duration
    return state.servers[st.SLICES, unit]


@inner_kernel
def _serve_row(
    state: State,
    stats: Stats,
    units: Scalar,
    first: Scalar,
    size: Scalar,
    interleave: Scalar,
    access: Scalar,
    folds: Scalar,
    ticks: Scalar,
    start: Scalar,
) -> Scalar:
    """Serve one contiguous run of SRAM; return when its last byte passes.

    Consecutive interleave units visit the slices in turn, and `units` of them from a multiple of `units` visit each
    once, so such groups are served in bulk: the order within one run changes nothing.
    """
    done = start
    position = first // access * access
    end = (first + size + access - 1) // access * access
    index = position // interleave
    place = index % units
    unit = _unit_of(index, units, folds)
    while position < end:
        groups = (end - position) // (units * interleave) if place == 0 and position == index * interleave else 0
        if groups > 0:
            for each in range(units):
                done = max(done, _occupy(state, stats, each, start, groups * ticks))
            position += groups * units * interleave
            index += groups * units
            unit = _unit_of(index, units, folds)
            continue
        stop = min(end, (index + 1) * interleave)
        duration = (
            ticks if stop - position == interleave else ((stop - position) * ticks + interleave - 1) // interleave
        )
        done = max(done, _occupy(state, stats, unit, start, duration))
        position, index, place, unit = stop, index + 1, place + 1, unit + 1
        if place == units:
            place, unit = 0, _unit_of(index, units, folds)
        elif unit == units:
            unit = 0
    return done


@inner_kernel
def _serve_dram(
    numbers: Integers, state: State, first: Scalar, size: Scalar, folds: Scalar, is_write: Scalar, start: Scalar
) -> Scalar:
    """Serve one contiguous run of DRAM; return when its last byte passes.

    Groups of units that visit every channel once are a stream; single units and parts of them are bursts of one row.
    """
    units, interleave, access = numbers[hw.DRAM_CHANNELS], numbers[hw.DRAM_INTERLEAVE], numbers[hw.DRAM_ACCESS_BYTES]
    burst_bytes, banks = numbers[hw.BURST_BYTES], numbers[hw.DRAM_BANKS]
    done = start
    position = first // access * access
    end = (first + size + access - 1) // access * access
    while position < end:
        index = position // interleave
        groups = (end - position) // (units * interleave) if position == index // units * units * interleave else 0
        if groups > 0:
            bursts = groups * ((interleave + burst_bytes - 1) // burst_bytes)
            for each in range(units):
                done = max(done, dram.serve_stream(numbers, state.dram[each], bursts, is_write, start))
            position += groups * units * interleave
            continue
        stop = min(end, (index + 1) * interleave)
        channel, place = _unit_of(index, units, folds), index // units
        bank, row = _unit_of(place, banks, BANK_FOLDS), place // banks // numbers[hw.UNITS_PER_ROW]
        for _ in range((stop - position + burst_bytes - 1) // burst_bytes):
            done = max(done, dram.serve_burst(numbers, state.dram[channel], bank, row, is_write, start))
        position = stop
    return done


@inner_kernel
def serve_memory(
    hardware: Hardware,
    state: State,
    stats: Stats,
    address: Scalar,
    rows: Scalar,
    row_bytes: Scalar,
    pitch: Scalar,
    start: Scalar,
    is_write: Scalar,
) -> Scalar:
    """Serve rows from one memory; return when the last byte passes, latency included."""
    numbers = hardware.numbers
    total = rows * row_bytes
    done = start
    if address >= DRAM_BASE:
        stats.counts[st.DRAM_WRITTEN if is_write else st.DRAM_READ] += total
        folds = _fold_count(numbers[hw.DRAM_CHANNELS], numbers[hw.DRAM_INTERLEAVE])
        opened = numbers[hw.DRAM_ROW_BYTES]
        for row in range(rows):
            first = address - DRAM_BASE + row * pitch
            stats.counts[st.DRAM_ROWS] += (first + row_bytes - 1) // opened - first // opened + 1
            done = max(done, _serve_dram(numbers, state, first, row_bytes, folds, is_write, start))
        return done + numbers[hw.DRAM_TICKS]
    stats.counts[st.SRAM_WRITTEN if is_write else st.SRAM_READ] += total
    folds = _fold_count(numbers[hw.SRAM_SLICES], numbers[hw.SRAM_INTERLEAVE])
    for row in range(rows):
        served = _serve_row(
            state, stats, numbers[hw.SRAM_SLICES], address - SRAM_BASE + row * pitch, row_bytes,
            numbers[hw.SRAM_INTERLEAVE], numbers[hw.SRAM_ACCESS_BYTES], folds, numbers[hw.SRAM_UNIT_TICKS], start,
        )  # fmt: skip
        done = max(done, served)
    return done + numbers[hw.SRAM_TICKS]


@inner_kernel
def serve_link(
    hardware: Hardware, state: State, stats: Stats, row: Scalar, direction: Scalar, size: Scalar, start: Scalar
) -> Scalar:
    """Serve `size` bytes on the network link of a PE row (0 = towards the PEs, 1 = towards memory)."""
    ticks = size * hw.TICKS_PER_CYCLE // hardware.numbers[hw.LINK_BYTES_PER_CYCLE]
    link = 2 * row + direction
    state.servers[st.LINKS, link] = max(state.servers[st.LINKS, link], start) + ticks
    stats.server_busy[st.LINKS, link] += ticks
    stats.counts[st.NOC_BYTES] += size
    return state.servers[st.LINKS, link]


@inlined_kernel
def serve_local(
    hardware: Hardware, state: State, stats: Stats, pe: Scalar, read_bytes: Scalar, written_bytes: Scalar, start: Scalar
) -> Scalar:
    """Serve bytes at a PE's local memory; return when the last passes."""
    ticks = (read_bytes + written_bytes) * hw.TICKS_PER_CYCLE // hardware.numbers[hw.LOCAL_BYTES_PER_CYCLE]
    state.pe[pe, st.LOCAL] = max(state.pe[pe, st.LOCAL], start) + ticks
    stats.busy[pe, st.LOCAL] += ticks
    stats.counts[st.LOCAL_READ] += read_bytes
    stats.counts[st.LOCAL_WRITTEN] += written_bytes
    return state.pe[pe, st.LOCAL]
