"""Cores that follow a trace: all that is left to find is when queues have room and others have come."""

from __future__ import annotations

from isa import columns as col
from isa.table import Unit
from simulator import codes, queues, records
from simulator import state as st
from simulator.events import natural, schedule_core
from simulator.hardware import Hardware
from simulator.jit import inlined_kernel, inner_kernel
from simulator.state import Code, Scalar, State
from simulator.synchronizing import NEXT, synchronize

_CORE, _UNITS = int(Unit.CORE), st.UNITS


@inner_kernel
def _synchronize(
    code: Code, hardware: Hardware, state: State, core: Scalar, has_turn: Scalar, at_once: Scalar
) -> tuple[Scalar, Scalar]:
    """Run what a core itself does or waits for at its cursor; return (error or NEEDS_TURN, whether it goes on)."""
    row = state.core[core]
    record = state.records[row[st.CURSOR]]
    fields = code.instructions[core % st.CORES, record[st.R_PC]]
    row[st.AFTER] = record[st.R_AFTER]
    opcode = fields[col.OPCODE]
    if opcode in (records.LOAD_WORD, records.POP):
        if at_once:
            return codes.NEEDS_TURN, False
        error, action = codes.OK, NEXT
        if opcode == records.POP:
            action = records.pop_at_once(code, state, core, fields)
        else:
            action = records.await_word(code, state, core, record[st.R_OPERANDS], record[st.R_OPERANDS + 1])
        finished = action == NEXT
    else:
        error, action, finished = synchronize(code, hardware, state, core, opcode, fields, has_turn)
    if not error and finished:
        row[st.TIME] += record[st.R_AFTER]
        row[st.CURSOR] += 1
    return error, action == NEXT


@inlined_kernel
def replay(code: Code, hardware: Hardware, state: State, core: Scalar, has_turn: Scalar, at_once: Scalar) -> Scalar:
    """Run a core along its trace until it stops; return an error code, or NEEDS_TURN as `cores.interpret` does.

    With `at_once` NEEDS_TURN also comes before the core itself moves a pointer: others see that at its time.
    """
    row, depth = state.core[core], queues.queue_depth(state)
    while row[st.CURSOR] < row[st.END]:
        cursor = natural(row[st.CURSOR])
        record = state.records[cursor]
        if record[st.R_UNIT] == _CORE:
            error, goes_on = _synchronize(code, hardware, state, core, has_turn, at_once)
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

    A core that follows a trace goes on at once: commands change nothing before their time, unless both cores issue to
    a bank, which keeps the order of issue. For anything else it waits for the event of its own.
    """
    row = state.core[core]
    if row[st.END] == 0 or state.scratch[st.SHARES_BANKS]:
        queues.wake_core(state, core, now)
        return codes.OK
    row[st.STATUS] = st.RUNNING
    time = max(row[st.TIME], now)
    row[st.TIME] = time
    error = replay(code, hardware, state, core, False, True)
    if error == codes.NEEDS_TURN:
        schedule_core(state, core, time)
        return codes.OK
    return error
