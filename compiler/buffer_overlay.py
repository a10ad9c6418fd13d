"""Buffers of one kernel that are never in use at the same time lie over one another in local memory.

A kernel is cut by the meetings of its PEs in stretches of time. When PEs have met, all data that were handed over
before are used up, so that what a buffer of an earlier stretch took is free for those of later ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from isa.kernel import BASE_ALIGNMENT_BYTES, Buffer


def overlaid(buffers: Sequence[Buffer], stretches: Sequence[AbstractSet[int]]) -> tuple[Buffer, ...]:
    """Return buffers with places, apart where any of their stretches is the same: the largest first, each lowest."""
    order = sorted(range(len(buffers)), key=lambda number: (-buffers[number].bytes, number))
    bases = dict[int, int]()
    for number in order:
        met = [other for other in bases if not stretches[number].isdisjoint(stretches[other])]
        base = 0
        for other in sorted(met, key=bases.__getitem__):
            if bases[other] >= base + buffers[number].bytes:
                break
            base = max(base, _aligned(bases[other] + buffers[other].bytes))
        bases[number] = base
    return tuple(replace(buffer, base_bytes=bases[number]) for number, buffer in enumerate(buffers))


def _aligned(offset: int) -> int:
    return -(-offset // BASE_ALIGNMENT_BYTES) * BASE_ALIGNMENT_BYTES
