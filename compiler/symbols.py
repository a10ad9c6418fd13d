"""What is known about symbolic sizes: intervals, decided comparisons, and solving for sizes nobody gave.

`Bounds` maps a symbol to its lowest and highest value; a symbol it does not have may be anything from 0 up. A question
that has no single answer within the bounds raises `Undecided`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from isa.affine import Affine, Dim, substitute, symbols_of

Bounds = Mapping[str, tuple[int, int]]
UNBOUNDED = 1 << 62


class Undecided(Exception):
    """The answer depends on a symbol's value, or on data that is not known when compiling."""


class Contradiction(Exception):
    """Two sizes can never be equal."""


def interval(value: Dim, bounds: Bounds) -> tuple[int, int]:
    """Return the lowest and highest value of a size."""
    if not isinstance(value, Affine):
        return int(value), int(value)
    low = high = value.constant
    for name, factor in value.terms:
        ends = [factor * end for end in bounds.get(name, (0, UNBOUNDED))]
        low, high = low + min(ends), high + max(ends)
    return low, high


def is_less(left: Dim, right: Dim, bounds: Bounds) -> bool:
    """Decide `left < right`."""
    low, high = interval(left - right, bounds)
    if high < 0:
        return True
    if low >= 0:
        return False
    raise Undecided(f"{left} < {right}")


def is_equal(left: Dim, right: Dim, bounds: Bounds) -> bool:
    """Decide `left == right`."""
    difference = left - right
    if not isinstance(difference, Affine):
        return difference == 0
    low, high = interval(difference, bounds)
    if low > 0 or high < 0:
        return False
    raise Undecided(f"{left} == {right}")


def smaller(left: Dim, right: Dim, bounds: Bounds) -> Dim:
    """Return the smaller of two sizes."""
    low, high = interval(left - right, bounds)
    if high <= 0:
        return left
    if low >= 0:
        return right
    raise Undecided(f"min({left}, {right})")


def larger(left: Dim, right: Dim, bounds: Bounds) -> Dim:
    """Return the larger of two sizes."""
    return left + right - smaller(left, right, bounds)


def floor_divide(left: Dim, right: Dim, bounds: Bounds) -> Dim:
    """Return `left // right` as ONNX divides integers (towards zero) if that is affine."""
    if isinstance(right, Affine):
        if left == right and interval(right, bounds)[0] > 0:
            return 1
        raise Undecided(f"{left} / {right}")
    if right == 0:
        raise Undecided("division by zero")
    if not isinstance(left, Affine):
        magnitude = abs(left) // abs(right)
        return magnitude if (left < 0) == (right < 0) else -magnitude
    quotient = left.divide_exactly(right)
    if quotient is None:
        raise Undecided(f"{left} / {right}")
    return quotient


@dataclass(frozen=True, slots=True)
class Product:
    """A product of sizes: an integer times primitive expressions (whose numbers have no common divisor)."""

    number: int
    factors: tuple[Affine, ...]

    @staticmethod
    def of(dims: Sequence[Dim]) -> Product:
        """Multiply sizes."""
        number = 1
        factors: list[Affine] = []
        for dim in dims:
            if isinstance(dim, Affine):
                divisor = math.gcd(dim.constant, *(factor for _, factor in dim.terms))
                primitive = dim.divide_exactly(divisor)
                assert isinstance(primitive, Affine)
                number, factors = number * divisor, [*factors, primitive]
            else:
                number *= int(dim)
        return Product(number, tuple(sorted(factors, key=str)))

    def divided_by(self, other: Product) -> Dim:
        """Return self / other as one size; raises Undecided if it is none."""
        rest = list(self.factors)
        for factor in other.factors:
            if factor not in rest:
                raise Undecided(f"a size divided by {factor}")
            rest.remove(factor)
        if other.number == 0 or self.number % other.number or len(rest) > 1:
            raise Undecided("a size that is no affine expression")
        quotient = self.number // other.number
        return rest[0] * quotient if rest else quotient


@dataclass(slots=True)
class Solver:
    """Learns equalities of sizes; symbols outside `bounds` are unknowns and may be solved for."""

    bounds: Bounds
    solved: dict[str, Dim] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def require_equal(self, left: Dim, right: Dim, origin: str) -> None:
        """Note that two sizes are equal; raises Contradiction if no value of the symbols allows it.

        An unknown of `left` is solved for first: it is the size that follows from the others.
        """
        difference = substitute(substitute(left, self.solved) - substitute(right, self.solved), self.solved)
        if difference == 0:
            return
        unknown = self._unknown_of(difference, symbols_of(left))
        if unknown is None:
            raise Contradiction(f"{left} and {right}")
        name, factor = unknown
        rest = (difference - factor * Affine.symbol(name)) * -1
        value = rest * factor if abs(factor) == 1 else Affine.of(rest).divide_exactly(factor)
        if value is None or interval(value, self.bounds)[1] < 0:
            raise Contradiction(f"{left} and {right}")
        self.solved = {known: substitute(dim, {name: value}) for known, dim in self.solved.items()}
        self.solved[name], self.origins[name] = value, origin

    def _unknown_of(self, difference: Dim, preferred: frozenset[str]) -> tuple[str, int] | None:
        """Return a symbol of the expression that may be solved for and its coefficient, best first."""
        terms = difference.terms if isinstance(difference, Affine) else ()
        unknowns = [(name, factor) for name, factor in terms if name not in self.bounds]
        return min(unknowns, key=lambda term: (abs(term[1]), term[0] not in preferred, term[0]), default=None)

    def unknowns_of(self, dim: Dim) -> frozenset[str]:
        """The symbols of a size that are still to be solved for."""
        return frozenset(name for name in symbols_of(substitute(dim, self.solved)) if name not in self.bounds)
