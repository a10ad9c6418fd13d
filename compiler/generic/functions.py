"""Functions of one number: what the vector unit has, and formulas of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compiler.dialects.rewrite import Rewriter, number, onnx_attributes
from compiler.generic.recipe import Term, as_term, compute
from compiler.generic.rule import Replacement, Rule
from compiler.graph import Operation

Numbers = Callable[[str], float]
"""Looks up an attribute of the operation."""
Formula = Callable[[Term, Numbers], Term]

_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "Celu": {"alpha": 1.0},
    "Elu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "LeakyRelu": {"alpha": 0.01},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
    "Shrink": {"bias": 0.0, "lambd": 0.5},
    "Swish": {"alpha": 1.0},
    "ThresholdedRelu": {"alpha": 1.0},
}
"""Values of absent attributes in the ONNX specification."""
_HALF_PI, _SQRT_HALF, _GELU_SCALE = 1.5707963267948966, 0.7071067811865476, 0.7978845608028654


def _positive(x: Term) -> Term:
    return x.apply("vmax", 0.0)


def _negative(x: Term) -> Term:
    return x.apply("vmin", 0.0)


def _exp(x: Term) -> Term:
    return x.apply("vexp")


def _log(x: Term) -> Term:
    return x.apply("vlog")


def _sqrt(x: Term) -> Term:
    return x.apply("vsqrt")


def _sign(x: Term) -> Term:
    return x.is_greater(0.0) - x.is_less(0.0)


def _limited(x: Term) -> Term:
    return x.apply("vmax", 0.0).apply("vmin", 1.0)


def _softplus(x: Term) -> Term:
    return _positive(x) + _log(_exp(-abs(x)) + 1.0)


def _asin(x: Term) -> Term:
    return (x / _sqrt((1.0 - x) * (1.0 + x))).apply("vatan")


def _shrink(x: Term, given: Numbers) -> Term:
    bias, limit = given("bias"), given("lambd")
    return (x + bias).where(x.is_less(-limit), 0.0) + (x - bias).where(x.is_greater(limit), 0.0)


def _gelu(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    new = Replacement(rewriter, operation)
    by_tanh = onnx_attributes(operation).get("approximate", "none") == "tanh"

    def formula(x: Term) -> Term:
        if by_tanh:
            inner = (x + x * x * x * 0.044715) * _GELU_SCALE
            return x * 0.5 * (inner.apply("vtanh") + 1.0)
        return x * 0.5 * ((x * _SQRT_HALF).apply("verf") + 1.0)

    compute(new, formula, operation.inputs, new.value(operation.inputs[0]).dtype, operation.outputs[0])
    return new.operations


FORMULAS: Mapping[str, Formula] = {
    "Abs": lambda x, given: abs(x),
    "Acos": lambda x, given: as_term(_HALF_PI).apply("vsub", _asin(x)),
    "Acosh": lambda x, given: _log(x + _sqrt(x - 1.0) * _sqrt(x + 1.0)),
    "Asin": lambda x, given: _asin(x),
    "Asinh": lambda x, given: _sign(x) * _log(abs(x) + _sqrt(x * x + 1.0)),
    "Atan": lambda x, given: x.apply("vatan"),
    "Atanh": lambda x, given: _log((1.0 + x) / (1.0 - x)) * 0.5,
    "Ceil": lambda x, given: -(-x).apply("vfloor"),
    "Celu": lambda x, given: _positive(x) + (_exp(_negative(x) * (1 / given("alpha"))) - 1.0) * given("alpha"),
    "Cos": lambda x, given: x.apply("vcos"),
    "Cosh": lambda x, given: _exp(x) * 0.5 + _exp(-x) * 0.5,
    "Elu": lambda x, given: _positive(x) + (_exp(_negative(x)) - 1.0) * given("alpha"),
    "Erf": lambda x, given: x.apply("verf"),
    "Exp": lambda x, given: _exp(x),
    "Floor": lambda x, given: x.apply("vfloor"),
    "HardSigmoid": lambda x, given: _limited(x * given("alpha") + given("beta")),
    "HardSwish": lambda x, given: x * _limited(x * (1 / 6) + 0.5),
    "LeakyRelu": lambda x, given: _positive(x) + _negative(x) * given("alpha"),
    "Log": lambda x, given: _log(x),
    "Mish": lambda x, given: x * _softplus(x).apply("vtanh"),
    "Neg": lambda x, given: -x,
    "Reciprocal": lambda x, given: x.apply("vrecip"),
    "Relu": lambda x, given: _positive(x),
    "Round": lambda x, given: x.apply("vround"),
    "Selu": lambda x, given: (_positive(x) + (_exp(_negative(x)) - 1.0) * given("alpha")) * given("gamma"),
    "Shrink": _shrink,
    "Sigmoid": lambda x, given: x.apply("vsigmoid"),
    "Sign": lambda x, given: _sign(x),
    "Sin": lambda x, given: x.apply("vsin"),
    "Sinh": lambda x, given: _exp(x) * 0.5 - _exp(-x) * 0.5,
    "Softplus": lambda x, given: _softplus(x),
    "Softsign": lambda x, given: x / (abs(x) + 1.0),
    "Sqrt": lambda x, given: _sqrt(x),
    "Swish": lambda x, given: x * (x * given("alpha")).apply("vsigmoid"),
    "Tan": lambda x, given: x.apply("vsin") / x.apply("vcos"),
    "Tanh": lambda x, given: x.apply("vtanh"),
    "ThresholdedRelu": lambda x, given: x.where(x.is_greater(given("alpha")), 0.0),
}  # fmt: skip


def _rule(op_type: str, formula: Formula) -> Rule:
    def rule(rewriter: Rewriter, operation: Operation) -> list[Operation]:
        new = Replacement(rewriter, operation)

        def given(name: str) -> float:
            return number(operation, name, _DEFAULTS[op_type][name])

        dtype = new.value(operation.inputs[0]).dtype
        compute(new, lambda x: formula(x, given), operation.inputs[:1], dtype, operation.outputs[0])
        return new.operations

    return rule


RULES: dict[str, Rule] = {
    **{op_type: _rule(op_type, formula) for op_type, formula in FORMULAS.items()},
    "Gelu": _gelu,
}
