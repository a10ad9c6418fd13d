"""What a shape rule gets and returns: one application of an operator, and what is known of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from compiler.evaluate import axes_of, checked_axis
from compiler.graph import OnnxAttributes
from compiler.symbols import Contradiction, Solver, Undecided
from isa.affine import Dim

Shape = tuple[Dim, ...]
Typed = tuple[Shape, str]


@dataclass(frozen=True, slots=True, eq=False)
class Fact:
    """What is known of a value: shape, element type, and its elements if they depend on sizes and constants only."""

    shape: Shape
    dtype: str
    content: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One application of an operator."""

    attributes: OnnxAttributes
    inputs: Sequence[Fact | None]
    output_count: int
    solver: Solver
    origin: str
    opset: int = 24

    def fact(self, index: int) -> Fact:
        """Return an input that must be there."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise Contradiction(f"input {index}, which is missing, and a tensor")
        return found

    def content(self, index: int) -> np.ndarray:
        """Return the elements of an input; raises Undecided if they depend on data."""
        content = self.fact(index).content
        if content is None:
            raise Undecided(f"input {index} is not known when compiling")
        return content

    def has(self, index: int) -> bool:
        """Tell whether an optional input is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def integer(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        return self.attributes.integer(name, default)

    def equal(self, left: Dim, right: Dim) -> None:
        """Report that two sizes must be equal."""
        self.solver.require_equal(left, right, self.origin)

    def axes(self, rank: int) -> tuple[int, ...] | None:
        """Return the normalized axes argument (input 1 or attribute)."""
        arrays = [None, self.content(1)] if self.has(1) else [None]
        axes = axes_of(self.attributes, arrays)
        return None if axes is None else tuple(checked_axis(axis, rank) for axis in axes)


Rule = Callable[[Call], "list[Typed]"]
