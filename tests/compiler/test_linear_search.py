"""The search for mappings leaves out choices by a bound; it must find what a look at all of them finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.linear_cost import cycles, least_cycles_by_chunks, matrix_cycles, share_of_conflicts
from compiler.linear_mapping import LinearMapping
from compiler.linear_search import (
    LARGEST_SHARE,
    ROOM_ERROR,
    ROUNDING,
    candidates,
    choose_linear,
    ranked_mappings,
)
from compiler.linear_shape import LinearShape, PackedWeight
from isa.dtypes import FP16, INT4, INT8
from isa.errors import UnsupportedError
from isa.machine import Machine, preset

SIZES = [(1, 1000, 96), (33, 256, 1000), (200, 1024, 512)]
CHANGES = [
    ("mtia-2i", {}),
    ("mtia-2i", {"grid.rows": 5, "grid.columns": 9, "pe.local_memory_bytes": 160 << 10, "dram.bytes_per_second": 3e12}),
    ("mtia-v1", {}),
    ("mtia-300", {"dma.broadcast_reads": False}),
]
VARIATIONS: list[dict[str, object]] = [
    {},
    {"grid.rows": 12, "grid.columns": 6, "dram.bytes_per_second": 1e11},
    {"pe.command_queue_depth": 4, "sram.bytes_per_cycle": 300.0, "frequency_mhz": 1100},
    {"dram.channels": 8, "pe.local_memory_bytes": 256 << 10},
]


def _shapes(rows: int, inputs: int, outputs: int) -> list[LinearShape]:
    """Return linears of a size: plain, gated, multiplied, with expanded weights, scaled, with a computed operand."""
    plain = (rows, inputs, outputs, FP16, FP16)
    return [
        LinearShape(*plain, has_bias=True, has_residual=False),
        LinearShape(*plain, has_bias=False, has_residual=False, gate="silu"),
        LinearShape(*plain, has_bias=False, has_residual=True, packed=PackedWeight(INT4, 32, True)),
        LinearShape(*plain, has_bias=False, has_residual=False, packed=PackedWeight(INT8, None, False), gate="silu"),
        LinearShape(rows, inputs, outputs, INT8, FP16, has_bias=False, has_residual=False, rounded_from=FP16),
        LinearShape(*plain, has_bias=False, has_residual=False, factor="rows"),
        LinearShape(*plain, has_bias=False, has_residual=False, factor="columns"),
        LinearShape(*plain, has_bias=True, has_residual=True, has_multiplier=True),
    ]


@pytest.mark.parametrize(("name", "changes"), CHANGES)
def test_the_best_mapping_is_the_first_of_all(name: str, changes: dict[str, object]) -> None:
    """Bounds leave out nothing that could come first, and ties are broken alike."""
    machine: Machine = preset(name).with_changes(changes)
    for shape in itertools.chain.from_iterable(_shapes(*size) for size in SIZES):
        _check(shape, machine)


@given(
    st.sampled_from(range(8)),
    st.integers(1, 700),
    st.integers(1, 64),
    st.integers(1, 1500),
    st.sampled_from(CHANGES),
    st.sampled_from(VARIATIONS),
)
@settings(max_examples=25, deadline=None)
def test_so_it_is_for_other_sizes_and_machines(
    kind: int, rows: int, groups: int, outputs: int, base: tuple[str, dict[str, object]], changes: dict[str, object]
) -> None:
    """And a bound is none of a single mapping only: it holds for all."""
    name, first = base
    machine: Machine = preset(name).with_changes(first | changes)
    shape = _shapes(rows, 32 * groups, outputs)[kind]
    if machine.peak_macs_per_cycle(shape.dtype.name):
        _check(shape, machine)
        for mapping in candidates(shape, machine):
            products = matrix_cycles(mapping, machine)
            least = least_cycles_by_chunks(mapping, machine, products, mapping.expansions)
            share = share_of_conflicts(mapping, machine)
            length = np.array(mapping.chunk_bytes)
            assert least(length, 1.0) <= least(length, share) <= cycles(mapping, machine) * (1 + ROUNDING), mapping


@pytest.mark.parametrize(("machine", "size"), [("mtia-300", (128, 2048, 128256)), ("hbm-concept", (512, 4096, 4096))])
def test_large_tiles_come_in_shorter_chunks(machine: str, size: tuple[int, int, int]) -> None:
    """One of the cheapest estimates, but with room beside it, though the very cheapest takes nearly all."""
    shape, most = LinearShape(*size, FP16, FP16, False, False), LARGEST_SHARE * preset(machine).pe.local_memory_bytes
    chosen, cheapest = choose_linear(shape, preset(machine)), _cheapest(shape, preset(machine))
    assert chosen.local_bytes <= most < cheapest.local_bytes
    assert chosen.chunks > cheapest.chunks and chosen.weight_slots >= cheapest.weight_slots
    estimates = [cycles(mapping, preset(machine)) for mapping in (chosen, cheapest)]
    assert estimates[1] < estimates[0] <= estimates[1] * (1 + ROOM_ERROR)


def _cheapest(shape: LinearShape, machine: Machine) -> LinearMapping:
    """Return the mapping with the lowest estimate, of those with the most slots."""
    found = list(candidates(shape, machine))
    slots = max(mapping.weight_slots for mapping in found)
    return min((item for item in found if item.weight_slots == slots), key=lambda item: cycles(item, machine))


def _check(shape: LinearShape, machine: Machine) -> None:
    if not machine.peak_macs_per_cycle(shape.dtype.name):
        return
    try:
        expected = ranked_mappings(shape, machine)[0]
    except UnsupportedError:
        with pytest.raises(UnsupportedError):
            choose_linear(shape, machine)
    else:
        assert choose_linear(shape, machine) == expected
