"""Elements written to places that indices choose: every place looks for the updates that are meant for it.

So no two PEs write one place, the last of several updates wins, and an index out of range writes nothing. The price is
a comparison of each place with each update along the axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from compiler.dialects.rewrite import Rewriter, integer, onnx_attributes
from compiler.generic.indexing import check_countable, index_parts, wrapped
from compiler.generic.recipe import EXACT_INTEGER, Term, choose, compute
from compiler.generic.rule import Replacement, Rule
from compiler.generic.selection import counting
from compiler.graph import Operation, dtype_of
from isa.errors import UnsupportedError

MOST_COMPARISONS = 1 << 34
"""Beyond this many, a scatter would take longer than what it is part of."""

_REDUCTIONS: dict[str, tuple[str, float, Callable[[Term, Term], Term]]] = {
    "add": ("rowsum", 0.0, lambda data, found: data + found),
    "max": ("rowmax", -math.inf, lambda data, found: data.apply("vmax", found)),
    "min": ("rowmin", math.inf, lambda data, found: data.apply("vmin", found)),
    "mul": ("rowprod", 1.0, lambda data, found: data * found),
}
"""By reduction: the instruction on rows of updates, what changes nothing, and how data and updates meet."""


def _scattered(reduction: str) -> Callable[..., Term]:
    """Return the formula of data [.., place, 1] from indices and updates [.., 1, update] and both countings."""

    def replaced(data: Term, index: Term, update: Term, place: Term, order: Term) -> Term:
        is_meant = index.is_equal(place)
        last = (order + 1.0).where(is_meant, 0.0).apply("rowmax")
        found = update.where(is_meant * (order + 1.0).is_equal(last), 0.0).apply("rowsum")
        return choose(last, found, data)

    def reduced(data: Term, index: Term, update: Term, place: Term, order: Term) -> Term:
        instruction, neutral, join = _REDUCTIONS[reduction]
        return join(data, update.where(index.is_equal(place), neutral).apply(instruction))

    return replaced if reduction == "none" else reduced


def _reduction_of(operation: Operation) -> str:
    return str(onnx_attributes(operation).get("reduction", "none"))


def _scatter(new: Replacement, data: str, indices: str, updates: str, axis: int, reduction: str = "none") -> str:
    """Return data with updates at indices along an axis; other axes of indices and updates may be shorter."""
    shape, before = new.shape(data), new.shape(indices)
    rank, count = len(shape), before[axis]
    for other in range(rank):
        if other != axis and before[other] < shape[other]:
            indices = _lengthened(new, indices, other, shape[other], float(shape[axis]))
            updates = _lengthened(new, updates, other, shape[other], 0.0)
    order = [*(other for other in range(rank) if other != axis), axis]
    outer, places = [shape[other] for other in order[:-1]], shape[axis]
    if math.prod(outer) * places * count > MOST_COMPARISONS:
        what = f"{count:,} updates of {math.prod(shape):,} elements, {MOST_COMPARISONS:,} comparisons at most"
        raise UnsupportedError(what, where=f"node {new.operation.name!r}", help="scatter fewer rows at a time")
    check_countable(new, max(places, count))
    index = compute(new, lambda index: wrapped(index, places), [new.transpose(indices, order)], "int64")
    operands = [
        new.reshape(new.transpose(data, order), [*outer, places, 1]),
        new.reshape(index, [*outer, 1, count]),
        new.reshape(new.transpose(updates, order), [*outer, 1, count]),
        counting(new, places, (places, 1)),
        counting(new, count),
    ]
    found = compute(new, _scattered(reduction), operands, new.value(data).dtype, shape=[*outer, places, 1])
    back = [order.index(other) for other in range(rank)]
    return new.transpose(new.reshape(found, [*outer, places]), back)


def _lengthened(new: Replacement, name: str, axis: int, size: int, value: float) -> str:
    """Return a value with `value` behind its end along an axis, up to a size."""
    shape = list(new.shape(name))
    shape[axis] = size - shape[axis]
    constant = new.constant("fill", np.full([1] * len(shape), value).astype(dtype_of(new.value(name).dtype)))
    return new.concat([name, new.broadcast(constant, shape)], axis)


def _scatter_elements(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    new, output = Replacement(rewriter, operation), operation.outputs[0]
    data, indices, updates = (str(name) for name in operation.inputs)
    shape = new.shape(data)
    axis = integer(operation, "axis", 0) % len(shape)
    is_changed = 0 not in new.shape(indices)
    found = _scatter(new, data, indices, updates, axis, _reduction_of(operation)) if is_changed else data
    new.reshape(found, shape, output)
    return new.operations


def _scatter_nd(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Rows behind the axes that the last axis of the indices has places for, as a scatter along one axis."""
    new, output = Replacement(rewriter, operation), operation.outputs[0]
    data, indices, updates = (str(name) for name in operation.inputs)
    shape, (*index_shape, depth) = new.shape(data), new.shape(indices)
    count, places, columns = math.prod(index_shape), math.prod(shape[:depth]), math.prod(shape[depth:])
    if not depth:
        return None
    if not count:
        new.reshape(data, shape, output)
        return new.operations
    check_countable(new, places)

    def number(*parts: Term) -> Term:
        total: Term | None = None
        for axis, part in enumerate(parts):
            place = wrapped(part, shape[axis])
            is_outside = place.is_less(0.0) + place.is_greater(shape[axis] - 1.0)
            step = place * float(math.prod(shape[axis + 1 : depth])) + is_outside * float(EXACT_INTEGER)
            total = step if total is None else total + step
        assert total is not None
        return total

    numbers = compute(new, number, index_parts(new, indices, shape), "int64", shape=index_shape or [1])
    along = new.broadcast(new.reshape(numbers, [count, 1]), [count, columns])
    rows = (new.reshape(data, [places, columns]), along, new.reshape(updates, [count, columns]))
    new.reshape(_scatter(new, *rows, 0, _reduction_of(operation)), shape, output)
    return new.operations


def _tensor_scatter(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Updates of each sequence from an index of its own on, behind the end again from the start if asked for."""
    new, output = Replacement(rewriter, operation), operation.outputs[0]
    data, updates, starts = str(operation.inputs[0]), str(operation.inputs[1]), new.input(2)
    shape, update_shape = new.shape(data), new.shape(updates)
    axis = integer(operation, "axis", -2) % len(shape)
    if 0 in (*shape, *update_shape):
        return None
    is_circular = str(onnx_attributes(operation).get("mode", "linear")) == "circular"

    def place(step: Term, start: Term | None) -> Term:
        total = step if start is None else step + start
        return total - (total / float(shape[axis])).apply("vfloor") * float(shape[axis]) if is_circular else total

    lengths = [-1 if other == axis else 1 for other in range(len(shape))]
    first = new.reshape(starts, [shape[0], *[1] * (len(shape) - 1)]) if starts else None
    steps = counting(new, update_shape[axis], lengths)
    reached = [
        update_shape[other] if other == axis else shape[0] if other == 0 and first else 1 for other in range(len(shape))
    ]
    places = new.broadcast(compute(new, place, [steps, first], "int64", shape=reached), update_shape)
    new.reshape(_scatter(new, data, places, updates, axis), shape, output)
    return new.operations


RULES: dict[str, Rule] = {
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TensorScatter": _tensor_scatter,
}
