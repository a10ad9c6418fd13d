"""How far a PE may run ahead of the others: it only ever meets them at shared memory, in broadcasts and at barriers.

What a PE does by itself changes nothing for others, so it need not be done in turn. A request to shared memory and an
arrival at a broadcast or barrier are done in turn. Others change something in a PE only by completing a broadcast, or
letting a barrier go, that it waits for; that cannot be before the last of those that are missing has come. A PE that
does not wait comes no sooner than with its next event, one that waits no sooner than the present event, or than those
that it waits for in turn have come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isa import columns as col
from isa.table import Unit
from simulator import queues, starting
from simulator import state as st
from simulator.events import is_before, posted
from simulator.jit import inner_kernel
from simulator.state import Code, Scalar, State

_FI = int(Unit.FI)
_STREAMS_PER_PE = st.UNITS * st.CORES
_IN_BROADCAST, _AT_BARRIER = 1, 4
_DEPTH = 2
"""How many PEs, each waiting for the next one, are looked at to bound when a broadcast can start."""
Bound = Callable[..., Any]


@inner_kernel
def _meeting_of(code: Code, state: State, pe: Scalar, core: Scalar, kind: Scalar) -> Scalar:
    """Return the broadcast (its mode) or barrier that a core, or its transfers, waits for; 0 for none."""
    if kind == _AT_BARRIER:
        return _AT_BARRIER if state.core[pe * st.CORES + core, st.STATUS] == st.ON_BARRIER else 0
    stream = pe * _STREAMS_PER_PE + core * st.UNITS + _FI
    if state.stream[stream, st.STREAM_STATUS] != st.ON_GROUP:
        return 0
    (entry,) = queues.queue_entry(state, stream, state.stream[stream, st.HEAD])
    return code.instructions[core, entry[st.Q_PC], col.MODE]


@inner_kernel
def _present(code: Code, state: State, pe: Scalar, time: Scalar) -> tuple[Scalar, Scalar]:
    """Return a bound of what a PE does next that holds whatever it waits for; `time` is that of the present event."""
    for core in range(st.CORES):
        for kind in (_IN_BROADCAST, _AT_BARRIER):
            if _meeting_of(code, state, pe, core, kind) != 0:
                return time, -1
    return posted(state, pe)


def _limit_by(bound: Bound) -> Bound:
    """Make a kernel that bounds when others may change something in a PE, from a bound of what each of them does."""

    @inner_kernel
    def last_to_come(
        code: Code, state: State, pe: Scalar, core: Scalar, kind: Scalar, time: Scalar
    ) -> tuple[Scalar, Scalar]:
        """Return a bound of when all have come to what a core waits for, NEVER if it does not wait."""
        meeting = _meeting_of(code, state, pe, core, kind)
        if meeting == 0:
            return st.NEVER, 0
        _, member, step, count = starting.group_of(code, pe, starting.TO_ALL if kind == _AT_BARRIER else meeting)
        last, last_id = time, -1
        for _ in range(count):
            if _meeting_of(code, state, member, core, kind) != meeting:
                other, other_id = bound(code, state, member, time)
                if is_before(last, last_id, other, other_id):
                    last, last_id = other, other_id
            member += step
        return last, last_id

    @inner_kernel
    def limit(code: Code, state: State, pe: Scalar, time: Scalar) -> tuple[Scalar, Scalar]:
        first, first_id = st.NEVER, 0
        for core in range(st.CORES):
            for kind in (_IN_BROADCAST, _AT_BARRIER):
                last, last_id = last_to_come(code, state, pe, core, kind, time)
                if is_before(last, last_id, first, first_id):
                    first, first_id = last, last_id
        return first, first_id

    return limit


def _bound_by(limit: Bound) -> Bound:
    """Make a kernel that bounds what a PE does next: its next event, or what others change in it."""

    @inner_kernel
    def bound(code: Code, state: State, pe: Scalar, time: Scalar) -> tuple[Scalar, Scalar]:
        own, own_id = posted(state, pe)
        changed, changed_id = limit(code, state, pe, time)
        if is_before(changed, changed_id, own, own_id):
            return changed, changed_id
        return own, own_id

    return bound


def _limit_of_depth(depth: int) -> Bound:
    return _limit_by(_present if depth == 1 else _bound_by(_limit_of_depth(depth - 1)))


limit: Bound = _limit_of_depth(_DEPTH)
"""Return (time, id) before which nobody else changes anything in a PE, NEVER if it waits for nobody."""
