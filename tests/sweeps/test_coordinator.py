"""Sweeps from end to end: the table depends on the file, not on workers, interruptions or what else is in the store."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from compiler import GraphCompiler
from isa.errors import ToolError
from isa.machine import Machine
from models import build
from sweeps.coordinator import Advance
from sweeps.pareto import front_of
from sweeps.points import SweepTable
from sweeps.running import load_table, resume, run, status
from sweeps.store import Store
from sweeps.sweep_file import SweepError, read_sweep
from sweeps.tables import csv_text
from sweeps.workloads import compiler_of, graph_of
from tests.sweeps.sweep_texts import TINY

LEARNING = TINY.replace('kind = "random"', 'kind = "nsga2"')


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SweepTable]:
    """Tables of sweeps that ran in this process without a break."""
    folder = tmp_path_factory.mktemp("serial")
    texts = {"random": TINY, "nsga2": LEARNING, "all": TINY.replace("batch = 4", "batch = 4\ndiscard = false")}
    return {name: run(read_sweep(text), folder / name, workers=0) for name, text in texts.items()}


def test_every_point_has_its_place(serial: dict[str, SweepTable]) -> None:
    """By number, with the base machine apart; statuses say why."""
    table = serial["all"]
    assert [row.number for row in table.rows] == list(range(12))
    assert table.baseline is not None and table.baseline.status == "ok"
    statuses = {row.status for row in table.rows}
    assert statuses == {"ok", "infeasible"}
    for row in table.rows:
        assert bool(row.reason) == (row.status != "ok") and bool(row.figures) == (row.status == "ok")
        assert len(row.key_machine) == 64
    assert any("area_mm2 <= 0.88 * base.area_mm2 does not hold (area_mm2 = " in row.reason for row in table.rows)
    assert any("decode.peak_watts < 20 does not hold" in row.reason for row in table.rows)


def test_figures_follow_from_each_other(serial: dict[str, SweepTable]) -> None:
    """Per workload, and the weighted geometric mean of both; the highest peak."""
    for row in serial["all"].rows:
        if row.status == "ok":
            figures = row.figures
            assert figures["ranking.throughput_per_second"] == pytest.approx(16 / figures["ranking.latency_seconds"])
            mean = (figures["decode.latency_seconds"] * figures["ranking.latency_seconds"] ** 2) ** (1 / 3)
            assert figures["latency_seconds"] == pytest.approx(mean)
            assert figures["peak_watts"] == max(figures["decode.peak_watts"], figures["ranking.peak_watts"])
            assert row.limit.startswith("decode: ") and "; ranking: " in row.limit


def test_discarding_loses_nothing_of_the_front(serial: dict[str, SweepTable]) -> None:
    """What is discarded is worse than what a bound says, and dominated."""
    everything, some = serial["all"], serial["random"]
    discarded = [row for row in some.rows if row.status == "discarded"]
    assert discarded
    for row in discarded:
        real = everything.rows[row.number]
        assert real.status in ("ok", "infeasible")
        for name, value in real.figures.items():
            better = (
                value <= row.figures[name]
                if name.endswith(("per_second", "_watt", "_tco"))
                else value >= row.figures[name]
            )
            assert better, name
    kept = [row for row in some.rows if row.status != "discarded"]
    assert kept == [everything.rows[row.number] for row in kept]
    assert front_of(some) == front_of(everything)


def test_an_unusual_goal_discards_nothing(tmp_path: Path) -> None:
    """Bounds say how fast and frugal a machine can be at best, not at worst."""
    text = TINY.replace(
        'figure = "decode.latency_seconds"', 'figure = "decode.throughput_per_second"\ngoal = "minimize"'
    )
    text = text.replace('figure = "decode.energy_per_token_joules"', 'figure = "average_watts"\ngoal = "maximize"')
    found = run(read_sweep(text), tmp_path / "s", workers=0)
    everything = run(read_sweep(text.replace("batch = 4", "batch = 4\ndiscard = false")), tmp_path / "s", workers=0)
    assert found == everything


def test_progress_tells_the_front_of_all_points_that_are_known(tmp_path: Path) -> None:
    """Also of those whose batch is not complete yet."""
    sizes: list[int] = []

    def observe(advance: Advance) -> None:
        sizes.append(advance.front)
        if advance.acknowledged and advance.done:
            assert advance.front == len(front_of(load_table(tmp_path / "s")).rows)

    run(read_sweep(TINY.replace("batch = 4", "batch = 8")), tmp_path / "s", workers=0, observe=observe)
    assert sum(size > 0 for size in sizes) > 4


def test_two_processes_give_the_table_of_one(serial: dict[str, SweepTable], tmp_path: Path) -> None:
    """Byte for byte."""
    assert csv_text(run(read_sweep(LEARNING), tmp_path / "s", workers=2)) == csv_text(serial["nsga2"])


@pytest.mark.parametrize("kind", ["random", "nsga2"])
def test_an_interrupted_sweep_goes_on_to_the_same_table(
    kind: str, serial: dict[str, SweepTable], tmp_path: Path
) -> None:
    """However often, without its file; nothing that was acknowledged is lost or computed again."""
    acknowledged: list[str] = []

    def interrupt(advance: Advance) -> None:
        acknowledged.extend(advance.acknowledged)
        if advance.acknowledged and len(acknowledged) % 3 == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(read_sweep({"random": TINY, "nsga2": LEARNING}[kind]), tmp_path / "s", workers=0, observe=interrupt)
    for _ in range(40):
        try:
            table = resume(tmp_path / "s", workers=0, observe=interrupt)
            break
        except KeyboardInterrupt:
            continue
    assert csv_text(table) == csv_text(serial[kind])
    assert len(set(acknowledged)) == len(acknowledged) == status(tmp_path / "s").runs.total()


def test_sweeps_of_a_store_share_their_runs(serial: dict[str, SweepTable], tmp_path: Path) -> None:
    """A second sweep over the same machines computes nothing, and has the table that it has alone."""
    computed: list[int] = []
    run(read_sweep(TINY.replace("batch = 4", "batch = 4\ndiscard = false")), tmp_path / "s", workers=0)
    other = TINY.replace('name = "tiny"', 'name = "other"', 1)
    table = run(read_sweep(other), tmp_path / "s", workers=0, observe=lambda advance: computed.append(advance.computed))
    assert set(computed) == {0}
    assert csv_text(table) == csv_text(serial["random"])
    assert [one.name for one in status(tmp_path / "s").sweeps] == ["tiny", "other"]
    assert load_table(tmp_path / "s", "tiny").rows == serial["all"].rows
    with pytest.raises(SweepError, match="did you mean 'other'"):
        load_table(tmp_path / "s", "othre")


def test_our_own_errors_do_not_end_a_sweep(
    monkeypatch: pytest.MonkeyPatch, serial: dict[str, SweepTable], tmp_path: Path
) -> None:
    """The point failed, the traceback is kept, and it can be tried again."""
    original = GraphCompiler.program

    def broken(self: GraphCompiler, machine: Machine) -> object:
        if machine.pe_count == 8:
            raise ZeroDivisionError("a bug")
        return original(self, machine)

    monkeypatch.setattr(GraphCompiler, "program", broken)
    table = run(read_sweep(TINY), tmp_path / "s", workers=0)
    failed = [row for row in table.rows if row.status == "failed"]
    assert failed and {row.reason for row in failed} == {"decode: ZeroDivisionError: a bug"}
    with Store.to_read(tmp_path / "s") as store:
        assert "in broken" in store.failures(1)[0][1]
    monkeypatch.undo()
    again = resume(tmp_path / "s", workers=0)
    assert again == table
    assert csv_text(resume(tmp_path / "s", workers=0, retry_failed=True)).count("failed") == 0


def test_machines_on_which_a_model_does_not_fit_are_infeasible(tmp_path: Path) -> None:
    """With the compiler's sentence; the base machine may be one of them."""
    text = TINY.replace('path = "dram.bytes_per_second"\nvalues = [2e9, 204.8e9]',
                        'path = "dram.bytes"\nvalues = [65536, 137438953472]')  # fmt: skip
    table = run(read_sweep(text), tmp_path / "s", workers=0)
    reasons = {row.reason for row in table.rows if row.values["dram.bytes"] == 65536 and row.key_machine}
    assert any("dram" in reason.lower() and reason.startswith("decode: ") for reason in reasons), reasons


