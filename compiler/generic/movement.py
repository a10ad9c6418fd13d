"""Reshapes, transposes, slices, splits, joins and repetitions that are left after fusion."""

from __future__ import annotations

import numpy as np

from compiler.dialects.rewrite import Rewriter, onnx_attributes
from compiler.evaluate import python_slice, slice_arguments
from compiler.generic.rule import Replacement, Rule
from compiler.graph import Operation


def _reshape(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    """The same elements in the same order: what the shape rule found is all that is needed."""
    new = Replacement(rewriter, operation)
    new.shape(operation.inputs[0])
    new.reshape(str(operation.inputs[0]), new.shape(operation.outputs[0]), operation.outputs[0])
    return new.operations


def _transpose(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    new = Replacement(rewriter, operation)
    rank = len(new.shape(operation.inputs[0]))
    axes = onnx_attributes(operation).integers("perm") or tuple(reversed(range(rank)))
    new.transpose(str(operation.inputs[0]), axes, operation.outputs[0])
    return new.operations


def _expand(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    new = Replacement(rewriter, operation)
    new.broadcast(str(operation.inputs[0]), new.shape(operation.outputs[0]), operation.outputs[0])
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
    sizes, output = new.shape(operation.outputs[0]), operation.outputs[0]
    new.move(str(operation.inputs[0]), sizes, range(len(shape)), starts, steps, output)
    return new.operations


def _split(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Each part starts where the one before it ends, so all of them must have a size."""
    if None in operation.outputs:
        return None
    new = Replacement(rewriter, operation)
    shape = new.shape(operation.inputs[0])
    axis, start = onnx_attributes(operation).integer("axis", 0) % len(shape), 0
    for output in operation.outputs:
        count = new.shape(output)[axis]
        new.slice(str(operation.inputs[0]), axis, start, count, output=output)
        start += count
    return new.operations


def _concat(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    new = Replacement(rewriter, operation)
    rank = len(new.shape(operation.outputs[0]))
    parts = [name for name in operation.inputs if 0 not in new.shape(name)]
    axis = onnx_attributes(operation).integer("axis", 0) % rank
    new.concat([str(name) for name in parts], axis, operation.outputs[0])
    return new.operations


def _tile(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Repeat along new axes, then join each with the axis behind it."""
    new = Replacement(rewriter, operation)
    shape, repeats = new.shape(operation.inputs[0]), new.array(1)
    if repeats is None:
        return None
    sizes = [size for pair in zip(np.asarray(repeats).reshape(-1).tolist(), shape, strict=True) for size in pair]
    axes = [None if place % 2 == 0 else place // 2 for place in range(len(sizes))]
    repeated = new.move(str(operation.inputs[0]), sizes, axes)
    new.reshape(repeated, new.shape(operation.outputs[0]), operation.outputs[0])
    return new.operations


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"), _reshape),
    "Transpose": _transpose,
    "Expand": _expand,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Tile": _tile,
}
