"""A stream is the queue of commands from one core to one unit of a PE; its commands start in order.

`step_stream` looks at the head of the queue at the present time: it moves a buffer pointer, starts a command, or finds
out why it must wait. A waiting stream is woken by whoever changes what it waits for.
"""

from __future__ import annotations

from isa import columns as col
from isa.table import BY_NAME, Unit
from simulator import codes, commands, memory_system, operands
from simulator import hardware as hw
from simulator import state as st
from simulator import traits as tr
from simulator.events import schedule
from simulator.hardware import Hardware
from simulator.jit import inner_kernel
from simulator.meaning.tables import Tables
from simulator.state import Code, Integers, Meaning, Memory, Scalar, State, Stats

_PUSH, _POP = BY_NAME["push"].opcode, BY_NAME["pop"].opcode
_FI, _DPE, _RE = int(Unit.FI), int(Unit.DPE), int(Unit.RE)
_UNITS, _STREAMS_PER_PE = st.UNITS, st.UNITS * st.CORES


@inner_kernel
def queue_depth(state: State) -> Scalar:
    """Return how many commands a queue holds."""
    return (state.stream.shape[1] - st.QUEUE) // st.ENTRY


@inner_kernel
def queue_entry(state: State, stream: Scalar, position: Scalar) -> Integers:
    """Return the entry at a position of a stream's queue, as a view."""
    first = st.QUEUE + position * st.ENTRY
    return state.stream[stream, first : first + st.ENTRY]


@inner_kernel
def wake_stream(state: State, stream: Scalar, time: Scalar, cause: Scalar) -> None:
    """Let a stream that waits for `cause` look again at `time`."""
    if stream >= 0 and state.stream[stream, st.STREAM_STATUS] == cause:
        state.stream[stream, st.STREAM_STATUS] = st.SCHEDULED
        schedule(state, time, stream)


@inner_kernel
def wake_core(state: State, core: Scalar, time: Scalar) -> None:
    """Let a stopped core go on, not before `time`."""
    state.core[core, st.STATUS] = st.RUNNING
    state.core[core, st.TIME] = max(state.core[core, st.TIME], time)
    schedule(state, state.core[core, st.TIME], state.stream.shape[0] + core)


@inner_kernel
def drained_time(state: State, core: Scalar) -> Scalar:
    """Return when all commands a core has issued are complete, or -1 while one has not started."""
    time = 0
    for stream in range(core * _UNITS, (core + 1) * _UNITS):
        if state.stream[stream, st.COUNT] > 0:
            return -1
        time = max(time, state.stream[stream, st.FINISH])
    return time


@inner_kernel
def _dequeue(state: State, stream: Scalar, now: Scalar) -> None:
    depth = queue_depth(state)
    state.stream[stream, st.HEAD] = (state.stream[stream, st.HEAD] + 1) % depth
    state.stream[stream, st.COUNT] -= 1
    state.stream[stream, st.CLOCK] = now
    core = stream // _UNITS
    if state.core[core, st.STATUS] == st.ON_QUEUE and state.core[core, st.WAITING_FOR] == stream:
        wake_core(state, core, now)
    elif state.core[core, st.STATUS] == st.ON_FENCE and state.stream[stream, st.COUNT] == 0:
        time = drained_time(state, core)
        if time >= 0:
            wake_core(state, core, time)


@inner_kernel
def push_slots(code: Code, state: State, pe: Scalar, buffer: Scalar, slots: Scalar, time: Scalar) -> Scalar:
    """Make slots visible at `time`; return False if the buffer has no room for them yet."""
    capacity = code.buffers[buffer, 2]
    pushed = state.buffer[pe, buffer, st.PUSHED]
    if pushed + slots > state.buffer[pe, buffer, st.POPPED] + capacity:
        return False
    for index in range(pushed, pushed + slots):
        state.buffer[pe, buffer, st.PUSH_TIME + index % capacity] = time
    state.buffer[pe, buffer, st.PUSHED] = pushed + slots
    return True


