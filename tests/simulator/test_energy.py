"""Energy: how it follows voltage and clock, its bands, and the worst window of power; all against closed forms."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import floats, lists, tuples

from isa.machine import PRESETS, Machine, preset
from isa.power_sections import EnergyUncertainty
from simulator import Report, Simulator
from simulator.energy import band_of_sum, bands
from simulator.power import peak_watts
from tests.simulator.llamas import llama

SQUARE = ("matrix", "accumulators", "simd", "cores", "local_memory", "sram", "noc", "clock_and_uncore")
"""Parts that follow the square of the logic's voltage."""
PER_SECOND = ("leakage", "clock_and_uncore", "dram_background")
PROGRAM = llama("llama-tiny", 1, 512, separate_launches=True)
MACHINE = PROGRAM.machine
SPANS = lists(tuples(floats(1e-3, 1.0), floats(0.0, 10.0)), min_size=1, max_size=12)


@cache
def report(machine: Machine) -> Report:
    """Time one decode step of a small Llama on a machine that differs in time fields."""
    return Simulator(PROGRAM, machine).profile(past=41)


def changed(**changes: object) -> Report:
    return report(MACHINE.with_changes(changes))


@pytest.mark.parametrize("volts", [0.75, 0.85, 1.0])
def test_voltage_changes_each_part_by_its_law(volts: float) -> None:
    """On the chip squared, leakage straight, and nothing where DRAM and host link have supplies of their own."""
    ratio, plain, other = volts / 0.85, changed(), changed(voltage_volts=volts)
    assert other.cycles == plain.cycles
    for part, joules in plain.energy_parts_joules.items():
        factor = ratio**2 if part in SQUARE else ratio if part == "leakage" else 1.0
        assert other.energy_parts_joules[part] == pytest.approx(factor * joules, rel=1e-12), part


def test_clock_changes_only_the_power_that_flows_with_it() -> None:
    """Clock and uncore ~ frequency; leakage and DRAM background ~ time; events cost what they cost."""
    plain, other = changed(), changed(frequency_mhz=675.0)
    for part, joules in plain.energy_parts_joules.items():
        longer = other.latency_seconds / plain.latency_seconds if part in PER_SECOND else 1.0
        slower = 0.5 if part == "clock_and_uncore" else 1.0
        assert other.energy_parts_joules[part] == pytest.approx(longer * slower * joules, rel=1e-9), part


def test_a_point_of_dvfs_changes_both() -> None:
    """At 1100 MHz and 0.75 V the chip's events cost (0.75 / 0.85)^2, and the run takes longer."""
    plain, other = changed(), report(MACHINE.at_frequency(1100))
    assert other.latency_seconds > plain.latency_seconds
    ratio = other.energy_parts_joules["matrix"] / plain.energy_parts_joules["matrix"]
    assert ratio == pytest.approx((0.75 / 0.85) ** 2, rel=1e-12)


@pytest.mark.parametrize("name", PRESETS)
def test_each_part_has_its_band(name: str) -> None:
    """The section has the parts of the report and no others; a band has its figure inside."""
    parts = changed().energy_parts_joules
    assert set(EnergyUncertainty.model_fields) == parts.keys()
    for part, (low, high) in bands(preset(name), parts).items():
        assert low <= parts[part] <= high


@given(parts=lists(tuples(floats(0, 100), floats(0, 1), floats(1, 5)), min_size=1, max_size=13))
def test_the_band_of_a_sum(parts: list[tuple[float, float, float]]) -> None:
    """Root of the sum of squares: no wider than all off at once, no narrower than the worst part alone."""
    joules = {str(index): part[0] for index, part in enumerate(parts)}
    part_bands = {str(index): (low * value, high * value) for index, (value, low, high) in enumerate(parts)}
    low, high = band_of_sum(joules, part_bands)
    total = sum(joules.values())
    below, above = (
        [joules[key] - part_bands[key][0] for key in joules],
        [part_bands[key][1] - joules[key] for key in joules],
    )
    assert low == pytest.approx(total - math.sqrt(sum(value**2 for value in below)), abs=1e-9)
    assert high == pytest.approx(total + math.sqrt(sum(value**2 for value in above)), abs=1e-9)
    assert total - sum(below) - 1e-9 <= low <= total - max(below) + 1e-9
    assert total + max(above) - 1e-9 <= high <= total + sum(above) + 1e-9


