"""The roofline sweep: no point above its roof, the table, the picture, and what is told without matplotlib."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from benchmarks import micro
from isa.machine import PRESETS, preset

TINY = ("--machine", "mtia-2i", "--machine", "mtia-400", "--rows", "1", "--rows", "64", "--size", "256")


@pytest.mark.parametrize("name", PRESETS)
def test_no_point_lies_above_the_roofline(name: str) -> None:
    """Few rows and many, where DRAM binds and where it does not; more rows are never less work per byte."""
    points = list(micro.sweep(preset(name), (1, 48, 512), 512))
    for item in points:
        assert 0 < item.ratio <= 1
        assert item.bound <= 2 * item.machine.peak_macs_per_second(micro.DTYPE)
        assert item.flop == 2 * item.rows * 512**2 and item.dram_bytes >= 2 * 512**2
    assert [item.intensity for item in points] == sorted(item.intensity for item in points)


def test_the_roof_is_the_lesser_of_both() -> None:
    """By hand for a 2i: 163.1 GB/s deliverable, 176.9 TFLOP/s."""
    assert micro.roofline(preset("mtia-2i"), 1) == pytest.approx(163.1e9, rel=1e-3)
    assert micro.roofline(preset("mtia-2i"), 1e6) == pytest.approx(176.9e12, rel=1e-3)


def test_the_command_prints_a_table_per_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """Plain text where there is no terminal, slow machines first; what is projected is marked."""
    assert micro.main(TINY) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mtia-2i: fp16, K = N = 256; peak 176.9 TFLOP/s, DRAM 163.1 GB/s"
    assert lines[1].split() == [
        "M",
        "time",
        "us",
        "TFLOP/s",
        "flop/byte",
        "bound",
        "TFLOP/s",
        "of",
        "bound",
        "bound",
        "by",
    ]
    assert [line.split()[0] for line in lines[2:4]] == ["1", "64"]
    assert any(line.startswith("mtia-400, projected: ") for line in lines)
    assert "\x1b" not in "".join(lines)


def test_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the extra `plots`, equal points give equal files that name their machines; without it, a refusal."""
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    codes = [micro.main((*TINY, "--picture", str(path))) for path in (first, second)]
    if importlib.util.find_spec("matplotlib") is None:
        assert codes == [1, 1] and list(tmp_path.iterdir()) == []
        return
    assert codes == [0, 0] and sorted(tmp_path.iterdir()) == [first, second]
    assert first.read_bytes() == second.read_bytes()
    text = first.read_text()
    assert "mtia-2i" in text and "mtia-400 (projected)" in text and "TFLOP/s" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("roofline.svg", "error: --picture: needs matplotlib, which is not installed\n  help: pip install matplotlib"),
        ("roofline.txt", "roofline.txt: is no kind of picture\n  help: end the name in .svg or .png"),
        ("absent/roofline.svg", "cannot be written: there is no folder"),
    ],
)
def test_what_makes_no_picture_is_told_before_the_sweep(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One error with what to do, exit code 1, no table and no file."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert micro.main((*TINY, "--picture", str(tmp_path / name))) == 1
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out and list(tmp_path.iterdir()) == []
