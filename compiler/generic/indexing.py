"""Elements and rows that indices choose, in tensors of any rank: indices become row numbers, which a `take` reads.

Indices that count from the end become those from the start. One that is out of range reads the nearest row: inputs of
the model are checked before a run, and what a model computes must not read what is not there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from compiler.dialects.rewrite import Rewriter, integer
from compiler.generic.recipe import EXACT_INTEGER, Term, compute, is_float
from compiler.generic.rule import Replacement, Rule
from compiler.generic.selection import counting
from compiler.graph import Operation
from isa.errors import UnsupportedError


def wrapped(index: Term, size: int) -> Term:
    """Return an index from the start for one that may count from the end."""
    return index + index.is_less(0.0) * float(size)


def check_countable(new: Replacement, count: int) -> None:
    """Raise UnsupportedError for more places than the vector unit counts exactly."""
    if count > EXACT_INTEGER:
        what = f"indices into {count:,} places; the vector unit counts exactly up to {EXACT_INTEGER:,}"
        raise UnsupportedError(what, where=f"node {new.operation.name!r}", help="index a smaller tensor")


def _take(new: Replacement, rows: str, places: str) -> str:
    """Return the rows of a matrix that a tensor of places in range chooses, one row each."""
    count = math.prod(new.shape(places))
    (_, columns), dtype = new.shape(rows), new.value(rows).dtype
    return new.add("take", (new.reshape(places, [1, count]), rows), [count, columns], dtype)


def _row_numbers(new: Replacement, parts: Sequence[str], sizes: Sequence[int], base: Sequence[str] = ()) -> str:
    """Return the numbers of rows of a tensor of `sizes` axes, from the index along each; `base` are added."""
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    check_countable(new, math.prod(sizes))

    def number(*terms: Term) -> Term:
        total: Term | None = None
        for place, term in enumerate(terms):
            if place < len(parts):
                inside = wrapped(term, sizes[place]).apply("vmax", 0.0).apply("vmin", sizes[place] - 1.0)
                term = inside * float(strides[place])
            total = term if total is None else total + term
        assert total is not None
        return total

    shape = np.broadcast_shapes(*(new.shape(part) for part in (*parts, *base)))
    return compute(new, number, [*parts, *base], "int64", shape=shape)


def _gather(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Slices along an axis: at evenly spaced constant places a move, else rows of a table or matrix."""
    new, output = Replacement(rewriter, operation), operation.outputs[0]
    name, indices = str(operation.inputs[0]), str(operation.inputs[1])
    shape, index_shape = new.shape(name), new.shape(indices)
    axis = integer(operation, "axis", 0) % len(shape)
    size, others = shape[axis], [*shape[:axis], *shape[axis + 1 :]]
    even = _evenly_spaced(new.array(1), size)
    if even is not None:
        start, step = even
        new.reshape(new.slice(name, axis, start, math.prod(index_shape), step), new.shape(output), output)
        return new.operations
    if _is_table(new, name, indices) and axis == 0:
        new.add("embedding", (indices, name), output=output)
        return new.operations
    order = [axis, *(other for other in range(len(shape)) if other != axis)]
    rows = new.reshape(new.transpose(name, order), [size, math.prod(others)])
    new.check_range(indices, size)
    taken = new.reshape(_take(new, rows, _row_numbers(new, [indices], [size])), [*index_shape, *others])
    rank = len(index_shape)
    order = [*range(rank, rank + axis), *range(rank), *range(rank + axis, rank + len(others))]
    new.reshape(new.transpose(taken, order), new.shape(output), output)
    return new.operations


def _is_table(new: Replacement, name: str, indices: str) -> bool:
    """Tell rows of a weight that an input of the model chooses: these are checked, so they need no arithmetic."""
    table = new.rewriter.constants.get(name)
    is_matrix = table is not None and len(table.value.shape) == 2 and is_float(table.value.dtype)
    return is_matrix and indices in new.rewriter.graph.inputs


def _evenly_spaced(array: np.ndarray | None, size: int) -> tuple[int, int] | None:
    """Return (start, step) of constant indices that a slice has, None for others."""
    if array is None or array.size == 0:
        return None
    places = np.where(array < 0, array + size, array).reshape(-1).astype(np.int64)
    steps = np.diff(places)
    if np.any((places < 0) | (places >= size)) or (steps.size and (np.any(steps != steps[0]) or steps[0] == 0)):
        return None
    return int(places[0]), int(steps[0]) if steps.size else 1


def _gather_elements(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """An element's number counts along all axes, its index along one of them."""
    new, output = Replacement(rewriter, operation), operation.outputs[0]
    name, indices = str(operation.inputs[0]), str(operation.inputs[1])
    shape, index_shape = new.shape(name), new.shape(indices)
    axis = integer(operation, "axis", 0) % len(shape)
    new.check_range(indices, shape[axis])
    parts = [indices if other == axis else _along(new, index_shape, other) for other in range(len(shape))]
    numbers = _row_numbers(new, parts, shape)
    elements = new.reshape(name, [math.prod(shape), 1])
    new.reshape(_take(new, elements, numbers), index_shape, output)
    return new.operations


def _along(new: Replacement, shape: Sequence[int], axis: int) -> str:
    """Return a constant that counts along one axis of a shape, which it broadcasts to."""
    return counting(new, shape[axis], [-1 if other == axis else 1 for other in range(len(shape))])


def index_parts(new: Replacement, indices: str, sizes: Sequence[int]) -> list[str]:
    """Return the columns of a tensor whose last axis holds an index for each of some axes."""
    *shape, depth = new.shape(indices)
    return [new.reshape(new.slice(indices, len(shape), part, 1), shape or [1]) for part in range(depth)]


def _gather_nd(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Rows behind the axes that the last axis of the indices has places for; leading axes may go along."""
    new, output = Replacement(rewriter, operation), operation.outputs[0]
    name, indices = str(operation.inputs[0]), str(operation.inputs[1])
    shape, index_shape = new.shape(name), new.shape(indices)
    batch = integer(operation, "batch_dims", 0)
    if not index_shape[-1]:
        return None
    axes = batch + index_shape[-1]
    together = [_along(new, index_shape[:-1], axis) for axis in range(batch)]
    numbers = _row_numbers(new, [*together, *index_parts(new, indices, shape)], shape[:axes])
    rows = new.reshape(name, [math.prod(shape[:axes]), math.prod(shape[axes:])])
    new.reshape(_take(new, rows, numbers), new.shape(output), output)
    return new.operations


RULES: dict[str, Rule] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
}
