"""What a sweep hands to those who read it: its points as rows of plain values, and the table of all of them.

A point is one machine of a sweep. Its figures are numbers by name; those that every point has are in `FIGURES`, each
also per workload, as `WORKLOAD.latency_seconds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "infeasible", "discarded", "failed"]
"""ok: all workloads ran and all constraints hold. infeasible: the machine, a workload or a constraint says no.
discarded: not simulated, since even its lower bounds are no better than points before it. failed: an error of ours."""
Goal = Literal["minimize", "maximize"]
ParameterValue = float | int | str | bool
BASELINE_NUMBER = -1
"""Number of the base machine, which is evaluated beside the points."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that objectives and constraints may name: its unit, the goal one would have, and what it means."""

    unit: str
    goal: Goal
    meaning: str


FIGURES: Mapping[str, Figure] = {
    "latency_seconds": Figure("s", "minimize", "time of one run of the entry, job launches included"),
    "throughput_per_second": Figure(
        "1/s", "maximize", "tokens (Llamas) or samples that runs end to end give per second"
    ),
    "energy_per_token_joules": Figure(
        "J", "minimize", "energy of a run over its tokens or samples, host link included"
    ),
    "average_watts": Figure("W", "minimize", "power of chip and DRAM devices over the latency"),
    "peak_watts": Figure("W", "minimize", "highest power of what the TDP is about, over the machine's window"),
    "area_mm2": Figure("mm2", "minimize", "die area"),
    "cost_dollars": Figure("$", "minimize", "chip, memory and board"),
    "performance_per_watt": Figure("1/J", "maximize", "throughput over average power"),
    "performance_per_tco": Figure("1/$", "maximize", "tokens or samples per dollar of owning and running the chip"),
}
"""What every evaluated point has, by name."""
MACHINE_FIGURES = ("area_mm2", "cost_dollars")
"""Figures of the machine alone: they have no form per workload."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A figure and what is wanted of it."""

    name: str
    goal: Goal
    unit: str


@dataclass(frozen=True, slots=True)
class PointRow:
    """One machine of a sweep and what came of it.

    `reason` is empty if the point is ok. `values` has the value of every parameter that is active, by its path.
    `figures` are empty unless the point is ok; those of a discarded one are bounds. `limit` says what limits the
    design, per workload: `decode: DRAM (81 % of the cycles)`. `key_machine` is the digest of the effective machine, ""
    if the values make none.
    """

    number: int
    status: Status
    reason: str
    values: Mapping[str, ParameterValue]
    figures: Mapping[str, float]
    limit: str
    key_machine: str


@dataclass(frozen=True, slots=True)
class SweepTable:
    """All points of a sweep that are known, by number, and the base machine as a point of its own if it is known.

    `workload_texts` says by name what the workloads are: "llama-3-8b, decode, batch 16, past 2048, fp16".
    """

    name: str
    objectives: tuple[Objective, ...]
    parameters: tuple[str, ...]
    rows: tuple[PointRow, ...]
    baseline: PointRow | None
    workloads: tuple[str, ...]
    workload_texts: Mapping[str, str] = field(default_factory=dict)
