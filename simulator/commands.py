"""One command: when it may start, how long it takes, and what it does."""

from __future__ import annotations

from isa import columns as col
from isa.dtypes import FP32
from isa.table import Timing, Unit
from simulator import codes, operands
from simulator import hardware as hw
from simulator import memory_system as memory
from simulator import state as st
from simulator import traits as tr
from simulator.hardware import Hardware
from simulator.jit import inlined_kernel, inner_kernel
from simulator.state import Chip, Code, Integers, Scalar, State, Stats

_CYCLE = hw.TICKS_PER_CYCLE
_FI = int(Unit.FI)
_TRANSFER, _LAYOUT, _MATRIX, _LINK = int(Timing.TRANSFER), int(Timing.LAYOUT), int(Timing.MATRIX), int(Timing.LINK)
_ACCUMULATOR, _SIMD, _LUT = int(Timing.ACCUMULATOR), int(Timing.SIMD), int(Timing.LUT)
_VECTOR_MATRIX, _FP32 = int(Timing.VECTOR_MATRIX), FP32.code


@inlined_kernel
def jitter(hardware: Hardware, state: State) -> Scalar:
    """Return the next pseudo-random delay in ticks, 0 unless the machine was made with jitter."""
    limit = hardware.numbers[hw.JITTER_TICKS]
    if limit == 0:
        return 0
    state.scratch[st.RANDOM] = (state.scratch[st.RANDOM] * 1103515245 + 12345) & 0x7FFFFFFF
    return (state.scratch[st.RANDOM] >> 8) % limit


@inlined_kernel
def bank_ready(state: State, pe: Scalar, number: Scalar, unit: Scalar, snapshot: Scalar) -> Scalar:
    """Return when a bank is free for a command of a unit, or -1 while an earlier command on it has not started.

    Commands on a bank start in the order of their issue. A command waits for the end of those of other units; those
    of its own unit follow each other in the unit's pipeline.
    """
    bank, time = state.bank[pe, number], 0
    if bank[st.BANK_STARTED] < snapshot:
        return -1
    for other in range(st.UNITS):
        if other != unit:
            time = max(time, bank[st.BANK_TIME + other])
    return time


@inner_kernel
def link_target(code: Code, pe: Scalar, direction: Scalar) -> Scalar:
    """Return the PE that a PE's link in a direction leads to (0 north, 1 east, 2 south, 3 west), or -1."""
    rows, columns = code.header[st.ROWS], code.header[st.COLUMNS]
    row, column = pe // columns, pe % columns
    row += 1 if direction == 2 else (-1 if direction == 0 else 0)
    column += 1 if direction == 1 else (-1 if direction == 3 else 0)
    if row < 0 or row >= rows or column < 0 or column >= columns:
        return -1
    return row * columns + column


