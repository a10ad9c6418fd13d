"""A stream is the queue of commands from one core to one unit of a PE; its commands start in order.

`look` regards the head of the queue at the present time: it moves a buffer pointer, finds that a command can start, or
why it must wait. A waiting stream is woken by whoever changes what it waits for.
"""

from __future__ import annotations

from isa import columns as col
from isa.table import Unit
from simulator import codes, commands, gathering, memory_system, operands, queues, starting
from simulator import state as st
from simulator import traits as tr
from simulator.events import is_before, natural, post
from simulator.hardware import Hardware
from simulator.jit import inlined_kernel, inner_kernel
from simulator.state import Chip, Code, Integers, Scalar, State

_FI = int(Unit.FI)
_UNITS, _STREAMS_PER_PE = st.UNITS, st.UNITS * st.CORES
WAITING, READY = -1, -2
"""Outcomes that are no errors."""


@inlined_kernel
def _step_pointer(code: Code, state: State, stream: Scalar, pe: Scalar, record: Integers, now: Scalar) -> Scalar:
    """Run a push or pop at the head of a queue; return the status it waits with, or IDLE when it is done."""
    buffer, slots = record[st.R_OPERANDS], record[st.R_OPERANDS + 1]
    time = max(now, state.stream[stream, st.FINISH])
    if record[st.R_POINTER] == st.PUSHES:
        if not queues.push_slots(code, state, pe, buffer, slots, time):
            return st.ON_SPACE
        queues.wake_consumer(state, pe, buffer, now)
        return st.IDLE
    if not queues.pop_slots(code, state, pe, buffer, slots, time):
        return st.ON_INPUT
    queues.wake_stream(state, pe, state.buffer[pe, buffer, st.PRODUCER], now, st.ON_SPACE)
    return st.IDLE


@inner_kernel
def _link_ready(code: Code, state: State, core: Scalar, pe: Scalar, record: Integers) -> tuple[Scalar, Scalar]:
    """Return (status, time) of a neighbour link for acc_send and acc_add."""
    direction = code.instructions[core, record[st.R_PC], col.MODE]
    if record[st.R_LINK] == tr.LINK_SENDS:
        target = commands.link_target(code, pe, direction)
        link = st.INCOMING + 2 * ((direction + 2) & 3)
        full, time = state.pe[target, link], state.pe[target, link + 1]
        return (st.ON_LINK if full else st.IDLE), time
    link = st.INCOMING + 2 * direction
    full, time = state.pe[pe, link], state.pe[pe, link + 1]
    return (st.IDLE if full else st.ON_LINK), time


@inner_kernel
def _explain(code: Code, state: State, core: Scalar, record: Integers, operand: Scalar) -> None:
    """Note the details of what is wrong with an operand."""
    operands.locate_operand(code, state, code.instructions[core, record[st.R_PC]], record, operand)


@inlined_kernel
def _readiness(
    code: Code,
    hardware: Hardware,
    state: State,
    pe: Scalar,
    core: Scalar,
    unit: Scalar,
    stream: Scalar,
    record: Integers,
    snapshot: Scalar,
) -> tuple[Scalar, Scalar, Scalar]:
    """Return (error, waiting status or IDLE, earliest start but for its unit) of the command at the head of a queue."""
    row = state.stream[stream]
    ready = row[st.CLOCK]
    for operand in range(3):
        buffer, slot = record[st.R_OPERANDS + 2 * operand], record[st.R_OPERANDS + 2 * operand + 1]
        if buffer < 0:
            if buffer == st.ABSENT:
                continue
            _explain(code, state, core, record, operand)
            return slot, st.IDLE, 0
        time = operands.ready_time(code, state, pe, buffer, slot, operand == operands.OUT)
        if time < 0:
            row[st.DETAIL] = buffer
            return codes.OK, (st.ON_SPACE if operand == operands.OUT else st.ON_INPUT), 0
        ready = max(ready, time)
    if record[st.R_BANK] >= 0:
        time = commands.bank_ready(state, pe, record[st.R_BANK], unit, snapshot)
        if time < 0:
            row[st.DETAIL] = record[st.R_BANK]
            return codes.OK, st.ON_BANK, 0
        ready = max(ready, time)
    if record[st.R_LINK] != tr.LINK_UNUSED:
        status, time = _link_ready(code, state, core, pe, record)
        if status != st.IDLE:
            return codes.OK, status, 0
        ready = max(ready, time)
    if unit == _FI:
        ready = max(ready, row[commands.place_in_flight(hardware, state, stream)])
    return codes.OK, st.IDLE, ready


@inlined_kernel
def _sleep(state: State, stream: Scalar, status: Scalar, detail: Scalar) -> None:
    state.stream[stream, st.STREAM_STATUS] = status
    state.stream[stream, st.DETAIL] = detail


@inlined_kernel
def _sleep_until(state: State, pe: Scalar, actor: Scalar, time: Scalar) -> None:
    state.stream[pe * _STREAMS_PER_PE + actor, st.STREAM_STATUS] = st.SCHEDULED
    state.agenda[pe, actor] = time


