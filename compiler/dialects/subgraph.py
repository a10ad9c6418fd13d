"""Running the part of a graph that makes masks, positions and tables, on chosen sizes and inputs.

A value is evaluable if it follows from constants, sizes and integer inputs through ONNX operators that have a NumPy
meaning; activations are not, because composite operations (embedding, linear, ...) and float inputs stop the walk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from compiler.dialects.rewrite import is_onnx
from compiler.evaluate import BAD_ARGUMENTS, FLOAT_DTYPES, MEANINGS, evaluate
from compiler.graph import Graph, OnnxAttributes, Operation, SizesAttributes
from compiler.symbols import Undecided
from isa.affine import evaluate as evaluate_dim
from isa.affine import symbols_of

# Constants above this size are weights, which no mask or table is computed from.
LARGEST_CONSTANT_BYTES = 256 << 20
# Larger tensors are not made.
LARGEST_ELEMENTS = 1 << 28


class Subgraph:
    """The evaluable part of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._inputs: dict[str, frozenset[str]] = {}
        self._positions: dict[str, int] = {}
        self._ancestors: dict[str, list[Operation]] = {}
        for name in graph.inputs:
            if graph.values[name].dtype not in FLOAT_DTYPES:
                self._inputs[name] = frozenset({name})
        for name, constant in graph.constants.items():
            if constant.source is not None and getattr(constant.source, "nbytes", 0) <= LARGEST_CONSTANT_BYTES:
                self._inputs[name] = frozenset()
        for position, operation in enumerate(graph.operations):
            self._add(position, operation)

    def _add(self, position: int, operation: Operation) -> None:
        attributes = operation.attributes
        if isinstance(attributes, OnnxAttributes):
            if attributes.op_type not in MEANINGS or any(n and n not in self._inputs for n in operation.inputs):
                return
        elif not isinstance(attributes, SizesAttributes):
            return
        read = frozenset[str]().union(*(self._inputs[name] for name in operation.inputs if name))
        for name in operation.outputs:
            if name:
                self._inputs[name], self._positions[name] = read, position

    def is_evaluable(self, name: str) -> bool:
        """Tell whether a value can be computed without running the model."""
        return name in self._inputs

    def inputs_of(self, name: str) -> frozenset[str]:
        """Return the graph inputs that an evaluable value depends on."""
        return self._inputs[name]

    def symbols_of(self, name: str) -> frozenset[str]:
        """Return the symbols that an evaluable value depends on (through sizes; not through the shapes of inputs)."""
        symbols: set[str] = set()
        for operation in self._operations(name):
            if isinstance(operation.attributes, SizesAttributes):
                symbols.update(*(symbols_of(element) for element in operation.attributes.elements))
        return frozenset(symbols)

    def integer_roots_of(self, name: str) -> list[str]:
        """Return the integer values that are cast to floating point on the way to a value and depend on symbols."""
        roots = []
        for operation in self._operations(name):
            source = operation.inputs[0] if is_onnx(operation, "Cast") else None
            becomes_float = self._graph.value(operation.outputs[0] or "").dtype in FLOAT_DTYPES
            if source is not None and becomes_float and self._graph.value(source).dtype not in FLOAT_DTYPES:
                roots.extend([source] if self.symbols_of(source) else [])
        return sorted(set(roots))

    def run(self, name: str, bindings: Mapping[str, int], inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Compute a value; raises Undecided if the arrays do not fit the graph.

        `inputs` may also give inner values, which are then not computed.
        """
        arrays: dict[str, np.ndarray] = dict(inputs)
        for operation in self._operations(name):
            if operation.outputs[0] in inputs:
                continue
            attributes = operation.attributes
            if isinstance(attributes, SizesAttributes):
                shape = tuple(int(dim) for dim in self._graph.value(operation.outputs[0] or "").shape)  # type: ignore[arg-type]
                elements = [evaluate_dim(element, bindings) for element in attributes.elements]
                arrays[operation.outputs[0] or ""] = np.array(elements, np.int64).reshape(shape)
                continue
            assert isinstance(attributes, OnnxAttributes)
            self._check_size(operation, bindings)
            read = [self._array(arrays, argument) if argument else None for argument in operation.inputs]
            try:
                results = evaluate(attributes, read, {})
            except BAD_ARGUMENTS as error:
                raise Undecided(f"{operation.name}: {error}") from error
            for output, result in zip(operation.outputs, results, strict=False):
                if output:
                    arrays[output] = result
        return self._array(arrays, name)

    def _check_size(self, operation: Operation, bindings: Mapping[str, int]) -> None:
        for name in operation.outputs:
            shape = self._graph.value(name).shape if name else ()
            if math.prod(evaluate_dim(dim, bindings) for dim in shape) > LARGEST_ELEMENTS:
                raise Undecided(f"{operation.name} makes a tensor of {[str(dim) for dim in shape]}")

    def _array(self, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
        if name not in arrays:
            arrays[name] = np.asarray(self._graph.constants[name].load())
        array = arrays[name]
        return array.astype(np.float32) if str(array.dtype) in ("float16", "bfloat16") else array

    def _operations(self, name: str) -> list[Operation]:
        """Return the operations that make a value, in order."""
        if name not in self._ancestors:
            found: set[int] = set()
            pending = [name]
            while pending:
                position = self._positions.get(pending.pop())
                if position is not None and position not in found:
                    found.add(position)
                    pending.extend(argument for argument in self._graph.operations[position].inputs if argument)
            self._ancestors[name] = [self._graph.operations[position] for position in sorted(found)]
        return self._ancestors[name]
