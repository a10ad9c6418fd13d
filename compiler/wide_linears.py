"""Linears of one x -> one linear with the outputs of all, of which each result is a view.

A product with few outputs leaves PEs idle, or gives them tiles so small that x takes longer to come in than to be
multiplied; and each linear has a first and a last chunk that nothing overlaps. Of a Llama, q, k and v become one. Left
apart are linears that differ in format, activation or the kind of constants they have, with a residual, a multiplier or
a gate; what is a result of the graph or has outputs that fill no aligned row; and those not estimated to be slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from compiler.graph import Constant, Graph, JoinedSource, LinearAttributes, Operation, SliceAttributes, Value
from compiler.linear_cost import cycles
from compiler.linear_search import choose_linear
from compiler.mapped import BIAS, ROW_SCALES, SCALES, WEIGHT, ZERO_POINTS
from compiler.packing import ROW_ALIGNMENT_BYTES
from compiler.shape_inference import int_shape
from compiler.shaping import MULTIPLIER, RESIDUAL, input_at, linear_shape
from isa.affine import Affine
from isa.dtypes import BY_NAME, Dtype
from isa.errors import UnsupportedError
from isa.machine import Machine

LEAST_GAIN = 1 / 64
"""Share of the estimated time that one linear must save: less is within what an estimate is off."""
_CONSTANTS = (WEIGHT, BIAS, SCALES, ZERO_POINTS)


def widen_linears(graph: Graph, machine: Machine, dtype: str, *, only_faster: bool = True) -> Graph:
    """Return the graph with one linear in the place of several of the same x; those that gain by estimate, or all."""
    widener = _Widener(graph, machine, BY_NAME[dtype])
    groups = [group for group in widener.groups() if not only_faster or widener.gains(group)]
    wide = {group[0].name: widener.widened(group) for group in groups}
    inside = {op.name for group in groups for op in group}
    operations = [
        found for op in graph.operations
        for found in (wide[op.name].operations if op.name in wide else () if op.name in inside else (op,))
    ]  # fmt: skip
    values, constants = dict(graph.values), dict(graph.constants)
    for one in wide.values():
        values |= one.values
        constants |= one.constants
    return replace(graph, operations=tuple(operations), values=values, constants=constants)


@dataclass
class _Wide:
    """A wide linear and the slices of its result, with what is new to the graph."""

    operations: list[Operation] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)


class _Widener:
    def __init__(self, graph: Graph, machine: Machine, dtype: Dtype) -> None:
        self.graph, self.machine, self.dtype = graph, machine, dtype

    def groups(self) -> list[list[Operation]]:
        """Return the linears that differ in nothing but outputs and the bytes of constants, two and more."""
        found: dict[object, list[Operation]] = {}
        for op in self.graph.operations:
            if op.kind == "linear" and self._can_be_a_part(op):
                types = tuple(self._type(op, index) for index in _CONSTANTS)
                found.setdefault((op.inputs[0], input_at(op, ROW_SCALES), op.attributes, types), []).append(op)
        return [group for group in found.values() if len(group) > 1]

    def _can_be_a_part(self, op: Operation) -> bool:
        assert isinstance(op.attributes, LinearAttributes)
        graph, output = self.graph, op.outputs[0] or ""
        if input_at(op, RESIDUAL) or input_at(op, MULTIPLIER) or op.attributes.gate or output in graph.outputs:
            return False
        if any(isinstance(dim, Affine) for name in (op.inputs[0], output) for dim in graph.value(name or "").shape):
            return False
        given = [name for index in _CONSTANTS if (name := input_at(op, index))]
        columns = int_shape(graph.value(output).shape)[-1]
        return all(name in graph.constants for name in given) and not columns * self.dtype.bytes % ROW_ALIGNMENT_BYTES

    def _type(self, op: Operation, index: int) -> object:
        """Return what must agree about a constant: its type, its size but for the outputs, and whether it is there."""
        name = input_at(op, index)
        if name is None:
            return None
        constant = self.graph.constants[name]
        shape = list(int_shape(constant.value.shape))
        del shape[_axis(op, index)]
        return constant.value.dtype, tuple(shape), constant.source is None

    def gains(self, group: Sequence[Operation]) -> bool:
        """Tell whether the machine has a mapping for all at once that is faster than the others together."""
        shapes = [linear_shape(self.graph, op, self.dtype) for op in group]
        if not self.machine.peak_macs_per_cycle(shapes[0].dtype.name):
            return False  # mapping refuses it
        whole = replace(shapes[0], outputs=sum(shape.outputs for shape in shapes))
        try:
            together, *apart = (cycles(choose_linear(one, self.machine), self.machine) for one in (whole, *shapes))
        except UnsupportedError:
            return False
        return together < (1 - LEAST_GAIN) * sum(apart)

    def widened(self, group: Sequence[Operation]) -> _Wide:
        """Return the linear of all outputs and a slice for each result."""
        wide, first = _Wide(), group[0]
        inputs = list(first.inputs)
        for index in _CONSTANTS:
            if input_at(first, index) is not None:
                joined = self._joined([self.graph.constants[input_at(op, index) or ""] for op in group], first, index)
                wide.values[joined.value.name], wide.constants[joined.value.name] = joined.value, joined
                inputs[index] = joined.value.name
        results = [self.graph.value(op.outputs[0] or "") for op in group]
        *outer, _ = results[0].shape
        sizes = [int_shape(result.shape)[-1] for result in results]
        name = "&".join(result.name for result in results)
        wide.values[name] = replace(results[0], name=name, shape=(*outer, sum(sizes)))
        attributes = first.attributes
        wide.operations.append(
            Operation("linear", "&".join(op.name for op in group), tuple(inputs), (name,), attributes)
        )
        for number, (op, size) in enumerate(zip(group, sizes, strict=True)):
            place = SliceAttributes(len(outer), sum(sizes[:number]), size)
            wide.operations.append(Operation("slice", f"{op.name}.part", (name,), op.outputs, place))
        return wide

    def _joined(self, parts: Sequence[Constant], first: Operation, index: int) -> Constant:
        """Return constants as one, behind one another along the outputs."""
        axis = _axis(first, index)
        shapes = [int_shape(part.value.shape) for part in parts]
        shape = list(shapes[0])
        shape[axis] = sum(one[axis] for one in shapes)
        value = Value("&".join(part.value.name for part in parts), tuple(shape), parts[0].value.dtype)
        return Constant(value, None if parts[0].source is None else JoinedSource(axis, tuple(parts)))


def _axis(op: Operation, index: int) -> int:
    """Return the axis of a constant that counts outputs."""
    assert isinstance(op.attributes, LinearAttributes)
    return 0 if index == BIAS or op.attributes.weight_rows_are_outputs else 1
