"""Core B's share of loads: an x that stays in local memory, which it gives back in the end."""

from __future__ import annotations

from compiler.kernels.linear_walk import Walk


class ResidentLoader(Walk):
    """Loads x, and gives it back."""

    def load_resident_x(self) -> None:
        """Load all of x: transfers of a core complete in order, so one of core A would be there behind all weights."""
        core = self.core
        with core.scratch() as address, core.scratch() as pitch, core.scratch() as rows:
            core.emit(
                "dma_in", out=self.buffers.x, out_pitch=core.argument("k_bytes"),
                address=core.load_argument("x", address), address_pitch=core.load_argument("x_pitch", pitch),
                rows=core.load_argument("rows", rows), row_bytes=core.argument("k_bytes"),
                broadcast=self._broadcast(self.mapping.x_receivers),
            )  # fmt: skip
        core.push(self.buffers.x)

    def give_x_back(self) -> None:
        """Pop a resident x. A PE without a tile has read none of it yet, and so does: no blocks of K."""
        core = self.core
        if not self.mapping.uses_up_x:
            with core.scratch() as tiles, core.when_at_least(self.index, core.load_argument("output_tiles", tiles)):
                core.emit(
                    self.mapping.instruction, bank=0, a=self.buffers.x, b=self.buffers.x, k_blocks=0, rows=1, columns=1,
                    a_dtype=self.mapping.shape.dtype.name, accumulate="set",
                )  # fmt: skip
        core.pop(self.buffers.x)
