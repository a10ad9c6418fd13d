"""Queues of commands and circular buffers: who is woken when a slot, an entry or a pointer moves."""

from __future__ import annotations

from simulator import state as st
from simulator.events import schedule
from simulator.jit import inlined_kernel, inner_kernel
from simulator.operands import place_of_slot
from simulator.state import Code, Integers, Scalar, State

_UNITS = st.UNITS


@inlined_kernel
def queue_depth(state: State) -> Scalar:
    """Return how many commands a queue holds."""
    return (state.stream.shape[1] - st.QUEUE) // st.ENTRY


@inlined_kernel
def queue_entry(state: State, stream: Scalar, position: Scalar) -> tuple[Integers]:
    """Return the entry at a position of a stream's queue, as a view (in a tuple: kernels cannot return bare arrays)."""
    first = st.QUEUE + position * st.ENTRY
    return (state.stream[stream, first : first + st.ENTRY],)


@inlined_kernel
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


@inlined_kernel
def dequeue(state: State, stream: Scalar, now: Scalar) -> None:
    following = state.stream[stream, st.HEAD] + 1
    state.stream[stream, st.HEAD] = following if following < queue_depth(state) else 0
    state.stream[stream, st.COUNT] -= 1
    state.stream[stream, st.CLOCK] = now
    core = stream // _UNITS
    if state.core[core, st.STATUS] == st.ON_QUEUE and state.core[core, st.WAITING_FOR] == stream:
        wake_core(state, core, now)
    elif state.core[core, st.STATUS] == st.ON_FENCE and state.stream[stream, st.COUNT] == 0:
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
    time = max(time, state.buffer[pe, buffer, st.POP_TIME + place_of_slot(pushed + slots - 1, capacity)])
    for index in range(pushed, pushed + slots):
        state.buffer[pe, buffer, st.PUSH_TIME + place_of_slot(index, capacity)] = time
    state.buffer[pe, buffer, st.PUSHED] = pushed + slots
    return True


@inlined_kernel
def pop_slots(code: Code, state: State, pe: Scalar, buffer: Scalar, slots: Scalar, time: Scalar) -> Scalar:
    """Free slots at `time`, or when the last is visible; return False if nobody has pushed them yet."""
    capacity = code.buffers[buffer, 2]
    popped = state.buffer[pe, buffer, st.POPPED]
    if popped + slots > state.buffer[pe, buffer, st.PUSHED]:
        return False
    time = max(time, state.buffer[pe, buffer, st.PUSH_TIME + place_of_slot(popped + slots - 1, capacity)])
    for index in range(popped, popped + slots):
        state.buffer[pe, buffer, st.POP_TIME + place_of_slot(index, capacity)] = time
    state.buffer[pe, buffer, st.POPPED] = popped + slots
    return True


@inlined_kernel
def wake_consumer(state: State, pe: Scalar, buffer: Scalar, now: Scalar) -> None:
    """Let whoever reads a buffer look again."""
    consumer = state.buffer[pe, buffer, st.CONSUMER]
    if consumer < 0:
        return
    core = consumer // _UNITS
    wake_stream(state, consumer, now, st.ON_INPUT)
    if consumer % _UNITS == 0 and state.core[core, st.STATUS] == st.ON_DATA:
        wake_core(state, core, now)
