"""Comparisons, logic, choices and conversions; truth values are 0 and 1."""

from __future__ import annotations

from collections.abc import Callable

from compiler.dialects.rewrite import Rewriter, integer, onnx_attributes
from compiler.evaluate import NARROW_FLOAT_DTYPES, ONNX_DTYPES
from compiler.generic.narrow import rounded_to
from compiler.generic.recipe import Term, as_term, choose, compute, inverse, is_float, truncate
from compiler.generic.rule import Replacement, Rule
from compiler.graph import Operation

_WRAPPED_BITS = {"int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16}
_WHOLE = ("int32", "int64", "uint32", "uint64")


def _truth(formula: Callable[..., Term]) -> Rule:
    """Make a rule from a function of the operands that gives 0 or 1."""

    def rule(rewriter: Rewriter, operation: Operation) -> list[Operation]:
        new = Replacement(rewriter, operation)
        compute(new, formula, operation.inputs, "bool", operation.outputs[0])
        return new.operations

    return rule


def _at_most(a: Term, b: Term) -> Term:
    return a.is_less(b).apply("vmax", a.is_equal(b))


def _is_infinite(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    new = Replacement(rewriter, operation)
    wanted = [sign for sign, name in ((1.0, "positive"), (-1.0, "negative")) if integer(operation, f"detect_{name}", 1)]

    def formula(x: Term) -> Term:
        if len(wanted) == 2:
            return abs(x).is_equal(float("inf"))
        return x.is_equal(wanted[0] * float("inf")) if wanted else x.is_less(x)

    compute(new, formula, operation.inputs, "bool", operation.outputs[0])
    return new.operations


def _where(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    new = Replacement(rewriter, operation)

    def formula(condition: Term, left: Term, right: Term) -> Term:
        if right.constant is not None and left.instruction == "input":
            return left.where(condition, right.constant)
        if left.constant is not None and right.instruction == "input":
            return right.where(inverse(condition), left.constant)
        return choose(condition, left, right)

    compute(new, formula, operation.inputs, new.value(operation.inputs[1]).dtype, operation.outputs[0])
    return new.operations


def _clip(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    """Limits are inputs, before opset 11 attributes."""
    new = Replacement(rewriter, operation)
    given = onnx_attributes(operation)
    names = (new.input(0), new.input(1), new.input(2))

    def formula(x: Term, low: Term | None, high: Term | None) -> Term:
        for limit, name, instruction in ((low, "min", "vmax"), (high, "max", "vmin")):
            limit = as_term(given.number(name, 0.0)) if given.get(name) is not None else limit
            if limit is not None:
                x = x.apply(instruction, limit if limit.constant is None else limit.constant)
        return x

    compute(new, formula, names, new.value(names[0]).dtype, operation.outputs[0])
    return new.operations


def _cast(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    return _converted(rewriter, operation, ONNX_DTYPES.get(integer(operation, "to", 1), ""))


def _cast_like(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    return _converted(rewriter, operation, Replacement(rewriter, operation).value(operation.inputs[1]).dtype)


def _converted(rewriter: Rewriter, operation: Operation, dtype: str) -> list[Operation] | None:
    new = Replacement(rewriter, operation)
    source = new.value(operation.inputs[0]).dtype
    if not (is_float(dtype) or dtype == "bool" or dtype in _WHOLE or dtype in _WRAPPED_BITS):
        return None
    if not (is_float(source) or source == "bool" or source in _WHOLE or source in _WRAPPED_BITS):
        return None

    def formula(x: Term) -> Term:
        if dtype == "bool":
            return inverse(x.is_equal(0.0))
        if dtype in NARROW_FLOAT_DTYPES:
            return rounded_to(x, dtype, bool(integer(operation, "saturate", 1)))
        x = truncate(x) if is_float(source) and not is_float(dtype) else x
        if dtype in _WRAPPED_BITS and source != "bool":
            span, low = (
                float(1 << _WRAPPED_BITS[dtype]),
                0.0 if dtype.startswith("u") else -(2.0 ** (_WRAPPED_BITS[dtype] - 1)),
            )
            x = x - ((x - low) * (1 / span)).apply("vfloor") * span
        return x

    compute(new, formula, operation.inputs[:1], dtype, operation.outputs[0])
    return new.operations


RULES: dict[str, Rule] = {
    "And": _truth(lambda a, b: a * b),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Equal": _truth(lambda a, b: a.is_equal(b)),
    "Greater": _truth(lambda a, b: b.is_less(a)),
    "GreaterOrEqual": _truth(lambda a, b: _at_most(b, a)),
    "IsInf": _is_infinite,
    "IsNaN": _truth(lambda a: inverse(a.is_equal(a))),
    "Less": _truth(lambda a, b: a.is_less(b)),
    "LessOrEqual": _truth(_at_most),
    "Not": _truth(inverse),
    "Or": _truth(lambda a, b: a.apply("vmax", b)),
    "Where": _where,
    "Xor": _truth(lambda a, b: inverse(a.is_equal(b))),
}
