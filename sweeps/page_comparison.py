"""The part of the result page that puts designs beside published results."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps import page_prose
from sweeps.page_html import harmless, html_table
from sweeps.published import ComparisonRow
from sweeps.wording import number, scale_of

_HEADS = ("device", "workload", "rate", "power at the plug", "joules per million", "dollars per million", "source",
          "caveats")  # fmt: skip


def comparison_section(rows: Sequence[ComparisonRow]) -> str:
    """Return the rows as a table with their caveats numbered below it; "" if there are none."""
    if not rows:
        return ""
    caveats = list(dict.fromkeys(caveat for row in rows for caveat in row.caveats))
    places = {caveat: place for place, caveat in enumerate(caveats, 1)}
    lines = [(_attributes(row), _cells(row, places)) for row in rows]
    classes = ["", "text", "number", "number", "number", "number", "text", ""]
    listed = "".join(f"<li>{harmless(caveat)}</li>" for caveat in caveats)
    return (
        f"<h2>Beside published results</h2>\n{page_prose.COMPARISON}\n"
        + html_table(_HEADS, lines, classes)
        + f'\n<h4>Caveats</h4><ol class="note">{listed}</ol>'
    )


def _attributes(row: ComparisonRow) -> str:
    return 'class="own"' if row.power_basis == "simulated" else ""


def _cells(row: ComparisonRow, places: dict[str, int]) -> list[str]:
    precision = f", {row.precision}" if row.precision else ""
    return [
        harmless(row.device),
        harmless(row.workload + precision),
        f"{number(row.per_second)} {harmless(row.unit)}/s",
        f"{number(row.plug_watts)} W<br><small>{harmless(row.power_basis)}</small>",
        _joules(row.joules_per_million),
        f"${number(row.dollars_per_million, 3)}",
        harmless(row.source),
        ", ".join(map(str, sorted(places[caveat] for caveat in row.caveats))),
    ]


def _joules(joules: float) -> str:
    divisor, unit = scale_of([joules], "J")
    return f"{number(joules / divisor, 3)} {unit}"
