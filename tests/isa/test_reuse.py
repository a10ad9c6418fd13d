"""Results that machines share: found again by what was read, and by nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isa.errors import MachineError
from isa.machine import PRESETS, Machine, machine_fields, preset
from isa.reuse import Kept, MachineView

NUMBERS = [field.path for field in machine_fields() if field.type_name in ("int", "float")]
DERIVED = [name for name, member in vars(Machine).items() if isinstance(member, property)]


def _varied(path: str, factor: int) -> Machine:
    try:
        return preset("mtia-2i").with_changes({path: preset("mtia-2i").value(path) * factor})
    except MachineError:
        return preset("mtia-2i")


MACHINES = st.builds(_varied, st.sampled_from(NUMBERS), st.sampled_from([2, 4]))


@pytest.mark.parametrize("name", PRESETS)
def test_a_view_is_like_its_machine(name: str) -> None:
    """Fields, figures that follow from them, and methods."""
    machine, kept = preset(name), Kept[list[object]](1)
    for path in [*(field.path for field in machine_fields()), *DERIVED]:
        assert kept.result(path, machine, lambda view, path=path: [view.value(path)]) == [machine.value(path)]
    for one in (machine, *map(kept.result, "a", [machine], [lambda view: view])):
        assert one.launch_ns(5, replaces=True) == machine.launch_ns(5, replaces=True)
        assert one.matrix.rate_by_dtype["fp8e4m3"] == machine.matrix.rate_by_dtype["fp8e4m3"]


@given(st.lists(MACHINES, min_size=1, max_size=6), st.lists(st.sampled_from([*NUMBERS, *DERIVED]), max_size=3))
def test_results_are_those_of_the_function(machines: Sequence[Machine], paths: Sequence[str]) -> None:
    """Also of one that reads some fields only because of others; it runs once for equal machines."""
    kept, runs = Kept[list[object]](100), []

    def read(machine: Machine) -> list[object]:
        runs.append(machine)
        return [machine.sram.bytes if machine.grid.rows > 8 else machine.dram.bytes, *map(machine.value, paths)]

    found = [kept.result("key", machine, read) for machine in machines]
    assert len(runs) <= len(set(machines))
    assert found == [*map(read, machines)]


def test_fields_that_are_not_read_do_not_matter() -> None:
    """A machine that has another value there finds the result; one that has another in what was read does not."""
    kept, runs = Kept[int](4), []

    def read(view: Machine) -> int:
        runs.append(view)
        return view.grid.rows * view.grid.columns

    base = preset("mtia-2i")
    for changes in ({}, {"sram.bytes": 1 << 28}, {"grid.rows": 4, "grid.columns": 16}, {"voltage_volts": 1.0}):
        machine = base.with_changes(changes)
        assert kept.result("key", machine, read) == machine.pe_count
    assert len(runs) == 2


@given(MACHINES, MACHINES)
def test_what_is_read_inside_is_read_outside(first: Machine, second: Machine) -> None:
    """Whether the inner result is found or made."""
    outer, inner = Kept[int](8), Kept[int](8)

    def asks(view: Machine) -> int:
        return inner.result("inner", view, lambda machine: machine.pe_count) + view.sram.slices

    for machine in (first, second, first):
        assert outer.result("outer", machine, asks) == machine.pe_count + machine.sram.slices
    outer.clear()
    for machine in (first, second):
        assert outer.result("outer", machine, asks) == machine.pe_count + machine.sram.slices


def test_keys_are_apart_and_the_oldest_goes() -> None:
    """A result is that of its key; of more than so many the one that was not asked for longest is made again."""
    kept, made = Kept[str](2), []

    def result(key: str) -> str:
        return kept.result(key, preset("mtia-2i"), lambda view: made.append(key) or f"{key} of {view.grid.rows}")

    assert [result(key) for key in "abacab"] == [f"{key} of 8" for key in "abacab"]
    assert made == ["a", "b", "c", "b"]


def test_an_error_is_not_kept() -> None:
    """It is raised by each call."""
    kept, calls = Kept[int](2), []

    def fails(view: Machine) -> int:
        calls.append(view.grid.rows)
        raise MachineError("no")

    for _ in range(2):
        with pytest.raises(MachineError):
            kept.result("key", preset("mtia-2i"), fails)
    assert calls == [8, 8]


@pytest.mark.parametrize(
    "use", [hash, lambda view: view == view, lambda view: view.model_dump(), lambda view: {view.grid}]
)
def test_a_view_does_nothing_that_would_read_all(use: Any) -> None:
    """A use that could not be noted is an error."""
    with pytest.raises((TypeError, AttributeError)):
        Kept[object](1).result("key", preset("mtia-2i"), use)
    assert isinstance(MachineView(preset("mtia-2i"), "", {}).grid, MachineView)
