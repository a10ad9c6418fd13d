"""The sequencer: runs one launch event by event, in the order of simulated time.

Cores and streams are the actors. A core runs ahead in its own time and only ever adds commands that carry the time of
their issue; streams start commands when everything they need is known, so shared servers see requests in time order.
There is no tick: the next event is the next thing that can happen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

from numba import int64, typeof, types

from simulator import codes, cores, streams, warm_up
from simulator import state as st
from simulator.events import next_event, schedule
from simulator.hardware import Hardware
from simulator.jit import inner_kernel, kernel
from simulator.meaning.dispatch import execute
from simulator.meaning.tables import Tables, make_tables
from simulator.queues import drained_time
from simulator.state import Bytes, Chip, Code, Floats, Integers, Meaning, Memory, Scalar, State, Stats


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
) -> Scalar:
    """Run a launch on a state that was reset; return its duration in ticks, or -1 with the error in the state.

    `meaning` is `execute` of `simulator.meaning.dispatch`, called through a pointer so that it compiles on its own.
    """
    chip = Chip(code, hardware, state, stats, memories, tables, meaning)
    stream_count = state.stream.shape[0]
    for core in range(code.header[st.ROWS] * code.header[st.COLUMNS] * st.CORES):
        schedule(state, 0, stream_count + core)
    while state.scratch[st.HEAP_SIZE] > 0:
        now, actor = next_event(state)
        if actor >= stream_count:
            error = cores.step_core(code, hardware, state, stats, memories, actor - stream_count, functional)
        else:
            error = codes.OK
            while error == codes.OK:
                error = streams.look(chip, actor, now)
                if error == streams.READY:
                    error = streams.start(chip, actor, functional, now)
            error = max(error, codes.OK)
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

    def run(*arguments: Any) -> int:
        nonlocal launcher
        if launcher is None:  # one compilation serves all launches: their arrays have the same types
            launcher = _compiled((*(_type_of(argument) for argument in arguments), _pointer_type(), types.boolean))
            if helper is not None:
                helper.wait()
            compile_meaning(meaning)
        return int(launcher(*arguments, meaning, functional))

    return run


@functools.cache
def _compiled(signature: tuple[types.Type, ...]) -> Any:
    """Compile `run_launch` for a pointer to a meaning, and let calls choose only among what was compiled."""
    dispatcher: Any = run_launch
    dispatcher.disable_compile(False)
    dispatcher.compile(signature)
    dispatcher.disable_compile(True)
    return dispatcher
