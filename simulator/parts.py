"""From the counters of a launch to those of its parts, the operations that were merged into it.

A part lasts from the end of the one before, the first one from the start of the launch, until the last command of it
and of all before it is complete on the last PE; the last one until the launch ends. So parts share out the time of the
launch. What a part counts is what its own commands did, whenever they did it: also while the part before it lasted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simulator import state as st
from simulator.state import Integers

_BYTES_BY_SERVER = {
    st.CHANNELS: [st.DRAM_READ, st.DRAM_WRITTEN],
    st.SRAM_BANKS: [st.SRAM_READ, st.SRAM_WRITTEN, st.CACHE_HIT, st.CACHE_FILLED],
    st.LINKS: [st.BYTE_HOPS],
}
"""By row of `Stats.server_busy` the counters of bytes that its work is shared out by."""


@dataclass(frozen=True)
class TimedPart:
    """When a part ended, in ticks from the start of its launch, how long it lasted, and its counters."""

    end_ticks: int
    ticks: int
    stats: st.Stats


def sum_up(stats: st.Stats) -> None:
    """Add what was booked on parts to the counters of the launch."""
    stats.counts[:] += stats.parts[:, : st.COUNTERS].sum(axis=0)


def parts_of(stats: st.Stats, ticks: int) -> Iterator[TimedPart]:
    """Return the parts of a launch that took so many ticks, from its counters, summed up."""
    ends = np.maximum.accumulate(stats.parts[:, st.PART_END])
    ends[-1] = ticks
    for index, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        row = stats.parts[index]
        counted = st.Stats(row[: st.COUNTERS], _server_busy(stats, row), stats.parts[index : index + 1])
        yield TimedPart(int(end), int(end - start), counted)


def _server_busy(stats: st.Stats, part: Integers) -> Integers:
    """Return a part's share of what banks, links and channels did: that of the bytes they moved."""
    busy = np.zeros_like(stats.server_busy)
    for server, counters in _BYTES_BY_SERVER.items():
        whole = int(stats.counts[counters].sum())
        if whole:
            busy[server] = stats.server_busy[server] * (int(part[counters].sum()) / whole)
    return busy
