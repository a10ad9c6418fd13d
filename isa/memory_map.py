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
