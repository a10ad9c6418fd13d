"""What there is to say about a sweep in words: counts, the front against the base machine, limits, reasons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from sweeps.pareto import Domination, Front, dominations, front_of
from sweeps.points import Objective, PointRow, SweepTable
from sweeps.wording import change_text, figure_label, plain

STATUSES = ("ok", "infeasible", "discarded", "failed")
_LIMIT = re.compile(r"(?P<workload>[^:;]+): (?P<what>.+?)(?: \((?P<percent>[\d.]+) %[^)]*\))?")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why points have no figures: points with the same words but for numbers count as one reason."""

    status: str
    reason: str
    points: int
    example: PointRow


@dataclass(frozen=True, slots=True)
class Limit:
    """What limits a design in one workload and for which percentage of the time (None if that is not told)."""

    workload: str
    what: str
    percent: float | None


def counts(table: SweepTable) -> dict[str, int]:
    """Return how many points have each status."""
    found = Counter[str](row.status for row in table.rows)
    return {status: found[status] for status in STATUSES}


def reasons(table: SweepTable) -> tuple[Reason, ...]:
    """Return why points are not ok, the most frequent reason first."""
    groups: dict[tuple[str, str], list[PointRow]] = {}
    for row in table.rows:
        if row.status != "ok":
            words = re.sub(r"\d[\d.,]*(?<![.,])", "#", row.reason)
            groups.setdefault((row.status, words), []).append(row)
    found = [Reason(status, rows[0].reason, len(rows), rows[0]) for (status, _), rows in groups.items()]
    return tuple(sorted(found, key=lambda reason: (-reason.points, STATUSES.index(reason.status), reason.reason)))


def limits(row: PointRow) -> tuple[Limit, ...]:
    """Return the parts of a point's `limit`, which has `WORKLOAD: WHAT (81 % of the cycles)` between semicolons."""
    parts = [part.strip() for part in row.limit.split(";") if part.strip()]
    return tuple(_limit(part) for part in parts)


def limit_lines(row: PointRow) -> tuple[str, ...]:
    """Return a short line for each part of a point's `limit`: "decode: DRAM 81 %"."""
    lines = []
    for limit in limits(row):
        percent = "" if limit.percent is None else f" {limit.percent:.0f} %"
        lines.append(plain((f"{limit.workload}: " if limit.workload else "") + limit.what + percent))
    return tuple(lines)


def _limit(part: str) -> Limit:
    match = _LIMIT.fullmatch(part)
    if match is None:
        return Limit("", part, None)
    return Limit(match["workload"], match["what"], float(match["percent"]) if match["percent"] else None)


def along_front(table: SweepTable, front: Front, most: int) -> list[PointRow]:
    """Return the points of the front by the first objective, best first; of more than `most` evenly spaced ones.

    Both ends and the knee are always among them.
    """
    objective = table.objectives[0]
    sign = 1 if objective.goal == "minimize" else -1
    rows = sorted(front.rows, key=lambda row: (sign * row.figures[objective.name], row.number))
    if len(rows) <= most:
        return rows
    kept = {round(index * (len(rows) - 1) / max(1, most - 1)) for index in range(most)}
    return [row for index, row in enumerate(rows) if index in kept or row is front.knee]


def headline(table: SweepTable, front: Front) -> str:
    """Return one sentence on how many points there are and what became of them."""
    told = [f"{count:,} {status}" for status, count in counts(table).items() if count]
    on_front = f"; {len(front.rows):,} on the Pareto front" if front.rows else ""
    points = "1 point" if len(table.rows) == 1 else f"{len(table.rows):,} points"
    return f"{points}: {', '.join(told) or 'none'}{on_front}."


def verdicts(table: SweepTable) -> Iterator[str]:
    """Yield a sentence per pair of objectives on whether points dominate the base machine, and why if none does."""
    base = table.baseline
    if base is None:
        yield "The base machine was not evaluated, so there is nothing to compare with."
    elif base.status != "ok":
        yield f"The base machine has no figures to compare with ({base.status}): {plain(base.reason)}"
    elif len(table.objectives) == 1:
        yield from (_single_verdict(row, base, table.objectives[0]) for row in front_of(table).rows[:1])
    else:
        yield from (_verdict(found, base) for found in dominations(table))


def _single_verdict(row: PointRow, base: PointRow, objective: Objective) -> str:
    name, found, before = objective.name, row.figures[objective.name], base.figures[objective.name]
    is_better = found < before if objective.goal == "minimize" else found > before
    if not is_better:
        nearest = f"the nearest, point {row.number}: {change_text(found, before)}"
        return f"No point beats the base machine in {figure_label(name)}; {nearest}."
    return (
        f"The best, point {row.number}, has {figure_label(name)} {change_text(found, before)} against the base machine."
    )


def _verdict(found: Domination, base: PointRow) -> str:
    first, second = figure_label(found.first.name), figure_label(found.second.name)
    if found.rows:
        count = len(found.rows)
        points = "1 point dominates" if count == 1 else f"{count:,} points dominate"
        changes = _changes(found, found.rows[0], base)
        return f"{points} the base machine in {first} and {second}; the best, point {changes}."
    assert found.nearest is not None, "points with figures there are, or there would be no pair"
    why = f"; it is limited by {plain(found.nearest.limit)}" if found.nearest.limit else ""
    changes = _changes(found, found.nearest, base)
    return f"No point dominates the base machine in {first} and {second}; the nearest, point {changes}{why}."


def _changes(found: Domination, row: PointRow, base: PointRow) -> str:
    told = [
        f"{figure_label(objective.name)} {change_text(row.figures[objective.name], base.figures[objective.name])}"
        for objective in (found.first, found.second)
    ]
    return f"{row.number}: {', '.join(told)}"
