"""The short form of `benchmarks/sweep_kills.py`: coordinators and workers are killed, nothing is lost or done twice."""

from __future__ import annotations

from pathlib import Path

from benchmarks.sweep_kills import campaign


def test_nothing_is_lost_when_processes_are_killed(tmp_path: Path) -> None:
    """What was acknowledged stays, is not computed again, and the table is that of an undisturbed sweep."""
    counts = campaign(tmp_path, kills=4, points=6, seed=3)
    assert counts.coordinators + counts.workers == 4 and counts.acknowledged
    assert (counts.lost, counts.computed_twice, counts.orphans, counts.wrong_tables) == (0, 0, 0, 0)
