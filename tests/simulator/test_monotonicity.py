"""Better hardware is not slower, field by field, and time scales as its parts do.

A kernel on one PE, whose transfers no other delays, takes no longer at all. In whole programs a gain in one place may
let requests meet elsewhere in another order, and refreshes fall on other requests: they may lose `SLACK`.
"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from compiler import compile_model
from isa.assembly import parse_assembly
from isa.machine import Machine, MachineField, machine_fields, preset
from isa.memory_map import DRAM_BASE, SRAM_BASE
from isa.program import Program
from simulator import Simulator
from tests.simulator.kernels import Job

SLACK = 0.005
"""The worst that was found is 0.0008, of a DLRM with twice the queue depth."""
MERGED_SLACK = 0.02
"""In merged launches weights that are loaded ahead may hold up what a PE needs first, more of them in deeper queues:
0.011 of a chunk of a prefill with twice the queue depth."""
_MORE_IS_BETTER = (
    "pe.command_queue_depth", "dma.outstanding", "dram_timing.queue_entries", "dram_timing.write_batch",
    "matrix.tiles", "dram_timing.refresh_interval_ns", "dram_timing.bank_refresh_interval_ns",
)  # fmt: skip
_TIED = {"simd.multiply_adds_per_cycle": {"simd.elements_per_cycle": 2, "simd.lut_elements_per_cycle": 1}}
"""Fields that a field may not exceed, and the factor that keeps them above it."""


def _is_rate(field: MachineField) -> bool:
    return field.unit.endswith(("/cycle", "/s")) or field.path in ("frequency_mhz", *_MORE_IS_BETTER)


def _is_latency(field: MachineField) -> bool:
    return field.unit in ("ns", "cycles") and field.path not in _MORE_IS_BETTER


FIELDS = [
    field.path
    for field in machine_fields()
    if field.shapes == "time" and (_is_rate(field) or _is_latency(field) or field.path.endswith("efficiency"))
]


def better(machine: Machine, path: str) -> Machine:
    """Return a machine with more of a rate, less of a latency, or without ECC."""
    field, value = next(field for field in machine_fields() if field.path == path), machine.value(path)
    if path.endswith("efficiency"):
        return machine.with_changes({path: 1.0})
    if path == "frequency_mhz":
        return machine.with_changes({path: value * 1.25})
    if _is_rate(field):
        tied = {name: machine.value(name) * factor for name, factor in _TIED.get(path, {}).items()}
        return machine.with_changes({path: value * 2, **tied})
    if isinstance(value, int):
        return machine.with_changes({path: -(-value // 2)})
    return machine.with_changes({path: value / 2})


def test_every_field_of_time_is_a_rate_or_a_latency_or_said_to_be_neither() -> None:
    """A new field joins the laws here by its unit, or it is listed."""
    neither = {
        "voltage_volts", "dram_timing.refresh", "dram_timing.row_commands", "noc.topology", "noc.cluster_rows",
        "noc.cluster_columns", "control.queue_broadcast", "peak_power_window_us", "dram_timing.bank_groups",
        "dram_timing.banks",
    }  # fmt: skip
    sections = ("energy.", "energy_uncertainty.", "dvfs.", "simd.rate_by_dtype.")
    for field in machine_fields():
        if field.shapes == "time" and field.path not in FIELDS and not field.path.startswith(sections):
            assert field.path in neither or field.unit == "bytes" or field.path in (
                "sram.slices", "sram.banks", "sram.cache_ways", "dram.channels",
            ), field.path  # fmt: skip


def kernel(size: int, trips: int, mode: str) -> Job:
    """Return a kernel of one PE that reads DRAM, adds, and writes SRAM, piece by piece."""
    read = f"arg r1, 0\nli r2, 1\nli r3, {size}\nli r4, {trips}\nloop r4, end\n"
    read += f"dma_in tile, r0, r0, r1, r0, r2, r3, {mode}\npush tile, 1\naddi r1, r1, {size}\nend:\nhalt"
    write = f"arg r1, 1\nli r2, 1\nli r3, {size}\nli r4, {trips}\nli r5, {size // 4}\nloop r4, end\n"
    write += "vadds out, r0, r0, tile, r0, r0, r2, r5, fp32, fp32, 1.0\npop tile, 1\npush out, 1\n"
    write += f"dma_out r1, r0, out, r0, r0, r2, r3\npop out, 1\naddi r1, r1, {size}\nend:\nhalt"
    text = f".kernel pieces\n.args x y\n.buffer tile {size} 2\n.buffer out {size} 2\n"
    (parsed,) = parse_assembly(f"{text}.core A\n{read}\n.core B\n{write}\n")
    return Job(parsed, preset("mtia-2i"), (DRAM_BASE, SRAM_BASE), 1, 1)


@pytest.mark.parametrize("path", [path for path in FIELDS if not path.endswith("refresh_interval_ns")])
@settings(max_examples=6, deadline=None, derandomize=True)
@given(size=st.integers(1, 40), trips=st.integers(1, 20), mode=st.sampled_from(["none", "row"]))
def test_one_pe_is_never_slower(path: str, size: int, trips: int, mode: str) -> None:
    """Not by a tick. Other intervals move the first refresh, which one transfer may then meet: left to the slack."""
    job, machine = kernel(size * 64, trips, mode), better(preset("mtia-2i"), path)
    assert job.cycles(machine) * machine.cycle_ns <= job.cycles() * job.machine.cycle_ns


@cache
def programs() -> tuple[Program, ...]:
    """Return a chunk of a prefill, a decode step and a recommendation model, with separate and with merged launches."""
    cases = (
        ("llama-tiny-wide", {"batch": 1, "sequence": 40, "past": 33}),
        ("llama-tiny-wide", {"batch": 1, "sequence": 1, "past": 200}), ("dlrm-dcnv2-tiny", {"batch": 64}),
    )  # fmt: skip
    return tuple(
        compile_model(models.build(name, "absent"), dims=dims, separate_launches=separate)
        for name, dims in cases for separate in (True, False)
    )  # fmt: skip


@pytest.mark.parametrize("path", FIELDS)
def test_programs_are_hardly_ever_slower(path: str) -> None:
    """Not by more than the slack that is stated."""
    for program in programs():
        before = Simulator(program).profile().latency_seconds
        after = Simulator(program, better(program.machine, path)).profile().latency_seconds
        slack = before * (SLACK if _has_separate_launches(program) else MERGED_SLACK)
        if path.endswith("refresh_interval_ns"):  # one may fall on a program that it came before or after
            slack += program.machine.dram_timing.refresh_ns * 1e-9
        assert after <= before + slack


def _has_separate_launches(program: Program) -> bool:
    return not any("+" in launch.operation for launch in program.entries[0].launches)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_time_scales_alike(factor: float) -> None:
    """A machine whose clock, rates per second and latencies in ns are all faster by a factor needs the same cycles."""
    for program in programs():
        machine = program.machine
        changes = {}
        for field in machine_fields():
            if field.path == "frequency_mhz" or field.unit == "bytes/s":
                changes[field.path] = machine.value(field.path) * factor
            elif field.unit == "ns":
                changes[field.path] = machine.value(field.path) / factor
        before, after = (Simulator(program, chosen).profile() for chosen in (machine, machine.with_changes(changes)))
        assert after.cycles == before.cycles
        assert after.latency_seconds * factor == pytest.approx(before.latency_seconds, rel=1e-12)