def test_the_band_follows_the_machine() -> None:
    """With one part uncertain alone, the total is off by what that part is off."""
    certain = {f"energy_uncertainty.{part}": [1, 1] for part in EnergyUncertainty.model_fields}
    result = changed(**(certain | {"energy_uncertainty.noc": [0.5, 3]}))
    noc = result.energy_parts_joules["noc"]
    assert result.energy_part_bands_joules["noc"] == (0.5 * noc, 3 * noc)
    low, high = result.energy_band_joules
    assert low == pytest.approx(result.energy_joules - 0.5 * noc, rel=1e-12)
    assert high == pytest.approx(result.energy_joules + 2 * noc, rel=1e-12)


def _energy_until(spans: list[tuple[float, float]], moment: float) -> float:
    """Return the joules used before a moment, span by span."""
    used, start = 0.0, 0.0
    for seconds, joules in spans:
        used += joules * min(max(moment - start, 0.0), seconds) / seconds
        start += seconds
    return used


@given(spans=SPANS, share=floats(0.01, 0.99))
def test_no_window_has_more_than_the_peak_and_one_has_it(spans: list[tuple[float, float]], share: float) -> None:
    """Tried densely: windows never exceed the peak; those that begin or end at a border of spans reach it."""
    total = sum(seconds for seconds, _ in spans)
    length = share * total
    peak = peak_watts(spans, length)

    def watts(start: float) -> float:
        return (_energy_until(spans, start + length) - _energy_until(spans, start)) / length

    dense = [watts(start) for start in np.linspace(0, total - length, 200)]
    assert max(dense) <= peak * (1 + 1e-9) + 1e-9
    borders = np.cumsum([0.0, *(seconds for seconds, _ in spans)])
    starts = [start for border in borders for start in (border, border - length) if 0 <= start <= total - length]
    assert peak == pytest.approx(max(map(watts, starts)), rel=1e-9, abs=1e-9)


@given(spans=SPANS, factor=floats(1.0, 10.0))
def test_a_run_shorter_than_the_window_has_its_mean(spans: list[tuple[float, float]], factor: float) -> None:
    """The window ends with the run."""
    seconds, joules = (sum(column) for column in zip(*spans, strict=True))
    assert peak_watts(spans, factor * seconds) == pytest.approx(joules / seconds, rel=1e-9)


def test_peak_by_hand() -> None:
    """3 s at 1 W, 1 s at 5 W, 2 s at 2 W; and no run at all."""
    spans = [(3.0, 3.0), (1.0, 5.0), (2.0, 4.0)]
    assert [peak_watts(spans, length) for length in (0.5, 1, 2, 6, 7)] == pytest.approx([5, 5, 3.5, 2, 2])
    assert peak_watts([], 1.0) == peak_watts([(0.0, 0.0)], 1.0) == 0.0


def test_peak_of_a_program() -> None:
    """A shorter window has a higher peak, never above that of the hottest launch; above TDP the report says so."""
    peaks = [changed(peak_power_window_us=window).peak_power_watts for window in (0.01, 1.0, 10.0, 1e6)]
    assert peaks == sorted(peaks, reverse=True) and peaks[0] > peaks[-1]
    assert peaks[-1] == pytest.approx(changed().chip_power_watts, rel=1e-9)
    low = changed(tdp_watts=10.0, typical_watts=5.0)
    assert "peak power exceeds TDP: a real chip would throttle; the frequency is not lowered" in low.notes
    assert not any("exceeds TDP" in note for note in changed().notes)


def test_tdp_may_include_the_dram() -> None:
    """Then the peak is that of chip and DRAM devices."""
    result = changed(tdp_includes_dram=True, peak_power_window_us=1e6)
    assert result.peak_power_watts == pytest.approx(result.average_power_watts, rel=1e-9)
    assert result.average_power_watts > result.chip_power_watts


def test_host_link() -> None:
    """What moves over it for its seconds costs energy per bit, and adds nothing to power within the latency."""
    plain, other = changed(), changed(**{"energy.host_per_bit": 600.0})
    moved = plain.host_link_seconds * MACHINE.control.host_bytes_per_second
    assert plain.energy_parts_joules["host_link"] == pytest.approx(moved * 8 * 6e-12, rel=1e-12)
    assert other.energy_joules - plain.energy_joules == pytest.approx(moved * 8 * 594e-12, rel=1e-9)
    assert other.chip_power_watts == pytest.approx(plain.chip_power_watts, rel=1e-9)
    assert other.peak_power_watts == pytest.approx(plain.peak_power_watts, rel=1e-12)