@inner_kernel
def pop_slots(code: Code, state: State, pe: Scalar, buffer: Scalar, slots: Scalar, time: Scalar) -> Scalar:
    """Free slots at `time`; return False if they are not there yet."""
    capacity = code.buffers[buffer, 2]
    popped = state.buffer[pe, buffer, st.POPPED]
    if popped + slots > state.buffer[pe, buffer, st.PUSHED]:
        return False
    for index in range(popped, popped + slots):
        state.buffer[pe, buffer, st.POP_TIME + index % capacity] = time
    state.buffer[pe, buffer, st.POPPED] = popped + slots
    return True


@inner_kernel
def wake_consumer(state: State, pe: Scalar, buffer: Scalar, now: Scalar) -> None:
    """Let whoever reads a buffer look again."""
    consumer = state.buffer[pe, buffer, st.CONSUMER]
    if consumer < 0:
        return
    core = consumer // _UNITS
    wake_stream(state, consumer, now, st.ON_INPUT)
    if consumer % _UNITS == 0 and state.core[core, st.STATUS] == st.ON_DATA:
        wake_core(state, core, now)


@inner_kernel
def _step_pointer(code: Code, state: State, stream: Scalar, pe: Scalar, fields: Integers, now: Scalar) -> Scalar:
    """Run a push or pop at the head of a queue; return the status it waits with, or IDLE when it is done."""
    buffer = fields[col.C0] if fields[col.OPCODE] == _PUSH else fields[col.C1]
    time = max(now, state.stream[stream, st.FINISH])
    if fields[col.OPCODE] == _PUSH:
        if not push_slots(code, state, pe, buffer, fields[col.IMMEDIATE], time):
            return st.ON_SPACE
        wake_consumer(state, pe, buffer, now)
        return st.IDLE
    if not pop_slots(code, state, pe, buffer, fields[col.IMMEDIATE], time):
        return st.ON_INPUT
    wake_stream(state, state.buffer[pe, buffer, st.PRODUCER], now, st.ON_SPACE)
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


@inner_kernel
def _readiness(
    code: Code,
    hardware: Hardware,
    state: State,
    stream: Scalar,
    pe: Scalar,
    unit: Scalar,
    fields: Integers,
    values: Integers,
    extents: Integers,
) -> tuple[Scalar, Scalar, Scalar]:
    """Return (error, waiting status or IDLE, earliest start) of the command at the head of a queue."""
    row = code.traits[fields[col.OPCODE]]
    ready = max(state.stream[stream, st.CLOCK], state.pe[pe, unit])
    for operand in range(3):
        if extents[operand, 0] <= 0:
            continue
        error, _, time = operands.place(code, state, pe, fields, values, extents, operand)
        if error:
            return error, st.IDLE, 0
        if time < 0:
            state.stream[stream, st.DETAIL] = fields[col.C0 + operand]
            return codes.OK, (st.ON_SPACE if operand == operands.OUT else st.ON_INPUT), 0
        ready = max(ready, time)
    if row[tr.BANK_ROLE] != tr.BANK_UNUSED:
        snapshot = queue_entry(state, stream, state.stream[stream, st.HEAD])[st.Q_SNAPSHOT]
        time = commands.bank_ready(state, pe, fields[col.BANK], row[tr.BANK_ROLE], snapshot)
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


@inner_kernel
def _wake_after(code: Code, state: State, stream: Scalar, pe: Scalar, fields: Integers) -> None:
    """Wake who may wait for the bank or link that a started command used."""
    row = code.traits[fields[col.OPCODE]]
    core = stream // _UNITS
    now = state.stream[stream, st.CLOCK]
    if row[tr.BANK_ROLE] == tr.BANK_BY_DPE:
        wake_stream(state, core * _UNITS + _RE, now, st.ON_BANK)
    elif row[tr.BANK_ROLE] == tr.BANK_BY_RE:
        wake_stream(state, core * _UNITS + _DPE, now, st.ON_BANK)
    if row[tr.LINK_ROLE] != tr.LINK_UNUSED:
        target, sends = commands.link_target(code, pe, fields[col.MODE]), row[tr.LINK_ROLE] == tr.LINK_SENDS
        receiver = target if sends else pe
        link = st.INCOMING + 2 * (((fields[col.MODE] + 2) & 3) if sends else fields[col.MODE])
        state.pe[receiver, link] = 1 if sends else 0
        state.pe[receiver, link + 1] = state.stream[stream, st.FINISH]
        for other in range(st.CORES):
            wake_stream(state, target * _STREAMS_PER_PE + other * _UNITS + _RE, now, st.ON_LINK)


