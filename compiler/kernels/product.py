"""Products of computed matrices that are spread over the grid like a linear, whose second operand is no constant."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from compiler.graph import Operation
from compiler.kernels.linear import build
from compiler.kernels.tiling import row_strides
from compiler.linear_macs import issued_macs, useful_macs
from compiler.linear_mapping import padded_outputs
from compiler.lowering import ArgumentValue, Lowering
from compiler.products import places
from compiler.shape_inference import int_shape


def launch_spread(context: Lowering, op: Operation) -> None:
    """Launch each product of two matrices; rows of many that are multiplied by the same one are one product."""
    graph, names = context.mapped.graph, (*op.inputs, op.outputs[0])
    a, b, out = (context.region(name) for name in names)
    mapping, count = context.mapped.linears[op.name], places(graph, op)
    shape = mapping.shape
    kernel, macs = context.kernel(build, mapping), (useful_macs(shape), issued_macs(mapping))
    for a_offset, b_offset, out_offset in _offsets(context, op) if count > 1 else [(0, 0, 0)]:
        arguments: dict[str, ArgumentValue] = {
            "x": context.address(a, a_offset), "x_pitch": a.pitch_bytes, "weight": context.address(b, b_offset),
            "weight_pitch": b.pitch_bytes, "out": context.address(out, out_offset), "out_pitch": out.pitch_bytes,
            "rows": shape.rows, "k_bytes": mapping.k_bytes, "out_bytes": out.row_bytes, "chunks": mapping.chunks,
            "row_rounds": mapping.row_rounds, "output_tiles": mapping.output_tiles, "initial": 0, "initial_pitch": 0,
            "inputs": shape.inputs,
            "outputs": padded_outputs(shape) if shape.factor == "columns" else shape.outputs,
        }  # fmt: skip
        grid = (mapping.grid_rows, mapping.grid_columns)
        context.launch(op, kernel, grid, arguments, *macs)


def _offsets(context: Lowering, op: Operation) -> Iterator[tuple[int, ...]]:
    """Yield where the matrices of a, b and the result start at each place of the outer axes."""
    names = (*op.inputs, op.outputs[0])
    shapes = [int_shape(context.mapped.graph.value(name or "").shape) for name in names]
    regions, rank = [context.region(name) for name in names], len(shapes[2])
    strides = [row_strides(shape, region, rank)[:-1] for shape, region in zip(shapes, regions, strict=True)]
    for place in itertools.product(*(range(size) for size in shapes[2][:-2])):
        yield tuple(sum(index * step for index, step in zip(place, steps, strict=True)) for steps in strides)
