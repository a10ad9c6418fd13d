"""Ways to spread a product of computed matrices that small machines would not choose, against the exact product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

import compiler.mapping
from compiler.linear_cost import cycles
from compiler.linear_mapping import LinearMapping
from compiler.linear_search import candidates
from compiler.linear_shape import LinearShape
from isa.machine import Machine, preset
from simulator import Simulator
from tests.compiler.graphs import compile_graph, small_machine
from tests.compiler.test_kernels_product import Case, check, mapping_of

CHANGES = {"pe.local_memory_bytes": 98304, "accumulator.banks": 4}


def _choose(monkeypatch: pytest.MonkeyPatch, fits: Callable[[LinearMapping], bool]) -> list[LinearMapping]:
    """Let the cheapest mapping that fits be chosen, one with three trips in each loop; return those chosen."""
    return _choose_any(monkeypatch, lambda one: fits(one) and min(one.chunks, one.output_rounds, one.row_rounds) >= 3)


def _choose_any(monkeypatch: pytest.MonkeyPatch, fits: Callable[[LinearMapping], bool]) -> list[LinearMapping]:
    """Let the cheapest mapping that fits be chosen; return those chosen."""
    chosen: list[LinearMapping] = []

    def choose(shape: LinearShape, machine: Machine) -> LinearMapping:
        found = (mapping for mapping in candidates(shape, machine) if fits(mapping))
        chosen.append(min(found, key=lambda mapping: cycles(mapping, machine)))
        return chosen[-1]

    monkeypatch.setattr(compiler.mapping, "choose_linear", choose)
    monkeypatch.setattr("compiler.linear_search.multiplies_long", lambda mapping, machine: True)
    return chosen


def _check(case: Case, machine: Machine) -> None:
    """Compare values, and the MACs that are stated with those that are counted."""
    check(case, machine)
    program = compile_graph(case.graph()[0], machine, case.dtype)
    (launch,) = program.entries[0].launches
    assert Simulator(program).profile().issued_macs == launch.parts[0].issued_macs >= launch.useful_macs


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("way", ["streamed", "turned"])
@pytest.mark.parametrize("is_turned", [True, False])
@pytest.mark.parametrize("missing", [0, 5])
def test_smaller_tiles_in_the_last_round(
    missing: int, is_turned: bool, way: str, is_swapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles of the last round are smaller; the last of them is ragged or a whole one, and one may be padding."""
    chosen = _choose(monkeypatch, lambda one: one.is_uneven and (one.way, one.is_swapped) == (way, is_swapped))
    outputs = (480 if way == "streamed" else 320) - missing
    _check(Case((201, 150), (150, outputs), is_turned), small_machine(**CHANGES))
    assert chosen and all(0 < one.last_tile_outputs < one.tile_outputs for one in chosen)


