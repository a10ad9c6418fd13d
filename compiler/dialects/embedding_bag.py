"""Sums of table rows that integer inputs choose -> `embedding_bag`, wherever in the input the indices stand.

How the indices get from the input to the look-up (a Gather or Slice per table, reshapes) is not matched but evaluated:
on an input that holds the place of each element, the look-up's indices are the places they come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from compiler.dialects.rewrite import Rewriter, integer, is_onnx, onnx_attributes
from compiler.dialects.subgraph import Subgraph
from compiler.evaluate import FLOAT_DTYPES
from compiler.graph import Bags, EmbeddingBagAttributes, Graph, Operation
from compiler.shape_inference import int_shape
from compiler.symbols import Undecided
from isa.affine import Affine

_RESHAPES = ("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity")
_INTEGERS = ("int32", "int64")


def fuse_embedding_bags(graph: Graph) -> Graph:
    """Turn sums and means of gathered rows over the rows of a bag into `embedding_bag`."""
    return _fuse(graph, ("ReduceSum", "ReduceMean"))


def fuse_lookups(graph: Graph) -> Graph:
    """Turn what is left of look-ups in constant tables into bags of one row."""
    return _fuse(graph, ("Gather",))


def _fuse(graph: Graph, op_types: tuple[str, ...]) -> Graph:
    rewriter, subgraph = Rewriter(graph), Subgraph(graph)
    for operation in graph.operations:
        if is_onnx(operation, *op_types):
            replacement = _bags(rewriter, subgraph, operation)
            if replacement is not None:
                rewriter.replace(operation, [replacement])
    return rewriter.build()


def _bags(rewriter: Rewriter, subgraph: Subgraph, operation: Operation) -> Operation | None:
    graph = rewriter.graph
    gather, axis = operation, None
    if not is_onnx(operation, "Gather"):
        found, axis = _gather_before(rewriter, operation), _bag_axis(rewriter, operation)
        if found is None or axis is None:
            return None
        gather = found
    table, indices = (name or "" for name in gather.inputs[:2])
    if not _is_table(graph, table) or integer(gather, "axis", 0) != 0 or graph.value(indices).dtype not in _INTEGERS:
        return None
    reduced = graph.value(operation.inputs[0] or "") if axis is not None else graph.value(gather.outputs[0] or "")
    shape = reduced.shape[:-1]
    if any(isinstance(dim, Affine) for dim in shape) or reduced.shape[-1] != graph.value(table).shape[1]:
        return None
    for source, places in _candidates(rewriter, subgraph, indices):
        grid = places.reshape(int_shape(shape))
        grid = grid.reshape(-1, 1) if axis is None else np.moveaxis(grid, axis, -1).reshape(-1, grid.shape[axis])
        columns = int(graph.value(source).shape[-1])  # type: ignore[arg-type]
        bags = _regular(grid, columns, is_onnx(operation, "ReduceMean"))
        if bags is not None:
            attributes = EmbeddingBagAttributes(len(grid), (bags,))
            return Operation("embedding_bag", operation.name, (source, table), operation.outputs, attributes)
    return None


def _is_table(graph: Graph, name: str) -> bool:
    value = graph.constants[name].value if name in graph.constants else None
    return value is not None and len(value.shape) == 2 and value.dtype in FLOAT_DTYPES


def _gather_before(rewriter: Rewriter, reduction: Operation) -> Operation | None:
    """Return the look-up of the rows that are reduced, before reshapes and weights of 1."""
    name = reduction.inputs[0] or ""
    columns = rewriter.graph.value(name).shape[-1:]
    while True:
        operation = rewriter.producer(name, "Gather", "Mul", *_RESHAPES)
        if operation is None or is_onnx(operation, "Gather"):
            return operation
        if is_onnx(operation, "Mul"):
            operands = [operand or "" for operand in operation.inputs]
            weighted = [operand for operand in operands if not _is_ones(rewriter, operand)]
            if len(weighted) != 1:
                return None
            (name,) = weighted
        else:
            name = operation.inputs[0] or ""
        if rewriter.graph.value(name).shape[-1:] != columns:
            return None


def _is_ones(rewriter: Rewriter, name: str) -> bool:
    array = rewriter.array(name)
    return array is not None and bool(np.all(array == 1))


def _bag_axis(rewriter: Rewriter, reduction: Operation) -> int | None:
    """Return the one axis that is reduced, None if there are more or it is the axis of the row's elements."""
    rank = len(rewriter.graph.value(reduction.inputs[0] or "").shape)
    given = rewriter.array(reduction.inputs[1]) if len(reduction.inputs) > 1 else None
    axes = onnx_attributes(reduction).integers("axes") if given is None else tuple(int(axis) for axis in given.ravel())
    if axes is None or len(axes) != 1 or axes[0] % rank == rank - 1:
        return None
    return axes[0] % rank


