"""Moves, reshapes and concatenations of any rank against NumPy on the simulator, bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from compiler.graph import Attributes, AxisAttributes, MoveAttributes, ShapeAttributes
from tests.compiler.graphs import Array, GraphWriter, check_padding, compile_graph, run_graph, small_machine

MACHINES = ("mtia-2i", "mtia-v1")
KINDS = (("fp16", "float16"), ("fp32", "float32"), ("fp16", "int32"))
"""Element types of the program and of the values: floats of 2 and 4 bytes, and whole numbers."""


def array_of(shape: tuple[int, ...], dtype: str = "float16") -> Array:
    """Return different numbers that both element types hold exactly."""
    return (np.arange(math.prod(shape)) % 2039 + 1).reshape(shape).astype(dtype)


def writer_of(arrays: dict[str, Array]) -> GraphWriter:
    """Return a writer with the arrays as inputs."""
    writer = GraphWriter()
    for name, array in arrays.items():
        writer.input(name, array.shape, str(array.dtype))
    return writer


def check(
    machine: str, kind: str, attributes: Attributes, arrays: list[Array], expected: Array, dtype: str = "fp16"
) -> None:
    """Run one operation and compare all elements."""
    inputs = {f"x{index}": array for index, array in enumerate(arrays)}
    writer = writer_of(inputs)
    writer.add(kind, tuple(inputs), "y", expected.shape, attributes, str(expected.dtype))
    result = run_graph(writer.graph("y"), small_machine(machine), inputs, dtype)["y"]
    np.testing.assert_array_equal(result, expected)


def transposition(shape: tuple[int, ...], order: tuple[int, ...]) -> MoveAttributes:
    """Return the move that a Transpose is."""
    sizes = tuple(shape[axis] for axis in order)
    return MoveAttributes(sizes, order, (0,) * len(shape), (1,) * len(shape))


TRANSPOSED = (
    ((7, 5), (1, 0)),
    ((300, 170), (1, 0)),
    ((3, 5, 7), (2, 0, 1)),
    ((3, 50, 70), (0, 2, 1)),
    ((2, 3, 4, 5), (3, 1, 0, 2)),
    ((2, 9, 3, 33), (0, 2, 1, 3)),
    ((4, 3, 2, 5, 6), (4, 2, 0, 3, 1)),
    ((1, 1, 9), (2, 1, 0)),
    ((5, 1000), (1, 0)),
)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "order"), TRANSPOSED)
def test_transpose(machine: str, kind: tuple[str, str], shape: tuple[int, ...], order: tuple[int, ...]) -> None:
    """Axes in any order, the last one in place or not."""
    x = array_of(shape, kind[1])
    check(machine, "move", transposition(shape, order), [x], x.transpose(order), kind[0])


SLICES: tuple[tuple[tuple[int, ...], tuple[slice, ...]], ...] = (
    ((7, 300), (slice(1, 6), slice(3, 290))),
    ((7, 300), (slice(None), slice(5, 290, 3))),
    ((40, 300), (slice(30, 2, -4), slice(None, None, -1))),
    ((3, 4, 5, 6), (slice(0, 3, 2), slice(1, 4), slice(4, 0, -1), slice(5, 1, -2))),
    ((9000,), (slice(8990, 3, -7),)),
    ((3, 20000), (slice(None), slice(1, None, 2))),
    ((5, 6, 7), (slice(2, 3), slice(None), slice(None))),
    ((5, 6, 64), (slice(None), slice(2, 4), slice(32, 64))),
    ((5, 12000), (slice(None), slice(33, 11999))),
)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "places"), SLICES)
def test_slice(machine: str, kind: tuple[str, str], shape: tuple[int, ...], places: tuple[slice, ...]) -> None:
    """Parts with any start and step, also backwards."""
    x = array_of(shape, kind[1])
    expected = x[places]
    ranges = [place.indices(size) for place, size in zip(places, shape, strict=True)]
    starts, steps = (tuple(item[index] for item in ranges) for index in (0, 2))
    attributes = MoveAttributes(expected.shape, tuple(range(len(shape))), starts, steps)
    check(machine, "move", attributes, [x], expected, kind[0])


EXPANDED: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((1, 7), (5, 7)),
    ((7, 1), (7, 40)),
    ((3, 1, 5), (4, 3, 6, 5)),
    ((1,), (3, 700)),
    ((), (2, 3)),
    ((2, 1, 1), (2, 3, 9000)),
)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("shape", "target"), EXPANDED)
def test_expand(machine: str, shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    """Axes of size 1, and axes that are not there, repeat."""
    x = array_of(shape)
    missing = len(target) - len(shape)
    axes = tuple(
        None if axis < missing or shape[axis - missing] != size else axis - missing for axis, size in enumerate(target)
    )
    attributes = MoveAttributes(target, axes, (0,) * len(shape), (1,) * len(shape))
    check(machine, "move", attributes, [x], np.broadcast_to(x, target))


def test_a_row_becomes_a_column_that_repeats() -> None:
    """The elements of one row become rows of their own, each repeated along them."""
    x = array_of((50,))
    attributes = MoveAttributes((50, 9), (0, None), (0,), (1,))
    for machine in MACHINES:
        check(machine, "move", attributes, [x], np.broadcast_to(x[:, None], (50, 9)))


RESHAPED: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((6, 4), (8, 3)),
    ((2, 3, 5, 7), (6, 35)),
    ((6, 35), (2, 3, 5, 7)),
    ((700, 3), (2100,)),
    ((2100,), (700, 3)),
    ((3, 9001), (9001, 3)),
    ((9001, 3), (3, 9001)),
    ((3, 30011), (3 * 30011,)),
    ((3 * 30011,), (3, 30011)),
    ((5, 1), (5,)),
    ((), (1, 1)),
    ((1, 7), (7, 1)),
    ((4, 64), (2, 2, 2, 32)),
    ((37, 5003), (185111,)),
)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "target"), RESHAPED)
def test_reshape(machine: str, kind: tuple[str, str], shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    """Rows of one length become rows of any other."""
    x = array_of(shape, kind[1])
    check(machine, "reshape", ShapeAttributes(target), [x], x.reshape(target), kind[0])


JOINED: tuple[tuple[tuple[tuple[int, ...], ...], int], ...] = (
    (((2, 3, 5), (2, 4, 5), (2, 1, 5)), 1),
    (((3, 5), (3, 7), (3, 1)), 1),
    (((40, 5),), 1),
    (((70, 33), (70, 32), (70, 600)), 1),
    (((2, 9001), (2, 3), (2, 12001)), 1),
    (((5,), (0,), (9,)), 0),
    (((2, 0, 5), (2, 3, 5)), 1),
    (((3, 2, 40), (1, 2, 40)), 0),
)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shapes", "axis"), JOINED)
def test_concat(machine: str, kind: tuple[str, str], shapes: tuple[tuple[int, ...], ...], axis: int) -> None:
    """Tensors follow each other along any axis; those without elements leave no trace."""
    arrays = [array_of(shape, kind[1]) + index for index, shape in enumerate(shapes)]
    arrays = [array.astype(kind[1]) for array in arrays]
    check(machine, "concat", AxisAttributes(axis), arrays, np.concatenate(arrays, axis), kind[0])


@pytest.mark.parametrize("machine", MACHINES)
def test_padding_of_rows_is_zero(machine: str) -> None:
    """What moves write behind the last column are zeros, whatever was there: a product over a row may read them."""
    x = array_of((5, 33))
    writer = writer_of({"x": x})
    writer.add("move", ("x",), "cut", (5, 20), MoveAttributes((5, 20), (0, 1), (0, 5), (1, 1)))
    writer.add("concat", ("cut", "cut"), "twice", (5, 40), AxisAttributes(1))
    writer.add("concat", ("cut", "cut"), "below", (10, 20), AxisAttributes(0))
    writer.add("reshape", ("twice",), "long", (10, 20), ShapeAttributes((10, 20)))
    writer.add("move", ("long",), "turned", (20, 10), transposition((10, 20), (1, 0)))
    writer.add("move", ("long",), "back", (10, 19), MoveAttributes((10, 19), (0, 1), (0, 18), (1, -1)))
    graph = writer.graph("cut", "twice", "below", "long", "turned", "back")
    check_padding(graph, small_machine(machine), {"x": x})


def test_views_take_no_launch() -> None:
    """Reshapes that keep rows, splits of rows at 64 bytes, leading slices and squeezed axes only rename memory."""
    x = array_of((4, 6, 64))
    writer = writer_of({"x": x})
    writer.add("move", ("x",), "a", (2, 6, 64), MoveAttributes((2, 6, 64), (0, 1, 2), (1, 0, 0), (1, 1, 1)))
    writer.add("reshape", ("a",), "b", (12, 64), ShapeAttributes((12, 64)))
    writer.add("reshape", ("b",), "c", (12, 2, 32), ShapeAttributes((12, 2, 32)))
    writer.add("move", ("x",), "d", (4, 64), MoveAttributes((4, 64), (0, 2), (0, 3, 0), (1, 1, 1)))
    graph = writer.graph("c", "d")
    assert not compile_graph(graph, small_machine()).entries[0].launches
    results = run_graph(graph, small_machine(), {"x": x})
    np.testing.assert_array_equal(results["c"], x[1:3].reshape(12, 2, 32))
    np.testing.assert_array_equal(results["d"], x[:, 3])
