"""Gathers cost what the rows they touch cost: by the indices of a run, by a stated distribution in a profile."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import models
from compiler import compile_model
from compiler.graph import Bags, EmbeddingBagAttributes
from isa.assembly import parse_assembly
from isa.errors import SimulationError
from isa.kernel import Kernel
from isa.machine import Machine, preset
from isa.program import Program
from simulator import Report, Simulator, run_kernel
from simulator import state as st
from simulator.gathering import zipf_rank
from simulator.index_distribution import parse_distribution
from simulator.jit import kernel
from simulator.launcher import Launcher
from tests.compiler.graphs import Array, GraphWriter, compile_graph

ROW_BYTES, COUNT = 256, 64


def _kernel() -> Kernel:
    """Return a kernel in which one PE gathers 64 rows."""
    (kernel,) = parse_assembly(f"""
.kernel gather
.args indices table out
.buffer ids 256 1
.buffer rows {ROW_BYTES * COUNT} 1
.core A
    arg r1, 0
    arg r2, 1
    li r3, 1
    li r4, {COUNT * 4}
    li r5, {COUNT}
    li r6, {ROW_BYTES}
    dma_in ids, r0, r0, r1, r0, r3, r4, none
    push ids, 1
    dma_gather rows, r0, r6, ids, r0, r2, r6, r5, r6
    push rows, 1
    halt
.core B
    arg r2, 2
    li r5, {COUNT}
    li r6, {ROW_BYTES}
    dma_out r2, r6, rows, r0, r6, r5, r6
    pop rows, 1
    halt
""")
    return kernel


UNCACHED = {"sram.cache_step_bytes": 0}


def _report(indices: Array, machine: Machine) -> Report:
    table = np.arange(4096 * ROW_BYTES // 4, dtype=np.int32).reshape(4096, -1)
    result = run_kernel(
        _kernel(), {"indices": indices.astype(np.int32), "table": table}, {"out": ((COUNT, ROW_BYTES // 4), "int32")},
        machine=machine, memory="dram",
    )  # fmt: skip
    np.testing.assert_array_equal(result.outputs["out"], table[indices])
    return result.report


def test_a_run_costs_what_its_own_rows_cost() -> None:
    """64 times one row is the work of one bank, at its group's rate; 64 different ones are spread over channels."""
    machine = preset("mtia-2i").with_changes(UNCACHED)
    one, spread = (_report(indices, machine).cycles for indices in (np.full(COUNT, 17), np.arange(COUNT)))
    timing, rows_per_channel = machine.dram_timing, COUNT / machine.dram.channels
    burst_cycles = timing.same_group_burst_ns / machine.dram.ecc_efficiency / machine.cycle_ns
    bursts = (COUNT - rows_per_channel) * ROW_BYTES / timing.burst_bytes
    assert one - spread == pytest.approx(bursts * burst_cycles, rel=0.1)
    assert _report(np.random.default_rng(0).permutation(4096)[:COUNT], machine).cycles < one


def test_a_cached_row_is_read_from_dram_once() -> None:
    """A row that comes again is served by SRAM, when it is there: no sooner than a single read of it."""
    machine = preset("mtia-2i")
    same, other = _report(np.full(COUNT, 17), machine), _report(np.arange(COUNT), machine)
    index_bytes = COUNT * 4
    assert same.dram_read_bytes == index_bytes + ROW_BYTES
    assert same.cache_hit_bytes == (COUNT - 1) * ROW_BYTES
    assert other.dram_read_bytes == other.cache_filled_bytes == index_bytes + COUNT * ROW_BYTES
    single = _report(np.full(COUNT, 17), machine.with_changes({"sram.bytes_per_cycle": 1e6}))
    assert single.cycles <= same.cycles < _report(np.full(COUNT, 17), machine.with_changes(UNCACHED)).cycles


def _program(batch: int = 64) -> Program:
    return compile_model(models.build("dlrm-dcnv2-tiny", "absent"), dims={"batch": batch})


@pytest.mark.parametrize("changes", [{}, UNCACHED])
def test_a_profile_draws_and_says_so(changes: dict[str, object]) -> None:
    """Same draws each time; a skewed distribution is another one: faster through the cache, slower without."""
    machine = preset("mtia-2i").with_changes(changes)
    program = compile_model(models.build("dlrm-mlperf", "absent"), machine, dims={"batch": 512})
    reports = {text: [Simulator(program).profile(indices=text) for _ in range(2)] for text in ("uniform", "zipf:1.05")}
    for text, (first, second) in reports.items():
        assert first.to_dict() == second.to_dict()
        assert f"the {512 * 26} rows that gathers and scatters touch were drawn: {text}, seed 0" in first.notes
    uniform, zipf = (reports[text][0] for text in reports)
    assert (zipf.cycles > uniform.cycles) == bool(changes)
    assert (zipf.dram_bytes < uniform.dram_bytes) != bool(changes)


