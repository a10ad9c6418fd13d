"""The front against a plain double loop, the knee by its formula, and what lies beside a point."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.errors import ToolError
from sweeps.pareto import dominations, front, front_of, knee, neighbours, oriented, usable
from sweeps.points import Objective, PointRow, SweepTable
from tests.synthetic_sweep import synthetic_table


def naive_front(values: np.ndarray) -> list[int]:
    """The definition of a front, row by row."""

    def dominates(a: np.ndarray, b: np.ndarray) -> bool:
        return bool((a <= b).all() and (a < b).any())

    return [i for i, row in enumerate(values) if not any(dominates(other, row) for other in values)]


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Few distinct values give ties and equal rows; many give large fronts."""
    width, count = draw(st.integers(1, 5)), draw(st.integers(0, 40))
    numbers = st.integers(-3, 3).map(float) | st.floats(-1e300, 1e300) | st.just(-0.0)
    rows = draw(st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=count, max_size=count))
    return np.array(rows, np.float64).reshape(count, width)


@given(arrays())
@settings(max_examples=150, deadline=None)
def test_front_is_the_set_that_nothing_dominates(values: np.ndarray) -> None:
    """One to five objectives, with ties, equal rows, both zeros, and values near the ends of the range."""
    assert front(values).tolist() == naive_front(values)


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("count", [255, 256, 257, 400])
def test_front_of_points_that_are_all_on_it(width: int, count: int) -> None:
    """Nothing is lost at the edges of blocks when every point is on the front; copies of the points stay on it too."""
    random = np.random.default_rng(count)
    values = np.abs(random.normal(size=(count, width)))
    values /= np.linalg.norm(values, axis=1)[:, None]
    assert front(-values).tolist() == naive_front(-values) == list(range(count))
    twice = np.concatenate([-values, -values])
    assert front(twice).tolist() == list(range(2 * count))


def test_front_of_many_random_points_equals_the_plain_one() -> None:
    """A size at which blocks nest ten levels deep."""
    values = np.floor(np.random.default_rng(3).random((700, 3)) * 40)
    assert front(values).tolist() == naive_front(values)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_front_refuses_what_cannot_be_compared(bad: float) -> None:
    """The message names the point and the objective."""
    with pytest.raises(ToolError, match="objective 1 of point 2 is"):
        front(np.array([[1, 2], [2, 1], [0, bad]]))
    with pytest.raises(ToolError, match="not 1 axes"):
        front(np.array([1.0, 2.0]))


def test_knee_is_farthest_below_the_line_between_the_ends() -> None:
    """In logarithms: of 1/x the middle, moved by a point that is bent farther in; scales of axes do not matter."""
    values = np.array([[1, 1000], [10, 60], [100, 25], [1000, 1]], float)
    assert knee(values, front(values)) == 1
    assert knee(values * [1e-9, 1e6], front(values)) == 1
    assert knee(np.stack([values[:, 0], -1 / values[:, 1]], axis=1), front(values)) == 1, "maximised"


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100), st.just(7.0)), min_size=1, max_size=30))
@settings(deadline=None)
def test_knee_has_the_greatest_distance(rows: list[tuple[float, float, float]]) -> None:
    """Of two objectives and a constant one: measured with the textbook distance of a point from a line."""
    values = np.array(rows)
    members = front(values)
    chosen = np.log(values[members][:, :2])
    low, high = chosen.min(axis=0), chosen.max(axis=0)
    scaled = (chosen - low) / np.where(high > low, high - low, 1)
    distances = (1 - scaled.sum(axis=1)) / math.sqrt(2)
    place = members.tolist().index(knee(values, members))
    assert distances[place] == pytest.approx(distances.max(), abs=1e-9)


def test_knee_of_nothing_is_refused() -> None:
    """An error of the family, not of numpy."""
    with pytest.raises(ToolError, match="no knee"):
        knee(np.zeros((3, 2)), np.array([], np.int64))


OBJECTIVES = (Objective("latency_seconds", "minimize", "s"), Objective("throughput_per_second", "maximize", "1/s"))


def _row(number: int, values: dict, latency: float = 1.0, throughput: float = 1.0, status: str = "ok") -> PointRow:
    figures = {"latency_seconds": latency, "throughput_per_second": throughput} if status == "ok" else {}
    return PointRow(number, status, "" if status == "ok" else "no", values, figures, "", f"{number:x}")


def _table(*rows: PointRow, baseline: PointRow | None = None) -> SweepTable:
    return SweepTable("sweep", OBJECTIVES, ("a", "b", "c"), rows, baseline, ("w",))


