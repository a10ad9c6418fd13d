"""What cost figures rest on: prices, yields, power and time, each with unit, meaning, source and a default.

Defaults and sources are in `cost_assumptions.toml`; a mapping of names to values, such as the `[cost]` table of a sweep
file, overrides them. `sweeps/cost.py` does the arithmetic.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isa.errors import ToolError
from isa.file_problems import Problem, field_problems, told
from isa.machine_sections import described
from sweeps.sourced_figures import Confidence, read_toml

_HELP = "docs/area_and_cost.md lists every assumption"


def _amount(description: str, unit: str, **bounds: float) -> Any:
    return described(description, shapes="label", unit=unit, **({"ge": 0} | bounds))


def _positive(description: str, unit: str) -> Any:
    return described(description, shapes="label", unit=unit, gt=0)


def _share(description: str) -> Any:
    return described(description, shapes="label", ge=0, le=1)


def _efficiency(description: str) -> Any:
    return described(description, shapes="label", gt=0, le=1)


class CostAssumptions(BaseModel):
    """Everything that dollars and wall power are computed from; `cost_assumptions()` gives the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    wafer_dollars_16nm: float = _positive("processed wafer", "$")
    wafer_dollars_7nm: float = _positive("processed wafer", "$")
    wafer_dollars_5nm: float = _positive("processed wafer", "$")
    wafer_dollars_3nm: float = _positive("processed wafer", "$")
    wafer_dollars_2nm: float = _positive("processed wafer", "$")
    defects_per_cm2_16nm: float = _amount("density of killing defects", "1/cm2")
    defects_per_cm2_7nm: float = _amount("density of killing defects", "1/cm2")
    defects_per_cm2_5nm: float = _amount("density of killing defects", "1/cm2")
    defects_per_cm2_3nm: float = _amount("density of killing defects", "1/cm2")
    defects_per_cm2_2nm: float = _amount("density of killing defects", "1/cm2")
    defect_clustering: float = _positive("alpha of the negative binomial yield; large: defects fall independently", "")
    repaired_sram_share: float = _share("part of the shared SRAM's area in which a defect is repaired")
    wafer_diameter_mm: float = _positive("diameter of a wafer", "mm")
    wafer_edge_mm: float = _amount("unused edge of a wafer", "mm")
    scribe_mm: float = _amount("distance between dies", "mm")
    wafer_test_dollars: float = _amount("test of a wafer", "$")
    package_dollars: float = _amount("package of a chip without HBM, part independent of size", "$")
    package_dollars_per_mm2: float = _amount("package of a chip without HBM, per area of silicon", "$/mm2")
    package_yield: float = _efficiency("good packages without HBM")
    interposer_dollars: float = _amount("package on an interposer (HBM or several dies), part independent of size", "$")
    interposer_dollars_per_mm2: float = _amount("package on an interposer, per area of dies and stacks", "$/mm2")
    interposer_yield: float = _efficiency("good packages on an interposer; the others lose dies and stacks")
    hbm_stack_mm2: float = _amount("HBM stack on the interposer", "mm2")
    lpddr_dollars_per_gigabyte: float = _amount("LPDDR", "$/GB")
    ddr_dollars_per_gigabyte: float = _amount("DDR", "$/GB")
    gddr_dollars_per_gigabyte: float = _amount("GDDR", "$/GB")
    hbm_dollars_per_gigabyte: float = _amount("HBM", "$/GB")
    board_dollars: float = _amount("board of a chip, part independent of power", "$")
    board_dollars_per_watt: float = _amount("board, per watt of TDP with DRAM", "$/W")
    development_dollars: float = _amount("design, masks and software of the chip", "$")
    chips_made: float = _positive("chips that share development_dollars", "")
    price_multiplier: float = _amount("price of a module over the cost of its parts", "", ge=1)
    host_dollars: float = _amount("server without accelerators", "$")
    host_watts: float = _amount("its power before its power supply", "W")
    host_link_gigabytes_per_second: float = _positive("host links that a server has for its accelerators", "GB/s")
    cooling: Literal["air", "liquid"] = described("which PUE and share of fans hold", shapes="label")
    pue_air: float = _amount("power of the facility over that of its servers, cooled by air", "", ge=1)
    pue_liquid: float = _amount("power of the facility over that of its servers, cooled by liquid", "", ge=1)
    fan_share_air: float = described("fans' part of a server's power, air", shapes="label", ge=0, lt=1)
    fan_share_liquid: float = described("fans' part of a server's power, liquid", shapes="label", ge=0, lt=1)
    regulator_efficiency: float = _efficiency("from the board's input to the chip")
    supply_efficiency: float = _efficiency("from the wall to the board's input")
    energy_dollars_per_kilowatt_hour: float = _amount("electricity", "$/kWh")
    facility_dollars_per_watt: float = _amount("building, power and cooling per watt of servers", "$/W")
    facility_years: float = _positive("time in which the facility is paid off", "years")
    lifetime_years: float = _positive("time in which chip and host are paid off", "years")
    upkeep_share_per_year: float = _amount("repair and operation per year, of the price of chip and host", "1/year")
    utilisation: float = _efficiency("part of the time that the chip works at its simulated throughput")
    idle_power_share: float = _share("power in the rest of the time, of that at work")

    def by_process(self, name: Literal["wafer_dollars", "defects_per_cm2"]) -> dict[int, float]:
        """Return a figure by process in nm."""
        prefix = f"{name}_"
        fields = (field for field in type(self).model_fields if field.startswith(prefix))
        return {int(field.removeprefix(prefix).removesuffix("nm")): float(getattr(self, field)) for field in fields}

    @property
    def pue(self) -> float:
        """PUE of the chosen cooling."""
        return self.pue_air if self.cooling == "air" else self.pue_liquid

    @property
    def fan_share(self) -> float:
        """Share of fans of the chosen cooling."""
        return self.fan_share_air if self.cooling == "air" else self.fan_share_liquid


class AssumptionSource(BaseModel):
    """A default of the file with where it comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | str
    confidence: Confidence
    source: str = Field(min_length=1)


@functools.cache
def assumption_sources() -> Mapping[str, AssumptionSource]:
    """Return the default of every field of `CostAssumptions` with its source."""
    return {name: AssumptionSource.model_validate(row) for name, row in read_toml("cost_assumptions.toml").items()}


def _with_defaults(overrides: Mapping[str, Any]) -> CostAssumptions:
    defaults = {name: row.value for name, row in assumption_sources().items()}
    return CostAssumptions.model_validate(defaults | dict(overrides))


def assumption_problems(overrides: Mapping[str, Any], path: str = "") -> list[Problem]:
    """Return everything that is wrong with overrides, which lie at a dotted path of a file."""
    try:
        _with_defaults(overrides)
    except ValidationError as error:
        return field_problems(error, CostAssumptions, path)
    return []


def cost_assumptions(
    overrides: Mapping[str, Any] | None = None,
    where: str = "cost assumptions",
    lines: Mapping[str, int] | None = None,
    path: str = "",
) -> CostAssumptions:
    """Return the defaults with the values of `overrides`; one ToolError lists every name and value that is wrong.

    `where` names the file, `lines` the lines of its keys, `path` the table in it that the overrides come from.
    """
    if problems := assumption_problems(overrides or {}, path):
        raise told(problems, where, lines or {}, ToolError, _HELP)
    return _with_defaults(overrides or {})
