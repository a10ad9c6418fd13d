"""Reductions, and what is made of them: softmax and norms. Each is one recipe over rows that hold what it reduces."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from compiler.dialects.rewrite import Rewriter, integer, number, onnx_attributes
from compiler.generic.recipe import Term, compute
from compiler.generic.rule import Replacement, Rule
from compiler.graph import MoveAttributes, Operation, ShapeAttributes

Reduction = Callable[[Term, int], Term]
"""From a row and its length to one number."""


def _log_sum_exp(x: Term) -> Term:
    highest = x.apply("rowmax")
    return (x - highest).apply("vexp").apply("rowsum").apply("vlog") + highest


REDUCTIONS: Mapping[str, Reduction] = {
    "ReduceL1": lambda x, count: abs(x).apply("rowsum"),
    "ReduceL2": lambda x, count: (x * x).apply("rowsum").apply("vsqrt"),
    "ReduceLogSum": lambda x, count: x.apply("rowsum").apply("vlog"),
    "ReduceLogSumExp": lambda x, count: _log_sum_exp(x),
    "ReduceMax": lambda x, count: x.apply("rowmax"),
    "ReduceMean": lambda x, count: x.apply("rowsum") * (1.0 / count),
    "ReduceMin": lambda x, count: x.apply("rowmin"),
    "ReduceProd": lambda x, count: x.apply("rowprod"),
    "ReduceSum": lambda x, count: x.apply("rowsum"),
    "ReduceSumSquare": lambda x, count: (x * x).apply("rowsum"),
}


def _move(new: Replacement, name: str, axes: Sequence[int]) -> str:
    """Reorder the axes of a value unless they stand so already."""
    shape, rank = new.shape(name), len(axes)
    if list(axes) == list(range(rank)):
        return name
    sizes = tuple(shape[axis] for axis in axes)
    attributes = MoveAttributes(sizes, tuple(axes), (0,) * rank, (1,) * rank)
    return new.add("move", (name,), sizes, new.value(name).dtype, attributes)


def _reshape(new: Replacement, name: str, shape: Sequence[int], output: str | None = None) -> str:
    attributes = ShapeAttributes(tuple(shape))
    return new.add("reshape", (name,), shape, new.value(name).dtype, attributes, output)


def _reduce(rewriter: Rewriter, operation: Operation, reduction: Reduction) -> list[Operation] | None:
    """Bring the reduced axes to the end, as one; axes are an attribute, in newer opsets an input."""
    new = Replacement(rewriter, operation)
    name, given = str(operation.inputs[0]), new.array(1)
    shape, axes = new.shape(name), onnx_attributes(operation).integers("axes")
    if new.input(1) is not None:
        axes = None if given is None else tuple(int(axis) for axis in given.reshape(-1))
    is_unknown = new.input(1) is not None and given is None
    if is_unknown or 0 in shape:
        return None
    every = [] if integer(operation, "noop_with_empty_axes", 0) else range(len(shape))
    reduced = sorted({axis % len(shape) for axis in axes} if axes else every)
    others = [axis for axis in range(len(shape)) if axis not in reduced]
    count = math.prod(shape[axis] for axis in reduced)
    kept = [shape[axis] for axis in others]
    rows = _reshape(new, _move(new, name, [*others, *reduced]), [*kept, count])
    found = compute(new, lambda x: reduction(x, count), [rows], new.value(name).dtype, shape=[*kept, 1])
    _reshape(new, found, new.shape(operation.outputs[0]), operation.outputs[0])
    return new.operations


def _reduction_rule(reduction: Reduction) -> Rule:
    return lambda rewriter, operation: _reduce(rewriter, operation, reduction)


def _along_axis(formula: Callable[[Term], Term]) -> Rule:
    """Make a rule for a function of the elements along one axis, which comes to the end and goes back."""

    def rule(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
        new = Replacement(rewriter, operation)
        name, output = str(operation.inputs[0]), operation.outputs[0]
        shape = new.shape(name)
        if 0 in shape or not shape:
            return None
        axis, last = integer(operation, "axis", -1) % len(shape), len(shape) - 1
        swapped = list(range(len(shape)))
        swapped[axis], swapped[last] = last, axis
        found = compute(new, formula, [_move(new, name, swapped)], new.value(name).dtype)
        _reshape(new, _move(new, found, swapped), shape, output)
        return new.operations

    return rule


def _powers(x: Term) -> Term:
    return (x - x.apply("rowmax")).apply("vexp")


def _softmax(x: Term) -> Term:
    powers = _powers(x)
    return powers / powers.apply("rowsum")


def _log_softmax(x: Term) -> Term:
    below = x - x.apply("rowmax")
    return below - below.apply("vexp").apply("rowsum").apply("vlog")


def _layer_norm(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Of the axes from `axis` on; mean and reciprocal deviation are outputs if the model has them."""
    new = Replacement(rewriter, operation)
    name = str(operation.inputs[0])
    shape = new.shape(name)
    axis = integer(operation, "axis", -1) % len(shape)
    weights = [str(weight) for weight in operation.inputs[1:]]
    if 0 in shape or any(new.shape(weight) != shape[axis:] for weight in weights):
        return None
    count, epsilon = math.prod(shape[axis:]), number(operation, "epsilon", 1e-5)

    def mean(x: Term) -> Term:
        return x.apply("rowsum") * (1.0 / count)

    def reciprocal(x: Term) -> Term:
        away = x - mean(x)
        return (mean(away * away) + epsilon).apply("vrsqrt")

    def normalized(x: Term, scale: Term, bias: Term | None = None) -> Term:
        result = (x - mean(x)) * reciprocal(x) * scale
        return result if bias is None else result + bias

    dtype, outer = new.value(name).dtype, shape[:axis]
    rows = [_reshape(new, name, [*outer, count]), *(_reshape(new, weight, [count]) for weight in weights)]
    _reshape(new, compute(new, normalized, rows, dtype), shape, operation.outputs[0])
    for output, formula in zip(operation.outputs[1:], (mean, reciprocal), strict=False):
        if output:
            found = compute(new, formula, rows[:1], dtype, shape=[*outer, 1])
            _reshape(new, found, new.shape(output), output)
    return new.operations


RULES: dict[str, Rule] = {
    **{op_type: _reduction_rule(reduction) for op_type, reduction in REDUCTIONS.items()},
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _along_axis(_log_softmax),
    "Softmax": _along_axis(_softmax),
}
