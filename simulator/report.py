"""The result of a run or profile: latency, energy, utilization and traffic, in all, per operation and per launch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from isa.machine import Machine
from isa.table import BY_OPCODE, Unit
from simulator import hardware as hw
from simulator import state as st
from simulator.energy import DRAM_PARTS, HOST_PART, band_of_sum

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class OperationReport:
    """One operation of the model in one launch, counted from 0; `kernel` is the name of its code.

    `cycles` are from the end of the operation before it in the launch, or the launch's start, to its last completion:
    those of a launch add up. What else is counted is what its commands did, also before that: weights are loaded while
    the operation before is still computing. `bound_by` is what they kept busiest. Its energy is that of its events, and
    what flows over its duration. `simulator.bounds` says what `lower_bound_cycles` is, and what it is about.
    """

    operation: str
    launch: int
    kernel: str
    start_cycles: int
    cycles: int
    reused: bool
    useful_macs: int
    issued_macs: int
    stated_macs: int
    dram_bytes: int
    sram_bytes: int
    sram_hit_rate: float
    commands: int
    energy_parts_joules: Mapping[str, float]
    lower_bound_cycles: float
    lower_bound_resource: str
    bound_by: str
    utilization: Mapping[str, float]

    @property
    def energy_joules(self) -> float:
        """Sum of the parts."""
        return sum(self.energy_parts_joules.values())

    @property
    def share_of_bound(self) -> float:
        """Lower bound over the cycles it took: 1 is as fast as can be, above 1 is what came while others lasted."""
        return self.lower_bound_cycles / self.cycles if self.cycles else 0.0


@dataclass(frozen=True)
class LaunchReport:
    """One launch: `cycles` from its start to its last completion, without the job launch before it.

    `bound_by` is what was busiest; the lower bound is that of its operations together.
    """

    name: str
    kernel: str
    start_cycles: int
    cycles: int
    reused: bool
    lower_bound_cycles: float
    lower_bound_resource: str
    bound_by: str
    utilization: Mapping[str, float]

    @property
    def share_of_bound(self) -> float:
        """Lower bound over the cycles it took: 1 is as fast as can be."""
        return self.lower_bound_cycles / self.cycles if self.cycles else 0.0


@dataclass(frozen=True)
class Report:
    """Everything a run tells about time and energy. Utilization = busy / interval of that unit, never above 1.

    `sram_bytes` are those of addressed SRAM; `cache_bytes` of it cache DRAM, and what they deliver and take in are the
    two after it. `sram_hit_rate` is the share of all bytes read from shared memory that SRAM delivered, either way.

    The host link is a part of the energy, but of no power: it flows before and after the latency.
    `launch_energy_parts_joules` is what flows while jobs are launched. Peak power is that of what the TDP is about:
    the chip, with its DRAM devices if `tdp_includes_dram`; it is the mean over the worst `peak_window_seconds`.
    """

    machine: str
    entry: str
    dims: Mapping[str, int]
    latency_seconds: float
    cycles: int
    launch_cycles: int
    tdp_watts: float
    tdp_includes_dram: bool
    peak_power_watts: float
    peak_window_seconds: float
    energy_parts_joules: Mapping[str, float]
    energy_part_bands_joules: Mapping[str, tuple[float, float]]
    launch_energy_parts_joules: Mapping[str, float]
    utilization: Mapping[str, float]
    busy_cycles: Mapping[str, float]
    idle_cycles: Mapping[str, float]
    dram_read_bytes: int
    dram_written_bytes: int
    sram_bytes: int
    cache_bytes: int
    cache_hit_bytes: int
    cache_filled_bytes: int
    sram_hit_rate: float
    noc_bytes: int
    lower_bound_seconds: float
    lower_bound_resource: str
    lower_bounds_seconds: Mapping[str, float]
    dram_bound_seconds: float
    dram_peak_bytes_per_second: float
    dram_deliverable_bytes_per_second: float
    useful_macs: int
    issued_macs: int
    model_utilization: float
    instructions: int
    commands_by_name: Mapping[str, int]
    host_link_seconds: float
    simulated_launches: int
    notes: tuple[str, ...]
    operations: tuple[OperationReport, ...] = field(repr=False)
    launches: tuple[LaunchReport, ...] = field(repr=False)

    @property
    def energy_joules(self) -> float:
        """Sum of the parts."""
        return sum(self.energy_parts_joules.values())

    @property
    def share_of_bound(self) -> float:
        """Lower bound over latency: 1 is as fast as can be."""
        return self.lower_bound_seconds / self.latency_seconds if self.latency_seconds else 0.0

    @property
    def energy_band_joules(self) -> tuple[float, float]:
        """Lowest and highest believable energy, if the parts are off independently."""
        return band_of_sum(self.energy_parts_joules, self.energy_part_bands_joules)

    @property
    def dram_energy_joules(self) -> float:
        """What the DRAM devices beside the chip use."""
        return sum(self.energy_parts_joules[part] for part in DRAM_PARTS)

    @property
    def chip_energy_joules(self) -> float:
        """What the chip uses, host link included: all but the DRAM devices."""
        return sum(joules for part, joules in self.energy_parts_joules.items() if part not in DRAM_PARTS)

    @property
    def average_power_watts(self) -> float:
        """Power of chip and DRAM devices over the latency."""
        return self._watts(self.energy_joules - self.energy_parts_joules[HOST_PART])

    @property
    def chip_power_watts(self) -> float:
        """Power of the chip alone over the latency."""
        return self._watts(self.chip_energy_joules - self.energy_parts_joules[HOST_PART])

    @property
    def dram_power_watts(self) -> float:
        """Power of the DRAM devices over the latency."""
        return self._watts(self.dram_energy_joules)

    def _watts(self, joules: float) -> float:
        return joules / self.latency_seconds if self.latency_seconds else 0.0

    @property
    def dram_bytes(self) -> int:
        """Bytes read and written at the DRAM."""
        return self.dram_read_bytes + self.dram_written_bytes

    @property
    def commands(self) -> int:
        """Commands started by units (pushes and pops not counted)."""
        return sum(self.commands_by_name.values())

    def to_dict(self) -> dict[str, object]:
        """Return plain values; `ops` has one row for each operation of each launch."""
        values: dict[str, object] = {"schema_version": SCHEMA_VERSION}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            values[name] = dict(value) if isinstance(value, Mapping) else value
        values |= {name: getattr(self, name) for name in _DERIVED}
        values["macs"] = self.useful_macs
        values["energy_part_bands_joules"] = {part: list(band) for part, band in self.energy_part_bands_joules.items()}
        values["energy_band_joules"], values["notes"] = list(self.energy_band_joules), list(self.notes)
        values["ops"] = [_plain(operation) for operation in self.operations]
        values["launches"] = [_plain_launch(launch) for launch in self.launches]
        del values["operations"]
        return values

    def to_json(self) -> str:
        """Return the report as JSON text; keys in a fixed order."""
        return json.dumps(self.to_dict(), indent=1)

    def __str__(self) -> str:
        from simulator.report_text import render

        return render(self)


_DERIVED = ("energy_joules", "share_of_bound", "chip_energy_joules", "dram_energy_joules", "average_power_watts",
            "chip_power_watts", "dram_power_watts", "dram_bytes", "commands")  # fmt: skip
"""Properties of a report that its plain values hold too, besides its fields."""


def _plain(operation: OperationReport) -> dict[str, object]:
    values = {name: getattr(operation, name) for name in operation.__dataclass_fields__}
    parts = dict(operation.energy_parts_joules)
    return {**values, "energy_joules": operation.energy_joules, "share_of_bound": operation.share_of_bound,
            "energy_parts_joules": parts,
            "utilization": dict(operation.utilization)}  # fmt: skip


def _plain_launch(launch: LaunchReport) -> dict[str, object]:
    values = {name: getattr(launch, name) for name in launch.__dataclass_fields__}
    return {**values, "share_of_bound": launch.share_of_bound, "utilization": dict(launch.utilization)}


def busy_ticks(machine: Machine, stats: st.Stats) -> dict[str, tuple[int, int]]:
    """Return (busy ticks summed over all instances, number of instances) per kind of resource."""
    units = {"dpe": Unit.DPE, "se": Unit.SE, "re": Unit.RE, "mlu": Unit.MLU, "fi": Unit.FI}
    busy = {name: (int(stats.counts[st.BUSY + unit]), machine.pe_count) for name, unit in units.items()}
    busy["local_memory"] = int(stats.counts[st.BUSY + st.LOCAL]), machine.pe_count
    servers = _shared_servers(machine)
    return busy | {name: (int(stats.server_busy[row].sum()), count) for name, (row, count) in servers.items()}


def _shared_servers(machine: Machine) -> dict[str, tuple[int, int]]:
    """Return (row of `Stats.server_busy`, number of instances) per kind of server that PEs share."""
    return {
        "sram": (st.SRAM_BANKS, machine.sram.slices * machine.sram.banks),
        "noc": (st.LINKS, len(machine.network.links)),
        "dram": (st.CHANNELS, machine.dram.channels),
    }


def utilization_of(machine: Machine, stats: st.Stats, ticks: int) -> dict[str, float]:
    """Return busy / interval of each kind of resource, averaged over its instances."""
    return {
        name: busy / (ticks * count) if ticks else 0.0 for name, (busy, count) in busy_ticks(machine, stats).items()
    }


def add_stats(total: st.Stats, part: st.Stats) -> None:
    """Add one launch's counters to a total, but for those of its parts."""
    total.counts[:] += part.counts
    total.server_busy[:] += part.server_busy


