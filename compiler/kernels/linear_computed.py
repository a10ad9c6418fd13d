"""A linear whose second operand is computed: it lies in SRAM as [N, K] or [K, N], not packed in tiles.

Rows of [N, K] are read as they are multiplied. A chunk of [K, N] is loaded as it lies and turned by the layout unit, at
the command of core A, so that this runs ahead of the products as loading does. It is turned when the next ones, as many
as have slots, are on their way: commands that wait for a chunk would fill the layout unit's queue and hold up core A.
Tiles beyond the last column read some other part, because broadcasts are collective; their products are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from compiler.kernel_builder import ZERO, CoreBuilder, Register
from compiler.kernels.linear_compute import Multiplier
from compiler.kernels.linear_load import Loader
from compiler.kernels.linear_walk import Buffers
from compiler.linear_mapping import LinearMapping, padded_outputs
from isa.machine import Machine

MOST_CHUNKS_AHEAD = 2
"""Chunks that are loaded before one is turned: so many have room in the queue of transfers."""
SHORTEST_ROW_BYTES = 32
"""What a tile beyond the last column reads of each row of [K, N]."""


class ComputedLoader(Loader):
    """Core A: chunks of x and of rows, which it turns where they are rows of K."""

    def __init__(self, mapping: LinearMapping, machine: Machine, core: CoreBuilder, buffers: Buffers) -> None:
        super().__init__(mapping, machine, core, buffers)
        self.present = core.register()
        """Rows of the tile's [N, K], or bytes of its rows of [K, N], that are there."""
        self.left = core.register()
        """Bytes of K, or rows of K, that are still to be loaded for the tile."""
        if self._is_turned:
            self.loaded, self.unturned = core.register(), core.register()
            """Chunks that may be turned; rows of K that are still to be turned for the tile."""

    def emit(self) -> None:
        """Load everything, and turn what is not turned yet."""
        core = self.core
        super().emit()
        if self._is_turned:
            core.increase(self.loaded, self._chunks_ahead)
            with core.loop(self.loaded):
                self._turn()

    @property
    def _chunks_ahead(self) -> int:
        """Chunks that are loaded before one is turned, besides this."""
        return min(MOST_CHUNKS_AHEAD, self.mapping.weight_slots - 1)

    @property
    def _is_turned(self) -> bool:
        return self.mapping.shape.factor == "columns"

    def _prepare(self) -> None:
        """Begin to turn; tiles are found by their first output."""
        if self._is_turned:
            self.core.copy(-self._chunks_ahead, self.loaded)
            self._own_inputs(self.unturned)

    def _own_inputs(self, into: Register) -> Register:
        """Set `into` to the rows of K that this PE has."""
        return self.own_k("inputs", self._part_inputs, into)

    @property
    def _part_inputs(self) -> int:
        return self.mapping.k_part_bytes // self.mapping.shape.dtype.bytes

    def _find_first_tile(self, weight_tile: Register) -> None:
        """Nothing: see `_load_chunks`."""

    def _find_next_tile(self, weight_tile: Register) -> None:
        """Nothing: see `_load_chunks`."""

    def _load_chunks(self, weight_tile: Register, x_row: Register) -> None:
        core, mapping = self.core, self.mapping
        with core.scratch() as limit, core.scratch() as width:
            if self._is_turned:
                core.load_argument("out_bytes", limit)
                core.minimum(self.out_offset, core.add(limit, -SHORTEST_ROW_BYTES, weight_tile), weight_tile)
                core.minimum(core.subtract(limit, weight_tile, limit), self.width_bytes(width), self.present)
                self._own_inputs(self.left)
            else:
                core.load_argument("outputs", limit)
                core.compute("div", self.out_offset, self.mapping.shape.out_dtype.bytes, weight_tile)
                core.minimum(weight_tile, core.add(limit, -1, self.present), weight_tile)
                core.minimum(core.subtract(limit, weight_tile, limit), self.width, self.present)
                core.multiply(weight_tile, core.load_argument("weight_pitch", limit), weight_tile)
                self.own_k("k_bytes", mapping.k_part_bytes, self.left)
            core.increase(weight_tile, core.load_argument("weight", limit))
            if self.k_part is not None and not self._is_turned:
                core.increase(weight_tile, core.multiply(self.k_part, mapping.k_part_bytes, limit))
            elif self.k_part is not None:
                core.multiply(core.load_argument("weight_pitch", limit), self._part_inputs, limit)
                core.increase(weight_tile, core.multiply(limit, self.k_part, limit))
        super()._load_chunks(weight_tile, x_row)

    def _end_chunk(self) -> None:
        core = self.core
        if self._is_turned:
            core.increase(self.loaded, 1)
            with core.when_less(ZERO, self.loaded):
                core.increase(self.loaded, -1)
                self._turn()

    def _load_weight(self, weight: Register) -> None:
        core, mapping, buffer = self.core, self.mapping, self.buffers.weight
        most = mapping.chunk_inputs if self._is_turned else mapping.chunk_bytes
        broadcast = self._broadcast(mapping.weight_receivers)
        with core.scratch() as size, core.scratch() as pitch:
            core.load_argument("weight_pitch", pitch)
            core.minimum(self.left, most, size)
            core.increase(self.left, -most)
            if not self._is_turned:
                core.emit(
                    "dma_in", out=buffer, out_pitch=mapping.chunk_bytes, address=weight, address_pitch=pitch,
                    rows=self.present, row_bytes=size, broadcast=broadcast,
                )  # fmt: skip
                core.push(buffer)
                core.increase(weight, mapping.chunk_bytes)
                return
            core.emit(
                "dma_in", out=buffer, out_pitch=self.tile_bytes, address=weight, address_pitch=pitch, rows=size,
                row_bytes=self.present, broadcast=broadcast,
            )  # fmt: skip
            core.push(buffer)
            core.increase(weight, core.multiply(pitch, mapping.chunk_inputs, pitch))

    def _turn(self) -> None:
        """Turn the next chunk, with zeros behind the last row of K up to a block."""
        core, mapping, turned, rows_of_k = self.core, self.mapping, self.buffers.factor, self.buffers.weight
        element, dtype = mapping.shape.dtype.bytes, mapping.shape.dtype.name
        block = self.machine.matrix.block_k_bytes // element
        with core.scratch() as count:
            core.minimum(self.unturned, mapping.chunk_inputs, count)
            core.increase(self.unturned, -mapping.chunk_inputs)
            if mapping.shape.inputs % block:
                with core.scratch() as missing, core.scratch() as offset:
                    core.add(count, block - 1, missing)
                    core.compute("div", missing, block, missing)
                    core.multiply(missing, block, missing)
                    core.subtract(missing, count, missing)
                    with core.when_less(0, missing):
                        core.emit(
                            "fill", out=turned, out_offset=core.multiply(count, element, offset),
                            out_pitch=mapping.chunk_bytes, rows=mapping.tile_outputs, columns=missing, out_dtype=dtype,
                            value=0.0,
                        )  # fmt: skip
            core.emit(
                "transpose", out=turned, out_pitch=mapping.chunk_bytes, a=rows_of_k, a_pitch=self.tile_bytes,
                rows=count, columns=mapping.tile_outputs, a_dtype=dtype,
            )  # fmt: skip
        core.push(turned)
        core.pop(rows_of_k)
        with core.when_at_least(ZERO, self.unturned):
            self._own_inputs(self.unturned)


