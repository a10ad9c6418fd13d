"""The terminal report: a golden page, its limits in width and height, and numbers people can read."""

from __future__ import annotations

import dataclasses

import pytest

from simulator.report import LaunchReport, OperationReport, Report
from simulator.report_text import COLUMNS, quantity, render

LAYERS = 32
UNITS = ("dpe", "se", "re", "mlu", "fi", "local_memory", "sram", "noc", "dram")


PARTS = {"matrix": 0.0009, "dram_device": 1.5, "dram_background": 0.4, "leakage": 2.5941, "host_link": 0.005}


def _operation(launch: int, name: str, cycles: int, dram_bytes: int, bound_by: str, reused: bool) -> OperationReport:
    return OperationReport(
        operation=name, launch=launch, kernel="linear_resident_1x2", start_cycles=0, cycles=cycles, reused=reused,
        useful_macs=0, issued_macs=0, stated_macs=0, dram_bytes=dram_bytes, sram_bytes=0, sram_hit_rate=0.0, commands=1,
        energy_parts_joules={}, lower_bound_cycles=0.9 * cycles, lower_bound_resource="dram", bound_by=bound_by,
        utilization={},
    )  # fmt: skip


def _decode_report() -> Report:
    """Return figures of the size of a decode step of an 8B model."""
    operations = [
        _operation(0, "model.embed_tokens/Gather", 900, 8192, "latency", False),
        _operation(0, "model.norm/RMSNormalization", 700, 8192, "latency", False),
    ]
    for layer in range(LAYERS):
        names = [f"model.layers.{layer}.{name}" for name in ("self_attn.query.rotated/RotaryEmbedding/rope",
                 "self_attn.attention/Attention", "mlp.down_proj.chunk.1/MatMul")]  # fmt: skip
        operations += [
            _operation(layer, names[0], 3_600, 4400, "latency", layer > 0),
            _operation(layer, names[1], 400_000 + layer, 8_400_000, "se" if layer < 3 else "dram", layer > 0),
            _operation(layer, names[2], 3_600_000, 440_000_000, "dram", layer > 0),
        ]
    launches = [
        LaunchReport(f"{layer}:layer", "kernel", 0, 4_000_000, layer > 0, 3e6, "dram", "dram", {})
        for layer in range(LAYERS)
    ]
    cycles = sum(operation.cycles for operation in operations)
    launch_cycles = 45_000
    busy = {unit: 100.0 * number for number, unit in enumerate(UNITS)}
    return Report(
        machine="mtia-2i", entry="main", dims={"past": 2048}, latency_seconds=(cycles + launch_cycles) / 1.35e9,
        cycles=cycles + launch_cycles, launch_cycles=launch_cycles, tdp_watts=85.0,
        tdp_includes_dram=False, peak_power_watts=71.24, peak_window_seconds=1e-4,
        energy_parts_joules=PARTS,
        energy_part_bands_joules={part: (joules / 2, 2 * joules) for part, joules in PARTS.items()},
        launch_energy_parts_joules={},
        utilization={unit: number / 10 for number, unit in enumerate(UNITS)}, busy_cycles=busy, idle_cycles=busy,
        dram_read_bytes=14_350_000_000, dram_written_bytes=1_000_000, sram_bytes=3_200_000, noc_bytes=14_500_000_000,
        cache_bytes=234_881_024, cache_hit_bytes=8_400_000, cache_filled_bytes=14_350_000_000, sram_hit_rate=0.0008,
        lower_bound_seconds=0.0874, lower_bound_resource="dram",
        lower_bounds_seconds={"dpe": 0.00009, "issue": 0.0, "sram": 0.000001, "dram": 0.0874},
        dram_bound_seconds=0.0875, dram_peak_bytes_per_second=204.8e9,
        dram_deliverable_bytes_per_second=163.92e9, useful_macs=7_500_000_000, issued_macs=240_000_000_000,
        model_utilization=0.00089, instructions=123_456_789, commands_by_name={"mml": 1_000_000, "dma_in": 34},
        host_link_seconds=1.2e-6, simulated_launches=3,
        notes=("capacity was ignored: this program does not fit the memories of the machine",),
        operations=tuple(operations), launches=tuple(launches),
    )  # fmt: skip


