"""How far a PE may run ahead of the others: it only ever meets them at shared memory, in broadcasts and at barriers.

What a PE does by itself changes nothing for others, so it need not be done in turn. A request to shared memory, an
arrival at a barrier, and the start of a broadcast by the last PE that comes to it are done in turn. Others change
something in a PE only by starting a broadcast, or letting a barrier go, that it waits for; that cannot be before the
last of those that have come, nor before the last of those that are missing comes. A PE that does not wait comes no
sooner than with its next event, one that waits no sooner than the present event, or than those that it waits for in
turn have come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulator import starting
from simulator import state as st
from simulator.events import is_before, posted
from simulator.jit import inlined_kernel, inner_kernel
from simulator.state import Code, Scalar, State

_DEPTH = 2
"""How many PEs, each waiting for the next one, are looked at to bound when a broadcast can start."""
Bound = Callable[..., Any]


@inlined_kernel
def _waits_for_nobody(state: State, pe: Scalar) -> Scalar:
    places = state.meetings[pe]
    return places[0] | places[1] | places[2] | places[3] == 0


@inner_kernel
def _present(code: Code, state: State, pe: Scalar, time: Scalar) -> tuple[Scalar, Scalar]:
    """Return a bound of what a PE does next that holds whatever it waits for; `time` is that of the present event."""
    if _waits_for_nobody(state, pe):
        return posted(state, pe)
    return time, -1


def _limit_by(bound: Bound) -> Bound:
    """Make a kernel that bounds when others may change something in a PE, from a bound of what each of them does."""

    @inner_kernel
    def last_to_come(
        code: Code, state: State, pe: Scalar, place: Scalar, meeting: Scalar, time: Scalar
    ) -> tuple[Scalar, Scalar]:
        """Return a bound of when all have come to what a core waits for, in a place of `State.meetings`."""
        is_barrier = meeting == st.BARRIER_OF_ALL
        index, member, step, count = starting.group_of(code, pe, starting.TO_ALL if is_barrier else meeting)
        last, last_id = time, -1
        if not is_barrier:
            group = state.group[place // 2, index]
            if is_before(last, last_id, group[st.G_TIME], group[st.G_ID]):
                last, last_id = group[st.G_TIME], group[st.G_ID]
        for _ in range(count):
            if state.meetings[member, place] != meeting:
                other, other_id = bound(code, state, member, time)
                if is_before(last, last_id, other, other_id):
                    last, last_id = other, other_id
            member += step
        return last, last_id

    @inner_kernel
    def limit(code: Code, state: State, pe: Scalar, time: Scalar) -> tuple[Scalar, Scalar]:
        first, first_id = st.NEVER, 0
        if _waits_for_nobody(state, pe):
            return first, first_id
        for place in range(state.meetings.shape[1]):
            meeting = state.meetings[pe, place]
            if meeting != 0:
                last, last_id = last_to_come(code, state, pe, place, meeting, time)
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