class ComputedMultiplier(Multiplier):
    """Core B: of the last tile only the columns that are there are multiplied."""

    def __init__(self, mapping: LinearMapping, machine: Machine, core: CoreBuilder, buffers: Buffers) -> None:
        super().__init__(mapping, machine, core, buffers)
        if mapping.is_ragged:
            self.valid = core.register()
            """Columns of the tile that are multiplied; a tile of padding keeps one, which is not stored."""

    @property
    def _starts_loaded(self) -> bool:
        """Columns of padding that are stored but not multiplied must be zero."""
        shape = self.mapping.shape
        return shape.factor == "rows" and shape.outputs < padded_outputs(shape)

    def _prepare(self) -> None:
        if self._starts_loaded:
            self._fill_zeros(self.buffers.initial)

    def _start_accumulators(self) -> None:
        for bank, block, _, width in self._banks():
            self.core.emit(
                "acc_load", bank=bank, a=self.buffers.initial, a_dtype="fp32", spread="row",
                **self._extent(block, width),
            )  # fmt: skip

    def _multiply_chunks(self) -> None:
        core = self.core
        if self.mapping.is_ragged:
            core.compute("div", self.out_offset, self.mapping.shape.out_dtype.bytes, self.valid)
            with core.scratch() as outputs:
                core.subtract(core.load_argument("outputs", outputs), self.valid, self.valid)
            core.maximum(self.valid, 1, self.valid)
            if isinstance(self.width, Register):
                core.minimum(self.valid, self.width, self.valid)
        super()._multiply_chunks()

    def _store_block(self, block: int) -> None:
        if not self.mapping.stores_banks:
            super()._store_block(block)
            return
        for bank, other, start, width in self._banks():
            if other == block:
                self._store_bank(bank, block, start, width)

    def _store_bank(self, bank: int, block: int, start: int, width: int) -> None:
        """Round and store what an accumulator holds, as far as it is in the result's rows."""
        core, out, dtype = self.core, self.buffers.out, self.mapping.shape.out_dtype
        with ExitStack() as lent:
            address, pitch, size, limit = (lent.enter_context(core.scratch()) for _ in range(4))
            piece_pitch = core.copy(self.mapping.stored_outputs * dtype.bytes, limit)
            core.emit(
                "acc_drain", out=out, out_pitch=piece_pitch, bank=bank, out_dtype=dtype.name,
                **self._extent(block, width),
            )  # fmt: skip
            core.push(out)
            self._find_result(block, address, pitch, size)
            core.minimum(size, self.width_bytes(limit), size)
            core.increase(address, start * dtype.bytes)
            core.increase(size, -start * dtype.bytes)
            core.minimum(size, core.copy(width * dtype.bytes, limit), size)
            with core.when_less(ZERO, size):
                core.copy(self.mapping.stored_outputs * dtype.bytes, limit)
                core.emit(
                    "dma_out", address=address, address_pitch=pitch, a=out, a_pitch=limit, rows=self.block_rows[block],
                    row_bytes=size,
                )  # fmt: skip
            core.pop(out)

    @contextmanager
    def _columns(self, start: int, width: int) -> Iterator[Register | int]:
        if not self.mapping.is_ragged:
            yield width
            return
        core = self.core
        with ExitStack() as inside:
            columns = inside.enter_context(core.scratch())
            if start:
                inside.enter_context(core.when_less(start, self.valid))
            core.subtract(self.valid, start, columns)
            yield core.minimum(columns, width, columns)
