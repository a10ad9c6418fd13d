"""The words and tables of the result page as HTML; the charts are drawn into its empty boxes by the scripts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape

from sweeps import page_prose
from sweeps.page_comparison import comparison_section
from sweeps.page_data import Findings, left_out
from sweeps.page_html import harmless, html_table
from sweeps.pareto import Front, Neighbour
from sweeps.points import PointRow, SweepTable
from sweeps.published import ComparisonRow
from sweeps.summary import counts, headline, limit_lines, reasons, verdicts
from sweeps.wording import (
    amount,
    change_text,
    figure_label,
    figure_unit,
    parameter_label,
    parameter_text,
    short_names,
)

MOST_REASONS = 30


def body(
    findings: Findings, comparison: Sequence[ComparisonRow], assumptions: Mapping[str, str], versions: Mapping[str, str]
) -> str:
    """Return the body of the page."""
    table, found = findings.table, findings.front
    parts = [
        _head(table, found),
        _trade_offs(findings),
        _parallel(),
        _importance(findings),
        _limits(table, found),
        _front(findings),
        _neighbours(findings),
        _lost(table),
        comparison_section(comparison),
        _ending(assumptions, versions),
    ]
    return "\n".join(f"<section>\n{part}\n</section>" for part in parts if part)


def _base(table: SweepTable) -> PointRow | None:
    return table.baseline if table.baseline is not None and table.baseline.status == "ok" else None


def _amount(table: SweepTable, row: PointRow, name: str) -> str:
    return escape(amount(row.figures[name], figure_unit(name, table.objectives)))


def _change(row: PointRow, before: PointRow | None, name: str, goal: str) -> str:
    """Return the change of a figure from another point as a small coloured text: better or worse."""
    if before is None or before is row:
        return ""
    text = change_text(row.figures[name], before.figures[name]).replace("-", "−")
    is_less = row.figures[name] < before.figures[name]
    is_same = text in ("+0.0 %", "−0.0 %")
    kind = "same" if is_same else "better" if is_less == (goal == "minimize") else "worse"
    return f'<span class="{kind}">{escape(text)}</span>'


def _head(table: SweepTable, found: Front) -> str:
    workloads = "; ".join(_workload(table, name) for name in table.workloads)
    goals = ", ".join(f"{harmless(figure_label(objective.name))} ({objective.goal})" for objective in table.objectives)
    told = (
        "".join(f"<li>{escape(sentence).replace(' -', ' −')}</li>" for sentence in verdicts(table))
        if found.rows
        else ""
    )
    return (
        f'<header><p class="kind">Design-space sweep</p><h1>{harmless(table.name)}</h1>'
        f"<p>Workloads: {workloads or 'none'}. Objectives: {goals}.</p></header>\n{_tiles(table, found)}\n"
        f"<p>{escape(headline(table, found))}</p>\n<ul>{told}</ul>"
    )


def _workload(table: SweepTable, name: str) -> str:
    text = table.workload_texts.get(name, "")
    return f"{harmless(name)} ({harmless(text)})" if text else harmless(name)


def _tiles(table: SweepTable, found: Front) -> str:
    points = "point" if len(table.rows) == 1 else "points"
    tiles = [(f"{len(table.rows):,}", points, f"{counts(table)['ok']:,} feasible"),
             (f"{len(found.rows):,}", "on the front", _knee_text(found))]  # fmt: skip
    base = _base(table)
    if found.knee is not None:
        for objective in table.objectives:
            change = _change(found.knee, base, objective.name, objective.goal)
            told = f"at the knee, {change} vs base" if change else "at the knee"
            tiles.append((_amount(table, found.knee, objective.name), harmless(figure_label(objective.name)), told))
    boxes = (
        f'<div class="tile"><b>{value}</b><span>{label}</span><small>{note}</small></div>'
        for value, label, note in tiles
    )
    return f'<div class="tiles">{"".join(boxes)}</div>'


def _knee_text(found: Front) -> str:
    return f"knee: point {found.knee.number}" if found.knee else "no point is feasible"


def _axis_options(table: SweepTable, chosen: int) -> str:
    """Return the options of an axis: the objectives by place, then the parameters."""
    options = [(f"f{index}", figure_label(objective.name)) for index, objective in enumerate(table.objectives)]
    short = short_names(table.parameters)
    options += [(f"p{index}", parameter_label(short[name])) for index, name in enumerate(table.parameters)]
    return "".join(
        f'<option value="{value}"{" selected" if index == chosen else ""}>{harmless(label)}</option>'
        for index, (value, label) in enumerate(options)
    )


def _trade_offs(findings: Findings) -> str:
    table = findings.table
    pairs = itertools.combinations(range(len(table.objectives)), 2)
    labels = [harmless(figure_label(objective.name)) for objective in table.objectives]
    buttons = "".join(
        f'<button type="button" data-x="f{x}" data-y="f{y}" aria-pressed="false">{labels[y]} over {labels[x]}</button>'
        for x, y in pairs
    )
    # Without figures the parameters are all that can be shown.
    first = 0 if findings.front.rows or _base(table) or not table.parameters else len(table.objectives)
    second = first + 1 if first + 1 < len(table.objectives) + len(table.parameters) else first
    note = left_out(findings)
    return (
        f"<h2>Trade-offs</h2>\n{page_prose.TRADE_OFFS}\n"
        + (f"<p class=note>{escape(note)}</p>\n" if note else "")
        + f'<div class="controls"><span id="pairs">{buttons}</span>'
        f'<label>across <select id="x-axis">{_axis_options(table, first)}</select></label>'
        f'<label>up <select id="y-axis">{_axis_options(table, second)}</select></label>'
        '<label><input type="checkbox" id="is-log" checked> log scale</label>'
        '<label><input type="checkbox" id="show-dominated" checked> dominated</label></div>\n'
        '<div class="beside"><div id="trade-offs" class="chart"></div><aside id="card"></aside></div>'
    )


def _parallel() -> str:
    return (
        f"<h2>Every design across all parameters and objectives</h2>\n{page_prose.PARALLEL}\n"
        '<div class="controls"><button type="button" id="clear">Keep all</button>'
        '<span id="brushed"></span></div>\n<div id="parallel" class="chart"></div>'
    )


def _importance(findings: Findings) -> str:
    table, found = findings.table, findings.importances
    notes = [f"{figure_label(row.objective)}: no shares, because {row.note}." for row in found if row.note]
    height = 160 + 13 * len(table.parameters) * max(1, len(found))
    return (
        f"<h2>Which parameters matter</h2>\n{page_prose.IMPORTANCE}\n"
        + "".join(f"<p class=note>{escape(note)}</p>" for note in notes)
        + f'<div id="importance" class="chart" style="height:{height}px"></div>'
    )


def _limits(table: SweepTable, found: Front) -> str:
    if not any(row.limit for row in found.rows):
        return ""
    workloads = max(1, len(table.workloads))
    return (
        f"<h2>What limits the designs of the front</h2>\n{page_prose.LIMITS}\n"
        f'<div id="limits" class="chart" style="height:{170 + 110 * workloads}px"></div>'
    )


def _front(findings: Findings) -> str:
    table, found, rows = findings.table, findings.front, findings.listed
    if not found.rows:
        return "<h2>The front</h2><p>No point is feasible, so there is no front.</p>"
    some = f"<p class=note>{len(rows)} of {len(found.rows):,} are shown, evenly spaced.</p>\n"
    if len(rows) == len(found.rows):
        some = ""
    base, short = _base(table), short_names(table.parameters)
    heads = ["point", "", *(harmless(figure_label(objective.name)) for objective in table.objectives)]
    heads += [harmless(parameter_label(short[name])) for name in table.parameters] + ["limited by"]
    classes = ["number", "", *("number" for _ in (*table.objectives, *table.parameters)), ""]
    lines = []
    for row in [*rows, *([base] if base else [])]:
        mark = "knee" if row is found.knee else "base" if row is base else ""
        cells = ["" if row is base else f"{row.number}", mark]
        cells += [
            f"{_amount(table, row, objective.name)}<br>{_change(row, base, objective.name, objective.goal)}"
            for objective in table.objectives
        ]
        cells += [harmless(parameter_text(name, row.values.get(name))) for name in table.parameters]
        cells.append("<br>".join(escape(line) for line in limit_lines(row)))
        lines.append((f'class="{mark}" data-point="{row.number}"', cells))
    return f"<h2>The front</h2>\n{page_prose.FRONT}\n{some}" + html_table(heads, lines, classes, "wide tall")


def _neighbours(findings: Findings) -> str:
    table, found = findings.table, findings.front
    if found.knee is None:
        return ""
    short = short_names(table.parameters)
    heads = [
        "point",
        "what differs",
        *(harmless(figure_label(objective.name)) for objective in table.objectives),
        "limited by",
    ]
    classes = ["number", "", *("number" for _ in table.objectives), ""]
    lines = []
    for step in findings.beside_knee:
        changes = [_change(step.row, found.knee, objective.name, objective.goal) for objective in table.objectives]
        cells = [
            f"{step.row.number}",
            _step_text(step, short),
            *changes,
            "<br>".join(map(escape, limit_lines(step.row))),
        ]
        lines.append((f'data-point="{step.row.number}"', cells))
    return (
        f"<h2>Around the knee</h2>\n<p>What one step of one parameter away from point {found.knee.number} does, and "
        "the designs of the front whose objectives are nearest. Changes are against the knee.</p>\n"
        + (html_table(heads, lines, classes) if lines else "<p>No design of the sweep is one step away.</p>")
    )


def _step_text(step: Neighbour, short: Mapping[str, str]) -> str:
    if not step.parameter:
        return "near on the front"
    before, after = (harmless(parameter_text(step.parameter, value)) for value in (step.before, step.after))
    return f"{harmless(parameter_label(short[step.parameter]))}: {before} → {after}"


def _lost(table: SweepTable) -> str:
    found = reasons(table)
    if not found:
        return "<h2>Points without figures</h2><p>There are none: every point is feasible.</p>"
    rows = [
        ("", [f"{reason.points:,}", escape(reason.status), harmless(reason.reason), f"{reason.example.number}"])
        for reason in found[:MOST_REASONS]
    ]
    more = f"<p>{len(found) - MOST_REASONS:,} further reasons are in the CSV.</p>" if len(found) > MOST_REASONS else ""
    options = "".join(
        f'<option value="{index}">{harmless(parameter_label(short))}</option>'
        for index, short in enumerate(short_names(table.parameters).values())
    )
    chart = (
        '<div class="controls">'
        f'<label>across <select id="x-parameter">{options}</select></label>'
        f'<label>up <select id="y-parameter">{options}</select></label></div>\n'
        '<div id="feasibility" class="chart"></div>'
    )
    return (
        f"<h2>Points without figures</h2>\n{page_prose.LOST}\n{chart if table.parameters else ''}\n"
        + html_table(["points", "", "reason, for example", "point"], rows, ["number", "", "text", "number"])
        + more
    )


def _ending(assumptions: Mapping[str, str], versions: Mapping[str, str]) -> str:
    parts = [
        f"<h2>{title}</h2>\n"
        + html_table(["", ""], [("", [harmless(k), harmless(v)]) for k, v in rows.items()], ["", "text"])
        for title, rows in (("Assumptions", assumptions), ("Versions", versions))
        if rows
    ]
    return "\n".join(parts)
