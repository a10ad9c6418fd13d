"""Bandwidth of the shared memories and the network: each slice, channel and link is a server that serves in order.

A transfer asks all servers on its way at its start; it is complete when the slowest has passed its last byte, plus the
latencies of the way. SRAM serves whole interleave units; what a DRAM channel does is in `dram`. See `docs/timing.md`.
"""

from __future__ import annotations

from isa import network
from isa.memory_map import BANK_FOLDS, CACHE_SECTORS, DRAM_BASE, SRAM_BASE
from simulator import cache, codes, dram
from simulator import hardware as hw
from simulator import state as st
from simulator.hardware import Hardware, quotient, remainder
from simulator.jit import inlined_kernel, inner_kernel
from simulator.state import Code, Integers, Scalar, State, Stats

_IN_SRAM, _READS_DRAM, _WRITES_DRAM, _HITS, _MISSES = range(5)
_UNTOUCHED = -2


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
def _unit_of(numbers: Integers, index: Scalar, units: int, folds: Scalar) -> Scalar:
    """Return the slice or channel of an interleave unit: the sum of its lowest digits in base `numbers[units]`."""
    digits, rest = index, index
    for _ in range(1, folds):
        rest = quotient(numbers, rest, units)
        digits += rest
    return remainder(numbers, digits, units)


@inlined_kernel
def _occupy(state: State, stats: Stats, kind: Scalar, server: Scalar, start: Scalar, duration: Scalar) -> Scalar:
    """Keep a bank or link busy; return when it is free again."""
    state.servers[kind, server] = max(state.servers[kind, server], start) + duration
    stats.server_busy[kind, server] += duration
    return state.servers[kind, server]


@inlined_kernel
def _serve_unit(
    numbers: Integers,
    state: State,
    stats: Stats,
    first: Scalar,
    size: Scalar,
    unit: Scalar,
    index: Scalar,
    start: Scalar,
) -> Scalar:
    """Serve a part of one interleave unit of SRAM, which its slice spreads over its banks."""
    banks, piece_bytes = numbers[hw.SRAM_BANKS], numbers[hw.SRAM_BANK_INTERLEAVE]
    done, position = start, first
    if size == banks * piece_bytes == numbers[hw.SRAM_INTERLEAVE]:  # no divisions for the most frequent size
        for bank in range(unit * banks, (unit + 1) * banks):
            done = max(done, _occupy(state, stats, st.SRAM_BANKS, bank, start, numbers[hw.SRAM_PIECE_TICKS]))
        return done
    while position < first + size:
        piece = quotient(numbers, position, hw.SRAM_BANK_INTERLEAVE)
        stop = min(first + size, (piece + 1) * piece_bytes)
        work = (stop - position) * numbers[hw.SRAM_PIECE_TICKS] + piece_bytes - 1
        ticks = quotient(numbers, work, hw.SRAM_BANK_INTERLEAVE)
        # Shifted from one unit of a slice to the next, so that a pitch of whole units spreads over the banks.
        turn = piece + quotient(numbers, index, hw.SRAM_SLICES)
        bank = unit * banks + remainder(numbers, turn, hw.SRAM_BANKS)
        done = max(done, _occupy(state, stats, st.SRAM_BANKS, bank, start, ticks))
        position = stop
    return done


@inlined_kernel
def _count_in_turn(state: State, units: Scalar, size: Scalar) -> None:
    """Count bytes of every slice or channel at its port."""
    port = 0
    for _ in range(units):
        state.ports[port] += size
        port = port + 1 if port + 1 < state.ports.shape[0] else 0


@inlined_kernel
def _whole(numbers: Integers, first: Scalar, size: Scalar, access: int) -> tuple[Scalar, Scalar]:
    """Return (first, end) of the whole accesses, of `numbers[access]` bytes, that bytes lie in."""
    access_bytes = numbers[access]
    end = quotient(numbers, first + size + access_bytes - 1, access) * access_bytes
    return quotient(numbers, first, access) * access_bytes, end


@inlined_kernel
def _is_first(numbers: Integers, position: Scalar, index: Scalar, interleave: Scalar, units: int) -> Scalar:
    """Tell whether a byte is the first of as many interleave units as there are slices or channels."""
    return remainder(numbers, index, units) == 0 and index * interleave == position


