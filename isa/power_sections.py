"""The sections of a machine description about power: points of clock and voltage, and what energies may be off by."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from isa.machine_sections import Section, described


def _as_numbers(value: Any) -> Any:
    """Take a list, which TOML and JSON have, for the tuple that a frozen machine holds."""
    if not isinstance(value, list | tuple):
        raise PydanticCustomError("numbers", "Input should be a list of numbers")
    return tuple(value)


def _as_factors(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise PydanticCustomError("factors", "Input should be two numbers, [lowest, highest]")
    return tuple(value)


Numbers = Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_as_numbers)]
Factors = Annotated[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], BeforeValidator(_as_factors)]
"""(lowest, highest) multiple of a figure that is still believable."""


class Dvfs(Section):
    """Points of clock and voltage that the chip can run at; between two, the voltage lies on a straight line."""

    frequencies_mhz: Numbers = described("clock of each point, ascending", unit="MHz", shapes="time")
    voltages_volts: Numbers = described("supply voltage of the logic at each point", unit="V", shapes="time")

    def consistency_problems(self) -> Iterator[tuple[str, str]]:
        if not self.frequencies_mhz:
            yield "frequencies_mhz", "must hold at least one point"
        if any(later <= earlier for earlier, later in itertools.pairwise(self.frequencies_mhz)):
            yield "frequencies_mhz", f"must ascend, not {list(self.frequencies_mhz)}"
        if any(later < earlier for earlier, later in itertools.pairwise(self.voltages_volts)):
            yield "voltages_volts", f"must not fall, not {list(self.voltages_volts)}"
        if len(self.voltages_volts) != len(self.frequencies_mhz):
            yield (
                "voltages_volts",
                f"{len(self.voltages_volts)} voltages for {len(self.frequencies_mhz)} of frequencies_mhz",
            )

    def voltage_at(self, frequency_mhz: float) -> float | None:
        """Return the voltage at a clock, straight between points; None outside of them."""
        frequencies, voltages = self.frequencies_mhz, self.voltages_volts
        if not frequencies[0] <= frequency_mhz <= frequencies[-1]:
            return None
        below = bisect_right(frequencies, frequency_mhz) - 1
        if frequencies[below] == frequency_mhz:
            return voltages[below]
        share = (frequency_mhz - frequencies[below]) / (frequencies[below + 1] - frequencies[below])
        return voltages[below] + share * (voltages[below + 1] - voltages[below])


class EnergyUncertainty(Section):
    """By which factor each part of a report's energy may be off: [lowest, highest], with 1 between them."""

    matrix: Factors = described("multiply-accumulates of the matrix engine", shapes="time")
    accumulators: Factors = described("adds and moves of the accumulators", shapes="time")
    simd: Factors = described("SIMD engine and table functions", shapes="time")
    cores: Factors = described("scalar instructions and dispatch of commands", shapes="time")
    local_memory: Factors = described("local memories", shapes="time")
    sram: Factors = described("shared SRAM", shapes="time")
    noc: Factors = described("network", shapes="time")
    dram_device: Factors = described("accesses and activations in the DRAM devices", shapes="time")
    dram_phy: Factors = described("DRAM PHY and controller on the chip", shapes="time")
    leakage: Factors = described("leakage", shapes="time")
    clock_and_uncore: Factors = described("clock tree, uncore and control core", shapes="time")
    dram_background: Factors = described("background of the DRAM devices", shapes="time")
    host_link: Factors = described("host link", shapes="time")

    def consistency_problems(self) -> Iterator[tuple[str, str]]:
        for part in type(self).model_fields:
            lowest, highest = self.factors(part)
            if not lowest <= 1 <= highest:
                yield part, f"[{lowest:g}, {highest:g}] must have 1, the figure itself, between its numbers"

    def factors(self, part: str) -> tuple[float, float]:
        """Return (lowest, highest) factor of a part of a report's energy."""
        lowest, highest = getattr(self, part)
        return lowest, highest
