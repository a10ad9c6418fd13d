"""Dollars: known yields and wafers, parts that sum up, growth, and wrong assumptions told all at once."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis.strategies import floats, sampled_from

from isa.errors import MachineError, ToolError
from isa.machine import PRESETS, preset
from sweeps.cost import (
    CostAssumptions,
    cost_assumptions,
    cost_of,
    dies_per_wafer,
    dollars_per_million,
    joules_per_million,
    negative_binomial_yield,
    ownership_of,
    owning,
    server_watts,
    tokens_per_dollar,
    total_cost_of_ownership_dollars_per_second,
)
from sweeps.cost_assumptions import assumption_problems, assumption_sources

DEFAULTS = cost_assumptions()
PLAIN = cost_assumptions(
    {
        "wafer_edge_mm": 0, "scribe_mm": 0, "wafer_test_dollars": 0, "repaired_sram_share": 0,
        "development_dollars": 0, "price_multiplier": 1,
    }
)  # fmt: skip
GROWS_WITH = (
    "wafer_dollars_5nm", "wafer_test_dollars", "package_dollars", "package_dollars_per_mm2",
    "lpddr_dollars_per_gigabyte", "board_dollars", "board_dollars_per_watt", "development_dollars", "price_multiplier",
    "defects_per_cm2_5nm", "wafer_edge_mm", "scribe_mm",
)  # fmt: skip


@pytest.mark.parametrize(
    ("mm2", "density", "alpha", "expected"),
    [
        (100, 0.0, 3, 1.0),
        (100, 1.0, 1, 0.5),  # Seeds: 1 / (1 + AD)
        (300, 0.1, 3, 1 / 1.1**3),
        (200, 0.5, 1e9, math.exp(-1)),  # Poisson
        (100, 0.031, 13.5, 0.970),  # bose-einstein style figures of a mature process
    ],
)
def test_known_yields(mm2: float, density: float, alpha: float, expected: float) -> None:
    """The negative binomial and its limits."""
    assert negative_binomial_yield(mm2, density, alpha) == pytest.approx(expected, rel=1e-3)


def test_known_wafers() -> None:
    """Hennessy & Patterson, 300 mm: 640 dies of 10 x 10 mm, 270 of 15 x 15 mm; at least one."""
    assert dies_per_wafer(100, PLAIN) == pytest.approx(640, abs=0.5)
    assert dies_per_wafer(225, PLAIN) == pytest.approx(270, abs=0.5)
    assert dies_per_wafer(60000, PLAIN) == 1


@settings(max_examples=50, deadline=None)
@given(floats(1, 800), floats(1.01, 2))
def test_larger_dies_are_fewer_and_worse(mm2: float, factor: float) -> None:
    """Of every size."""
    assert dies_per_wafer(mm2 * factor, DEFAULTS) < dies_per_wafer(mm2, DEFAULTS)
    assert negative_binomial_yield(mm2 * factor, 0.1, 3) < negative_binomial_yield(mm2, 0.1, 3) < 1


def test_a_die_by_hand() -> None:
    """MTIA 2i without repair, edges and tests: a wafer of $16,988 over its good dies of 447 mm2."""
    cost = cost_of(preset("mtia-2i"), PLAIN)
    mm2 = 446.905
    dies = math.pi * 150**2 / mm2 - math.pi * 300 / math.sqrt(2 * mm2)
    good = (1 + mm2 / 100 * 0.10 / 3) ** -3
    assert cost.die_dollars == pytest.approx(16988 / (dies * good), rel=1e-5)
    assert cost.memory_dollars == 128 * 4
    assert cost.board_dollars == pytest.approx(100 + 0.5 * (85 + 0.025 * 137.439 + 204.8e9 * 8 * 4e-12), rel=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_parts_sum_up(name: str) -> None:
    """The price of a module is its parts; the margin is on all others; every part is there."""
    cost = cost_of(preset(name))
    parts = [getattr(cost, field.name) for field in fields(cost) if field.name.endswith("_dollars")]
    assert all(part > 0 for part in parts)
    assert cost.chip_dollars == pytest.approx(sum(parts))
    assert cost.margin_dollars == pytest.approx(0.3 * (cost.chip_dollars - cost.margin_dollars))
    owned = ownership_of(preset(name), preset(name).typical_watts)
    assert owned.total == pytest.approx(owned.chip + owned.host + owned.facility + owned.upkeep + owned.energy)
    assert total_cost_of_ownership_dollars_per_second(preset(name), preset(name).typical_watts) == owned.total


def test_hbm_and_several_dies_need_an_interposer() -> None:
    """Its losses take the stacks along: more than five times the package of a chip with LPDDR."""
    packages = {name: cost_of(preset(name)).package_dollars for name in PRESETS}
    assert packages["hbm-concept"] > 5 * packages["mtia-2i"]
    many = preset("mtia-2i").with_changes({"grid.rows": 24, "grid.columns": 16})
    assert cost_of(many).package_dollars > 5 * packages["mtia-2i"]


@settings(max_examples=40, deadline=None)
@given(sampled_from(GROWS_WITH), floats(1.05, 3))
def test_dollars_grow_with_each_assumption(name: str, factor: float) -> None:
    """Each alone."""
    dearer = cost_assumptions({name: getattr(DEFAULTS, name) * factor})
    assert cost_of(preset("mtia-2i"), dearer).chip_dollars > cost_of(preset("mtia-2i")).chip_dollars


def test_repair_makes_dies_cheaper() -> None:
    """A defect in the shared SRAM is no loss."""
    without = cost_assumptions({"repaired_sram_share": 0})
    assert cost_of(preset("mtia-2i"), without).die_yield < cost_of(preset("mtia-2i")).die_yield


def test_ownership_by_hand() -> None:
    """A module of $2,000 in $500 of server, 100 W at the plug: a year's dollars."""
    a = cost_assumptions(
        {"lifetime_years": 5, "upkeep_share_per_year": 0.01, "facility_dollars_per_watt": 14, "facility_years": 14,
         "utilisation": 0.5, "idle_power_share": 0.2, "pue_air": 1.5, "energy_dollars_per_kilowatt_hour": 0.1}
    )  # fmt: skip
    owned, year = owning(2000, 500, 100, 150, a), 365.25 * 24 * 3600
    assert owned.chip * year == pytest.approx(400)
    assert owned.host * year == pytest.approx(100)
    assert owned.upkeep * year == pytest.approx(25)
    assert owned.facility * year == pytest.approx(150)
    assert owned.energy * year == pytest.approx(0.1 * 0.6 * 1.5 * 0.1 * 365.25 * 24)


