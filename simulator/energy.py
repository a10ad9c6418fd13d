"""Energy in joules: counted events times energy per event, plus what flows all the time; see `docs/energy.md`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from isa.dtypes import BY_CODE
from isa.machine import Machine
from simulator import state as st

DRAM_PARTS = ("dram_device", "dram_background")
"""Parts of the energy that are used up in the DRAM devices beside the chip."""
HOST_PART = "host_link"
"""The part that flows before and after the latency."""
_OWN_SUPPLY = ("dram_device", "dram_phy")
"""Parts with events whose supply is not that of the logic."""
_PICO = 1e-12
_SIMD_VECTOR_BYTES = 64
_FP32_BYTES = 4


def event_joules(machine: Machine, stats: st.Stats) -> dict[str, float]:
    """Return the joules of each kind of counted event: on the chip x (voltage / that of reference)^2."""
    energy, counters = machine.energy, stats.counts
    simd_operation = (energy.fp32_add + energy.fp32_multiply) / 2
    simd_elements = int(counters[st.SIMD_ELEMENTS]) + int(counters[st.LUT_ELEMENTS])
    vectors = simd_elements * _FP32_BYTES / _SIMD_VECTOR_BYTES
    dram_bits = 8 * (int(counters[st.DRAM_READ]) + int(counters[st.DRAM_WRITTEN]))
    activations = int(counters[st.DRAM_ROWS]) * energy.dram_activate_per_row
    picojoules = {
        "matrix": sum(
            _mac(machine, code) * int(count)
            for code, count in enumerate(counters[st.ACTIVE_MACS : st.ACTIVE_MACS + 16])
            if count
        ),
        "accumulators": int(counters[st.ACCUMULATOR_ELEMENTS]) * energy.fp32_add,
        "simd": int(counters[st.SIMD_ELEMENTS]) * simd_operation
        + int(counters[st.LUT_ELEMENTS]) * energy.sfu_lut
        + vectors * energy.simd_overhead_per_64_bytes,
        "cores": int(counters[st.SCALAR_INSTRUCTIONS]) * energy.scalar_instruction
        + int(counters[st.COMMANDS]) * energy.command,
        "local_memory": int(counters[st.LOCAL_READ]) * energy.local_memory_read_per_byte
        + int(counters[st.LOCAL_WRITTEN]) * energy.local_memory_write_per_byte,
        "sram": int(counters[st.SRAM_READ] + counters[st.CACHE_HIT]) * energy.sram_read_per_byte
        + int(counters[st.SRAM_WRITTEN] + counters[st.CACHE_FILLED]) * energy.sram_write_per_byte,
        "noc": int(counters[st.BYTE_HOPS]) * energy.noc_per_byte_hop,
        "dram_device": dram_bits * energy.dram_device_per_bit + activations,
        "dram_phy": dram_bits * energy.dram_phy_per_bit,
    }
    scale = _voltage_ratio(machine) ** 2
    return {part: value * _PICO * (1 if part in _OWN_SUPPLY else scale) for part, value in picojoules.items()}


def _voltage_ratio(machine: Machine) -> float:
    return machine.voltage_volts / machine.energy.reference_voltage_volts


def _mac(machine: Machine, code: int) -> float:
    return machine.energy.mac_by_dtype[BY_CODE[code].name]


def product_joules(machine: Machine, dtype: str, macs: int) -> float:
    """Return what so many multiply-accumulates of an element type take."""
    return macs * machine.energy.mac_by_dtype[dtype] * _PICO * _voltage_ratio(machine) ** 2


def traffic_joules(machine: Machine, moved_bytes: int) -> float:
    """Return what moving bytes between DRAM and chip takes, without the rows that are opened for it."""
    return 8 * moved_bytes * (machine.energy.dram_device_per_bit + machine.energy.dram_phy_per_bit) * _PICO


def background_joules(machine: Machine, seconds: float) -> dict[str, float]:
    """Return what flows over a time: leakage ~ voltage, the clock ~ frequency x voltage^2, DRAM background as it is."""
    energy, voltage = machine.energy, _voltage_ratio(machine)
    frequency = machine.frequency_mhz / energy.reference_frequency_mhz
    dram_watts = energy.dram_background_milliwatts_per_gigabyte / 1000 * machine.dram.bytes / 1e9
    return {
        "leakage": energy.leakage_watts * voltage * seconds,
        "clock_and_uncore": energy.uncore_watts * frequency * voltage**2 * seconds,
        "dram_background": dram_watts * seconds,
    }


def energy_parts(machine: Machine, stats: st.Stats, seconds: float) -> dict[str, float]:
    """Return the parts of the energy of commands that were counted over a time."""
    return {**event_joules(machine, stats), **background_joules(machine, seconds)}


def within_tdp(machine: Machine, parts: Mapping[str, float]) -> float:
    """Return the joules of those parts that the machine's TDP is about."""
    return sum(joules for part, joules in parts.items() if machine.tdp_includes_dram or part not in DRAM_PARTS)


def host_joules(machine: Machine, moved_bytes: int) -> dict[str, float]:
    """Return what moving inputs and outputs over the host link takes."""
    return {HOST_PART: 8 * moved_bytes * machine.energy.host_per_bit * _PICO}


def bands(machine: Machine, parts: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return (lowest, highest) believable joules of each part: times its factors of `energy_uncertainty`."""
    factors = {part: machine.energy_uncertainty.factors(part) for part in parts}
    return {part: (factors[part][0] * joules, factors[part][1] * joules) for part, joules in parts.items()}


def band_of_sum(parts: Mapping[str, float], part_bands: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """Return the band of the sum of parts that are off independently: root of the sum of squares, to each side."""
    below = math.hypot(*(joules - part_bands[part][0] for part, joules in parts.items()))
    above = math.hypot(*(part_bands[part][1] - joules for part, joules in parts.items()))
    total = sum(parts.values())
    return total - below, total + above
