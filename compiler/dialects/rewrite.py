"""Small tools to rewrite a graph: an index of who makes and reads what, and a collector of replacements."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from compiler.fold import remove_dead
from compiler.graph import Constant, FileReference, Graph, OnnxAttributes, Operation, Value
from isa.affine import Dim

# Constants in side files up to this size (epsilons, axes, indices) are read; larger ones are weights.
SMALL_BYTES = 1 << 16


class Rewriter:
    """Collects replacements of single operations and builds the new graph; fresh names never clash."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers = {name: op for op in graph.operations for name in op.outputs if name}
        self.consumers = graph.consumers()
        self.values: dict[str, Value] = dict(graph.values)
        self.constants: dict[str, Constant] = dict(graph.constants)
        self.requirements = list(graph.requirements)
        self._replacements: dict[int, list[Operation]] = {}
        self._positions = {id(op): index for index, op in enumerate(graph.operations)}

    def replace(self, old: Operation, new: Sequence[Operation]) -> None:
        """Put operations in the place of one; values that `old` made and nobody makes any more must be unused."""
        self._replacements[self._positions[id(old)]] = list(new)

    def is_replaced(self, operation: Operation) -> bool:
        """Tell whether an operation has been replaced already."""
        return self._positions[id(operation)] in self._replacements

    def position(self, operation: Operation) -> int:
        """Return the place of an operation in the order."""
        return self._positions[id(operation)]

    def fresh(self, stem: str, shape: tuple[Dim, ...], dtype: str) -> str:
        """Add a value and return its name."""
        name = self._unused(stem)
        self.values[name] = Value(name, shape, dtype)
        return name

    def constant(self, stem: str, array: np.ndarray) -> str:
        """Add a constant and return its name."""
        name = self._unused(stem)
        self.constants[name] = Constant(Value(name, array.shape, str(array.dtype)), array)
        return name

    def _unused(self, stem: str) -> str:
        name, number = stem, 0
        while name in self.values or name in self.constants:
            number += 1
            name = f"{stem}.{number}"
        return name

    def producer(self, name: str | None, *op_types: str) -> Operation | None:
        """Return the ONNX operation of one of these types that makes a value."""
        operation = self.producers.get(name or "")
        return operation if operation is not None and is_onnx(operation, *op_types) else None

    def array(self, name: str | None) -> np.ndarray | None:
        """Return the elements of a small constant, None for anything else."""
        constant = self.constants.get(name or "")
        if constant is None or constant.source is None:
            return None
        if isinstance(constant.source, FileReference) and constant.source.length > SMALL_BYTES:
            return None
        return np.asarray(constant.load())

    def scalar(self, name: str | None) -> float | None:
        """Return the number that a constant of one element holds."""
        array = self.array(name)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def sole_consumer(self, name: str) -> Operation | None:
        """Return the only reader of a value that is no graph output."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.graph.outputs else None

    def build(self) -> Graph:
        """Return the rewritten graph without dead operations."""
        operations: list[Operation] = []
        for index, operation in enumerate(self.graph.operations):
            operations.extend(self._replacements.get(index, [operation]))
        return remove_dead(
            dataclasses.replace(
                self.graph,
                operations=tuple(operations),
                values=self.values,
                constants=self.constants,
                requirements=tuple(self.requirements),
            )
        )


def is_onnx(operation: Operation, *op_types: str) -> bool:
    """Tell whether an operation is an ONNX one of these types."""
    attributes = operation.attributes
    return isinstance(attributes, OnnxAttributes) and attributes.op_type in op_types


def onnx_attributes(operation: Operation) -> OnnxAttributes:
    """Return the attributes of an ONNX operation."""
    assert isinstance(operation.attributes, OnnxAttributes)
    return operation.attributes


def integer(operation: Operation, name: str, default: int) -> int:
    """Return an integer attribute of an ONNX operation."""
    return onnx_attributes(operation).integer(name, default)


def number(operation: Operation, name: str, default: float) -> float:
    """Return a float attribute of an ONNX operation."""
    return onnx_attributes(operation).number(name, default)


def operands(operation: Operation) -> list[tuple[str, str]]:
    """Return both orders of the operands of a commutative operation."""
    left, right = operation.inputs[0] or "", operation.inputs[1] or ""
    return [(left, right), (right, left)]
