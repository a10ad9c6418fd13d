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
def bank_ready(state: State, pe: Scalar, bank: Scalar, unit: Scalar, snapshot: Scalar) -> Scalar:
    """Return when a bank is free for a command of a unit, or -1 while an earlier command on it has not started.

    Commands on a bank start in the order of their issue. A command waits for the end of those of other units; those
    of its own unit follow each other in the unit's pipeline.
    """
    if state.bank[pe, bank, st.BANK_STARTED] < snapshot:
        return -1
    time = 0
    for other in range(st.UNITS):
        if other != unit:
            time = max(time, state.bank[pe, bank, st.BANK_TIME + other])
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
def _local_bytes(extents: Integers) -> tuple[Scalar, Scalar]:
    written = extents[0] * extents[1]
    read = extents[2] * extents[3] + extents[4] * extents[5]
    return read, written


@inner_kernel
def serve_shared(
    hardware: Hardware,
    code: Code,
    state: State,
    stats: Stats,
    values: Integers,
    traits: Integers,
    group: Scalar,
    start: Scalar,
) -> tuple[Scalar, Scalar]:
    """Serve a transfer at the shared memories and on the routes of a group; return (error, time of its last byte)."""
    rows, size, done = values[6], values[7], start
    read, write = traits[tr.MEMORY_READ], traits[tr.MEMORY_WRITE]
    for is_write in range(2):
        slot = write if is_write else read
        if slot < 0:
            continue
        error = memory.check_range(hardware, state, values[slot], rows, size, values[slot + 1] if rows > 1 else 0)
        if error:
            return error, 0
        served = memory.serve_memory(
            hardware, code, state, stats, values[slot], rows, size, values[slot + 1], start, is_write != 0
        )
        done = max(done, served)
    if read >= 0 and write >= 0:  # from memory to memory: beside the grid
        state.ports[:] = 0
    return codes.OK, memory.serve_links(hardware, code, state, stats, group, done, start)


@inlined_kernel
def finish(
    code: Code,
    hardware: Hardware,
    state: State,
    counts: Integers,
    stream: Scalar,
    pe: Scalar,
    unit: Scalar,
    fields: Integers,
    extents: Integers,
    occupancy: Scalar,
    start: Scalar,
    done: Scalar,
) -> None:
    """Book a started command on its unit, local memory and stream; `done` is when its shared part is complete.

    `counts` are those of the part of the kernel it is in.
    """
    timing = code.traits[fields[col.OPCODE], tr.TIMING]
    read, written = _local_bytes(extents)
    begin = max(start, state.pe[pe, unit])
    local_done = memory.serve_local(hardware, state, counts, pe, read, written, begin)
    occupancy = max(occupancy, local_done - begin)
    latency = hardware.cost[timing, hw.LATENCY]
    end = max(begin + occupancy + latency, done) + jitter(hardware, state)
    end = max(end, state.stream[stream, st.FINISH])
    state.pe[pe, unit] = begin + occupancy
    state.stream[stream, st.FINISH] = end
    counts[st.BUSY + unit] += occupancy
    counts[st.PART_END] = max(counts[st.PART_END], end)
    if unit == _FI:
        slot = state.stream[stream, st.STARTED] % hardware.numbers[hw.OUTSTANDING]
        state.stream[stream, st.IN_FLIGHT + slot] = end
    state.stream[stream, st.STARTED] += 1
    if code.traits[fields[col.OPCODE], tr.USES_BANK]:
        state.bank[pe, fields[col.BANK], st.BANK_STARTED] += 1
        state.bank[pe, fields[col.BANK], st.BANK_TIME + unit] = end


@inlined_kernel
def perform(chip: Chip, pe: Scalar, fields: Integers, values: Integers, extents: Integers) -> Scalar:
    """Execute the meaning of a command; return an error code."""
    code, state, memories = chip.code, chip.state, chip.memories
    error = codes.OK
    out = a = b = -1
    if extents[0] > 0:
        error, out, _ = operands.place(code, state, pe, fields, values, extents, operands.OUT)
    if extents[2] > 0:
        error, a, _ = operands.place(code, state, pe, fields, values, extents, operands.A)
    if extents[4] > 0:
        error, b, _ = operands.place(code, state, pe, fields, values, extents, operands.B)
    link = memories.links[pe, fields[col.MODE] & 3]
    if code.traits[fields[col.OPCODE], tr.LINK_ROLE] == tr.LINK_SENDS:
        target = link_target(code, pe, fields[col.MODE])
        link = memories.links[target, (fields[col.MODE] + 2) & 3]
    failed = chip.meaning(
        fields,
        values,
        out,
        a,
        b,
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
    return error
