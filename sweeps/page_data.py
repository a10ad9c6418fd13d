"""What the page of a sweep shows, as plain data: points (thinned if they are many), axes, lines, shares, limits."""

from __future__ import annotations

import hashlib
import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeps.importance import Importance, feasibility_importance, importances
from sweeps.page_prose import MOST_LINES
from sweeps.pareto import Front, Neighbour, front, front_of, neighbours, oriented, usable
from sweeps.points import FIGURES, ParameterValue, PointRow, SweepTable
from sweeps.summary import along_front, limits
from sweeps.wording import (
    figure_label,
    figure_unit,
    parameter_label,
    parameter_text,
    plain,
    scale_of,
    short_names,
    shown_unit,
)

MOST_OF_FRONT, MOST_OTHERS, MOST_WITHOUT_FIGURES = 1500, 3000, 1500
"""How many points the charts show: of the front, of the others that are ok, and of those that are not ok."""
MOST_LINE_POINTS = 1000
MOST_LIMITS, MOST_FRONT_ROWS = 120, 60
"""How many points of the front have a bar in the chart of limits, and a row in the table."""
_MOST_TICKS = 9
_LOGARITHMIC_FROM = 8.0
"""An axis of positive numbers is logarithmic if they span at least this factor."""


@dataclass(frozen=True, slots=True)
class Findings:
    """A table and what was worked out of it once for the whole page.

    Points along the front: `listed` in its table, `barred` in the chart of limits. `shown` are the points in the
    charts, those two among them.
    """

    table: SweepTable
    front: Front
    beside_knee: tuple[Neighbour, ...]
    importances: tuple[Importance, ...]
    listed: tuple[PointRow, ...]
    barred: tuple[PointRow, ...]
    shown: tuple[PointRow, ...]


def findings_of(table: SweepTable) -> Findings:
    """Return the findings of a table. ToolError as of `front_of`."""
    found = front_of(table)
    beside = neighbours(table, found.knee) if found.knee else ()
    listed, barred = (tuple(along_front(table, found, most)) for most in (MOST_FRONT_ROWS, MOST_LIMITS))
    named = {row.number for row in (*listed, *barred, *(step.row for step in beside))}
    return Findings(table, found, beside, importances(table), listed, barred, tuple(_shown(table, found, named)))


def page_data(findings: Findings) -> dict[str, Any]:
    """Return all that the charts need; equal tables give equal data."""
    table, found, shown = findings.table, findings.front, findings.shown
    names, numbers = _figure_names(table, shown), {row.number for row in shown}
    texts = _Texts()
    knee = found.knee.number if found.knee else None
    return {
        "name": plain(table.name),
        "figures": [_figure_axis(table, name, found) for name in names],
        "objectives": len(table.objectives),
        "parameters": [_parameter_axis(name, short, table) for name, short in short_names(table.parameters).items()],
        "points": [_point(row, table.parameters, names, texts) for row in shown],
        "front": [row.number for row in found.rows if row.number in numbers],
        "knee": knee,
        "base": table.baseline.number if table.baseline else None,
        "lines": _lines(table),
        "importance": [_shares(row) for row in findings.importances],
        "feasibility": _feasibility_axes(table),
        "limits": _limits(table, findings.barred),
        "most_lines": MOST_LINES,
        "texts": texts.all,
    }


