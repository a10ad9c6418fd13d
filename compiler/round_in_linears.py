"""Which linears round their own rows of x: those where that takes less time than to pass the result through memory.

Each of them waits for its rounding, with slots full of weights that came in before x was there. What does it for all of
them deals the rows over the PEs, but its result goes to memory and back. It counts as a part of a merged launch, whose
start costs nothing. One row, in a decode step, is rounded by its readers, many are rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from compiler.graph import Graph, LinearAttributes, Operation, QuantizeAttributes, RowDtype
from compiler.linear_cost import row_rounding_cycles
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
    """Tell whether linears lose less time by rounding x themselves than by waiting for rows that were rounded."""
    shape = graph.value(rounding.inputs[0] or "").shape
    if not readers or any(isinstance(dim, Affine) for dim in shape):
        return False
    if not all(isinstance(op.attributes, LinearAttributes) for op in readers):
        return False
    assert isinstance(rounding.attributes, QuantizeAttributes)
    if not machine.peak_macs_per_cycle(_dtype(rounding.attributes.dtype).name):
        return False  # mapping refuses it
    *outer, columns = int_shape(shape)
    rows = math.prod(outer)
    own = len(readers) * row_rounding_cycles(rows, columns, dtype, machine)
    alone = row_rounding_cycles(-(-rows // machine.pe_count), columns, dtype, machine) + _way_cycles(machine)
    return own < alone and all(_can_round(graph, machine, dtype, op) for op in readers)


def _way_cycles(machine: Machine) -> float:
    """Return how long rounded rows take to shared memory and back to the PEs."""
    latency_ns = machine.noc.request_latency_ns + machine.sram.latency_ns
    return 2 * (latency_ns / machine.cycle_ns + machine.mean_hops * machine.noc.hop_latency_cycles)


def _can_round(graph: Graph, machine: Machine, dtype: Dtype, op: Operation) -> bool:
    """Tell whether a PE holds all rows of x, as they are and rounded."""
    try:
        choose_linear(replace(linear_shape(graph, op, dtype), rounded_from=dtype), machine)
    except UnsupportedError:
        return False
    return True


def _dtype(narrow: RowDtype) -> Dtype:
    dtype = of_host(narrow)
    assert dtype is not None
    return dtype
