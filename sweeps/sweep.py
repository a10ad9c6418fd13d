"""`Sweep`: everything that a sweep file says, checked, as one frozen value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isa.machine import Machine
from sweeps.expressions import Expression
from sweeps.points import Objective
from sweeps.space import MOST_COUNTED, Parameter, grid_size
from sweeps.sweep_sections import BudgetSection, SamplerSection
from sweeps.workloads import Workload


@dataclass(frozen=True)
class Sweep:
    """A base machine, what varies, what must hold, what runs, what is wanted, and how points are chosen.

    `machine_constraints` name nothing that has to be simulated, `figure_constraints` do. `cost` is a table of
    `CostAssumptions`. `definition` is all of it as plain values: `sweep_file.from_definition` makes the same of it.
    `places` says where the workloads stand in the file, by name: "sweep.toml:12".
    """

    name: str
    base: Machine
    scale_energy: bool
    parameters: tuple[Parameter, ...]
    machine_constraints: tuple[Expression, ...]
    figure_constraints: tuple[Expression, ...]
    workloads: tuple[Workload, ...]
    objectives: tuple[Objective, ...]
    sampler: SamplerSection
    budget: BudgetSection
    cost: Mapping[str, Any]
    definition: Mapping[str, Any]
    places: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def digest(self) -> str:
        """Sha256 of the definition."""
        text = json.dumps(self.definition, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def total(self) -> int | None:
        """How many points it will have: what the budget says or the space has; None if that is not known."""
        points = self.budget.points
        if points is None:
            return grid_size(self.base, self.parameters) if self.sampler.kind == "grid" else None
        size = grid_size(self.base, self.parameters, min(points, MOST_COUNTED))
        return points if size is None else min(points, size)
