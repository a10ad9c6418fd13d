"""Energy figures that follow the size of a machine: nothing for free, nothing for nothing."""

from __future__ import annotations

from typing import Any

import pytest

from isa.errors import MachineError
from isa.machine import PRESETS, preset
from sweeps.area import mega_gates, tile_mm2
from sweeps.scaling import peak_watts, scaled_energy, with_scaled_energy

BASE = preset("mtia-2i")
GROWN: dict[str, dict[str, Any]] = {
    "PEs": {"grid.rows": 16},
    "SRAM": {"sram.bytes": BASE.sram.bytes * 2},
    "local memory": {"pe.local_memory_bytes": BASE.pe.local_memory_bytes * 2},
    "tiles": {"matrix.tiles": 4},
    "links": {"noc.row_link_bytes_per_cycle": 128},
    "channels": {"dram.channels": 32, "dram.bytes_per_second": 409.6e9},
}


@pytest.mark.parametrize(("name", "watts"), [("mtia-v1", 35), ("mtia-2i", 85)])
def test_the_peak_of_everything_is_about_the_published_tdp(name: str, watts: float) -> None:
    """The sum over blocks, of figures that were fitted to it."""
    assert peak_watts(preset(name)) == pytest.approx(watts, rel=0.03)


@pytest.mark.parametrize("name", PRESETS)
def test_a_machine_like_its_base_is_not_changed(name: str) -> None:
    """Not in the last bit."""
    machine = preset(name)
    assert scaled_energy(machine, machine) == {}
    assert with_scaled_energy(machine, machine) is machine


@pytest.mark.parametrize("what", GROWN)
def test_more_hardware_leaks_and_clocks_more(what: str) -> None:
    """Leakage and peak power grow with each resource; uncore with all that is logic."""
    changes = scaled_energy(BASE.with_changes(GROWN[what]), BASE)
    assert changes["energy.leakage_watts"] > BASE.energy.leakage_watts
    assert changes["tdp_watts"] > BASE.tdp_watts
    assert changes["typical_watts"] / changes["tdp_watts"] == pytest.approx(BASE.typical_watts / BASE.tdp_watts)
    if what not in ("SRAM", "local memory"):
        assert changes["energy.uncore_watts"] > BASE.energy.uncore_watts


def test_leakage_by_hand() -> None:
    """256 MiB more SRAM at 5 nm: 18 mW per MB, and what its tags' logic adds, which is nothing."""
    changes = scaled_energy(BASE.with_changes(GROWN["SRAM"]), BASE)
    assert changes["energy.leakage_watts"] == pytest.approx(8.5 + 0.018 * BASE.sram.bytes / 1e6)
    assert "energy.uncore_watts" not in changes


def test_logic_by_hand() -> None:
    """Twice the tiles: logic's part of leakage, three quarters of uncore, and wires between larger tiles."""
    machine = BASE.with_changes(GROWN["tiles"])
    changes, gates = scaled_energy(machine, BASE), mega_gates(machine) / mega_gates(BASE)
    sram = 0.018 * (BASE.sram.bytes + 64 * BASE.pe.local_memory_bytes) / 1e6
    assert changes["energy.leakage_watts"] == pytest.approx(sram + (8.5 - sram) * gates)
    assert changes["energy.uncore_watts"] == pytest.approx(6.0 * (0.25 + 0.75 * gates))
    longer = (tile_mm2(machine) / tile_mm2(BASE)) ** 0.5
    assert changes["energy.noc_per_byte_hop"] == pytest.approx(0.3 + 1.4 * longer)


def test_energy_per_byte_follows_capacity() -> None:
    """Local memory by capacity^0.6; a slice half by its side."""
    local = scaled_energy(BASE.with_changes(GROWN["local memory"]), BASE)
    assert local["energy.local_memory_read_per_byte"] == pytest.approx(0.40 * 2**0.6)
    assert local["energy.local_memory_write_per_byte"] == pytest.approx(0.55 * 2**0.6)
    sram = scaled_energy(BASE.with_changes(GROWN["SRAM"]), BASE)
    assert sram["energy.sram_read_per_byte"] == pytest.approx(1.8 * (0.5 + 0.5 * 2**0.5))
    more_slices = GROWN["SRAM"] | {"sram.slices": 16}
    assert "energy.sram_read_per_byte" not in scaled_energy(BASE.with_changes(more_slices), BASE)


@pytest.mark.parametrize("what", GROWN)
def test_there_and_back_again(what: str) -> None:
    """Seen from the larger machine, the base leaks and wires as it did."""
    larger = with_scaled_energy(BASE.with_changes(GROWN[what]), BASE)
    back = with_scaled_energy(larger.with_changes({path: BASE.value(path) for path in GROWN[what]}), larger)
    for name in ("leakage_watts", "noc_per_byte_hop", "local_memory_read_per_byte"):
        assert getattr(back.energy, name) == pytest.approx(getattr(BASE.energy, name))


def test_what_a_sweep_sets_itself_stays() -> None:
    """A parameter of the sweep wins over the rule."""
    machine = BASE.with_changes(GROWN["PEs"] | {"energy.leakage_watts": 7.0, "tdp_watts": 100.0})
    changes = scaled_energy(machine, BASE)
    assert "energy.leakage_watts" not in changes
    assert "tdp_watts" not in changes
    assert changes["energy.uncore_watts"] > 6


def test_another_process_is_refused() -> None:
    """Its energies are not a matter of size."""
    with pytest.raises(MachineError) as caught:
        scaled_energy(BASE.with_changes({"process_nm": 3}), BASE)
    assert caught.value.where == "process_nm"