def test_the_page_is_the_golden_one(golden):
    """The whole report; equal reports give equal text, and str() is the same text."""
    text = render(_decode_report())
    assert text == render(_decode_report()) == str(_decode_report())
    golden("report.txt", text)


def test_the_page_fits_a_terminal():
    """At most 80 columns, and at most 24 lines before the table of operations."""
    lines = render(_decode_report()).splitlines()
    assert max(len(line) for line in lines) <= COLUMNS
    assert lines.index("") <= 24


def test_shares_of_operations_and_job_launch_are_the_whole():
    """Operations and job launch share the latency out; equal layers are one row, what is short the last one."""
    report = _decode_report()
    rows = render(report).splitlines()
    table = rows[rows.index("") + 2 :]
    assert sum(float(row.partition(" %")[0].split()[-1]) for row in table) == pytest.approx(100, abs=0.3)
    assert [int(row[26:30]) for row in table] == [LAYERS, LAYERS, LAYERS, 2, LAYERS]
    assert [row.split()[0] for row in table[:3]] == ["..*.mlp.down_proj.chunk.*", "..*.self_attn.attention",
                                                     "..self_attn.query.rotated"]  # fmt: skip
    assert table[3].startswith("(2 others) ") and table[1].split()[-3] == "dram"


def test_what_was_done_before_is_explained():
    """A row may be above its bound: its weights came while another operation lasted."""
    report = _decode_report()
    assert "over 100 %" not in render(report)
    quick = dataclasses.replace(report.operations[-1], lower_bound_cycles=2 * LAYERS * report.operations[-1].cycles)
    text = render(dataclasses.replace(report, operations=(*report.operations[:-1], quick)))
    assert "over 100 % of bound: a part of it was done while the operation before it lasted\n" in text


def test_power_is_compared_with_what_the_tdp_is_about():
    """Without the DRAM devices, or with them if the machine says so."""
    report = _decode_report()
    chip, dram = (0.0009 + 2.5941) / report.latency_seconds, 1.9 / report.latency_seconds
    assert f"average power       {chip:.1f} W in the chip of 85 W TDP, {dram:.1f} W in the DRAM\n" in render(report)
    assert "peak power          71.2 W in the chip over 100 us (84 % of TDP)\n" in render(report)
    whole = render(dataclasses.replace(report, tdp_includes_dram=True))
    assert f"average power       {chip + dram:.1f} W of 85 W TDP, {dram:.1f} W in the DRAM\n" in whole
    assert "peak power          71.2 W in chip and DRAM over 100 us (84 % of TDP)\n" in whole


def test_nothing_at_all_is_a_report_too():
    """No launches, no traffic, no time: no division by zero."""
    zero = {
        field.name: 0
        for field in dataclasses.fields(Report)
        if field.type in ("int", "float") and field.name not in ("tdp_watts",) and "per_second" not in field.name
    }
    text = render(dataclasses.replace(_decode_report(), **zero, operations=(), launches=()))
    assert "latency             0 s = 0 cycles" in text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0931, "s", "93.10 ms"), (0, "B", "0 B"), (1, "B", "1.000 B"), (999.94, "B", "999.9 B"),
     (999.96, "B", "1.000 kB"), (99_996, "B", "100.0 kB"), (999_999, "B", "1.000 MB"),
     (14_350_000_000, "B", "14.35 GB"), (1.6e-9, "J", "1.600 nJ"), (3e-12, "J", "3e-12 J")],
)  # fmt: skip
def test_quantities_have_four_digits(value, unit, text):
    """Four digits and a prefix, also where rounding needs the next prefix."""
    assert quantity(value, unit) == text
