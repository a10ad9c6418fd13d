"""The sequencer and the plain interpreter leave the same bytes in shared memory, for random kernels and real ones."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from isa.assembly import print_kernel
from isa.machine import Machine, preset
from isa.table import INSTRUCTIONS
from simulator import Simulator
from tests.simulator.kernels import Job, Traffic, poison_local_memories, run_program_naively
from tests.simulator.llamas import inputs_for, llama
from tests.simulator.random_kernels import RESULTS, RandomKernel, source_images

SEEDS = range(110)


@cache
def machine() -> Machine:
    """Return a small chip with short queues, so that cores stall too."""
    return preset("mtia-2i").with_changes(
        {"grid.rows": 2, "grid.columns": 3, "pe.command_queue_depth": 3, "dma.outstanding": 2}
    )


@cache
def job(seed: int) -> Job:
    return RandomKernel(seed, machine()).job(stages=2 + seed % 9)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_kernels(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same bytes from both, in any order of actors, under any delays, and whatever local memory held before."""
    before = source_images(seed)
    after, report = job(seed).run(before)
    for order in (None, seed):
        naive, traffic = job(seed).run_naively(before, order)
        assert naive.equals(after)
        assert traffic.commands == Counter(report.commands_by_name)
    for delay in (7, 900):
        assert job(seed).run(before, jitter_cycles=delay, jitter_seed=seed)[0].equals(after)
    poison_local_memories(monkeypatch)
    assert job(seed).run(before)[0].equals(after)


def test_random_kernels_use_every_command() -> None:
    """Every command of the table, broadcast, spread and direction is drawn in a loop that runs, and leaves results."""
    used: Counter[str] = Counter()
    words: set[str] = set()
    for seed in SEEDS:
        kernel = job(seed).kernel
        after, traffic = job(seed).run_naively(source_images(seed))
        used.update(traffic.commands)
        assert bool(traffic.commands) == bool(after.sram[RESULTS:].any() or after.dram[RESULTS:].any())
        if traffic.commands:
            words.update(re.findall(r"\w+", print_kernel(kernel)))
    commands = [row for row in INSTRUCTIONS if row.is_command]
    assert {row.name for row in commands} == set(used)
    assert {word for row in commands for operand in row.operands for word in operand.choices} <= words
    assert {"lw", "signal", "wait", "barrier", "fence", "loop"} <= words


@pytest.mark.parametrize(("sequence", "past"), [(5, 0), (3, 290), (1, 37), (1, 299)])
def test_a_whole_model(sequence: int, past: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefill and decode: same bits, commands and bytes by launch, and nothing is read before it is written."""
    program = llama("llama-tiny-odd", sequence, 300)
    inputs = inputs_for(program, past)
    # The twin has no cache: it counts what the launches ask of DRAM.
    result = Simulator(program, program.machine.with_changes({"sram.cache_step_bytes": 0})).run(inputs)
    outputs, traffic = run_program_naively(program, inputs, {"past": past}, seed=None if past else 3)
    poison_local_memories(monkeypatch)
    poisoned = Simulator(program).run(inputs, jitter_cycles=500, jitter_seed=1).outputs
    for name, array in result.outputs.items():
        np.testing.assert_array_equal(array, outputs[name])
        np.testing.assert_array_equal(array, poisoned[name])
    assert np.isfinite(result.outputs["logits"]).all() and result.outputs["logits"].any()
    total = Traffic()
    parts = [launch.part(part) for launch, one in zip(traffic, program.entries[0].launches, strict=True)
             for part in range(len(one.parts))]  # fmt: skip
    assert len(parts) > 2 * len(traffic), "several operations in a launch"
    for counted, operation in zip(parts, result.report.operations, strict=True):
        assert operation.dram_bytes == counted.bytes["dram read"] + counted.bytes["dram written"]
        assert operation.sram_bytes == counted.bytes["sram read"] + counted.bytes["sram written"]
        assert operation.commands == counted.commands.total()
        total.add(counted)
    assert total.bytes["dram read"] == result.report.dram_read_bytes
    assert total.bytes["dram written"] == result.report.dram_written_bytes
    assert total.commands == Counter(result.report.commands_by_name)
