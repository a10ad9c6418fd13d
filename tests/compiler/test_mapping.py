"""Mapping: regions, caches, packed constants and the choice of tiles."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.graph import LinearAttributes, RmsNormAttributes, SliceAttributes
from compiler.legalize import legalize
from compiler.linear_cost import cycles
from compiler.linear_mapping import padded_outputs
from compiler.linear_search import choose_linear
from compiler.linear_shape import LinearShape
from compiler.mapped import MappedGraph
from compiler.mapping import map_graph
from isa.affine import Affine
from isa.dtypes import FP16
from isa.errors import UnsupportedError
from isa.machine import preset
from isa.packing import device_bytes
from isa.program import Program
from tests.compiler.graphs import GraphWriter, compile_graph, small_machine

# Llama-3-8B: projections, feed-forward, head.
WIDE_SHAPES = ((4096, 4096), (4096, 1024), (4096, 14336), (14336, 4096), (4096, 128256))


def _shape(rows: int, inputs: int, outputs: int) -> LinearShape:
    return LinearShape(rows, inputs, outputs, FP16, FP16, has_bias=False, has_residual=False)


@pytest.mark.parametrize("rows", [1, 512])
@pytest.mark.parametrize(("inputs", "outputs"), WIDE_SHAPES)
def test_large_products_are_bound_by_memory(rows: int, inputs: int, outputs: int) -> None:
    """On 2i every weight of an 8B model is read once, by all PEs evenly, in blocks of at least 8 KB, no padding."""
    machine = preset("mtia-2i")
    mapping = choose_linear(_shape(rows, inputs, outputs), machine)
    bound = inputs * outputs * 2 / machine.dram_bytes_per_cycle
    assert cycles(mapping, machine) < 1.05 * bound
    assert mapping.row_rounds == 1 and mapping.pe_count == machine.pe_count
    assert mapping.weight_bytes < 1.01 * inputs * outputs * 2
    assert mapping.weight_chunk_bytes >= 8192 and mapping.weight_slots >= 2


@pytest.mark.parametrize("machine", ["mtia-v1", "mtia-2i", "hbm-concept", "mtia-300", "mtia-450"])
@pytest.mark.parametrize("rows", [1, 7, 33, 70, 600])
@pytest.mark.parametrize(("inputs", "outputs"), [(172, 333), (64, 512), (11008, 4096), (16384, 53248)])
def test_choices_cover_the_result_and_fit(machine: str, rows: int, inputs: int, outputs: int) -> None:
    """Tiles cover all rows and outputs, chunks all of K, buffers fit in local memory, banks in the accumulator."""
    chip, shape = preset(machine), _shape(rows, inputs, outputs)
    mapping = choose_linear(shape, chip)
    row_tiles = 1 if mapping.resident else mapping.row_parts * mapping.row_rounds
    assert row_tiles * mapping.tile_rows >= rows
    assert mapping.output_tiles * mapping.tile_outputs >= padded_outputs(shape)
    assert mapping.chunks * mapping.chunk_bytes >= mapping.k_bytes >= inputs * 2
    assert (mapping.chunks - 1) * mapping.chunk_bytes < mapping.k_bytes
    assert mapping.grid_rows <= chip.grid.rows and mapping.grid_columns <= chip.grid.columns
    assert mapping.local_bytes <= chip.pe.local_memory_bytes
    blocks = -(-mapping.tile_rows // chip.accumulator.rows) * -(-mapping.tile_outputs // chip.accumulator.columns)
    assert blocks <= chip.accumulator.banks


def test_no_tiling_fits() -> None:
    """A local memory that holds no tile is an error that gives the product's shape."""
    machine = small_machine(**{"pe.local_memory_bytes": 4096})
    with pytest.raises(UnsupportedError, match="no tiling of a 70 x 4096 by 4096 x 4096 product fits"):
        choose_linear(_shape(70, 4096, 4096), machine)


def _sliced(axis: int, start: int, size: int, batch: int = 1) -> MappedGraph:
    writer = GraphWriter()
    writer.input("x", (batch, 8, 200))
    shape = [batch, 8, 200]
    shape[axis] = size
    writer.add("slice", ("x",), "y", tuple(shape), SliceAttributes(axis, start, size))
    return map_graph(legalize(writer.graph("y")), small_machine(), "fp16")


