"""PEs that run ahead of each other, on traces or not, give exactly the figures of a run that takes events in turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

import models
from compiler import compile_model
from isa.machine import preset
from isa.program import Program
from simulator.launcher import Launcher, Timed
from tests.simulator.kernels import Job, zeros
from tests.simulator.llamas import llama
from tests.simulator.random_kernels import RandomKernel

QUEUES = [{"pe.command_queue_depth": 3, "dma.outstanding": 2}, {"noc.topology": "mesh", "sram.bytes_per_cycle": 50.0}]
MACHINES: list[Mapping[str, Any]] = [
    {"grid.rows": 3, "grid.columns": 5, "pe.command_queue_depth": 2, "dma.outstanding": 1},
    {"grid.rows": 8, "grid.columns": 8, "dram.bytes_per_second": 2e12, "noc.topology": "mesh"},
    {"grid.rows": 4, "grid.columns": 7, "pe.local_memory_bytes": 128 << 10, "sram.bytes": 64 << 20},
    {"grid.rows": 5, "grid.columns": 3, "dma.indexed": False, "dma.broadcast_reads": False},
]


class Way(NamedTuple):
    """How a launch is simulated."""

    ahead: bool
    traced: bool


def _timed(program: Program, bindings: Mapping[str, int], **options: bool) -> tuple[list[Timed], list[Way]]:
    """Return what all launches took, and how each was simulated in the end."""
    launcher = Launcher(program, program.machine, None, reuse=False, **options)
    run, last, ways = launcher._run, Way(False, False), []

    def recorded(*arguments: Any, ahead: bool, traced: bool) -> int:
        nonlocal last
        last = Way(ahead, traced)
        return run(*arguments, ahead=ahead, traced=traced)

    launcher._run = recorded
    timed = []
    for launch in program.entries[0].launches:
        timed.append(launcher.run(launch, bindings))
        ways.append(last)
    return timed, ways


def _compared(program: Program, bindings: Mapping[str, int]) -> list[Way]:
    """Compare all ways; return how each launch was simulated in the quickest one."""
    quick, ways = _timed(program, bindings)
    untraced, untraced_ways = _timed(program, bindings, traced=False)
    slow, slow_ways = _timed(program, bindings, ahead=False)
    assert not any(way.traced for way in untraced_ways) and not any(way.traced or way.ahead for way in slow_ways)
    for one, other, third in zip(quick, untraced, slow, strict=True):
        assert one.ticks == other.ticks == third.ticks
        for array, expected, same in zip(one.stats, other.stats, third.stats, strict=True):
            np.testing.assert_array_equal(array, expected)
            np.testing.assert_array_equal(same, expected)
    return ways


@pytest.mark.parametrize("changes", QUEUES)
def test_random_kernels(changes: Mapping[str, Any]) -> None:
    """Broadcasts, barriers, semaphores and gathers; kernels with neighbour links go in turn."""
    machine = preset("mtia-2i").with_changes({"grid.rows": 2, "grid.columns": 3, **changes})
    ways: list[Way] = []
    for seed in range(40):
        job: Job = RandomKernel(seed, machine).job(stages=2 + seed % 9)
        ways += _compared(job.program(zeros(1 << 20, 1 << 24)), {})
    assert sum(way.ahead for way in ways) > 5 and sum(way.traced for way in ways) > 2


@pytest.mark.parametrize("changes", MACHINES)
def test_prefill_on_many_machines(changes: Mapping[str, Any]) -> None:
    """Streams of weights in broadcasts along rows and columns, merged launches with barriers, attention.

    Cores that read indices are not traced: on the last machine that of the embedding, which has a launch of its own.
    """
    machine = preset("mtia-2i").with_changes(changes)
    program = compile_model(
        models.build("llama-tiny-wide", 0, "float32"), machine, dims={"batch": 2, "sequence": 70, "past": 0},
        separate_launches=not machine.dma.indexed,
    )  # fmt: skip
    ways = _compared(program, {})
    assert all(way.ahead for way in ways)
    assert sum(not way.traced for way in ways) == (not machine.dma.indexed)


@pytest.mark.parametrize(("sequence", "past", "whole_grid", "traced"), [(1, 200, True, False), (33, 20, False, True)])
def test_decode(sequence: int, past: int, whole_grid: bool, traced: bool) -> None:
    """Caches of open length, and reductions over neighbours, which are handled in turn."""
    ways = _compared(llama("llama-tiny-wide", sequence, 256, whole_grid), {"past": past})
    assert all(way.traced for way in ways) == traced
