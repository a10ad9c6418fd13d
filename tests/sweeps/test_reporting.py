"""From a store to files: what the report adds to a table is of the sweep, its machines and its assumptions."""

from __future__ import annotations

from pathlib import Path

import pytest

from isa.command_line import OK
from isa.machine import preset
from sweeps import cli
from sweeps.points import BASELINE_NUMBER, PointRow
from sweeps.reporting import report
from sweeps.space import digest_of, plain
from sweeps.store import Store, StoredPoint, StoreError
from sweeps.sweep_file import read_sweep
from tests.sweeps.sweep_texts import TINY

COST = "\n[cost]\nenergy_dollars_per_kilowatt_hour = 0.123\n"


def _point(number: int, machine: str, factor: float, joules: float = 0) -> StoredPoint:
    joules = joules or 1 / factor
    figures = {"area_mm2": 100.0, "decode.latency_seconds": factor, "decode.energy_per_token_joules": joules}
    for name in ("decode", "ranking"):
        figures |= {f"{name}.throughput_per_second": 1000 / factor, f"{name}.average_watts": 50.0}
    values = {"sram.bytes": 2**25 * number} if number > 0 else {}
    return StoredPoint(PointRow(number, "ok", "", values, figures, "decode: DRAM (50 % of the time)", machine), (), 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with three points and the base machine, as a sweep would have left it."""
    (tmp_path / "sweep.toml").write_text(TINY + COST)
    sweep, path = read_sweep(tmp_path / "sweep.toml"), tmp_path / "store.sqlite"
    machines = {digest_of(machine): plain(machine) for machine in (preset("mtia-2i"), preset("mtia-v1"))}
    base, other = machines
    with Store.to_write(path) as opened:
        stored = opened.sweep(sweep.name, sweep.digest, "a version", sweep.definition, 3)
        rows = [_point(BASELINE_NUMBER, base, 1.0), *(_point(number, other, 0.5 + number) for number in range(3))]
        opened.record(stored, machines, [], rows)
    return path


def test_a_report_has_the_machines_and_assumptions_of_its_sweep(store: Path, tmp_path: Path) -> None:
    """Knee and base machine per workload at the server's plug, in tokens or samples; what the sweep set is marked."""
    report(store, html=tmp_path / "page.html", csv=tmp_path / "points.csv", parquet=tmp_path / "points.parquet")
    page = (tmp_path / "page.html").read_text()
    assert "knee, point" in page and "base machine" in page and "H100 SXM" in page
    assert "1,000 tokens/s" in page and "1,000 samples/s" in page
    assert "0.123 (set by the sweep)" in page and "a version" in page
    assert page.count("decode: llama-tiny, 1 layer, decode, batch 2, past 30, fp16") == 2
    assert (
        "Workloads: decode (llama-tiny, 1 layer, decode, batch 2, past 30, fp16); ranking (dlrm-tiny, batch 16" in page
    )
    assert len((tmp_path / "points.csv").read_text().splitlines()) == 1 + 4
    assert (tmp_path / "points.parquet").stat().st_size > 0


def test_the_command_line_writes_the_same_page(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the front as a table, which goes to stdout alone."""
    report(store, html=tmp_path / "a.html")
    assert cli.main(["report", "--store", str(store), "-o", str(tmp_path / "b.html")]) == OK
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert cli.main(["pareto", "--store", str(store)]) == OK
    out = capsys.readouterr().out
    assert "3 points: 3 ok; 3 on the Pareto front." in out and "\x1b" not in out


def test_a_machine_that_the_store_lost_is_told(store: Path, tmp_path: Path) -> None:
    """One clear error that names the point; no page is left."""
    with Store.to_write(store) as opened:
        (stored,) = opened.sweeps()
        opened.record(stored, {}, [], [_point(3, "no such digest", 0.1, joules=0.1)])
    with pytest.raises(StoreError, match="lost the machine of point 3"):
        report(store, html=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
