"""A stream is the queue of commands from one core to one unit of a PE; its commands start in order.

`look` regards the head of the queue at the present time: it moves a buffer pointer, finds that a command can start, or
why it must wait. A waiting stream is woken by whoever changes what it waits for.
"""

from __future__ import annotations

from isa import columns as col
from isa.table import BY_NAME, Unit
from simulator import codes, commands, gathering, memory_system, operands, queues, starting
from simulator import hardware as hw
from simulator import state as st
from simulator import traits as tr
from simulator.events import schedule
from simulator.hardware import Hardware
from simulator.jit import inlined_kernel, inner_kernel
from simulator.state import Chip, Code, Integers, Scalar, State

_PUSH, _POP = BY_NAME["push"].opcode, BY_NAME["pop"].opcode
_FI = int(Unit.FI)
_UNITS, _STREAMS_PER_PE = st.UNITS, st.UNITS * st.CORES
_BROADCAST_SLOT = 2
"""Slot of the address of `dma_in`, the one command with a broadcast."""
WAITING, READY = -1, -2
"""Outcomes that are no errors."""


@inlined_kernel
def _step_pointer(code: Code, state: State, stream: Scalar, pe: Scalar, fields: Integers, now: Scalar) -> Scalar:
    """Run a push or pop at the head of a queue; return the status it waits with, or IDLE when it is done."""
    buffer = fields[col.C0] if fields[col.OPCODE] == _PUSH else fields[col.C1]
    time = max(now, state.stream[stream, st.FINISH])
    if fields[col.OPCODE] == _PUSH:
        if not queues.push_slots(code, state, pe, buffer, fields[col.IMMEDIATE], time):
            return st.ON_SPACE
        queues.wake_consumer(state, pe, buffer, now)
        return st.IDLE
    if not queues.pop_slots(code, state, pe, buffer, fields[col.IMMEDIATE], time):
        return st.ON_INPUT
    queues.wake_stream(state, state.buffer[pe, buffer, st.PRODUCER], now, st.ON_SPACE)
    return st.IDLE


@inner_kernel
def _link_ready(code: Code, state: State, pe: Scalar, fields: Integers, row: Integers) -> tuple[Scalar, Scalar]:
    """Return (status, time) of a neighbour link for acc_send and acc_add."""
    direction = fields[col.MODE]
    if row[tr.LINK_ROLE] == tr.LINK_SENDS:
        target = commands.link_target(code, pe, direction)
        link = st.INCOMING + 2 * ((direction + 2) & 3)
        full, time = state.pe[target, link], state.pe[target, link + 1]
        return (st.ON_LINK if full else st.IDLE), time
    link = st.INCOMING + 2 * direction
    full, time = state.pe[pe, link], state.pe[pe, link + 1]
    return (st.IDLE if full else st.ON_LINK), time


@inlined_kernel
def _readiness(
    code: Code,
    hardware: Hardware,
    state: State,
    stream: Scalar,
    pe: Scalar,
    unit: Scalar,
    fields: Integers,
    entry: Integers,
) -> tuple[Scalar, Scalar, Scalar]:
    """Return (error, waiting status or IDLE, earliest start but for its unit) of the command at the head of a queue."""
    row, values, extents = code.traits[fields[col.OPCODE]], entry[st.Q_VALUES :], entry[st.Q_EXTENTS :]
    ready = state.stream[stream, st.CLOCK]
    for operand in range(3):
        if extents[2 * operand] <= 0:
            continue
        error, _, time = operands.place(code, state, pe, fields, values, extents, operand)
        if error:
            return error, st.IDLE, 0
        if time < 0:
            state.stream[stream, st.DETAIL] = fields[col.C0 + operand]
            return codes.OK, (st.ON_SPACE if operand == operands.OUT else st.ON_INPUT), 0
        ready = max(ready, time)
    if row[tr.USES_BANK]:
        time = commands.bank_ready(state, pe, fields[col.BANK], unit, entry[st.Q_SNAPSHOT])
        if time < 0:
            state.stream[stream, st.DETAIL] = fields[col.BANK]
            return codes.OK, st.ON_BANK, 0
        ready = max(ready, time)
    if row[tr.LINK_ROLE] != tr.LINK_UNUSED:
        status, time = _link_ready(code, state, pe, fields, row)
        if status != st.IDLE:
            return codes.OK, status, 0
        ready = max(ready, time)
    if unit == _FI:
        slot = state.stream[stream, st.STARTED] % hardware.numbers[hw.OUTSTANDING]
        ready = max(ready, state.stream[stream, st.IN_FLIGHT + slot])
    return codes.OK, st.IDLE, ready


