"""Queues of commands and circular buffers: who is woken when a slot, an entry or a pointer moves."""

from __future__ import annotations

from simulator import state as st
from simulator.events import natural, schedule, schedule_core
from simulator.jit import inlined_kernel, inner_kernel
from simulator.operands import place_of_slot
from simulator.state import Code, Integers, Scalar, State

_UNITS, _STREAMS_PER_PE = st.UNITS, st.UNITS * st.CORES


@inlined_kernel
def queue_depth(state: State) -> Scalar:
    """Return how many commands a queue holds."""
    return (state.stream.shape[1] - st.QUEUE - st.MAX_OUTSTANDING) // st.ENTRY


@inlined_kernel
def is_awaited(state: State, core: Scalar, stream: Scalar) -> Scalar:
    """Tell whether a core waits for room in a queue that has some now."""
    waits = state.core[core, st.STATUS] == st.ON_QUEUE and state.core[core, st.WAITING_FOR] == stream
    return waits and state.stream[stream, st.COUNT] < queue_depth(state)


@inlined_kernel
def queue_entry(state: State, stream: Scalar, position: Scalar) -> tuple[Integers]:
    """Return the entry at a position of a stream's queue, as a view (in a tuple: kernels cannot return bare arrays)."""
    first = st.QUEUE + position * st.ENTRY
    return (state.stream[stream, first : first + st.ENTRY],)


@inlined_kernel
def head_record(state: State, stream: Scalar) -> tuple[Integers]:
    """Return the record of the command at the head of a queue, as a view."""
    (entry,) = queue_entry(state, stream, natural(state.stream[stream, st.HEAD]))
    return (state.records[natural(entry[st.Q_RECORD])],)


@inlined_kernel
def wake_stream(state: State, pe: Scalar, stream: Scalar, time: Scalar, cause: Scalar) -> None:
    """Let a stream of a PE, -1 for none, that waits for `cause` look again at `time`."""
    if stream >= 0 and state.stream[stream, st.STREAM_STATUS] == cause:
        state.stream[stream, st.STREAM_STATUS] = st.SCHEDULED
        schedule(state, pe, stream - pe * _STREAMS_PER_PE, time)


@inner_kernel
def wake_core(state: State, core: Scalar, time: Scalar) -> None:
    """Let a stopped core go on, not before `time`."""
    state.core[core, st.STATUS] = st.RUNNING
    state.core[core, st.TIME] = max(state.core[core, st.TIME], time)
    schedule_core(state, core, state.core[core, st.TIME])


@inner_kernel
def drained_time(state: State, core: Scalar) -> Scalar:
    """Return when all commands a core has issued are complete, or -1 while one has not started."""
    time = 0
    for stream in range(core * _UNITS, (core + 1) * _UNITS):
        if state.stream[stream, st.COUNT] > 0:
            return -1
        time = max(time, state.stream[stream, st.FINISH])
    return time


@inlined_kernel
def free_position(state: State, stream: Scalar) -> Scalar:
    """Return the first free position of a queue that has room."""
    depth, position = queue_depth(state), state.stream[stream, st.HEAD] + state.stream[stream, st.COUNT]
    return position - depth if position >= depth else position


@inlined_kernel
def enqueue(state: State, core: Scalar, unit: Scalar, record: Scalar, arrival: Scalar) -> None:
    """Put a command of a core into a queue that has room."""
    stream = core * _UNITS + unit
    row, first = state.stream[stream], st.QUEUE + free_position(state, stream) * st.ENTRY
    row[first + st.Q_ARRIVAL], row[first + st.Q_RECORD], row[first + st.Q_READY] = arrival, record, st.UNKNOWN
    bank = state.records[record, st.R_BANK]
    if state.records[record, st.R_POINTER] == st.NO_POINTER and bank >= 0:
        row[first + st.Q_SNAPSHOT] = state.bank[core // st.CORES, bank, st.BANK_ISSUED]
        state.bank[core // st.CORES, bank, st.BANK_ISSUED] += 1
    row[st.COUNT] += 1
    if row[st.STREAM_STATUS] == st.IDLE:
        row[st.STREAM_STATUS] = st.SCHEDULED
        schedule(state, core // st.CORES, core % st.CORES * _UNITS + unit, arrival)


@inlined_kernel
def dequeue(state: State, core: Scalar, stream: Scalar, now: Scalar) -> None:
    """Take the head off a queue, and wake its core if that waits for all its queues to be empty."""
    row = state.stream[stream]
    following = row[st.HEAD] + 1
    row[st.HEAD] = following if following < queue_depth(state) else 0
    row[st.COUNT] -= 1
    row[st.CLOCK] = now
    if state.core[core, st.STATUS] == st.ON_FENCE and row[st.COUNT] == 0:
        time = drained_time(state, core)
        if time >= 0:
            wake_core(state, core, time)


@inlined_kernel
def push_slots(code: Code, state: State, pe: Scalar, buffer: Scalar, slots: Scalar, time: Scalar) -> Scalar:
    """Make slots visible at `time`, or when the last is free; return False if nobody has popped them yet."""
    capacity = code.buffers[buffer, 2]
    pushed = state.buffer[pe, buffer, st.PUSHED]
    if pushed + slots > state.buffer[pe, buffer, st.POPPED] + capacity:
        return False
    time = max(time, state.buffer[pe, buffer, st.POP_TIME + 2 * place_of_slot(pushed + slots - 1, capacity)])
    for index in range(pushed, pushed + slots):
        state.buffer[pe, buffer, st.PUSH_TIME + 2 * place_of_slot(index, capacity)] = time
    state.buffer[pe, buffer, st.PUSHED] = pushed + slots
    return True


@inlined_kernel
def pop_slots(code: Code, state: State, pe: Scalar, buffer: Scalar, slots: Scalar, time: Scalar) -> Scalar:
    """Free slots at `time`, or when the last is visible; return False if nobody has pushed them yet."""
    capacity = code.buffers[buffer, 2]
    popped = state.buffer[pe, buffer, st.POPPED]
    if popped + slots > state.buffer[pe, buffer, st.PUSHED]:
        return False
    time = max(time, state.buffer[pe, buffer, st.PUSH_TIME + 2 * place_of_slot(popped + slots - 1, capacity)])
    for index in range(popped, popped + slots):
        state.buffer[pe, buffer, st.POP_TIME + 2 * place_of_slot(index, capacity)] = time
    state.buffer[pe, buffer, st.POPPED] = popped + slots
    return True


@inlined_kernel
def wake_consumer(state: State, pe: Scalar, buffer: Scalar, now: Scalar) -> None:
    """Let whoever reads a buffer look again."""
    consumer = state.buffer[pe, buffer, st.CONSUMER]
    if consumer < 0:
        return
    core = consumer // _UNITS
    wake_stream(state, pe, consumer, now, st.ON_INPUT)
    if consumer % _UNITS == 0 and state.core[core, st.STATUS] == st.ON_DATA:
        wake_core(state, core, now)
