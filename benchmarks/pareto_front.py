"""How long the Pareto front of many points takes: `python benchmarks/pareto_front.py [POINTS]` (100,000 by default).

Asked: under a second for three objectives, whatever the points: also if all of them are on the front.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from sweeps.pareto import Values, front, front_of
from tests.synthetic_sweep import synthetic_table


def point_sets(count: int) -> dict[str, Values]:
    """Return points of three objectives by what is hard about them."""
    random, line = np.random.default_rng(0), np.arange(count, dtype=np.float64)
    sphere = np.abs(random.normal(size=(count, 3)))
    return {
        "random": random.random((count, 3)),
        "few values, many ties": np.floor(random.random((count, 3)) * 20),
        "all on the front, a sphere": -sphere / np.linalg.norm(sphere, axis=1)[:, None],
        "all on the front, a line": np.stack([line, -line, np.zeros(count)], axis=1),
        "all equal": np.ones((count, 3)),
    }


def main(arguments: list[str]) -> None:
    """Print a line for each set of points, and one for a table of points as a sweep has them."""
    count = int(arguments[0]) if arguments else 100_000
    for name, values in point_sets(count).items():
        seconds, members = _timed(lambda values=values: len(front(values)))  # type: ignore[misc]
        print(f"{name:<30}{count:>9,} points  {members:>9,} on the front  {seconds:.3f} s")
    table = synthetic_table(count)
    seconds, members = _timed(lambda: len(front_of(table).rows))
    print(f"{'table of a sweep, with knee':<30}{count:>9,} points  {members:>9,} on the front  {seconds:.3f} s")


def _timed(work: Callable[[], int]) -> tuple[float, int]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main(sys.argv[1:])