@pytest.mark.parametrize(("rows", "outputs"), [(128, 128), (101, 96), (128, 90)])
@pytest.mark.parametrize("way", ["streamed", "turned"])
@pytest.mark.parametrize("is_turned", [True, False])
@pytest.mark.parametrize(("inputs", "first", "chunks"), [(320, 128, 5), (301, 96, 5), (200, 32, 4)])
def test_a_single_tile_begins_with_a_short_chunk(
    inputs: int, first: int, chunks: int, is_turned: bool, way: str, rows: int, outputs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Chunks behind the first one are whole; tiles are whole, or ragged at either edge; K ends within a block."""
    wanted = (way, first, chunks, False)
    chosen = _choose_any(
        monkeypatch, lambda one: (one.way, one.first_chunk_bytes, one.chunks, one.is_swapped) == wanted
    )
    _check(Case((rows, inputs), (inputs, outputs), is_turned), small_machine(**CHANGES))
    assert chosen and all(one.stores_banks and one.tile_rows > one.block_rows for one in chosen)


@pytest.mark.parametrize("way", ["streamed", "turned"])
@pytest.mark.parametrize("is_turned", [True, False])
@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
def test_a_single_tile_with_operands_swapped(
    machine: str, is_turned: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are turned on their way out; there are several commands for a chunk on the older machine."""
    chosen = _choose_any(
        monkeypatch, lambda one: one.is_swapped and one.way == way and one.first_chunk_bytes > 0 and one.chunks >= 5
    )
    _check(Case((70, 300), (300, 128), is_turned), small_machine(machine, **CHANGES))
    assert chosen


@pytest.mark.parametrize(("outputs", "tile"), [(32, 6), (64, 11), (96, 16)])
@pytest.mark.parametrize("is_turned", [True, False])
def test_tiles_that_are_narrower_than_a_block(
    is_turned: bool, outputs: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one may have a few columns only; it reads its own."""
    chosen = _choose_any(monkeypatch, lambda one: (one.way, one.tile_outputs) == ("streamed", tile))
    _check(Case((40, 300), (300, outputs), is_turned), small_machine(**{**CHANGES, "grid.columns": 6}))
    assert chosen


def test_tiles_of_single_rounds_are_even() -> None:
    """512 outputs over 12 rows of PEs are 43 each, in two blocks of about the same width, which are turned apart."""
    mapping = mapping_of(Case((512, 512), (512, 512)), preset("mtia-300"))
    assert mapping.is_single and mapping.output_parts * mapping.tile_outputs - 512 < mapping.output_parts
    assert mapping.column_blocks == ((0, 22), (22, 21))


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize(
    ("way", "k_parts", "grid"),
    [
        ("streamed", 2, (4, 2)),
        ("streamed", 3, (3, 2)),
        ("streamed", 4, (4, 2)),
        ("turned", 2, (2, 3)),
        ("turned", 3, (2, 3)),
    ],
)
@pytest.mark.parametrize("is_turned", [True, False])
def test_neighbours_split_k(
    is_turned: bool, way: str, k_parts: int, grid: tuple[int, int], is_swapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums pass along a column or a row of PEs, from either side to the owner; parts of K end within a block."""
    monkeypatch.setattr("compiler.linear_tilings.MOST_BLOCKS", 1000)
    chosen = _choose(monkeypatch, lambda one: (one.k_parts, one.way, one.is_swapped) == (k_parts, way, is_swapped))
    chip = small_machine(**{**CHANGES, "grid.rows": grid[0], "grid.columns": grid[1]})
    _check(Case((170, 410), (410, 170), is_turned), chip)
    assert chosen and all(one.pe_count == grid[0] * grid[1] or one.row_parts == 1 for one in chosen)


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize("is_turned", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 5000, 40), (33, 3000, 64), (100, 2000, 64)])
def test_few_results_of_long_sums_split_k(rows: int, inputs: int, outputs: int, is_turned: bool, machine: str) -> None:
    """The search finds it by itself; where it cannot add on the way it does without."""
    case = Case((rows, inputs), (inputs, outputs), is_turned)
    chip = small_machine(machine, **{"grid.rows": 4})
    assert mapping_of(case, chip).k_parts > 1
    _check(case, chip)
    alone = small_machine(machine, **{"grid.rows": 4, "accumulator.reduction_network": False})
    assert mapping_of(case, alone).k_parts == 1


def test_owners_lie_in_the_middle() -> None:
    """The blocks of rows of a tile are dealt to the parts of K; a single one goes to the middle of the chain."""
    mapping = mapping_of(Case((33, 3000), (3000, 64)), small_machine())
    one = replace(mapping, k_part_bytes=mapping.k_bytes // 3 // 32 * 32 + 32, tile_rows=32)
    assert one.k_parts == 3 and one.owners == (1,)
    assert replace(one, tile_rows=96).owners == (0, 1, 2)
    assert replace(one, tile_rows=64).owners == (0, 2)


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize(("way", "shares", "grid"), [("streamed", 3, (2, 3)), ("turned", 2, (4, 3))])
@pytest.mark.parametrize("is_turned", [True, False])
def test_neighbours_share_outputs_and_split_rows(
    is_turned: bool, way: str, shares: int, grid: tuple[int, int], is_swapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grid works as one of another shape; rows of x are read by each PE for itself."""
    monkeypatch.setattr("compiler.linear_tilings.LEAST_GAIN", -1000)
    chosen = _choose(monkeypatch, lambda one: (one.row_shares, one.way, one.is_swapped) == (shares, way, is_swapped))
    chip = small_machine(**{**CHANGES, "grid.rows": grid[0], "grid.columns": grid[1]})
    _check(Case((520, 150), (150, 170), is_turned), chip)
    assert chosen and all(one.pe_count == grid[0] * grid[1] for one in chosen)


def test_uneven_grids_share_outputs() -> None:
    """The search finds it by itself: 1024 outputs are 32 blocks, which 12 and 6 do not divide, but 4 does."""
    mapping = mapping_of(Case((1024, 1024), (1024, 1024)), preset("mtia-300"))
    assert mapping.row_shares > 1 and mapping.output_parts in (1, 2, 4)
