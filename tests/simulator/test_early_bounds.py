"""The bound before a simulation is one: nothing that is simulated takes less time, energy or power."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from compiler import compile_model
from isa.machine import Machine
from models import build
from simulator import Simulator, early_bound
from tests.compiler.graphs import small_machine

_LLAMA = {"batch": 2, "sequence": 1, "past": 40}
_SLOW_DRAM = {"dram.bytes_per_second": 1e9}


@pytest.mark.parametrize("changes", [{}, _SLOW_DRAM, {"control.launch_ns": 0.0, "control.launch_replace_ns": 0.0}])
@pytest.mark.parametrize(
    ("model", "dims", "quantize"),
    [
        ("llama-tiny", _LLAMA, None), ("llama-tiny", _LLAMA | {"sequence": 70, "past": 0}, "int8"),
        ("llama-tiny-odd", _LLAMA, "int4"), ("dlrm-tiny", {"batch": 40}, None), ("dlrm-dcnv2-tiny", {"batch": 3}, None),
    ],
)  # fmt: skip
def test_no_run_is_below_its_bound(
    model: str, dims: Mapping[str, int], quantize: str | None, changes: Mapping[str, float]
) -> None:
    """On machines that are bound by launches, by DRAM and by neither."""
    program = compile_model(build(model), small_machine(**changes), dims=dims, quantize=quantize)
    bound, report = early_bound(program), Simulator(program).profile()
    assert 0 < bound.latency_seconds <= report.latency_seconds
    assert 0 < bound.energy_joules <= report.energy_joules
    assert 0 < bound.average_power_watts <= report.average_power_watts
    assert 0 < bound.peak_power_watts <= report.peak_power_watts


def test_the_bound_is_near_where_dram_decides() -> None:
    """A machine that waits for its DRAM is within a third of the bound in time and energy."""
    program = compile_model(build("llama-tiny-wide"), small_machine(**_SLOW_DRAM), dims=_LLAMA)
    bound, report = early_bound(program), Simulator(program).profile()
    assert bound.latency_seconds > report.latency_seconds / 1.5
    assert bound.energy_joules > report.energy_joules / 1.5


def test_another_machine_has_its_own_bound() -> None:
    """Fields that shape only time may differ from those of the program."""
    program = compile_model(build("llama-tiny"), small_machine(), dims=_LLAMA)
    slow: Machine = small_machine(**_SLOW_DRAM)
    assert early_bound(program, slow).latency_seconds > early_bound(program).latency_seconds