def test_neighbours_are_one_step_away() -> None:
    """The next number of the table either way, any other word, a conditional parameter on the side; nothing further."""
    table = _table(
        _row(0, {"a": 2, "b": "x"}),
        _row(1, {"a": 4, "b": "x"}),
        _row(2, {"a": 8, "b": "x"}, status="infeasible"),
        _row(3, {"a": 16, "b": "x"}),
        _row(4, {"a": 2, "b": "y", "c": 1.5}),
        _row(5, {"a": 4, "b": "y", "c": 1.5}),
        _row(6, {"a": 4, "b": "x"}),
        _row(7, {"a": 1, "b": "z"}, latency=0.5, throughput=0.1),
    )
    steps = [(step.row.number, step.parameter, step.before, step.after) for step in neighbours(table, table.rows[0])]
    assert steps[:2] == [(1, "a", 2, 4), (4, "b", "x", "y")]
    assert all(not step[1] for step in steps[2:])
    from_four = [(step.row.number, step.parameter) for step in neighbours(table, table.rows[1]) if step.parameter]
    assert from_four == [(0, "a"), (5, "b")], "16 is two steps from 4, since 8 was tried"


def test_nearest_points_of_the_front_are_sorted_by_distance() -> None:
    """The point itself is none of them."""
    rows = [_row(n, {"a": 2**n, "b": "xyz"[n % 3]}, latency=2.0**n, throughput=3.0**n) for n in range(0, 8, 2)]
    found = neighbours(_table(*rows), rows[1], nearest=2)
    assert [step.row.number for step in found if not step.parameter] == [0, 4]


def test_a_point_without_figures_has_neighbours_by_step_only() -> None:
    """An infeasible design can still be compared with those around it that work."""
    lost = _row(1, {"a": 2}, status="infeasible")
    table = _table(_row(0, {"a": 1}), lost, _row(2, {"a": 3}))
    assert [step.row.number for step in neighbours(table, lost)] == [0, 2]


def test_what_dominates_the_base_machine() -> None:
    """Better in one and no worse in the other counts; equal in both does not; best first by both gains."""
    base = _row(-1, {"a": 0}, latency=2.0, throughput=5.0)
    rows = (
        _row(0, {"a": 1}, 2.0, 5.0),
        _row(1, {"a": 2}, 1.9, 5.0),
        _row(2, {"a": 3}, 1.0, 9.0),
        _row(3, {"a": 4}, 1.0, 4.9),
    )
    (found,) = dominations(_table(*rows, baseline=base))
    assert [row.number for row in found.rows] == [2, 1]
    (none,) = dominations(_table(_row(0, {"a": 1}, 1.0, 4.0), _row(1, {"a": 2}, 2.2, 9.0), baseline=base))
    assert none.rows == () and none.nearest is not None and none.nearest.number == 1
    assert none.excess == pytest.approx(1.1)
    assert dominations(_table(*rows)) == ()
    assert dominations(_table(*rows, baseline=_row(-1, {}, status="infeasible"))) == ()


def test_the_base_machine_is_not_the_nearest_to_itself() -> None:
    """A point that is the same machine says nothing of what others miss."""
    base = _row(-1, {"a": 0}, latency=2.0, throughput=5.0)
    same = dataclasses.replace(_row(0, {"a": 0}, 2.0, 5.0), key_machine=base.key_machine)
    (found,) = dominations(_table(same, _row(1, {"a": 2}, 2.2, 9.0), baseline=base))
    assert found.nearest is not None and found.nearest.number == 1
    assert dominations(_table(same, baseline=base)) == ()


def test_front_of_a_table_leaves_out_what_did_not_run() -> None:
    """Bounds of discarded points are no figures."""
    table = synthetic_table(300)
    found = front_of(table)
    assert {row.status for row in found.rows} == {"ok"} and found.knee in found.rows
    rows = usable(table)
    expected = naive_front(oriented(rows, table.objectives))
    assert [row.number for row in found.rows] == [rows[index].number for index in expected]
    none = front_of(dataclasses.replace(table, rows=()))
    assert none.rows == () and none.knee is None


@pytest.mark.parametrize(("figures", "what"), [({}, "is missing"), ({"latency_seconds": math.nan}, "is nan")])
def test_a_point_without_an_objective_is_named(figures: dict[str, float], what: str) -> None:
    """Where and what."""
    row = dataclasses.replace(_row(7, {}), figures=figures)
    with pytest.raises(ToolError, match=f"the figure 'latency_seconds' {what}") as caught:
        front_of(_table(row))
    assert caught.value.where == "point 7"
