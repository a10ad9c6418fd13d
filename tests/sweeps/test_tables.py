"""The tables of a sweep: what they say, that they read back, and that strange words in them are only words."""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from rich.cells import cell_len

from isa.errors import ToolError
from sweeps.pareto import front_of
from sweeps.points import PointRow, SweepTable
from sweeps.summary import Limit, along_front, limits, reasons, verdicts
from sweeps.tables import COLUMNS, csv_text, terminal_text, write_csv, write_parquet
from sweeps.wording import (
    amount,
    change_text,
    figure_label,
    number,
    parameter_label,
    parameter_text,
    plain,
    scale_of,
    short_names,
)
from tests.synthetic_sweep import OBJECTIVES, hostile_table, odd_tables, synthetic_table


@pytest.fixture(scope="module")
def table() -> SweepTable:
    """A sweep of 200 points."""
    return synthetic_table(200)


def test_the_terminal_shows_front_knee_and_base(table: SweepTable) -> None:
    """Every point of the front by the first objective, the knee marked, the base machine last, units in the heading."""
    text = terminal_text(table, most_rows=100)
    front = front_of(table)
    assert front.knee is not None
    lines = text.splitlines()
    numbers = [int(line[:5]) for line in lines if line[:5].strip().isdigit()]
    expected = sorted(front.rows, key=lambda row: row.figures["latency_seconds"])
    assert numbers == [row.number for row in expected]
    assert [line.split()[:2] for line in lines if " knee " in line] == [[str(front.knee.number), "knee"]]
    assert next(line for line in lines if line.startswith("       base")).split()[1] == "56.80"
    heading = " ".join(" ".join(lines[:5]).split())
    assert "[ms]" in heading and "[mJ]" in heading and "[mm²]" in heading
    assert f"200 points: {sum(row.status == 'ok' for row in table.rows)} ok" in text


def test_a_long_front_is_thinned_for_the_terminal(table: SweepTable) -> None:
    """Both ends and the knee stay."""
    front = front_of(table)
    rows = along_front(table, front, len(front.rows))
    few = along_front(table, front, 5)
    assert len(few) in (5, 6) and few[0] == rows[0] and few[-1] == rows[-1] and front.knee in few
    assert "points of the front are shown" in terminal_text(table, most_rows=5)


@pytest.mark.parametrize("name", odd_tables())
def test_the_terminal_is_narrow_and_plain_whatever_the_table(name: str) -> None:
    """At most 100 columns, no control signs, for every odd table."""
    text = terminal_text(odd_tables()[name])
    assert max(cell_len(line) for line in text.splitlines()) <= COLUMNS
    assert all(sign == "\n" or sign.isprintable() for sign in text)


def test_colour_is_only_there_if_asked_for(table: SweepTable) -> None:
    """A file or a pipe gets none."""
    assert "\x1b[" not in terminal_text(table) and "\x1b[" in terminal_text(table, is_colour=True)


def test_csv_reads_back_exactly(table: SweepTable) -> None:
    """Every point and the base machine, numbers to the last bit, what is absent empty."""
    rows = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert [int(row["number"]) for row in rows] == [-1, *range(200)]
    front = front_of(table)
    assert front.knee is not None
    assert {int(row["number"]) for row in rows if row["on_front"] == "1"} == {row.number for row in front.rows}
    assert [int(row["number"]) for row in rows if row["is_knee"] == "1"] == [front.knee.number]
    for row, point in zip(rows[1:], table.rows, strict=True):
        if point.status == "ok":
            assert float(row["latency_seconds [s]"]) == point.figures["latency_seconds"]
        elif point.status == "infeasible":
            assert row["latency_seconds [s]"] == "" and row["reason"] == point.reason
        latency = point.values.get("sram.latency_cycles")
        assert row["sram.latency_cycles"] == ("" if latency is None else str(latency))
    assert csv_text(table) == csv_text(dataclasses.replace(table))


