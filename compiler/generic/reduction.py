"""Reductions over any axes: one recipe over rows that hold what is reduced."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from compiler.dialects.rewrite import Rewriter, integer, onnx_attributes
from compiler.generic.recipe import Term, compute, is_float, truncate
from compiler.generic.rule import Replacement, Rule
from compiler.graph import Operation, dtype_of

Reduction = Callable[[Term, int], Term]
"""From a row and its length to one number."""
_LARGEST = float(np.finfo(np.float32).max)


def _log_sum_exp(x: Term) -> Term:
    """A row of -inf gives -inf: the difference of two infinite numbers would be NaN."""
    highest = x.apply("rowmax").apply("vmax", -_LARGEST).apply("vmin", _LARGEST)
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


_OF_NOTHING = {
    "ReduceLogSum": -math.inf, "ReduceLogSumExp": -math.inf, "ReduceMax": -math.inf, "ReduceMean": math.nan,
    "ReduceMin": math.inf, "ReduceProd": 1.0,
}  # fmt: skip
"""What a reduction of no elements gives; the others give 0."""


def _of_nothing(new: Replacement, op_type: str) -> list[Operation]:
    """Write the result of a reduction of no elements; whole numbers end where infinite ones would be."""
    output = new.operation.outputs[0]
    number, dtype = _OF_NOTHING.get(op_type, 0.0), new.value(output).dtype
    if not is_float(dtype) and math.isinf(number):
        number = float(np.iinfo(dtype).max if number > 0 else np.iinfo(dtype).min) if dtype != "bool" else number > 0
    constant = new.constant("nothing", np.array(number).astype(dtype_of(dtype)).reshape([1] * len(new.shape(output))))
    new.broadcast(constant, new.shape(output), output)
    return new.operations


def _reduce(rewriter: Rewriter, operation: Operation, op_type: str) -> list[Operation] | None:
    """Bring the reduced axes to the end, as one; axes are an attribute, in newer opsets an input."""
    new = Replacement(rewriter, operation)
    name, given = str(operation.inputs[0]), new.array(1)
    shape, axes = new.shape(name), onnx_attributes(operation).integers("axes")
    if new.input(1) is not None:
        axes = None if given is None else tuple(int(axis) for axis in given.reshape(-1))
    is_unknown = new.input(1) is not None and given is None
    if is_unknown:
        return None
    if 0 in shape:
        return _of_nothing(new, op_type)
    every = [] if integer(operation, "noop_with_empty_axes", 0) else range(len(shape))
    reduced = sorted({axis % len(shape) for axis in axes} if axes else every)
    others = [axis for axis in range(len(shape)) if axis not in reduced]
    count = math.prod(shape[axis] for axis in reduced)
    kept = [shape[axis] for axis in others]
    rows = new.reshape(new.transpose(name, [*others, *reduced]), [*kept, count])
    dtype = new.value(name).dtype

    def total(x: Term) -> Term:
        if is_float(dtype):
            return REDUCTIONS[op_type](x, count)
        return truncate(x.apply("rowsum") / count if op_type == "ReduceMean" else REDUCTIONS[op_type](x, count))

    found = compute(new, total, [rows], dtype, shape=[*kept, 1])
    new.reshape(found, new.shape(operation.outputs[0]), operation.outputs[0])
    return new.operations


def _reduction_rule(op_type: str) -> Rule:
    return lambda rewriter, operation: _reduce(rewriter, operation, op_type)


RULES: dict[str, Rule] = {op_type: _reduction_rule(op_type) for op_type in REDUCTIONS}
