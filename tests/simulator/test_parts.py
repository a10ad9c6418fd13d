"""Parts of a launch, the operations merged into it: they share out its time and all that is counted in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hypothesis

from isa.errors import SimulationError
from isa.kernel import KernelPart
from isa.machine import Machine, preset
from isa.memory_map import DRAM_BASE
from simulator import Simulator
from simulator import state as st
from simulator.launcher import Launcher, Timed
from simulator.report import OperationReport, command_counts
from tests.simulator.kernels import Job, zeros
from tests.simulator.llamas import llama
from tests.simulator.random_kernels import RandomKernel, source_images
from tests.simulator.test_timing import job

NOT_BOOKED = (st.WORDS_ASSUMED, st.ROWS_DRAWN)
"""Counters of launches only."""


def _machine() -> Machine:
    """Return a chip without a cache, of which the plain interpreter knows nothing."""
    return preset("mtia-2i").with_changes({"grid.rows": 2, "grid.columns": 3, "sram.cache_step_bytes": 0})


def _check_sums(timed: Timed) -> None:
    """Ticks and counters of parts are those of the launch; no part counts more than nothing in no time of its own."""
    assert sum(part.ticks for part in timed.parts) == timed.parts[-1].end_ticks == timed.ticks
    assert all(part.ticks >= 0 for part in timed.parts)
    summed = sum(part.stats.counts for part in timed.parts)
    assert isinstance(summed, np.ndarray)
    expected = timed.stats.counts.copy()
    expected[list(NOT_BOOKED)] = 0
    np.testing.assert_array_equal(summed, expected)
    shares = sum(part.stats.server_busy for part in timed.parts)
    assert isinstance(shares, np.ndarray)
    assert np.all(shares <= timed.stats.server_busy)
    assert np.all(shares + len(timed.parts) >= timed.stats.server_busy)


@given(seed=hypothesis.integers(0, 109), places=hypothesis.lists(hypothesis.tuples(*[hypothesis.floats(0, 1)] * 2),
       min_size=1, max_size=4))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_any_split_of_any_kernel(seed: int, places: list[tuple[float, float]]) -> None:
    """Wherever parts begin, the launch is the same; what each counts is what the plain interpreter sees in its code."""
    whole = RandomKernel(seed, _machine()).job(stages=2 + seed % 9)
    lengths = len(whole.kernel.core_a), len(whole.kernel.core_b)
    starts = [
        sorted(min(int(place[core] * length), length - 1) for place in places) for core, length in enumerate(lengths)
    ]
    parts = [KernelPart("start", 0, 0), *(KernelPart("next", *start) for start in zip(*starts, strict=True))]
    split = replace(whole, kernel=replace(whole.kernel, parts=tuple(parts)))
    one, timed = (_timed(each) for each in (whole, split))
    _check_sums(timed)
    assert (one.ticks, len(timed.parts)) == (timed.ticks, len(parts))
    np.testing.assert_array_equal(one.stats.counts, timed.stats.counts)
    np.testing.assert_array_equal(one.stats.server_busy, timed.stats.server_busy)
    traffic = split.run_naively(source_images(seed))[1]
    executed = split.run(source_images(seed))[1].operations
    for number, (part, row) in enumerate(zip(timed.parts, executed, strict=True)):
        counted, counters = traffic.part(number), part.stats.counts
        assert row.commands == counted.commands.total()
        assert row.dram_bytes == counted.bytes["dram read"] + counted.bytes["dram written"]
        assert row.sram_bytes == counted.bytes["sram read"] + counted.bytes["sram written"]
        if not timed.stats.counts[st.WORDS_ASSUMED]:  # no loop or address of the profile is that of a word
            assert Counter(command_counts(part.stats)) == counted.commands
            assert counters[st.SCALAR_INSTRUCTIONS] == counted.instructions


def _timed(one: Job) -> Timed:
    program = one.program(zeros(1 << 20, 1 << 24))
    return Launcher(program, one.machine, None).run(program.entries[0].launches[0], {})


FILL = "li r2, 4\nli r3, 32\nfill small, r0, r0, r2, r3, fp32, 1.0\npush small, 1\n"
READ = "arg r1, 0\nli r2, 1\nli r3, 16384\ndma_in large, r0, r0, r1, r0, r2, r3, none\npush large, 1\n"
BUFFERS = ".buffer small 512 1\n.buffer large 16384 1"
MEET = "barrier\n"


def _parts_cycles(first: str, second: str) -> list[int]:
    code = f".part one\n{first}.part two\n{second}halt"
    timed = job(code, ".part one\n.part two\nhalt", BUFFERS, (DRAM_BASE,), 1, 2).profile()
    return [operation.cycles for operation in timed.operations]


def _cycles(code: str) -> int:
    return job(f"{code}halt", "halt", BUFFERS, (DRAM_BASE,), 1, 2).cycles()


def test_a_part_ends_with_its_last_command() -> None:
    """As if nothing followed it; the next one takes what is left, nothing if it was done before."""
    assert _cycles(FILL) < _cycles(FILL + READ)
    assert _parts_cycles(FILL, READ) == [_cycles(FILL), _cycles(FILL + READ) - _cycles(FILL)]
    assert _parts_cycles(READ, FILL) == [_cycles(READ + FILL), 0]


def test_a_part_ends_on_the_last_of_all_pes() -> None:
    """PE 1 alone reads: what PE 0 does next is done before, unless they meet."""
    only_one = f"coord r4, column\nbeq r4, r0, past\n{READ}past:\n"
    assert _parts_cycles(only_one, FILL) == [_cycles(only_one), 0]
    first, second = _parts_cycles(only_one, MEET + FILL)
    assert first == _cycles(only_one) and second == _cycles(only_one + MEET + FILL) - first > 0


def test_an_error_names_the_operation() -> None:
    """That whose code it happened in."""
    code = f".part one\n{FILL}.part two\n{READ}halt"
    wrong = job(code, ".part one\n.part two\nhalt", BUFFERS, (64,))
    with pytest.raises(SimulationError) as caught:
        wrong.profile()
    assert caught.value.where.endswith("none, of operation two")


@pytest.mark.parametrize(("name", "sequence", "past"), [("llama-tiny", 1, 77), ("llama-tiny-wide", 9, 20)])
def test_merged_operations_do_what_separate_ones_do(name: str, sequence: int, past: int) -> None:
    """Names, MACs, commands and touched bytes of each; together, bytes at DRAM too."""
    reports = [
        Simulator(program, program.machine.with_changes({"sram.cache_step_bytes": 0})).profile(past=past)
        for program in (llama(name, sequence, 256, separate_launches=separate) for separate in (False, True))
    ]
    merged, separate = ([_work(operation) for operation in report.operations] for report in reports)
    assert merged == separate
    assert len(reports[0].launches) < len(reports[1].launches) / 2


def _work(operation: OperationReport) -> tuple[object, ...]:
    return (
        operation.operation, operation.useful_macs, operation.issued_macs, operation.stated_macs, operation.commands,
        operation.dram_bytes, operation.lower_bound_resource, operation.lower_bound_cycles,
    )  # fmt: skip


@pytest.mark.parametrize(("sequence", "past"), [(1, 200), (33, 20)])
def test_parts_of_a_model_share_out_its_launches(sequence: int, past: int) -> None:
    """Also what is reused has parts."""
    program = llama("llama-tiny-wide", sequence, 256)
    launcher = Launcher(program, program.machine, None)
    for launch in program.entries[0].launches:
        timed = launcher.run(launch, {"past": past})
        _check_sums(timed)
        assert launcher.run(launch, {"past": past}) == replace(timed, reused=True)