@inner_kernel
def _group_of(code: Code, stream: Scalar, pe: Scalar, mode: Scalar) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """Return (index in State.group, first PE, PE step, PE count) of a broadcast."""
    rows, columns = code.header[st.ROWS], code.header[st.COLUMNS]
    if mode == 1:
        return pe // columns, pe // columns * columns, 1, columns
    if mode == 2:
        return rows + pe % columns, pe % columns, columns, rows
    return rows + columns, 0, 1, rows * columns


@inner_kernel
def _gather(state: State, group: Integers, values: Integers, now: Scalar) -> Scalar:
    """Note that one PE has come to a broadcast; return an error code."""
    if group[st.G_ARRIVED] == 0:
        group[st.G_ADDRESS], group[st.G_PITCH] = values[2], values[3]
        group[st.G_ROWS], group[st.G_BYTES] = values[6], values[7]
    same = group[st.G_ADDRESS] == values[2] and group[st.G_ROWS] == values[6] and group[st.G_BYTES] == values[7]
    if not same or group[st.G_PITCH] != values[3]:
        return codes.UNEQUAL_BROADCAST
    group[st.G_ARRIVED] += 1
    return codes.OK


@inner_kernel
def _start_broadcast(
    code: Code,
    hardware: Hardware,
    state: State,
    stats: Stats,
    memories: Memory,
    tables: Tables,
    meaning: Meaning,
    stream: Scalar,
    fields: Integers,
    functional: Scalar,
    now: Scalar,
) -> Scalar:
    """Start a broadcast that all PEs have come to: one read, delivered to each; return an error code."""
    core = (stream // _UNITS) % st.CORES
    pe = stream // _STREAMS_PER_PE
    mode = fields[col.MODE]
    index, first, step, count = _group_of(code, stream, pe, mode)
    state.group[core, index, :] = 0
    columns = code.header[st.COLUMNS]
    done = now
    for member in range(count):
        other = first + member * step
        other_stream = other * _STREAMS_PER_PE + core * _UNITS + _FI
        entry = queue_entry(state, other_stream, state.stream[other_stream, st.HEAD])
        other_fields = code.instructions[core, entry[st.Q_PC]]
        values = entry[st.Q_VALUES :]
        operands.measure(hardware, code.traits, other_fields, values, state.extents)
        row = code.header[st.FIRST_ROW] + other // columns
        if member == 0:
            error, done = commands.serve_shared(
                code, hardware, state, stats, other_fields, values, code.traits[other_fields[col.OPCODE]], row, now
            )
            if error:
                return error
        elif mode == 2 or (mode == 3 and other % columns == 0):
            linked = memory_system.serve_link(hardware, state, stats, row, 0, values[6] * values[7], now)
            done = max(done, linked + hardware.numbers[hw.REQUEST_TICKS])
    for member in range(count):
        other = first + member * step
        other_stream = other * _STREAMS_PER_PE + core * _UNITS + _FI
        entry = queue_entry(state, other_stream, state.stream[other_stream, st.HEAD])
        other_fields = code.instructions[core, entry[st.Q_PC]]
        values = entry[st.Q_VALUES :]
        operands.measure(hardware, code.traits, other_fields, values, state.extents)
        error = _complete(
            code,
            hardware,
            state,
            stats,
            memories,
            tables,
            meaning,
            other_stream,
            other_fields,
            values,
            functional,
            now,
            done,
        )
        if error:
            return error
        if other_stream != stream:
            state.stream[other_stream, st.STREAM_STATUS] = st.SCHEDULED
            schedule(state, now, other_stream)
    return codes.OK


@inner_kernel
def _complete(
    code: Code,
    hardware: Hardware,
    state: State,
    stats: Stats,
    memories: Memory,
    tables: Tables,
    meaning: Meaning,
    stream: Scalar,
    fields: Integers,
    values: Integers,
    functional: Scalar,
    now: Scalar,
    done: Scalar,
) -> Scalar:
    """Execute and book the command at the head of a queue and take it off; return an error code."""
    pe, unit, extents = stream // _STREAMS_PER_PE, stream % _UNITS, state.extents
    if functional:
        error = commands.perform(code, state, memories, tables, meaning, pe, fields, values, extents)
        if error:
            return error
    timing = code.traits[fields[col.OPCODE], tr.TIMING]
    occupancy = commands.work_ticks(hardware, stats, fields, values, extents, timing)
    commands.finish(code, hardware, state, stats, stream, pe, unit, fields, extents, occupancy, now, done)
    stats.counts[fields[col.OPCODE]] += 1
    _dequeue(state, stream, now)
    _wake_after(code, state, stream, pe, fields)
    return codes.OK


@inner_kernel
def step_stream(
    code: Code,
    hardware: Hardware,
    state: State,
    stats: Stats,
    memories: Memory,
    tables: Tables,
    meaning: Meaning,
    stream: Scalar,
    functional: Scalar,
    now: Scalar,
) -> Scalar:
    """Do all that a stream can do at time `now`; return an error code."""
    core = (stream // _UNITS) % st.CORES
    pe, unit, extents = stream // _STREAMS_PER_PE, stream % _UNITS, state.extents
    while True:
        if state.stream[stream, st.COUNT] == 0:
            state.stream[stream, st.STREAM_STATUS] = st.IDLE
            return codes.OK
        entry = queue_entry(state, stream, state.stream[stream, st.HEAD])
        if entry[st.Q_ARRIVAL] > now:
            state.stream[stream, st.STREAM_STATUS] = st.SCHEDULED
            schedule(state, entry[st.Q_ARRIVAL], stream)
            return codes.OK
        state.scratch[st.ERROR_PC] = entry[st.Q_PC]
        fields, values = code.instructions[core, entry[st.Q_PC]], entry[st.Q_VALUES :]
        opcode = fields[col.OPCODE]
        if opcode in (_PUSH, _POP):
            status = _step_pointer(code, state, stream, pe, fields, now)
            if status != st.IDLE:
                state.stream[stream, st.STREAM_STATUS] = status
                state.stream[stream, st.DETAIL] = fields[col.C0] if opcode == _PUSH else fields[col.C1]
                return codes.OK
            _dequeue(state, stream, now)
            continue
        operands.measure(hardware, code.traits, fields, values, extents)
        error, status, ready = _readiness(code, hardware, state, stream, pe, unit, fields, values, extents)
        if error:
            return error
        if status != st.IDLE or ready > now:
            state.stream[stream, st.STREAM_STATUS] = status if status != st.IDLE else st.SCHEDULED
            if status == st.IDLE:
                schedule(state, ready, stream)
            return codes.OK
        if unit == _FI and code.traits[opcode, tr.MEMORY_READ] == 2 and fields[col.MODE] != 0:
            index, _, _, count = _group_of(code, stream, pe, fields[col.MODE])
            group = state.group[core, index]
            error = _gather(state, group, values, now)
            if error:
                return error
            if group[st.G_ARRIVED] < count:
                state.stream[stream, st.STREAM_STATUS] = st.ON_GROUP
                return codes.OK
            error = _start_broadcast(
                code, hardware, state, stats, memories, tables, meaning, stream, fields, functional, now
            )
            if error:
                return error
            continue
        done = now
        if unit == _FI:
            row = code.header[st.FIRST_ROW] + pe // code.header[st.COLUMNS]
            error, done = commands.serve_shared(
                code, hardware, state, stats, fields, values, code.traits[opcode], row, now
            )
            if error:
                return error
        error = _complete(
            code, hardware, state, stats, memories, tables, meaning, stream, fields, values, functional, now, done
        )
        if error:
            return error
