"""Recipes on the simulator against NumPy: broadcasting, odd sizes, rows in pieces, every machine."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.graph import PointwiseAttributes, Step
from tests.compiler.graphs import Array, GraphWriter, check_padding, run_graph, small_machine

STEPS = (Step("vmul", (0, 1)), Step("vmaxs", (2,), -0.5), Step("vsub", (3, 0)))
SHAPES = [
    ((), ()), ((1,), (7,)), ((37, 5), (37, 5)), ((37, 5), (5,)), ((37, 1), (1, 70)), ((3, 1, 5, 33), (4, 1, 33)),
    ((2, 1, 3, 1, 2, 1, 19), (1, 3, 1, 2, 1, 2, 1)), ((2, 9001), (2, 1)), ((97, 130), (97, 130)),
    ((0, 5), (5,)),
]  # fmt: skip


@pytest.mark.parametrize("name", ["mtia-v1", "mtia-2i"])
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_broadcast_recipes(left: tuple[int, ...], right: tuple[int, ...], dtype: str, name: str) -> None:
    random = np.random.default_rng(1)
    host = "float16" if dtype == "fp16" else "float32"
    inputs: dict[str, Array] = {
        key: np.asarray(random.normal(size=shape), host) for key, shape in (("a", left), ("b", right))
    }
    writer = GraphWriter(host)
    operands = tuple(writer.input(key, array.shape) for key, array in inputs.items())
    writer.add("pointwise", operands, "out", np.broadcast_shapes(left, right), PointwiseAttributes(STEPS))
    found = run_graph(writer.graph("out"), small_machine(name), inputs, dtype)["out"]
    check_padding(writer.graph("out"), small_machine(name), inputs, dtype)
    a, b = (array.astype(np.float64) for array in inputs.values())
    exact = np.maximum(a * b, -0.5) - a
    assert found.shape == exact.shape
    np.testing.assert_allclose(
        found, exact, rtol=2e-3 if dtype == "fp16" else 1e-6, atol=1e-3 if dtype == "fp16" else 1e-6
    )


def test_zeros_keep_their_sign() -> None:
    """Steps that differ in the sign of a zero only are equal; their kernels are two."""
    writer = GraphWriter("float32")
    a = writer.input("a", (1, 16))
    for name, zero in (("sum", 0.0), ("same", -0.0)):
        writer.add("pointwise", (a,), name, (1, 16), PointwiseAttributes((Step("vadds", (0,), zero),)))
    negative = {"a": np.full((1, 16), -0.0, np.float32)}
    found = run_graph(writer.graph("sum", "same"), small_machine(), negative, "fp32")
    assert not np.signbit(found["sum"]).any() and np.signbit(found["same"]).all()


@pytest.mark.parametrize("name", ["mtia-v1", "mtia-2i"])
def test_truth_values_are_whole_numbers(name: str) -> None:
    a = np.arange(111, dtype=np.int64).reshape(37, 3) % 5
    writer = GraphWriter("float16")
    left, right = writer.input("a", a.shape, "int64"), writer.input("b", (3,), "int64")
    writer.add("pointwise", (left, right), "out", a.shape, PointwiseAttributes((Step("vless", (0, 1)),)))
    b = np.array([1, 2, 3])
    found = run_graph(writer.graph("out"), small_machine(name), {"a": a, "b": b})["out"]
    np.testing.assert_array_equal(found, a < b)
