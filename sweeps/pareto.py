"""The Pareto front of points: who is on it, which point is its knee, what lies beside a point, and what beats the base.

Everything here minimises; `oriented` turns the figures of a table round where an objective is to be maximised.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isa.errors import ToolError
from sweeps.points import Objective, ParameterValue, PointRow, SweepTable

Values = NDArray[np.float64]
Indices = NDArray[np.int64]


def front(values: Values) -> Indices:
    """Return the indices, ascending, of the rows of `values[n, k]` that no other row dominates; all k are minimised.

    A row dominates another if it is nowhere greater and somewhere less, so of equal rows all or none are on the front.
    O(n log n) for k up to 3 whatever the front; O(n x front) beyond. ToolError if a value is not finite.
    """
    values = _checked(values)
    count, width = values.shape
    if not count or not width:
        return np.arange(count)
    order = np.lexsort(values.T[::-1])
    ordered = values[order]
    is_new = np.ones(count, bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    unique = ordered[is_new]  # of these a row can be dominated only by rows before it
    if width <= 2:
        dominated = _behind_a_staircase(unique[:, -1]) if width == 2 else np.arange(len(unique)) > 0
    elif width == 3:
        dominated = _behind_a_surface(unique[:, 1], unique[:, 2])
    else:
        dominated = _behind_any(unique)
    return np.sort(order[~dominated[np.cumsum(is_new) - 1]])


def _checked(values: Values) -> Values:
    values = np.asarray(values, np.float64)
    if values.ndim != 2:
        raise ToolError(f"values of points need a row for each and a column for each objective, not {values.ndim} axes")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise ToolError(f"objective {column} of point {row} is {values[row, column]}", where="Pareto front",
                        help="only finite values can be compared: leave such points out")  # fmt: skip
    return values


def _behind_a_staircase(second: Values) -> NDArray[np.bool_]:
    """Return which of distinct points in lexicographic order are dominated, given their second values."""
    best = np.minimum.accumulate(second)
    return np.concatenate([[False], best[:-1] <= second[1:]])


def _behind_a_surface(second: Values, third: Values) -> NDArray[np.bool_]:
    """Return which of distinct points in lexicographic order are dominated, given their second and third values.

    Blocks of twice the size at each level: a point of the right half is dominated if among the points of the left half
    with no greater second value there is one with no greater third. Halves come sorted by the second value from the
    level below, and a stable sort merges two sorted runs in linear time.
    """
    count = len(second)
    size = 1 << max(0, count - 1).bit_length()
    key, value = np.full(size, np.inf), np.full(size, np.inf)
    key[:count], value[:count] = second, third
    dominated, point = np.zeros(size, bool), np.arange(size)
    width = 2
    while width <= size:
        # Left first among equal keys: the sort is stable.
        rows = np.argsort(key.reshape(-1, width), axis=1, kind="stable")
        rows += np.arange(0, size, width)[:, None]
        flat = rows.ravel()
        is_left = (flat & (width - 1)) < width // 2
        key, value, point = key[flat], value[flat], point[flat]
        best = np.minimum.accumulate(np.where(is_left, value, np.inf).reshape(-1, width), axis=1).ravel()
        dominated[point[~is_left & (best <= value) & (point < count)]] = True
        width *= 2
    return dominated[:count]


def _behind_any(unique: Values) -> NDArray[np.bool_]:
    """Return which of distinct points in lexicographic order are dominated, each front point against all behind it."""
    dominated = np.zeros(len(unique), bool)
    left = np.arange(len(unique))
    while len(left):
        first, left = left[0], left[1:]  # no row before it is left, so none dominates it
        behind = (unique[left] >= unique[first]).all(axis=1)
        dominated[left[behind]] = True
        left = left[~behind]
    return dominated


def knee(values: Values, members: Indices) -> int:
    """Return the index of the knee: the member of the front that lies farthest below the plane of compromise.

    Each objective is put on a logarithmic scale (if all its values on the front have the same sign; else a linear one)
    and normalised to 0 (best on the front) .. 1 (worst on the front); one that is the same on all of the front does
    not count. The plane is where the normalised values sum to 1: for two objectives the straight line between the two
    ends of the front (Das 1999, "On characterizing the 'knee' of the Pareto curve"). The distance below it grows as the
    sum shrinks, so the knee has the least sum; of equal ones it is the first.

    `values[n, k]` are minimised, `members` are indices of at least one row. ToolError if there is none.
    """
    if not len(members):
        raise ToolError("an empty front has no knee", where="Pareto front")
    scaled = normalised(_checked(values)[members])
    return int(members[int(np.argmin(np.round(scaled.sum(axis=1), 12)))])


def normalised(values: Values) -> Values:
    """Return each column on a logarithmic scale (linear, if it has values of both signs or 0) from 0 to 1."""
    columns = []
    for column in values.T:
        if (column > 0).all():
            column = np.log(column)
        elif (column < 0).all():  # figures to be maximised
            column = -np.log(-column)
        low, high = column.min(), column.max()
        columns.append((column - low) / (high - low) if high > low else np.zeros_like(column))
    return np.stack(columns, axis=1) if columns else np.zeros_like(values)


def oriented(rows: Sequence[PointRow], objectives: Sequence[Objective]) -> Values:
    """Return the objectives of points as an array [rows, objectives] to minimise.

    ToolError if a point lacks a figure or has one that is not finite.
    """
    values = np.array([[row.figures.get(objective.name) for row in rows] for objective in objectives], np.float64)
    values = values.reshape(len(objectives), len(rows)).T  # a missing figure is NaN
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, name = rows[bad[0][0]], objectives[bad[0][1]].name
        what = f"is {row.figures[name]}" if name in row.figures else "is missing"
        raise ToolError(f"the figure '{name}' {what}", where=f"point {row.number}",
                        help="a point that is ok has a finite value of every objective")  # fmt: skip
    signs = np.array([1.0 if objective.goal == "minimize" else -1.0 for objective in objectives])
    return np.asarray(values * signs, np.float64)


@dataclass(frozen=True, slots=True)
class Front:
    """The points of a table that none dominates in its objectives, by number, and the knee (None if there are none)."""

    rows: tuple[PointRow, ...]
    knee: PointRow | None


def front_of(table: SweepTable) -> Front:
    """Return the front of the points that are ok. ToolError as of `oriented`."""
    rows = usable(table)
    values = oriented(rows, table.objectives)
    members = front(values)
    middle = rows[knee(values, members)] if len(members) else None
    return Front(tuple(rows[index] for index in members), middle)


def usable(table: SweepTable) -> tuple[PointRow, ...]:
    """Return the points that have figures of their own: those that are ok."""
    return tuple(row for row in table.rows if row.status == "ok")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A point that is one step away: `parameter` differs, from `before` to `after`; "" if only the figures are near."""

    row: PointRow
    parameter: str
    before: ParameterValue | None
    after: ParameterValue | None


