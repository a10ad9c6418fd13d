"""Sizes and addresses that may depend on runtime symbols: `constant + sum(coefficient * symbol)`.

An `Affine` is a frozen value; dims of tensors, launch arguments and the assertions of a program are made of it.
A product of two symbols is not affine and raises `TypeError`: who needs one must bind a symbol first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Union

Dim = Union[int, "Affine"]


@dataclass(frozen=True, slots=True)
class Affine:
    """An integer expression over named symbols; `terms` are sorted by symbol and never have coefficient 0."""

    constant: int
    terms: tuple[tuple[str, int], ...] = ()

    @staticmethod
    def symbol(name: str) -> Affine:
        """Return the expression that is just the symbol `name`."""
        return Affine(0, ((name, 1),))

    @staticmethod
    def of(value: Dim) -> Affine:
        """Return `value` as an expression."""
        return value if isinstance(value, Affine) else Affine(int(value))

    @property
    def symbols(self) -> frozenset[str]:
        """The names this expression depends on."""
        return frozenset(name for name, _ in self.terms)

    def simplify(self) -> Dim:
        """Return a plain int if no symbol is left, else self."""
        return self if self.terms else self.constant

    def evaluate(self, bindings: Mapping[str, int]) -> int:
        """Return the value under `bindings`; a missing symbol raises KeyError with its name."""
        return self.constant + sum(factor * bindings[name] for name, factor in self.terms)

    def substitute(self, bindings: Mapping[str, Dim]) -> Dim:
        """Replace the symbols that `bindings` has; the others stay."""
        result: Dim = self.constant
        for name, factor in self.terms:
            result = result + factor * bindings.get(name, Affine.symbol(name))
        return result

    def __add__(self, other: Dim) -> Dim:
        right = Affine.of(other)
        factors = dict(self.terms)
        for name, factor in right.terms:
            factors[name] = factors.get(name, 0) + factor
        terms = tuple(sorted((name, factor) for name, factor in factors.items() if factor))
        return Affine(self.constant + right.constant, terms).simplify()

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + (-1 * other)

    def __rsub__(self, other: Dim) -> Dim:
        return (-1 * self) + other

    def __mul__(self, other: Dim) -> Dim:
        right = Affine.of(other)
        if self.terms and right.terms:
            raise TypeError(f"({self}) * ({right}) is not affine")
        left, factor = (self, right.constant) if not right.terms else (right, self.constant)
        if factor == 0:
            return 0
        return Affine(left.constant * factor, tuple((n, c * factor) for n, c in left.terms)).simplify()

    __rmul__ = __mul__

    def divide_exactly(self, divisor: int) -> Dim | None:
        """Return self / divisor if every coefficient divides, else None."""
        numbers = (self.constant, *(factor for _, factor in self.terms))
        if divisor == 0 or any(number % divisor for number in numbers):
            return None
        return Affine(self.constant // divisor, tuple((n, c // divisor) for n, c in self.terms)).simplify()

    def __str__(self) -> str:
        parts = [name if factor == 1 else f"{factor}*{name}" for name, factor in self.terms]
        if self.constant or not parts:
            parts.append(str(self.constant))
        return " + ".join(parts).replace("+ -", "- ")


def evaluate(value: Dim, bindings: Mapping[str, int]) -> int:
    """Return the integer value of a dim under `bindings`."""
    return value.evaluate(bindings) if isinstance(value, Affine) else int(value)


def substitute(value: Dim, bindings: Mapping[str, Dim]) -> Dim:
    """Replace symbols in a dim."""
    return value.substitute(bindings) if isinstance(value, Affine) else value


def symbols_of(value: Dim) -> frozenset[str]:
    """The symbols a dim depends on."""
    return value.symbols if isinstance(value, Affine) else frozenset()


def parse(text: str) -> Dim:
    """Read what `str(Affine)` prints, e.g. `past + 1` or `2*past - 3`; raises ValueError on anything else."""
    result: Dim = 0
    for token in text.replace("- ", "+ -").split("+"):
        token = token.strip()
        sign = -1 if token.startswith("-") else 1
        token = token.lstrip("-").strip()
        factor, _, name = token.rpartition("*")
        number = int(factor) if factor else 1
        if not (name.isdigit() or name.isidentifier()):
            raise ValueError(f"cannot read the expression {text!r}")
        term: Dim = int(name) if name.isdigit() else Affine.symbol(name)
        result = result + sign * number * term
    return result