@inner_kernel
def _serve_sram(
    numbers: Integers, state: State, stats: Stats, first: Scalar, size: Scalar, at_ports: Scalar, start: Scalar
) -> Scalar:
    """Serve one contiguous run of SRAM; return when its last byte passes, and count its bytes at the ports if told to.

    Consecutive interleave units visit the slices in turn, and as many of them as there are slices, from a multiple of
    that, visit each once: such groups are served in bulk. The order within one run changes nothing.
    """
    slices, interleave, banks = numbers[hw.SRAM_SLICES], numbers[hw.SRAM_INTERLEAVE], numbers[hw.SRAM_BANKS]
    done = start
    position, end = _whole(numbers, first, size, hw.SRAM_ACCESS_BYTES)
    while position < end:
        index = quotient(numbers, position, hw.SRAM_INTERLEAVE)
        if end - position >= slices * interleave and _is_first(numbers, position, index, interleave, hw.SRAM_SLICES):
            groups = (end - position) // (slices * interleave)
            ticks = groups * (interleave // (banks * numbers[hw.SRAM_BANK_INTERLEAVE])) * numbers[hw.SRAM_PIECE_TICKS]
            for bank in range(slices * banks):
                done = max(done, _occupy(state, stats, st.SRAM_BANKS, bank, start, ticks))
            if at_ports:
                _count_in_turn(state, slices, groups * interleave)
            position += groups * slices * interleave
            continue
        stop = min(end, (index + 1) * interleave)
        unit = _unit_of(numbers, index, hw.SRAM_SLICES, numbers[hw.SRAM_FOLDS])
        done = max(done, _serve_unit(numbers, state, stats, position, stop - position, unit, index, start))
        if at_ports:
            state.ports[remainder(numbers, unit, hw.PORTS)] += stop - position
        position = stop
    return done


@inlined_kernel
def _are_few_units(numbers: Integers, first: Scalar, size: Scalar, pitch: Scalar) -> Scalar:
    """Tell whether rows are whole interleave units of SRAM, fewer than there are slices, that load banks alike."""
    interleave, banks = numbers[hw.SRAM_INTERLEAVE], numbers[hw.SRAM_BANKS]
    if size >= numbers[hw.SRAM_SLICES] * interleave or banks * numbers[hw.SRAM_BANK_INTERLEAVE] != interleave:
        return False
    left = remainder(numbers, first, hw.SRAM_INTERLEAVE) + remainder(numbers, size, hw.SRAM_INTERLEAVE)
    return left + remainder(numbers, pitch, hw.SRAM_INTERLEAVE) == 0


@inner_kernel
def _serve_units(
    numbers: Integers,
    state: State,
    stats: Stats,
    first: Scalar,
    rows: Scalar,
    size: Scalar,
    pitch: Scalar,
    start: Scalar,
) -> Scalar:
    """Do at once what `_serve_sram` does row by row, for rows that are whole units: all ask at the same time."""
    interleave, banks, done = numbers[hw.SRAM_INTERLEAVE], numbers[hw.SRAM_BANKS], start
    for row in range(rows):
        index = quotient(numbers, first + row * pitch, hw.SRAM_INTERLEAVE)
        for each in range(index, index + quotient(numbers, size, hw.SRAM_INTERLEAVE)):
            unit = _unit_of(numbers, each, hw.SRAM_SLICES, numbers[hw.SRAM_FOLDS])
            state.scratch[st.TOUCHED + unit] += 1
    for unit in range(numbers[hw.SRAM_SLICES]):
        units = state.scratch[st.TOUCHED + unit]
        if units == 0:
            continue
        state.scratch[st.TOUCHED + unit] = 0
        for bank in range(unit * banks, (unit + 1) * banks):
            ticks = units * numbers[hw.SRAM_PIECE_TICKS]
            done = max(done, _occupy(state, stats, st.SRAM_BANKS, bank, start, ticks))
        state.ports[remainder(numbers, unit, hw.PORTS)] += units * interleave
    return done


@inner_kernel
def _serve_dram(
    numbers: Integers, state: State, stats: Stats, first: Scalar, size: Scalar, is_write: Scalar, start: Scalar
) -> Scalar:
    """Serve one contiguous run of DRAM; return when its last byte is there, and count its bytes at the ports.

    Groups of units that visit every channel once are a stream; single units and parts of them are bursts of one row.
    """
    units, interleave, burst_bytes = numbers[hw.DRAM_CHANNELS], numbers[hw.DRAM_INTERLEAVE], numbers[hw.BURST_BYTES]
    stats.counts[st.DRAM_WRITTEN if is_write else st.DRAM_READ] += size
    last_row = quotient(numbers, first + size - 1, hw.DRAM_ROW_BYTES)
    stats.counts[st.DRAM_ROWS] += last_row - quotient(numbers, first, hw.DRAM_ROW_BYTES) + 1
    done = start
    position, end = _whole(numbers, first, size, hw.DRAM_ACCESS_BYTES)
    while position < end:
        index = quotient(numbers, position, hw.DRAM_INTERLEAVE)
        if end - position >= units * interleave and _is_first(numbers, position, index, interleave, hw.DRAM_CHANNELS):
            groups = (end - position) // (units * interleave)
            bursts = groups * ((interleave + burst_bytes - 1) // burst_bytes)
            for each in range(units):
                done = max(done, dram.serve_stream(numbers, state.dram[each], bursts, is_write, start))
            _count_in_turn(state, units, groups * interleave)
            position += groups * units * interleave
            continue
        stop = min(end, (index + 1) * interleave)
        channel = _unit_of(numbers, index, hw.DRAM_CHANNELS, numbers[hw.DRAM_FOLDS])
        place = quotient(numbers, index, hw.DRAM_CHANNELS)
        bank = _unit_of(numbers, place, hw.DRAM_BANKS, BANK_FOLDS)
        row = quotient(numbers, quotient(numbers, place, hw.DRAM_BANKS), hw.UNITS_PER_ROW)
        bursts = quotient(numbers, stop - position + burst_bytes - 1, hw.BURST_BYTES)
        done = max(done, dram.serve_bursts(numbers, state.dram[channel], bank, row, bursts, is_write, start))
        state.ports[remainder(numbers, channel, hw.PORTS)] += stop - position
        position = stop
    return done + numbers[hw.DRAM_TICKS]


@inlined_kernel
def _storage_of(code: Code, address: Scalar) -> tuple[Scalar, Scalar]:
    """Return (number, byte of DRAM it starts at) of the storage that an address lies in, (-1, 0) for none."""
    for number in range(code.tables.shape[0]):
        if code.tables[number, 0] <= address < code.tables[number, 1]:
            return number, code.tables[number, 0] - DRAM_BASE
    return -1, 0


@inner_kernel
def _serve_piece(
    numbers: Integers,
    state: State,
    stats: Stats,
    kind: Scalar,
    first: Scalar,
    size: Scalar,
    origin: Scalar,
    start: Scalar,
) -> Scalar:
    """Serve one contiguous run, all of one kind; return when its last byte is there.

    What the cache takes in keeps its banks busy, but nobody waits for that. Banks hold a line by its place behind
    `origin`, where its storage starts, so that equal launches meet equal banks.
    """
    done = start
    if kind in (_READS_DRAM, _WRITES_DRAM, _MISSES):
        done = _serve_dram(numbers, state, stats, first, size, kind == _WRITES_DRAM, start)
    if kind in (_IN_SRAM, _HITS, _MISSES):
        served = _serve_sram(numbers, state, stats, first - origin, size, kind != _MISSES, start)
        if kind != _MISSES:
            done = served + numbers[hw.SRAM_TICKS]
    if kind == _HITS:
        stats.counts[st.CACHE_HIT] += size
    if kind == _MISSES:
        stats.counts[st.CACHE_FILLED] += size
    return done


@inner_kernel
def _next_piece(
    numbers: Integers, state: State, key: Scalar, first: Scalar, end: Scalar, touched: Scalar
) -> tuple[Scalar, Scalar, Scalar]:
    """Find how far the lines from a byte of DRAM on are all there, or all missing.

    Return (end of the piece, when it is there or -1, the same of the line behind it or _UNTOUCHED); `touched` is what
    the last call returned of the first line.
    """
    shift, row = numbers[hw.CACHE_LINE_SHIFT], key % numbers[hw.CACHE_SETS]
    position, stop, ready = first, first >> shift << shift, touched
    while position < end:
        stop += 1 << shift
        time = touched
        if touched == _UNTOUCHED:
            needed = (1 << CACHE_SECTORS) - 1
            if stop > end or position == first:
                needed = cache.sectors_of(numbers, position, min(stop, end))
            time = cache.touch(numbers, state.cache, row, key, needed)
        touched = _UNTOUCHED
        if position > first and (time >= 0) != (ready >= 0):
            return position, ready, time
        ready = time if position == first else max(ready, time)
        key, row = key + 1, cache.next_row(numbers, row)
        position = min(stop, end)
    return end, ready, _UNTOUCHED


@inlined_kernel
def _arrive(numbers: Integers, state: State, key: Scalar, first: Scalar, end: Scalar, time: Scalar) -> None:
    """Note when the missing lines of a piece are there."""
    row = key % numbers[hw.CACHE_SETS]
    shift = numbers[hw.CACHE_LINE_SHIFT]
    for _ in range(((end - 1) >> shift) - (first >> shift) + 1):
        cache.arrive(numbers, state.cache, row, key, time)
        key, row = key + 1, cache.next_row(numbers, row)


@inner_kernel
def serve_memory(
    hardware: Hardware,
    code: Code,
    state: State,
    stats: Stats,
    address: Scalar,
    rows: Scalar,
    row_bytes: Scalar,
    pitch: Scalar,
    start: Scalar,
    is_write: Scalar,
) -> Scalar:
    """Serve rows from one memory; return when the last byte is there, latency included."""
    numbers, done = hardware.numbers, start
    shift, sector = numbers[hw.CACHE_LINE_SHIFT], (1 << numbers[hw.CACHE_LINE_SHIFT]) // CACHE_SECTORS
    is_cached = address >= DRAM_BASE and not is_write and numbers[hw.CACHE_SETS] > 0
    base, kind, storage, origin = DRAM_BASE, _WRITES_DRAM if is_write else _READS_DRAM, -1, 0
    if address < DRAM_BASE:
        base, kind = SRAM_BASE, _IN_SRAM
        stats.counts[st.SRAM_WRITTEN if is_write else st.SRAM_READ] += rows * row_bytes
        if rows > 1 and row_bytes > 0 and _are_few_units(numbers, address - base, row_bytes, pitch):
            done = _serve_units(numbers, state, stats, address - base, rows, row_bytes, pitch, start)
            return done + numbers[hw.SRAM_TICKS]
    if is_cached:
        storage, origin = _storage_of(code, address)
        origin = origin >> shift << shift
    for row in range(rows):
        position = address - base + row * pitch
        end = position + row_bytes
        stop, ready, touched, key = end, -1, _UNTOUCHED, 0
        while position < end:
            first, last = position, stop
            if is_cached:
                key = cache.key_of(state.cache, storage, (position - origin) >> shift)
                stop, ready, touched = _next_piece(numbers, state, key, position, end, touched)
                kind, last = _HITS if ready >= 0 else _MISSES, stop
                if kind == _MISSES:
                    first, last = first & -sector, (last + sector - 1) & -sector
            served = _serve_piece(numbers, state, stats, kind, first, last - first, origin, start)
            if kind == _MISSES:
                _arrive(numbers, state, key, position, stop, served)
            done = max(done, max(served, ready))
            position = stop
    return done


@inlined_kernel
def group_of(code: Code, pe: Scalar, is_write: Scalar) -> Scalar:
    """Return the group of `Code.routes` of one PE."""
    return pe + (code.header[st.ROWS] * code.header[st.COLUMNS] if is_write else 0)


@inner_kernel
def serve_links(
    hardware: Hardware, code: Code, state: State, stats: Stats, group: Scalar, served: Scalar, start: Scalar
) -> Scalar:
    """Carry what was counted at the ports along the routes of a group; return when all has arrived.

    `served` is when memory has it all. Links forward what comes as it comes, so a route takes as long as
    its busiest link and the hops.
    """
    numbers = hardware.numbers
    done, farthest, known = max(start, served), 0, 0
    along_row = along_column = 0
    for port in range(numbers[hw.PORTS]):
        size = state.ports[port]
        if size == 0:
            continue
        state.ports[port] = 0
        if size != known:  # a division is dear, and ports mostly have equal shares
            known = size
            along_row = size * hw.TICKS_PER_CYCLE // numbers[hw.LINK_BYTES_PER_CYCLE]
            along_column = size * hw.TICKS_PER_CYCLE // numbers[hw.COLUMN_LINK_BYTES_PER_CYCLE]
        first, end = code.routes[group, port, network.FIRST], code.routes[group, port, network.END]
        for place in range(first, end):
            link = code.links[place]
            ticks = along_row if link < numbers[hw.ROW_LINKS] else along_column
            done = max(done, _occupy(state, stats, st.LINKS, link, start, ticks))
        farthest = max(farthest, code.routes[group, port, network.HOPS])
        stats.counts[st.NOC_BYTES] += size
        stats.counts[st.BYTE_HOPS] += size * (end - first)
    return done + farthest * numbers[hw.HOP_TICKS] + numbers[hw.REQUEST_TICKS]
