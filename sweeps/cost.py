"""What a machine costs to make and to own, from its area, its memory, its power and `CostAssumptions`.

Dollars are good to about a factor of two in all, and better in ratios of machines under the same assumptions;
`docs/area_and_cost.md` shows each assumption with its source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from isa.machine import Machine
from sweeps.area import area_of, die_count, die_mm2, dram_family
from sweeps.cost_assumptions import CostAssumptions, cost_assumptions
from sweeps.sourced_figures import between_processes

__all__ = [
    "Cost",
    "CostAssumptions",
    "Ownership",
    "cost_assumptions",
    "cost_of",
    "dies_per_wafer",
    "dollars_per_million",
    "host_share",
    "joules_per_million",
    "negative_binomial_yield",
    "ownership_of",
    "owning",
    "server_watts",
    "tokens_per_dollar",
    "total_cost_of_ownership_dollars_per_second",
]

_SECONDS_PER_YEAR = 365.25 * 24 * 3600
_JOULES_PER_KILOWATT_HOUR = 3.6e6
_GIGABYTE = 2**30
"""As DRAM is sold."""
_CHANNELS_PER_STACK = {"hbm2": 8, "hbm3": 16, "hbm4": 32}
"""JESD235, JESD238, JESD270-4."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Dollars of one accelerator by part; parts sum up to `chip_dollars`, the price of a module with its memory."""

    die_dollars: float
    package_dollars: float
    memory_dollars: float
    board_dollars: float
    development_dollars: float
    margin_dollars: float
    die_yield: float
    dies_per_wafer: float

    @property
    def chip_dollars(self) -> float:
        """Price of a module: all parts, its share of development, and the margin."""
        return math.fsum(getattr(self, field.name) for field in fields(self) if field.name.endswith("_dollars"))


@dataclass(frozen=True, slots=True)
class Ownership:
    """Dollars per second of owning one accelerator with its part of a server and a facility, by part."""

    chip: float
    host: float
    facility: float
    upkeep: float
    energy: float

    @property
    def total(self) -> float:
        """Total cost of ownership in $/s of wall-clock time."""
        return math.fsum(getattr(self, field.name) for field in fields(self))


def negative_binomial_yield(mm2: float, defects_per_cm2: float, clustering: float) -> float:
    """Return the part of dies without a killing defect: (1 + area x density / alpha) ^ -alpha.

    Stapper, "Defect density distribution for LSI yield calculations", IEEE T-ED 1973; alpha -> infinity is Poisson's.
    """
    return float((1 + mm2 / 100 * defects_per_cm2 / clustering) ** -clustering)


def dies_per_wafer(mm2: float, assumptions: CostAssumptions) -> float:
    """Return dies of a wafer, a fraction on average: pi (d / 2)^2 / S - pi d / sqrt(2 S), at least 1.

    S is the die with its saw street, taken as a square, d the usable diameter. Hennessy & Patterson, "Computer
    Architecture", section 1.6.
    """
    usable = assumptions.wafer_diameter_mm - 2 * assumptions.wafer_edge_mm
    sawn = (math.sqrt(mm2) + assumptions.scribe_mm) ** 2
    return max(1.0, math.pi * (usable / 2) ** 2 / sawn - math.pi * usable / math.sqrt(2 * sawn))


def cost_of(machine: Machine, assumptions: CostAssumptions | None = None) -> Cost:
    """Return what a module of this machine costs, by part; MachineError if its process or DRAM is unknown.

    die: dies x (wafer + its test) / (dies per wafer x yield), where a part of the shared SRAM's area is repaired.
    package: by area of silicon, and what bad packages take with them. board: by TDP with DRAM. development: by chips
    made. margin: (price_multiplier - 1) x everything else.
    """
    a = assumptions or cost_assumptions()
    count = die_count(machine)
    silicon = die_mm2(machine)
    wafer = between_processes(machine.process_nm, a.by_process("wafer_dollars")) + a.wafer_test_dollars
    per_wafer = dies_per_wafer(silicon / count, a)
    die_yield = _die_yield(machine, silicon / count, a)
    die = count * wafer / (per_wafer * die_yield)
    memory = machine.dram.bytes / _GIGABYTE * float(getattr(a, f"{dram_family(machine)}_dollars_per_gigabyte"))
    package = _package_dollars(machine, die, memory, a)
    board = a.board_dollars + a.board_dollars_per_watt * _module_watts(machine)
    development = a.development_dollars / a.chips_made
    margin = (a.price_multiplier - 1) * (die + package + memory + board + development)
    return Cost(die, package, memory, board, development, margin, die_yield, per_wafer)


def _die_yield(machine: Machine, mm2: float, a: CostAssumptions) -> float:
    blocks = area_of(machine)
    sram = math.fsum(block.mm2 for block in blocks if block.is_repairable) / math.fsum(block.mm2 for block in blocks)
    density = between_processes(machine.process_nm, a.by_process("defects_per_cm2"))
    return negative_binomial_yield(mm2 * (1 - a.repaired_sram_share * sram), density, a.defect_clustering)