def test_cooling_decides_pue_and_fans() -> None:
    """Liquid saves power at the plug and in the facility."""
    liquid = cost_assumptions({"cooling": "liquid"})
    assert server_watts(100, 10, DEFAULTS) == pytest.approx((100 / 0.85 + 10) / 0.94 / 0.85)
    assert server_watts(100, 10, liquid) == pytest.approx((100 / 0.85 + 10) / 0.94 / 0.95)
    machine = preset("mtia-2i")
    assert ownership_of(machine, 65, liquid).energy < ownership_of(machine, 65).energy * 1.10 / 1.56


def test_tokens_dollars_and_joules() -> None:
    """1000 tokens/s for 60 % of the time at $0.0003 per second; 200 W at work."""
    assert tokens_per_dollar(1000, 3e-4, DEFAULTS) == pytest.approx(2e6)
    assert dollars_per_million(1000, 3e-4, DEFAULTS) == pytest.approx(0.5)
    assert joules_per_million(1000, 200) == pytest.approx(200_000)


def test_unknown_processes_and_memories_are_refused() -> None:
    """As areas are."""
    for changes in ({"process_nm": 28}, {"dram.kind": "RLDRAM3"}):
        with pytest.raises(MachineError):
            cost_of(preset("mtia-2i").with_changes(changes))


def test_every_assumption_has_its_default_unit_and_source() -> None:
    """The file and the class name the same things."""
    assert list(assumption_sources()) == list(CostAssumptions.model_fields)
    assert all(len(row.source) >= 5 for row in assumption_sources().values())
    assert all(field.description for field in CostAssumptions.model_fields.values())


def test_overrides_are_taken_and_the_rest_stays() -> None:
    """Whole numbers count as numbers."""
    a = cost_assumptions({"utilisation": 1, "cooling": "liquid"})
    assert (a.utilisation, a.pue) == (1, 1.10)
    assert a.model_copy(update={"utilisation": 0.6, "cooling": "air"}) == DEFAULTS


def test_all_wrong_overrides_are_told_at_once() -> None:
    """One error with every name, what is wrong and what was meant; with lines where they are known."""
    wrong: dict[str, Any] = {
        "utilization": 0.5, "pue_air": 0.9, "lifetime_years": "long", "cooling": "oil", "supply_efficiency": 0,
        "wafer_dollars_5nm": math.inf,
    }  # fmt: skip
    with pytest.raises(ToolError) as caught:
        cost_assumptions(wrong, "sweep.toml", {"cost.pue_air": 7}, "cost")
    text = str(caught.value)
    assert "6 problems" in text
    for name in wrong:
        assert f"cost.{name}: " in text
    assert "did you mean 'utilisation'?" in text
    assert "sweep.toml:7: cost.pue_air: must be greater than or equal to 1, not 0.9" in text
    assert len(assumption_problems(wrong)) == 6
    assert assumption_problems({}) == []


def test_one_wrong_override_is_one_line() -> None:
    """It says where to look."""
    with pytest.raises(ToolError) as caught:
        cost_assumptions({"chips_made": 0})
    assert str(caught.value).startswith("cost assumptions: chips_made: must be greater than 0, not 0")
    assert "docs/area_and_cost.md" in caught.value.help