def neighbours(table: SweepTable, point: PointRow, nearest: int = 3) -> tuple[Neighbour, ...]:
    """Return the points that differ from `point` in one parameter by one step, then the `nearest` others of the front.

    A step leads to the next greater or smaller number that occurs in the table, or to any other word or truth value.
    A parameter that only one of both has follows from the one that differs and does not count. Near is measured in the
    objectives, normalised over the front as for the knee. Order: that of the parameters, then of the value.
    """
    numbers = {name: _numbers(table, name) for name in table.parameters}
    found = [step for row in usable(table) if (step := _one_step(point, row, numbers))]
    steps = list(
        {(step.parameter, step.after): step for step in reversed(found)}.values()
    )  # the first of equal designs
    order = {name: index for index, name in enumerate(table.parameters)}
    steps.sort(key=lambda step: (order[step.parameter], *_sort_key(step.after), step.row.number))
    chosen = {step.row.number for step in steps} | {point.number}
    if point.status != "ok" and point is not table.baseline:
        return tuple(steps)
    others = [row for row in front_of(table).rows if row.number not in chosen]
    if others:
        scaled = normalised(oriented([point, *others], table.objectives))
        distance = np.sqrt(((scaled[1:] - scaled[0]) ** 2).sum(axis=1))
        by_distance = np.argsort(np.round(distance, 12), kind="stable")[:nearest]
        steps += [Neighbour(others[index], "", None, None) for index in by_distance]
    return tuple(steps)


