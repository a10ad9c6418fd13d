"""Pairwise products of features against NumPy on the simulator."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.graph import InteractionAttributes, Run
from tests.compiler.graphs import Array, GraphWriter, compile_graph, run_graph, small_machine


def _lower(features: int, offset: int) -> tuple[Run, ...]:
    return tuple(Run(row, 0, row + offset) for row in range(features) if row + offset > 0)


# Batch, dim, features of each input, runs, prefix.
CASES = {
    "lower triangle behind the dense feature": (41, 16, (1, 1, 1, 1), _lower(4, 0), 0),
    "with the diagonal": (7, 24, (1, 3), _lower(4, 1), None),
    "upper triangle, last feature first": (23, 40, (2, 1, 2), tuple(Run(row, row + 1, 4 - row) for row in range(4)), 4),
    "more features than a block has rows": (13, 136, (1, 38), _lower(39, 0), 0),
    "one sample": (1, 128, (1,) * 27, _lower(27, 0), 0),
}


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize(("dtype", "host"), [("fp16", "float16"), ("fp32", "float32")])
@pytest.mark.parametrize("case", CASES)
def test_interaction(case: str, dtype: str, host: str, machine: str) -> None:
    """Each sample has the chosen products of its own features, and as many matrix products as are stated."""
    batch, dim, counts, runs, prefix = CASES[case]
    rng = np.random.default_rng(dim)
    writer, inputs = GraphWriter(), {}
    for index, count in enumerate(counts):
        shape = (batch, dim) if count == 1 else (batch, count, dim)
        inputs[f"x{index}"] = (rng.standard_normal(shape) / np.sqrt(dim)).astype(host)
        writer.input(f"x{index}", shape, host)
    width = sum(run.count for run in runs) + (0 if prefix is None else dim)
    writer.add_many(
        "interaction", tuple(inputs), ("y",), (batch, width), InteractionAttributes(counts, runs, prefix), host
    )
    result = run_graph(writer.graph("y"), small_machine(machine), inputs, dtype)["y"]
    x = np.concatenate([array.reshape(batch, -1, dim) for array in inputs.values()], axis=1).astype(np.float64)
    products = x @ x.swapaxes(1, 2)
    parts: list[Array] = [] if prefix is None else [x[:, prefix]]
    parts += [products[:, run.row, run.first : run.first + run.count] for run in runs]
    tolerance = 1e-3 if dtype == "fp16" else 1e-6
    np.testing.assert_allclose(result, np.concatenate(parts, axis=1), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_stated_products_are_those_issued(dtype: str) -> None:
    batch, dim, counts, runs, prefix = CASES["more features than a block has rows"]
    writer = GraphWriter()
    names = tuple(writer.input(f"x{index}", (batch, count, dim)) for index, count in enumerate(counts))
    writer.add("interaction", names, "y", (batch, 741 + dim), InteractionAttributes(counts, runs, prefix))
    from simulator import Simulator

    report = Simulator(compile_graph(writer.graph("y"), small_machine(), dtype)).profile()
    (operation,) = report.operations
    assert operation.issued_macs == operation.stated_macs >= operation.useful_macs == batch * 741 * dim
