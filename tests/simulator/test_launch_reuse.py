"""Launches that are recognised as equal to an earlier one have exactly the figures of a simulated one."""

from __future__ import annotations

import numpy as np
import pytest

import models
from compiler import compile_model
from isa.machine import preset
from isa.program import Program
from simulator import Simulator
from simulator import state as st
from simulator.launcher import Launcher
from tests.simulator.llamas import llama


def _counters(program: Program, past: int, reuse: bool) -> list[tuple[int, st.Stats, bool]]:
    launcher = Launcher(program, program.machine, None, reuse=reuse)
    timed = [launcher.run(launch, {"past": past}) for launch in program.entries[0].launches]
    return [(one.ticks, one.stats, one.reused) for one in timed]


@pytest.mark.parametrize(
    ("name", "sequence", "past"),
    [("llama-tiny", 9, 0), ("llama-tiny", 1, 77), ("llama-tiny-wide", 33, 20), ("llama-tiny-wide", 1, 200)],
)
@pytest.mark.parametrize("whole_grid", [False, True])
def test_every_counter_is_equal(name: str, sequence: int, past: int, whole_grid: bool) -> None:
    """Ticks, counts, and the busy time of every unit, channel, slice and link, for layers at different addresses."""
    program = llama(name, sequence, 256, whole_grid, separate_launches=True)
    reused, simulated = (_counters(program, past, reuse) for reuse in (True, False))
    assert sum(is_reused for _, _, is_reused in reused) > len(reused) / 5
    assert not any(is_reused for _, _, is_reused in simulated)
    for (ticks, stats, _), (expected, expected_stats, _) in zip(reused, simulated, strict=True):
        assert ticks == expected
        for array, expected_array in zip(stats, expected_stats, strict=True):
            np.testing.assert_array_equal(array, expected_array)


def test_reports_are_equal_and_say_what_was_reused() -> None:
    """`reuse=False` changes nothing but what the report says about reuse."""
    program = llama("llama-tiny-wide", 1, 256, separate_launches=True)
    full = Simulator(program).profile(past=100, reuse=False).to_dict()
    simulator = Simulator(program)
    simulator.profile(past=99, reuse=False)
    quick = simulator.profile(past=100).to_dict()
    assert quick.pop("simulated_launches") < full.pop("simulated_launches") == len(full["launches"])
    for operations in (quick["ops"], full["ops"], quick["launches"], full["launches"]):
        for operation in operations:
            del operation["reused"]
    assert quick == full


def test_merged_launches_of_equal_layers_are_reused() -> None:
    """Layers of a model deep enough to repeat, each a few launches."""
    dims = {"batch": 1, "sequence": 1, "past": 128}
    program = compile_model(models.build("llama-3.2-1b", "absent"), preset("mtia-300"), dims=dims)
    quick, full = Simulator(program).profile(), Simulator(program).profile(reuse=False)
    assert quick.simulated_launches < full.simulated_launches / 2
    assert (quick.cycles, quick.busy_cycles) == (full.cycles, full.busy_cycles)


def test_another_cache_length_is_another_launch() -> None:
    """What depends on a symbol is simulated anew; what does not, is not."""
    simulator = Simulator(llama("llama-tiny", 1, 256, separate_launches=True))
    first = simulator.profile(past=100)
    again, longer = simulator.profile(past=100), simulator.profile(past=101)
    assert again.simulated_launches == 0 and again.cycles == first.cycles
    assert 0 < longer.simulated_launches < first.simulated_launches
    hidden: dict[str, object] = {"simulated_launches": 0, "ops": [], "launches": []}
    assert longer.to_dict() | hidden == simulator.profile(past=101, reuse=False).to_dict() | hidden


@pytest.mark.parametrize(("channels", "interleave"), [(3, 128), (6, 64), (7, 256), (12, 512)])
def test_rows_are_counted_alike_for_any_number_of_channels(channels: int, interleave: int) -> None:
    """Addresses that the interleave cannot tell apart may still begin DRAM rows at different places."""
    changes = {"dram.channels": channels, "dram.interleave_bytes": interleave, "dram.bytes": channels << 30}
    program = compile_model(
        models.build("llama-tiny-wide", 0, "float32"), preset("mtia-2i").with_changes(changes),
        dims={"batch": 1, "sequence": 1, "past": (0, 16)},
    )  # fmt: skip
    simulator = Simulator(program)
    quick, full = simulator.profile(past=9), simulator.profile(past=9, reuse=False)
    assert quick.energy_parts_joules == full.energy_parts_joules
    assert (quick.cycles, quick.busy_cycles) == (full.cycles, full.busy_cycles)
