"""Elements around a tensor: constant ones, repeated ones, or a mirror image; and blocks that become channels."""

from __future__ import annotations

import numpy as np

from compiler.dialects.rewrite import Rewriter, integer, onnx_attributes
from compiler.generic.rule import Replacement, Rule
from compiler.graph import Operation, dtype_of


def _pad(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Axis by axis; negative sizes cut elements off."""
    new, name = Replacement(rewriter, operation), str(operation.inputs[0])
    rank, pads, axes = len(new.shape(name)), new.array(1), new.array(3)
    if pads is None or (new.input(3) is not None and axes is None):
        return None
    chosen = [int(axis) % rank for axis in axes.reshape(-1)] if axes is not None else list(range(rank))
    sizes = pads.reshape(2, -1).astype(int).tolist()
    mode = str(onnx_attributes(operation).get("mode", "constant"))
    for axis, before, after in zip(chosen, *sizes, strict=True):
        length = new.shape(name)[axis] + min(before, 0) + min(after, 0)
        if length < 1 and mode != "constant":
            return None
        if length < 1:  # nothing of the tensor is left
            name = str(_border(new, name, axis, new.shape(name)[axis] + before + after, mode, 0))
            continue
        if length != new.shape(name)[axis]:
            name = new.slice(name, axis, max(-before, 0), length)
        parts = [_border(new, name, axis, max(size, 0), mode, side) for side, size in enumerate((before, after))]
        if None in parts:
            return None
        pieces = [piece for piece in (parts[0], name, parts[1]) if piece]
        name = new.concat(pieces, axis) if len(pieces) > 1 else name
    new.reshape(name, new.shape(operation.outputs[0]), operation.outputs[0])
    return new.operations


def _border(new: Replacement, name: str, axis: int, count: int, mode: str, side: int) -> str | None:
    """Return `count` elements for one side (0 or 1) of an axis, an empty name for none; None if there are too few."""
    shape = list(new.shape(name))
    length = shape[axis]
    if not count:
        return ""
    if mode == "constant":
        shape[axis] = count
        return new.broadcast(_fill(new, name), shape)
    if mode == "edge" and length:
        shape[axis] = count
        return new.broadcast(new.slice(name, axis, side * (length - 1), 1), shape)
    if mode == "reflect" and count < length:
        return new.slice(name, axis, length - 2 if side else count, count, -1)
    if mode == "wrap" and count <= length:
        return new.slice(name, axis, 0 if side else length - count, count)
    return None


def _fill(new: Replacement, name: str) -> str:
    """Return the constant that is put around, as one element of the operand's rank."""
    rank, given = len(new.shape(name)), new.input(2)
    if given is None:
        return new.constant("fill", np.zeros([1] * rank, dtype_of(new.value(name).dtype)))
    return new.reshape(given, [1] * rank)


def _depth_to_space(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    new, name = Replacement(rewriter, operation), str(operation.inputs[0])
    batch, channels, height, width = new.shape(name)
    size = integer(operation, "blocksize", 1)
    is_columns_first = str(onnx_attributes(operation).get("mode", "DCR")) == "CRD"
    rest = channels // size**2
    split, order = (
        ([rest, size, size], [0, 1, 4, 2, 5, 3]) if is_columns_first else ([size, size, rest], [0, 3, 4, 1, 5, 2])
    )
    blocks = new.reshape(name, [batch, *split, height, width])
    new.reshape(new.transpose(blocks, order), new.shape(operation.outputs[0]), operation.outputs[0])
    return new.operations


def _space_to_depth(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    new, name = Replacement(rewriter, operation), str(operation.inputs[0])
    batch, channels, height, width = new.shape(name)
    size = integer(operation, "blocksize", 1)
    blocks = new.reshape(name, [batch, channels, height // size, size, width // size, size])
    new.reshape(new.transpose(blocks, [0, 3, 5, 1, 2, 4]), new.shape(operation.outputs[0]), operation.outputs[0])
    return new.operations


RULES: dict[str, Rule] = {
    "DepthToSpace": _depth_to_space,
    "Pad": _pad,
    "SpaceToDepth": _space_to_depth,
}