def test_csv_has_no_formulas_and_no_control_signs() -> None:
    """In headings and cells; a spreadsheet takes the first sign of a cell for the start of a formula."""
    spoiled = dataclasses.replace(hostile_table(), parameters=("=1+1", "-a", "@b", "\tc", " =d", "＝e", "'f", "x"))
    rows = [dataclasses.replace(row, values={"x": "\n=cmd|' /C calc'!A1\r"}, reason="+1") for row in spoiled.rows]
    cells = [
        cell
        for row in csv.reader(io.StringIO(csv_text(dataclasses.replace(spoiled, rows=tuple(rows)))))
        for cell in row
    ]
    assert cells[4:12] == ["'=1+1", "'-a", "'@b", "\\tc", "' =d", "'＝e", "''f", "x"]
    assert not [cell for cell in cells if cell.strip().startswith(("=", "+", "@"))]
    assert [cell for cell in cells if cell.startswith("-")] == ["-1"], "the number of the base machine"
    assert all(cell.isprintable() for cell in cells)


def test_parquet_has_types_and_units(table: SweepTable, tmp_path: Path) -> None:
    """Numbers as numbers, absent ones as null, units beside the fields; equal tables give equal bytes."""
    write_parquet(table, tmp_path / "a.parquet")
    write_parquet(table, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    found = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert found.schema.field("latency_seconds").metadata == {b"unit": b"s"}
    assert [str(found.schema.field(name).type) for name in ("grid.pes", "dram.kind", "on_front", "area_mm2")] == [
        "int64", "string", "bool", "double"]  # fmt: skip
    columns = found.to_pydict()
    assert columns["number"] == [-1, *range(200)]
    assert columns["sram.latency_cycles"][1:] == [row.values.get("sram.latency_cycles") for row in table.rows]
    assert columns["area_mm2"][1:] == [row.figures.get("area_mm2") for row in table.rows]


def test_parquet_of_mixed_and_odd_values(tmp_path: Path) -> None:
    """Parameters whose values are of several kinds, too large, or not in UTF-8 are written as words."""
    values = [
        {"a": 1, "b": 2**70, "c": True, "d": "\ud800", "e": 1},
        {"a": "x", "b": 1, "c": False, "d": "y", "e": 0.5},
    ]
    rows = tuple(PointRow(n, "infeasible", "no", value, {}, "", "") for n, value in enumerate(values))
    write_parquet(SweepTable("s", OBJECTIVES, tuple("abcde"), rows, None, ()), tmp_path / "odd.parquet")
    columns = pyarrow.parquet.read_table(tmp_path / "odd.parquet").to_pydict()
    assert columns["a"] == ["1", "x"] and columns["c"] == [True, False] and columns["d"] == ["\\ud800", "y"]
    assert columns["b"] == [float(2**70), 1.0] and columns["e"] == [1.0, 0.5]
    for name, odd in odd_tables().items():
        write_parquet(odd, tmp_path / "odd.parquet")
        assert pyarrow.parquet.read_table(tmp_path / "odd.parquet").num_rows >= len(odd.rows), name


def test_files_that_cannot_be_written_are_told(
    table: SweepTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One clear error, no half-written file; a missing package is named with what to install."""
    for write in (write_csv, write_parquet):
        with pytest.raises(ToolError, match="cannot be written"):
            write(table, tmp_path / "no-folder" / "x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ToolError, match="pyarrow, which is not installed"):
        write_parquet(table, tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


def test_limits_are_taken_apart() -> None:
    """With and without a share, and what has no such form is kept as it is."""
    row = PointRow(0, "ok", "", {}, {}, "decode: DRAM (81 % of the cycles); prefill: matrix engine; what else", "")
    assert limits(row) == (Limit("decode", "DRAM", 81.0), Limit("prefill", "matrix engine", None),
                           Limit("", "what else", None))  # fmt: skip


def test_reasons_that_differ_in_numbers_are_one() -> None:
    """The most frequent first, each with an example and its number of points."""
    texts = ["needs 12 bytes of 8", "needs 1,200.5 bytes of 8", "area 3", "needs 1 bytes of 8"]
    rows = tuple(PointRow(n, "infeasible", text, {}, {}, "", "") for n, text in enumerate(texts))
    found = reasons(SweepTable("s", OBJECTIVES, (), rows, None, ()))
    assert [(row.points, row.example.number) for row in found] == [(3, 0), (1, 2)]


def test_verdicts_say_why_nothing_beats_the_base(table: SweepTable) -> None:
    """The nearest point, by how much it misses, and what limits it."""
    assert table.baseline is not None
    small = {"latency_seconds": 1e-6, "energy_per_token_joules": 1e-6, "area_mm2": 1.0}
    unbeatable = dataclasses.replace(table.baseline, figures={**table.baseline.figures, **small})
    told = list(verdicts(dataclasses.replace(table, baseline=unbeatable)))
    assert len(told) == 3 and all(
        text.startswith("No point dominates") and "limited by decode" in text for text in told
    )
    alone = dataclasses.replace(table, baseline=unbeatable, objectives=table.objectives[:1])
    assert next(verdicts(alone)).startswith("No point beats the base machine in latency; the nearest, point ")
    assert "not evaluated" in next(verdicts(dataclasses.replace(table, baseline=None)))
    infeasible = dataclasses.replace(table.baseline, status="infeasible", reason="too large", figures={})
    assert "infeasible" in next(verdicts(dataclasses.replace(table, baseline=infeasible)))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0931, "s", "93.10 ms"), (0.99996, "s", "1.000 s"), (999.96, "s", "1.000 ks"), (0, "J", "0.000 J"),
        (420, "mm2", "420.0 mm²"), (1825.4, "$", "$1,825"), (5.1e6, "1/$", "5.100 M/$"), (1e-15, "s", "0.001000 ps"),
    ],
)  # fmt: skip
def test_amounts(value: float, unit: str, text: str) -> None:
    """Four digits, an SI prefix where the unit takes one."""
    assert amount(value, unit) == text


def test_words_and_numbers() -> None:
    """Labels, parameters, changes, and names shortened as far as they stay apart."""
    assert number(0.0302, 3) == "0.0302" and number(12345.6) == "12,346" and number(9.9999) == "10.00"
    assert scale_of([0.5, 0.001], "s") == (1e-3, "ms") and scale_of([], "s") == (1.0, "s")
    assert figure_label("decode.energy_per_token_joules") == "decode: energy per token"
    assert figure_label("peak_watts") == "peak power" and figure_label("performance_per_tco") == "performance per TCO"
    assert [parameter_text("x_bytes", value) for value in (393216, 0, 2**30, 1000, None)] == [
        "384 KiB", "0", "1 GiB", "1,000 B", "-"]  # fmt: skip
    assert parameter_text("dram.bytes_per_second", 51.2e9) == "51.20 GB/s"
    assert [parameter_label(name) for name in ("sram.bytes", "dram.bytes_per_second", "pe.x_bytes", "bytes")] == [
        "SRAM", "DRAM", "PE x", "bytes"]  # fmt: skip
    assert [parameter_text("x", value) for value in (True, "a\n", 1.5, 2.0)] == ["yes", "a\\n", "1.5", "2"]
    assert change_text(77, 100) == "-23.0 %" and change_text(1500, 100) == "x 15.0" and change_text(1, 0) == "+1"
    assert short_names(["a.b.c", "x.b.c", "d"]) == {"a.b.c": "a.b.c", "x.b.c": "x.b.c", "d": "d"}
    assert short_names(["a.b.c", "x.y.z"]) == {"a.b.c": "b.c", "x.y.z": "y.z"}
    assert plain("a\x1b[0m\u202e\u200b\ud800é") == "a\\x1b[0m\\u202e\\u200b\\ud800é"
