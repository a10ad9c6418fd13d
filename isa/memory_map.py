"""Device addresses: shared SRAM and DRAM lie in one 64-bit address space, far apart.

A device address minus the base of its space is the byte index in that memory.
"""

from __future__ import annotations

from typing import Literal

Space = Literal["sram", "dram"]

SRAM_BASE = 1 << 40
DRAM_BASE = 1 << 41
BASES: dict[Space, int] = {"sram": SRAM_BASE, "dram": DRAM_BASE}


def space_of(address: int) -> Space | None:
    """Return the memory that a device address lies in, or None below the first one."""
    if address >= DRAM_BASE:
        return "dram"
    return "sram" if address >= SRAM_BASE else None


def byte_index(address: int) -> int:
    """Return the byte index of a device address in its memory; raises ValueError if it lies in none."""
    space = space_of(address)
    if space is None:
        raise ValueError(f"address {address:#x} lies in no memory")
    return address - BASES[space]


MINIMUM_PERIOD_BYTES = 65536
"""Interleaving folds address bits until its pattern is at least this long, so that power-of-two pitches spread."""


BANK_FOLDS = 2
"""Units of a channel choose its bank by the sum of two digits in base `banks`: such pitches spread there too."""


CACHE_SECTORS = 16
"""Parts of a cache line that are fetched one by one."""
MOST_CACHE_LINES = 1 << 29
"""Lines of DRAM that the simulator's cache can tell apart."""


def fold_count(units: int, interleave_bytes: int) -> int:
    """Return how many digits (base `units`) of the interleave index are added up to choose a slice or channel."""
    folds = 1
    while units > 1 and units**folds * interleave_bytes < MINIMUM_PERIOD_BYTES:
        folds += 1
    return folds


def interleave_period_bytes(units: int, interleave_bytes: int) -> int:
    """Return the distance after which addresses meet the same slices or channels again."""
    period: int = units ** fold_count(units, interleave_bytes) * interleave_bytes
    return max(period, interleave_bytes)
