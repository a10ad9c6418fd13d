"""Sums that must hold in every report: bytes, MACs, time and energy of real programs, at several cache lengths."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import pytest

import models
from isa.affine import evaluate
from isa.dtypes import BY_NAME
from isa.machine import Machine
from isa.program import Program
from models.llama_config import LlamaConfig
from simulator import Report, Simulator
from simulator.energy import DRAM_PARTS
from simulator.report import OperationReport
from tests.simulator.llamas import inputs_for, llama
from tests.simulator.test_timing import check_account

BYTES = 2
CASES = [
    ("llama-tiny", 7, 0), ("llama-tiny", 1, 0), ("llama-tiny", 1, 41), ("llama-tiny", 7, 200), ("llama-tiny", 1, 512),
    ("llama-tiny-wide", 40, 0), ("llama-tiny-wide", 40, 33), ("llama-tiny-wide", 1, 0), ("llama-tiny-wide", 1, 500),
    ("llama-tiny-odd", 5, 3),
]  # fmt: skip


@cache
def simulator(name: str, sequence: int) -> Simulator:
    return Simulator(llama(name, sequence, 512))


def program(name: str, sequence: int) -> Program:
    return simulator(name, sequence).program


@cache
def report(name: str, sequence: int, past: int) -> Report:
    return simulator(name, sequence).profile(past=past)


def linear_weights(config: LlamaConfig) -> int:
    """Elements of all matrices that every token is multiplied by."""
    width = 2 * config.heads + 2 * config.kv_heads
    layer = config.hidden * (width * config.head_dim + 3 * config.feed_forward)
    return config.layers * layer + config.hidden * config.vocabulary


def useful_macs(config: LlamaConfig, sequence: int, past: int) -> int:
    """Products of the graph: each token with each matrix, each query with the keys and values it may see."""
    pairs = sum(past + position + 1 for position in range(sequence))
    return sequence * linear_weights(config) + 2 * config.layers * config.heads * config.head_dim * pairs


@pytest.mark.parametrize(("name", "sequence", "past"), CASES)
def test_macs(name: str, sequence: int, past: int) -> None:
    """Useful MACs are those of the architecture; what the engines did is what the compiler states, for every launch."""
    result = report(name, sequence, past)
    assert result.useful_macs == useful_macs(models.config_of(name), sequence, past)
    for operation in result.operations:
        assert operation.issued_macs == operation.stated_macs >= operation.useful_macs >= 0
    for key in ("useful_macs", "issued_macs"):
        assert getattr(result, key) == sum(getattr(operation, key) for operation in result.operations)
    assert 0 < result.model_utilization <= result.utilization["dpe"] <= 1


@pytest.mark.parametrize(("name", "sequence", "past"), CASES)
def test_bytes(name: str, sequence: int, past: int) -> None:
    """Every weight is read from DRAM, the cache is read and written; launches add up to the totals."""
    result, config = report(name, sequence, past), models.config_of(name)
    cached = BYTES * config.layers * 2 * config.kv_heads * config.head_dim
    assert result.dram_read_bytes >= BYTES * linear_weights(config) + cached * past
    assert result.dram_written_bytes + result.sram_bytes >= cached * sequence
    assert result.dram_bytes == sum(operation.dram_bytes for operation in result.operations)
    assert result.sram_bytes == sum(operation.sram_bytes for operation in result.operations)
    assert result.dram_bound_seconds == result.dram_bytes / result.dram_deliverable_bytes_per_second
    assert result.dram_bound_seconds < result.latency_seconds
    assert result.commands == sum(operation.commands for operation in result.operations)


@pytest.mark.parametrize(("name", "sequence", "past"), CASES)
def test_time(name: str, sequence: int, past: int) -> None:
    """Latency is that of all launches and of starting them; they follow each other; every unit's time is accounted."""
    result, machine = report(name, sequence, past), program(name, sequence).machine
    launches = result.launches
    total = result.launch_cycles + sum(launch.cycles for launch in launches)
    assert 0 <= total - result.cycles <= len(launches) + 1, "each figure is rounded up to a whole cycle"
    assert result.cycles == math.ceil(result.latency_seconds * machine.cycles_per_second - 1e-6)
    later, first = (machine.launch_ns(machine.pe_count, replaces=replaces) for replaces in (True, False))
    assert result.launch_cycles == pytest.approx((first + (len(launches) - 1) * later) / machine.cycle_ns, abs=1)
    end = 0
    for index, launch in enumerate(launches):
        assert end < launch.start_cycles
        end = launch.start_cycles + launch.cycles - 1
        parts = [operation for operation in result.operations if operation.launch == index]
        starts = [launch.start_cycles, *(part.start_cycles + part.cycles for part in parts)]
        assert starts == [*(part.start_cycles for part in parts), launch.start_cycles + launch.cycles]
        assert all(part.cycles >= 0 and part.reused == launch.reused for part in parts)
    assert end <= result.cycles
    check_account(result, machine)


