"""The machine description: presets and their sources, derived figures, digests, files, and errors that tell all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import DataObject, data, floats, integers, lists
from pydantic import ValidationError

from isa.errors import MachineError
from isa.file_problems import key_lines
from isa.machine import PRESETS, Machine, load_machine, machine_fields, preset, preset_path
from isa.machine_document import machine_document, preset_sources
from isa.network import Pattern, link_cycles

ROOT = Path(__file__).resolve().parents[2]


def test_the_shipped_presets() -> None:
    """The chips exist under their names, and what is no published chip says so."""
    assert PRESETS == ("hbm-concept", "mtia-2i", "mtia-300", "mtia-400", "mtia-450", "mtia-500", "mtia-v1")
    assert all(preset(name).name == name for name in PRESETS)
    published = {name for name in PRESETS if not preset(name).projected}
    assert published == {"mtia-2i", "mtia-300", "mtia-v1"}


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_of_a_preset_has_its_source(name: str) -> None:
    """No number without a source comment on its line."""
    text = preset_path(name).read_text()
    keys = [path for path, line in key_lines(text).items() if "=" in text.splitlines()[line - 1]]
    assert sorted(keys) == sorted(field.path for field in machine_fields())
    assert [path for path in keys if len(preset_sources(name).get(path, "")) < 7] == []


@pytest.mark.parametrize("name", PRESETS)
def test_a_machine_survives_toml_and_plain_values(name: str) -> None:
    """Writing and reading gives an equal machine with equal digests."""
    machine = preset(name)
    assert Machine.from_toml(machine.to_toml()) == machine
    assert Machine.from_dict(machine.to_dict()) == machine
    plain = json.loads(json.dumps(machine.to_dict()))
    for other in (Machine.from_toml(machine.to_toml()), Machine.from_dict(plain)):
        assert other == machine and hash(other) == hash(machine)
        assert (other.code_digest, other.timing_digest) == (machine.code_digest, machine.timing_digest)


def test_the_document_is_current() -> None:
    """docs/machine.md is what the classes and presets say; renew with `python -m isa.machine_document`."""
    assert (ROOT / "docs" / "machine.md").read_text() == machine_document()


@pytest.mark.parametrize(
    ("name", "dtype", "tera_operations"),
    [
        ("mtia-v1", "int8", 104.86),
        ("mtia-v1", "fp16", 52.43),
        ("mtia-2i", "int8", 353.9),
        ("mtia-2i", "bf16", 176.9),
        ("mtia-2i", "fp32", 5.53),
        ("hbm-concept", "int8", 707.8),
        ("mtia-300", "fp8", 1120.7),
        ("mtia-300", "bf16", 560.3),
        ("mtia-300", "int8", 0.0),
    ],
)
def test_peak_rates_are_the_published_ones(name: str, dtype: str, tera_operations: float) -> None:
    """The geometry reproduces the published peaks (v1: its geometric peak, 2.4 % above the rounded published one)."""
    assert 2 * preset(name).peak_macs_per_second(dtype) / 1e12 == pytest.approx(tera_operations, rel=1e-3, abs=0)


@pytest.mark.parametrize(
    ("name", "dtype", "tera_operations"),
    [("mtia-2i", "int8", 707.8), ("mtia-2i", "fp16", 353.9), ("mtia-2i", "fp32", 5.53), ("mtia-300", "fp8", 1120.7)],
)
def test_sparse_peaks_are_twice_the_dense_ones_where_there_is_use_for_it(
    name: str, dtype: str, tera_operations: float
) -> None:
    """2i: published 708 and 354; not in vector lanes, and not on a chip without `matrix.sparsity_2_4`."""
    assert 2 * preset(name).sparse_peak_macs_per_second(dtype) / 1e12 == pytest.approx(tera_operations, rel=1e-3)


def test_sparsity_needs_blocks_of_whole_groups() -> None:
    with pytest.raises(MachineError, match=r"matrix.sparsity_2_4: needs block_k_bytes of 16 or more"):
        preset("mtia-2i").with_changes({"matrix.block_k_bytes": 8})
    preset("mtia-2i").with_changes({"matrix.block_k_bytes": 8, "matrix.sparsity_2_4": False})


def test_derived_figures_of_the_2i() -> None:
    """Bandwidths, clock and sizes follow from the fields."""
    machine = preset("mtia-2i")
    assert machine.pe_count == 64
    assert machine.dram_deliverable_bytes_per_second == pytest.approx(204.8e9 * (1 - 330 / 3906) * 0.87)
    assert machine.dram_bytes_per_cycle == pytest.approx(120.8, rel=1e-3)
    assert machine.sram_bytes_per_second == pytest.approx(2.7e12)
    assert machine.local_memory_bytes_per_second == pytest.approx(1.0e12, rel=1e-3)
    assert machine.peak_simd_elements_per_second * 2 == pytest.approx(5.5e12, rel=0.01)
    assert machine.total_local_memory_bytes == 24 << 20
    assert machine.cycle_ns * machine.cycles_per_second == pytest.approx(1e9)


def test_derived_figures_of_the_300() -> None:
    """The published bandwidths and sizes; HBM3E is 6 x 1024 bits x 8.0 Gb/s."""
    machine = preset("mtia-300")
    assert machine.pe_count == 72
    assert machine.local_memory_bytes_per_second == pytest.approx(1.9e12)
    assert machine.sram_bytes_per_second == pytest.approx(11.4e12)
    assert machine.dram.bytes_per_second == pytest.approx(6.1e12, rel=0.01)
    assert (machine.sram.bytes, machine.dram.bytes) == (192 << 20, 216 << 30)
    assert machine.peak_simd_elements_per_second * 2 == pytest.approx(35.0e12, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "petaflops", "terabytes_per_second", "gigabytes", "watts"),
    [("mtia-400", 6.0, 9.2, 288, 1200), ("mtia-450", 7.0, 18.4, 288, 1400), ("mtia-500", 10.0, 27.6, 384, 1700)],
)
def test_roadmap_figures(
    name: str, petaflops: float, terabytes_per_second: float, gigabytes: int, watts: float
) -> None:
    """Peaks by geometry within 1 %, BF16 half of FP8; memory and power as printed."""
    machine = preset(name)
    assert 2 * machine.peak_macs_per_second("fp8") / 1e15 == pytest.approx(petaflops, rel=0.01)
    assert 2 * machine.peak_macs_per_second("bf16") / 1e15 == pytest.approx(petaflops / 2, rel=0.01)
    assert machine.dram.bytes_per_second == terabytes_per_second * 1e12
    assert (machine.dram.bytes >> 30, machine.tdp_watts) == (gigabytes, watts)


@pytest.mark.parametrize("name", PRESETS)
def test_links_carry_what_the_shared_memories_give(name: str) -> None:
    """Uniform reads at the bandwidth of SRAM, and at that of DRAM, fit the busiest link; ports are loaded equally."""
    machine = preset(name)
    dram = machine.dram.bytes_per_second / machine.cycles_per_second
    for units, needed in ((machine.sram.slices, machine.sram.bytes_per_cycle), (machine.dram.channels, dram)):
        pattern = Pattern(machine.grid.rows, machine.grid.columns, "none", units)
        assert machine.pe_count / max(link_cycles(machine, pattern)) >= needed
    assert machine.sram.slices % machine.network.ports == machine.dram.channels % machine.network.ports == 0


def test_rates_per_dtype_answer_by_name() -> None:
    """Both fp8 formats share one rate; a dtype the engine does not know is a KeyError or the default."""
    rates = preset("mtia-2i").matrix.rate_by_dtype
    assert rates["fp8e4m3"] == rates["fp8e5m2"] == rates.fp8
    assert rates.get("int64") == 0.0
    with pytest.raises(KeyError):
        rates["int64"]


def test_every_field_is_documented() -> None:
    """Every number has a meaning and says what it shapes."""
    for field in machine_fields():
        assert field.description, field.path
        assert field.shapes in ("code", "time", "label")


@pytest.mark.parametrize("field", machine_fields(), ids=lambda field: field.path)
def test_each_field_moves_exactly_its_digest(field) -> None:
    """A changed field changes the digest of what it shapes, and no other."""
    machine = preset("mtia-2i")
    other = machine.with_changes({field.path: _another_value(machine.value(field.path), field.path)})
    assert (other.code_digest != machine.code_digest) == (field.shapes == "code")
    assert (other.timing_digest != machine.timing_digest) == (field.shapes == "time")


def _another_value(value: object, path: str) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple) and path.startswith("energy_uncertainty."):
        return (value[0] / 2, value[1] * 2)
    if isinstance(value, tuple):
        return tuple(2 * number for number in value)
    if isinstance(value, str):
        others = {"noc.topology": "mesh", "dram_timing.refresh": "per_bank"}
        return others.get(path, f"{value} changed")
    if path in (
        "pe.registers",
        "matrix.block_rows",
        "simd.lut_elements_per_cycle",
        "simd.multiply_adds_per_cycle",
        "sram.banks",
        "sram.bank_interleave_bytes",
        "sram.cache_line_bytes",
    ):
        return value // 2 if isinstance(value, int) else value / 2
    if path in ("dram.ecc_efficiency", "typical_watts"):
        return value / 2
    return value * 2 if value else type(value)(1)


def test_machines_are_values() -> None:
    """Frozen, hashable and equal by content; a change makes a new one."""
    machine = preset("mtia-2i")
    changed = machine.with_changes({"pe.local_memory_bytes": 524288})
    assert changed.pe.local_memory_bytes == 524288
    assert machine.pe.local_memory_bytes == 393216
    assert hash(changed) != hash(machine)
    assert changed.with_changes({"pe.local_memory_bytes": 393216}) == machine
    with pytest.raises(ValidationError):
        machine.grid.rows = 4  # type: ignore[misc]


@pytest.mark.parametrize("name", PRESETS)
def test_at_its_own_clock_a_preset_is_itself(name: str) -> None:
    """The clock and voltage of each preset are one of its points, and its energies hold there."""
    machine = preset(name)
    assert machine.at_frequency(machine.frequency_mhz) == machine
    assert machine.energy.reference_voltage_volts == machine.voltage_volts
    assert machine.energy.reference_frequency_mhz == machine.frequency_mhz


@given(points=lists(integers(1, 4000), min_size=2, max_size=6, unique=True), share=floats(0, 1), data=data())
def test_voltage_lies_straight_between_points(points: list[int], share: float, data: DataObject) -> None:
    """At a point its voltage; between two as numpy.interp has it; nothing else changes, and out of range is refused."""
    frequencies = sorted(points)
    steps = data.draw(lists(floats(0, 0.2), min_size=len(points), max_size=len(points)))
    voltages = [0.4 + sum(steps[: index + 1]) for index in range(len(steps))]
    machine = preset("mtia-2i").with_changes({"dvfs.frequencies_mhz": frequencies, "dvfs.voltages_volts": voltages})
    for frequency, voltage in zip(frequencies, voltages, strict=True):
        assert machine.at_frequency(frequency).voltage_volts == voltage
    between = frequencies[0] + share * (frequencies[-1] - frequencies[0])
    other = machine.at_frequency(between)
    assert other.voltage_volts == pytest.approx(np.interp(between, frequencies, voltages), rel=1e-12)
    assert other.frequency_mhz == between
    own = {"frequency_mhz": machine.frequency_mhz, "voltage_volts": machine.voltage_volts}
    assert other.with_changes(own) == machine
    for outside in (frequencies[0] - 0.5, frequencies[-1] + 0.5, float("nan")):
        with pytest.raises(MachineError, match=f"reach from {frequencies[0]} to {frequencies[-1]} MHz"):
            machine.at_frequency(outside)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dvfs.voltages_volts": [0.7, 0.8]}, "dvfs.voltages_volts: 2 voltages for 3 of frequencies_mhz"),
        ({"dvfs.frequencies_mhz": [1100, 1100, 1350]}, "dvfs.frequencies_mhz: must ascend, not"),
        ({"dvfs.voltages_volts": [0.8, 0.7, 0.9]}, "dvfs.voltages_volts: must not fall, not"),
        (
            {"dvfs.frequencies_mhz": [], "dvfs.voltages_volts": []},
            "dvfs.frequencies_mhz: must hold at least one point",
        ),
        ({"dvfs.frequencies_mhz": 1350}, "dvfs.frequencies_mhz: must be a list of numbers, not 1350"),
        ({"dvfs.frequencies_mhz": [1100, "x", 1350]}, "dvfs.frequencies_mhz.1: must be a valid number, not 'x'"),
        ({"dvfs.voltages_volts": [0, 0.8, 0.9]}, "dvfs.voltages_volts.0: must be greater than 0, not 0"),
        ({"dvfs.frequencies_mhz.1": 1200}, "'dvfs.frequencies_mhz' is a list, which is given as a whole"),
        ({"energy_uncertainty.noc": [0.5]}, "energy_uncertainty.noc: must be two numbers, [lowest, highest], not"),
        ({"energy_uncertainty.noc": [-1, 2]}, "energy_uncertainty.noc.0: must be greater than or equal to 0"),
        ({"energy_uncertainty.noc": [1.1, 2]}, "energy_uncertainty.noc: [1.1, 2] must have 1, the figure itself"),
        ({"energy_uncertainty.network": [1, 2]}, "energy_uncertainty.network: unknown key"),
    ],
)
def test_wrong_lists_are_told_as_sentences(changes: dict[str, object], message: str) -> None:
    """Lists have their rules, too."""
    with pytest.raises(MachineError) as caught:
        preset("mtia-2i").with_changes(changes)
    assert message in str(caught.value)


def test_whole_numbers_and_floats_are_the_same_machine() -> None:
    """A float field written as an integer gives the same digests."""
    machine = preset("mtia-2i")
    assert machine.with_changes({"frequency_mhz": 1350}) == machine.with_changes({"frequency_mhz": 1350.0})


def test_load_machine_takes_names_and_files(tmp_path: Path) -> None:
    """What the command line accepts."""
    path = tmp_path / "mine.toml"
    path.write_text(preset("mtia-v1").with_changes({"name": "mine"}).to_toml())
    assert load_machine(str(path)).name == "mine"
    assert load_machine("mtia-v1") is preset("mtia-v1")


def _edited(tmp_path: Path, old: str, new: str) -> Path:
    text = preset_path("mtia-2i").read_text()
    assert old in text
    path = tmp_path / "machine.toml"
    path.write_text(text.replace(old, new, 1))
    return path


def _message(source: Path | str) -> str:
    with pytest.raises(MachineError) as caught:
        load_machine(source)
    return str(caught.value)


def _line(path: Path, start: str) -> int:
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if line.startswith(start))


def test_a_misspelt_key_is_told_with_its_line_and_the_right_name(tmp_path: Path) -> None:
    """An extra, misspelt key names file, line, path, the nearest key and all allowed ones."""
    path = _edited(tmp_path, "[grid]\n", "[grid]\ncolumms = 4\n")
    message = _message(path)
    assert message.startswith(f"{path}:{_line(path, 'columms')}: grid.columms: unknown key\n")
    assert "did you mean 'columns'? allowed here: rows, columns" in message


def test_a_renamed_key_is_both_unknown_and_missing(tmp_path: Path) -> None:
    """Both halves of the mistake are told."""
    message = _message(_edited(tmp_path, "circular_buffers =", "circular_bufers ="))
    assert "2 problems" in message
    assert "pe.circular_buffers: missing" in message
    assert "pe.circular_bufers: unknown key (did you mean 'circular_buffers'?" in message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rows = 8", 'rows = "8"', "grid.rows: must be a valid integer, not '8'"),
        ("rows = 8", "rows = 8.5", "grid.rows: must be a valid integer, not 8.5"),
        ("rows = 8", "rows = 0", "grid.rows: must be greater than 0, not 0"),
        ("projected = false", "projected = 0", "projected: must be a valid boolean, not 0"),
        ('topology = "crossbar"', 'topology = "ring"', "noc.topology: must be 'crossbar' or 'mesh', not 'ring'"),
        (
            "ecc_efficiency = 0.87",
            "ecc_efficiency = 1.2",
            "dram.ecc_efficiency: must be less than or equal to 1",
        ),
        ("bytes_per_cycle = 2000 ", "bytes_per_cycle = inf ", "sram.bytes_per_cycle: must be a finite number"),
        ("slices = 8", "slices = 7", "sram.bytes: 268435456 is not a multiple of slices x interleave_bytes = 1792"),
        ("typical_watts = 65", "typical_watts = 99", "typical_watts: 99.0 is more than tdp_watts = 85.0"),
        ("alignment_bytes = 1", "alignment_bytes = 3", "dma.alignment_bytes: must be a power of two, not 3"),
        ("channels = 16", "channels = 12", "dram.bytes: 137438953472 is not a multiple of channels"),
        ("lut_elements_per_cycle = 16", "lut_elements_per_cycle = 64", "64 is more than elements_per_cycle = 32"),
        ("multiply_adds_per_cycle = 32", "multiply_adds_per_cycle = 33", "33 is more than elements_per_cycle = 32"),
        ("block_rows = 32", "block_rows = 64", "a result of 64 rows does not fit a bank of 32 x 32"),
        (
            "local_memory_bytes = 393_216",
            "local_memory_bytes = 1",
            "1 does not hold two double-buffered operand blocks",
        ),
    ],
)
def test_wrong_values_are_told_as_sentences(tmp_path: Path, old: str, new: str, expected: str) -> None:
    """Type, range and consistency: file, line and key path, then what is wrong."""
    message = _message(_edited(tmp_path, old, new))
    assert expected in message
    assert re.match(rf"{re.escape(str(tmp_path))}/machine.toml:\d+: ", message)


def test_all_problems_are_told_at_once() -> None:
    """Problems in several sections come in one error, each with its path."""
    with pytest.raises(MachineError) as caught:
        preset("mtia-2i").with_changes(
            {"sram.slices": 0, "grid.rows": "x", "matrix.rate_by_dtype.fp17": 1.0, "gird.rows": 1}
        )
    message = str(caught.value)
    assert "4 problems" in message
    for part in ("sram.slices: must", "grid.rows: must", "did you mean 'fp16'?", "did you mean 'grid'?"):
        assert part in message


def test_several_inconsistencies_are_told_at_once() -> None:
    """Rules between fields are all checked, too."""
    with pytest.raises(MachineError, match="2 problems"):
        preset("mtia-2i").with_changes({"dma.alignment_bytes": 3, "matrix.block_k_bytes": 24})


def test_other_wrong_inputs_are_machine_errors(tmp_path: Path) -> None:
    """A missing file, a folder, broken TOML, an unknown preset, a change below a number."""
    broken = tmp_path / "broken.toml"
    broken.write_text('name = "x"\nrows = = 3\n')
    assert _message(tmp_path / "absent.toml").startswith(f"{tmp_path}/absent.toml: no such machine file")
    assert _message(broken).startswith(f"{broken}:2: this is not TOML")
    (tmp_path / "folder.toml").mkdir()
    assert "cannot read the machine file" in _message(tmp_path / "folder.toml")
    assert "did you mean 'mtia-2i'?" in _message("mtia2i")
    with pytest.raises(MachineError, match="'frequency_mhz' is a number, not a table"):
        preset("mtia-2i").with_changes({"frequency_mhz.x": 1})
