"""`gate(x @ W) * (x @ U)`: two linears of one x and the product of their results -> one linear with a gate.

The products of both are then made at once, and neither result is rounded or stored. Left apart are linears of
different sizes or formats of weights, with a residual, with a bias of one of them alone; results that something else
reads; and those for which the machine has no mapping of both at once, or one that is estimated to be slower than two.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.graph import Activation, Graph, LinearAttributes, Operation, PointwiseAttributes, Step
from compiler.linear_cost import cycles
from compiler.linear_search import choose_linear
from compiler.linear_shape import LinearShape
from compiler.mapped import ROW_SCALES, UP_INPUTS
from compiler.shaping import RESIDUAL, input_at, linear_shape
from isa.affine import Affine
from isa.dtypes import BY_NAME, Dtype
from isa.errors import UnsupportedError
from isa.machine import Machine

_PRODUCT = (Step("vmul", (0, 1)),)
_INPUTS = 11
"""Inputs of a linear with a gate."""


def fuse_gates(graph: Graph, machine: Machine, dtype: str, *, only_faster: bool = True) -> Graph:
    """Return the graph with gated linears in the place of what they replace; by estimate `only_faster` ones, or all."""
    finder = _Finder(graph, machine, BY_NAME[dtype], only_faster)
    fused = {op.name: gated for op in graph.operations if (gated := finder.gated(op)) is not None}
    inside = {name for gated in fused.values() for name in (gated[1], gated[2])}
    operations = [fused[op.name][0] if op.name in fused else op for op in graph.operations if op.name not in inside]
    return replace(graph, operations=tuple(operations))


class _Finder:
    def __init__(self, graph: Graph, machine: Machine, dtype: Dtype, only_faster: bool) -> None:
        self.graph, self.machine, self.dtype, self.only_faster = graph, machine, dtype, only_faster
        self.producers, self.consumers = graph.producers(), graph.consumers()

    def gated(self, op: Operation) -> tuple[Operation, str, str] | None:
        """Return the linear that computes what a product does, and the names of those that made its operands."""
        for gate, up, activation in self._operands(op):
            if _are_alike(self.graph, gate, up):
                fused = _joined(op, gate, up, activation)
                if self._gains(fused, (gate, up)):
                    return fused, gate.name, up.name
        return None

    def _operands(self, op: Operation) -> list[tuple[Operation, Operation, Activation]]:
        """Return (gate, factor, activation) for each way to read an operation as a gate."""
        is_product = isinstance(op.attributes, PointwiseAttributes) and op.attributes.steps == _PRODUCT
        if op.kind != "swiglu" and not is_product:
            return []
        linears = [self._linear(op, name or "") for name in op.inputs]
        if len(linears) != 2 or linears[0] is None or linears[1] is None:
            return []
        first, second = linears[0], linears[1]
        if op.kind == "swiglu":
            return [(first, second, "silu")] if (_activation(first), _activation(second)) == (None, None) else []
        return [
            (replace(gate, attributes=replace(_attributes(gate), activation=None)), up, activation)
            for gate, up in ((first, second), (second, first))
            if (activation := _activation(gate)) is not None and _activation(up) is None
        ]

    def _linear(self, reader: Operation, name: str) -> Operation | None:
        """Return the linear that makes a value for this reader alone."""
        producer = self.producers.get(name)
        is_own = name not in self.graph.outputs and self.consumers.get(name) == [reader]
        return producer if producer is not None and producer.kind == "linear" and is_own else None

    def _gains(self, fused: Operation, apart: tuple[Operation, Operation]) -> bool:
        """Tell whether the machine has a mapping for both at once that is not slower than the two are."""
        names = (apart[0].inputs[0], *(op.outputs[0] for op in apart))
        if any(isinstance(dim, Affine) for name in names for dim in self.graph.value(name or "").shape):
            return False
        shapes = [linear_shape(self.graph, op, self.dtype) for op in apart]
        if not self.machine.peak_macs_per_cycle(shapes[0].dtype.name):
            return False  # mapping refuses it
        shape = linear_shape(self.graph, fused, self.dtype)
        try:
            together = self._cycles(shape)
        except UnsupportedError:
            return False
        return not self.only_faster or together <= sum(map(self._cycles, shapes)) + self._saved_cycles(shapes[0])

    def _saved_cycles(self, shape: LinearShape) -> float:
        """Return the least that is saved: reading both results and writing their product, and two of three launches."""
        product_bytes = 3 * shape.rows * shape.outputs * shape.out_dtype.bytes
        launches = 2 * self.machine.control.launch_replace_ns / self.machine.cycle_ns
        return product_bytes / self.machine.sram.bytes_per_cycle + launches

    def _cycles(self, shape: LinearShape) -> float:
        return cycles(choose_linear(shape, self.machine), self.machine)


def _are_alike(graph: Graph, gate: Operation, up: Operation) -> bool:
    """Tell whether two linears differ in the constants only, and have no residual."""
    if gate.name == up.name or gate.attributes != up.attributes or _attributes(gate).gate is not None:
        return False
    if input_at(gate, RESIDUAL) or input_at(up, RESIDUAL):
        return False
    if gate.inputs[0] != up.inputs[0] or input_at(gate, ROW_SCALES) != input_at(up, ROW_SCALES):
        return False
    return all(_type(graph, input_at(gate, index)) == _type(graph, input_at(up, index)) for index in UP_INPUTS)


def _type(graph: Graph, name: str | None) -> object:
    """Return what must agree about two constants; False for a value that is computed, which is like no other."""
    if name is None:
        return None
    return graph.value(name).shape if name in graph.constants else object()


def _joined(product: Operation, gate: Operation, up: Operation, activation: Activation) -> Operation:
    inputs = [*gate.inputs, *(None,) * (_INPUTS - len(gate.inputs))]
    for index, place in UP_INPUTS.items():
        inputs[place] = input_at(up, index)
    attributes = replace(_attributes(gate), gate=activation)
    return Operation("linear", product.name, tuple(inputs), product.outputs, attributes)


def _activation(linear: Operation) -> Activation | None:
    return _attributes(linear).activation


def _attributes(linear: Operation) -> LinearAttributes:
    assert isinstance(linear.attributes, LinearAttributes)
    return linear.attributes
