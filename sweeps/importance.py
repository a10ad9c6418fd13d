"""How much each parameter of a sweep matters to an objective, as shares of the variance of the objective.

The points are put in groups by the value of each parameter (one with many values by equal parts of them; points that
lack a conditional parameter are a group of their own). An additive model with a level per group of each parameter is
fitted by least squares to the logarithm of the objective (the objective itself if it is not positive). A parameter's
share is what it adds to the explained variance, averaged over all orders in which parameters could be added:
Lindeman, Merenda, Gold 1980, "Introduction to Bivariate and Multivariate Analysis"; the same as the Shapley value of
Owen 2014, "Sobol' indices and Shapley value". So correlated parameters, as a search that converges makes them, share
fairly, and on a full grid the shares are the first-order Sobol' indices. Explained variance is the adjusted R^2
(Wherry 1931), so that parameters without effect get about 0 also if points are few.

What the shares leave to 1 is interaction of parameters and what the groups are too coarse for. No randomness: equal
tables give equal shares.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweeps.pareto import usable
from sweeps.points import Objective, ParameterValue, SweepTable

MOST_GROUPS = 8
"""Groups of one parameter at most."""
POINTS_PER_LEVEL = 3
"""Points there must be for each level of the model, or parameters get fewer groups."""
MOST_PARAMETERS_IN_ALL_ORDERS = 8
"""Beyond it the shares are averaged over a fixed set of orders instead of over all."""
_ORDERS = 64


@dataclass(frozen=True, slots=True)
class Importance:
    """Shares of the variance of one objective by parameter, all of them at least 0; `explained` is their sum.

    `note` says why there are no shares, if so; `points` is how many points they come from.
    """

    objective: str
    shares: Mapping[str, float]
    explained: float
    points: int
    note: str


def importances(table: SweepTable) -> tuple[Importance, ...]:
    """Return the importance of every parameter for each objective, from the points that are ok and have the figure."""
    return tuple(_importance(table, objective) for objective in table.objectives)


def _importance(table: SweepTable, objective: Objective) -> Importance:
    rows = [row for row in usable(table) if math.isfinite(row.figures.get(objective.name, math.nan))]
    response = np.array([row.figures[objective.name] for row in rows], np.float64)
    values = {name: [row.values.get(name) for row in rows] for name in table.parameters}
    shares, note = variance_shares(response, values)
    return Importance(objective.name, shares, sum(shares.values()), len(rows), note)


def feasibility_importance(table: SweepTable) -> Importance:
    """Return the importance of every parameter for whether a point is feasible at all (failed points left out)."""
    rows = [row for row in table.rows if row.status != "failed"]
    response = np.array([float(row.status == "infeasible") for row in rows])
    values = {name: [row.values.get(name) for row in rows] for name in table.parameters}
    shares, note = variance_shares(response, values)
    return Importance("feasibility", shares, sum(shares.values()), len(rows), note)


def variance_shares(
    response: NDArray[np.float64], values: Mapping[str, Sequence[ParameterValue | None]]
) -> tuple[dict[str, float], str]:
    """Return (share of the variance of `response[n]` by parameter, "" or why all are 0).

    `values` has n entries for each parameter, None where it is absent.
    """
    nothing = dict.fromkeys(values, 0.0)
    target = np.log(response) if len(response) and (response > 0).all() else response
    spread = float(np.ptp(target)) if len(target) else 0.0
    if spread <= 1e-12 * max(1.0, float(np.abs(target).max(initial=0.0))):
        return nothing, "it is the same for all points" if len(target) > 1 else "there are too few points"
    levels = _levels(values, len(target))
    if levels is None:
        return nothing, f"there are too few points ({len(target)})"
    active = [name for name, columns in levels.items() if columns.shape[1]]
    if not active:
        return nothing, "no parameter varies"
    explained = _ExplainedVariance([levels[name] for name in active], target)
    shares = dict(zip(active, _shapley(len(active), explained), strict=True))
    return {name: max(0.0, shares.get(name, 0.0)) for name in values}, ""


def _levels(
    values: Mapping[str, Sequence[ParameterValue | None]], points: int
) -> dict[str, NDArray[np.float64]] | None:
    """Return the indicator columns [points, groups - 1] of each parameter, with as many groups as the points allow."""
    places = {name: _places(column) for name, column in values.items()}
    for most in range(MOST_GROUPS, 1, -1):
        levels = {name: _indicators(_groups(place, most)) for name, place in places.items()}
        if points >= POINTS_PER_LEVEL * (1 + sum(columns.shape[1] for columns in levels.values())):
            return levels
    return None


def _places(column: Sequence[ParameterValue | None]) -> NDArray[np.int64]:
    """Return the place of each point's value among the distinct ones in order; -1 if it is absent."""
    present = sorted({value for value in column if value is not None}, key=_order)
    place: dict[ParameterValue | None, int] = {value: index for index, value in enumerate(present)}
    return np.array([place.get(value, -1) for value in column], np.int64)


