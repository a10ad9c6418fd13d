"""Products of computed matrices on the simulator against NumPy: batches, tails of every size, chunks of K."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compiler.graphs import Array, GraphWriter, check_padding, compile_graph, run_graph, small_machine

SHAPES = [
    ((5, 7), (9, 7)),
    ((1, 5), (300, 5)),
    ((2, 3, 40, 70), (2, 3, 33, 70)),
    ((2, 1, 40, 1500), (3, 140, 1500)),
    ((3, 100, 64), (200, 64)),
    ((2, 2, 1, 1, 3), (2, 1, 3, 1, 3)),
]


def _case(shapes: tuple[tuple[int, ...], tuple[int, ...]], host: str) -> tuple[GraphWriter, dict[str, Array], Array]:
    random = np.random.default_rng(2)
    inputs = {name: random.standard_normal(shape).astype(host) for name, shape in zip("ab", shapes, strict=True)}
    a, b = (array.astype(np.float64) for array in inputs.values())
    writer, exact = GraphWriter(host), a @ b.swapaxes(-1, -2)
    operands = tuple(writer.input(name, array.shape) for name, array in inputs.items())
    writer.add("matmul", operands, "y", exact.shape)
    return writer, dict(inputs), exact


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize(("dtype", "host", "tolerance"), [("fp16", "float16", 1e-3), ("fp32", "float32", 2e-6)])
@pytest.mark.parametrize("shapes", SHAPES)
def test_products(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], dtype: str, host: str, tolerance: float, machine: str
) -> None:
    """Every element, whatever the delays; rows end with zeros."""
    writer, inputs, exact = _case(shapes, host)
    found = run_graph(writer.graph("y"), small_machine(machine), inputs, dtype)["y"]
    assert found.shape == exact.shape
    np.testing.assert_allclose(found, exact, rtol=0, atol=tolerance * np.abs(exact).max())
    check_padding(writer.graph("y"), small_machine(machine), inputs, dtype)


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize(("columns", "depth"), [(70, 200), (200, 128), (128, 64), (256, 512)])
def test_whole_results(columns: int, depth: int, dtype: str, machine: str) -> None:
    """Operands of 9 bits multiply exactly in 16-bit types, and the sums are not rounded to those."""
    random = np.random.default_rng(3)
    inputs = {name: random.integers(-255, 256, shape) for name, shape in (("a", (37, depth)), ("b", (columns, depth)))}
    arrays = {name: array.astype(np.float32) for name, array in inputs.items()}
    writer = GraphWriter("float32")
    operands = tuple(writer.input(name, array.shape) for name, array in arrays.items())
    writer.add("matmul", operands, "y", (37, columns), dtype="int32")
    found = run_graph(writer.graph("y"), small_machine(machine), arrays, dtype)["y"]
    np.testing.assert_array_equal(found, inputs["a"] @ inputs["b"].T)
    check_padding(writer.graph("y"), small_machine(machine), arrays, dtype)


def test_macs_are_counted() -> None:
    """Useful ones are those of the shapes; issued ones have the blocks that rows are padded to."""
    writer, _, _ = _case(((3, 5, 7), (3, 9, 7)), "float16")
    (launch,) = compile_graph(writer.graph("y"), small_machine()).entries[0].launches
    assert (launch.useful_macs, launch.parts[0].issued_macs) == (3 * 5 * 9 * 7, 3 * 32 * 9 * 32)


@pytest.mark.parametrize("changes", [{"matrix.block_rows": 8}, {"accumulator.banks": 2}, {"matrix.block_rows": 16}])
def test_other_blocks(changes: dict[str, object]) -> None:
    """Blocks that are narrower than what a row is padded to."""
    writer, inputs, exact = _case(((2, 19, 70), (45, 70)), "float16")
    found = run_graph(writer.graph("y"), small_machine("mtia-2i", **changes), inputs)["y"]
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-3 * np.abs(exact).max())
    check_padding(writer.graph("y"), small_machine("mtia-2i", **changes), inputs)
