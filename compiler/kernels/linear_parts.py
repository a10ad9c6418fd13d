"""Parts of K of a linear: neighbours pass the sums of an accumulator to the one of them that owns it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from compiler.kernel_builder import ZERO, CoreBuilder, Register
from compiler.linear_mapping import LinearMapping


def add_parts(
    core: CoreBuilder, mapping: LinearMapping, part: Register, bank: int, owner: int, extent: dict[str, Any]
) -> None:
    """Pass the sums of an accumulator on to the owner from either side; each part on the way adds its own."""
    last = mapping.k_parts - 1
    before, behind = ("west", "east") if mapping.is_turned else ("north", "south")
    with core.scratch() as ours, core.scratch() as end:
        core.copy(owner, ours)
        core.copy(last, end)
        with core.when_less(ZERO, part), core.when_at_least(ours, part):
            core.emit("acc_add", bank=bank, direction=before, **extent)
        with core.when_less(part, ours):
            core.emit("acc_send", bank=bank, direction=behind, **extent)
        with core.when_less(part, end), core.when_at_least(part, ours):
            core.emit("acc_add", bank=bank, direction=behind, **extent)
        with core.when_less(ours, part):
            core.emit("acc_send", bank=bank, direction=before, **extent)


def exchanged_blocks(mapping: LinearMapping) -> list[tuple[int, int]]:
    """Return blocks of rows of the first and the second of two parts of K that send each other sums: all have rows."""
    owners = mapping.owners
    is_full = len(owners) == -(-mapping.shape.rows // mapping.block_rows)
    if mapping.k_parts != 2 or mapping.shape.is_computed or not is_full:
        return []
    first, second = ([block for block, owner in enumerate(owners) if owner == part] for part in range(2))
    return list(zip(first, second, strict=False))


Bank = tuple[int, dict[str, Any]]
"""An accumulator, and the rows and columns of it that are used."""


def exchange_parts(
    core: CoreBuilder, mapping: LinearMapping, part: Register, first: Sequence[Bank], second: Sequence[Bank]
) -> None:
    """Let the first of two parts get the sums of some accumulators, and the second those of as many others.

    A link holds one accumulator in each direction: both send one, then both add what has come.
    """
    before, behind = ("west", "east") if mapping.is_turned else ("north", "south")
    ways = ((second, first, behind), (first, second, before))
    for number, (sent, added, direction) in enumerate(ways):
        with core.scratch() as ours, ExitStack() as inside:
            inside.enter_context(core.when_equal(part, core.copy(number, ours)))
            for (sent_bank, sent_extent), (added_bank, added_extent) in zip(sent, added, strict=True):
                core.emit("acc_send", bank=sent_bank, direction=direction, **sent_extent)
                core.emit("acc_add", bank=added_bank, direction=direction, **added_extent)
