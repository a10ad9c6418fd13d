"""What a change of size does to a machine's energy figures, so that a sweep gets no leakage, clock or wire for free.

`energy.leakage_watts`, `energy.uncore_watts`, energies per byte and `tdp_watts` are plain fields of a machine: a sweep
that changes PEs or SRAM leaves them as they are. `scaled_energy` gives the changes that size asks for, relative to the
base machine of the sweep. It holds within one process; a machine in another one needs energy figures of its own. Only
ratios to the base count, so a machine like its base is not changed at all.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from isa.errors import MachineError
from isa.machine import Machine
from isa.machine_sections import PerDtype
from sweeps.area import mega_gates, tile_mm2
from sweeps.sourced_figures import Figure, Figures, between_processes, meaning, read_toml

_MEGABYTE, _PICO = 1e6, 1e-12
_BYTES = {"int8": 1, "fp8": 1, "fp16": 2, "bf16": 2, "fp32": 4}
_CORES_PER_PE = 2


class ScalingRules(Figures):
    """Shares and exponents."""

    clock_share: Figure = meaning("part of uncore_watts that grows with logic")
    router_picojoules_per_byte: Figure = meaning("part of a hop that is no wire", "pJ/byte")
    local_memory_exponent: Figure = meaning("local memory: energy per byte grows with capacity to this power")
    slice_wire_share: Figure = meaning("part of an SRAM access that grows with the side of a slice")
    instructions_per_cycle: Figure = meaning("instructions of a scalar core per cycle at peak power")


class ScalingFigures(Figures):
    """All of `scaling_figures.toml`."""

    sram_milliwatts_per_megabyte: dict[int, Figure] = meaning("leakage of hot SRAM, by process", "mW/MB")
    rules: ScalingRules


@functools.cache
def scaling_figures() -> ScalingFigures:
    """Return the figures of `scaling_figures.toml`."""
    return ScalingFigures.model_validate(read_toml("scaling_figures.toml"))


def scaled_energy(machine: Machine, base: Machine) -> dict[str, float]:
    """Return values by dotted path, for `machine.with_changes`, of what differs from `base` because of size.

    A field that `machine` sets to another value than `base` is its own and stays. MachineError if the machines are of
    different processes, or as `area_of`.
    """
    if machine.process_nm != base.process_nm:
        raise MachineError(
            f"{machine.process_nm:g} nm: energy figures of {base.process_nm:g} nm do not hold there",
            where="process_nm",
            help="a base machine of that process has energy figures of its own",
        )
    changes = _own_left_out(machine, base, dict(_energies(machine, base)))
    grown = machine.with_changes(changes) if changes else machine
    ratio = peak_watts(grown) / peak_watts(base)
    powers = {path: base.value(path) * ratio for path in ("tdp_watts", "typical_watts")}
    return changes | _own_left_out(machine, base, powers)


def with_scaled_energy(machine: Machine, base: Machine) -> Machine:
    """Return the machine with the changes of `scaled_energy`; errors as there."""
    changes = scaled_energy(machine, base)
    return machine.with_changes(changes) if changes else machine


def _own_left_out(machine: Machine, base: Machine, values: dict[str, float]) -> dict[str, float]:
    inherited = {path: value for path, value in values.items() if machine.value(path) == base.value(path)}
    return {path: value for path, value in inherited.items() if value != base.value(path)}


def _energies(machine: Machine, base: Machine) -> Iterator[tuple[str, float]]:
    """Yield energy figures of a machine by path.

    leakage = SRAM's part x bytes + logic's part x gates; uncore = constant part + clock's part x gates; a hop = router
    + wire x distance of routers; local memory ~ capacity ^ 0.6; an SRAM access = macro + wire x side of a slice. `x`
    is the ratio to the base.
    """
    rules, energy = scaling_figures().rules, base.energy
    gates = mega_gates(machine) / mega_gates(base)
    sram = _sram_leakage_watts(base)
    logic = energy.leakage_watts - sram
    yield "energy.leakage_watts", sram * (_sram_bytes(machine) / _sram_bytes(base)) + logic * gates
    clock = rules.clock_share.value
    yield "energy.uncore_watts", energy.uncore_watts * _grown(clock, gates)
    router = (
        min(rules.router_picojoules_per_byte.value / energy.noc_per_byte_hop, 1.0) if energy.noc_per_byte_hop else 1.0
    )
    distance = _router_distance_mm(machine) / _router_distance_mm(base)
    yield "energy.noc_per_byte_hop", energy.noc_per_byte_hop * _grown(1 - router, distance)
    capacity = machine.pe.local_memory_bytes / base.pe.local_memory_bytes
    for name in ("local_memory_read_per_byte", "local_memory_write_per_byte"):
        yield f"energy.{name}", getattr(energy, name) * capacity**rules.local_memory_exponent.value
    side = (machine.sram.bytes / machine.sram.slices / (base.sram.bytes / base.sram.slices)) ** 0.5
    for name in ("sram_read_per_byte", "sram_write_per_byte"):
        yield f"energy.{name}", getattr(energy, name) * _grown(rules.slice_wire_share.value, side)


def _grown(share: float, ratio: float) -> float:
    """Return 1 + share x (ratio - 1): exactly 1 if the ratio is 1."""
    return 1 + share * (ratio - 1)


def _sram_bytes(machine: Machine) -> int:
    return machine.sram.bytes + machine.total_local_memory_bytes


def _sram_leakage_watts(machine: Machine) -> float:
    """Part of a machine's leakage that is SRAM: mW/MB of its process x capacity, at most all of it."""
    known = scaling_figures().sram_milliwatts_per_megabyte
    per_megabyte = between_processes(machine.process_nm, {node: figure.value for node, figure in known.items()})
    return min(machine.energy.leakage_watts, per_megabyte / 1e3 * _sram_bytes(machine) / _MEGABYTE)


