"""Starting commands: execute, book their time, wake whoever waited; a broadcast starts on all its PEs at once."""

from __future__ import annotations

from isa import columns as col
from isa.table import Unit
from simulator import codes, commands, queues
from simulator import state as st
from simulator import traits as tr
from simulator.events import schedule
from simulator.jit import inlined_kernel, inner_kernel
from simulator.state import Chip, Code, Integers, Scalar, State

_FI, _RE = int(Unit.FI), int(Unit.RE)
_UNITS, _STREAMS_PER_PE = st.UNITS, st.UNITS * st.CORES
ALONG_ROW, ALONG_COLUMN, TO_ALL = 1, 2, 3


@inlined_kernel
def _wake_after(code: Code, state: State, stream: Scalar, pe: Scalar, fields: Integers) -> None:
    """Wake who may wait for the bank or link that a started command used."""
    row = code.traits[fields[col.OPCODE]]
    core = stream // _UNITS
    now = state.stream[stream, st.CLOCK]
    if row[tr.USES_BANK]:
        for other in range(core * _UNITS, (core + 1) * _UNITS):
            queues.wake_stream(state, other, now, st.ON_BANK)
    if row[tr.LINK_ROLE] != tr.LINK_UNUSED:
        target, sends = commands.link_target(code, pe, fields[col.MODE]), row[tr.LINK_ROLE] == tr.LINK_SENDS
        receiver = target if sends else pe
        link = st.INCOMING + 2 * (((fields[col.MODE] + 2) & 3) if sends else fields[col.MODE])
        state.pe[receiver, link] = 1 if sends else 0
        state.pe[receiver, link + 1] = state.stream[stream, st.FINISH]
        for other in range(st.CORES):
            queues.wake_stream(state, target * _STREAMS_PER_PE + other * _UNITS + _RE, now, st.ON_LINK)


@inner_kernel
def group_of(code: Code, pe: Scalar, mode: Scalar) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """Return (index in State.group, first PE, PE step, PE count) of a broadcast."""
    rows, columns = code.header[st.ROWS], code.header[st.COLUMNS]
    if mode == ALONG_ROW:
        return pe // columns, pe // columns * columns, 1, columns
    if mode == ALONG_COLUMN:
        return rows + pe % columns, pe % columns, columns, rows
    return rows + columns, 0, 1, rows * columns


@inner_kernel
def gather(group: Integers, values: Integers) -> Scalar:
    """Note that one PE has come to a broadcast; return an error code."""
    if group[st.G_ARRIVED] == 0:
        group[st.G_ADDRESS], group[st.G_PITCH] = values[2], values[3]
        group[st.G_ROWS], group[st.G_BYTES] = values[6], values[7]
    same = group[st.G_ADDRESS] == values[2] and group[st.G_ROWS] == values[6] and group[st.G_BYTES] == values[7]
    if not same or group[st.G_PITCH] != values[3]:
        return codes.UNEQUAL_BROADCAST
    group[st.G_ARRIVED] += 1
    return codes.OK


@inlined_kernel
def complete(
    chip: Chip, stream: Scalar, fields: Integers, values: Integers, functional: Scalar, now: Scalar, done: Scalar
) -> Scalar:
    """Execute and book the command at the head of a queue and take it off; return an error code."""
    state = chip.state
    (entry,) = queues.queue_entry(state, stream, state.stream[stream, st.HEAD])
    extents = entry[st.Q_EXTENTS :]
    pe, unit = stream // _STREAMS_PER_PE, stream % _UNITS
    if functional:
        error = commands.perform(chip, pe, fields, values, extents)
        if error:
            return error
    traits, counts = chip.code.traits[fields[col.OPCODE]], chip.stats.parts[fields[st.PART]]
    occupancy = commands.work_ticks(chip.hardware, counts, fields, values, extents, traits)
    commands.finish(chip.code, chip.hardware, state, counts, stream, pe, unit, fields, extents, occupancy, now, done)
    counts[fields[col.OPCODE]] += 1
    if unit == _FI:  # what shared memories and links counted when they served it
        for counter in range(st.DRAM_READ, st.DRAM_ROWS + 1):
            counts[counter] += chip.stats.counts[counter]
            chip.stats.counts[counter] = 0
    queues.dequeue(state, stream, now)
    _wake_after(chip.code, state, stream, pe, fields)
    return codes.OK


@inner_kernel
def _member(chip: Chip, first: Scalar, step: Scalar, member: Scalar, core: Scalar) -> tuple[Scalar, Integers, Integers]:
    """Return stream, instruction and register values of a PE's part of a broadcast."""
    stream = (first + member * step) * _STREAMS_PER_PE + core * _UNITS + _FI
    (entry,) = queues.queue_entry(chip.state, stream, chip.state.stream[stream, st.HEAD])
    fields, values = chip.code.instructions[core, entry[st.Q_PC]], entry[st.Q_VALUES :]
    return stream, fields, values


@inner_kernel
def start_broadcast(chip: Chip, stream: Scalar, mode: Scalar, functional: Scalar, now: Scalar) -> Scalar:
    """Start a broadcast that all PEs have come to: one read, delivered to each; return an error code."""
    state, code = chip.state, chip.code
    core = (stream // _UNITS) % st.CORES
    index, first, step, count = group_of(code, stream // _STREAMS_PER_PE, mode)
    state.group[core, index, :] = 0
    _, fields, values = _member(chip, first, step, 0, core)
    traits, groups = code.traits[fields[col.OPCODE]], 2 * code.header[st.ROWS] * code.header[st.COLUMNS]
    error, done = commands.serve_shared(chip.hardware, code, state, chip.stats, values, traits, groups + index, now)
    if error:
        return error
    for member in range(count):
        other, other_fields, other_values = _member(chip, first, step, member, core)
        error = complete(chip, other, other_fields, other_values, functional, now, done)
        if error:
            return error
        if other != stream:
            state.stream[other, st.STREAM_STATUS] = st.SCHEDULED
            schedule(state, now, other)
    return codes.OK
