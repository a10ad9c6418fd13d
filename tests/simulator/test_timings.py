"""Profiles that share what launches took are those of profiles that do not."""

from __future__ import annotations

import pytest

import models
from compiler import GraphCompiler, fuse_model
from simulator import Simulator, Timings
from simulator.launcher import Launcher
from tests.compiler.graphs import small_machine

ENERGY = {"voltage_volts": 0.9, "energy.leakage_watts": 50.0, "energy.sram_read_per_byte": 9.0, "tdp_watts": 300.0}
STARTS = {"control.launch_ns": 9000.0, "peak_power_window_us": 7.0, "control.host_bytes_per_second": 1e10}
"""Launches know nothing of either."""
SLOWER = {"dma.outstanding": 2}
"""The program is the same, its time is not."""


@pytest.fixture(scope="module")
def compiler() -> GraphCompiler:
    return GraphCompiler(fuse_model(models.build("llama-tiny", "absent"), {"batch": 1, "sequence": 4, "past": (0, 9)}))


def test_reports_are_the_same(compiler: GraphCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever differs; launches are simulated again only for another time, or other sizes."""
    runs: list[object] = []
    original = Launcher.run

    def counted(self: Launcher, *arguments: object) -> object:
        runs.append(self)
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Launcher, "run", counted)
    timings, seen = Timings(8), []
    for changes in ({}, ENERGY, STARTS, SLOWER, ENERGY | SLOWER, {"dram.channels": 4}, {}):
        program = compiler.program(small_machine(**changes))
        for past in (2, 7):
            before = len(runs)
            report = Simulator(program, timings=timings).profile(past=past)
            seen.append(len(runs) > before)
            assert report == Simulator(program).profile(past=past)
    assert seen == [True, True, *[False] * 4, True, True, False, False, True, True, False, False]


def test_another_program_is_timed_for_itself(compiler: GraphCompiler) -> None:
    """Programs with equal names and sizes, but made for themselves, share nothing."""
    other = GraphCompiler(fuse_model(models.build("llama-tiny-wide", "absent"), {"batch": 1, "sequence": 4, "past": 2}))
    timings, machine = Timings(8), small_machine()
    first = Simulator(compiler.program(machine), timings=timings).profile(past=2)
    second = Simulator(other.program(machine), timings=timings).profile()
    assert second == Simulator(other.program(machine)).profile() and second.cycles != first.cycles