def _groups(places: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return the group of each point: its value, or the part of the distinct values that it falls into; -1 if absent.

    Equal parts of the distinct values: a search visits some far more often, but they say no more about the rest.
    """
    count = int(places.max(initial=-1)) + 1
    return places if count <= most else np.where(places < 0, -1, places * most // count)


def _order(value: ParameterValue) -> tuple[int, float, str]:
    return (1, 0.0, value) if isinstance(value, str) else (0, float(value), "")


def _indicators(groups: NDArray[np.int64]) -> NDArray[np.float64]:
    known = np.unique(groups)
    return np.asarray(groups[:, None] == known[None, 1:], np.float64)


class _ExplainedVariance:
    """The adjusted R^2 of the additive model with some of the parameters, by their places; computed once for each."""

    def __init__(self, levels: Sequence[NDArray[np.float64]], target: NDArray[np.float64]) -> None:
        centred = [columns - columns.mean(axis=0) for columns in levels]
        every = np.concatenate(centred, axis=1)
        residual = target - target.mean()
        self._points = len(target)
        self._gram, self._moment = every.T @ every, every.T @ residual
        self._total = float(residual @ residual)
        ends = list(itertools.accumulate(columns.shape[1] for columns in levels))
        self._places = [np.arange(end - columns.shape[1], end) for end, columns in zip(ends, levels, strict=True)]
        self._known: dict[frozenset[int], float] = {frozenset(): 0.0}

    def __call__(self, members: frozenset[int]) -> float:
        if members not in self._known:
            chosen = np.concatenate([self._places[index] for index in sorted(members)])
            solution, _, rank, _ = np.linalg.lstsq(
                self._gram[np.ix_(chosen, chosen)], self._moment[chosen], rcond=1e-10
            )
            share = float(solution @ self._moment[chosen]) / self._total
            freedom = max(1, self._points - 1 - int(rank))
            self._known[members] = 1 - (1 - share) * (self._points - 1) / freedom
        return self._known[members]


def _shapley(count: int, value: _ExplainedVariance) -> list[float]:
    """Return each player's gain in `value`, averaged over the orders in which players may join."""
    if count > MOST_PARAMETERS_IN_ALL_ORDERS:
        return _shapley_of_orders(count, value)
    gains = [0.0] * count
    for size in range(count):
        weight = 1 / (count * math.comb(count - 1, size))
        for members in itertools.combinations(range(count), size):
            before = frozenset(members)
            for player in range(count):
                if player not in before:
                    gains[player] += weight * (value(before | {player}) - value(before))
    return gains


def _shapley_of_orders(count: int, value: _ExplainedVariance) -> list[float]:
    gains, orders = [0.0] * count, _fixed_orders(count)
    for order in orders:
        joined: frozenset[int] = frozenset()
        for player in order:
            gains[player] += (value(joined | {player}) - value(joined)) / len(orders)
            joined |= {player}
    return gains


def _fixed_orders(count: int) -> list[tuple[int, ...]]:
    """Return about _ORDERS orders, with their reverses, in which every player stands in each place equally often."""
    steps = [step for step in range(1, count // 2 + 1) if math.gcd(step, count) == 1][: max(1, _ORDERS // (2 * count))]
    both = [*steps, *(count - step for step in steps)]
    return [tuple((start + index * step) % count for index in range(count)) for step in both for start in range(count)]
