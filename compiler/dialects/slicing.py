"""Slices of activations along one axis (the last token's logits, for one) -> `slice`."""

from __future__ import annotations

import numpy as np

from compiler.dialects.rewrite import Rewriter, integer, is_onnx, onnx_attributes
from compiler.graph import Graph, Operation, SliceAttributes
from compiler.shape_call import Call, Fact
from compiler.shape_rules import slice_ranges
from compiler.symbols import Solver, Undecided
from isa.affine import Dim


def fuse_slices(graph: Graph) -> Graph:
    """Turn Slice along one axis, and Gather of one place whose axis is put back, into `slice`."""
    rewriter = Rewriter(graph)
    for operation in graph.operations:
        if is_onnx(operation, "Slice"):
            _fuse_slice(rewriter, operation)
        elif is_onnx(operation, "Gather"):
            _fuse_gather(rewriter, operation)
    return rewriter.build()


def fuse_packed(graph: Graph) -> Graph:
    """Turn Split or Slice of a projection's columns (q, k and v, or gate and up, from one product) into `slice`s."""
    rewriter = Rewriter(graph)
    for operation in graph.operations:
        producer = rewriter.producers.get(operation.inputs[0] or "") if operation.inputs else None
        if producer is None or producer.kind != "linear":
            continue
        if is_onnx(operation, "Split"):
            _fuse_split(rewriter, operation)
        elif is_onnx(operation, "Slice"):
            _fuse_slice(rewriter, operation, axis=2)
    return rewriter.build()


def _fuse_split(rewriter: Rewriter, operation: Operation) -> None:
    shape = rewriter.graph.value(operation.inputs[0] or "").shape
    axis = integer(operation, "axis", 0) % len(shape)
    slices = []
    start: Dim = 0
    for name in operation.outputs:
        size = rewriter.graph.value(name or "").shape[axis]
        slices.append(_slice(operation, name or "", axis, start, size))
        start = start + size
    if axis == len(shape) - 1:
        rewriter.replace(operation, slices)


def _fuse_slice(rewriter: Rewriter, operation: Operation, axis: int | None = None) -> None:
    facts = [_fact(rewriter, name) for name in operation.inputs]
    try:
        call = Call(onnx_attributes(operation), facts, 1, Solver(rewriter.graph.symbols), operation.name)
        ranges = slice_ranges(call)
    except Undecided:
        return
    shape = rewriter.graph.value(operation.inputs[0] or "").shape
    cut = [(place, start, size) for place, start, size in ranges if size != shape[place]]
    if len(cut) == 1 and axis in (None, cut[0][0]):
        rewriter.replace(operation, [_slice(operation, operation.outputs[0] or "", *cut[0])])


def _fact(rewriter: Rewriter, name: str | None) -> Fact | None:
    if name is None:
        return None
    value = rewriter.graph.value(name)
    return Fact(value.shape, value.dtype, rewriter.array(name))


def _fuse_gather(rewriter: Rewriter, operation: Operation) -> None:
    graph = rewriter.graph
    shape, index = graph.value(operation.inputs[0] or "").shape, rewriter.array(operation.inputs[1])
    if index is None or index.size != 1 or operation.inputs[0] not in rewriter.producers:
        return
    axis = integer(operation, "axis", 0) % len(shape)
    place = int(index.reshape(-1)[0])
    start = shape[axis] + place if place < 0 else place
    end = operation
    if index.ndim == 0:
        reader = rewriter.sole_consumer(operation.outputs[0] or "")
        axes = rewriter.array(reader.inputs[1]) if reader is not None and is_onnx(reader, "Unsqueeze") else None
        if reader is None or axes is None or not np.array_equal(axes.reshape(-1) % len(shape), [axis]):
            return
        end = reader
    rewriter.replace(end, [_slice(operation, end.outputs[0] or "", axis, start, 1)])


def _slice(operation: Operation, output: str, axis: int, start: Dim, size: Dim) -> Operation:
    attributes = SliceAttributes(axis, start, size)
    return Operation("slice", f"{operation.name}/{output}", operation.inputs[:1], (output,), attributes)
