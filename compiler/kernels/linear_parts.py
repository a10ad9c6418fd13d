"""Parts of K of a linear: neighbours pass the sums of an accumulator to the one of them that owns it."""

from __future__ import annotations

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