def test_a_model_that_cannot_be_read_ends_the_sweep_at_once(tmp_path: Path) -> None:
    """Before anything is written."""
    (tmp_path / "model.onnx").write_bytes(b"no model")
    (tmp_path / "sweep.toml").write_text(TINY.replace('"dlrm-tiny"', '"model.onnx"'))
    with pytest.raises(ToolError, match=r"model\.onnx"):
        run(tmp_path / "sweep.toml", tmp_path / "s", workers=0)
    assert not (tmp_path / "s").exists()


def test_a_model_that_changes_ends_the_sweep(tmp_path: Path) -> None:
    """It is no fault of the machines that were still to be tried; they are tried when the model is back."""
    model = tmp_path / "model.onnx"
    onnx.save(build("dlrm-tiny"), model)
    before = model.read_bytes()
    (tmp_path / "sweep.toml").write_text(TINY.replace('"dlrm-tiny"', '"model.onnx"'))
    store = tmp_path / "s"

    def change(advance: Advance) -> None:
        if advance.acknowledged and model.exists():
            model.unlink()
            compiler_of.cache_clear()
            graph_of.cache_clear()

    for _ in range(2):
        with pytest.raises(ToolError, match=r"model\.onnx: cannot be read"):
            run(tmp_path / "sweep.toml", store, workers=0, observe=change) if model.exists() else resume(
                store, workers=0
            )
    assert not status(store).runs["infeasible"] and not status(store).runs["failed"]
    model.write_bytes(before)
    assert csv_text(resume(store, workers=0)) == csv_text(run(tmp_path / "sweep.toml", tmp_path / "t", workers=0))


def test_all_workloads_that_no_machine_can_run_are_told_at_once(tmp_path: Path) -> None:
    """With their lines, before anything is written."""
    text = TINY.replace("past = 30\n", "past = 100_000_000\n")
    text = text.replace("batch = 16\n", 'batch = 16\nquantize = "int4"\ngroup_size = 7\n')
    (tmp_path / "sweep.toml").write_text(text)
    with pytest.raises(SweepError) as caught:
        run(tmp_path / "sweep.toml", tmp_path / "s", workers=0)
    lines = [number for number, line in enumerate(text.splitlines(), 1) if line == "[[workloads]]"]
    sentences = "decode': --dim past: 100,000,000 is too large", "ranking': --group-size: 7 is no size"
    for line, what in zip(lines, sentences, strict=True):
        assert f"sweep.toml:{line}: workload '{what}" in str(caught.value)
    assert not (tmp_path / "s").exists()
