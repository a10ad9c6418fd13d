"""What an operation must read and write at least once, however it is mapped: the traffic of a lower bound.

Tables count the rows that are chosen, weights their elements without padding, caches the positions that are in use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from compiler.attention_mapping import ROWS_INPUTS
from compiler.graph import AttentionAttributes, EmbeddingBagAttributes, LinearAttributes, Operation
from compiler.mapped import ROW_SCALES, CacheRegion, MappedGraph, Region
from compiler.shape_inference import int_shape
from isa.program import Touch

_ROWS_OF_TABLES = {"embedding": (1, 2, 3), "rope": (2, 3)}
"""By kind, the constants of which an operation reads a row per row of its result."""


def touches(mapped: MappedGraph, op: Operation) -> tuple[Touch, ...]:
    """Return all storages that an operation uses, those of several views with the sum of their bytes."""
    found: dict[str, Touch] = {}
    for touch in (*_constants(mapped, op), *_values(mapped, op), *_caches(mapped, op)):
        known = found.get(touch.storage, Touch(touch.storage, 0, is_written=False))
        is_written = known.is_written or touch.is_written
        found[touch.storage] = Touch(touch.storage, known.bytes + touch.bytes, is_written)
    return tuple(found.values())


def _values(mapped: MappedGraph, op: Operation) -> Iterator[Touch]:
    chosen = op.inputs[1] if op.kind == "take" else None
    for name in dict.fromkeys((*op.inputs, *op.outputs)):
        if name is None or name not in mapped.regions or name in mapped.caches:
            continue
        region = mapped.regions[name]
        size = _data_bytes(region)
        if op.kind == "take" and name == op.inputs[0] and chosen:
            size = min(size, _data_bytes(mapped.regions[op.outputs[0] or ""]))
        yield Touch(region.storage, size, name in op.outputs)


def _data_bytes(region: Region) -> int:
    return region.rows * region.dtype.row_bytes(region.columns)


def _constants(mapped: MappedGraph, op: Operation) -> Iterator[Touch]:
    for index in range(max(len(op.inputs), ROW_SCALES)):
        storage = mapped.packed.get((op.name, index))
        if storage is not None:
            size = min(mapped.storages[storage].bytes, _least_bytes(mapped, op, index))
            yield Touch(storage, size, is_written=False)


def _least_bytes(mapped: MappedGraph, op: Operation, index: int) -> int:
    """Return the bytes of a packed constant that are needed, all of them where nothing better is known."""
    storage = mapped.storages[mapped.packed[op.name, index]]
    if index >= len(op.inputs):
        return storage.bytes
    if index in _ROWS_OF_TABLES.get(op.kind, ()):
        table_rows = int_shape(mapped.graph.value(op.inputs[index] or "").shape)[0]
        return storage.bytes * _result_rows(mapped, op) // max(table_rows, 1)
    if isinstance(op.attributes, EmbeddingBagAttributes):
        bags = op.attributes.tables[index // 2]
        columns = int_shape(mapped.graph.value(op.inputs[index] or "").shape)[-1]
        return op.attributes.count * bags.hot * mapped.dtype.row_bytes(columns)
    if isinstance(op.attributes, LinearAttributes) and index == 1:
        linear = mapped.linears[op.name].shape
        bits = (linear.packed.dtype if linear.packed else linear.dtype).bits
        return math.ceil(linear.inputs * linear.outputs * linear.parts * bits / 8)
    return storage.bytes


def _result_rows(mapped: MappedGraph, op: Operation) -> int:
    name = op.outputs[0] or ""
    if name in mapped.regions:
        return mapped.regions[name].rows
    return mapped.caches[name].batch * mapped.caches[name].sequence


def _caches(mapped: MappedGraph, op: Operation) -> Iterator[Touch]:
    """Attention reads what is there and what is new, unless it has that in rows; others write what is new."""
    if isinstance(op.attributes, AttentionAttributes):
        if len(op.inputs) > ROWS_INPUTS[0]:
            return
        for name in op.inputs[1:3]:
            cache = mapped.caches[name or ""]
            yield Touch(cache.storage, (cache.past + cache.sequence) * _position_bytes(cache), is_written=False)
        return
    for name in op.outputs:
        if name and name in mapped.caches:
            cache = mapped.caches[name]
            yield Touch(cache.storage, cache.sequence * _position_bytes(cache), is_written=True)


def _position_bytes(cache: CacheRegion) -> int:
    return cache.batch * cache.heads * cache.head_dim * cache.dtype.bytes