TABLE_ROWS, BAGS, HOT, DIM = 20_000, 512, 8, 64


@functools.cache
def _bags(machine: str) -> Simulator:
    """Return a look-up of 512 bags of 8 rows of 128 bytes."""
    writer = GraphWriter()
    writer.input("indices", (BAGS, HOT), "int64")
    table = writer.constant("table", np.zeros((TABLE_ROWS, DIM), np.float16))
    bags = EmbeddingBagAttributes(BAGS, (Bags(0, 1, 0, 0, HOT, mean=False),))
    writer.add_many("embedding_bag", ("indices", table), ("y",), (BAGS, DIM), bags, "float16")
    return Simulator(compile_graph(writer.graph("y"), preset(machine)))


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize(("distribution", "power"), [("uniform", 0.0), ("zipf:1.05", 1.05), ("zipf:2.5", 2.5)])
def test_a_profile_takes_as_long_as_runs_with_such_indices(machine: str, distribution: str, power: float) -> None:
    """Whether transfers are indexed or cores read the indices; popular rows lie anywhere in the table."""
    rng = np.random.default_rng(3)
    chances = np.arange(1.0, TABLE_ROWS + 1) ** -power
    cycles = []
    for _ in range(6):
        rows = rng.permutation(TABLE_ROWS)[rng.choice(TABLE_ROWS, (BAGS, HOT), p=chances / chances.sum())]
        cycles.append(_bags(machine).run({"indices": rows}).report.operations[-1].cycles)
    report = _bags(machine).profile(indices=distribution)
    assert report.operations[-1].cycles == pytest.approx(np.mean(cycles), rel=0.1)
    drawn = f"the {BAGS * HOT} rows that gathers and scatters touch were drawn: {distribution}, seed 0"
    assert report.notes == (drawn,)


def test_a_run_says_nothing_of_draws() -> None:
    program = compile_model(models.build("dlrm-tiny", 0, "float32"), dims={"batch": 3})
    inputs = {
        port.name: np.zeros([int(size) for size in port.shape], port.host_dtype) for port in program.entries[0].inputs
    }  # type: ignore[arg-type]
    assert not any("drawn" in note for note in Simulator(program).run(inputs).report.notes)


@pytest.mark.parametrize("indices", ["uniform", "zipf:1.2"])
def test_reused_launches_have_the_draws_of_simulated_ones(indices: str) -> None:
    """Every launch of the program twice over: the second time is reused, and equal in every counter."""
    program = _program()
    launches = program.entries[0].launches * 2
    counters = []
    for reuse in (True, False):
        launcher = Launcher(program, program.machine, None, reuse=reuse, indices=parse_distribution(indices))
        counters.append([launcher.run(launch, {}) for launch in launches])
    assert sum(one.reused for one in counters[0]) >= len(launches) // 2
    for quick, full in zip(*counters, strict=True):
        assert quick.ticks == full.ticks
        for left, right in zip(quick.stats, full.stats, strict=True):
            np.testing.assert_array_equal(left, right)
    assert any(one.stats.counts[st.ROWS_DRAWN] for one in counters[0])


@kernel
def _fill_with_ranks(power: float, rows: int, ranks: Array) -> None:
    for draw in range(len(ranks)):
        ranks[draw] = zipf_rank(power, rows, draw)


def _ranks(power: float, rows: int) -> Array:
    ranks = np.zeros(20_000, np.int64)
    _fill_with_ranks(power, rows, ranks)
    return ranks


@pytest.mark.parametrize("power", [0.7, 1.0, 1.05, 2.0])
def test_ranks_have_the_chances_of_zipf(power: float) -> None:
    """Counts of many draws against the exact chances, for few ranks and for tables that no array of chances fits."""
    for rows in (1, 7, 1000):
        ranks = _ranks(power, rows)
        chances = np.arange(1, rows + 1) ** -power
        chances /= chances.sum()
        counts = np.bincount(ranks, minlength=rows + 1)[1:]
        deviation = np.sqrt(len(ranks) * chances * (1 - chances))
        assert len(counts) == rows and np.all(np.abs(counts - len(ranks) * chances)[:5] <= 4.5 * deviation[:5] + 1e-6)
    ranks = _ranks(power, 40_000_000)
    assert ranks.min() >= 1 and ranks.max() <= 40_000_000


@pytest.mark.parametrize(
    "text", ["", "zipf", "zipf:", "zipf:0", "zipf:-1", "zipf:1.05012", "zipf:11", "normal", "Uniform"]
)
def test_other_distributions_are_refused(text: str) -> None:
    with pytest.raises(SimulationError, match="no distribution of indices"):
        Simulator(_program(1)).profile(indices=text)
