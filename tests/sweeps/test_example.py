"""The sweeps of `examples`: what the architect's question asks, and that it runs, with small models."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sweeps.candidates import Candidate, Judge
from sweeps.pareto import front_of
from sweeps.running import run
from sweeps.samplers import sampler_of
from sweeps.space import grid
from sweeps.sweep_file import read_sweep

EXAMPLE = Path(__file__).parents[2] / "examples" / "sweep_llama.toml"


def test_the_area_goes_where_the_sweep_says() -> None:
    """46 of 60 machines have at most 5 % more area; channels bring bandwidth and capacity of their own."""
    sweep = read_sweep(EXAMPLE)
    judge = Judge(sweep)
    found = [judge.candidate(number, choice) for number, choice in enumerate(grid(sweep.base, sweep.parameters))]
    assert Counter(isinstance(one, Candidate) for one in found) == {True: 46, False: 14}
    base = sweep.base
    for one in found:
        if isinstance(one, Candidate):
            dram, ratio = one.machine.dram, one.machine.dram.channels / base.dram.channels
            assert dram.bytes_per_second == pytest.approx(base.dram.bytes_per_second * ratio)
            assert dram.bytes == base.dram.bytes * ratio
            assert one.of_machine.area_mm2 <= 1.05 * judge.baseline(-1).of_machine.area_mm2


def test_it_runs_with_small_models(tmp_path: Path) -> None:
    """On fewer of the machines, to a front."""
    text = EXAMPLE.read_text().replace('"llama-3-8b"', '"llama-tiny"').replace('"dlrm-dcnv2"', '"dlrm-dcnv2-tiny"')
    text = text.replace("[192, 224, 256, 288]", "[192, 288]").replace("[16, 18, 20, 22, 24]", "[18]")
    table = run(read_sweep(text.replace("[7, 8, 9]", "[7, 9]")), tmp_path / "s", workers=0)
    assert [row.status for row in table.rows] == ["ok", "ok", "ok", "infeasible"] and front_of(table).rows


@pytest.mark.parametrize("path", sorted(EXAMPLE.parent.glob("sweep_*.toml")), ids=lambda path: path.stem)
def test_every_example_can_be_read(path: Path) -> None:
    """And its first machines can be built."""
    sweep = read_sweep(path)
    judge = Judge(sweep)
    found = [judge.candidate(number, choice) for number, choice in enumerate(sampler_of(sweep).ask(0, 4))]
    assert any(isinstance(one, Candidate) for one in found)
