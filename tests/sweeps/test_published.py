"""Published results in our figures: nothing without source and caveats, and the published energy comes out again."""

from __future__ import annotations

import pytest

from isa.machine import preset
from sweeps.cost import cost_assumptions
from sweeps.published import published_results, published_rows, row_of_machine


def test_every_row_is_sourced_and_has_caveats() -> None:
    """Prices and power are the weakest, so each row says what its are."""
    known = published_results()
    used = {caveat for result in known.results for caveat in result.caveats}
    assert used == set(known.caveats)
    assert {result.device for result in known.results} == set(known.devices)
    for result, row in zip(known.results, published_rows(), strict=True):
        assert row.source and known.caveats["price"] in row.caveats
        assert (known.caveats["plug"] in row.caveats) == (result.plug_watts is not None)
        assert (known.caveats["tdp"] in row.caveats) == (result.plug_watts is None)
        assert row.joules_per_million > 0 and row.dollars_per_million > 0


@pytest.mark.parametrize(
    ("device", "workload", "joules_per_token"),
    [
        ("H200 SXM", "Llama-2-70B, MLPerf Offline, power-saving mode", 0.244),
        ("B200", "Llama-2-70B, MLPerf Offline", 0.101),
        ("B200", "Llama-3.1-8B, MLPerf Offline", 0.064),
    ],
)
def test_published_energy_comes_out(device: str, workload: str, joules_per_token: float) -> None:
    """Where power was measured, joules per token are those of the logs, whatever is assumed of cost."""
    for assumptions in (cost_assumptions(), cost_assumptions({"pue_air": 2, "fan_share_air": 0.5})):
        (row,) = (row for row in published_rows(assumptions) if (row.device, row.workload) == (device, workload))
        assert row.joules_per_million / 1e6 == pytest.approx(joules_per_token, abs=0.0006)
        assert row.power_basis == "measured at the plug"


def test_a_machine_stands_in_the_same_row() -> None:
    """Same columns, same assumptions; twice the rate at the same power is half of both."""
    slow = row_of_machine(preset("mtia-2i"), "Llama-3-8B decode, batch 16", 100, 65, precision="fp16")
    fast = row_of_machine(preset("mtia-2i"), "Llama-3-8B decode, batch 16", 200, 65, precision="fp16")
    assert fast.joules_per_million == pytest.approx(slow.joules_per_million / 2)
    assert fast.dollars_per_million == pytest.approx(slow.dollars_per_million / 2)
    assert slow.power_basis == "simulated" and slow.caveats
    assert slow.plug_watts > 65