@pytest.mark.parametrize(("name", "sequence", "past"), CASES)
def test_energy(name: str, sequence: int, past: int) -> None:
    """Energy is the sum of its parts, and of the launches plus what flows while they are started."""
    result, machine = report(name, sequence, past), program(name, sequence).machine
    parts = result.energy_parts_joules
    assert all(value > 0 for value in parts.values())
    assert result.energy_joules == pytest.approx(sum(parts.values()), rel=1e-12)
    launching = result.launch_energy_parts_joules
    for part, joules in parts.items():
        launches = sum(operation.energy_parts_joules.get(part, 0.0) for operation in result.operations)
        linked = 8e-12 * host_bytes(name, sequence, past) * machine.energy.host_per_bit if part == "host_link" else 0.0
        assert joules == pytest.approx(launches + launching.get(part, 0.0) + linked, rel=1e-12), part
    background = ("leakage", "clock_and_uncore", "dram_background")
    assert launching.keys() == set(background)
    watts = sum(parts[part] for part in background) / result.latency_seconds
    launch_seconds = result.launch_cycles / machine.cycles_per_second
    assert sum(launching.values()) == pytest.approx(watts * launch_seconds, abs=2 * watts / machine.cycles_per_second)
    bits = 8 * result.dram_bytes * 1e-12
    assert parts["dram_phy"] == pytest.approx(bits * machine.energy.dram_phy_per_bit, rel=1e-12)
    hops = parts["noc"] / (result.noc_bytes * machine.energy.noc_per_byte_hop * 1e-12)
    assert 1 <= hops <= len(machine.network.links)


@pytest.mark.parametrize(("name", "sequence", "past"), CASES)
def test_power(name: str, sequence: int, past: int) -> None:
    """Chip and DRAM devices share the energy out; power is what flows within the latency; no window beats a launch."""
    result, machine = report(name, sequence, past), program(name, sequence).machine
    parts, seconds = result.energy_parts_joules, result.latency_seconds
    assert result.dram_energy_joules == parts["dram_device"] + parts["dram_background"]
    assert result.chip_energy_joules + result.dram_energy_joules == pytest.approx(result.energy_joules, rel=1e-12)
    within = result.energy_joules - parts["host_link"]
    assert result.average_power_watts == pytest.approx(within / seconds, rel=1e-12)
    assert result.chip_power_watts + result.dram_power_watts == pytest.approx(result.average_power_watts, rel=1e-12)
    assert result.peak_window_seconds == pytest.approx(min(machine.peak_power_window_us * 1e-6, seconds), rel=1e-12)
    assert result.peak_power_watts >= result.chip_power_watts * (1 - 1e-9)
    powers = [_chip_watts(operation, machine) for operation in result.operations]
    assert result.peak_power_watts <= max(powers) * (1 + 1e-6)


def _chip_watts(operation: OperationReport, machine: Machine) -> float:
    chip = sum(joules for part, joules in operation.energy_parts_joules.items() if part not in DRAM_PARTS)
    return chip / ((operation.cycles - 1) / machine.cycles_per_second)  # cycles are rounded up


def host_bytes(name: str, sequence: int, past: int) -> int:
    """Token numbers and positions in, logits out, and the cache both ways, as the entry's ports say."""
    entry = simulator(name, sequence).entry()
    bindings = {"past": past}
    return sum(
        math.prod(evaluate(dim, bindings) for dim in port.shape) * BY_NAME[port.device_dtype].bytes
        for port in (*entry.inputs, *entry.outputs)
    )


@pytest.mark.parametrize("name", ["llama-tiny", "llama-tiny-wide"])
def test_a_longer_cache_costs_more(name: str) -> None:
    """MACs and bytes of a decode step grow with the cache; so do time and energy, up to where refreshes fall: 1 %."""
    results = [report(name, 1, past) for past in (0, 64, 128, 256, 512)]
    for key in ("useful_macs", "dram_bytes"):
        values = [getattr(result, key) for result in results]
        assert values == sorted(set(values)), key
    for key in ("cycles", "energy_joules"):
        values = [getattr(result, key) for result in results]
        assert all(longer > 0.99 * shorter for shorter, longer in itertools.pairwise(values)), key
        assert values[-1] > values[0]


@pytest.mark.parametrize(("name", "sequence", "past"), [("llama-tiny", 7, 200), ("llama-tiny-wide", 40, 33)])
def test_a_run_reports_what_a_profile_does(name: str, sequence: int, past: int) -> None:
    """Executing changes no figure, but those of look-ups: a run touches its tokens' rows, a profile draws."""
    result = simulator(name, sequence).run(inputs_for(program(name, sequence), past)).report
    run, profile = result.to_dict(), report(name, sequence, past).to_dict()
    untimed = (
        "dram_bytes",
        "sram_bytes",
        "noc_bytes",
        "instructions",
        "commands_by_name",
        "useful_macs",
        "issued_macs",
    )
    assert [run[key] for key in untimed] == [profile[key] for key in untimed]
    operations = [_without_lookups(values["ops"]) for values in (run, profile)]
    first = [operation.operation for operation in result.operations if operation.launch == 0]
    assert operations[0] == operations[1] and len(operations[0]) == len(result.operations) - len(first)
    assert first[0] == "model.embed_tokens/Gather"


def _without_lookups(operations: Any) -> list[dict[str, Any]]:
    """Drop what shares the first launch with the embedding, and of the others what depends on launches before them."""
    hidden = ("reused", "start_cycles")
    return [
        {key: value for key, value in operation.items() if key not in hidden}
        for operation in operations
        if operation["launch"] > 0
    ]
