"""Expressions of sweep files: what is allowed means what Python means by it, everything else is our error."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.expressions import FUNCTIONS, Expression, ExpressionError

VALUES = {"a": 3, "b": 0.5, "c": -7, "on": True, "pe.local_memory_bytes": 393216}
_LEAVES = st.sampled_from([*VALUES, "0", "1", "2.5", "1e3", "17"])
_BINARY = ["+", "-", "*", "/", "//", "%", "**", "<", "<=", ">", ">=", "==", "!=", "and", "or"]


def _wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from(_BINARY), inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(st.sampled_from(["-", "+", "not "]), inner).map(lambda parts: f"({''.join(parts)})"),
        st.tuples(st.sampled_from(["ceil", "floor", "log2", "abs"]), inner).map(lambda parts: "{}({})".format(*parts)),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda parts: "{}({}, {})".format(*parts)),
    )


class _Section:
    local_memory_bytes = VALUES["pe.local_memory_bytes"]


@given(st.recursive(_LEAVES, _wider, max_leaves=12))
def test_an_allowed_expression_has_the_value_it_has_in_python(text: str) -> None:
    """Or is refused: where Python raises, and where the number is not finite or very large."""
    try:
        value = Expression(text).evaluate(VALUES)
    except ExpressionError:
        return
    names = {name: value for name, value in VALUES.items() if "." not in name} | {"pe": _Section}
    expected = eval(text, {"__builtins__": {}}, {**FUNCTIONS, **names})
    assert value == expected and type(value) is type(expected)


@given(st.recursive(_LEAVES, _wider, max_leaves=12))
def test_a_violation_is_zero_where_the_expression_holds(text: str) -> None:
    """And above 0 where it does not."""
    expression = Expression(f"{text} <= 5 and {text} != 2")
    try:
        holds, violation = expression.evaluate(VALUES), expression.violation(VALUES)
    except ExpressionError:
        return
    assert violation >= 0 and bool(holds) == (violation == 0)


@given(st.one_of(st.text(max_size=60), st.text("()[]{}+-*/%.,:'\"abc012 \n\\=<>!lambdfornite_@&|^~", max_size=80)))
def test_no_text_raises_anything_but_our_error(text: str) -> None:
    """Whatever is written: a value or an ExpressionError."""
    try:
        value = Expression(text).evaluate(VALUES)
    except ExpressionError:
        return
    assert isinstance(value, (int, float, str)) and not (isinstance(value, float) and not math.isfinite(value))


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')", "a.__class__()", "(1).real", "[a]", "a[0]", "lambda: 1", "x := 1", "a if b else c",
        "9**9**9", "1e308 * 10", "2 ** 5000", "(-8) ** 0.5", "1 / 0", "1 % 0", "f'{a}'", "'x' * 1000000000", "a in b",
        "a @ b", "a is b", "~a", "a << 100000", "min(*a)", "max(a, key=b)", "round(a)", "nothing", "1j", "b'x'", "...",
        "None", "(" * 900, "-" * 999 + "1", "1+" * 499 + "1", "a" * 2000, "", "\0",
        "10 ** 256 * 10 ** 256",
        "min()", "log2(0)", "ceil(1e308 * 1e308)", "'a' < 1", "9" * 900,
    ],
)  # fmt: skip
def test_what_is_refused(text: str) -> None:
    """By our error, at once."""
    with pytest.raises(ExpressionError):
        Expression(text).evaluate(VALUES)


def test_names_are_told_once_in_order() -> None:
    """Dotted names are one name."""
    assert Expression("max(b, pe.local_memory_bytes) < a * b").names == ("b", "pe.local_memory_bytes", "a")


def test_a_misspelt_function_has_a_hint() -> None:
    """As keys have."""
    with pytest.raises(ExpressionError, match="did you mean 'floor'"):
        Expression("flor(2)")


def test_texts_compare() -> None:
    """With fields that hold one."""
    assert Expression("noc.topology == 'mesh'").evaluate({"noc.topology": "mesh"}) is True
    assert Expression("noc.topology == 'mesh'").violation({"noc.topology": "crossbar"}) == 1.0


def test_a_violation_tells_how_far() -> None:
    """Relative to what is compared, summed over `and`, the least of `or`."""
    assert Expression("a <= 90").violation({"a": 100}) == pytest.approx(0.1)
    assert Expression("a <= 90 and a <= 80").violation({"a": 100}) == pytest.approx(0.3)
    assert Expression("a <= 90 or a <= 80").violation({"a": 100}) == pytest.approx(0.1)
