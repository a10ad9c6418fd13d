"""The points of a sweep as a table: for the terminal, as CSV and as Parquet.

Words from files of strangers (names, reasons) are harmless in each: no control signs on the terminal, no formulas in a
spreadsheet.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isa.errors import ToolError
from isa.whole_file import replacing, write_text
from sweeps.pareto import Front, front_of
from sweeps.points import FIGURES, ParameterValue, PointRow, SweepTable
from sweeps.summary import along_front, headline, limit_lines, reasons, verdicts
from sweeps.wording import (
    figure_label,
    figure_unit,
    number,
    parameter_label,
    parameter_text,
    plain,
    scale_of,
    short_names,
)

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = 100
"""Width of the table for the terminal."""
MOST_ROWS = 24
"""Points of the front that the terminal shows unless told otherwise."""
_GAP, _LIMIT_COLUMNS, _MOST_LIMITS = 2, 30, 3
_FORMULA = ("=", "+", "-", "@", "'", "＝", "＋", "－", "＠")
_SHOWN_REASONS = 4


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the terminal's table: its heading in one or two lines, the text of a row, and its width."""

    heading: str
    text: Callable[[PointRow], str]
    width: int


def terminal_text(table: SweepTable, most_rows: int = MOST_ROWS, is_colour: bool = False) -> str:
    """Return the front for a terminal of COLUMNS columns: knee and base machine marked, units in the headings.

    Of a front of more than `most_rows` points both ends, the knee and evenly spaced ones between are shown. Below are
    how the front compares with the base machine, and why points are infeasible. Equal tables give equal text.
    """
    from rich.console import Console

    front = front_of(table)
    shown = along_front(table, front, most_rows)
    console = Console(file=io.StringIO(), width=COLUMNS, force_terminal=is_colour, no_color=not is_colour,
                      color_system="standard" if is_colour else None, legacy_windows=False,
                      _environ={})  # fmt: skip
    columns, dropped = _columns(table, [*shown, *_baseline(table)])
    if shown:
        console.print(_rich_table(table, front, shown, columns))
    for line in [*_notes(table, front, shown, dropped)]:
        console.print(line, markup=False, highlight=False, emoji=False)
    file = console.file
    assert isinstance(file, io.StringIO)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _baseline(table: SweepTable) -> list[PointRow]:
    return [table.baseline] if table.baseline is not None and table.baseline.status == "ok" else []


def _columns(table: SweepTable, rows: Sequence[PointRow]) -> tuple[list[_Column], list[str]]:
    """Return the columns that fit, and the names of the parameters that do not."""
    columns = [_figure_column(table, objective.name, rows) for objective in table.objectives]
    short = short_names(table.parameters)
    limit = min(_LIMIT_COLUMNS, max((len(line) for row in rows for line in limit_lines(row)), default=0))
    number_and_mark = max(5, *(len(str(row.number)) for row in rows)) + 4 + 2 * _GAP if rows else 0
    left = COLUMNS - number_and_mark - max(limit, len("limited by")) - sum(column.width + _GAP for column in columns)
    dropped = []
    for name in table.parameters:
        column = _parameter_column(name, short[name], rows)
        if column.width + _GAP <= left:
            columns.append(column)
            left -= column.width + _GAP
        else:
            dropped.append(name)
    return columns, dropped


def _figure_column(table: SweepTable, name: str, rows: Sequence[PointRow]) -> _Column:
    divisor, unit = scale_of([row.figures[name] for row in rows], figure_unit(name, table.objectives))

    def text(row: PointRow) -> str:
        return number(row.figures[name] / divisor)

    heading = figure_label(name) + (f" [{unit}]" if unit else "")
    return _Column(heading, text, _width(heading, [text(row) for row in rows]))


def _parameter_column(name: str, short: str, rows: Sequence[PointRow]) -> _Column:
    def text(row: PointRow) -> str:
        return parameter_text(name, row.values.get(name))

    heading = parameter_label(short)
    return _Column(heading, text, _width(heading, [text(row) for row in rows]))


def _width(heading: str, cells: Sequence[str]) -> int:
    from rich.cells import cell_len

    return min(30, max(map(cell_len, [*heading.split(" "), *cells])))


