"""Results that may lie where one of their inputs does: whoever reads a part of it last writes the same part.

A residual stream then has one place in memory through all layers of a model, and an element-wise result takes none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from compiler.graph import Operation
from compiler.mapped import MappedGraph, MappedStorage, Region
from compiler.shaping import MULTIPLIER, RESIDUAL

_IN_PLACE_INPUTS: dict[str, Sequence[int]] = {"linear": (RESIDUAL, MULTIPLIER), "rope": (0,), "rms_norm": (0,)}
"""Inputs that each PE reads, row by row or tile by tile, before it writes the same elements of the result."""


@dataclass
class _Use:
    """What operations read and write of a storage, in order: (operation, region)."""

    reads: list[tuple[int, Region]] = field(default_factory=list)
    writes: list[tuple[int, Region]] = field(default_factory=list)


def shared_places(mapped: MappedGraph) -> list[list[MappedStorage]]:
    """Return the storages of activations in groups that may lie at one address, each group in order of time."""
    uses = _uses(mapped)
    group_of: dict[str, list[MappedStorage]] = {}
    groups = []
    for storage in sorted(mapped.storages.values(), key=lambda item: (item.first, item.name)):
        if storage.role in ("constant", "state"):
            continue
        names = _candidates(mapped, uses[storage.name])
        source = next((name for name in names if _may_follow(mapped, uses, name, storage, group_of)), None)
        if source is None:
            groups.append([storage])
            group_of[storage.name] = groups[-1]
        else:
            group_of[source].append(storage)
            group_of[storage.name] = group_of[source]
    return groups


def _uses(mapped: MappedGraph) -> dict[str, _Use]:
    uses = {name: _Use() for name in mapped.storages}
    for index, op in enumerate(mapped.graph.operations):
        if op.kind == "join" or _is_view(mapped, op):
            continue
        for names, kind in ((op.inputs, "reads"), (op.outputs, "writes")):
            for name in names:
                if name and name in mapped.regions and name not in mapped.caches:
                    region = mapped.regions[name]
                    getattr(uses[region.storage], kind).append((index, region))
    return uses


def _is_view(mapped: MappedGraph, op: Operation) -> bool:
    """Tell whether nothing runs for an operation, since the result lies in its input."""
    regions = [mapped.regions.get(name or "") for name in (*op.inputs[:1], *op.outputs[:1])]
    return op.kind in ("reshape", "move") and None not in regions and regions[0].storage == regions[1].storage  # type: ignore[union-attr]


def _candidates(mapped: MappedGraph, use: _Use) -> Iterator[str]:
    """Yield the storages that the first writer of a storage reads at the same place."""
    for index, region in use.writes[:1]:
        op = mapped.graph.operations[index]
        for place in _IN_PLACE_INPUTS.get(op.kind, ()):
            name = op.inputs[place] if place < len(op.inputs) else None
            source = mapped.regions.get(name or "")
            if source is not None and _is_same_place(source, region):
                yield source.storage


def _is_same_place(left: Region, right: Region) -> bool:
    return (left.offset_bytes, left.rows, left.columns, left.pitch_bytes, left.dtype) == (
        right.offset_bytes, right.rows, right.columns, right.pitch_bytes, right.dtype,
    )  # fmt: skip


def _may_follow(
    mapped: MappedGraph,
    uses: dict[str, _Use],
    name: str,
    storage: MappedStorage,
    group_of: dict[str, list[MappedStorage]],
) -> bool:
    """Tell whether a storage may lie where another one does: nobody reads there what it has overwritten."""
    source = mapped.storages[name]
    if source.role != "scratch" or storage.role not in ("scratch", "output") or source.bytes != storage.bytes:
        return False
    group = group_of.get(name)
    if group is None or group[-1].name != name or any(other.last >= storage.first for other in group[:-1]):
        return False
    return all(
        not _overlap(read, write) or index < at or (index == at and _reads_in_place(mapped, at, read, write))
        for index, read in uses[name].reads
        for at, write in uses[storage.name].writes
    )


def _overlap(left: Region, right: Region) -> bool:
    """Tell whether two regions of one place have bytes between their first and last rows in common."""
    ends = [region.offset_bytes + region.rows * region.pitch_bytes for region in (left, right)]
    return left.offset_bytes < ends[1] and right.offset_bytes < ends[0]


def _reads_in_place(mapped: MappedGraph, index: int, read: Region, write: Region) -> bool:
    """Tell whether an operation reads a region only as the input that its result may take the place of."""
    op = mapped.graph.operations[index]
    allowed = [op.inputs[place] for place in _IN_PLACE_INPUTS.get(op.kind, ()) if place < len(op.inputs)]
    others = [name for place, name in enumerate(op.inputs) if place not in _IN_PLACE_INPUTS.get(op.kind, ())]
    storages = [mapped.regions[name].storage for name in others if name and name in mapped.regions]
    return (
        _is_same_place(read, write)
        and read.storage not in storages
        and any(mapped.regions.get(name or "") == read for name in allowed)
    )
