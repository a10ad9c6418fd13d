"""Reshapes, transposes, slices, splits, joins and repetitions that are left after fusion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.dialects.rewrite import Rewriter, onnx_attributes
from compiler.evaluate import FLOAT_DTYPES, python_slice, slice_arguments
from compiler.generic.rule import Replacement, Rule
from compiler.graph import AxisAttributes, MoveAttributes, Operation, ShapeAttributes


def _reshape(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    """The same elements in the same order: what the shape rule found is all that is needed."""
    new = Replacement(rewriter, operation)
    shape = new.shape(operation.outputs[0])
    new.shape(operation.inputs[0])
    new.add("reshape", operation.inputs[:1], output=operation.outputs[0], attributes=ShapeAttributes(shape))
    return new.operations


def _transpose(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    new = Replacement(rewriter, operation)
    rank = len(new.shape(operation.inputs[0]))
    axes = onnx_attributes(operation).integers("perm") or tuple(reversed(range(rank)))
    _move(new, operation.outputs[0], axes, [0] * rank, [1] * rank)
    return new.operations


def _expand(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    """Axes of size 1, and those that the operand has not, repeat."""
    new = Replacement(rewriter, operation)
    before, after = new.shape(operation.inputs[0]), new.shape(operation.outputs[0])
    missing = len(after) - len(before)
    axes = [
        None if axis < missing or before[axis - missing] != size else axis - missing for axis, size in enumerate(after)
    ]
    _move(new, operation.outputs[0], axes, [0] * len(before), [1] * len(before))
    return new.operations


def _slice(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    new = Replacement(rewriter, operation)
    shape = new.shape(operation.inputs[0])
    arrays = [None, *(new.array(index) for index in range(1, len(operation.inputs)))]
    if arrays[1] is None or arrays[2] is None:
        return None
    starts, steps = [0] * len(shape), [1] * len(shape)
    for axis, start, end, step in slice_arguments(arrays, len(shape)):
        cut = python_slice(int(start), int(end), step, shape[axis])  # type: ignore[arg-type]
        starts[axis], _, steps[axis] = cut.indices(shape[axis])
    _move(new, operation.outputs[0], range(len(shape)), starts, steps)
    return new.operations


def _split(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Each part starts where the one before it ends, so all of them must have a size."""
    if None in operation.outputs:
        return None
    new = Replacement(rewriter, operation)
    shape = new.shape(operation.inputs[0])
    axis, start = onnx_attributes(operation).integer("axis", 0) % len(shape), 0
    for output in operation.outputs:
        starts = [0] * len(shape)
        starts[axis] = start
        _move(new, output, range(len(shape)), starts, [1] * len(shape))
        start += new.shape(output)[axis]
    return new.operations


def _concat(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    new = Replacement(rewriter, operation)
    rank = len(new.shape(operation.outputs[0]))
    parts = [name for name in operation.inputs if 0 not in new.shape(name)]
    if not parts:
        return None
    axis = onnx_attributes(operation).integer("axis", 0) % rank
    new.add("concat", parts, output=operation.outputs[0], attributes=AxisAttributes(axis))
    return new.operations


def _gather(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Rows of a constant table of floats, chosen at run time."""
    new = Replacement(rewriter, operation)
    table, ids = new.value(operation.inputs[0]), new.value(operation.inputs[1])
    new.shape(ids.name)
    is_table = table.name in rewriter.constants and len(table.shape) == 2 and table.dtype in FLOAT_DTYPES
    if not is_table or onnx_attributes(operation).integer("axis", 0) not in (0, -2) or ids.name in rewriter.constants:
        return None
    new.add("embedding", (ids.name, table.name), output=operation.outputs[0])
    return new.operations


def _tile(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Repeat along new axes, then join each with the axis behind it."""
    new = Replacement(rewriter, operation)
    shape, repeats = new.shape(operation.inputs[0]), new.array(1)
    if repeats is None:
        return None
    sizes = [size for pair in zip(np.asarray(repeats).reshape(-1).tolist(), shape, strict=True) for size in pair]
    axes = [None if place % 2 == 0 else place // 2 for place in range(len(sizes))]
    attributes = MoveAttributes(tuple(sizes), tuple(axes), (0,) * len(shape), (1,) * len(shape))
    dtype = new.value(operation.inputs[0]).dtype
    repeated = new.add("move", operation.inputs[:1], sizes, dtype, attributes)
    target = ShapeAttributes(new.shape(operation.outputs[0]))
    new.add("reshape", (repeated,), output=operation.outputs[0], attributes=target)
    return new.operations


def _move(
    new: Replacement, output: str | None, axes: Sequence[int | None], starts: Sequence[int], steps: Sequence[int]
) -> None:
    attributes = MoveAttributes(new.shape(output), tuple(axes), tuple(starts), tuple(steps))
    new.add("move", new.operation.inputs[:1], output=output, attributes=attributes)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"), _reshape),
    "Transpose": _transpose,
    "Expand": _expand,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Tile": _tile,
}
LOOK_UPS: dict[str, Rule] = {"Gather": _gather}
"""Operations that have a generic form in one case only, so they are not listed as supported."""
