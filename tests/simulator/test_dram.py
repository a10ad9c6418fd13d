"""The model of a DRAM channel: against its plain twin, tick by tick, and against Ramulator's figures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.dram_points import POINTS
from isa.machine import preset
from simulator import dram
from simulator import hardware as hw
from simulator.dram_check import bus_efficiency
from simulator.hardware import Integers, hardware_of
from simulator.jit import kernel
from tests.naive_dram import NaiveChannel


@kernel
def _serve(numbers: Integers, channel: Integers, requests: Integers, ends: Integers) -> None:
    for index in range(len(requests)):
        bursts, bank, row, is_write, start = requests[index]
        if bursts == 0:
            ends[index] = dram.serve_bursts(numbers, channel, bank, row, 1, is_write, start)
        else:
            ends[index] = dram.serve_stream(numbers, channel, bursts, is_write, start)


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from((0, 0, 0, 0, 1, 8, 64, 3000)), st.integers(0, 15), st.integers(0, 3), st.booleans(),
        st.sampled_from((0, 0, 0, 700, 90_000, 9_000_000)),
    ),
    min_size=1, max_size=120,
)  # fmt: skip
"""(bursts of a stream, 0 for a single burst; bank; row; whether it is written; ticks since the request before)."""


@settings(max_examples=60, deadline=None)
@given(
    requests=REQUESTS,
    refresh=st.sampled_from(("all_bank", "per_bank", "none")),
    name=st.sampled_from(("mtia-2i", "hbm-concept")),
)
def test_the_twin_agrees(requests: list[tuple[int, int, int, bool, int]], refresh: str, name: str) -> None:
    """Every burst and stream ends at the same tick, and the channel is never busy for longer than time passes."""
    machine = preset(name).with_changes({"dram_timing.refresh": refresh})
    numbers = hardware_of(machine).numbers
    channels = np.zeros((1, dram.columns(numbers)), np.int64)
    dram.start(numbers, channels)
    table = np.array(requests, np.int64)
    table[:, 4] = np.cumsum(table[:, 4])
    ends = np.zeros(len(table), np.int64)
    _serve(numbers, channels[0], table, ends)
    naive = NaiveChannel(numbers)
    for (bursts, bank, row, is_write, start), end in zip(table.tolist(), ends, strict=True):
        expected = naive.stream(bursts, is_write, start) if bursts else naive.burst(bank, row, is_write, start)
        assert end == expected
    assert channels[0, dram.BUSY] <= max(naive.bus, int(ends.max()))


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point.memory}: {point.conditions}")
def test_each_point_of_ramulator(point: object) -> None:
    """No pattern is further off than 8 %."""
    assert abs(point.simulated() / point.measured - 1) < 0.08  # type: ignore[attr-defined]


def test_the_mean_error_is_small() -> None:
    assert np.mean([abs(point.simulated() / point.measured - 1) for point in POINTS]) < 0.03


def _efficiency(name: str, bursts: int, *, is_random: bool) -> float:
    """Return the use of one pseudo-channel of a preset by reads of so many bursts of 32 bytes per row."""
    machine = preset(name).with_changes({
        "dram.channels": 1, "dram.bytes": 1 << 30, "dram_timing.burst_bytes": 32,
        "dram.bytes_per_second": preset(name).dram.bytes_per_second / preset(name).dram.channels / 2,
    })  # fmt: skip
    visits = 256_000 // bursts
    if is_random:
        bank, row = (np.random.default_rng(0).integers(0, high, visits).repeat(bursts) for high in (16, 30_000))
    else:  # four banks of different groups side by side
        turns = np.arange(visits).reshape(-1, 1, 4).repeat(bursts, 1).reshape(-1)
        bank, row = turns % 16, turns // 16
    return bus_efficiency(machine, bank, row, np.zeros(len(bank), np.int64))


@pytest.mark.parametrize("name", ["mtia-300", "mtia-400", "mtia-450", "mtia-500"])
def test_streams_reach_what_refresh_leaves(name: str) -> None:
    """Whole rows in turn: 92 % of the peak, as is measured of HBM3 and of HBM3E systems."""
    assert _efficiency(name, 32, is_random=False) == pytest.approx(0.92, abs=0.01)


def test_random_chunks_of_hbm3e_are_bound_by_activations() -> None:
    """32 bytes of random rows come at the rate of HBM3, since activations take the same time: a smaller share."""
    slow, fast = (_efficiency(name, 1, is_random=True) for name in ("hbm-concept", "mtia-300"))
    assert slow == pytest.approx(0.301, rel=0.05)  # Ramulator
    assert fast == pytest.approx(slow * 6.4 / 8.0, rel=0.05)


FASTER: dict[str, dict[str, object]] = {
    "twice the bandwidth": {"dram.bytes_per_second": 2 * 204.8e9},
    "no check bits": {"dram.ecc_efficiency": 1.0},
    "half the row cycle": {"dram_timing.row_cycle_ns": 30.0, "dram_timing.activate_to_read_ns": 9.0},
    "no refresh": {"dram_timing.refresh": "none"},
    "a longer queue": {"dram_timing.queue_entries": 64},
}


@pytest.mark.parametrize("change", FASTER)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 30), visit=st.sampled_from((1, 2, 8, 32)), writes=st.sampled_from((0.0, 0.3)))
def test_faster_parts_are_not_slower(change: str, seed: int, visit: int, writes: float) -> None:
    """Random rows of any length: what gets faster never costs more than 3 % of the time, by the order it changes."""
    random = np.random.default_rng(seed)
    bank, row = (random.integers(0, high, 400).repeat(visit) for high in (16, 50))
    is_write = (random.random(len(bank)) < writes).astype(np.int64)
    machines = (preset("mtia-2i"), preset("mtia-2i").with_changes(FASTER[change]))
    slow, fast = (
        int(hardware_of(machine).numbers[hw.BURST_TICKS]) / bus_efficiency(machine, bank, row, is_write)
        for machine in machines
    )
    assert fast <= 1.03 * slow


@pytest.mark.parametrize("bursts", [64, 500, 40_000])
def test_a_stream_is_what_its_bursts_are(bursts: int) -> None:
    """Costed in bulk or burst by burst over the banks in turn, a stream takes the same time but for one refresh."""
    numbers = hardware_of(preset("mtia-2i")).numbers
    ends = []
    for whole in (True, False):
        channels = np.zeros((1, dram.columns(numbers)), np.int64)
        dram.start(numbers, channels)
        index = np.arange(1 if whole else bursts)
        columns = (np.full(len(index), bursts if whole else 0), index // 8 % 16, index // 1024, 0 * index, 0 * index)
        found = np.zeros(len(index), np.int64)
        _serve(numbers, channels[0], np.stack(columns, axis=1).astype(np.int64), found)
        ends.append(int(found.max()))
    assert ends[0] == pytest.approx(ends[1], rel=0.005, abs=20 * 1024)
