"""Samplers: what they choose depends on the seed and on what they were told, also after a study was rebuilt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from sweeps.samplers import Sampler, Told, sampler_of
from sweeps.space import Choice, grid
from sweeps.sweep import Sweep
from sweeps.sweep_file import read_sweep
from tests.sweeps.sweep_texts import TINY

KINDS = ("grid", "random", "quasi_random", "nsga2", "tpe")
BATCH = 4
LARGE = TINY.replace("values = [2, 4, 8]", "range = { start = 2, stop = 64, step = 1 }")


def _sweep(kind: str, seed: int = 1, text: str = TINY) -> Sweep:
    return read_sweep(text.replace('kind = "random"', f'kind = "{kind}"').replace("seed = 1", f"seed = {seed}"))


def _outcome(choice: Choice) -> Told:
    """A made-up world: two figures against each other, one for all, some choices that fail."""
    first, second, *_ = choice
    if choice[2]:
        return Told(choice, (float(first), float(second - first), float(sum(choice))), 0.0)
    return Told(choice, (), 0.5 + first)


def _go_on(sampler: Sampler, first: int, batches: int) -> list[Choice]:
    chosen: list[Choice] = []
    for _ in range(batches):
        asked = sampler.ask(first, BATCH)
        sampler.tell(first, [_outcome(choice) for choice in asked])
        chosen += asked
        first += len(asked)
    return chosen


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_points(kind: str) -> None:
    """Within the space; other seeds give other points, but for the grid."""
    sweep = _sweep(kind)
    points = _go_on(sampler_of(sweep), 0, 6)
    assert points == _go_on(sampler_of(sweep), 0, 6)
    sizes = [len(parameter.values) for parameter in sweep.parameters]
    assert all(0 <= index < size for point in points for index, size in zip(point, sizes, strict=True))
    assert (points != _go_on(sampler_of(_sweep(kind, seed=2)), 0, 6)) == (kind != "grid")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampler_goes_on_where_another_one_was_lost(kind: str) -> None:
    """A new one that is told the finished batches chooses as the old one would have."""
    sweep = _sweep(kind)
    points = _go_on(sampler_of(sweep), 0, 6)
    for lost in (1, 4):
        again = sampler_of(sweep)
        for first in range(0, lost * BATCH, BATCH):
            again.tell(first, [_outcome(choice) for choice in points[first : first + BATCH]])
        assert _go_on(again, lost * BATCH, 6 - lost) == points[lost * BATCH :]


def test_the_grid_ends() -> None:
    """Every choice once, then fewer than were asked for."""
    sampler = sampler_of(_sweep("grid"))
    points = [*sampler.ask(0, 40), *sampler.ask(40, 40)]
    assert len(points) == len(set(points)) == 4 * 3 * 2 * 2
    assert list(sampler.ask(7, 3)) == points[7:10]


def _spread(points: Sequence[Choice]) -> int:
    counts = [Counter(point[index] for point in points).values() for index in range(4)]
    return sum(max(count) - min(count) for count in counts)


def test_quasi_random_points_fill_the_space_more_evenly() -> None:
    """Than random ones, over every parameter."""
    even, random = (sampler_of(_sweep(kind, text=LARGE)).ask(0, 96) for kind in ("quasi_random", "random"))
    assert _spread(even) < _spread(random) / 2


@pytest.mark.parametrize("kind", ["nsga2", "tpe"])
def test_learning_samplers_learn(kind: str) -> None:
    """Later points fail less often than the first ones, and have better figures."""
    points = _go_on(sampler_of(_sweep(kind, text=LARGE)), 0, 14)
    early, late = points[: 2 * BATCH], points[-4 * BATCH :]
    assert sum(point[2] for point in late) / len(late) > sum(point[2] for point in early) / len(early)


@pytest.mark.parametrize("kind", KINDS)
def test_every_design_is_tried_once(kind: str) -> None:
    """All of the grid, then a sampler gives fewer than were asked for; one that was lost in between, too."""
    conditional = TINY.replace("values = [1100, 1350]", 'values = [1100, 1350]\nwhen = "width > 2"')
    sweep = _sweep(kind, text=conditional)
    points = _go_on(sampler_of(sweep), 0, 14)
    assert sorted(points) == sorted(grid(sweep.base, sweep.parameters)) and len(points) == 4 * (1 + 2 * 2) * 2
    again = sampler_of(sweep)
    for first in range(0, 36, BATCH):
        again.tell(first, [_outcome(choice) for choice in points[first : first + BATCH]])
    assert _go_on(again, 36, 2) == points[36:]


def test_how_many_points_a_sweep_will_have() -> None:
    """The budget, or fewer if there are no more designs; not known if time ends it."""
    assert _sweep("random").total == 12
    assert _sweep("random", text=TINY.replace("points = 12", "points = 100")).total == 48
    assert _sweep("random", text=TINY.replace("points = 12", "hours = 1")).total is None
    assert _sweep("grid", text=TINY.replace("points = 12", "hours = 1")).total == 48
