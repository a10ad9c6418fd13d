"""From a choice to a machine with the runs it needs, and from the results of those to a point of the table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from isa.errors import ToolError
from isa.machine import Machine
from sweeps.cost_assumptions import cost_assumptions
from sweeps.evaluate import BOUND_OF, Outcome, RunResult, one_line, tool_version
from sweeps.expressions import Expression, Value
from sweeps.figures import MachineFigures, figures_of, machine_figures
from sweeps.points import ParameterValue, PointRow, Status
from sweeps.space import BASE, Choice, Names, assign, digest_of, machine_values, machine_with, own_value
from sweeps.store import StoredPoint
from sweeps.sweep import Sweep

REFUSED = 1.0
"""By how much a point fails that cannot be built or run at all; see `Expression.violation`."""


@dataclass(frozen=True)
class Candidate:
    """A point whose machine can be built: what it is, what it costs, and the keys of its runs by workload."""

    number: int
    choice: Choice
    values: Mapping[str, ParameterValue]
    machine: Machine
    digest: str
    of_machine: MachineFigures
    keys: Mapping[str, str]


class Judge:
    """Decides what a choice is worth, for one sweep."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._assumptions = cost_assumptions(sweep.cost)
        self._of_base = machine_figures(sweep.base, self._assumptions)

    def baseline(self, number: int) -> Candidate:
        """Return the base machine as a candidate, with its own values of the parameters as far as it has any.

        No constraint is asked of it.
        """
        values: dict[str, ParameterValue] = {}
        for parameter in self._sweep.parameters:
            value = own_value(self._sweep.base, parameter, values)
            values |= {} if value is None else {parameter.label: value}
        return self._candidate(number, (), values, self._sweep.base, self._of_base)

    def candidate(self, number: int, choice: Choice) -> Candidate | StoredPoint:
        """Return the candidate of a choice, or the point that it is if no machine comes of it or a constraint fails."""
        sweep, values = self._sweep, dict[str, ParameterValue]()
        try:
            assignment = assign(sweep.base, sweep.parameters, choice)
            values.update(assignment.values)
            machine = machine_with(sweep.base, assignment.changes, sweep.scale_energy)
            of_machine = machine_figures(machine, self._assumptions)
            failing = self._failing(sweep.machine_constraints, self._names(values, machine, of_machine, {}))
        except ToolError as error:
            return _point(number, choice, values, "infeasible", one_line(error), REFUSED)
        if failing is not None:
            return _point(number, choice, values, "infeasible", *failing, machine=digest_of(machine))
        return self._candidate(number, choice, values, machine, of_machine)

    def _candidate(
        self,
        number: int,
        choice: Choice,
        values: Mapping[str, ParameterValue],
        machine: Machine,
        of_machine: MachineFigures,
    ) -> Candidate:
        digest = digest_of(machine)
        keys = {workload.name: run_key(digest, workload.key) for workload in self._sweep.workloads}
        return Candidate(number, choice, values, machine, digest, of_machine, keys)

    def point(self, candidate: Candidate, results: Mapping[str, RunResult], outcome: Outcome | None) -> StoredPoint:
        """Return the point of a candidate, given the results of its runs by key, unless it crashed or was discarded."""
        number, choice, values, machine = candidate.number, candidate.choice, candidate.values, candidate.digest
        if outcome is not None and outcome.crash:
            return _point(number, choice, values, "failed", outcome.crash, REFUSED, machine=machine)
        if outcome is not None and outcome.discarded is not None:
            reason = "its lower bounds are no better than points before it"
            return _point(number, choice, values, "discarded", reason, 0.0, outcome.discarded, machine=machine)
        for name, key in candidate.keys.items():
            result = results.get(key)
            if result is not None and result.status != "ok":
                return _point(
                    number, choice, values, result.status, f"{name}: {result.reason}", REFUSED, machine=machine
                )
        measures = {name: results[key].measures for name, key in candidate.keys.items()}
        figures = self._figures(candidate, measures)
        names = self._names(values, candidate.machine, candidate.of_machine, figures)
        try:
            failing = self._failing(self._sweep.figure_constraints, names) if number >= 0 else None
        except ToolError as error:
            failing = one_line(error), REFUSED
        if failing is not None:
            return _point(number, choice, values, "infeasible", *failing, machine=machine)
        limit = "; ".join(f"{name}: {results[key].limit}" for name, key in candidate.keys.items())
        return _point(number, choice, values, "ok", "", 0.0, figures, limit, machine)

    def bound_figures(self, candidate: Candidate, results: Mapping[str, RunResult]) -> dict[str, float]:
        """Return what the figures were bound to before the runs, which all are known: see `DiscardRule`."""
        return self._figures(candidate, {
            name: {measure: results[key].measures[bound] for measure, bound in BOUND_OF.items()}
            for name, key in candidate.keys.items()
        })  # fmt: skip

    def _figures(self, candidate: Candidate, measures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        workloads = self._sweep.workloads
        return figures_of(candidate.machine, candidate.of_machine, workloads, measures, self._assumptions)

    def _names(
        self,
        values: Mapping[str, ParameterValue],
        machine: Machine,
        of_machine: MachineFigures,
        figures: Mapping[str, float],
    ) -> Mapping[str, Value]:
        costs = {**of_machine.as_dict(), **{f"{BASE}{name}": value for name, value in self._of_base.as_dict().items()}}
        base = self._sweep.base
        return Names({**figures, **costs, **values}, machine_values(machine), machine_values(base, BASE))

    @staticmethod
    def _failing(constraints: tuple[Expression, ...], names: Mapping[str, Value]) -> tuple[str, float] | None:
        """Return (what does not hold, by how much) over all constraints; None if all hold."""
        failing = [expression for expression in constraints if not expression.evaluate(names)]
        if not failing:
            return None
        told = "; ".join(f"{expression.text} does not hold ({_numbers(expression, names)})" for expression in failing)
        return told, sum(expression.violation(names) for expression in failing)


def run_key(machine: str, workload: str) -> str:
    """Return the key of a run: sha256 over the digests of machine, workload and tool version."""
    return hashlib.sha256(f"{machine}\n{workload}\n{tool_version()}".encode()).hexdigest()


def _numbers(expression: Expression, names: Mapping[str, Value]) -> str:
    values = {name: names[name] for name in expression.names}
    return ", ".join(f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}"
                     for name, value in values.items())  # fmt: skip


def _point(
    number: int,
    choice: Choice,
    values: Mapping[str, ParameterValue],
    status: Status,
    reason: str,
    violation: float,
    figures: Mapping[str, float] | None = None,
    limit: str = "",
    machine: str = "",
) -> StoredPoint:
    return StoredPoint(PointRow(number, status, reason, values, figures or {}, limit, machine), choice, violation)