@pytest.mark.parametrize(
    ("axis", "start", "size", "batch", "is_view"),
    [(2, 32, 64, 2, True), (2, 16, 64, 1, False), (2, 32, 60, 1, False), (1, 3, 4, 1, True), (1, 7, 1, 2, True),
     (1, 3, 4, 2, False)],
)  # fmt: skip
def test_views(axis: int, start: int, size: int, batch: int, is_view: bool) -> None:
    """Slices are views where a row pitch describes them and their rows are padded by nothing foreign."""
    region = _sliced(axis, start, size, batch).regions["y"]
    assert (region.storage == "x") == is_view


def test_printed_form() -> None:
    """A mapped graph prints its storages and operations, stable and short."""
    writer = GraphWriter()
    writer.input("x", (1, 1, 64))
    writer.constant("w", np.zeros((64, 64), np.float16))
    writer.add("linear", ("x", "w", None, None), "y", (1, 1, 64), LinearAttributes(False))
    assert str(map_graph(writer.graph("y"), small_machine(), "fp16")) == (
        "mapped test on mtia-2i, fp16\n"
        "  storage x: 128 bytes, input, -1..1\n"
        "  storage y: 128 bytes, output, 0..1\n"
        "  storage w.blocks_2x1x32x64_transposed: 8192 bytes, constant, -1..1\n"
        "  0: y[1, 64] = linear(x[1, 64], %w, none, none) resident swapped on 1 x 2 PEs, tile 1 x 32, K in 1 x 64"
    )


def _program_bytes(program: Program, prefix: str) -> np.ndarray:
    (constant,) = (item for item in program.constants if item.storage.startswith(prefix))
    return device_bytes(constant, program)


@pytest.mark.parametrize("rows_are_outputs", [False, True])
def test_packed_weight(rows_are_outputs: bool) -> None:
    """Blocks [tile][chunk][outputs][inputs] hold the weight, zeros beyond its edges."""
    weight = np.random.default_rng(3).standard_normal((1500, 100)).astype(np.float16)
    writer = GraphWriter()
    writer.input("x", (1, 1, 1500))
    writer.constant("w", weight.T.copy() if rows_are_outputs else weight)
    writer.add("linear", ("x", "w", None, None), "y", (1, 1, 100), LinearAttributes(rows_are_outputs))
    mapping = map_graph(writer.graph("y"), small_machine(), "fp16").linears["y_op"]
    packed = _program_bytes(compile_graph(writer.graph("y"), small_machine()), "w").view(np.float16)
    outputs, inputs = mapping.tile_outputs, mapping.chunk_inputs
    blocks = packed.reshape(mapping.output_tiles, mapping.chunks, outputs, inputs)
    whole = blocks.transpose(0, 2, 1, 3).reshape(mapping.output_tiles * outputs, mapping.chunks * inputs)
    np.testing.assert_array_equal(whole[:100, :1500], weight.T)
    assert not whole[100:].any() and not whole[:, 1500:].any()


def test_unbound_size() -> None:
    """A size that is open where it may not be names the dim to bind."""
    writer, shape = GraphWriter(), (1, Affine.symbol("sequence"), 64)
    writer.input("x", shape)
    writer.add("add", ("x", "x"), "y", shape)
    with pytest.raises(UnsupportedError) as caught:
        map_graph(writer.graph("y"), small_machine(), "fp16")
    assert str(caught.value) == (
        "x: the size sequence is not known when compiling\n"
        "  help: bind it, for example --dim sequence=1; only the length of the past may stay open"
    )


def test_computed_weight() -> None:
    """A weight that is not in the file is refused with the operation's name."""
    writer = GraphWriter()
    writer.input("x", (1, 4, 64))
    writer.add("rms_norm", ("x", "x"), "y", (1, 4, 64), RmsNormAttributes(1e-5))
    with pytest.raises(UnsupportedError, match="rms_norm needs a constant as input 1, 'x' is computed"):
        map_graph(writer.graph("y"), small_machine(), "fp16")
