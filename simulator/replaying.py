"""Cores that follow a trace: all that is left to find is when queues have room and others have come."""

from __future__ import annotations

from isa import columns as col
from isa.table import Unit
from simulator import codes, queues
from simulator import state as st
from simulator.events import natural, schedule_core
from simulator.hardware import Hardware
from simulator.jit import inlined_kernel, inner_kernel
from simulator.state import Code, Scalar, State
from simulator.synchronizing import NEXT, synchronize

_CORE, _UNITS = int(Unit.CORE), st.UNITS


@inner_kernel
def _synchronize(code: Code, hardware: Hardware, state: State, core: Scalar, has_turn: Scalar) -> tuple[Scalar, Scalar]:
    """Run the signal, wait, barrier or fence at the cursor; return (error or NEEDS_TURN, whether the core goes on)."""
    row = state.core[core]
    record = state.records[row[st.CURSOR]]
    fields = code.instructions[core % st.CORES, record[st.R_PC]]
    row[st.AFTER] = record[st.R_AFTER]
    error, action, finished = synchronize(code, hardware, state, core, fields[col.OPCODE], fields, has_turn)
    if not error and finished:
        row[st.TIME] += record[st.R_AFTER]
        row[st.CURSOR] += 1
    return error, action == NEXT


@inlined_kernel
def replay(code: Code, hardware: Hardware, state: State, core: Scalar, has_turn: Scalar) -> Scalar:
    """Run a core along its trace until it stops; return an error code, or NEEDS_TURN as `cores.interpret` does."""
    row, depth = state.core[core], queues.queue_depth(state)
    while row[st.CURSOR] < row[st.END]:
        cursor = natural(row[st.CURSOR])
        record = state.records[cursor]
        if record[st.R_UNIT] == _CORE:
            error, goes_on = _synchronize(code, hardware, state, core, has_turn)
            if error or not goes_on:
                return error
            continue
        unit = natural(record[st.R_UNIT])
        stream = core * _UNITS + unit
        if state.stream[stream, st.COUNT] == depth:
            row[st.STATUS], row[st.WAITING_FOR] = st.ON_QUEUE, stream
            return codes.OK
        arrival = row[st.TIME] + record[st.R_ISSUE]
        queues.enqueue(state, core, unit, cursor, arrival)
        row[st.TIME] = arrival + record[st.R_AFTER]
        row[st.CURSOR] = cursor + 1
    row[st.STATUS] = st.HALTED
    return codes.OK


@inlined_kernel
def resume(code: Code, hardware: Hardware, state: State, core: Scalar, now: Scalar) -> Scalar:
    """Let a core that waited for room in a queue go on at `now`; return an error code.

    A core that follows a trace goes on at once: what it does changes nothing before its time, unless both cores issue
    to a bank, which keeps the order of issue. For a barrier it needs its turn.
    """
    row = state.core[core]
    if row[st.END] == 0 or state.scratch[st.SHARES_BANKS]:
        queues.wake_core(state, core, now)
        return codes.OK
    row[st.STATUS] = st.RUNNING
    row[st.TIME] = max(row[st.TIME], now)
    error = replay(code, hardware, state, core, False)
    if error == codes.NEEDS_TURN:
        schedule_core(state, core, row[st.TIME])
        return codes.OK
    return error
