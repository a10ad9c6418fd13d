"""What a rule of the long tail is, and the collector of operations that rules write with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from compiler.dialects.rewrite import Rewriter
from compiler.graph import (
    Attributes,
    AxisAttributes,
    InputRange,
    MoveAttributes,
    NoAttributes,
    Operation,
    ShapeAttributes,
    Value,
)
from isa.affine import Affine
from isa.errors import ModelError, UnsupportedError

Rule = Callable[[Rewriter, Operation], "list[Operation] | None"]
"""Returns what takes the place of an ONNX operation, None if that has no generic form."""


class SymbolicSizeError(UnsupportedError):
    """A size is not known when compiling; the operation stays, and the checks behind say what is wrong as a whole."""


class Replacement:
    """Collects the operations that take the place of one ONNX operation; values get names that nothing else has."""

    def __init__(self, rewriter: Rewriter, operation: Operation) -> None:
        self.rewriter, self.operation = rewriter, operation
        self.operations: list[Operation] = []

    def value(self, name: str | None) -> Value:
        """Return a value or the value of a constant, new ones included."""
        constant = self.rewriter.constants.get(name or "")
        return constant.value if constant is not None else self.rewriter.values[name or ""]

    def shape(self, name: str | None) -> tuple[int, ...]:
        """Return the shape of a value; raises SymbolicSizeError, naming the dim, if a size is not known."""
        for dim in self.value(name).shape:
            if isinstance(dim, Affine):
                what = f"the size {dim} of {name} is not known when compiling"
                help = f"bind it, for example --dim {sorted(dim.symbols)[0]}=1; only cache lengths may stay open"
                raise SymbolicSizeError(what, where=f"node {self.operation.name!r}", help=help)
        return tuple(int(dim) for dim in self.value(name).shape)  # type: ignore[arg-type]

    def input(self, index: int) -> str | None:
        """Return the name of an input, None if it is absent."""
        return self.operation.inputs[index] if index < len(self.operation.inputs) else None

    def array(self, index: int) -> np.ndarray | None:
        """Return the elements of a small constant input, None for anything else."""
        return self.rewriter.array(self.input(index))

    def constant(self, stem: str, array: np.ndarray) -> str:
        """Add a constant and return its name."""
        return self.rewriter.constant(f"{self.operation.name}.{stem}", array)

    def add(
        self,
        kind: str,
        inputs: Sequence[str | None],
        shape: Sequence[int] = (),
        dtype: str = "",
        attributes: Attributes | None = None,
        output: str | None = None,
    ) -> str:
        """Add an operation with one output, `output` or a fresh value of the shape and dtype; return its name."""
        name = output or self.rewriter.fresh(f"{self.operation.name}.{kind}", tuple(shape), dtype)
        origin = self.operation.name if not self.operations else f"{self.operation.name}.{len(self.operations)}"
        self.operations.append(Operation(kind, origin, tuple(inputs), (name,), attributes or NoAttributes()))
        return name

    def check_range(self, indices: str, size: int) -> None:
        """Demand that indices choose from `size` places: now if they are constant, else of an input before a run."""
        known = self.rewriter.array(indices)
        if known is not None and known.size and not -size <= known.min() <= known.max() < size:
            what = f"indices from {known.min()} to {known.max()} choose from {size} places"
            help = "an index counts from 0, or back from -1"
            raise ModelError(what, where=f"node {self.operation.name!r}", help=help)
        if indices in self.rewriter.graph.inputs:
            reason = f"they choose from the {size} places of '{self.operation.name}'"
            self.rewriter.requirements.append(InputRange(indices, -size, size - 1, reason))

    def reshape(self, name: str, shape: Sequence[int], output: str | None = None) -> str:
        """Give a value another shape; without an output of its own, nothing is done if it has that shape."""
        if output is None and self.shape(name) == tuple(shape):
            return name
        return self.add("reshape", (name,), shape, self.value(name).dtype, ShapeAttributes(tuple(shape)), output)

    def move(
        self,
        name: str,
        sizes: Sequence[int],
        axes: Sequence[int | None],
        starts: Sequence[int] | None = None,
        steps: Sequence[int] | None = None,
        output: str | None = None,
    ) -> str:
        """Add a move (see `MoveAttributes`) from the first elements on, or from `starts` by `steps`."""
        rank = len(self.shape(name))
        place = MoveAttributes(tuple(sizes), tuple(axes), tuple(starts or (0,) * rank), tuple(steps or (1,) * rank))
        return self.add("move", (name,), sizes, self.value(name).dtype, place, output)

    def transpose(self, name: str, axes: Sequence[int], output: str | None = None) -> str:
        """Reorder axes; without an output of its own, nothing is done if they stand so already."""
        if output is None and list(axes) == list(range(len(axes))):
            return name
        shape = self.shape(name)
        return self.move(name, [shape[axis] for axis in axes], axes, output=output)

    def slice(self, name: str, axis: int, start: int, count: int, step: int = 1, output: str | None = None) -> str:
        """Add a move of `count` elements along one axis."""
        shape = self.shape(name)
        sizes, starts, steps = list(shape), [0] * len(shape), [1] * len(shape)
        sizes[axis], starts[axis], steps[axis] = count, start, step
        return self.move(name, sizes, range(len(shape)), starts, steps, output)

    def broadcast(self, name: str, shape: Sequence[int], output: str | None = None) -> str:
        """Repeat along axes of size 1, and along those that the value has not."""
        before = self.shape(name)
        if output is None and before == tuple(shape):
            return name
        missing = len(shape) - len(before)
        axes = [
            None if axis < missing or before[axis - missing] != size else axis - missing
            for axis, size in enumerate(shape)
        ]
        return self.move(name, shape, axes, output=output)

    def concat(self, names: Sequence[str], axis: int, output: str | None = None) -> str:
        """Join values along an axis."""
        shape = list(self.shape(names[0]))
        shape[axis] = sum(self.shape(name)[axis] for name in names)
        return self.add("concat", names, shape, self.value(names[0]).dtype, AxisAttributes(axis), output)
