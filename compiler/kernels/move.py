"""Elements to other places: transposed, cut out with steps, reversed, repeated; any rank, any strides.

`lower` writes the operation as a loop nest over both sides and looks at what lies along the output's rows: a whole
row or part of one (`move_rows`), the elements of a row in another order (`move_strided`), or another axis whose rows
have to be transposed (`move_transposed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compiler.graph import MoveAttributes, Operation
from compiler.kernels import move_rows, move_strided, move_transposed
from compiler.lowering import Lowering
from compiler.packing import ROW_ALIGNMENT_BYTES
from compiler.shape_inference import int_shape
from compiler.strides import Axis, Walk, byte_strides, collapsed
from isa.errors import UnsupportedError


def lower(context: Lowering, op: Operation) -> None:
    """Launch the kernel for what lies along the output's rows; nothing for a result without elements."""
    walk = _walk(context, op)
    if not walk.columns.size or not all(axis.size for axis in walk.outer):
        return
    element = walk.dtype.bytes
    across = [axis for axis in walk.outer if axis.source % ROW_ALIGNMENT_BYTES]
    if not across and walk.columns.source == element:
        move_rows.launch(context, op, walk)
    elif not across and move_strided.spans_too_much(context.machine, walk) and _is_of_rows(walk):
        column = Axis(1, element, walk.row_bytes)
        move_transposed.launch(context, op, replace(walk, outer=(*walk.outer, column)))
    elif not across:
        move_strided.launch(context, op, walk)
    elif len(across) == 1 and across[0].source == element and walk.columns.source >= 0:
        move_transposed.launch(context, op, walk)
    else:
        raise UnsupportedError(
            "a move that turns a row into several axes, or cuts and transposes it at once", where=op.name,
            help="slice with steps and transpose one after the other",
        )  # fmt: skip


def _is_of_rows(walk: Walk) -> bool:
    """Tell whether each element comes from a row of its own: then a column of the source becomes a row."""
    return walk.columns.source > 0 and not walk.columns.source % ROW_ALIGNMENT_BYTES


def _walk(context: Lowering, op: Operation) -> Walk:
    attributes = op.attributes
    assert isinstance(attributes, MoveAttributes)
    graph = context.mapped.graph
    x, out = context.region(op.inputs[0]), context.region(op.outputs[0])
    source_shape = int_shape(graph.value(op.inputs[0] or "").shape) or (1,)
    shape = int_shape(graph.value(op.outputs[0] or "").shape) or (1,)
    strides = byte_strides(x, source_shape)
    start = [first * stride for first, stride in zip(attributes.starts or (0,), strides, strict=True)]
    axes = [
        Axis(size, _source_stride(attributes, strides, axis), target)
        for axis, (size, target) in enumerate(zip(shape, byte_strides(out, shape), strict=True))
    ]
    columns = axes[-1]
    if columns.size == 1:
        columns = replace(columns, source=x.dtype.bytes)
    address, skip = sum(start[:-1]), start[-1]
    return Walk(
        context.address(x, address), context.address(out), collapsed(axes[:-1]), columns, skip, out.row_bytes, x.dtype
    )


def _source_stride(attributes: MoveAttributes, strides: Sequence[int], axis: int) -> int:
    if axis >= len(attributes.axes):
        return 0  # the one axis that a scalar has in memory
    source = attributes.axes[axis]
    return 0 if source is None else strides[source] * attributes.steps[source]
