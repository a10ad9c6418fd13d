"""Whose turn it is: the actors of a PE stand in its agenda, and a tournament finds the PE that comes first.

Actors are streams, then cores; each has at most one event at a time. Events are in the order of (time, id), where ids
count all streams and then all cores, so that a run is the same in every process. `turns` is the tournament: a tree of
(time, id) whose leaves are the first events of the PEs, and whose root is the first of all.
"""

from __future__ import annotations

from simulator.jit import inlined_kernel, inner_kernel
from simulator.state import AGENDA_CLOCK, CORES, CURRENT_PE, IS_EARLY, NEVER, UNITS, Integers, Scalar, State

_STREAMS = UNITS * CORES
_ACTORS = _STREAMS + CORES


@inlined_kernel
def natural(number: Scalar) -> Scalar:
    """Return a number that is not negative, so that the compiler knows: indexing and dividing by it takes less."""
    return number & NEVER


@inlined_kernel
def is_before(time: Scalar, identity: Scalar, other_time: Scalar, other_identity: Scalar) -> Scalar:
    """Tell whether an event comes before another one."""
    return time < other_time or (time == other_time and identity < other_identity)


@inlined_kernel
def identity_of(state: State, pe: Scalar, actor: Scalar) -> Scalar:
    """Return the id of an actor of a PE."""
    if actor < _STREAMS:
        return pe * _STREAMS + actor
    return state.stream.shape[0] + pe * CORES + actor - _STREAMS


@inlined_kernel
def pe_of(state: State, identity: Scalar) -> Scalar:
    """Return the PE that an actor belongs to."""
    streams = state.stream.shape[0]
    return identity // _STREAMS if identity < streams else (identity - streams) // CORES


@inlined_kernel
def first_actor(state: State, pe: Scalar) -> tuple[Scalar, Scalar]:
    """Return (time, actor) of the first event of a PE, (NEVER, 0) without one."""
    agenda, first, time = state.agenda[pe], 0, NEVER
    for actor in range(_ACTORS):
        if agenda[actor] < time:
            first, time = actor, agenda[actor]
    return time, first


@inner_kernel
def _enter(turns: Integers, pe: Scalar, time: Scalar, identity: Scalar) -> None:
    node = (turns.shape[0] >> 1) + pe
    turns[node, 0], turns[node, 1] = time, identity
    while node > 1:
        other = node ^ 1
        if is_before(turns[other, 0], turns[other, 1], time, identity):
            time, identity = turns[other, 0], turns[other, 1]
        node >>= 1
        if turns[node, 0] == time and turns[node, 1] == identity:
            break
        turns[node, 0], turns[node, 1] = time, identity


@inlined_kernel
def post(state: State, pe: Scalar, time: Scalar, identity: Scalar) -> None:
    """Enter what a PE does next into the tournament."""
    _enter(state.turns, pe, time, identity)


@inlined_kernel
def posted(state: State, pe: Scalar) -> tuple[Scalar, Scalar]:
    """Return (time, id) of what a PE does next."""
    node = (state.turns.shape[0] >> 1) + pe
    return state.turns[node, 0], state.turns[node, 1]


@inlined_kernel
def schedule(state: State, pe: Scalar, actor: Scalar, time: Scalar) -> None:
    """Add an event of an actor of a PE; each has at most one at a time."""
    agenda = state.agenda[pe]
    agenda[actor] = time
    if time < agenda[AGENDA_CLOCK]:
        state.scratch[IS_EARLY] = 1
    if pe != state.scratch[CURRENT_PE]:
        identity, (other_time, other) = identity_of(state, pe, actor), posted(state, pe)
        if is_before(time, identity, other_time, other):
            post(state, pe, time, identity)


@inlined_kernel
def schedule_core(state: State, core: Scalar, time: Scalar) -> None:
    """Add an event of a core."""
    schedule(state, core // CORES, _STREAMS + core % CORES, time)