def _numbers(table: SweepTable, name: str) -> list[float]:
    values = {row.values.get(name) for row in (*table.rows, *([table.baseline] if table.baseline else []))}
    return sorted({float(value) for value in values if value is not None and _is_number(value)})


def _one_step(point: PointRow, row: PointRow, numbers: Mapping[str, Sequence[float]]) -> Neighbour | None:
    shared = point.values.keys() & row.values.keys() & numbers.keys()
    changed = [name for name in shared if point.values[name] != row.values[name]]
    if len(changed) != 1:
        return None
    name = changed[0]
    before, after = point.values[name], row.values[name]
    if _is_number(before) and _is_number(after):
        places = [bisect.bisect_left(numbers[name], float(value)) for value in (before, after)]
        if abs(places[0] - places[1]) != 1:
            return None
    return Neighbour(row, name, before, after)


def _is_number(value: ParameterValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sort_key(value: ParameterValue | None) -> tuple[int, float, str]:
    if value is None or isinstance(value, str):
        return 1, 0.0, value or ""
    return 0, float(value), ""


@dataclass(frozen=True, slots=True)
class Domination:
    """Whether points of a sweep beat its base machine in a pair of objectives.

    `rows` are the points that dominate it in both, best first. If there are none, `nearest` is the ok point that comes
    nearest and `excess` is by which factor it is worse in the objective where it is worse most.
    """

    first: Objective
    second: Objective
    rows: tuple[PointRow, ...]
    nearest: PointRow | None
    excess: float


def dominations(table: SweepTable) -> tuple[Domination, ...]:
    """Return for every pair of objectives which points dominate the base machine; empty if it has no figures.

    Points that are the base machine do not count. Best first is by the product of both gains. ToolError as of
    `oriented`.
    """
    base = table.baseline
    if base is None or base.status != "ok":
        return ()
    rows = tuple(row for row in usable(table) if not row.key_machine or row.key_machine != base.key_machine)
    if not rows:
        return ()
    pairs = itertools.combinations(range(len(table.objectives)), 2)
    values, own = oriented(rows, table.objectives), oriented([base], table.objectives)[0]
    return tuple(_domination(table, rows, values[:, pair], own[list(pair)], pair) for pair in pairs)


def _domination(
    table: SweepTable, rows: Sequence[PointRow], values: Values, own: Values, pair: tuple[int, int]
) -> Domination:
    first, second = (table.objectives[index] for index in pair)
    worse = _log_ratios(values, own)
    beaten = np.flatnonzero((values <= own).all(axis=1) & (values < own).any(axis=1))
    best = beaten[np.argsort(np.round(worse[beaten].sum(axis=1), 12), kind="stable")]
    if len(best):
        return Domination(first, second, tuple(rows[index] for index in best), None, 1.0)
    most = worse.max(axis=1)
    nearest = int(np.argmin(np.round(most, 12)))
    return Domination(first, second, (), rows[nearest], float(np.exp(most[nearest])))


def _log_ratios(values: Values, own: Values) -> Values:
    """Return the logarithm of how many times worse each value is than `own`.

    A column with a 0 or with values of both signs has no ratios: there it is the difference.
    """
    same = (values * own > 0).all(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.sign(own) * np.log(values / own)
    return np.where(same, ratios, np.clip(values - own, -700, 700))
