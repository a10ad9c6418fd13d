"""How well the compiler's cost model ranks mappings: `python benchmarks/cost_model.py [--machine NAME]`.

For ten shapes of linears, mappings from the best to the worst by estimate are simulated. Printed are Spearman's rank
correlation of estimate and simulation per shape, and over all mappings (each in units of its shape's fastest), and what
the mapping that the estimate chooses loses against the fastest of those that were simulated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt

from benchmarks.validate import product
from compiler.autotune import alone
from compiler.linear_cost import cycles
from compiler.linear_search import ranked_mappings
from compiler.linear_shape import LinearShape
from compiler.mapped import MappedGraph
from compiler.onnx_import import import_model
from compiler.pipeline import BACK, FRONT, Options, run_passes
from isa.machine import Machine, preset
from simulator import simulated_cycles

SHAPES = (
    (1, 4096, 4096), (1, 14336, 4096), (8, 4096, 4096), (64, 4096, 4096), (128, 2048, 8192), (512, 1024, 4096),
    (512, 4096, 4096), (1000, 3000, 1000), (1024, 1024, 1024), (2048, 2048, 2048),
)  # fmt: skip
"""Rows, outputs, inputs."""
MAPPINGS = 24
"""Simulated per shape."""
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """Estimated and simulated cycles of mappings of one shape; the first is the one that is chosen."""

    shape: LinearShape
    estimated: Array
    simulated: Array

    @property
    def correlation(self) -> float:
        """Spearman's rank correlation."""
        return rank_correlation(self.estimated, self.simulated)

    @property
    def loss(self) -> float:
        """What the chosen mapping takes above the fastest."""
        return float(self.simulated[0] / self.simulated.min() - 1)


def rank_correlation(left: Array, right: Array) -> float:
    """Return Spearman's coefficient: Pearson's, of the ranks; equal values share the mean of their ranks."""
    return float(np.corrcoef(_ranks(left), _ranks(right))[0, 1])


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    means = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(means[inverse], dtype=np.float64)


def ranking(rows: int, outputs: int, inputs: int, machine: Machine, count: int = MAPPINGS) -> Ranking:
    """Simulate `count` mappings of a linear, evenly spread from the best to the worst by estimate."""
    graph = import_model(product(rows, outputs, inputs, weights=True), None, "product")
    options = Options(machine)
    mapped = run_passes((*FRONT, *BACK), graph, options, stop_after="map").level
    assert isinstance(mapped, MappedGraph)
    ((name, choice),) = mapped.linears.items()
    (op,) = (op for op in mapped.graph.operations if op.name == name)
    ranked = ranked_mappings(choice.shape, machine)
    mappings = [ranked[index] for index in np.unique(np.linspace(0, len(ranked) - 1, count).astype(int))]
    simulated = [simulated_cycles(alone(op, mapped.graph, machine, options.dtype, one)) for one in mappings]
    return Ranking(choice.shape, np.array([cycles(one, machine) for one in mappings]), np.array(simulated))


def main(arguments: Sequence[str]) -> None:
    """Print a line per shape, and the correlation over all."""
    parser = argparse.ArgumentParser(description="Rank correlation of estimated and simulated cycles of mappings.")
    parser.add_argument("--machine", default="mtia-2i", help="a preset (default: %(default)s)")
    machine = preset(parser.parse_args(arguments).machine)
    print(f"{'rows x outputs x inputs':26} mappings  correlation   chosen loses")
    rankings = []
    for rows, outputs, inputs in SHAPES:
        one = ranking(rows, outputs, inputs, machine)
        rankings.append(one)
        name = f"{rows} x {outputs} x {inputs}"
        print(f"{name:26} {len(one.simulated):8} {one.correlation:12.3f} {one.loss:14.2%}", flush=True)
    estimated, simulated = (
        np.concatenate([getattr(one, name) / one.simulated.min() for one in rankings])
        for name in ("estimated", "simulated")
    )
    print(f"{'all':26} {len(simulated):8} {rank_correlation(estimated, simulated):12.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
