"""Where scatters write, found by evaluating their indices: token i of each sequence goes to position places[i].

The spellings differ (index_copy becomes ScatterND over transposes or ScatterElements with expanded indices,
index_put a grid of indices), so none is matched: for random places, the indices must choose for each new token the
position that an integer input says, and nothing else.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from compiler.dialects.rewrite import integer, is_onnx, onnx_attributes
from compiler.dialects.subgraph import Subgraph
from compiler.graph import Graph, Operation
from compiler.shape_inference import int_shape
from compiler.symbols import Undecided
from isa.affine import Affine

SCATTERS = ("ScatterND", "ScatterElements", "TensorScatter")
# Draws of random places that a scatter is tried on.
DRAWS = 3


class Place(NamedTuple):
    """Where a scatter writes: the input of positions, the axis they choose from, and the axis that has rows of them."""

    name: str
    axis: int
    batch: int | None


class Scatters:
    """Evaluates where scatters write."""

    def __init__(self, graph: Graph, subgraph: Subgraph) -> None:
        self._graph, self._subgraph = graph, subgraph
        self._known: dict[object, Place | None] = {}

    def places(self, operation: Operation) -> Place | None:
        """Return where a scatter writes, None if it is not to one position per token."""
        indices = (
            operation.inputs[2 if is_onnx(operation, "TensorScatter") else 1] if len(operation.inputs) > 2 else None
        )
        if indices is None or not self._subgraph.is_evaluable(indices):
            return None
        shapes = tuple(self._graph.value(name or "").shape for name in operation.inputs)
        attributes = onnx_attributes(operation)
        key = (attributes.op_type, indices, shapes, integer(operation, "axis", 0))
        if key not in self._known:
            self._known[key] = self._find(operation, indices)
        return self._known[key]

    def _find(self, operation: Operation, indices: str) -> Place | None:
        inputs = sorted(self._subgraph.inputs_of(indices))
        index = 1 if is_onnx(operation, "TensorScatter") else 2
        cache, new = (self._graph.value(operation.inputs[place] or "").shape for place in (0, index))
        is_plain = not any(isinstance(dim, Affine) for dim in (*cache, *new)) and len(cache) == len(new) == 4
        if len(inputs) != 1 or not is_plain or str(onnx_attributes(operation).get("reduction", "none")) != "none":
            return None
        sizes = [(int(old), int(size)) for old, size in zip(cache, new, strict=True)]  # type: ignore[arg-type]
        for axis, (length, count) in enumerate(sizes):
            if count > length or any(old != size for k, (old, size) in enumerate(sizes) if k != axis):
                continue
            for batch in (None, *(k for k in range(4) if k != axis)):
                target = Place(inputs[0], axis, batch)
                if self._agrees(operation, indices, target, length, tuple(size for _, size in sizes)):
                    return target
        return None

    def _agrees(self, operation: Operation, indices: str, target: Place, length: int, new: tuple[int, ...]) -> bool:
        """Tell whether the indices are those of writing token i to position places[i], on random places."""
        random, shape = np.random.default_rng(0), self._graph.values[target.name].shape
        rows = 1 if target.batch is None else new[target.batch]
        if any(isinstance(dim, Affine) for dim in shape) or math.prod(int_shape(shape)) != rows * new[target.axis]:
            return False
        for _ in range(DRAWS):
            places = np.stack([random.permutation(length)[: new[target.axis]] for _ in range(rows)])
            try:
                found = self._subgraph.run(indices, {}, {target.name: places.reshape(int_shape(shape))})
            except (ValueError, IndexError, Undecided):
                return False
            if not _is_at(operation, found, places, target, new):
                return False
        return True


def _is_at(operation: Operation, found: np.ndarray, places: np.ndarray, target: Place, new: tuple[int, ...]) -> bool:
    """Compare the indices of a scatter with those that write element [.., i, ..] of `new` to [.., places[i], ..]."""
    grid, axis = list(np.indices(new)), target.axis
    row = grid[target.batch] if target.batch is not None else 0
    grid[axis] = places[row, grid[axis]]
    if is_onnx(operation, "ScatterElements"):
        return integer(operation, "axis", 0) % 4 == axis and np.array_equal(found, grid[axis])
    if is_onnx(operation, "TensorScatter"):
        is_linear = str(onnx_attributes(operation).get("mode", "linear")) == "linear"
        at_axis = integer(operation, "axis", -2) % 4 == axis
        return is_linear and at_axis and new[axis] == 1 and np.array_equal(found.reshape(-1), places[:, 0])
    depth = found.shape[-1]
    if axis >= depth or found.shape[:-1] != new[:depth]:
        return False
    expected = np.stack([part[(..., *([0] * (4 - depth)))] for part in grid[:depth]], axis=-1)
    return bool(np.array_equal(found, expected))
