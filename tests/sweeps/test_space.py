"""The space of a sweep: what choices mean, in which order they come, and what a machine's digest depends on."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isa.errors import MachineError
from isa.machine import Machine, preset
from sweeps.expressions import Expression, ExpressionError
from sweeps.space import Parameter, assign, digest_of, grid, grid_size, machine_with, own_value, plain

BASE = preset("mtia-2i")
MESH = Parameter("noc.topology", ("crossbar", "mesh"))
HOPS = Parameter("noc.hop_latency_cycles", (2, 4, 8), when=Expression("noc.topology == 'mesh'"))
PES = Parameter(
    "side", (4, 8), (("grid.rows", Expression("side")), ("grid.columns", Expression("base.pe_count / side * 1.0")))
)


def test_linked_fields_are_set_by_expressions() -> None:
    """Whole floats become whole numbers where the field is one."""
    assignment = assign(BASE, (PES,), (0,))
    assert dict(assignment.changes) == {"grid.rows": 4, "grid.columns": 16}
    machine = machine_with(BASE, assignment.changes, scale_energy=False)
    assert (machine.grid.rows, machine.grid.columns, machine.pe_count) == (4, 16, 64)


def test_later_parameters_see_earlier_ones() -> None:
    """In `when` and in `set`; what is not active is not set."""
    assert dict(assign(BASE, (MESH, HOPS), (0, 2)).values) == {"noc.topology": "crossbar"}
    assert dict(assign(BASE, (MESH, HOPS), (1, 2)).changes) == {"noc.topology": "mesh", "noc.hop_latency_cycles": 8}


def test_what_the_base_machine_has_of_a_parameter() -> None:
    """Its field, its clock, or the value that sets all fields to what they are, but for rounding; else nothing."""
    assert own_value(BASE, Parameter("sram.bytes", (1,)), {}) == BASE.sram.bytes
    assert own_value(BASE, Parameter("frequency", (1100,)), {}) == BASE.frequency_mhz
    assert own_value(BASE, PES, {}) == 8
    rate = Expression("base.dram.bytes_per_second / base.dram.channels * channels * (1 + 1e-15)")
    channels = Parameter("channels", (12, 16, 24), (("dram.channels", Expression("channels")),
                                                    ("dram.bytes_per_second", rate)))  # fmt: skip
    assert own_value(BASE, channels, {}) == BASE.dram.channels == 16
    later = Parameter("ratio", (1, 2), (("grid.rows", Expression("side * ratio")),))
    assert (own_value(BASE, later, {"side": 4}), own_value(BASE, later, {})) == (2, None)
    assert own_value(BASE, Parameter("kind", ("a", "b"), (("dram.kind", Expression("kind")),)), {}) is None


def test_the_grid_has_every_active_choice_once_in_order() -> None:
    """A parameter that is not active does not multiply the points."""
    assert list(grid(BASE, (MESH, HOPS))) == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert list(grid(BASE, (PES, MESH))) == list(itertools.product(range(2), range(2)))
    assert grid_size(BASE, (MESH, HOPS)) == grid_size(BASE, (PES, MESH)) == 4


def test_the_clock_takes_its_voltage_along() -> None:
    """`frequency` is the clock with the voltage that dvfs has there; outside of its points there is no machine."""
    machine = machine_with(BASE, {"frequency": 1100, "sram.bytes": 2**27}, scale_energy=False)
    assert (machine.frequency_mhz, machine.voltage_volts, machine.sram.bytes) == (1100, 0.75, 2**27)
    with pytest.raises(MachineError, match="cannot run at 2000 MHz"):
        machine_with(BASE, {"frequency": 2000}, scale_energy=False)


def test_a_smaller_chip_leaks_less() -> None:
    """Unless the sweep says that energies stay as they are."""
    changes = {"sram.bytes": 2**26}
    assert machine_with(BASE, changes, scale_energy=True).energy.leakage_watts < BASE.energy.leakage_watts
    assert machine_with(BASE, changes, scale_energy=False).energy.leakage_watts == BASE.energy.leakage_watts


def test_values_that_make_no_number_are_told() -> None:
    """An expression without a value is an error of the point."""
    broken = Parameter("side", (0,), (("grid.rows", Expression("8 / side")),))
    with pytest.raises(ExpressionError, match="division by zero"):
        assign(BASE, (broken,), (0,))
    assert list(grid(BASE, (broken,))) == [(0,)]


@given(st.sampled_from([2**25, 2**26, 2**28]), st.floats(1e9, 1e12))
def test_a_digest_tells_machines_apart(sram: int, bandwidth: float) -> None:
    """And survives plain values, which is how machines reach workers and stores."""
    machine = machine_with(BASE, {"sram.bytes": sram, "dram.bytes_per_second": bandwidth}, scale_energy=False)
    assert digest_of(Machine.from_dict(plain(machine))) == digest_of(machine)
    assert (digest_of(machine) == digest_of(BASE)) == (machine == BASE)
