"""The sequencer: runs one launch event by event, in the order of simulated time.

Cores and streams are the actors. A core runs ahead in its own time and only ever adds commands that carry the time of
their issue; streams start commands when everything they need is known, so shared servers see requests in time order.
There is no tick: the next event is the next thing that can happen. What concerns one PE alone may be done out of turn,
see `ahead`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

from numba import int64, typeof, types

from isa.table import Unit
from simulator import ahead as run_ahead
from simulator import codes, cores, streams, warm_up
from simulator import state as st
from simulator.events import first_actor, identity_of, is_before, natural, pe_of, post, posted, schedule_core
from simulator.hardware import Hardware
from simulator.jit import inlined_kernel, inner_kernel, kernel
from simulator.meaning.dispatch import execute
from simulator.meaning.tables import Tables, make_tables
from simulator.queues import drained_time, is_awaited
from simulator.replaying import replay, resume
from simulator.state import Bytes, Chip, Code, Floats, Integers, Meaning, Memory, Scalar, State, Stats
from simulator.tracing import trace

_FI, _STREAMS_PER_PE = int(Unit.FI), st.UNITS * st.CORES


@inner_kernel
def _blame(state: State, actor: Scalar) -> None:
    """Note which PE and core an error belongs to."""
    stream_count = state.stream.shape[0]
    core = actor - stream_count if actor >= stream_count else actor // st.UNITS
    state.scratch[st.ERROR_PE] = core // st.CORES
    state.scratch[st.ERROR_CORE] = core % st.CORES


@inner_kernel
def _end_time(code: Code, state: State) -> Scalar:
    """Return when all commands, cores and fills of the cache have ended, or -1 if someone still waits."""
    time = 0
    for bank in range(state.servers.shape[1]):
        time = max(time, state.servers[st.SRAM_BANKS, bank])
    for core in range(code.header[st.ROWS] * code.header[st.COLUMNS] * st.CORES):
        drained = drained_time(state, core)
        if state.core[core, st.STATUS] != st.HALTED or drained < 0:
            return -1
        time = max(time, state.core[core, st.TIME], drained)
    return time


@inlined_kernel
def _next_step(state: State, pe: Scalar) -> tuple[Scalar, Scalar]:
    """Take what a PE does next off its agenda; return (time, actor)."""
    agenda = state.agenda[pe]
    if agenda[st.AGENDA_WAITING] > 0:
        actor = agenda[st.AGENDA_WAITING] - 1
        agenda[st.AGENDA_WAITING] = 0
        return agenda[st.AGENDA_CLOCK], actor
    time, actor = first_actor(state, pe)
    agenda[actor] = st.NEVER
    return time, actor


@inlined_kernel
def _place_of(state: State, pe: Scalar, time: Scalar, actor: Scalar) -> tuple[Scalar, Scalar]:
    """Return (time, id) of an event among those of all PEs: it is not before the one that made it, whatever its id."""
    agenda, identity = state.agenda[pe], identity_of(state, pe, actor)
    if time == agenda[st.AGENDA_CLOCK]:
        identity = max(identity, agenda[st.AGENDA_ID])
    return time, identity


@inner_kernel
def _step_core(chip: Chip, core: Scalar, functional: Scalar, has_turn: Scalar) -> Scalar:
    """Run a core until it stops; return an error code, or NEEDS_TURN."""
    code, hardware, state = chip.code, chip.hardware, chip.state
    if state.core[core, st.END] > 0:
        return replay(code, hardware, state, core, has_turn, False)
    return cores.interpret(code, hardware, state, chip.stats, chip.memories, core, functional, has_turn)


@inlined_kernel
def _step(
    chip: Chip, pe: Scalar, actor: Scalar, now: Scalar, identity: Scalar, functional: Scalar, has_turn: Scalar
) -> Scalar:
    """Let an actor do what it can at time `now`; return an error code, or NEEDS_TURN before it meets other PEs."""
    state = chip.state
    if actor >= _STREAMS_PER_PE:
        return _step_core(chip, pe * st.CORES + actor - _STREAMS_PER_PE, functional, has_turn)
    core, stream = pe * st.CORES + actor // st.UNITS, pe * _STREAMS_PER_PE + actor
    outcome = codes.OK
    while outcome == codes.OK:
        if is_awaited(state, core, stream):
            outcome = resume(chip.code, chip.hardware, state, core, now)
            if outcome != codes.OK:
                return outcome
        outcome = streams.look(chip, pe, actor, now)
        if outcome == streams.READY:
            outcome = streams.start(chip, pe, actor, functional, now, identity, has_turn)
    return codes.OK if outcome == streams.WAITING else outcome


@inlined_kernel
def _enter_turn(state: State, time: Scalar, identity: Scalar) -> None:
    """Note the place of the present event, which is not before the one that made it, whatever its time and id."""
    scratch = state.scratch
    if is_before(scratch[st.PRESENT_TIME], scratch[st.PRESENT_ID], time, identity):
        scratch[st.PRESENT_TIME], scratch[st.PRESENT_ID] = time, identity


@inlined_kernel
def _take_turn(chip: Chip, pe: Scalar, functional: Scalar, ahead: Scalar) -> Scalar:
    """Handle the first event of a PE, and if `ahead` is set those that concern no other PE; return an error code."""
    state, agenda = chip.state, chip.state.agenda[pe]
    state.scratch[st.CURRENT_PE] = pe
    now, identity = posted(state, pe)
    _enter_turn(state, now, identity)
    limit, limit_id, has_turn = now, -1, True
    time, actor = _next_step(state, pe)
    while True:
        if ahead:
            agenda[st.AGENDA_CLOCK], agenda[st.AGENDA_ID] = time, identity
        error = _step(chip, pe, natural(actor), time, identity, functional, has_turn)
        if error == codes.NEEDS_TURN:
            agenda[st.AGENDA_WAITING] = actor + 1
            post(state, pe, time, identity)
            return codes.OK
        if error:
            return error
        if ahead and (has_turn or actor % st.UNITS == _FI):  # it may have come to a meeting
            limit, limit_id = run_ahead.limit(chip.code, state, pe, now)
        has_turn = False
        time, actor = first_actor(state, pe)
        time, identity = _place_of(state, pe, time, actor)
        if not ahead or time == st.NEVER or not is_before(time, identity, limit, limit_id):
            post(state, pe, time, identity)
            return codes.OUT_OF_ORDER if state.scratch[st.IS_EARLY] else codes.OK
        agenda[actor] = st.NEVER


@kernel
def run_launch(
    code: Code,
    hardware: Hardware,
    state: State,
    stats: Stats,
    memories: Memory,
    tables: Tables,
    meaning: Meaning,
    functional: Scalar,
    ahead: Scalar,
    traced: Scalar,
) -> Scalar:
    """Run a launch on a state that was reset; return its duration in ticks, or -1 with the error in the state.

    `meaning` is `execute` of `simulator.meaning.dispatch`, called through a pointer so that it compiles on its own.
    With `ahead` PEs run ahead of each other where that changes nothing (see `ahead`), with `traced` cores follow traces
    (see `tracing`). Then an error means that the launch must be run again without it.
    """
    chip = Chip(code, hardware, state, stats, memories, tables, meaning)
    if traced and trace(code, hardware, state, stats) != codes.OK:
        return -1
    for core in range(code.header[st.ROWS] * code.header[st.COLUMNS] * st.CORES):
        schedule_core(state, core, 0)
    while state.turns[1, 0] != st.NEVER:
        actor = state.turns[1, 1]
        error = _take_turn(chip, natural(pe_of(state, actor)), functional, ahead)
        if error:
            _blame(state, actor)
            state.scratch[st.ERROR_CODE] = error
            return -1
    end = _end_time(code, state)
    if end < 0:
        state.scratch[st.ERROR_CODE] = codes.DEADLOCK
    return end


@kernel
def do_nothing(
    fields: Integers,
    values: Integers,
    out_address: Scalar,
    a_address: Scalar,
    b_address: Scalar,
    local: Bytes,
    sram: Bytes,
    dram: Bytes,
    banks: Floats,
    link: Floats,
    tables: Tables,
) -> Scalar:
    """Stand in for `execute` when a launch is only timed."""
    return codes.OK


@functools.cache
def _pointer_type() -> types.FunctionType:
    """The type of a meaning; the same for all machines, whose numbers are array data."""
    row, memory = types.Array(int64, 1, "C"), types.Array(types.uint8, 1, "C")
    banks, link = types.Array(types.float32, 3, "C"), types.Array(types.float32, 2, "C")
    tables = _type_of(make_tables(block_k_bytes=1, bank_rows=1, bank_columns=1, local_bytes=1))
    return types.FunctionType(int64(row, row, int64, int64, int64, memory, memory, memory, banks, link, tables))


def _type_of(value: Any) -> types.Type:
    return cast(types.Type, typeof(value))  # type: ignore[no-untyped-call]


def compile_meaning(meaning: Any = execute) -> None:
    """Compile a meaning for calls through a pointer."""
    meaning.compile(_pointer_type().signature.args)


def compiled_for(functional: bool) -> Callable[..., int]:
    """Return `run_launch` bound to executing or only timing; the meaning of commands compiles only if it is needed."""
    meaning: Any = execute if functional else do_nothing
    helper = warm_up.start() if functional else None

    launcher: Any = None

    def run(*arguments: Any, ahead: bool, traced: bool) -> int:
        nonlocal launcher
        if launcher is None:  # one compilation serves all launches: their arrays have the same types
            launcher = _compiled(
                (*(_type_of(argument) for argument in arguments), _pointer_type(), *(types.boolean,) * 3)
            )
            if helper is not None:
                helper.wait()
            compile_meaning(meaning)
        return int(launcher(*arguments, meaning, functional, ahead, traced))

    return run


@functools.cache
def _compiled(signature: tuple[types.Type, ...]) -> Any:
    """Compile `run_launch` for a pointer to a meaning, and let calls choose only among what was compiled."""
    dispatcher: Any = run_launch
    dispatcher.disable_compile(False)
    dispatcher.compile(signature)
    dispatcher.disable_compile(True)
    return dispatcher
