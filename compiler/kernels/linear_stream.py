"""Chunks of x that core B of a linear loads, ahead of its products and beyond the ends of tiles."""

from __future__ import annotations

from compiler.kernels.linear_walk import Walk
from isa.machine import Machine

_WORD_BYTES = 4


def word_bytes(machine: Machine) -> int:
    """Return the bytes of x that core B sends core A as a sign: a word, or as much as a transfer must bring."""
    return max(_WORD_BYTES, machine.dma.alignment_bytes)


class XStream:
    """Where the next chunk of x is, and how many are left, in registers of core B; for a single tile of rows.

    Transfers of a core complete in order. So x does not come behind weights, which core A loads, and these are on their
    way as long as they have slots, whatever becomes of x. But the port of a PE serves core A first if both ask: where
    little time is before x, core A asks for a few chunks of the weight until it gets a word that comes behind the first
    chunk of x, and ahead of that the second one passes, which would wait for all slots of the weight otherwise.
    """

    def __init__(self, walk: Walk) -> None:
        core = walk.core
        self.walk, self.core = walk, core
        self.address, self.left = core.register(), core.register()
        """Where the next chunk begins, and how many bytes of the rows are left there."""
        self.unloaded = core.register()
        """Chunks of all tiles that are not on their way."""

    def begin(self) -> None:
        """Point at the first chunk, as soon as it is known which rows the PE has."""
        core, walk = self.core, self.walk
        walk.count_output_tiles(self.unloaded)
        with core.scratch() as chunks:
            core.multiply(self.unloaded, walk.own_chunks(chunks), self.unloaded)
        self._go_back()

    def load_first(self) -> None:
        """Load the chunks that come before the first products; nothing in later tiles."""
        core, begun, ahead = self.core, self.walk.buffers.begun, self.walk.mapping.x_slots - 1
        with self.walk.in_first_tile():
            if begun is not None:
                ahead -= 1
                with core.scratch() as first:
                    core.copy(self.address, first)
                    self.load_next()
                    core.emit("dma_in", out=begun, address=first, rows=1, row_bytes=word_bytes(self.walk.machine))
                core.push(begun)
            if ahead:
                with core.scratch() as left, core.loop(core.copy(ahead, left)):
                    self.load_next()

    def load_next(self) -> None:
        """Load a chunk, if there is one left; behind the last of a tile comes the first of the next."""
        core = self.core
        with core.when_less(0, self.unloaded):
            self.walk.load_x(self.address, self.left)
            core.increase(self.unloaded, -1)
            with core.when_at_least(0, self.left):
                self._go_back()

    def _go_back(self) -> None:
        self.walk.find_x(self.address)
        self.walk.find_first_chunk(self.address, self.address, self.left)