def _rich_table(table: SweepTable, front: Front, rows: Sequence[PointRow], columns: Sequence[_Column]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    result.add_column("point", justify="right", no_wrap=True, min_width=5)
    result.add_column("", no_wrap=True, min_width=4)
    for column in columns:
        result.add_column(Text(column.heading), justify="right", width=column.width, overflow="ellipsis")
    result.add_column("limited by", overflow="ellipsis", no_wrap=True)
    for row in [*rows, *_baseline(table)]:
        mark = "knee" if row is front.knee else "base" if row is table.baseline else ""
        cells = ["" if mark == "base" else str(row.number), mark]
        cells += [column.text(row) for column in columns] + [_limit_cell(row)]
        style = {"knee": "bold green", "base": "cyan"}.get(mark, "")
        result.add_row(*(Text(cell) for cell in cells), style=style)
    return result


def _limit_cell(row: PointRow) -> str:
    lines = limit_lines(row)
    more = [f"... and {len(lines) - _MOST_LIMITS} more"] if len(lines) > _MOST_LIMITS else []
    return "\n".join([*lines[:_MOST_LIMITS], *more])


def _notes(table: SweepTable, front: Front, shown: Sequence[PointRow], dropped: Sequence[str]) -> Iterator[str]:
    if shown:
        yield ""
    yield headline(table, front)
    if len(shown) < len(front.rows):
        yield f"{len(shown)} points of the front are shown, evenly spaced; CSV and page have all."
    if dropped:
        yield f"Parameters left out for want of room: {', '.join(plain(name) for name in dropped)}."
    if shown:
        yield from verdicts(table)
    found = reasons(table)
    for reason in found[:_SHOWN_REASONS]:
        yield f"{reason.points:,} {reason.status}: {plain(reason.reason)} (point {reason.example.number})"
    if len(found) > _SHOWN_REASONS:
        yield f"... and {len(found) - _SHOWN_REASONS} more reasons."


def figure_names(table: SweepTable) -> tuple[str, ...]:
    """Return the figures that points of a table have: its objectives, then those of FIGURES, then the rest by name."""
    known = {name for row in (*table.rows, *_baseline(table)) for name in row.figures}
    first = [objective.name for objective in table.objectives]
    order = [*first, *(name for name in FIGURES if name in known and name not in first)]
    return (*order, *sorted(known - set(order)))


def _all_rows(table: SweepTable) -> list[PointRow]:
    return [*([table.baseline] if table.baseline else []), *table.rows]


def csv_text(table: SweepTable) -> str:
    """Return all points as CSV, the base machine first as number -1; equal tables give equal text.

    Numbers are written so that they read back exactly. A word that a spreadsheet would take for a formula gets a '
    before it; control signs are written as escapes. `on_front` and `is_knee` are 0 or 1; what is absent is empty.
    """
    front = front_of(table)
    on_front = {row.number for row in front.rows}
    knee = front.knee.number if front.knee else None
    figures = figure_names(table)
    units = [figure_unit(name, table.objectives) for name in figures]
    heads = [f"{name} [{unit}]" if unit else name for name, unit in zip(figures, units, strict=True)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fixed = ["number", "status", "on_front", "is_knee"]
    writer.writerow(map(_csv_cell, [*fixed, *table.parameters, *heads, "limit", "reason", "key_machine"]))
    for row in _all_rows(table):
        values = [row.values.get(name) for name in table.parameters]
        cells = [row.number, row.status, int(row.number in on_front), int(row.number == knee), *values]
        cells += [row.figures.get(name) for name in figures]
        writer.writerow(map(_csv_cell, [*cells, row.limit, row.reason, row.key_machine]))
    return out.getvalue()


def _csv_cell(value: ParameterValue | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    safe = plain(value)
    return f"'{safe}" if safe.lstrip().startswith(_FORMULA) else safe


def write_csv(table: SweepTable, path: str | Path) -> None:
    """Write all points as CSV, whole or not at all. ToolError if that cannot be done."""
    write_text(path, csv_text(table))


def write_parquet(table: SweepTable, path: str | Path) -> None:
    """Write all points as Parquet, columns as in the CSV with typed values; units are in the fields' metadata.

    ToolError if pyarrow is not installed or the file cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ToolError("Parquet needs the package pyarrow, which is not installed", where=str(path),
                        help="pip install 'tilewright[report]', or write CSV") from error  # fmt: skip
    arrow = _arrow_table(table, pyarrow)
    try:
        with replacing(path) as file:
            pyarrow.parquet.write_table(arrow, file)
    except OSError as error:
        raise ToolError(f"cannot be written: {error.strerror or error}", where=str(path)) from error


def _arrow_table(table: SweepTable, pyarrow: Any) -> Any:
    front, rows = front_of(table), _all_rows(table)
    on_front = {row.number for row in front.rows}
    knee = front.knee.number if front.knee else None
    fields: list[tuple[str, str, list[Any], str]] = [
        ("number", "int64", [row.number for row in rows], ""),
        ("status", "string", [row.status for row in rows], ""),
        ("on_front", "bool_", [row.number in on_front for row in rows], ""),
        ("is_knee", "bool_", [row.number == knee for row in rows], ""),
    ]
    for name in table.parameters:
        kind, values = _typed([row.values.get(name) for row in rows])
        fields.append((name, kind, values, ""))
    for name in figure_names(table):
        fields.append((name, "float64", [row.figures.get(name) for row in rows], figure_unit(name, table.objectives)))
    for name in ("limit", "reason", "key_machine"):
        fields.append((name, "string", [_encodable(getattr(row, name)) for row in rows], ""))
    schema = pyarrow.schema(
        [
            pyarrow.field(_encodable(name), getattr(pyarrow, kind)(), metadata={"unit": unit} if unit else None)
            for name, kind, _, unit in fields
        ],
        metadata={"sweep": _encodable(table.name)},
    )
    return pyarrow.Table.from_arrays(
        [pyarrow.array(values, field.type) for (_, _, values, _), field in zip(fields, schema, strict=True)],
        schema=schema,
    )


def _typed(values: Sequence[ParameterValue | None]) -> tuple[str, list[Any]]:
    """Return the narrowest Arrow type that has all values of a parameter, and the values in it; words if they mix."""
    present = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in present):
        return "bool_", list(values)
    if not any(isinstance(value, bool | str) for value in present):
        if all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in present):
            return "int64", list(values)
        if all(math.isfinite(float(value)) for value in present):
            return "float64", [None if value is None else float(value) for value in values]
    return "string", [None if value is None else _encodable(_word(value)) for value in values]


def _word(value: ParameterValue) -> str:
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)


def _encodable(text: str) -> str:
    """Return a text with what UTF-8 does not have as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