@inlined_kernel
def _vectors(rows: Scalar, columns: Scalar, lanes: Scalar) -> Scalar:
    return rows * ((columns + lanes - 1) // lanes)


@inlined_kernel
def _matrix_ticks(hardware: Hardware, counts: Integers, fields: Integers, values: Integers, traits: Integers) -> Scalar:
    """Return how long a product occupies the matrix engine; count what it multiplies.

    Of a compressed b only kept elements are multiplied: two blocks stream in the time of one; rows of a fill as ever.
    """
    rows, columns, dtype = values[6], values[7], fields[col.D1]
    k_bytes, fill = hardware.numbers[hw.BLOCK_K_BYTES], hardware.numbers[hw.FILL_BYTES_PER_CYCLE]
    share = 2 if traits[tr.B_BYTES] == tr.COMPRESSED else 1
    k = values[0] * k_bytes // hardware.numbers[hw.ELEMENT_BYTES + dtype] // share
    counts[st.ISSUED_MACS + dtype] += k * hardware.numbers[hw.BLOCK_ROWS] * columns
    counts[st.ACTIVE_MACS + dtype] += k * rows * columns
    ticks = values[0] * hardware.numbers[hw.MATRIX_TICKS + dtype]
    if share == 1 and rows * k_bytes <= columns * fill:  # no division for the most frequent case
        return ticks * columns
    held = (rows * k_bytes + fill - 1) // fill
    return (ticks * max(columns, held * share) + share - 1) // share


@inlined_kernel
def work_ticks(
    hardware: Hardware, counts: Integers, fields: Integers, values: Integers, extents: Integers, traits: Integers
) -> Scalar:
    """Return how long a command occupies its unit, without memory and port limits; count the work."""
    rows, columns, timing = values[6], values[7], traits[tr.TIMING]
    fixed, lanes = hardware.cost[timing, hw.FIXED], hardware.cost[timing, hw.LANES]
    if timing == _MATRIX:
        return _matrix_ticks(hardware, counts, fields, values, traits)
    if timing == _VECTOR_MATRIX:
        k = values[0] * hardware.numbers[hw.BLOCK_K_BYTES] // hardware.numbers[hw.ELEMENT_BYTES + fields[col.D1]]
        counts[st.ISSUED_MACS + _FP32] += k * rows * columns
        counts[st.ACTIVE_MACS + _FP32] += k * rows * columns
        return fixed + k * _vectors(rows, columns, lanes) * _CYCLE
    if timing in (_TRANSFER, _LAYOUT):
        moved = max(extents[0] * extents[1], extents[2] * extents[3])
        return max(fixed, (moved * _CYCLE + lanes - 1) // lanes)
    if timing in (_ACCUMULATOR, _LINK):
        counts[st.ACCUMULATOR_ELEMENTS] += rows * columns
        return fixed + _vectors(rows, columns, lanes) * _CYCLE
    if timing == _LUT:
        counts[st.LUT_ELEMENTS] += rows * columns
    else:
        counts[st.SIMD_ELEMENTS] += rows * columns
    each = max(hardware.numbers[hw.VECTOR_TICKS + fields[col.D0]], hardware.numbers[hw.VECTOR_TICKS + fields[col.D1]])
    return fixed + _vectors(rows, columns, lanes) * each


@inlined_kernel
def local_ticks(hardware: Hardware, counts: Integers, extents: Integers) -> Scalar:
    """Return how long the bytes of a command keep the local memory busy; count them."""
    written = extents[0] * extents[1]
    read = extents[2] * extents[3] + extents[4] * extents[5]
    counts[st.LOCAL_READ] += read
    counts[st.LOCAL_WRITTEN] += written
    return (read + written) * _CYCLE // hardware.numbers[hw.LOCAL_BYTES_PER_CYCLE]


@inlined_kernel
def address_read(state: State, record: Integers, pe: Scalar) -> Scalar:
    """Return the device address that a PE reads with a transfer."""
    places = record[st.R_READ_PLACES]
    return state.addresses[places + pe] if places >= 0 else record[st.R_VALUES + record[st.R_READ]]


@inlined_kernel
def address_written(state: State, record: Integers, pe: Scalar) -> Scalar:
    """Return the device address that a PE writes with a transfer."""
    places = record[st.R_WRITE_PLACES]
    return state.addresses[places + pe] if places >= 0 else record[st.R_VALUES + record[st.R_WRITE]]


@inner_kernel
def serve_shared(
    hardware: Hardware,
    code: Code,
    state: State,
    stats: Stats,
    pe: Scalar,
    record: Integers,
    group: Scalar,
    start: Scalar,
) -> tuple[Scalar, Scalar]:
    """Serve a transfer at the shared memories and on the routes of a group; return (error, time of its last byte)."""
    rows, size, done = record[st.R_VALUES + 6], record[st.R_VALUES + 7], start
    read, write = record[st.R_READ], record[st.R_WRITE]
    for is_write in range(2):
        slot = write if is_write else read
        if slot < 0:
            continue
        address = address_written(state, record, pe) if is_write else address_read(state, record, pe)
        pitch = record[st.R_VALUES + slot + 1]
        error = memory.check_range(hardware, state, address, rows, size, pitch if rows > 1 else 0)
        if error:
            return error, 0
        served = memory.serve_memory(hardware, code, state, stats, address, rows, size, pitch, start, is_write != 0)
        done = max(done, served)
    if read >= 0 and write >= 0:  # from memory to memory: beside the grid
        state.ports[:] = 0
    return codes.OK, memory.serve_links(hardware, code, state, stats, group, done, start)


@inlined_kernel
def place_in_flight(hardware: Hardware, state: State, stream: Scalar) -> Scalar:
    """Return the column of a stream that holds the end of the transfer that the next one has to wait for."""
    first = state.stream.shape[1] - st.MAX_OUTSTANDING
    return first + state.stream[stream, st.STARTED] % hardware.numbers[hw.OUTSTANDING]


@inlined_kernel
def finish(
    hardware: Hardware,
    state: State,
    counts: Integers,
    stream: Scalar,
    pe: Scalar,
    unit: Scalar,
    record: Integers,
    start: Scalar,
    done: Scalar,
) -> None:
    """Book a started command on its unit, local memory and stream; `done` is when its shared part is complete.

    `counts` are those of the part of the kernel it is in.
    """
    row, units = state.stream[stream], state.pe[pe]
    begin = max(start, units[unit])
    # Asked at `start`: booked from `begin` on, it would stand idle until then and hold up commands that begin before.
    local = max(units[st.LOCAL], start) + record[st.R_LOCAL_TICKS]
    occupancy = max(record[st.R_OCCUPANCY], local - begin)
    end = max(begin + occupancy + record[st.R_LATENCY], done) + jitter(hardware, state)
    end = max(end, row[st.FINISH])
    units[unit], units[st.LOCAL] = begin + occupancy, local
    counts[st.BUSY + unit] += occupancy
    counts[st.BUSY + st.LOCAL] += record[st.R_LOCAL_TICKS]
    counts[st.PART_END] = max(counts[st.PART_END], end)
    row[st.FINISH] = end
    if unit == _FI:
        row[place_in_flight(hardware, state, stream)] = end
    row[st.STARTED] += 1
    if record[st.R_BANK] >= 0:
        bank = state.bank[pe, record[st.R_BANK]]
        bank[st.BANK_STARTED] += 1
        bank[st.BANK_TIME + unit] = end


@inlined_kernel
def perform(chip: Chip, pe: Scalar, fields: Integers, record: Integers) -> Scalar:
    """Execute the meaning of a command; return an error code."""
    code, state, memories = chip.code, chip.state, chip.memories
    link = memories.links[pe, fields[col.MODE] & 3]
    if code.traits[fields[col.OPCODE], tr.LINK_ROLE] == tr.LINK_SENDS:
        target = link_target(code, pe, fields[col.MODE])
        link = memories.links[target, (fields[col.MODE] + 2) & 3]
    failed = chip.meaning(
        fields,
        record[st.R_VALUES :],
        operands.address_of(code, state, pe, record, operands.OUT),
        operands.address_of(code, state, pe, record, operands.A),
        operands.address_of(code, state, pe, record, operands.B),
        memories.local[pe],
        memories.sram,
        memories.dram,
        memories.banks[pe],
        link,
        chip.tables,
    )
    if failed:
        state.scratch[st.ERROR_DETAIL] = failed
        return codes.MEANING
    return codes.OK
