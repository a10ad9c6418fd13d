"""The sequencer: runs one launch event by event, in the order of simulated time.

Cores and streams are the actors. A core runs ahead in its own time and only ever adds commands that carry the time of
their issue; streams start commands when everything they need is known, so shared servers see requests in time order.
There is no tick: the next event is the next thing that can happen.
"""

from __future__ import annotations


from simulator import codes, cores, streams
from simulator import state as st
from simulator.events import next_event, schedule
from simulator.jit import kernel


@kernel
def _blame(state, actor):
    """Note which PE and core an error belongs to."""
    stream_count = state.stream.shape[0]
    core = actor - stream_count if actor >= stream_count else actor // st.UNITS
    state.error[st.ERROR_PE] = core // st.CORES
    state.error[st.ERROR_CORE] = core % st.CORES


@kernel
def _end_time(code, state):
    """Return when the last command is complete and the last core has halted, or -1 if someone still waits."""
    time = 0
    for core in range(code.rectangle[0] * code.rectangle[1] * st.CORES):
        drained = streams.drained_time(state, core)
        if state.core[core, st.STATUS] != st.HALTED or drained < 0:
            return -1
        time = max(time, state.core[core, st.TIME], drained)
    return time


@kernel
def run_launch(code, hardware, state, stats, memories, tables, functional):
    """Run a launch on a state that was reset; return its duration in ticks, or -1 with `state.error` set."""
    stream_count = state.stream.shape[0]
    for core in range(code.rectangle[0] * code.rectangle[1] * st.CORES):
        schedule(state, 0, stream_count + core)
    while state.heap_size[0] > 0:
        now, actor = next_event(state)
        if actor >= stream_count:
            error = cores.step_core(code, hardware, state, stats, memories, actor - stream_count, functional)
        else:
            error = streams.step_stream(code, hardware, state, stats, memories, tables, actor, functional, now)
        if error:
            _blame(state, actor)
            state.error[st.ERROR_CODE] = error
            return -1
    end = _end_time(code, state)
    if end < 0:
        state.error[st.ERROR_CODE] = codes.DEADLOCK
    return end
