"""SRAM and network against closed-form bounds: no pattern is faster, and none without conflicts 5 % slower."""

from __future__ import annotations

import pytest

from benchmarks.memory_points import POINTS, Point
from isa.machine import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_bounds(point: Point, name: str) -> None:
    """On every preset."""
    machine = preset(name)
    bound = point.bound_cycles(machine)
    assert bound <= point.report(machine).operations[0].cycles <= 1.05 * bound


CHANGES = (
    {"noc.row_link_bytes_per_cycle": 16}, {"noc.column_link_bytes_per_cycle": 8}, {"sram.bytes_per_cycle": 500.0},
    {"noc.topology": "mesh"}, {"noc.topology": "mesh", "noc.cluster_rows": 4, "noc.cluster_columns": 2},
    {"grid.rows": 4, "grid.columns": 2}, {"sram.slices": 4, "sram.banks": 2},
)  # fmt: skip


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_bounds_of_changed_machines(point: Point, changes: dict[str, object]) -> None:
    """Whatever limits: links, slices, the topology, fewer PEs. What hits one slice of a mesh meets conflicts."""
    machine = preset("mtia-2i").with_changes(changes)
    bound, cycles = point.bound_cycles(machine), point.report(machine).operations[0].cycles
    assert bound <= cycles <= 1.05 * bound
