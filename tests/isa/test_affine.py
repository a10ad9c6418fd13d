"""Affine expressions: arithmetic agrees with evaluation, text comes back."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from isa.affine import Affine, Dim, evaluate, parse, substitute, symbols_of
from isa.codec import DIM
from isa.errors import ProgramError
from isa.program_checks import bounds

SYMBOLS = ("batch", "past", "seq")
SMALL = st.integers(-1000, 1000)
BINDINGS = st.fixed_dictionaries(dict.fromkeys(SYMBOLS, SMALL))


@st.composite
def dims(draw: st.DrawFn) -> Dim:
    """An integer or an expression over SYMBOLS."""
    value: Dim = draw(SMALL)
    for name in SYMBOLS:
        value = value + draw(SMALL) * Affine.symbol(name)
    return value


@given(dims(), dims(), SMALL, BINDINGS)
def test_arithmetic_agrees_with_evaluation(left, right, factor, bindings):
    a, b = evaluate(left, bindings), evaluate(right, bindings)
    assert evaluate(left + right, bindings) == a + b
    assert evaluate(left - right, bindings) == a - b
    assert evaluate(left * factor, bindings) == evaluate(factor * left, bindings) == a * factor
    assert evaluate(-left, bindings) == -a
    assert evaluate(substitute(left, bindings), {}) == a


@given(dims(), dims())
def test_equal_expressions_are_equal_values(left, right):
    assert left + right == right + left
    assert left - left == 0
    assert (left + right) - right == left


@given(dims())
def test_text_comes_back(value):
    assert parse(str(value)) == value
    assert DIM.read(DIM.write(value), "") == value


@given(dims(), dims(), BINDINGS)
def test_substitution_of_an_expression(value, replacement, bindings):
    replaced = evaluate(substitute(value, {"past": replacement}), bindings)
    assert replaced == evaluate(value, {**bindings, "past": evaluate(replacement, bindings)})
    assert symbols_of(substitute(value, {"past": 3})) == symbols_of(value) - {"past"}


@given(dims(), st.integers(1, 50))
def test_exact_division_undoes_multiplication(value, divisor):
    assert Affine.of(value * divisor).divide_exactly(divisor) == value
    divided = Affine.of(value).divide_exactly(divisor)
    assert divided is None or divided * divisor == value


@given(dims(), st.fixed_dictionaries({name: st.tuples(SMALL, SMALL).map(sorted) for name in SYMBOLS}), st.data())
def test_bounds_hold_and_are_reached(value, ranges, data):
    low, high = bounds(value, ranges)
    bindings = {name: data.draw(st.integers(*ends)) for name, ends in ranges.items()}
    assert low <= evaluate(value, bindings) <= high
    corners = [{n: ends[bool(bit >> i & 1)] for i, (n, ends) in enumerate(ranges.items())} for bit in range(8)]
    assert {low, high} <= {evaluate(value, corner) for corner in corners}


@given(dims(), dims())
def test_products_of_symbols_are_refused(left, right):
    assume(symbols_of(left) and symbols_of(right))
    with pytest.raises(TypeError, match="is not affine"):
        left * right


@pytest.mark.parametrize("text", ["", "past +", "past * 2", "2*", "past + + 1", "2**past", "²"])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize(
    "text", ["past + past", "1 + past", "0*past", "past-1", "a b", "1.5", "--past", "7", "past + 0"]
)
def test_a_program_holds_only_the_shortest_text(text):
    with pytest.raises(ProgramError, match="must be an expression"):
        DIM.read(text, "somewhere")
