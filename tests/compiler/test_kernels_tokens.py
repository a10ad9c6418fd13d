"""Embedding, slices, rotary embedding and cache writes against NumPy on the simulator."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.graph import RopeAttributes, SliceAttributes
from tests.compiler.graphs import Array, GraphWriter, run_graph, small_machine

MACHINES = ("mtia-2i", "mtia-v1")
DTYPES = {"fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32)}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("batch", "sequence", "columns"), [(1, 1, 172), (2, 9, 64), (1, 33, 1000), (2, 5, 9000)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding(machine: str, dtype: str, batch: int, sequence: int, columns: int) -> None:
    """Each id gets its row of the table, exactly."""
    rng = np.random.default_rng(columns)
    table = rng.standard_normal((50, columns)).astype(DTYPES[dtype])
    ids = rng.integers(0, 50, (batch, sequence)).astype(np.int64)
    writer = GraphWriter(DTYPES[dtype].name)
    writer.input("ids", ids.shape, "int64")
    writer.constant("table", table)
    writer.add("embedding", ("ids", "table"), "y", (batch, sequence, columns))
    result = run_graph(writer.graph("y"), small_machine(machine), {"ids": ids}, dtype)["y"]
    np.testing.assert_array_equal(result, table[ids])


SLICES = (
    SliceAttributes(1, 7, 1),  # the last token of each sequence: a view with the pitch of a sequence
    SliceAttributes(1, 2, 5),  # some tokens of each sequence: a copy per sequence
    SliceAttributes(2, 32, 64),  # aligned columns: a view
    SliceAttributes(2, 16, 23),  # other columns: a copy with zeros behind them
)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("attributes", SLICES)
def test_slices(machine: str, dtype: str, attributes: SliceAttributes) -> None:
    """A slice has the same values whether it is a view or a copy, as an output and as an operand."""
    x = np.random.default_rng(5).standard_normal((2, 8, 200)).astype(DTYPES[dtype])
    start, size = int(attributes.start), int(attributes.size)  # type: ignore[arg-type]
    expected = x.take(range(start, start + size), axis=attributes.axis)
    writer = GraphWriter(DTYPES[dtype].name)
    writer.input("x", x.shape)
    writer.add("slice", ("x",), "part", expected.shape, attributes)
    writer.add("add", ("part", "part"), "twice", expected.shape)
    results = run_graph(writer.graph("part", "twice"), small_machine(machine), {"x": x}, dtype)
    np.testing.assert_array_equal(results["part"], expected)
    np.testing.assert_array_equal(results["twice"], expected + expected)


ROPES = (
    # batch, sequence, heads, head_dim, interleaved, rows of positions (0: from the start)
    (1, 1, 4, 16, False, 0),
    (2, 9, 3, 16, True, 0),
    (2, 9, 6, 16, False, 2),
    (2, 9, 8, 8, False, 2),
    (2, 9, 5, 64, True, 1),
    (2, 37, 6, 64, False, 0),  # blocks of tokens of some heads, the last one of a sequence shorter
    (1, 50, 4, 16, False, 0),
    (3, 32, 2, 32, False, 0),
    (2, 9, 48, 128, False, 2),  # room for one row at a time on mtia-v1
)
START = 5


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("batch", "sequence", "heads", "head_dim", "interleaved", "position_rows"), ROPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rope(
    machine: str,
    dtype: str,
    batch: int,
    sequence: int,
    heads: int,
    head_dim: int,
    interleaved: bool,
    position_rows: int,
) -> None:
    """Both pairings, positions from a start or from an input (of each sequence or shared), any number of heads."""
    rng = np.random.default_rng(heads * head_dim)
    angles = np.arange(60)[:, None] * rng.random(head_dim // 2)[None]
    x = rng.standard_normal((batch, sequence, heads * head_dim)).astype(DTYPES[dtype])
    writer, inputs = GraphWriter(DTYPES[dtype].name), {"x": x}
    writer.input("x", x.shape)
    writer.constant("cosines", np.cos(angles).astype(np.float32))
    writer.constant("sines", np.sin(angles).astype(np.float32))
    positions = np.arange(sequence)[None] + START
    name = None
    if position_rows:
        positions = rng.integers(0, 60, (position_rows, sequence)).astype(np.int64)
        name, inputs["positions"] = writer.input("positions", positions.shape, "int64"), positions
    attributes = RopeAttributes(heads, head_dim, interleaved, None if position_rows else START)
    writer.add("rope", ("x", name, "cosines", "sines"), "y", x.shape, attributes)
    result = run_graph(writer.graph("y"), small_machine(machine), inputs, dtype)["y"]
    places = np.broadcast_to(positions, (batch, sequence))
    expected = rotated(x.astype(np.float64), angles[places][:, :, None], heads, interleaved)
    tolerance = 2**-20 if dtype == "fp32" else 2**-10
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


def rotated(x: Array, angles: Array, heads: int, interleaved: bool) -> Array:
    """Rotate pairs of [batch, sequence, heads * head_dim] by angles [batch, sequence, 1, head_dim / 2]."""
    split = x.reshape(*x.shape[:2], heads, -1)
    half = split.shape[-1] // 2
    first, second = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(0, half), slice(half, None))
    result = np.empty_like(split)
    result[..., first] = split[..., first] * np.cos(angles) - split[..., second] * np.sin(angles)
    result[..., second] = split[..., second] * np.cos(angles) + split[..., first] * np.sin(angles)
    return result.reshape(x.shape)