def _router_distance_mm(machine: Machine) -> float:
    """Distance of neighbouring routers, mean over both axes: side of a tile x PEs of a cluster."""
    return float(tile_mm2(machine) ** 0.5 * (machine.noc.cluster_rows + machine.noc.cluster_columns) / 2)


def peak_watts(machine: Machine) -> float:
    """Return the power of everything at its peak at once, in W: what a TDP is about.

    Multipliers of the hungriest dtype with their reads of local memory (two blocks of a step: 2 / block_rows bytes per
    byte of operand), all bandwidth of SRAM over the mean hops, of DRAM and of the host link, both cores of each PE,
    leakage, clock. DRAM devices count where `tdp_includes_dram`. Comes to 82 to 87 W for MTIA 2i, whose TDP is 85.
    """
    energy, dram = machine.energy, machine.dram
    sram = machine.sram_bytes_per_second * (
        energy.sram_read_per_byte + energy.local_memory_write_per_byte + machine.mean_hops * energy.noc_per_byte_hop
    )
    instructions = scaling_figures().rules.instructions_per_cycle.value * machine.cycles_per_second
    cores = _CORES_PER_PE * machine.pe_count * instructions * energy.scalar_instruction
    voltage = machine.voltage_volts / energy.reference_voltage_volts
    clock = machine.frequency_mhz / energy.reference_frequency_mhz
    events = (_multiplier_picowatts(machine) + sram + cores) * _PICO * voltage**2
    constant = energy.leakage_watts * voltage + energy.uncore_watts * clock * voltage**2
    interfaces = (
        8
        * _PICO
        * (
            dram.bytes_per_second * energy.dram_phy_per_bit
            + machine.control.host_bytes_per_second * energy.host_per_bit
        )
    )
    devices = 8 * _PICO * dram.bytes_per_second * energy.dram_device_per_bit
    devices += energy.dram_background_milliwatts_per_gigabyte / 1e3 * dram.bytes / 1e9
    return events + constant + interfaces + (devices if machine.tdp_includes_dram else 0.0)


def _multiplier_picowatts(machine: Machine) -> float:
    """Hungriest dtype of the matrix engines: multipliers and the reads of their operands, in pJ/s."""
    energy, rows = machine.energy, machine.matrix.block_rows
    return max(
        machine.peak_macs_per_second(dtype)
        * (energy.mac_by_dtype[dtype] + 2 * _BYTES[dtype] / rows * energy.local_memory_read_per_byte)
        for dtype in PerDtype.model_fields
        if machine.matrix.rate_by_dtype[dtype]
    )
