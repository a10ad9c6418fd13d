"""From what runs measured to the figures of a point: per workload, and combined over all of them.

Combined figures are geometric means weighted by the workloads' weights (so that doubling the speed of one of two equal
workloads counts as much whatever its latency), but for peak power, which is the highest.

All figures get better or stay when a measure does: figures of lower bounds are bounds of the figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isa.machine import Machine
from sweeps.points import FIGURES, MACHINE_FIGURES, Objective
from sweeps.workloads import Workload

if TYPE_CHECKING:
    from sweeps.cost_assumptions import CostAssumptions

MEASURES = ("latency_seconds", "energy_joules", "average_watts", "peak_watts")
"""What a run must measure for its figures."""


@dataclass(frozen=True, slots=True)
class MachineFigures:
    """What a machine costs, whatever runs on it."""

    area_mm2: float
    cost_dollars: float

    def as_dict(self) -> dict[str, float]:
        """Return them by name."""
        return {"area_mm2": self.area_mm2, "cost_dollars": self.cost_dollars}


def machine_figures(machine: Machine, assumptions: CostAssumptions) -> MachineFigures:
    """Return die area and price; MachineError for a machine that the area or cost model does not know."""
    from sweeps.area import die_mm2
    from sweeps.cost import cost_of

    return MachineFigures(die_mm2(machine), cost_of(machine, assumptions).chip_dollars)


def figures_of(
    machine: Machine,
    of_machine: MachineFigures,
    workloads: Sequence[Workload],
    measures: Mapping[str, Mapping[str, float]],
    assumptions: CostAssumptions,
) -> dict[str, float]:
    """Return all figures of a point, given the measures of each workload by its name."""
    by_workload = {
        workload.name: _figures_of_run(machine, workload.tokens, measures[workload.name], assumptions)
        for workload in workloads
    }
    weights = {workload.name: workload.weight for workload in workloads}
    combined = {name: _mean({key: row[name] for key, row in by_workload.items()}, weights)
                for name in by_workload[workloads[0].name]}  # fmt: skip
    combined["peak_watts"] = max(row["peak_watts"] for row in by_workload.values())
    singles = {f"{key}.{name}": value for key, row in by_workload.items() for name, value in row.items()}
    return {**combined, **of_machine.as_dict(), **singles}


def _figures_of_run(
    machine: Machine, tokens: int, measures: Mapping[str, float], assumptions: CostAssumptions
) -> dict[str, float]:
    from sweeps.cost import tokens_per_dollar, total_cost_of_ownership_dollars_per_second

    latency, watts = measures["latency_seconds"], measures["average_watts"]
    throughput = tokens / latency
    dollars = total_cost_of_ownership_dollars_per_second(machine, watts, assumptions)
    return {
        "latency_seconds": latency,
        "throughput_per_second": throughput,
        "energy_per_token_joules": measures["energy_joules"] / tokens,
        "average_watts": watts,
        "peak_watts": measures["peak_watts"],
        "performance_per_watt": throughput / watts,
        "performance_per_tco": tokens_per_dollar(throughput, dollars, assumptions),
    }


def _mean(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the weighted geometric mean; a single value as it is."""
    if len(values) == 1:
        return next(iter(values.values()))
    total = math.fsum(weights.values())
    return math.exp(math.fsum(weights[name] * math.log(value) for name, value in values.items()) / total)


def vector(objectives: Sequence[Objective], figures: Mapping[str, float]) -> tuple[float, ...]:
    """Return the objectives' figures so that less is better in each."""
    return tuple(figures[one.name] * (1 if one.goal == "minimize" else -1) for one in objectives)


def are_bounded(objectives: Sequence[Objective]) -> bool:
    """Tell whether figures of lower bounds are no worse than the figures: not if someone wants, say, more watts."""
    own = {one: one.name.rpartition(".")[2] for one in objectives}
    return all(name in MACHINE_FIGURES or one.goal == FIGURES[name].goal for one, name in own.items())


def is_dominated(point: Sequence[float], front: Sequence[Sequence[float]]) -> bool:
    """Tell whether a vector of `front` is at least as good everywhere, and better somewhere."""
    return any(
        all(other <= own for other, own in zip(row, point, strict=True)) and tuple(row) != tuple(point) for row in front
    )
