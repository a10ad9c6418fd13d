"""Which linears round their own rows of x: a launch less, where rounding on every PE costs less than that launch.

A decode step has one row, and while a PE rounds it the first weights come in. A prefill has many, which are rounded
once by a launch of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from compiler.graph import Graph, LinearAttributes, Operation, QuantizeAttributes, RowDtype
from compiler.linear_mapping import cycles, row_rounding_cycles
from compiler.linear_search import choose_linear
from compiler.mapped import ROW_SCALES
from compiler.shape_inference import int_shape
from compiler.shaping import linear_shape
from isa.affine import Affine
from isa.dtypes import BY_NAME, Dtype, of_host
from isa.errors import UnsupportedError
from isa.machine import Machine


def round_in_linears(graph: Graph, machine: Machine, dtype: str) -> Graph:
    """Return the graph without the roundings that are cheaper in the linears that read them."""
    consumers = graph.consumers()
    roundings = list[Operation]()
    for op in graph.operations:
        if isinstance(op.attributes, QuantizeAttributes) and not set(op.outputs) & set(graph.outputs):
            readers = {reader.name: reader for name in op.outputs for reader in consumers.get(name or "", [])}
            if _is_cheaper(graph, machine, BY_NAME[dtype], op, list(readers.values())):
                roundings.append(op)
    return move_into_readers(graph, roundings)


def move_into_readers(graph: Graph, roundings: Sequence[Operation]) -> Graph:
    """Return the graph without these operations, whose readers are all linears, which do their work."""
    names, sources = {op.name for op in roundings}, {op.outputs[0]: op for op in roundings}
    operations = (_reading(op, sources) for op in graph.operations if op.name not in names)
    return replace(graph, operations=tuple(operations))


def _reading(op: Operation, sources: dict[str | None, Operation]) -> Operation:
    """Return a linear that reads what a moved rounding read, others as they are."""
    source = sources.get(op.inputs[0]) if op.inputs else None
    if source is None:
        return op
    assert isinstance(op.attributes, LinearAttributes) and isinstance(source.attributes, QuantizeAttributes)
    inputs = (source.inputs[0], *op.inputs[1:ROW_SCALES], None, *op.inputs[ROW_SCALES + 1 :])
    return replace(op, inputs=inputs, attributes=replace(op.attributes, x_rounding=source.attributes.dtype))


def _is_cheaper(
    graph: Graph, machine: Machine, dtype: Dtype, rounding: Operation, readers: Sequence[Operation]
) -> bool:
    """Tell whether linears that round x for themselves take less time than a launch that does it for them."""
    shape = graph.value(rounding.inputs[0] or "").shape
    if not readers or any(isinstance(dim, Affine) for dim in shape):
        return False
    if not all(isinstance(op.attributes, LinearAttributes) for op in readers):
        return False
    assert isinstance(rounding.attributes, QuantizeAttributes)
    if not machine.peak_macs_per_cycle(_dtype(rounding.attributes.dtype).name):
        return False  # mapping refuses it
    *outer, columns = int_shape(shape)
    added = sum(_added_cycles(graph, machine, dtype, op) for op in readers)
    return added < _launch_cycles(machine, math.prod(outer), columns, dtype)


def _launch_cycles(machine: Machine, rows: int, columns: int, dtype: Dtype) -> float:
    """Return what a launch that rounds rows costs: its start, the way in and out of local memory, the rounding."""
    pes = min(rows, machine.grid.rows * machine.grid.columns)
    start = machine.launch_ns(pes, replaces=True) / machine.cycle_ns
    way = 2 * machine.noc.request_latency_ns / machine.cycle_ns
    return start + way + row_rounding_cycles(-(-rows // max(pes, 1)), columns, dtype, machine)


def _added_cycles(graph: Graph, machine: Machine, dtype: Dtype, op: Operation) -> float:
    """Return how much longer a linear takes that rounds x for itself; infinite where it cannot."""
    plain = linear_shape(graph, op, dtype)
    try:
        own = choose_linear(replace(plain, rounded_from=dtype), machine)
        given = choose_linear(plain, machine)
    except UnsupportedError:
        return math.inf
    return cycles(own, machine) - cycles(given, machine)


def _dtype(narrow: RowDtype) -> Dtype:
    dtype = of_host(narrow)
    assert dtype is not None
    return dtype
