"""Softmax and norms: one recipe over rows that hold what is normalized."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from compiler.dialects.rewrite import Rewriter, integer, number
from compiler.generic.recipe import Term, compute
from compiler.generic.rule import Replacement, Rule
from compiler.generic.selection import axis_last
from compiler.graph import Operation


def _along_axis(formula: Callable[[Term], Term]) -> Rule:
    """Make a rule for a function of the elements along one axis, which comes to the end and goes back."""

    def rule(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
        new = Replacement(rewriter, operation)
        found = axis_last(new, integer(operation, "axis", -1))
        if found is None:
            return None
        rows, swap = found
        result = compute(new, formula, [rows], new.value(rows).dtype)
        new.reshape(new.transpose(result, swap), new.shape(operation.outputs[0]), operation.outputs[0])
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


def _lp_norm(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    def formula(x: Term) -> Term:
        if integer(operation, "p", 2) == 1:
            norm = abs(x).apply("rowsum")
        else:
            norm = (x * x).apply("rowsum").apply("vsqrt")
        return (x / norm).where(norm, 0.0)

    return _along_axis(formula)(rewriter, operation)


def _layer_norm(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Of the axes from `axis` on; mean and reciprocal deviation are outputs if the model has them."""
    new = Replacement(rewriter, operation)
    name = str(operation.inputs[0])
    shape = new.shape(name)
    axis = integer(operation, "axis", -1) % len(shape)
    weights = [str(weight) for weight in operation.inputs[1:] if weight]
    if any(np.broadcast_shapes(new.shape(weight), shape[axis:]) != shape[axis:] for weight in weights):
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
    rows = [
        new.reshape(name, [*outer, count]),
        *(new.reshape(new.broadcast(weight, shape[axis:]), [count]) for weight in weights),
    ]
    new.reshape(compute(new, normalized, rows, dtype), shape, operation.outputs[0])
    for output, formula in zip(operation.outputs[1:], (mean, reciprocal), strict=False):
        if output:
            found = compute(new, formula, rows[:1], dtype, shape=[*outer, 1])
            new.reshape(found, new.shape(output), output)
    return new.operations


def _rms_norm(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Of the axes from `axis` on."""
    new = Replacement(rewriter, operation)
    name, scale = str(operation.inputs[0]), str(operation.inputs[1])
    shape = new.shape(name)
    axis = integer(operation, "axis", -1) % len(shape)
    if 0 in shape or new.shape(scale) != shape[axis:]:
        return None
    count, epsilon = math.prod(shape[axis:]), number(operation, "epsilon", 1e-5)

    def normalized(x: Term, weight: Term) -> Term:
        return x * ((x * x).apply("rowsum") * (1.0 / count) + epsilon).apply("vrsqrt") * weight

    rows = [new.reshape(name, [*shape[:axis], count]), new.reshape(scale, [count])]
    new.reshape(compute(new, normalized, rows, new.value(name).dtype), shape, operation.outputs[0])
    return new.operations


def _instance_norm(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Each channel of each sample has its own mean and deviation."""
    new = Replacement(rewriter, operation)
    name, epsilon = str(operation.inputs[0]), number(operation, "epsilon", 1e-5)
    shape = new.shape(name)
    if 0 in shape or len(shape) < 3:
        return None
    count = math.prod(shape[2:])

    def normalized(x: Term, scale: Term, bias: Term) -> Term:
        away = x - x.apply("rowsum") * (1.0 / count)
        return away * ((away * away).apply("rowsum") * (1.0 / count) + epsilon).apply("vrsqrt") * scale + bias

    rows = new.reshape(name, [*shape[:2], count])
    weights = [new.reshape(str(weight), [shape[1], 1]) for weight in operation.inputs[1:]]
    new.reshape(compute(new, normalized, [rows, *weights], new.value(name).dtype), shape, operation.outputs[0])
    return new.operations


def _batch_norm(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """With mean and variance that are given; training is none of this chip's work."""
    new = Replacement(rewriter, operation)
    name, epsilon = str(operation.inputs[0]), number(operation, "epsilon", 1e-5)
    shape = new.shape(name)
    if integer(operation, "training_mode", 0) or len(shape) < 2:
        return None

    def normalized(x: Term, scale: Term, bias: Term, mean: Term, variance: Term) -> Term:
        return (x - mean) * (variance + epsilon).apply("vrsqrt") * scale + bias

    channels = [1, shape[1], *[1] * (len(shape) - 2)]
    operands = [name, *(new.reshape(str(weight), channels) for weight in operation.inputs[1:])]
    compute(new, normalized, operands, new.value(name).dtype, operation.outputs[0])
    return new.operations


RULES: dict[str, Rule] = {
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _along_axis(_log_softmax),
    "LpNormalization": _lp_norm,
    "RMSNormalization": _rms_norm,
    "Softmax": _along_axis(_softmax),
}
