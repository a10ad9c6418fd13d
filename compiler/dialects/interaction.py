"""Products of the features of a sample with each other, and the choice of some of them -> `interaction`.

The features are the operands of Concats and what they are reshaped from; how the products are chosen (GatherND, Gather
of a flattened matrix, slices ...) is not matched but evaluated on a matrix that holds the place of each element.
"""

from __future__ import annotations

import math

import numpy as np

from compiler.dialects.rewrite import Rewriter, integer, is_onnx, onnx_attributes
from compiler.evaluate import BAD_ARGUMENTS, FLOAT_DTYPES, MEANINGS, evaluate
from compiler.graph import Graph, InteractionAttributes, Operation, Run
from compiler.symbols import Undecided
from isa.affine import Affine, Dim

_RESHAPES = ("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity")
_MOVES = ("Transpose", "Gather", "GatherND", "GatherElements", "Slice", *_RESHAPES)
MOST_PRODUCTS = 1 << 26
"""Larger matrices of products are not followed."""


def fuse_interactions(graph: Graph) -> Graph:
    """Turn MatMul(x, transposed x) of [batch, features, dim], and what is picked of it, into `interaction`."""
    rewriter = Rewriter(graph)
    for operation in graph.operations:
        if is_onnx(operation, "MatMul") and _is_with_itself(rewriter, operation):
            _fuse(rewriter, operation)
    return rewriter.build()


def _is_with_itself(rewriter: Rewriter, product: Operation) -> bool:
    x, other = (name or "" for name in product.inputs)
    transpose = rewriter.producer(other, "Transpose")
    value = rewriter.graph.value(x)
    return (
        transpose is not None
        and transpose.inputs[0] == x
        and onnx_attributes(transpose).integers("perm") == (0, 2, 1)
        and len(value.shape) == 3
        and value.dtype in FLOAT_DTYPES
        and not any(isinstance(dim, Affine) for dim in value.shape)
        and math.prod(_sizes(value.shape)[:2]) * _sizes(value.shape)[1] <= MOST_PRODUCTS
    )


def _sizes(shape: tuple[Dim, ...]) -> tuple[int, ...]:
    return tuple(int(dim) for dim in shape)  # type: ignore[arg-type]


def _fuse(rewriter: Rewriter, product: Operation) -> None:
    batch, features, dim = _sizes(rewriter.graph.value(product.inputs[0] or "").shape)
    inputs = _features(rewriter, product.inputs[0] or "", (batch, features, dim))
    chosen = _chosen(rewriter, product, batch, features)
    if chosen is None:
        return
    last, runs = chosen
    output = last.outputs[0] or ""
    prefix = None
    joined = rewriter.sole_consumer(output)
    if joined is not None and is_onnx(joined, "Concat") and joined.inputs[1:] == (output,):
        dense = _flat_source(rewriter, joined.inputs[0] or "", (batch, dim))
        counts = [count for _, count in inputs]
        places = [sum(counts[:index]) for index, (name, count) in enumerate(inputs) if (name, count) == (dense, 1)]
        if places and integer(joined, "axis", 0) in (1, -1):
            prefix, last = places[0], joined
    attributes = InteractionAttributes(tuple(count for _, count in inputs), runs, prefix)
    names = tuple(name for name, _ in inputs)
    rewriter.replace(last, [Operation("interaction", product.name, names, last.outputs, attributes)])


def _features(rewriter: Rewriter, name: str, shape: tuple[int, int, int]) -> list[tuple[str, int]]:
    """Return the values that x consists of, [batch, dim] or [batch, count, dim], and how many features each has."""
    batch, features, dim = shape
    source = name
    while (reshape := rewriter.producer(source, *_RESHAPES)) is not None:
        source = reshape.inputs[0] or ""
    joined = rewriter.producer(source, "Concat")
    if joined is None:
        return [(name, features)]
    axis = integer(joined, "axis", 0) % len(rewriter.graph.value(source).shape)
    parts = []
    for part in joined.inputs:
        sizes = _sizes(rewriter.graph.value(part or "").shape)
        count = math.prod(sizes) // (batch * dim)
        whole = axis == 1 and sizes in ((batch, count, dim), (batch, count * dim))
        if not whole or count == 0:
            return [(name, features)]
        flat = _flat_source(rewriter, part or "", (batch, dim) if count == 1 else (batch, count, dim))
        if flat is None:
            return [(name, features)]
        parts.append((flat, count))
    return parts


def _flat_source(rewriter: Rewriter, name: str, shape: tuple[int, ...]) -> str | None:
    """Return the value of this shape that a value is a reshaping of."""
    while True:
        if _sizes(rewriter.graph.value(name).shape) == shape:
            return name
        reshape = rewriter.producer(name, *_RESHAPES)
        if reshape is None:
            return None
        name = reshape.inputs[0] or ""


def _chosen(
    rewriter: Rewriter, product: Operation, batch: int, features: int
) -> tuple[Operation, tuple[Run, ...]] | None:
    """Return the last operation that only moves products to rows [batch, n], and what it takes of each matrix."""
    size = features * features
    array = np.arange(batch * size, dtype=np.int64).reshape(batch, features, features)
    operation: Operation | None = product
    found = None
    while operation is not None:
        name = operation.outputs[0] or ""
        if array.ndim == 2 and len(array) == batch:
            places = array - np.arange(batch)[:, None] * size
            if np.array_equal(places, np.broadcast_to(places[:1], places.shape)) and places.min() >= 0:
                found = operation, _runs(places[0], features)
        operation = rewriter.sole_consumer(name)
        if operation is None or not is_onnx(operation, *_MOVES) or operation.inputs[0] != name:
            break
        others = [rewriter.array(other) for other in operation.inputs[1:]]
        attributes = onnx_attributes(operation)
        if attributes.op_type not in MEANINGS or any(other is None for other in others):
            break
        try:
            (array,) = evaluate(attributes, [array, *others], {})
        except (Undecided, *BAD_ARGUMENTS):
            break
    return found


def _runs(places: np.ndarray, features: int) -> tuple[Run, ...]:
    """Join neighbours of a row into runs."""
    runs: list[Run] = []
    for place in places.tolist():
        row, column = divmod(place, features)
        last = runs[-1] if runs else None
        if last is not None and last.row == row and last.first + last.count == column:
            runs[-1] = Run(row, last.first, last.count + 1)
        else:
            runs.append(Run(row, column, 1))
    return tuple(runs)