def _candidates(rewriter: Rewriter, subgraph: Subgraph, indices: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield tensors that hold the indices, the model's input first, each with the place of every index in it."""
    graph = rewriter.graph
    if not graph.value(indices).shape:
        return
    names = subgraph.inputs_of(indices) if subgraph.is_evaluable(indices) else frozenset[str]()
    if len(names) == 1 and not subgraph.symbols_of(indices):
        (name,) = names
        places = _places_in_input(graph, subgraph, indices, name)
        if places is not None and not _is_read_densely(rewriter, name):
            yield name, places
    if _is_given(rewriter, indices) and not _is_read_densely(rewriter, indices):
        yield indices, np.arange(math.prod(int_shape(graph.value(indices).shape)))


def _is_given(rewriter: Rewriter, name: str) -> bool:
    """Tell an input of the model, in whatever shape, from what is computed: its range is checked before a run."""
    reshape = rewriter.producer(name, "Reshape", "Flatten", "Squeeze", "Unsqueeze")
    while reshape is not None:
        name = reshape.inputs[0] or ""
        reshape = rewriter.producer(name, "Reshape", "Flatten", "Squeeze", "Unsqueeze")
    return name in rewriter.graph.inputs


def _places_in_input(graph: Graph, subgraph: Subgraph, indices: str, name: str) -> np.ndarray | None:
    """Return where in a graph input each index comes from, None if indices are more than moved elements."""
    value = graph.value(name)
    shape = int_shape(value.shape)
    size = math.prod(shape)
    shuffled = np.random.default_rng(0).permutation(size)
    try:
        places, moved = (
            subgraph.run(indices, {}, {name: array.reshape(shape).astype(value.dtype)})
            for array in (np.arange(size), shuffled)
        )
    except Undecided:
        return None
    inside = bool(np.all((places >= 0) & (places < size)))
    return places.reshape(-1) if inside and np.array_equal(moved, shuffled[places]) else None


def _is_read_densely(rewriter: Rewriter, name: str) -> bool:
    """Tell whether an operation reads an input as one row without gaps, which no other can share."""
    return any(reader.kind in ("embedding", "rope") for reader in rewriter.consumers.get(name, []))


def _regular(grid: np.ndarray, columns: int, mean: bool) -> Bags | None:
    """Return where the bags of a grid of places [bag, index] stand, None if they are not evenly spaced."""
    rows, starts = grid[:, 0] // columns, grid[:, 0] % columns
    in_one_row = np.all(grid // columns == rows[:, None])
    if not in_one_row or not np.array_equal(grid, grid[:, :1] + np.arange(grid.shape[1])):
        return None
    steps = [int(array[1] - array[0]) if len(array) > 1 else 0 for array in (rows, starts)]
    if len(grid) == 1:
        steps = [1, 0]
    order = np.arange(len(grid))
    even = np.array_equal(rows, rows[0] + order * steps[0]) and np.array_equal(starts, starts[0] + order * steps[1])
    if not even or min(steps) < 0 or (steps[0] == 0) == (steps[1] == 0):
        return None
    return Bags(int(rows[0]), steps[0], int(starts[0]), steps[1], grid.shape[1], mean)
