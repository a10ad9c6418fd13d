"""Instructions by which cores wait for each other, and for the commands that they issued."""

from __future__ import annotations

from isa import columns as col
from isa.table import BY_NAME
from simulator import codes, queues
from simulator import hardware as hw
from simulator import state as st
from simulator.hardware import Hardware
from simulator.jit import inner_kernel
from simulator.state import Code, Integers, Scalar, State

SIGNAL, FENCE = BY_NAME["signal"].opcode, BY_NAME["fence"].opcode
_WAIT, _BARRIER = BY_NAME["wait"].opcode, BY_NAME["barrier"].opcode
NEXT, STOP = -1, -2
"""What a core does after an instruction."""


@inner_kernel
def _meet(code: Code, hardware: Hardware, state: State, core: Scalar) -> None:
    """Arrive at the barrier of this core's number; the last one lets all go on."""
    number = core % st.CORES
    barrier = state.group[number, state.group.shape[1] - 1]
    barrier[0] += 1
    barrier[1] = max(barrier[1], state.core[core, st.TIME])
    state.core[core, st.STATUS] = st.ON_BARRIER
    state.meetings[core // st.CORES, 2 * number + st.AT_BARRIER] = st.BARRIER_OF_ALL
    members = code.header[st.ROWS] * code.header[st.COLUMNS]
    if barrier[0] < members:
        return
    time = barrier[1] + hardware.numbers[hw.BARRIER_TICKS]
    barrier[0], barrier[1] = 0, 0
    for pe in range(members):
        other = pe * st.CORES + number
        state.meetings[pe, 2 * number + st.AT_BARRIER] = 0
        if state.core[other, st.STATUS] == st.ON_BARRIER:
            # What follows this core's own arrival is counted when that is finished; for the others it has been.
            counted = 0 if other == core else state.core[other, st.AFTER]
            queues.wake_core(state, other, time + counted)


@inner_kernel
def synchronize(
    code: Code, hardware: Hardware, state: State, core: Scalar, opcode: Scalar, fields: Integers, has_turn: Scalar
) -> tuple[Scalar, Scalar, Scalar]:
    """Run signal, wait, barrier or fence; return (error or NEEDS_TURN, NEXT or STOP, whether it is finished)."""
    pe, number = core // st.CORES, fields[col.IMMEDIATE]
    if opcode in (_WAIT, SIGNAL):
        state.scratch[st.ERROR_DETAIL] = number
        if number < 0 or number >= st.SEMAPHORES:
            return codes.BAD_SEMAPHORE, STOP, False
    if opcode == _WAIT:
        semaphore = state.semaphore[pe, number]
        if semaphore[st.SIGNALLED] == semaphore[st.TAKEN]:
            state.core[core, st.STATUS] = st.ON_SEMAPHORE
            state.core[core, st.WAITING_FOR] = number
            return codes.OK, STOP, False
        posted = semaphore[st.SIGNAL_TIME + semaphore[st.TAKEN] % st.PENDING_SIGNALS]
        semaphore[st.TAKEN] += 1
        state.core[core, st.TIME] = max(state.core[core, st.TIME], posted)
        return codes.OK, NEXT, True
    time = queues.drained_time(state, core)
    if time < 0:
        state.core[core, st.STATUS] = st.ON_FENCE
        return codes.OK, STOP, False
    state.core[core, st.TIME] = max(state.core[core, st.TIME], time)
    if opcode == _BARRIER:
        if not has_turn:
            return codes.NEEDS_TURN, STOP, False
        _meet(code, hardware, state, core)
        return codes.OK, STOP, True
    if opcode == SIGNAL:
        semaphore = state.semaphore[pe, number]
        if semaphore[st.SIGNALLED] - semaphore[st.TAKEN] >= st.PENDING_SIGNALS:
            return codes.SEMAPHORE_FULL, STOP, False
        semaphore[st.SIGNAL_TIME + semaphore[st.SIGNALLED] % st.PENDING_SIGNALS] = state.core[core, st.TIME]
        semaphore[st.SIGNALLED] += 1
        other = core ^ 1
        for waiting in (core, other):
            if state.core[waiting, st.STATUS] == st.ON_SEMAPHORE and state.core[waiting, st.WAITING_FOR] == number:
                queues.wake_core(state, waiting, state.core[core, st.TIME])
    return codes.OK, NEXT, True
