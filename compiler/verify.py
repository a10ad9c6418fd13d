"""Checks of every level, run after each pass. A failure here is a fault of the compiler: AssertionError."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.graph import Graph
from compiler.in_place import shared_places
from compiler.mapped import MappedGraph, Region
from compiler.placement import verify_placement

if TYPE_CHECKING:
    from isa.program import Program


def verify(level: Graph | MappedGraph | Program) -> None:
    """Raise AssertionError for the first fault of a graph or mapped graph, ProgramError for a program."""
    if isinstance(level, Graph):
        verify_graph(level)
    elif isinstance(level, MappedGraph):
        verify_mapped(level)
    else:
        from isa.program_checks import verify_program

        verify_program(level)


def verify_graph(graph: Graph) -> None:
    """Every value is made once, before its use; names of operations are unique; outputs exist."""
    known = {*graph.inputs, *graph.constants}
    names: set[str] = set()
    for op in graph.operations:
        assert op.name not in names, f"two operations are named {op.name}"
        names.add(op.name)
        for name in op.inputs:
            assert not name or name in known, f"{op.name} reads {name} before it is made"
        for name in op.outputs:
            assert not name or name not in known, f"{op.name} makes {name} again"
            assert not name or op.kind == "onnx" or name in graph.values, f"{op.name} makes {name}, which has no type"
        known.update(name for name in op.outputs if name)
    for name in graph.outputs:
        assert name in known, f"the output {name} is never made"


def verify_mapped(mapped: MappedGraph) -> None:
    """Regions and caches lie inside their storages; placed storages that live together do not overlap."""
    for name, region in mapped.regions.items():
        end = _end(region)
        size = mapped.storages[region.storage].bytes
        assert end <= size, f"{name} ends at byte {end} of {region.storage}, which has {size}"
    for name, cache in mapped.caches.items():
        assert cache.bytes <= mapped.storages[cache.storage].bytes, f"{name} does not fit its cache"
    if all(storage.address is not None for storage in mapped.storages.values()):
        verify_placement(mapped.storages.values(), shared_places(mapped))


def _end(region: Region) -> int:
    if not region.rows:
        return region.offset_bytes
    return region.offset_bytes + (region.rows - 1) * region.pitch_bytes + region.row_bytes
