"""Starting commands: execute, book their time, wake whoever waited; a broadcast starts on all its PEs at once."""

from __future__ import annotations

from isa import columns as col
from isa.table import Unit
from simulator import codes, commands, queues
from simulator import state as st
from simulator import traits as tr
from simulator.events import natural, schedule
from simulator.jit import inlined_kernel, inner_kernel
from simulator.state import Chip, Code, Integers, Scalar, State

_FI, _RE = int(Unit.FI), int(Unit.RE)
_UNITS, _STREAMS_PER_PE = st.UNITS, st.UNITS * st.CORES
ALONG_ROW, ALONG_COLUMN, TO_ALL = 1, 2, 3


@inner_kernel
def _move_over_link(code: Code, state: State, stream: Scalar, pe: Scalar, record: Integers, now: Scalar) -> None:
    """Fill or empty the neighbour link that a started command used, and wake who may wait for it."""
    mode = code.instructions[stream // _UNITS % st.CORES, record[st.R_PC], col.MODE]
    target, sends = commands.link_target(code, pe, mode), record[st.R_LINK] == tr.LINK_SENDS
    receiver = target if sends else pe
    link = st.INCOMING + 2 * (((mode + 2) & 3) if sends else mode)
    state.pe[receiver, link] = 1 if sends else 0
    state.pe[receiver, link + 1] = state.stream[stream, st.FINISH]
    for other in range(st.CORES):
        queues.wake_stream(state, target, target * _STREAMS_PER_PE + other * _UNITS + _RE, now, st.ON_LINK)


@inlined_kernel
def _wake_after(
    code: Code, state: State, pe: Scalar, core: Scalar, stream: Scalar, record: Integers, now: Scalar
) -> None:
    """Wake who may wait for the bank or link that a started command used."""
    if record[st.R_BANK] >= 0 and state.core[core, st.ON_BANKS] > 0:
        state.core[core, st.ON_BANKS] = 0
        for other in range(core * _UNITS, (core + 1) * _UNITS):
            queues.wake_stream(state, pe, other, now, st.ON_BANK)
    if record[st.R_LINK] != tr.LINK_UNUSED:
        _move_over_link(code, state, stream, pe, record, now)


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
def gather(group: Integers, address: Scalar, values: Integers) -> Scalar:
    """Note that one PE has come to a broadcast; return an error code."""
    if group[st.G_ARRIVED] == 0:
        group[st.G_ADDRESS], group[st.G_PITCH] = address, values[3]
        group[st.G_ROWS], group[st.G_BYTES] = values[6], values[7]
    same = group[st.G_ADDRESS] == address and group[st.G_ROWS] == values[6] and group[st.G_BYTES] == values[7]
    if not same or group[st.G_PITCH] != values[3]:
        return codes.UNEQUAL_BROADCAST
    group[st.G_ARRIVED] += 1
    return codes.OK


@inlined_kernel
def complete(
    chip: Chip, pe: Scalar, actor: Scalar, record: Integers, functional: Scalar, now: Scalar, done: Scalar
) -> Scalar:
    """Execute and book the command at the head of a queue and take it off; return an error code."""
    state, unit, number = chip.state, actor % _UNITS, actor // _UNITS
    core, stream = pe * st.CORES + number, pe * _STREAMS_PER_PE + actor
    if functional:
        fields = chip.code.instructions[number, record[st.R_PC]]
        error = commands.perform(chip, pe, fields, record)
        if error:
            return error
    counts = chip.stats.parts[record[st.R_PART]]
    commands.finish(chip.hardware, state, counts, stream, pe, unit, record, now, done)
    if unit == _FI:  # what shared memories and links counted when they served it
        for counter in range(st.DRAM_READ, st.DRAM_ROWS + 1):
            counts[counter] += chip.stats.counts[counter]
            chip.stats.counts[counter] = 0
    queues.dequeue(state, core, stream, now)
    _wake_after(chip.code, state, pe, core, stream, record, now)
    return codes.OK


@inner_kernel
def start_broadcast(chip: Chip, pe: Scalar, actor: Scalar, mode: Scalar, functional: Scalar, now: Scalar) -> Scalar:
    """Start a broadcast that all PEs have come to: one read, delivered to each; return an error code."""
    state, code, core = chip.state, chip.code, actor // _UNITS
    index, first, step, count = group_of(code, pe, mode)
    state.group[core, index, :] = 0
    (record,) = queues.head_record(state, pe * _STREAMS_PER_PE + actor)
    groups = 2 * code.header[st.ROWS] * code.header[st.COLUMNS]
    error, done = commands.serve_shared(chip.hardware, code, state, chip.stats, pe, record, groups + index, now)
    if error:
        return error
    for member in range(count):
        other = natural(first + member * step)
        stream = other * _STREAMS_PER_PE + actor
        (record,) = queues.head_record(state, stream)
        state.meetings[other, 2 * core + st.IN_BROADCAST] = 0
        error = complete(chip, other, actor, record, functional, now, done)
        if error:
            return error
        if other != pe:
            state.stream[stream, st.STREAM_STATUS] = st.SCHEDULED
            schedule(state, other, actor, now)
    return codes.OK
