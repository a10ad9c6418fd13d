"""Choices by size and running sums along an axis: elements are compared with the best of a row, or with all of it.

There is no sorting on the chip: a place in the order is a count of larger elements, which costs n^2 comparisons a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.dialects.rewrite import Rewriter, integer
from compiler.generic.recipe import Term, choose, compute
from compiler.generic.rule import Replacement, Rule
from compiler.graph import Operation


def counting(new: Replacement, count: int, shape: Sequence[int] = (-1,)) -> str:
    """Return a constant with 0 .. count - 1 in this shape."""
    return new.constant("counting", np.arange(count, dtype=np.int64).reshape(shape))


def axis_last(new: Replacement, axis: int) -> tuple[str, list[int]] | None:
    """Return the first operand with an axis swapped to the end, and the swap; None if it has no elements."""
    name = str(new.operation.inputs[0])
    shape = new.shape(name)
    if 0 in shape or not shape:
        return None
    swap = list(range(len(shape)))
    swap[axis], swap[-1] = swap[-1], swap[axis]
    return new.transpose(name, swap), swap


def _extreme(instruction: str) -> Rule:
    """Make a rule for the place of the largest or smallest element, the first or the last of equal ones.

    A row of NaN has no best element, but what is found is a place all the same: it may choose what to read.
    """

    def rule(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
        new, last = Replacement(rewriter, operation), integer(operation, "select_last_index", 0)
        found = axis_last(new, integer(operation, "axis", 0))
        if found is None:
            return None
        rows, swap = found
        *outer, count = new.shape(rows)

        def place(x: Term, index: Term) -> Term:
            is_best = x.is_equal(x.apply(instruction))
            if last:
                return index.where(is_best, 0.0).apply("rowmax")
            return index.where(is_best, count - 1.0).apply("rowmin")

        places = compute(new, place, [rows, counting(new, count)], "int64", shape=[*outer, 1])
        new.reshape(new.transpose(places, swap), new.shape(operation.outputs[0]), operation.outputs[0])
        return new.operations

    return rule


def _hardmax(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    new = Replacement(rewriter, operation)
    found = axis_last(new, integer(operation, "axis", -1))
    if found is None:
        return None
    rows, swap = found
    count, dtype = new.shape(rows)[-1], new.value(rows).dtype

    def first(x: Term, index: Term) -> Term:
        return index.is_equal(index.where(x.is_equal(x.apply("rowmax")), count).apply("rowmin"))

    one = compute(new, first, [rows, counting(new, count)], dtype, shape=new.shape(rows))
    new.reshape(new.transpose(one, swap), new.shape(operation.outputs[0]), operation.outputs[0])
    return new.operations


def _top_k(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """An element's place is the count of those before it; then each place finds its element."""
    new = Replacement(rewriter, operation)
    wanted, found = new.array(1), axis_last(new, integer(operation, "axis", -1))
    if found is None or wanted is None:
        return None
    rows, swap = found
    (*outer, count), dtype, places = new.shape(rows), new.value(rows).dtype, int(wanted.reshape(-1)[0])
    is_largest = integer(operation, "largest", 1)

    def rank(other: Term, own: Term, other_index: Term, own_index: Term) -> Term:
        is_before = other.is_greater(own) if is_largest else other.is_less(own)
        is_earlier = other.is_equal(own) * other_index.is_less(own_index)
        return (is_before + is_earlier).apply("rowsum")

    everyone, index = new.reshape(rows, [*outer, 1, count]), counting(new, count)
    each = (everyone, new.reshape(rows, [*outer, count, 1]), index, counting(new, count, (count, 1)))
    ranks = new.reshape(compute(new, rank, each, "int64", shape=[*outer, count, 1]), [*outer, 1, count])
    for output, source, kind in zip(operation.outputs, (everyone, index), (dtype, "int64"), strict=False):
        if output:
            chosen = compute(
                new, lambda value, rank, place: value.where(rank.is_equal(place), 0.0).apply("rowsum"),
                (source, ranks, counting(new, places, (places, 1))), kind, shape=[*outer, places, 1],
            )  # fmt: skip
            new.reshape(new.transpose(new.reshape(chosen, [*outer, places]), swap), new.shape(output), output)
    return new.operations


def _cumulative_sum(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    new = Replacement(rewriter, operation)
    axis = new.array(1)
    found = axis_last(new, int(axis.reshape(-1)[0])) if axis is not None else None
    if found is None:
        return None
    rows, swap = found
    (*outer, count), dtype = new.shape(rows), new.value(rows).dtype
    is_exclusive, is_reverse = integer(operation, "exclusive", 0), integer(operation, "reverse", 0)

    def total(x: Term, index: Term, end: Term) -> Term:
        is_inside = index.is_greater(end) if is_reverse else index.is_less(end)
        if not is_exclusive:
            is_inside = is_inside + index.is_equal(end)
        return x.where(is_inside, 0.0).apply("rowsum")

    operands = (new.reshape(rows, [*outer, 1, count]), counting(new, count), counting(new, count, (count, 1)))
    sums = new.reshape(compute(new, total, operands, dtype, shape=[*outer, count, 1]), [*outer, count])
    new.reshape(new.transpose(sums, swap), new.shape(operation.outputs[0]), operation.outputs[0])
    return new.operations


def _triangle(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    """Keep what lies on one side of a diagonal."""
    new = Replacement(rewriter, operation)
    name, upper = str(operation.inputs[0]), integer(operation, "upper", 1)
    *_, rows, columns = new.shape(name)
    diagonal = new.input(1)

    def kept(x: Term, column: Term, row: Term, offset: Term | None) -> Term:
        away = column - row if offset is None else column - row - offset
        return x.where(away.is_greater(-0.5) if upper else away.is_less(0.5), 0.0)

    operands = (name, counting(new, columns), counting(new, rows, (rows, 1)), diagonal)
    compute(new, kept, operands, new.value(name).dtype, operation.outputs[0], new.shape(name))
    return new.operations


def _one_hot(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Rows with one value where an index says, and another elsewhere."""
    new = Replacement(rewriter, operation)
    indices, values = str(operation.inputs[0]), str(operation.inputs[2])
    shape, depth = new.shape(indices), new.array(1)
    if depth is None or 0 in shape:
        return None
    count, axis = int(depth.reshape(-1)[0]), integer(operation, "axis", -1) % (len(shape) + 1)

    def row(index: Term, place: Term, off: Term, on: Term) -> Term:
        wrapped = index + index.is_less(0.0) * float(count)
        return choose(wrapped.is_equal(place), on, off)

    off, on = (new.slice(values, 0, place, 1) for place in (0, 1))
    operands = (new.reshape(indices, [*shape, 1]), counting(new, count), off, on)
    rows = compute(new, row, operands, new.value(values).dtype, shape=[*shape, count])
    order = [*range(axis), len(shape), *range(axis, len(shape))]
    new.reshape(new.transpose(rows, order), new.shape(operation.outputs[0]), operation.outputs[0])
    return new.operations


RULES: dict[str, Rule] = {
    "ArgMax": _extreme("rowmax"),
    "ArgMin": _extreme("rowmin"),
    "CumSum": _cumulative_sum,
    "Hardmax": _hardmax,
    "OneHot": _one_hot,
    "TopK": _top_k,
    "Trilu": _triangle,
}