def _package_dollars(machine: Machine, die: float, memory: float, a: CostAssumptions) -> float:
    """Dollars of packages per good one, with what the bad ones lose: parts x (1 / yield - 1)."""
    stacks, silicon = _hbm_stacks(machine), die_mm2(machine)
    if stacks or die_count(machine) > 1:
        package = a.interposer_dollars + a.interposer_dollars_per_mm2 * (silicon + stacks * a.hbm_stack_mm2)
        lost = die + package + (memory if stacks else 0.0)
        return package + lost * (1 / a.interposer_yield - 1)
    package = a.package_dollars + a.package_dollars_per_mm2 * silicon
    return package + (die + package) * (1 / a.package_yield - 1)


def _hbm_stacks(machine: Machine) -> int:
    """Stacks of HBM by its generation and the machine's channels; 0 for other DRAM."""
    if dram_family(machine) != "hbm":
        return 0
    per_stack = _CHANNELS_PER_STACK.get(machine.dram.kind.lower()[:4], _CHANNELS_PER_STACK["hbm3"])
    return math.ceil(machine.dram.channels / per_stack)


def _module_watts(machine: Machine) -> float:
    """TDP with DRAM devices: where the TDP leaves them out, their background and full bandwidth are added."""
    if machine.tdp_includes_dram:
        return machine.tdp_watts
    energy, dram = machine.energy, machine.dram
    background = energy.dram_background_milliwatts_per_gigabyte / 1e3 * dram.bytes / 1e9
    return machine.tdp_watts + background + dram.bytes_per_second * 8 * energy.dram_device_per_bit * 1e-12


def host_share(machine: Machine, a: CostAssumptions) -> float:
    """Return the part of a server that one accelerator takes: its host link over all links that a server has."""
    return machine.control.host_bytes_per_second / 1e9 / a.host_link_gigabytes_per_second


def server_watts(accelerator_watts: float, host_watts: float, a: CostAssumptions) -> float:
    """Return power at the server's plug: (accelerator / regulators + host) / supply / (1 - share of fans)."""
    supplied = accelerator_watts / a.regulator_efficiency + host_watts
    return supplied / a.supply_efficiency / (1 - a.fan_share)


def owning(
    chip_dollars: float, host_dollars: float, working_watts: float, design_watts: float, a: CostAssumptions
) -> Ownership:
    """Return what it costs per second to own an accelerator and its part of a server.

    Both are paid off in equal parts over `lifetime_years`, the facility by `design_watts` over `facility_years`.
    Energy is working_watts, at the server's plug, x (utilisation + idle share of the rest) x PUE x price. Interest is
    left out.
    """
    lifetime = a.lifetime_years * _SECONDS_PER_YEAR
    duty = a.utilisation + (1 - a.utilisation) * a.idle_power_share
    return Ownership(
        chip=chip_dollars / lifetime,
        host=host_dollars / lifetime,
        facility=design_watts * a.facility_dollars_per_watt / (a.facility_years * _SECONDS_PER_YEAR),
        upkeep=(chip_dollars + host_dollars) * a.upkeep_share_per_year / _SECONDS_PER_YEAR,
        energy=working_watts * duty * a.pue * a.energy_dollars_per_kilowatt_hour / _JOULES_PER_KILOWATT_HOUR,
    )


def ownership_of(machine: Machine, average_watts: float, assumptions: CostAssumptions | None = None) -> Ownership:
    """Return what owning a machine costs that draws `average_watts` (chip and DRAM) at work; errors as `cost_of`."""
    a = assumptions or cost_assumptions()
    share = host_share(machine, a)
    host = share * a.host_watts
    working, design = server_watts(average_watts, host, a), server_watts(_module_watts(machine), host, a)
    return owning(cost_of(machine, a).chip_dollars, share * a.host_dollars, working, design, a)


def total_cost_of_ownership_dollars_per_second(
    machine: Machine, average_watts: float, assumptions: CostAssumptions | None = None
) -> float:
    """Return the total of `ownership_of` in $/s."""
    return ownership_of(machine, average_watts, assumptions).total


def tokens_per_dollar(throughput_per_second: float, dollars_per_second: float, a: CostAssumptions) -> float:
    """Return tokens (or samples) per dollar: throughput at work x utilisation / total cost of ownership."""
    return throughput_per_second * a.utilisation / dollars_per_second


def dollars_per_million(throughput_per_second: float, dollars_per_second: float, a: CostAssumptions) -> float:
    """Return dollars per 10^6 tokens (or samples)."""
    return 1e6 / tokens_per_dollar(throughput_per_second, dollars_per_second, a)


def joules_per_million(throughput_per_second: float, working_watts: float) -> float:
    """Return joules per 10^6 tokens (or samples) at work."""
    return 1e6 * working_watts / throughput_per_second