class _Texts:
    """Texts by number, so that one that many points share is there once."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int:
        if text not in self._places:
            self._places[text] = len(self.all)
            self.all.append(plain(text))
        return self._places[text]


def _shown(table: SweepTable, found: Front, named: set[int]) -> list[PointRow]:
    """Return the points that the charts show: by number, the base machine last; of too many a fixed sample.

    `named` are numbers of points that are named elsewhere on the page: they are shown, so that they can be looked at.
    """
    on_front = {row.number for row in found.rows}
    kept = _ends(table, found) | named
    others = [row for row in usable(table) if row.number not in on_front]
    lost = [row for row in table.rows if row.status != "ok"]
    rows = [*_sample(found.rows, MOST_OF_FRONT, kept), *_sample(others, MOST_OTHERS, kept)]
    rows += _sample(lost, MOST_WITHOUT_FIGURES, kept)
    return [*sorted(rows, key=lambda row: row.number), *([table.baseline] if table.baseline else [])]


def _ends(table: SweepTable, found: Front) -> set[int]:
    """Return the numbers of the best point in each objective and of the knee."""
    if found.knee is None:
        return set()
    values = oriented(found.rows, table.objectives)
    return {found.rows[int(index)].number for index in np.argmin(values, axis=0)} | {found.knee.number}


def _sample(rows: Sequence[PointRow], most: int, kept: set[int]) -> list[PointRow]:
    """Return at most `most` points, and all to be kept; the rest by a hash of the number, which has no pattern."""
    if len(rows) <= most:
        return list(rows)
    first = [row for row in rows if row.number in kept]
    rest = sorted(
        (row for row in rows if row.number not in kept), key=lambda row: hashlib.sha256(b"%d" % row.number).digest()
    )
    return first + rest[: max(0, most - len(first))]


def left_out(findings: Findings) -> str:
    """Return a sentence on the points that the charts leave out, "" if they leave out none."""
    table, found = findings.table, findings.front
    shown = [row for row in findings.shown if row is not table.baseline]
    if len(shown) == len(table.rows):
        return ""
    on_front = {point.number for point in found.rows}
    front_points = sum(row.number in on_front for row in shown)
    return (
        f"The charts show {len(shown):,} of {len(table.rows):,} points, among them {front_points:,} of the "
        f"{len(found.rows):,} on the front: a fixed sample. Lines, shares and counts come from all points; CSV and "
        f"Parquet have every one."
    )


def _figure_names(table: SweepTable, rows: Iterable[PointRow]) -> list[str]:
    """Return the objectives, then the figures of FIGURES and those per workload that are known of some point shown."""
    known = {name for row in rows for name in row.figures}
    first = [objective.name for objective in table.objectives]
    more = [name for name in FIGURES if name in known and name not in first]
    return [*first, *more, *sorted(known - {*first, *more})]


def _figure_axis(table: SweepTable, name: str, found: Front) -> dict[str, Any]:
    unit = figure_unit(name, table.objectives)
    rows = found.rows or ([table.baseline] if table.baseline else [])
    values = [abs(row.figures[name]) for row in rows if name in row.figures]
    divisor, scaled = scale_of([statistics.median(values)] if values else [], unit)
    goals = {objective.name: objective.goal for objective in table.objectives}
    goal = goals.get(name) or (FIGURES[name].goal if name in FIGURES else "")
    has_prefix = scale_of([1e-3], unit)[0] != 1.0
    return {"label": figure_label(name), "unit": shown_unit(unit), "divisor": divisor, "scaled_unit": scaled,
            "goal": goal, "has_prefix": has_prefix}  # fmt: skip


def _parameter_axis(name: str, short: str, table: SweepTable) -> dict[str, Any]:
    """Return how a parameter is drawn: `places` of its values from 0 to 1 with their texts, absent ones below."""
    rows = (*table.rows, *([table.baseline] if table.baseline else []))
    values = {row.values[name] for row in rows if name in row.values}
    words = sorted({parameter_text(name, value) for value in values if isinstance(value, bool | str)})
    numbers = sorted({float(value) for value in values if not isinstance(value, bool | str)})
    is_log = bool(numbers) and numbers[0] > 0 and numbers[-1] / numbers[0] >= _LOGARITHMIC_FROM
    levels = [{"text": parameter_text(name, value), "value": value} for value in numbers]
    if len(levels) > _MOST_TICKS:
        levels = [levels[index * (len(levels) - 1) // 4] for index in range(5)]
    return {
        "path": plain(name),
        "label": parameter_label(short),
        "words": words,
        "low": numbers[0] if numbers else 0.0,
        "high": numbers[-1] if numbers else 0.0,
        "is_log": is_log,
        "ticks": levels,
        "is_absent": any(name not in row.values for row in table.rows),
    }


def _point(row: PointRow, parameters: Sequence[str], figures: Sequence[str], texts: _Texts) -> list[Any]:
    """Return [number, status, drawn values, texts of values, figures, limit or reason, key of the machine]."""
    values = [row.values.get(name) for name in parameters]
    told = [texts.place(parameter_text(name, value)) for name, value in zip(parameters, values, strict=True)]
    numbers = [_rounded(row.figures.get(name)) if row.status == "ok" else None for name in figures]
    why = row.limit if row.status == "ok" else row.reason
    return [row.number, row.status, [_drawn(value) for value in values], told, numbers, texts.place(why),
            plain(row.key_machine[:12])]  # fmt: skip


def _drawn(value: ParameterValue | None) -> float | str | None:
    if isinstance(value, bool | str):
        return parameter_text("", value)
    return value if isinstance(value, int) else _rounded(value)


def _rounded(value: float | None) -> float | None:
    """Return a number with seven digits: more cannot be seen, and the page stays small."""
    if value is None or not np.isfinite(value):
        return None
    return float(f"{value:.7g}")


def _lines(table: SweepTable) -> list[dict[str, Any]]:
    """Return for each pair of objectives the points of the front of these two alone, from one end to the other."""
    rows, lines = usable(table), []
    values = oriented(rows, table.objectives)
    for first, second in itertools.combinations(range(len(table.objectives)), 2):
        members = front(values[:, [first, second]])
        ordered = members[np.lexsort(values[members][:, [second, first]].T)]
        if len(ordered) > MOST_LINE_POINTS:
            ordered = ordered[np.linspace(0, len(ordered) - 1, MOST_LINE_POINTS).round().astype(int)]
        xs, ys = (
            [_rounded(rows[place].figures[table.objectives[axis].name]) for place in ordered]
            for axis in (first, second)
        )
        lines.append({"x": first, "y": second, "xs": xs, "ys": ys})
    return lines


def _shares(found: Importance) -> dict[str, Any]:
    shares = [_rounded(share) for share in found.shares.values()]
    rest = _rounded(max(0.0, 1 - found.explained)) if not found.note else 0.0
    return {
        "label": figure_label(found.objective),
        "shares": shares,
        "rest": rest,
        "note": found.note,
        "points": found.points,
    }


def _feasibility_axes(table: SweepTable) -> list[int]:
    """Return the places of the two parameters that decide most about whether a point is feasible."""
    shares = list(feasibility_importance(table).shares.values())
    return sorted(range(len(shares)), key=lambda place: (-shares[place], place))[:2]


def _limits(table: SweepTable, rows: Sequence[PointRow]) -> dict[str, Any]:
    """Return points along the front by number, and per workload what limits each and how much of the time."""
    strips: dict[str, dict[str, Any]] = {}
    for place, row in enumerate(rows):
        for limit in limits(row):
            nothing: list[Any] = [None] * len(rows)
            new = {"workload": plain(limit.workload), "what": nothing, "percent": list(nothing)}
            strip = strips.setdefault(limit.workload, new)
            strip["what"][place] = plain(limit.what)
            strip["percent"][place] = limit.percent
    order = {name: place for place, name in enumerate(table.workloads)}
    names = sorted(strips, key=lambda name: (order.get(name, len(order)), name))
    return {"order": [row.number for row in rows], "strips": [strips[name] for name in names]}
