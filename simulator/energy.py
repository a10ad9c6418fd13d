"""Energy in joules: counted events times energy per event, plus what flows all the time; see `docs/energy.md`."""

from __future__ import annotations

from isa.dtypes import BY_CODE
from isa.machine import Machine
from simulator import state as st

_PICO = 1e-12
_SIMD_VECTOR_BYTES = 64
_FP32_BYTES = 4


def event_joules(machine: Machine, stats: st.Stats) -> dict[str, float]:
    """Return the joules of each kind of counted event."""
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
    return {part: value * _PICO for part, value in picojoules.items()}


def _mac(machine: Machine, code: int) -> float:
    return machine.energy.mac_by_dtype[BY_CODE[code].name]


def background_joules(machine: Machine, seconds: float) -> dict[str, float]:
    """Return what leakage, clock and DRAM background take over a time."""
    energy = machine.energy
    dram_watts = energy.dram_background_milliwatts_per_gigabyte / 1000 * machine.dram.bytes / 1e9
    return {
        "leakage": energy.leakage_watts * seconds,
        "clock_and_uncore": energy.uncore_watts * seconds,
        "dram_background": dram_watts * seconds,
    }
