"""Level 3: the mapped graph. Every value has a place, every operation a way to run; addresses come last.

A value is a `Region`: rows and columns of a storage with a row pitch. Views (slices) share the storage of another
value. Keys and values of attention live in a `CacheRegion`, a state tensor [batch, kv head, capacity, head_dim].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from compiler.graph import Graph, Operation
from compiler.linear_mapping import LinearMapping
from compiler.packing import padded_row_bytes
from isa.affine import Dim
from isa.dtypes import Dtype
from isa.machine import Machine
from isa.memory_map import Space
from isa.program import Constant, Role

SCALES, ZERO_POINTS, ROW_SCALES = 4, 5, 6
"""Indices among the inputs of a linear: of its weight, and of rows of int8."""
WEIGHT, BIAS = 1, 2
UP_INPUTS = {WEIGHT: 7, BIAS: 8, SCALES: 9, ZERO_POINTS: 10}
"""Where a gated linear has for its second weight what the first one has there."""


@dataclass(frozen=True, slots=True)
class Region:
    """`rows` x `columns` elements of a storage; padding of a row up to `row_bytes` is zero."""

    storage: str
    offset_bytes: int
    rows: int
    columns: int
    pitch_bytes: int
    dtype: Dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of a row with its padding."""
        return padded_row_bytes(self.columns, self.dtype)


@dataclass(frozen=True, slots=True)
class CacheRegion:
    """Keys or values of one attention: [batch, heads, capacity, padded_head_dim] in `storage`, C order.

    Positions below `past` are there when the program starts; this run writes `past .. past + sequence`.
    Elements beyond `head_dim` are zero.
    """

    storage: str
    batch: int
    sequence: int
    past: Dim
    heads: int
    capacity: int
    head_dim: int
    padded_head_dim: int
    dtype: Dtype
    axes: tuple[int, int, int, int] = (0, 1, 2, 3)
    """Axis k of the port is axis axes[k] of the cache."""

    @property
    def static_length(self) -> int:
        """Positions of a cache whose length is fixed."""
        length = self.past + self.sequence
        assert isinstance(length, int)
        return length

    @property
    def token_bytes(self) -> int:
        """Distance between positions."""
        return self.padded_head_dim * self.dtype.bytes

    @property
    def head_bytes(self) -> int:
        """Distance between heads."""
        return self.capacity * self.token_bytes

    @property
    def batch_bytes(self) -> int:
        """Distance between sequences of the batch."""
        return self.heads * self.head_bytes

    @property
    def bytes(self) -> int:
        """Bytes of the storage."""
        return self.batch * self.batch_bytes


@dataclass(frozen=True, slots=True)
class MappedStorage:
    """Memory for one tensor; it holds data from operation `first` to operation `last` (indices in the graph)."""

    name: str
    bytes: int
    role: Role
    first: int
    last: int
    space: Space | None = None
    address: int | None = None


@dataclass(frozen=True)
class MappedGraph:
    """A graph with a place for each value (`regions`, `caches` by value name) and a choice for each linear.

    `packed` names the storage of the packed constant for (operation name, input index).
    """

    graph: Graph
    machine: Machine
    dtype: Dtype
    regions: Mapping[str, Region]
    caches: Mapping[str, CacheRegion]
    packed: Mapping[tuple[str, int], str]
    storages: Mapping[str, MappedStorage]
    constants: tuple[Constant, ...]
    linears: Mapping[str, LinearMapping] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(mapped: MappedGraph) -> Iterator[str]:
    yield f"mapped {mapped.graph.name} on {mapped.machine.name}, {mapped.dtype.name}"
    for storage in mapped.storages.values():
        place = f" at {storage.space} {storage.address:#x}" if storage.address is not None else ""
        yield f"  storage {storage.name}: {storage.bytes} bytes, {storage.role}, {storage.first}..{storage.last}{place}"
    for index, op in enumerate(mapped.graph.operations):
        yield f"  {index}: {_operation_text(mapped, op)}"


def _operation_text(mapped: MappedGraph, op: Operation) -> str:
    inputs = ", ".join(_place_text(mapped, name) for name in op.inputs)
    outputs = ", ".join(_place_text(mapped, name) for name in op.outputs)
    text = f"{outputs} = {op.kind}({inputs})"
    choice = mapped.linears.get(op.name)
    if choice is None:
        return text
    way = f"{choice.way} swapped" if choice.is_swapped else choice.way
    tile = f"{choice.tile_rows} x {choice.tile_outputs}, K in {choice.chunks} x {choice.chunk_inputs}"
    return f"{text} {way} on {choice.grid_rows} x {choice.grid_columns} PEs, tile {tile}"


def _place_text(mapped: MappedGraph, name: str | None) -> str:
    if name and name in mapped.caches:
        cache = mapped.caches[name]
        return f"{cache.storage}[{cache.batch}, {cache.heads}, {cache.capacity}, {cache.head_dim}]"
    if name and name in mapped.regions:
        region = mapped.regions[name]
        offset = f"+{region.offset_bytes}" if region.offset_bytes else ""
        return f"{region.storage}{offset}[{region.rows}, {region.columns}]"
    return f"%{name}" if name else "none"
