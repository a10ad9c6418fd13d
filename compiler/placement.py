"""Addresses: activations share the SRAM by live range, constants and caches lie in DRAM one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from compiler.in_place import shared_places
from compiler.kernel_builder import round_up
from compiler.mapped import MappedGraph, MappedStorage
from isa.errors import ModelError
from isa.machine import Machine
from isa.memory_map import BASES, Space, interleave_period_bytes


def place(mapped: MappedGraph, ignore_capacity: bool = False) -> MappedGraph:
    """Give every storage a space and an address; raises ModelError with the figures if DRAM is too small.

    Scratch, inputs and outputs that do not fit in SRAM beside what lives with them share the end of DRAM.
    """
    groups = shared_places(mapped)
    placer = min((_placed(mapped, groups, order) for order in _ORDERS), key=_Placer.cost)
    by_name = {storage.name: storage for storage in placer.placed}
    for group in groups:
        together = by_name[group[0].name]
        places = (replace(one, space=together.space, address=together.address) for one in group)
        by_name |= {one.name: one for one in places}
    result = replace(mapped, storages={name: by_name[name] for name in mapped.storages})
    needed, capacity = placer.dram_end, mapped.machine.dram.bytes
    if needed > capacity and not ignore_capacity:
        help = "choose a machine with more memory or a smaller model, or pass --ignore-capacity to time it anyway"
        raise ModelError(f"{mapped.graph.name} needs {_figures(result, needed, capacity)}", help=help)
    verify_placement(result.storages.values(), groups)
    return result


def addressed_bytes(machine: Machine) -> int:
    """Return the SRAM that a program uses itself: all but a step, which caches DRAM, where a step is not all of it."""
    step = machine.sram.cache_step_bytes
    return machine.sram.bytes - (step if step < machine.sram.bytes else 0)


def _lifetime(storage: MappedStorage) -> int:
    return storage.last - storage.first + 1


_Order = Callable[[MappedStorage], int]
_ORDERS: tuple[_Order, ...] = (
    lambda storage: -storage.bytes,
    _lifetime,
    lambda storage: -storage.bytes * _lifetime(storage),
)
"""What comes first gets the lowest place that is free: the large, the short-lived, or what takes most of both."""


def _placed(mapped: MappedGraph, groups: Sequence[Sequence[MappedStorage]], order: _Order) -> _Placer:
    """Place what lies in DRAM in order of the graph, then the others, of which those of a group are one."""
    placer = _Placer(mapped.machine)
    lasting = [storage for storage in mapped.storages.values() if storage.space == "dram"]
    for storage in sorted(lasting, key=lambda storage: (storage.first, storage.name)):
        placer.add(storage)
    others = [replace(group[0], last=max(storage.last for storage in group)) for group in groups]
    for storage in sorted(others, key=lambda storage: (order(storage), storage.first, storage.name)):
        placer.add(storage)
    return placer


def _figures(mapped: MappedGraph, needed: int, capacity: int) -> str:
    in_dram = [storage for storage in mapped.storages.values() if storage.space == "dram"]
    parts = {
        "constants": sum(storage.bytes for storage in in_dram if storage.role == "constant"),
        "caches": sum(storage.bytes for storage in in_dram if storage.role == "state"),
    }
    parts["activations and gaps"] = needed - sum(parts.values())
    gigabytes = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in parts.items())
    return f"{needed / 1e9:.2f} GB of DRAM ({gigabytes}), {mapped.machine.name} has {capacity / 1e9:.2f} GB"


class _Placer:
    """Puts storages with `space` set behind one another in DRAM first, then the others where they fit."""

    def __init__(self, machine: Machine) -> None:
        self.sram_bytes = addressed_bytes(machine)
        self.alignment: dict[Space, int] = {
            "sram": interleave_period_bytes(machine.sram.slices, machine.sram.interleave_bytes),
            "dram": machine.dram_alignment_bytes,
        }
        self.lasting_end, self.dram_end, self.sram_end, self.spilled_bytes = 0, 0, 0, 0
        self.placed: list[MappedStorage] = []

    def cost(self) -> tuple[int, int]:
        """Return what to keep small: bytes that found no room in SRAM, then the SRAM taken, which else caches DRAM."""
        return self.spilled_bytes, self.sram_end

    def add(self, storage: MappedStorage) -> None:
        """Place one storage beside those already placed."""
        if storage.space == "dram":
            offset = round_up(self.lasting_end, self.alignment["dram"])
            self.lasting_end = offset + storage.bytes
            return self._put(storage, "dram", offset)
        offset = self._lowest_offset(storage, "sram", 0)
        if offset + storage.bytes <= self.sram_bytes:
            return self._put(storage, "sram", offset)
        self.spilled_bytes += storage.bytes
        return self._put(storage, "dram", self._lowest_offset(storage, "dram", self.lasting_end))

    def _put(self, storage: MappedStorage, space: Space, offset: int) -> None:
        end = offset + storage.bytes
        if space == "dram":
            self.dram_end = max(self.dram_end, end)
        else:
            self.sram_end = max(self.sram_end, end)
        self.placed.append(replace(storage, space=space, address=BASES[space] + offset))

    def _lowest_offset(self, storage: MappedStorage, space: Space, first: int) -> int:
        """Return the lowest offset from `first` on that no storage alive at the same time covers."""
        base, alignment = BASES[space], self.alignment[space]
        others = sorted(
            (other.address - base, other.address - base + other.bytes)
            for other in self.placed
            if other.space == space and other.address is not None and _live_together(storage, other)
        )
        offset = round_up(first, alignment)
        for start, end in others:
            if offset + storage.bytes <= start:
                break
            offset = max(offset, round_up(end, alignment))
        return offset


def _live_together(left: MappedStorage, right: MappedStorage) -> bool:
    return left.first <= right.last and right.first <= left.last


def verify_placement(storages: Iterable[MappedStorage], groups: Sequence[Sequence[MappedStorage]] = ()) -> None:
    """Raise AssertionError if two storages that are alive together overlap (a fault of this file, not of the model).

    Those of a group may.
    """
    group_of = {storage.name: index for index, group in enumerate(groups) for storage in group}
    ordered = sorted(storages, key=lambda storage: (storage.address or 0, storage.name))
    for index, storage in enumerate(ordered):
        assert storage.address is not None, f"{storage.name} has no address"
        for other in ordered[index + 1 :]:
            if (other.address or 0) >= storage.address + storage.bytes:
                break
            is_shared = storage.name in group_of and group_of[storage.name] == group_of.get(other.name)
            assert is_shared or not _live_together(storage, other), f"{storage.name} and {other.name} overlap"
