"""Shares of variance: against closed forms on a grid, against a plain twin, and where there is little to go by."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from sweeps import importance
from sweeps.importance import feasibility_importance, importances, variance_shares
from tests.synthetic_sweep import synthetic_table


def _grid(repeats: int = 1) -> tuple[np.ndarray, dict[str, list]]:
    rows = list(itertools.product([1, 2, 3, 4], [10, 20], ["u", "v", "w"])) * repeats
    return np.array(rows, object), {name: [row[i] for row in rows] for i, name in enumerate("abc")}


def test_shares_on_a_grid_are_those_of_the_additive_parts() -> None:
    """On a full factorial the variance of each additive part is known; adjusting R^2 moves it little."""
    rows, values = _grid(40)
    parts = {
        "a": np.array([0.1, 0.5, 0.2, 0.9])[rows[:, 0].astype(int) - 1],
        "b": 0.3 * (rows[:, 1] == 20),
        "c": np.select([rows[:, 2] == "u", rows[:, 2] == "v"], [0.0, 0.05], 0.4),
    }
    response = np.exp(sum(parts.values()))
    shares, note = variance_shares(response, values)
    whole = sum(np.var(part) for part in parts.values())
    assert note == ""
    for name, part in parts.items():
        assert shares[name] == pytest.approx(np.var(part) / whole, abs=7 / 960)


def test_interaction_is_left_over() -> None:
    """A pure exclusive-or is explained by no parameter alone."""
    _, values = _grid(20)
    response = np.exp([float((a > 2) != (b > 10)) for a, b in zip(values["a"], values["b"], strict=True)])
    shares, _ = variance_shares(response, values)
    assert sum(shares.values()) < 0.02


def _naive_shares(response: np.ndarray, values: dict[str, list]) -> dict[str, float]:
    """All orders, each model fitted to the points themselves; no parameter has more values than groups."""
    target = np.log(response)

    def explained(names: tuple[str, ...]) -> float:
        columns = [np.ones(len(target))]
        columns += [np.array([float(v == level) for v in values[n]]) for n in names for level in sorted(set(values[n]))]
        design = np.stack(columns, axis=1)
        fitted = design @ np.linalg.lstsq(design, target, rcond=None)[0]
        left = ((target - fitted) ** 2).sum() / ((target - target.mean()) ** 2).sum()
        return 1 - left * (len(target) - 1) / (len(target) - np.linalg.matrix_rank(design))

    gains = dict.fromkeys(values, 0.0)
    orders = list(itertools.permutations(values))
    for order in orders:
        for place, name in enumerate(order):
            gains[name] += (explained(order[: place + 1]) - explained(order[:place])) / len(orders)
    return {name: max(0.0, gain) for name, gain in gains.items()}


def test_shares_equal_a_plain_average_over_all_orders() -> None:
    """With parameters that are correlated, as those of a search that converges."""
    random = np.random.default_rng(5)
    a = random.integers(0, 4, 120)
    b = np.where(random.random(120) < 0.7, a, random.integers(0, 4, 120))
    c = random.integers(0, 3, 120)
    response = np.exp(a + 0.5 * c + random.normal(0, 0.5, 120))
    values = {"a": a.tolist(), "b": b.tolist(), "c": c.tolist()}
    shares, _ = variance_shares(response, values)
    assert shares == pytest.approx(_naive_shares(response, values), abs=1e-9)


def test_fixed_orders_agree_with_all_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond some parameters the average is over fewer orders; the picture stays."""
    random = np.random.default_rng(6)
    values = {f"p{index}": random.integers(0, 3, 400).tolist() for index in range(7)}
    response = np.exp(sum(index * np.array(values[f"p{index}"]) for index in range(7)) + random.normal(0, 1, 400))
    exact, _ = variance_shares(response, values)
    monkeypatch.setattr(importance, "MOST_PARAMETERS_IN_ALL_ORDERS", 2)
    shares, _ = variance_shares(response, values)
    assert shares == pytest.approx(exact, abs=0.02)


def test_many_values_are_grouped_and_noise_gets_nothing() -> None:
    """A continuous parameter explains a smooth response; one without effect gets about no share."""
    random = np.random.default_rng(7)
    x, noise = random.random(500), random.random(500)
    shares, _ = variance_shares(np.exp(4 * x), {"x": x.tolist(), "noise": noise.tolist()})
    assert shares["x"] > 0.95 and shares["noise"] < 0.02


def test_absent_values_and_constants() -> None:
    """That a conditional parameter is absent is itself a value of it; a constant has no share."""
    random = np.random.default_rng(8)
    present = random.random(200) < 0.5
    level = random.integers(0, 3, 200)
    response = np.exp(np.where(present, 1.0 + level, 0.0))
    values = {
        "c": [int(v) if p else None for v, p in zip(level, present, strict=True)],
        "k": [3] * 200,
        "word": ["x"] * 200,
    }
    shares, note = variance_shares(response, values)
    assert note == "" and shares["k"] == shares["word"] == 0.0
    assert shares["c"] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("response", "values", "note"),
    [
        ([], {"a": []}, "too few points"),
        ([1.0], {"a": [1]}, "too few points"),
        ([1.0, 1.0, 1.0], {"a": [1, 2, 3]}, "same for all points"),
        ([1.0, 2.0, 3.0], {"a": [1, 2, 3]}, r"too few points \(3\)"),
        ([1.0, 2.0, 3.0], {"a": [1, 1, 1]}, "no parameter varies"),
        ([1.0, 2.0, 3.0], {}, "no parameter varies"),
    ],
)
def test_it_says_when_there_is_nothing_to_tell(response: list[float], values: dict, note: str) -> None:
    """Zeros and a reason, no error."""
    shares, told = variance_shares(np.array(response), values)
    assert set(shares.values()) <= {0.0} and note.replace("\\", "") in told


def test_few_points_get_fewer_groups() -> None:
    """Twelve points do not support eight groups of each of two parameters, but two groups they do."""
    values = {"a": list(range(12)), "b": [index * 5 % 12 for index in range(12)]}
    shares, note = variance_shares(np.exp(np.arange(12.0)), values)
    assert note == "" and shares["a"] > 0.5 > shares["b"]


def test_importance_of_a_table() -> None:
    """By objective; only points that ran count. Feasibility counts all points but failed ones."""
    table = synthetic_table(600)
    found = {row.objective: row for row in importances(table)}
    assert list(found) == [objective.name for objective in table.objectives]
    area = found["area_mm2"]
    assert max(area.shares, key=lambda name: area.shares[name]) == "grid.pes"
    assert area.points == sum(row.status == "ok" for row in table.rows)
    assert importances(table) == importances(dataclasses.replace(table)), "deterministic"
    feasible = feasibility_importance(table)
    assert max(feasible.shares, key=lambda name: feasible.shares[name]) == "pe.local_memory_bytes"
