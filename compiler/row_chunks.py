"""Operations on rows whose results do not fit in SRAM side by side -> the same operations on some rows after others.

A group is norms, linears and element-wise operations that hand rows to one another and to nobody else: of a Llama, a
norm with q, k and v, and a norm with the feed-forward network. Where all that lives at the same time leaves no room in
SRAM for a step of cache, the group works on as many rows at a time as do, so that what it hands on stays in SRAM. Its
inputs are read through views of rows, its results are written as rows of the whole: nothing is copied. Weights are read
once per chunk, which is the price.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from compiler.graph import (
    AttentionAttributes,
    Graph,
    MoveAttributes,
    Operation,
    PointwiseAttributes,
    ShapeAttributes,
    Value,
)
from compiler.kernel_builder import round_up
from compiler.linear_cost import cycles
from compiler.linear_search import choose_linear
from compiler.mapping import QUANTIZED
from compiler.packing import padded_row_bytes
from compiler.placement import addressed_bytes
from compiler.shaping import RESIDUAL, input_at, linear_shape
from isa.affine import Affine
from isa.dtypes import BY_NAME, Dtype
from isa.errors import UnsupportedError
from isa.machine import Machine

ROW_KINDS = ("rms_norm", "linear", "quantize", "requantize", "pointwise")
"""Kinds that may give each row of the result from one row of every input that is no constant."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Operations `first .. end` of the graph, and the values that only they read."""

    first: int
    end: int
    inside: frozenset[str]


def chunk_rows(graph: Graph, machine: Machine, dtype: str) -> Graph:
    """Return the graph with chunks of rows where the machine's SRAM asks for them."""
    chunker = _Chunker(graph, machine, BY_NAME[dtype])
    operations, values, end = list[Operation](), dict(graph.values), 0
    for group in chunker.groups():
        operations += graph.operations[end : group.first]
        end = group.end
        rows = chunker.rows_at_a_time(group)
        if rows is None:
            operations += graph.operations[group.first : end]
        else:
            operations += _Splitter(graph, group, values).split(rows)
    return replace(graph, operations=(*operations, *graph.operations[end:]), values=values)


