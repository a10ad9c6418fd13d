"""What a rule of the long tail is, and the collector of operations that rules write with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from compiler.dialects.rewrite import Rewriter
from compiler.graph import Attributes, NoAttributes, Operation, Value
from isa.affine import Affine
from isa.errors import UnsupportedError

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
