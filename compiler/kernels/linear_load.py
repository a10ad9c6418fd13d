"""Core A of a linear kernel: chunks of the weight and of an x that is not resident, and what results start from."""

from __future__ import annotations

from contextlib import ExitStack

from compiler.kernel_builder import EARLY, ZERO, BufferHandle, Register
from compiler.kernels.linear_walk import Walk
from compiler.linear_cost import loading_cycles, matrix_cycles, waits_for_weights

EARLY_PAUSE = 2
"""Pause behind an early chunk, in what it takes at the port: half of that is left to what makes and stores x."""


class Loader(Walk):
    """Core A: everything that comes in but what core B loads with a resident x."""

    def emit(self) -> None:
        core, mapping = self.core, self.mapping
        self.weight_tile, self.x_row = core.register(), core.register()
        self._prepare()
        if mapping.loads_early:
            self._load_early()
            if not mapping.loads_constants:
                core.await_inputs()
            if self.buffers.begun is not None:
                core.emit("lw", destination=ZERO, a=self.buffers.begun)
                core.pop(self.buffers.begun)
        for _ in self.tiles():
            self._load_beside_chunks()
            self._load_chunks(self.weight_tile, self.x_row)
            if not self.loads_initial_late:
                self._load_finish()
        if mapping.loads_constants:
            core.await_inputs()

    def _load_beside_chunks(self) -> None:
        """Load what a tile needs besides chunks."""
        if not self.loads_initial_late:
            self._load_start()

    def _begin_rows(self) -> None:
        if not self.mapping.streams_constants:
            self.find_x(self.x_row)

    def _begin_outputs(self) -> None:
        self._find_first_tile(self.weight_tile)

    def _end_outputs(self) -> None:
        self._find_next_tile(self.weight_tile)

    def _load_early(self) -> None:
        """Load the first chunks of the weight, if this PE has a tile, and note their number."""
        core, mapping = self.core, self.mapping
        self.early = core.register()
        with core.scratch() as tiles, core.scratch() as most:
            core.subtract(core.load_argument("output_tiles", tiles), self.index, tiles)
            core.minimum(tiles, 1, tiles)
            core.maximum(tiles, 0, tiles)
            limit = core.copy(mapping.early_chunks, most) if mapping.early_chunks else core.load_argument(EARLY, most)
            core.minimum(self.own_chunks(self.early), limit, self.early)
            core.multiply(self.early, tiles, self.early)
        with ExitStack() as block:
            if self._may_come_ahead():
                block.enter_context(core.ahead())
            weight = block.enter_context(core.scratch())
            self._find_first_tile(weight)
            with core.loop(self.early):
                self._load_weight(weight)
                if mapping.early_chunks:
                    self._let_others_pass(EARLY_PAUSE)

    def _may_come_ahead(self) -> bool:
        """Tell whether the first chunks may come before what other operations load.

        They may if nothing is lost by that, as DRAM takes longest; or if products before them take longer than it does.
        """
        mapping, machine = self.mapping, self.machine
        if mapping.streams_constants:
            return matrix_cycles(mapping, machine) > loading_cycles(mapping, machine)
        return mapping.shares_slots and waits_for_weights(mapping, machine)

    def _prepare(self) -> None:
        """Note how many bytes of the weight a tile has."""
        core, bytes_of_chunk = self.core, self.mapping.weight_chunk_bytes * self.mapping.k_parts
        self.tile_step = core.multiply(core.argument("chunks"), bytes_of_chunk, core.register())

    def _find_first_tile(self, weight_tile: Register) -> None:
        """Point at the weight of this PE's first tile, and of its part of K."""
        core = self.core
        core.multiply(self.index, self.tile_step, weight_tile)
        with core.scratch() as base:
            core.increase(weight_tile, core.load_argument("weight", base))
            if self.k_part is not None:
                core.multiply(core.argument("chunks"), self.k_part, base)
                core.increase(weight_tile, core.multiply(base, self.mapping.weight_chunk_bytes, base))

    def _find_next_tile(self, weight_tile: Register) -> None:
        """Point at the weight of this PE's next tile."""
        with self.core.scratch() as step:
            self.core.multiply(self.stride, self.tile_step, step)
            self.core.increase(weight_tile, step)

    def _load_chunks(self, weight_tile: Register, x_row: Register) -> None:
        """Load the chunks of a tile but those of the weight that were loaded early."""
        core, mapping = self.core, self.mapping
        with ExitStack() as lent:
            weight, chunks = lent.enter_context(core.scratch()), lent.enter_context(core.scratch())
            place = None
            if not (mapping.resident or mapping.streams_constants):
                place = lent.enter_context(core.scratch()), lent.enter_context(core.scratch())
                self.find_first_chunk(x_row, *place)
            core.copy(weight_tile, weight)
            self.own_chunks(chunks)
            if mapping.loads_early:
                if place is not None:
                    with core.loop(self.early):
                        self.load_x(*place)
                core.subtract(chunks, self.early, chunks)
                core.multiply(self.early, mapping.weight_chunk_bytes, self.early)
                core.increase(weight, self.early)
                core.copy(0, self.early)
            with core.loop(chunks):
                # A computed second operand is turned next; one from DRAM comes behind x, for which PEs wait together.
                if place is not None and not mapping.shape.is_computed:
                    self.load_x(*place)
                self._load_weight(weight)
                if place is not None and mapping.shape.is_computed:
                    self.load_x(*place)
                self._end_chunk()

    def _end_chunk(self) -> None:
        """Do what follows when a chunk of both operands is on its way."""

    def _load_weight(self, weight: Register) -> None:
        """Load the chunk at the address `weight`, with what it is expanded with; the address moves to the next."""
        core, mapping = self.core, self.mapping
        core.emit(
            "dma_in", out=self.buffers.weight, address=weight, rows=1, row_bytes=mapping.weight_chunk_bytes,
            broadcast=self._broadcast(mapping.weight_receivers),
        )  # fmt: skip
        core.push(self.buffers.weight)
        self._load_auxiliary(weight, "scales", self.buffers.scales, mapping.scale_chunk_bytes)
        self._load_auxiliary(weight, "zero_points", self.buffers.zero_points, mapping.zero_point_chunk_bytes)
        core.increase(weight, mapping.weight_chunk_bytes)
        if mapping.shares_slots:
            self._let_others_pass()

    def _let_others_pass(self, chunks: int = 1) -> None:
        """Ask for no more than passes the port: commands of core B would wait behind all that core A has asked for.

        The pause is as long as it takes so many chunks.
        """
        mapping = self.mapping
        chunk_bytes = mapping.weight_chunk_bytes + mapping.scale_chunk_bytes + mapping.zero_point_chunk_bytes
        self.core.pause(int(chunks * chunk_bytes / self.machine.dma.bytes_per_cycle))

    def _load_auxiliary(self, weight: Register, name: str, buffer: BufferHandle | None, size: int) -> None:
        """Load the scales or zero points of the chunk at the address `weight`, if it is packed."""
        if buffer is None:
            return
        core = self.core
        with core.scratch() as address, core.scratch() as base:
            core.subtract(weight, core.load_argument("weight", base), address)
            core.compute("div", address, self.mapping.weight_chunk_bytes, address)
            core.multiply(address, size, address)
            core.increase(address, core.load_argument(name, base))
            core.emit(
                "dma_in", out=buffer, address=address, rows=1, row_bytes=core.copy(size, base),
                broadcast=self._broadcast(self.mapping.weight_receivers),
            )  # fmt: skip
        core.push(buffer)
