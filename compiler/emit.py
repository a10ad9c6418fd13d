"""Mapped graph with addresses -> program: every operation is lowered by its kernel module, then ports are described."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable
from types import ModuleType

from compiler.graph import EmbeddingBagAttributes, Graph, Operation, Value
from compiler.kinds import COUNTED_KINDS, INDEX_INPUTS, MOVEMENT_KINDS, VIEW_KINDS
from compiler.lowering import Lowering
from compiler.mapped import CacheRegion, MappedGraph, Region
from compiler.shape_inference import int_shape
from isa.affine import Affine, Dim, symbols_of
from isa.errors import UnsupportedError
from isa.program import Entry, Equality, Port, Program, Requirement, Storage

MODULE_BY_KIND = {
    "linear": "linear",
    "rms_norm": "rms_norm",
    "embedding": "embedding",
    "embedding_bag": "embedding_bag",
    "interaction": "interaction",
    "rope": "rope",
    "attention": "attention",
    "cache_append": "cache_append",
    "cache_fill": "cache_fill",
    "quantize": "quantize",
    "requantize": "requantize",
    "move": "move",
    "reshape": "reshape",
    "concat": "concat",
    "pointwise": "pointwise",
    "matmul": "matmul",
    "take": "embedding",
    "count_keys": "count_keys",
}
"""The module in `compiler/kernels` that lowers each kind of operation."""
PLACED_KINDS = ("join",)
"""Kinds that need no kernel: their operands are written in place."""


def emit(mapped: MappedGraph, capacity_ignored: bool = False) -> Program:
    """Return the program; raises UnsupportedError for an operation without a kernel."""
    lowering = Lowering(mapped)
    for op in mapped.graph.operations:
        if not _is_view(mapped, op):
            kernel_module(op).lower(lowering, op)
    graph = mapped.graph
    entry = Entry(
        "main", dict(graph.symbols), tuple(_ports(mapped, graph.inputs)), tuple(_ports(mapped, graph.outputs)),
        tuple(lowering.launches), tuple(_equalities(graph)),
        tuple(_requirements(mapped)),
    )  # fmt: skip
    return Program(
        mapped.machine, tuple(lowering.kernels), tuple(_storages(mapped)), mapped.constants, (entry,), capacity_ignored
    )


def _equalities(graph: Graph) -> Iterable[Equality]:
    """Those over symbols that are left; dims the front end solved for stand in the shapes of ports, checked there."""
    for item in graph.equalities:
        if symbols_of(item.left) | symbols_of(item.right) <= graph.symbols.keys():
            yield Equality(item.left, item.right, item.origin)


def _requirements(mapped: MappedGraph) -> Iterable[Requirement]:
    """What the front end relies on, and for inputs that choose rows of a table or cache, that the rows are there."""
    graph = mapped.graph
    for item in graph.requirements:
        yield Requirement(item.input_name, item.lowest, item.highest, item.reason, (), item.falls)
    limits: dict[str, tuple[int, str]] = {}
    for op in graph.operations:
        for index, table in INDEX_INPUTS.get(op.kind, {}).items():
            indices = op.inputs[index] if index < len(op.inputs) else None
            name = _given(graph, indices, op, MOVEMENT_KINDS) if indices else None
            if name is None:
                continue
            rows, what = _chosen_from(mapped, op, table)
            limit = (rows, f"they choose {what} of '{op.name}'")
            limits[name] = min(limits.get(name, limit), limit)
    for name, (rows, reason) in limits.items():
        yield Requirement(name, 0, rows - 1, reason)
    for op in graph.operations:
        if isinstance(op.attributes, EmbeddingBagAttributes):
            yield from _bag_requirements(graph, op, op.attributes)


def _bag_requirements(graph: Graph, op: Operation, attributes: EmbeddingBagAttributes) -> Iterable[Requirement]:
    """The indices of each table choose rows that it has; tables may share an input."""
    for table, place in enumerate(attributes.tables):
        source, rows = (graph.value(name or "") for name in op.inputs[2 * table : 2 * table + 2])
        # Reshapes keep the order of elements, so that places in the result are places in the input.
        given = _given(graph, source.name, op, ("reshape",))
        (columns, last) = (source.shape[-1], rows.shape[0])
        assert isinstance(columns, int) and isinstance(last, int)
        first = place.first_row * columns + place.first_column
        part = (first, place.row_step * columns + place.column_step, attributes.count, place.hot)
        if given is not None:
            yield Requirement(given, 0, last - 1, f"they choose rows of the table '{rows.name}'", part)


def _chosen_from(mapped: MappedGraph, op: Operation, table: int | None) -> tuple[int, str]:
    """Return how many rows the indices of an operation choose from, and what those are."""
    if table is None:
        return mapped.caches[op.outputs[0] or ""].static_length, "positions of the cache"
    (rows, *_) = int_shape(mapped.graph.value(op.inputs[table] or "").shape)
    return rows, "rows of the table"


def _given(graph: Graph, name: str, reader: Operation, kinds: Collection[str]) -> str | None:
    """Return the input of the model that operations of these kinds bring here; others are not checked before a run.

    None for indices that need no check.
    """
    producers = graph.producers()
    while name in producers and producers[name].kind in kinds and len(producers[name].inputs) == 1:
        name = producers[name].inputs[0] or ""
    if name in producers and producers[name].kind in COUNTED_KINDS:
        return None
    if name not in graph.inputs:
        help = "give the indices as an input of the model, whose range is checked before a run"
        raise UnsupportedError("rows chosen by indices that the model computes", where=reader.name, help=help)
    return name


def kernel_module(op: Operation) -> ModuleType:
    """Return the module that lowers an operation; UnsupportedError lists the kinds that have one."""
    if op.kind not in MODULE_BY_KIND:
        help = f"supported: {', '.join(sorted(MODULE_BY_KIND))}"
        raise UnsupportedError(f"no kernel for '{op.kind}'", where=op.name, help=help)
    return importlib.import_module(f"compiler.kernels.{MODULE_BY_KIND[op.kind]}")


def _is_view(mapped: MappedGraph, op: Operation) -> bool:
    if op.kind in PLACED_KINDS:
        return True
    return op.kind in VIEW_KINDS and mapped.regions[op.outputs[0] or ""].storage != op.outputs[0]


def _storages(mapped: MappedGraph) -> Iterable[Storage]:
    for storage in mapped.storages.values():
        assert storage.space is not None and storage.address is not None
        yield Storage(storage.name, storage.space, storage.address, storage.bytes, storage.role)


def _ports(mapped: MappedGraph, names: Iterable[str]) -> Iterable[Port]:
    for name in names:
        value = mapped.graph.value(name)
        if name in mapped.caches:
            yield _cache_port(value, mapped.caches[name])
        else:
            yield _port(value, mapped.regions[name])


def _cache_port(value: Value, cache: CacheRegion) -> Port:
    of_axis = (cache.batch_bytes, cache.head_bytes, cache.token_bytes, cache.dtype.bytes)
    strides = tuple(of_axis[axis] for axis in cache.axes)
    return Port(value.name, cache.storage, 0, value.shape, strides, cache.dtype.name, value.dtype)


def _port(value: Value, region: Region) -> Port:
    """The last axis is dense; the axes before it count rows in C order, or elements when all lie in one row."""
    size = region.dtype.bytes
    row = region.pitch_bytes
    if region.rows == 1 and len(value.shape) > 1 and not isinstance(value.shape[-1], Affine):
        row = size * value.shape[-1]
    strides = [row] * (len(value.shape) - 1) + [size] * bool(value.shape)
    for axis in range(len(value.shape) - 3, -1, -1):
        strides[axis] = strides[axis + 1] * _rows(value.shape[axis + 1])
    offset = region.offset_bytes
    return Port(value.name, region.storage, offset, value.shape, tuple(strides), region.dtype.name, value.dtype)


def _rows(dim: Dim) -> int:
    assert not isinstance(dim, Affine)
    return int(dim)
