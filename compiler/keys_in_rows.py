"""Attention without a past reads the keys and values of the run where they are made, not from the cache.

The cache lies in DRAM: to write all keys and read them back takes its latency twice, and perhaps two refreshes, with
nothing to compute. Rows in SRAM are there sooner. What the cache gets is then copied into it beside the attention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from compiler.attention_mapping import ROWS_INPUTS, key_step
from compiler.graph import AttentionAttributes, Graph, Operation, Value
from compiler.joint_rotation import rotate_together
from compiler.kernels import cache_append, cache_fill, rope
from compiler.mapping import padded_head_dim
from compiler.placement import addressed_bytes
from compiler.shape_inference import int_shape
from isa.dtypes import BY_NAME, Dtype
from isa.machine import Machine


def read_keys_in_rows(graph: Graph, machine: Machine, dtype: str) -> Graph:
    """Return the graph in which attention also gets the rows of keys and values, where it may read those."""
    values, operations, producers = dict(graph.values), list(graph.operations), graph.producers()
    for op in graph.operations:
        if _may_read_rows(graph, producers, op, machine, BY_NAME[dtype]):
            keys = _read_rows(values, operations, op)
            rotate_together(values, operations, op.inputs[0], keys)
    return replace(graph, values=values, operations=tuple(operations))


def _may_read_rows(
    graph: Graph, producers: Mapping[str, Operation], op: Operation, machine: Machine, dtype: Dtype
) -> bool:
    """Tell whether rows hold what attention reads as it reads it: all keys, and no gaps between padded heads."""
    attributes = op.attributes
    if not isinstance(attributes, AttentionAttributes) or attributes.past != 0:
        return False
    head_dim, writers = attributes.head_dim, [producers.get(name or "") for name in op.inputs[1:3]]
    is_whole = padded_head_dim(head_dim, machine, dtype) == head_dim
    is_reached = head_dim * dtype.bytes % machine.dma.alignment_bytes == 0
    least = max(cache_fill.LEAST_TOKENS, key_step(machine, dtype) // 2)
    if not (is_whole and is_reached and _fits(graph, op, machine, dtype)):
        return False
    return all(writer is not None and _writes_rows(graph, writer, least) for writer in writers)


def _fits(graph: Graph, attention: Operation, machine: Machine, dtype: Dtype) -> bool:
    """Tell whether SRAM has room for all that attention reads and makes: rows in DRAM would be read in short pieces."""
    names = (*attention.inputs[:3], attention.outputs[0])
    sizes = [math.prod(int_shape(graph.value(name or "").shape)) for name in names]
    return sum(sizes) * dtype.bytes <= addressed_bytes(machine)


def _writes_rows(graph: Graph, writer: Operation, least: int) -> bool:
    """Tell whether an operation writes computed rows, so many at least, one after the other into a cache."""
    places = {"rope": rope.PLACES_INPUT, "cache_append": cache_append.PLACES_INPUT}
    source = writer.inputs[0] or ""
    is_plain = len(writer.inputs) <= places.get(writer.kind, 0) and source not in graph.constants
    return is_plain and int_shape(graph.value(source).shape)[1] >= least


def _read_rows(values: dict[str, Value], operations: list[Operation], attention: Operation) -> str | None:
    """Let an attention read rows, and fill the caches right before it, while it computes; returns the rows of keys."""
    rows, cached = list[str | None](), attention.inputs[1:3]
    for name in cached:
        place = next(place for place, op in enumerate(operations) if name in op.outputs)
        writer = operations.pop(place)
        if writer.kind == "cache_append":
            rows.append(writer.inputs[0])
        else:
            made = f"{name}.rows"
            values[made] = replace(values[name or ""], name=made)
            operations.insert(place, replace(writer, outputs=(made,)))
            rows.append(made)
    place = operations.index(attention)
    none = (None,) * (ROWS_INPUTS[0] - len(attention.inputs))
    operations[place : place + 1] = [
        Operation("cache_fill", f"{attention.name}.fill", tuple(rows), cached),
        replace(attention, inputs=(*attention.inputs, *none, *rows)),
    ]
    return rows[0]