class _Chunker:
    """Finds groups, and how many rows each may work on."""

    def __init__(self, graph: Graph, machine: Machine, dtype: Dtype) -> None:
        self.graph, self.machine, self.dtype = graph, machine, dtype
        self.consumers = graph.consumers()
        self.index = {op.name: index for index, op in enumerate(graph.operations)}
        self.born = dict.fromkeys(graph.inputs, -1)
        self.born |= {name: index for index, op in enumerate(graph.operations) for name in op.outputs if name}
        self.last = {name: max(self.index[op.name] for op in readers) for name, readers in self.consumers.items()}
        self.last |= {name: len(graph.operations) for name in (*graph.inputs, *graph.outputs)}
        self.elsewhere = {
            name for op in graph.operations if isinstance(op.attributes, AttentionAttributes)
            for name in (*op.inputs[1:5], *op.outputs[1:]) if name
        }  # fmt: skip
        """Keys and values, which lie in caches."""
        self.rounded = {name for op in graph.operations if op.kind == "quantize" for name in op.outputs}
        self.placed = {name for op in graph.operations if op.kind == "join" for name in op.inputs}

    # --- groups ------------------------------------------------------------------------------------------------

    def groups(self) -> Iterator[_Group]:
        """Yield groups of two or more operations, in order."""
        first = 0
        while first < len(self.graph.operations):
            end = self._end(first)
            group = _Group(first, end, frozenset(self._inside(first, end)))
            if group.inside and all(name not in self.placed for name in _results(self.graph, group)):
                yield group
            first = end

    def _end(self, first: int) -> int:
        """Return the end of the longest group that starts with an operation."""
        operations, end = self.graph.operations, first + 1
        outer = self._outer(operations[first])
        handed = set[str](self._handed_on(operations[first])) if outer else set[str]()
        while end < len(operations) and self._outer(operations[end]) == outer and handed & {*operations[end].inputs}:
            handed |= self._handed_on(operations[end])
            end += 1
        return end

    def _outer(self, op: Operation) -> tuple[int, ...] | None:
        """Return the axes before the last one if the operation works row by row, else None."""
        if op.kind not in ROW_KINDS:
            return None
        names = [name for name in (*op.inputs, *op.outputs) if name and name not in self.graph.constants]
        shapes = {tuple(self.graph.value(name).shape[:-1]) for name in names}
        is_recipe = isinstance(op.attributes, PointwiseAttributes)
        if len(shapes) != 1 or (is_recipe and any(name in self.graph.constants for name in op.inputs)):
            return None
        (outer,) = shapes
        if any(isinstance(dim, Affine) or any(len(self.graph.value(n).shape) < 2 for n in names) for dim in outer):
            return None
        return tuple(int(dim) for dim in outer)  # type: ignore[arg-type]

    def _handed_on(self, op: Operation) -> set[str]:
        """Return the results that others only work on; not streams, which something is or will be added to."""
        if op.kind == "linear" and input_at(op, RESIDUAL):
            return set()
        return {name for name in op.outputs if name and not self._is_residual(name) and name not in self.graph.outputs}

    def _is_residual(self, name: str) -> bool:
        readers = self.consumers.get(name, [])
        return any(op.kind == "linear" and input_at(op, RESIDUAL) == name for op in readers)

    def _inside(self, first: int, end: int) -> Iterator[str]:
        for op in self.graph.operations[first:end]:
            for name in self._handed_on(op):
                if self.last.get(name, end) < end:
                    yield name

    # --- sizes -------------------------------------------------------------------------------------------------

    def rows_at_a_time(self, group: _Group) -> int | None:
        """Return the rows of a chunk; None if all fit at once, or if less than a row of blocks per PE would."""
        matrix, grid = self.machine.matrix, self.machine.grid
        budget = addressed_bytes(self.machine)
        rows = math.prod(self._outer(self.graph.operations[group.first]) or ())
        row_bytes = max(self._alive_inside(group, index) for index in range(group.first, group.end))
        beside = max(self._alive_beside(group, index, budget) for index in range(group.first, group.end))
        if not rows or beside + rows * row_bytes <= budget:
            return None
        step = matrix.block_rows * max(grid.rows, grid.columns)
        most = (budget - beside) // row_bytes // step * step
        if most < step:
            most = budget // 2 // row_bytes // step * step
        if most < step or most >= rows:
            return None
        units = [unit for unit in (step, 2 * step) if unit <= most]
        sizes = [round_up(-(-rows // -(-rows // (most // unit * unit))), unit) for unit in units]
        return min(sizes, key=lambda size: self._linear_cycles(group, rows, size))

    def _linear_cycles(self, group: _Group, rows: int, size: int) -> float:
        """Return an estimate of what the linears take with chunks of so many rows: odd ones waste some of each PE."""
        counts = [(size, rows // size), *([(rows % size, 1)] if rows % size else [])]
        shapes = [
            linear_shape(self.graph, op, self.dtype)
            for op in self.graph.operations[group.first : group.end] if op.kind == "linear"
        ]  # fmt: skip
        try:
            return sum(
                chunks * cycles(choose_linear(replace(shape, rows=count), self.machine), self.machine)
                for shape in shapes if self.machine.peak_macs_per_cycle(shape.dtype.name) for count, chunks in counts
            )  # fmt: skip
        except UnsupportedError:  # mapping says so, too, and where
            return math.inf

    def _alive_inside(self, group: _Group, index: int) -> int:
        """Return the bytes per row of what the group hands on and holds while an operation runs."""
        return sum(
            self._row_bytes(name) for name in sorted(group.inside) if self.born[name] <= index <= self.last[name]
        )

    def _alive_beside(self, group: _Group, index: int, budget: int) -> int:
        """Return the bytes of everything else; a result takes the place of the residual that it is added to.

        What is too large for SRAM alone lies in DRAM.
        """
        names = {
            name for name, born in self.born.items() if born < group.end and self.last.get(name, born) >= group.first
        }
        names -= group.inside | self.elsewhere
        for op in self.graph.operations[group.first : group.end]:
            if (residual := input_at(op, RESIDUAL)) and op.kind == "linear" and self.last[residual] < group.end:
                names.discard(residual)
        sizes = [math.prod(self._sizes(name)[:-1]) * self._row_bytes(name) for name in sorted(names)]
        return sum(size for size in sizes if size <= budget)

    def _sizes(self, name: str) -> tuple[int, ...]:
        shape = self.graph.value(name).shape
        return tuple(0 if isinstance(dim, Affine) else int(dim) for dim in shape) or (1,)

    def _row_bytes(self, name: str) -> int:
        dtype = QUANTIZED[self.graph.value(name).dtype] if name in self.rounded else self.dtype
        return padded_row_bytes(self._sizes(name)[-1], dtype)


def _results(graph: Graph, group: _Group) -> list[str]:
    """Return what a group makes for others."""
    operations = graph.operations[group.first : group.end]
    return [name for op in operations for name in op.outputs if name and name not in group.inside]


class _Splitter:
    """Writes the operations of a group once per chunk; adds the values of chunks to `values`."""

    def __init__(self, graph: Graph, group: _Group, values: dict[str, Value]) -> None:
        self.graph, self.group, self.values = graph, group, values
        self.operations = graph.operations[group.first : group.end]
        self.made = {name for op in self.operations for name in op.outputs if name}
        self.parts: dict[str, list[str]] = {name: [] for name in _results(graph, group)}

    def split(self, chunk: int) -> Iterator[Operation]:
        """Yield the operations that do the same on so many rows after others."""
        read = dict.fromkeys(
            name for op in self.operations for name in op.inputs
            if name and name not in self.made and name not in self.graph.constants
        )  # fmt: skip
        flat = {name: self._flattened(name) for name in read}
        yield from (op for op in flat.values() if op is not None)
        rows = math.prod(self._shape(self.operations[0].outputs[0] or "")[:-1])
        for number, first in enumerate(range(0, rows, chunk)):
            count = min(chunk, rows - first)
            for name, matrix in flat.items():
                yield self._cut(name, matrix.outputs[0] or "" if matrix else name, number, (first, count))
            for op in self.operations:
                yield self._on_rows(op, number, count)
        for name, parts in self.parts.items():
            yield Operation("join", f"{name}.of_rows", tuple(parts), (name,), ShapeAttributes(self._shape(name)))

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(dim) for dim in self.graph.value(name).shape)  # type: ignore[arg-type]

    def _flattened(self, name: str) -> Operation | None:
        """Return the operation that makes a matrix of a value; None for one that is a matrix."""
        *outer, columns = self._shape(name)
        if len(outer) == 1:
            return None
        shape = (math.prod(outer), columns)
        rows = self._value(f"{name}.{self.operations[0].name}.rows", name, shape)
        return Operation("reshape", f"{rows}.view", (name,), (rows,), ShapeAttributes(shape))

    def _value(self, name: str, like: str, shape: Sequence[int]) -> str:
        self.values[name] = replace(self.graph.value(like), name=name, shape=tuple(shape))
        return name

    def _cut(self, name: str, rows: str, number: int, place: tuple[int, int]) -> Operation:
        first, count = place
        shape = (count, self._shape(name)[-1])
        part = self._value(f"{name}.{self.operations[0].name}.rows{number}", name, shape)
        return Operation("move", f"{part}.view", (rows,), (part,), MoveAttributes(shape, (0, 1), (first, 0), (1, 1)))

    def _on_rows(self, op: Operation, number: int, count: int) -> Operation:
        """Return an operation on the rows of a chunk."""
        outputs = []
        for name in op.outputs:
            outputs.append(name and self._value(f"{name}.chunk{number}", name, (count, self._shape(name)[-1])))
            if name in self.parts:
                self.parts[name].append(outputs[-1] or "")
        inputs = [name and self._part(name, number) for name in op.inputs]
        return replace(op, name=f"{op.name}.chunk.{number}", inputs=tuple(inputs), outputs=tuple(outputs))

    def _part(self, name: str, number: int) -> str:
        if name in self.graph.constants:
            return name
        return f"{name}.chunk{number}" if name in self.made else f"{name}.{self.operations[0].name}.rows{number}"