@inlined_kernel
def _sleep(state: State, stream: Scalar, status: Scalar, detail: Scalar) -> None:
    state.stream[stream, st.STREAM_STATUS] = status
    state.stream[stream, st.DETAIL] = detail


@inlined_kernel
def _sleep_until(state: State, stream: Scalar, time: Scalar) -> None:
    state.stream[stream, st.STREAM_STATUS] = st.SCHEDULED
    schedule(state, time, stream)


@inlined_kernel
def look(chip: Chip, stream: Scalar, now: Scalar) -> Scalar:
    """Do what the head of a queue allows at time `now` without starting a command; return an error code.

    OK: a buffer pointer was moved, look again. READY: the command at the head can start. WAITING: nothing more to do.
    """
    state = chip.state
    if state.stream[stream, st.COUNT] == 0:
        state.stream[stream, st.STREAM_STATUS] = st.IDLE
        return WAITING
    core, pe, unit = (stream // _UNITS) % st.CORES, stream // _STREAMS_PER_PE, stream % _UNITS
    (entry,) = queues.queue_entry(state, stream, state.stream[stream, st.HEAD])
    if entry[st.Q_ARRIVAL] > now:
        _sleep_until(state, stream, entry[st.Q_ARRIVAL])
        return WAITING
    state.scratch[st.ERROR_PC] = entry[st.Q_PC]
    fields = chip.code.instructions[core, entry[st.Q_PC]]
    opcode = fields[col.OPCODE]
    if opcode in (_PUSH, _POP):
        status = _step_pointer(chip.code, state, stream, pe, fields, now)
        if status != st.IDLE:
            _sleep(state, stream, status, fields[col.C0] if opcode == _PUSH else fields[col.C1])
            return WAITING
        queues.dequeue(state, stream, now)
        return codes.OK
    ready = entry[st.Q_READY]
    if ready == st.UNKNOWN:
        error, status, ready = _readiness(chip.code, chip.hardware, state, stream, pe, unit, fields, entry)
        if error:
            return error
        if status != st.IDLE:
            state.stream[stream, st.STREAM_STATUS] = status
            return WAITING
        if chip.code.traits[opcode, tr.LINK_ROLE] == tr.LINK_UNUSED:
            entry[st.Q_READY] = ready
    ready = max(ready, state.pe[pe, unit])
    if ready > now:
        _sleep_until(state, stream, ready)
        return WAITING
    return READY


@inlined_kernel
def start(chip: Chip, stream: Scalar, functional: Scalar, now: Scalar) -> Scalar:
    """Start the ready command at the head of a queue; return an error code, or WAITING if a broadcast lacks PEs."""
    state, core = chip.state, (stream // _UNITS) % st.CORES
    pe, unit = stream // _STREAMS_PER_PE, stream % _UNITS
    (entry,) = queues.queue_entry(state, stream, state.stream[stream, st.HEAD])
    fields, values = chip.code.instructions[core, entry[st.Q_PC]], entry[st.Q_VALUES :]
    traits, mode = chip.code.traits[fields[col.OPCODE]], fields[col.MODE]
    done = now
    if unit == _FI and traits[tr.MEMORY_READ] == _BROADCAST_SLOT and mode != 0:
        index, _, _, count = starting.group_of(chip.code, pe, mode)
        error = starting.gather(state.group[core, index], values)
        if error:
            return error
        if state.group[core, index, st.G_ARRIVED] < count:
            state.stream[stream, st.STREAM_STATUS] = st.ON_GROUP
            return WAITING
        return starting.start_broadcast(chip, stream, mode, functional, now)
    if unit == _FI:
        if traits[tr.INDEXED]:
            error, done = gathering.serve_indexed(
                chip, stream, pe, fields, values, entry[st.Q_EXTENTS :], traits, functional, now
            )
        else:
            group = memory_system.group_of(chip.code, pe, traits[tr.MEMORY_READ] < 0)
            error, done = commands.serve_shared(chip.hardware, chip.code, state, chip.stats, values, traits, group, now)
        if error:
            return error
    return starting.complete(chip, stream, fields, values, functional, now, done)
