"""Ways to spread a product of computed matrices that small machines would not choose, against the exact product."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import compiler.kernels.product
from compiler.linear_cost import cycles
from compiler.linear_mapping import LinearMapping
from compiler.linear_search import candidates
from compiler.linear_shape import LinearShape
from isa.machine import Machine
from simulator import Simulator
from tests.compiler.graphs import compile_graph, small_machine
from tests.compiler.test_kernels_product import Case, check

CHANGES = {"pe.local_memory_bytes": 98304, "accumulator.banks": 4}


def _choose(monkeypatch: pytest.MonkeyPatch, fits: Callable[[LinearMapping], bool]) -> list[LinearMapping]:
    """Let the cheapest mapping that fits be chosen, one with three trips in each loop; return those chosen."""
    chosen: list[LinearMapping] = []

    def choose(shape: LinearShape, machine: Machine) -> LinearMapping:
        found = (
            mapping for mapping in candidates(shape, machine)
            if fits(mapping) and min(mapping.chunks, mapping.output_rounds, mapping.row_rounds) >= 3
        )  # fmt: skip
        chosen.append(min(found, key=lambda mapping: cycles(mapping, machine)))
        return chosen[-1]

    monkeypatch.setattr(compiler.kernels.product, "choose_linear", choose)
    monkeypatch.setattr("compiler.linear_search.multiplies_long", lambda mapping, machine: True)
    return chosen


def _check(case: Case, machine: Machine) -> None:
    """Compare values, and the MACs that are stated with those that are counted."""
    check(case, machine)
    program = compile_graph(case.graph()[0], machine, case.dtype)
    (launch,) = program.entries[0].launches
    assert Simulator(program).profile().issued_macs == launch.issued_macs >= launch.useful_macs


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("way", ["streamed", "turned"])
@pytest.mark.parametrize("is_turned", [True, False])
@pytest.mark.parametrize("outputs", [700, 704])
def test_smaller_tiles_in_the_last_round(
    outputs: int, is_turned: bool, way: str, is_swapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles of the last round are smaller; the last of them is ragged or a whole one, and one may be padding."""
    chosen = _choose(monkeypatch, lambda one: one.is_uneven and (one.way, one.is_swapped) == (way, is_swapped))
    _check(Case((601, 300), (300, outputs), is_turned), small_machine(**CHANGES))
    assert chosen and all(0 < one.last_tile_outputs < one.tile_outputs for one in chosen)
