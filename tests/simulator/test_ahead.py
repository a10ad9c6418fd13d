"""PEs that run ahead of each other give exactly the figures of a run in which every event is handled in its turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def _timed(program: Program, bindings: Mapping[str, int], ahead: bool) -> tuple[list[Timed], list[bool]]:
    """Return what all launches took, and for each simulation whether PEs ran ahead in it."""
    launcher = Launcher(program, program.machine, None, reuse=False, ahead=ahead)
    run, modes = launcher._run, []

    def recorded(*arguments: Any, ahead: bool) -> int:
        modes.append(ahead)
        return run(*arguments, ahead=ahead)

    launcher._run = recorded
    return [launcher.run(launch, bindings) for launch in program.entries[0].launches], modes


def _ran_ahead(program: Program, bindings: Mapping[str, int]) -> int:
    """Compare both ways; return how many launches ran ahead to their end."""
    (quick, modes), (slow, slow_modes) = (_timed(program, bindings, ahead) for ahead in (True, False))
    assert not any(slow_modes)
    for one, other in zip(quick, slow, strict=True):
        assert one.ticks == other.ticks
        for array, expected in zip(one.stats, other.stats, strict=True):
            np.testing.assert_array_equal(array, expected)
    return sum(modes) - (len(modes) - len(slow_modes))


@pytest.mark.parametrize("changes", QUEUES)
def test_random_kernels(changes: Mapping[str, Any]) -> None:
    """Broadcasts, barriers, semaphores and gathers; kernels with neighbour links go in turn."""
    machine = preset("mtia-2i").with_changes({"grid.rows": 2, "grid.columns": 3, **changes})
    ahead = 0
    for seed in range(40):
        job: Job = RandomKernel(seed, machine).job(stages=2 + seed % 9)
        ahead += _ran_ahead(job.program(zeros(1 << 20, 1 << 24)), {})
    assert ahead > 5


@pytest.mark.parametrize("changes", MACHINES)
def test_prefill_on_many_machines(changes: Mapping[str, Any]) -> None:
    """Streams of weights in broadcasts along rows and columns, merged launches with barriers, attention."""
    machine = preset("mtia-2i").with_changes(changes)
    program = compile_model(
        models.build("llama-tiny-wide", 0, "float32"), machine, dims={"batch": 2, "sequence": 70, "past": 0}
    )
    assert _ran_ahead(program, {}) > 2


@pytest.mark.parametrize(("sequence", "past", "whole_grid"), [(1, 200, True), (33, 20, False)])
def test_decode(sequence: int, past: int, whole_grid: bool) -> None:
    """Caches of open length, and reductions over neighbours, which are handled in turn."""
    assert _ran_ahead(llama("llama-tiny-wide", sequence, 256, whole_grid), {"past": past}) > 0