@inlined_kernel
def look(chip: Chip, pe: Scalar, actor: Scalar, now: Scalar) -> Scalar:
    """Do what the head of a queue allows at time `now` without starting a command; return an error code.

    OK: a buffer pointer was moved, look again. READY: the command at the head can start. WAITING: nothing more to do.
    """
    state, stream, unit, number = chip.state, pe * _STREAMS_PER_PE + actor, actor % _UNITS, actor // _UNITS
    if state.stream[stream, st.COUNT] == 0:
        state.stream[stream, st.STREAM_STATUS] = st.IDLE
        return WAITING
    (entry,) = queues.queue_entry(state, stream, natural(state.stream[stream, st.HEAD]))
    if entry[st.Q_ARRIVAL] > now:
        _sleep_until(state, pe, actor, entry[st.Q_ARRIVAL])
        return WAITING
    record = state.records[natural(entry[st.Q_RECORD])]
    state.scratch[st.ERROR_PC] = record[st.R_PC]
    if record[st.R_POINTER] != st.NO_POINTER:
        status = _step_pointer(chip.code, state, stream, pe, record, now)
        if status != st.IDLE:
            _sleep(state, stream, status, record[st.R_OPERANDS])
            return WAITING
        queues.dequeue(state, pe * st.CORES + number, stream, now)
        return codes.OK
    ready = entry[st.Q_READY]
    if ready == st.UNKNOWN:
        error, status, ready = _readiness(
            chip.code, chip.hardware, state, pe, number, unit, stream, record, entry[st.Q_SNAPSHOT]
        )
        if error:
            return error
        if status != st.IDLE:
            state.stream[stream, st.STREAM_STATUS] = status
            state.core[pe * st.CORES + number, st.ON_BANKS] += 1 if status == st.ON_BANK else 0
            return WAITING
        if record[st.R_LINK] == tr.LINK_UNUSED:
            entry[st.Q_READY] = ready
    ready = max(ready, state.pe[pe, unit])
    if ready > now:
        _sleep_until(state, pe, actor, ready)
        return WAITING
    return READY


@inlined_kernel
def _let_start(state: State, pe: Scalar, actor: Scalar, time: Scalar, identity: Scalar) -> None:
    """Give a PE a turn where it came to a broadcast, which is the last thing that it has done."""
    agenda = state.agenda[pe]
    if agenda[st.AGENDA_CLOCK] != time or agenda[st.AGENDA_WAITING] > 0:
        state.scratch[st.IS_EARLY] = 1
    agenda[st.AGENDA_WAITING] = actor + 1
    post(state, pe, time, identity)


@inlined_kernel
def _come(
    chip: Chip, pe: Scalar, actor: Scalar, record: Integers, functional: Scalar, now: Scalar, identity: Scalar,
    has_turn: Scalar,
) -> Scalar:  # fmt: skip
    """Come to a broadcast, out of turn if that lies ahead, and start it in the turn of the last PE; return as `start`.

    Who is last is known when all have come: it may be one that came before, but at a later time.
    """
    state, core, mode, scratch = chip.state, actor // _UNITS, record[st.R_BROADCAST], chip.state.scratch
    index, _, _, count = starting.group_of(chip.code, pe, mode)
    group, place = state.group[core, index], 2 * core + st.IN_BROADCAST
    if state.meetings[pe, place] == 0:
        if not has_turn and not is_before(scratch[st.PRESENT_TIME], scratch[st.PRESENT_ID], now, identity):
            return codes.NEEDS_TURN
        error = starting.gather(group, commands.address_read(state, record, pe), record[st.R_VALUES :])
        if error:
            return error
        state.meetings[pe, place] = mode
        state.stream[pe * _STREAMS_PER_PE + actor, st.STREAM_STATUS] = st.ON_GROUP
        time, own = (scratch[st.PRESENT_TIME], scratch[st.PRESENT_ID]) if has_turn else (now, identity)
        if not is_before(time, own, group[st.G_TIME], group[st.G_ID]):
            group[st.G_TIME], group[st.G_ID], group[st.G_LAST] = time, own, pe
    if group[st.G_ARRIVED] < count:
        return WAITING
    if group[st.G_LAST] == pe:
        return starting.start_broadcast(chip, pe, actor, mode, functional, now) if has_turn else codes.NEEDS_TURN
    _let_start(state, natural(group[st.G_LAST]), actor, group[st.G_TIME], group[st.G_ID])
    return WAITING


@inlined_kernel
def start(
    chip: Chip, pe: Scalar, actor: Scalar, functional: Scalar, now: Scalar, identity: Scalar, has_turn: Scalar
) -> Scalar:
    """Start the ready command at the head of a queue; return an error code, or WAITING if a broadcast lacks PEs.

    `identity` is the id of the present event; NEEDS_TURN comes before what only an event that has its turn may do.
    """
    state, stream, unit = chip.state, pe * _STREAMS_PER_PE + actor, actor % _UNITS
    (record,) = queues.head_record(state, stream)
    done = now
    if unit == _FI and record[st.R_BROADCAST] != 0:
        return _come(chip, pe, actor, record, functional, now, identity, has_turn)
    if unit == _FI and not has_turn:
        return codes.NEEDS_TURN
    if unit == _FI:
        if record[st.R_INDEXED]:
            error, done = gathering.serve_indexed(chip, stream, pe, record, functional, now)
        else:
            group = memory_system.group_of(chip.code, pe, record[st.R_READ] < 0)
            error, done = commands.serve_shared(chip.hardware, chip.code, state, chip.stats, pe, record, group, now)
        if error:
            return error
    return starting.complete(chip, pe, actor, record, functional, now, done)
