"""One DRAM channel: banks and rows, bank groups, command bus, direction, refresh, and a queue that is reordered.

Each resource is a pointer to when it is free next, advanced by what every burst spends on it, so bursts overtake each
other as a controller that never idles would let them. What bounds the overtaking is the queue: a burst enters when one
of the `DRAM_QUEUE` before it has its data. `docs/timing.md` states the model and what it is held to.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator import hardware as hw
from simulator.hardware import Integers
from simulator.jit import inlined_kernel, inner_kernel

Scalar = Any

# Columns of a channel (`BUSY` is the time of data, and of refreshes that held them up): then per bank (open row + 1,
# when its row takes the next access, when it may open another), per group when it is free, and when each place of the
# queue gets free, in a ring from place `FIRST` on, the one that gets free first in front.
BUS, COMMANDS, ACTIVATIONS, REFRESH, REFRESHED, READS, WRITES, WAITING, BUSY, FIRST = range(10)
BANK = 10
ROW, ACCESS, CLOSED = range(3)


def columns(numbers: Integers) -> int:
    """Return how many numbers the state of a channel has."""
    return int(BANK + 3 * numbers[hw.DRAM_BANKS] + numbers[hw.DRAM_GROUPS] + numbers[hw.DRAM_QUEUE])


def start(numbers: Integers, channels: Integers) -> None:
    """Bring channels to the start of a launch: rows are closed, and first refreshes spread over one period."""
    count = channels.shape[0]
    channels.fill(0)
    channels[:, REFRESH] = numbers[hw.REFRESH_PERIOD_TICKS] * np.arange(1, count + 1) // count


@inner_kernel
def _refresh(numbers: Integers, channel: Integers, time: Scalar) -> None:
    """Let the refreshes up to `time` happen: nothing else goes on meanwhile, and rows are closed."""
    banks, block, wanted = numbers[hw.DRAM_BANKS], numbers[hw.REFRESH_BLOCK_TICKS], time
    while numbers[hw.REFRESH_PERIOD_TICKS] > 0 and channel[REFRESH] <= time:
        due = channel[REFRESH]
        busy = max(max(channel[BUS], channel[COMMANDS]), channel[ACTIVATIONS])
        end = max(due, busy) + block
        channel[BUSY] += max(min(end - wanted, block), 0)
        time = max(time, end)
        channel[BUS], channel[COMMANDS], channel[ACTIVATIONS] = end, end, end
        for group in range(numbers[hw.DRAM_GROUPS]):
            place = BANK + 3 * banks + group
            channel[place] = max(channel[place], end)
        if numbers[hw.BANK_REFRESH_TICKS] > 0:
            place = BANK + 3 * channel[REFRESHED]
            channel[place + ROW] = 0
            channel[place + CLOSED] = max(channel[place + CLOSED], due) + numbers[hw.BANK_REFRESH_TICKS]
            channel[REFRESHED] = (channel[REFRESHED] + 1) % banks
        else:
            for bank in range(banks):
                channel[BANK + 3 * bank + ROW] = 0
                channel[BANK + 3 * bank + CLOSED] = end
        channel[REFRESH] += numbers[hw.REFRESH_PERIOD_TICKS]


@inlined_kernel
def _turn(numbers: Integers, channel: Integers, bursts: Scalar, is_write: Scalar) -> None:
    """Count bursts by direction; the bus turns to writes and back once per batch of them, if there are reads."""
    channel[WRITES if is_write else READS] += bursts
    if channel[WRITES] >= numbers[hw.WRITE_BATCH] and channel[READS] > 0:
        channel[BUS] += numbers[hw.TURN_TICKS]
        channel[WRITES], channel[READS] = 0, 0


@inner_kernel
def serve_stream(numbers: Integers, channel: Integers, bursts: Scalar, is_write: Scalar, start: Scalar) -> Scalar:
    """Serve bursts that change banks often enough to keep the bus busy; return when the last one passes."""
    _refresh(numbers, channel, max(channel[BUS], start))
    _turn(numbers, channel, bursts, is_write)
    burst, left = numbers[hw.BURST_TICKS], bursts
    channel[BUSY] += bursts * burst
    while left > 0:
        begin = max(channel[BUS], start)
        room = left
        if numbers[hw.REFRESH_PERIOD_TICKS] > 0:
            room = min(left, max(1, (channel[REFRESH] - begin + burst - 1) // burst))
        channel[BUS] = begin + room * burst
        left -= room
        if left > 0:
            _refresh(numbers, channel, channel[BUS])
    channel[WAITING] = 0
    return channel[BUS]


@inlined_kernel
def _enter(numbers: Integers, channel: Integers, start: Scalar) -> Scalar:
    """Return when a burst gets a place in the queue: at once, or when the first place gets free."""
    if channel[WAITING] < numbers[hw.DRAM_QUEUE]:
        return start
    return max(start, channel[BANK + 3 * numbers[hw.DRAM_BANKS] + numbers[hw.DRAM_GROUPS] + channel[FIRST]])


@inlined_kernel
def _occupy_place(numbers: Integers, channel: Integers, time: Scalar) -> None:
    """Take a place until a time. Times mostly rise, so it takes few steps to keep the ring in order."""
    ring, size = BANK + 3 * numbers[hw.DRAM_BANKS] + numbers[hw.DRAM_GROUPS], numbers[hw.DRAM_QUEUE]
    if channel[WAITING] == size:
        channel[FIRST] = channel[FIRST] + 1 if channel[FIRST] + 1 < size else 0
        channel[WAITING] -= 1
    place = channel[FIRST] + channel[WAITING]
    place -= size if place >= size else 0
    for _ in range(channel[WAITING]):
        before = place - 1 if place > 0 else size - 1
        if channel[ring + before] <= time:
            break
        channel[ring + place] = channel[ring + before]
        place = before
    channel[ring + place] = time
    channel[WAITING] += 1


@inner_kernel
def serve_bursts(
    numbers: Integers, channel: Integers, bank: Scalar, row: Scalar, bursts: Scalar, is_write: Scalar, start: Scalar
) -> Scalar:
    """Serve bursts of a row one after another; return when the last passes, activation of the row not counted."""
    banks, place, passed = numbers[hw.DRAM_BANKS], BANK + 3 * bank, start
    group = BANK + 3 * banks + bank % numbers[hw.DRAM_GROUPS]
    # Read once: the compiler cannot know that the channel's state is not among the numbers.
    burst, group_burst, command = numbers[hw.BURST_TICKS], numbers[hw.GROUP_BURST_TICKS], numbers[hw.COMMAND_TICKS]
    closing = numbers[hw.WRITE_CLOSE_TICKS if is_write else hw.READ_CLOSE_TICKS]
    latency, activation = numbers[hw.READ_LATENCY_TICKS], numbers[hw.ACTIVATE_TICKS]
    has_refresh = numbers[hw.REFRESH_PERIOD_TICKS] > 0
    for _ in range(bursts):
        entered = _enter(numbers, channel, start)
        now = max(max(max(channel[BUS], channel[COMMANDS]), channel[ACTIVATIONS]), entered)
        if has_refresh and channel[REFRESH] <= now:
            _refresh(numbers, channel, now)
        commands = command
        if channel[place + ROW] != row + 1:
            commands += numbers[hw.ROW_COMMANDS] * command
            possible = max(channel[ACTIVATIONS], entered)
            channel[ACTIVATIONS] = possible + numbers[hw.ACTIVATE_SPACING_TICKS]
            opened = max(possible, channel[place + CLOSED])
            channel[place + ROW] = row + 1
            channel[place + ACCESS] = opened + activation
            channel[place + CLOSED] = opened + numbers[hw.ROW_CYCLE_TICKS]
        begin = max(channel[place + ACCESS], entered)
        channel[place + ACCESS] = begin + group_burst
        _turn(numbers, channel, 1, is_write)
        bus = max(channel[BUS], entered) + burst
        used = max(channel[COMMANDS], entered) + commands
        shared_group = max(channel[group], entered) + group_burst
        channel[BUS], channel[COMMANDS], channel[group] = bus, used, shared_group
        channel[BUSY] += burst
        shared = max(max(bus, used), shared_group)
        done = max(shared, begin + burst)
        channel[place + CLOSED] = max(channel[place + CLOSED], done + closing)
        _occupy_place(numbers, channel, done + latency)
        passed = max(passed, max(shared, done - activation))
    return passed
