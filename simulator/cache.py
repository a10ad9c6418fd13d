"""The part of SRAM that caches DRAM: which lines it holds, which sectors of them, and since when.

A set-associative cache in which the line that came first is replaced; writes go through to DRAM and leave it as it is.
It is empty when a launch starts. A line is known by its place in the storage it belongs to, not by its address, so that
equal launches on other addresses hit and miss alike.

A row of `State.cache` is a set: per way `key * 2^16 + sectors`, then when each arrived, then the way to replace next.
Its last row holds the number of the launch, which is part of every key: that empties the cache without touching it.
"""

from __future__ import annotations

from typing import Any

from isa.memory_map import CACHE_SECTORS as SECTORS
from simulator import hardware as hw
from simulator.hardware import Integers
from simulator.jit import inlined_kernel

Scalar = Any
_SECTOR_SHIFT = SECTORS.bit_length() - 1
_LAUNCH_BITS, _STORAGE_BITS, _LINE_BITS = 8, 10, 29
_MOST_LAUNCHES = 1 << _LAUNCH_BITS


def start_launch(cache: Integers) -> None:
    """Empty the cache."""
    if cache[-1, 0] + 1 >= _MOST_LAUNCHES:
        cache.fill(0)
    cache[-1, 0] += 1


@inlined_kernel
def key_of(cache: Integers, storage: Scalar, line: Scalar) -> Scalar:
    """Return what a line of a storage (its number in the launch, -1 for none) is known by."""
    launch = cache[cache.shape[0] - 1, 0]
    number = (storage + 1) & ((1 << _STORAGE_BITS) - 1)
    return (((launch << _STORAGE_BITS) | number) << _LINE_BITS) | (line & ((1 << _LINE_BITS) - 1))


@inlined_kernel
def sectors_of(numbers: Integers, first: Scalar, end: Scalar) -> Scalar:
    """Return one bit per sector that the bytes first..end of a line touch."""
    shift = numbers[hw.CACHE_LINE_SHIFT] - _SECTOR_SHIFT
    low, high = first >> shift, ((end - 1) >> shift) + 1
    return ((1 << (high - low)) - 1) << (low & (SECTORS - 1))


@inlined_kernel
def next_row(numbers: Integers, row: Scalar) -> Scalar:
    """Return the set of the line behind one in set `row`; the set of a line is its key modulo their number."""
    return row + 1 if row + 1 < numbers[hw.CACHE_SETS] else 0


@inlined_kernel
def touch(numbers: Integers, cache: Integers, row: Scalar, key: Scalar, needed: Scalar) -> Scalar:
    """Use a line; return when it is there, or -1 if needed sectors are not: then they are on their way from now on."""
    ways = numbers[hw.CACHE_WAYS]
    for way in range(ways):
        entry = cache[row, way]
        if entry >> SECTORS == key:
            cache[row, way] = entry | needed
            return cache[row, ways + way] if entry & needed == needed else -1
    oldest = cache[row, 2 * ways]
    cache[row, oldest], cache[row, ways + oldest] = (key << SECTORS) | needed, 0
    cache[row, 2 * ways] = oldest + 1 if oldest + 1 < ways else 0
    return -1


@inlined_kernel
def arrive(numbers: Integers, cache: Integers, row: Scalar, key: Scalar, time: Scalar) -> None:
    """Note when a line that was missing is there, if it was not replaced in the meantime.

    One time serves the whole line: sectors that were there before count as coming with the last ones.
    """
    ways = numbers[hw.CACHE_WAYS]
    for way in range(ways):
        if cache[row, way] >> SECTORS == key:
            cache[row, ways + way] = time
            return
