"""The newer chips the whole way: full-size models compile for them and are timed, and projections are called so."""

from __future__ import annotations

import json
from functools import cache

import pytest

from compiler import compile_model
from isa.machine import PRESETS, preset
from models import build
from simulator import Report, Simulator

NEWER = ("mtia-300", "mtia-400", "mtia-450", "mtia-500")


@cache
def _timed(machine: str, model: str, **dims: int) -> Report:
    return Simulator(compile_model(build(model, "absent"), machine, dims={"batch": 1, **dims})).profile()


@pytest.mark.parametrize("machine", NEWER)
@pytest.mark.parametrize(
    ("model", "dims"), [("llama-3-8b", {"sequence": 1, "past": 2048}), ("dlrm-dcnv2", {})], ids=["llama", "dlrm"]
)
def test_full_size_models_are_timed(machine: str, model: str, dims: dict[str, int]) -> None:
    """Never faster than DRAM can deliver, no unit busier than the time, and faster than an MTIA 2i."""
    report = _timed(machine, model, **dims)
    assert report.dram_bound_seconds <= report.latency_seconds < _timed("mtia-2i", model, **dims).latency_seconds
    assert max(report.utilization.values()) <= 1


def test_a_prefill_fills_a_grid_that_is_not_square() -> None:
    """512 tokens on 12 x 6 PEs: 16 blocks of rows over 12 rows of PEs alone would leave a third of them idle."""
    report = _timed("mtia-300", "llama-3-8b", sequence=512, past=0)
    assert report.model_utilization > 0.7


@pytest.mark.parametrize("machine", PRESETS)
def test_reports_of_projected_machines_say_so(machine: str) -> None:
    """As text and as JSON; those of published chips do not."""
    report = _timed(machine, "dlrm-dcnv2")
    sentence = f"{machine} is a projection, not a published chip"
    assert (sentence in str(report)) == (sentence in json.loads(report.to_json())["notes"]) == preset(machine).projected
