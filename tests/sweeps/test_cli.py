"""sweep-machines on the command line: what it prints, how it ends, and that Ctrl-C leaves a sweep that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps.cli import main
from sweeps.running import status
from tests.sweeps.sweep_texts import TINY

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own current folder with a sweep file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.toml").write_text(TINY)
    return tmp_path


def test_the_words_of_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """run, status, resume, pareto and report, on the store of the current folder."""
    assert main(["run", "sweep.toml", "--workers", "0"]) == 0
    front = capsys.readouterr().out
    assert "12 points:" in front and "knee" in front
    assert main(["status"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("tiny: 12 of 12 points (") and "no sweep is running" in told
    assert main(["resume", "--workers", "0", "--sweep", "tiny"]) == 0
    assert capsys.readouterr().out == front
    assert main(["pareto", "--csv", "all.csv", "--parquet", "all.parquet"]) == 0
    assert capsys.readouterr().out == front
    assert len((folder / "all.csv").read_text().splitlines()) == 1 + 1 + 12
    assert main(["report", "-o", "page.html"]) == 0
    assert "wrote page.html" in capsys.readouterr().err and (folder / "page.html").stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "none.toml"], 1, "none.toml: no such sweep file"),
        (["status"], 1, "sweeps.sqlite: no such store"),
        (["report", "-o", "no/page.html"], 1, "there is no folder 'no'"),
        (["run", "sweep.toml", "--workers", "1", "--dask", "tcp://localhost:1"], 2, "give one of them"),
        (["run", "sweep.toml", "--workers", "-1"], 2, "--workers"),
        (["runn"], 2, "runn"),
        (["run", "bad.toml"], 1, "2 problems"),
    ],
)
def test_wrong_use(
    arguments: list[str], code: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence on stderr, and the exit code that the other commands have."""
    (folder / "bad.toml").write_text(TINY.replace("sram.bytes", "sram.bits").replace('"random"', '"luck"'))
    assert main(arguments) == code
    told = capsys.readouterr()
    assert message in told.err and told.out == "" and "Traceback" not in told.err


def test_an_interrupt_ends_cleanly(folder: Path) -> None:
    """Ctrl-C for the whole process group, as a terminal sends it: exit code 130, no worker is left, results stay."""
    (folder / "sweep.toml").write_text(_long_sweep())
    command = [sys.executable, "-m", "sweeps.cli", "run", str(folder / "sweep.toml"), "--store", str(folder / "s")]
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell ignore it
    child = subprocess.Popen(
        [*command, "--workers", "1"], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip
    signal.signal(signal.SIGINT, inherited)
    while not (folder / "s").exists() or not status(folder / "s").runs.total():
        assert child.poll() is None
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130 and "interrupted: nothing was left half-written" in errors
    assert "Traceback" not in errors
    deadline = time.monotonic() + 30
    while _is_there(child.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_there(child.pid)
    assert status(folder / "s").runs.total() and not status(folder / "s").is_being_written


def _long_sweep() -> str:
    """The tiny sweep with so many points that it cannot end before it is interrupted."""
    few, many = "values = [2e9, 204.8e9]", "range = { start = 2e9, stop = 402e9, step = 1e8 }"
    assert few in TINY and "points = 12" in TINY
    return TINY.replace(few, many).replace("points = 12", "points = 2000")


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
