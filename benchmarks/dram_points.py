"""The DRAM figures that the model is held to: Ramulator 2.1 (commit c5b1c3a), one channel, FR-FCFS, open page.

Bursts are of 32 bytes. `visit` bursts of a row are read or written before the next row; rows rotate over the banks,
four of different groups side by side, or are drawn at random with their bank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isa.machine import Machine, preset
from simulator.dram_check import bus_efficiency

BURSTS = 60_000
BANKS, SIDE_BY_SIDE = 16, 4
_CHANNEL = {"LPDDR5-6400": ("mtia-2i", 12.8e9), "HBM3-6400": ("hbm-concept", 25.6e9)}
"""By kind of memory: the preset with its timing, and the peak bandwidth of one (pseudo-)channel."""


@dataclass(frozen=True)
class Point:
    """A pattern of accesses, and the share of the peak that was measured."""

    memory: str
    visit: int
    refresh: str
    measured: float
    reads: float = 1.0
    is_random: bool = False
    gigabits: int = 8

    @property
    def conditions(self) -> str:
        """The pattern in words."""
        order = "random rows" if self.is_random else "rows in turn"
        reads = "" if self.reads == 1 else f", {self.reads:.0%} reads"
        return f"{32 * self.visit} B of {order}{reads}, refresh {self.refresh.replace('_', ' ')}"

    def machine(self) -> Machine:
        """Return a machine with one channel of this memory, without check bits."""
        name, rate = _CHANNEL[self.memory]
        refresh_ns = {("LPDDR5-6400", 8): 210.0, ("LPDDR5-6400", 16): 280.0}.get((self.memory, self.gigabits), 260.0)
        return preset(name).with_changes({
            "dram.channels": 1, "dram.bytes": 1 << 30, "dram.bytes_per_second": rate, "dram.ecc_efficiency": 1.0,
            "dram_timing.burst_bytes": 32, "dram_timing.refresh": self.refresh, "dram_timing.refresh_ns": refresh_ns,
        })  # fmt: skip

    def simulated(self) -> float:
        """Return the share of the peak that the model gives."""
        random = np.random.default_rng(0)
        visits = BURSTS // self.visit // BANKS * BANKS
        if self.is_random:
            bank = random.integers(0, BANKS, visits).repeat(self.visit)
            row = random.integers(0, 30_000, visits).repeat(self.visit)
        else:
            turns = np.arange(visits).reshape(-1, 1, SIDE_BY_SIDE).repeat(self.visit, 1).reshape(-1)
            bank, row = turns % BANKS, turns // BANKS
        is_write = (random.random(len(bank)) >= self.reads).astype(np.int64)
        return bus_efficiency(self.machine(), bank.astype(np.int64), row.astype(np.int64), is_write)


def _streams(memory: str, visits: tuple[int, ...], **by_refresh: tuple[float, ...]) -> list[Point]:
    return [
        Point(memory, visit, refresh, measured)
        for refresh, column in by_refresh.items()
        for visit, measured in zip(visits, column, strict=True)
    ]


POINTS: tuple[Point, ...] = (
    *_streams("LPDDR5-6400", (64, 8, 2, 1), none=(1.0, 1.0, 0.790, 0.5), all_bank=(0.933, 0.929, 0.733, 0.466),
              per_bank=(0.961, 0.955, 0.756, 0.466)),
    Point("LPDDR5-6400", 64, "all_bank", 0.915, gigabits=16),
    *_streams("HBM3-6400", (32, 8, 2, 1), none=(0.998, 0.998, 0.668, 0.334), all_bank=(0.918, 0.915, 0.613, 0.303)),
    *(Point("LPDDR5-6400", 64, "all_bank", measured, reads, gigabits=16)
      for reads, measured in ((0.9, 0.871), (0.5, 0.704), (0.0, 0.916))),
    *(Point("HBM3-6400", 32, "all_bank", measured, reads)
      for reads, measured in ((0.9, 0.834), (0.5, 0.590), (0.0, 0.918))),
    *(Point("LPDDR5-6400", visit, "all_bank", measured, is_random=True, gigabits=16)
      for visit, measured in ((1, 0.446), (8, 0.866), (32, 0.750))),
    *(Point("HBM3-6400", visit, "all_bank", measured, is_random=True)
      for visit, measured in ((1, 0.301), (8, 0.829), (32, 0.668))),
)  # fmt: skip
