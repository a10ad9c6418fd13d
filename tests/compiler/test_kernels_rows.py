"""Norms and element-wise operations against NumPy on the simulator."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.graph import RmsNormAttributes
from isa.errors import UnsupportedError
from tests.compiler.graphs import Array, GraphWriter, compile_graph, run_graph, small_machine

MACHINES = ("mtia-2i", "mtia-v1")
SHAPES = ((1, 172), (7, 64), (70, 1000), (3, 12000))
DTYPES = {"fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32)}
TOLERANCE = {"fp16": {"rtol": 2**-10, "atol": 2**-10}, "fp32": {"rtol": 2**-20, "atol": 2**-20}}


def _pair(rows: int, columns: int, dtype: str) -> tuple[GraphWriter, dict[str, Array]]:
    rng = np.random.default_rng(rows + columns)
    writer, inputs = GraphWriter(DTYPES[dtype].name), {}
    for name in "ab":
        inputs[name] = rng.standard_normal((1, rows, columns)).astype(DTYPES[dtype])
        writer.input(name, inputs[name].shape)
    return writer, inputs


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_elementwise(machine: str, dtype: str, shape: tuple[int, int]) -> None:
    """Sum and SiLU gate of rows of any length."""
    writer, inputs = _pair(*shape, dtype)
    for kind in ("add", "swiglu"):
        writer.add(kind, ("a", "b"), kind, (1, *shape))
    results = run_graph(writer.graph("add", "swiglu"), small_machine(machine), inputs, dtype)
    a, b = (inputs[name].astype(np.float64) for name in "ab")
    np.testing.assert_allclose(results["add"], a + b, **TOLERANCE[dtype])
    np.testing.assert_allclose(results["swiglu"], a / (1 + np.exp(-a)) * b, **TOLERANCE[dtype])


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(machine: str, dtype: str, shape: tuple[int, int]) -> None:
    """The mean counts true columns only; rows longer than a chunk are walked in pieces."""
    writer, inputs = _pair(*shape, dtype)
    weight = np.random.default_rng(1).standard_normal(shape[1]).astype(np.float32)
    writer.constant("weight", weight)
    writer.add("rms_norm", ("a", "weight"), "y", (1, *shape), RmsNormAttributes(1e-5))
    result = run_graph(writer.graph("y"), small_machine(machine), inputs, dtype)["y"]
    a = inputs["a"].astype(np.float64)
    expected = a / np.sqrt((a * a).mean(-1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(result, expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("columns", [8192, 16384])
def test_long_rows_fit_the_smallest_preset(columns: int) -> None:
    """Norms of the widest models fit in 128 KB of local memory."""
    writer = GraphWriter()
    writer.input("x", (1, 1, columns))
    writer.constant("weight", np.ones(columns, np.float32))
    writer.add("rms_norm", ("x", "weight"), "y", (1, 1, columns), RmsNormAttributes(1e-5))
    assert compile_graph(writer.graph("y"), small_machine("mtia-v1")).kernels


def test_a_row_that_does_not_fit_is_refused() -> None:
    """A row that local memory cannot hold is an error that says so."""
    writer = GraphWriter()
    writer.input("x", (1, 1, 40000))
    writer.constant("weight", np.ones(40000, np.float32))
    writer.add("rms_norm", ("x", "weight"), "y", (1, 1, 40000), RmsNormAttributes(1e-5))
    with pytest.raises(UnsupportedError, match="a row of 40000 elements does not fit"):
        compile_graph(writer.graph("y"), small_machine("mtia-v1"))