def command_counts(stats: st.Stats) -> dict[str, int]:
    """Return how often each command was started, by name, in order of opcode."""
    return {BY_OPCODE[opcode].name: int(count) for opcode, count in enumerate(stats.counts[: st.ISSUED_MACS]) if count}


def sram_hit_rate(stats: st.Stats) -> float:
    """Return the share of the bytes read from shared memory that SRAM delivered, as a cache or not; 0 for none."""
    counts = stats.counts
    hits = int(counts[st.SRAM_READ] + counts[st.CACHE_HIT])
    read = hits + int(counts[st.DRAM_READ])
    return hits / read if read else 0.0


def bound_of(machine: Machine, stats: st.Stats, ticks: int) -> str:
    """Return the busiest kind of resource of a launch or operation, or `latency` if none is busy for a third of it.

    Of channels, banks and links the busiest one counts, since all may wait for it; PEs share their work.
    """
    utilization = utilization_of(machine, stats, ticks)
    for name, (row, _) in _shared_servers(machine).items():
        utilization[name] = int(stats.server_busy[row].max()) / ticks if ticks else 0.0
    name = max(utilization, key=lambda key: utilization[key])
    return name if utilization[name] > 1 / 3 else "latency"


def cycles_of(ticks: int) -> int:
    """Return whole cycles, rounded up."""
    return -(-ticks // hw.TICKS_PER_CYCLE)
