"""One DRAM channel alone: how much of the bus a list of bursts uses. For validation; programs do not come here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulator import dram
from simulator import hardware as hw
from simulator.dram import Scalar
from simulator.hardware import Integers, hardware_of
from simulator.jit import kernel

if TYPE_CHECKING:
    from isa.machine import Machine


@kernel
def _serve(numbers: Integers, channel: Integers, bank: Integers, row: Integers, is_write: Integers) -> Scalar:
    last = 0
    for index in range(len(bank)):
        done = dram.serve_bursts(numbers, channel, bank[index], row[index], 1, is_write[index], 0)
        last = max(last, done)
    return last


def bus_efficiency(machine: Machine, bank: Integers, row: Integers, is_write: Integers) -> float:
    """Return the share of time in which a channel moves data, for bursts that are all waiting from the start.

    `bank`, `row` and `is_write` are int64[n]; check bits count as data.
    """
    numbers = hardware_of(machine).numbers
    channels = np.zeros((1, dram.columns(numbers)), dtype=np.int64)
    dram.start(numbers, channels)
    ticks = _serve(numbers, channels[0], bank, row, is_write)
    return len(bank) * int(numbers[hw.BURST_TICKS]) / int(ticks)
