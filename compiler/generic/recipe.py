"""Formulas of the long tail, written as Python expressions over terms, and the operations made of them.

    compute(new, lambda x, y: (x + y).apply("vexp") * 2.0, inputs, dtype)

A term is an input, a number or an SE instruction applied to terms; equal terms are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from compiler.evaluate import FLOAT_DTYPES, NARROW_FLOAT_DTYPES
from compiler.generic.rule import Replacement
from compiler.graph import PointwiseAttributes, Step
from isa.errors import UnsupportedError

_BY_CONSTANT = {"vadd": "vadds", "vmul": "vmuls", "vmax": "vmaxs", "vmin": "vmins"}
EXACT_INTEGER = 1 << 24
"""Whole numbers up to this size are exact in the vector unit, which computes in fp32."""


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """An input (`instruction` is `input`, `place` its index), a number, or an instruction applied to terms."""

    instruction: str
    operands: tuple[Term, ...] = ()
    constant: float | None = None
    place: int = -1

    def apply(self, instruction: str, *others: Term | float, constant: float | None = None) -> Term:
        """Return an instruction applied to this term and others."""
        if len(others) == 1 and not isinstance(others[0], Term) and instruction in _BY_CONSTANT:
            return Term(_BY_CONSTANT[instruction], (self,), float(others[0]))
        return Term(instruction, (self, *(as_term(other) for other in others)), constant)

    def __add__(self, other: Term | float) -> Term:
        return self.apply("vadd", other)

    def __radd__(self, other: float) -> Term:
        return self + other

    def __sub__(self, other: Term | float) -> Term:
        return self.apply("vsub", other) if isinstance(other, Term) else self + -other

    def __rsub__(self, other: float) -> Term:
        return -self + other

    def __mul__(self, other: Term | float) -> Term:
        return self.apply("vmul", other)

    def __rmul__(self, other: float) -> Term:
        return self * other

    def __truediv__(self, other: Term | float) -> Term:
        return self.apply("vdiv", other)

    def __rtruediv__(self, other: float) -> Term:
        return as_term(other).apply("vdiv", self)

    def __neg__(self) -> Term:
        return self * -1.0

    def __abs__(self) -> Term:
        return self.apply("vabs")

    def where(self, condition: Term, otherwise: float) -> Term:
        """Return this term where the condition is not 0, else a number."""
        return self.apply("vselect", condition, constant=otherwise)

    def is_less(self, other: Term | float) -> Term:
        """Return 1 where this is less, else 0."""
        return self.apply("vless", other)

    def is_greater(self, other: Term | float) -> Term:
        """Return 1 where this is greater, else 0."""
        return as_term(other).apply("vless", self)

    def is_equal(self, other: Term | float) -> Term:
        """Return 1 where both are equal, else 0."""
        return self.apply("vequal", other)


def as_term(value: Term | float) -> Term:
    """Return a number as a term."""
    return value if isinstance(value, Term) else Term("number", (), float(value))


def choose(condition: Term, left: Term, right: Term) -> Term:
    """Return left where the condition is not 0, else right; what is not chosen may be infinite or NaN."""
    return left.where(condition, 0.0) + right.where(condition.is_equal(0.0), 0.0)


def inverse(condition: Term) -> Term:
    """Return 1 where a condition is 0, else 0."""
    return condition.is_equal(0.0)


def truncate(x: Term) -> Term:
    """Return x rounded towards zero."""
    return choose(x.is_less(0.0), -(-x).apply("vfloor"), x.apply("vfloor"))


def steps_of(term: Term, input_count: int) -> tuple[Step, ...]:
    """Return the steps that compute a term, each once; an input alone is copied."""
    steps: list[Step] = []
    known: dict[Step, int] = {}
    places: dict[int, int] = {}

    def visit(part: Term) -> int:
        if part.instruction == "input":
            return part.place
        if id(part) not in places:
            step = Step(part.instruction, tuple(visit(operand) for operand in part.operands), part.constant)
            if step not in known:
                known[step] = input_count + len(steps)
                steps.append(step)
            places[id(part)] = known[step]
        return places[id(part)]

    visit(term if term.instruction not in ("input", "number") else Term("vcast", (term,)))
    return tuple(steps)


def is_float(dtype: str) -> bool:
    """Tell whether a dtype is computed in the program's element type."""
    return dtype in FLOAT_DTYPES or dtype in NARROW_FLOAT_DTYPES


def compute(
    new: Replacement,
    formula: Callable[..., Term],
    inputs: Sequence[str | None],
    dtype: str,
    output: str | None = None,
    shape: Sequence[int] | None = None,
) -> str:
    """Add a pointwise operation of `formula(*terms)` over broadcast inputs; a constant of one element is a number.

    The shape is that of the inputs unless the formula reduces rows.
    """
    operands: list[Term | None] = []
    read: list[str] = []
    for name in inputs:
        number = _number(new, name)
        if name is None:
            operands.append(None)
        elif number is not None and len([item for item in inputs if item]) > 1:
            operands.append(as_term(number))
        else:
            if name not in read:
                read.append(name)
            operands.append(Term("input", place=read.index(name)))
    if not read:  # constants only: the first one is read after all
        first = next(index for index, name in enumerate(inputs) if name)
        read, operands[first] = [str(inputs[first])], Term("input", place=0)
    term = formula(*operands)
    if shape is None:
        shape = np.broadcast_shapes(*(new.shape(name) for name in inputs if name))
    used = sorted(_inputs_of(term))
    moved = {place: index for index, place in enumerate(used)}
    attributes = PointwiseAttributes(steps_of(_renumbered(term, moved, {}), len(used)))
    return new.add("pointwise", [read[place] for place in used], shape, dtype, attributes, output)


def _number(new: Replacement, name: str | None) -> float | None:
    """Return the number a constant of one element holds; raises UnsupportedError if fp32 does not hold it exactly."""
    number = new.rewriter.scalar(name)
    if number is None:
        return None
    if not is_float(new.value(name).dtype) and abs(number) > EXACT_INTEGER:
        what = f"the whole number {number:.0f} in {name}; the vector unit is exact up to {EXACT_INTEGER}"
        raise UnsupportedError(what, where=f"node {new.operation.name!r}", help="use smaller numbers, or floats")
    return number


def _inputs_of(term: Term) -> set[int]:
    found, seen, pending = set[int](), set[int](), [term]
    while pending:
        part = pending.pop()
        if id(part) not in seen:
            seen.add(id(part))
            found |= {part.place} if part.instruction == "input" else set()
            pending += part.operands
    return found


def _renumbered(term: Term, moved: dict[int, int], known: dict[int, Term]) -> Term:
    if id(term) not in known:
        operands = tuple(_renumbered(operand, moved, known) for operand in term.operands)
        known[id(term)] = Term(term.instruction, operands, term.constant, moved.get(term.place, -1))
    return known[id(term)]
