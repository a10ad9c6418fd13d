"""Expressions of sweep files: arithmetic and comparisons over named values, checked against a list and never executed.

Numbers, texts (to compare with), names (dotted ones too), `+ - * / // % **`, comparisons, `and`, `or`, `not`, and the
functions of `FUNCTIONS`. Everything means what it means in Python, but what is no finite number of moderate size is an
error instead of a long wait.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from isa.errors import ToolError, did_you_mean

Value = int | float | bool | str
MOST_CHARACTERS, MOST_NODES, MOST_DEPTH = 1000, 300, 40
MOST_BITS = 256
"""Whole numbers beyond this many bits are refused."""
MOST_EXPONENT = 256

_HELP = "numbers, names, + - * / // % **, comparisons, and, or, not, and: min, max, ceil, floor, log2, abs"
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "min": min, "max": max, "ceil": math.ceil, "floor": math.floor, "log2": math.log2, "abs": abs,
}  # fmt: skip
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}  # fmt: skip
_SIGNS: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Not: operator.not_,
}  # fmt: skip


class ExpressionError(ToolError):
    """An expression that cannot be read, or has no value."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression; equal texts are equal. ExpressionError if the text is none."""

    text: str

    def __post_init__(self) -> None:
        _parsed(self.text)

    @property
    def names(self) -> tuple[str, ...]:
        """The names it reads, each once, in order."""
        return tuple(dict.fromkeys(_names_of(_parsed(self.text))))

    def evaluate(self, values: Mapping[str, Value]) -> Value:
        """Return its value under those of its names; ExpressionError if it has none."""
        try:
            return _checked(_evaluate(_parsed(self.text), values), self.text)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise ExpressionError(f"'{self.text}' has no value: {error}") from error

    def violation(self, values: Mapping[str, Value]) -> float:
        """Return 0 if it holds, else how far it is from that, relative to the numbers compared, or 1 without any."""
        try:
            return _violation(_parsed(self.text), values)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise ExpressionError(f"'{self.text}' has no value: {error}") from error


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> ast.expr:
    if len(text) > MOST_CHARACTERS:
        raise ExpressionError(f"an expression has at most {MOST_CHARACTERS} characters, not {len(text)}", help=_HELP)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        what = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ExpressionError(f"'{text}' is no expression: {what}", help=_HELP) from error
    _check(tree, text)
    return tree


def _check(tree: ast.expr, text: str) -> None:
    count, waiting = 0, [(tree, 1)]
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if count > MOST_NODES or depth > MOST_DEPTH:
            raise ExpressionError(f"'{text}' is too large", help=f"at most {MOST_NODES} parts, {MOST_DEPTH} deep")
        waiting += [(child, depth + 1) for child in _parts(node, text)]


def _parts(node: ast.expr, text: str) -> list[ast.expr]:
    """Return the operands of an allowed node; ExpressionError for any other."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            _checked(value, text)
            return []
        case ast.Name() | ast.Attribute() if _dotted(node):
            return []
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return [left, right]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _SIGNS:
            return [operand]
        case ast.BoolOp(values=values):
            return values
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISONS for op in ops):
            return [left, *others]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            if name in FUNCTIONS:
                return arguments
            raise ExpressionError(f"'{text}': no function '{name}'", help=f"{did_you_mean(name, FUNCTIONS)} {_HELP}")
    raise ExpressionError(f"'{text}': '{_source(node)}' is not allowed here", help=_HELP)


def _source(node: ast.expr) -> str:
    try:
        return ast.unparse(node)[:60]
    except (RecursionError, ValueError):
        return type(node).__name__


def _dotted(node: ast.expr) -> str:
    """Return the name that a node is, or the empty string."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _names_of(node: ast.expr) -> Iterator[str]:
    if name := _dotted(node):
        yield name
        return
    for part in _parts(node, ""):
        yield from _names_of(part)


def _checked(value: Any, text: str) -> Value:
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ExpressionError(f"'{text}' has no value: a number of more than {MOST_BITS} bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ExpressionError(f"'{text}' has no value: a number that is not finite")
    if not isinstance(value, (int, float, str)):
        raise ExpressionError(f"'{text}' has no value: {type(value).__name__} is no real number")
    return value


def _evaluate(node: ast.expr, values: Mapping[str, Value]) -> Any:
    if name := _dotted(node):
        if name not in values:
            raise ExpressionError(f"'{name}' has no value here")
        return values[name]
    match node:
        case ast.Constant(value=value):
            return value
        case ast.BinOp(left=left, op=op, right=right):
            return _combined(op, _evaluate(left, values), _evaluate(right, values))
        case ast.UnaryOp(op=op, operand=operand):
            return _SIGNS[type(op)](_evaluate(operand, values))
        case ast.BoolOp(op=op, values=parts):
            stops = isinstance(op, ast.Or)
            for part in parts:
                value = _evaluate(part, values)
                if bool(value) is stops:
                    break
            return value
        case ast.Compare(left=left, ops=ops, comparators=others):
            first = _evaluate(left, values)
            for comparison, other in zip(ops, others, strict=True):
                second = _evaluate(other, values)
                if not _COMPARISONS[type(comparison)](first, second):
                    return False
                first = second
            return True
        case ast.Call(func=ast.Name(id=name), args=arguments):
            given = [_evaluate(argument, values) for argument in arguments]
            return _checked(FUNCTIONS[name](*given), ast.unparse(node))
    raise AssertionError(node)  # `_check` let nothing else pass


def _combined(op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(left, str) or isinstance(right, str):
        raise TypeError("texts can only be compared")
    if isinstance(op, ast.Pow) and (abs(right) > MOST_EXPONENT or _is_large(left)):
        raise ValueError(f"powers reach to exponents of {MOST_EXPONENT} and bases of 64 bits")
    result = _ARITHMETIC[type(op)](left, right)
    return _checked(result, f"{left} {right}") if _is_large(result) else result


def _is_large(value: Any) -> bool:
    return not isinstance(value, (int, float)) or not -(2.0**64) < value < 2.0**64


def _violation(node: ast.expr, values: Mapping[str, Value]) -> float:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            return sum(_violation(part, values) for part in parts)
        case ast.BoolOp(op=ast.Or(), values=parts):
            return min(_violation(part, values) for part in parts)
        case ast.Compare(left=left, ops=[comparison], comparators=[right]):
            first, second = _evaluate(left, values), _evaluate(right, values)
            if _COMPARISONS[type(comparison)](first, second):
                return 0.0
            if isinstance(first, str) or isinstance(second, str):
                return 1.0
            return abs(first - second) / max(abs(first), abs(second), 1e-300) or 1e-9
    return 0.0 if _evaluate(node, values) else 1.0
