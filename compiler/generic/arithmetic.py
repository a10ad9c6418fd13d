"""Arithmetic of one or more tensors with broadcasting."""

from __future__ import annotations

import functools
from collections.abc import Callable

from compiler.dialects.rewrite import Rewriter, integer
from compiler.generic.recipe import Term, choose, compute, is_float, truncate
from compiler.generic.rule import Replacement, Rule
from compiler.graph import Operation
from isa.errors import ModelError


def _binary(
    formula: Callable[[Term, Term, Operation, bool], Term],
) -> Callable[[Rewriter, Operation], list[Operation]]:
    """Make a rule from a function of both operands, the operation, and whether they are floats."""

    def rule(rewriter: Rewriter, operation: Operation) -> list[Operation]:
        new = Replacement(rewriter, operation)
        dtype = new.value(operation.inputs[0]).dtype
        compute(
            new, lambda a, b: formula(a, b, operation, is_float(dtype)), operation.inputs, dtype, operation.outputs[0]
        )
        return new.operations

    return rule


def _divide(a: Term, b: Term, _: Operation, floats: bool) -> Term:
    return a / b if floats else truncate(a / b)


def _power(a: Term, b: Term, _: Operation, floats: bool) -> Term:
    result = a * a if b.constant == 2.0 else a.apply("vpow", b)
    return result if floats else truncate(result)


def _modulo(a: Term, b: Term, operation: Operation, _: bool) -> Term:
    if not integer(operation, "fmod", 0):
        return a - b * (a / b).apply("vfloor")
    return choose(abs(a).is_less(abs(b)), a, a - b * truncate(a / b))


def _parametric_relu(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    """Unlike the others, the result has the shape of the first operand, which slopes must broadcast to."""
    new = Replacement(rewriter, operation)
    shape, slopes = (new.shape(name) for name in operation.inputs)
    if len(slopes) > len(shape) or any(
        size not in (1, of) for size, of in zip(slopes[::-1], shape[::-1], strict=False)
    ):
        what = f"slopes of {list(slopes)} do not broadcast to {list(shape)}"
        raise ModelError(what, where=f"node {operation.name!r}", help="give one slope per channel, or a single one")
    rule = _binary(lambda a, b, _, floats: a.apply("vmax", 0.0) + b * a.apply("vmin", 0.0))
    return rule(rewriter, operation)


def _variadic(instruction: str, mean: bool = False) -> Rule:
    """Make a rule for any number of inputs: two at a time."""

    def rule(rewriter: Rewriter, operation: Operation) -> list[Operation]:
        new = Replacement(rewriter, operation)
        names = [str(name) for name in operation.inputs]
        dtype, scale = new.value(names[0]).dtype, 1.0 / len(names) if mean else 1.0
        if len(names) == 1:
            compute(new, lambda a: a, names, dtype, operation.outputs[0])
            return new.operations

        def pair(left: str, right: str, output: str | None = None) -> str:
            def formula(a: Term, b: Term) -> Term:
                result = a.apply(instruction, b)
                return result * scale if mean and output else result

            return compute(new, formula, (left, right), dtype, output)

        pair(functools.reduce(pair, names[1:-1], names[0]), names[-1], operation.outputs[0])
        return new.operations

    return rule


RULES: dict[str, Rule] = {
    "Add": _binary(lambda a, b, operation, floats: a + b),
    "Div": _binary(_divide),
    "Max": _variadic("vmax"),
    "Mean": _variadic("vadd", mean=True),
    "Min": _variadic("vmin"),
    "Mod": _binary(_modulo),
    "Mul": _binary(lambda a, b, operation, floats: a * b),
    "PRelu": _parametric_relu,
    "Pow": _binary(_power),
    "Sub": _binary(lambda a, b, operation, floats: a - b),
    "Sum": _variadic("vadd"),
}
