"""Core A of a linear whose second operand is computed: chunks of both operands, which it turns where it is [K, N].

A chunk of [K, N] is loaded as it lies and turned by the layout unit, block of columns by block of columns, so that this
runs ahead of the products as loading does. It is turned when the next ones, as many as have slots, are on their way:
commands that wait for a chunk would fill the layout unit's queue and hold up core A. Tiles beyond the last column read
some other part, because broadcasts are collective.

Nothing hides the first loads of a single tile. So its first chunk is asked for before all else is worked out; and it is
the first one that is short, if one is, as the last one is what the products of all accumulators end with.
"""

from __future__ import annotations

from compiler.kernel_builder import ZERO, CoreBuilder, Register
from compiler.kernels.linear_load import Loader
from compiler.kernels.linear_walk import Buffers
from compiler.linear_mapping import LinearMapping, padded_outputs
from isa.machine import Machine

MOST_CHUNKS_AHEAD = 2
"""Chunks that are loaded before one is turned: so many have room in the queue of transfers."""
SHORTEST_ROW_BYTES = 32
"""What a tile beyond the last column reads of each row of [K, N], at most."""


class ComputedLoader(Loader):
    """Core A: chunks of x and of rows, which it turns where they are rows of K."""

    def __init__(self, mapping: LinearMapping, machine: Machine, core: CoreBuilder, buffers: Buffers) -> None:
        super().__init__(mapping, machine, core, buffers)
        self.weight, self.x_row = core.register(), core.register()
        """Where the next chunk of the second operand is, and the first row of x."""
        self.x = self.x_row if mapping.first_chunk_bytes else core.register()
        """Where the next chunk of x is."""
        self.present = core.register()
        """Rows of the tile's [N, K], or bytes of its rows of [K, N], that are there."""
        self.left = core.register()
        """Bytes of K, or rows of K, that are still to be loaded for the tile."""
        if self._turns_factor:
            self.loaded, self.unturned = core.register(), core.register()
            """Chunks that may be turned; rows of K that are still to be turned for the tile."""

    def emit(self) -> None:
        """Load everything, and turn what is not turned yet."""
        core = self.core
        if not self.mapping.first_chunk_bytes:
            self._begin_turning(-self._chunks_ahead)
        for _ in self.tiles():
            self._load_tile()
        if self._turns_factor:
            core.increase(self.loaded, self._chunks_ahead)
            with core.loop(self.loaded):
                self._turn()

    @property
    def _chunks_ahead(self) -> int:
        """Chunks that are loaded before one is turned, besides this."""
        return min(MOST_CHUNKS_AHEAD, self.mapping.weight_slots - 1)

    @property
    def _turns_factor(self) -> bool:
        """Tell whether the second operand is [K, N], which the layout unit turns."""
        return self.mapping.shape.factor == "columns"

    def _own_inputs(self, into: Register) -> Register:
        """Set `into` to the rows of K that this PE has."""
        return self.own_k("inputs", self._part_inputs, into)

    @property
    def _part_inputs(self) -> int:
        return self.mapping.k_part_bytes // self.mapping.shape.dtype.bytes

    def _begin_outputs(self) -> None:
        """Load the first chunk of the second operand before all else is worked out."""
        if self.mapping.first_chunk_bytes:
            self._find_weight()
            self._load_first_of_weight(self.mapping.first_chunk_bytes)

    def _end_outputs(self) -> None:
        """Nothing: a tile finds its first chunk by itself."""

    def _find_weight(self) -> None:
        """Point at the first chunk of a tile; `present` is how much of it is there."""
        core, mapping, address = self.core, self.mapping, self.weight
        offset = address
        if self._turns_factor and not mapping.is_ragged:
            core.copy(self.tile_bytes, self.present)
            offset = self.out_offset
        elif self._turns_factor:
            self._find_columns()
        else:
            self._find_outputs()
        with core.scratch() as base:
            core.add(offset, core.load_argument("weight", base), address)
            if self.k_part is not None and not self._turns_factor:
                core.increase(address, core.multiply(self.k_part, mapping.k_part_bytes, base))
            elif self.k_part is not None:
                core.multiply(core.load_argument("weight_pitch", base), self._part_inputs, base)
                core.increase(address, core.multiply(base, self.k_part, base))

    def _find_columns(self) -> None:
        """Set `weight` to the offset of the tile in rows of [K, N], or of other columns for one of padding."""
        core, offset = self.core, self.weight
        with core.scratch() as limit, core.scratch() as width:
            core.load_argument("out_bytes", limit)
            core.minimum(self.out_offset, core.add(limit, -self._shortest_row_bytes, offset), offset)
            core.minimum(core.subtract(limit, offset, limit), self.width_bytes(width), self.present)

    @property
    def _shortest_row_bytes(self) -> int:
        """What a tile beyond the last column reads of each row of [K, N]: as much as the one before has, at most."""
        mapping = self.mapping
        last = padded_outputs(mapping.shape) % mapping.tile_outputs or mapping.tile_outputs
        return SHORTEST_ROW_BYTES if mapping.is_uneven else min(SHORTEST_ROW_BYTES, last * mapping.shape.dtype.bytes)

    def _find_outputs(self) -> None:
        """Set `weight` to the offset of the tile in [N, K], or of the last row for one of padding."""
        core, offset = self.core, self.weight
        with core.scratch() as limit:
            core.load_argument("outputs", limit)
            core.compute("div", self.out_offset, self.mapping.shape.out_dtype.bytes, offset)
            core.minimum(offset, core.add(limit, -1, self.present), offset)
            core.minimum(core.subtract(limit, offset, limit), self.width, self.present)
            core.multiply(offset, core.load_argument("weight_pitch", limit), offset)

    def _find_inputs(self) -> None:
        """Set `left` to all of K that this PE has."""
        if self._turns_factor:
            self._own_inputs(self.left)
        else:
            self.own_k("k_bytes", self.mapping.k_part_bytes, self.left)

    def _load_tile(self) -> None:
        """Load the chunks of a tile."""
        core, mapping = self.core, self.mapping
        with core.scratch() as left, core.scratch() as chunks:
            if mapping.first_chunk_bytes:
                self._load_first_chunks()
            else:
                self._find_weight()
            self._find_inputs()
            if not mapping.resident:
                self.find_first_chunk(self.x_row, self.x, left)
            self.own_chunks(chunks)
            if mapping.first_chunk_bytes:
                self._leave_first_chunks(left, chunks)
            with core.loop(chunks):
                self._load_chunk_of_weight()
                if not mapping.resident:
                    self.load_x(self.x, left)
                self._end_chunk()

    def _load_first_chunks(self) -> None:
        """Load the first chunk and those that are on their way when it is turned, and turn it."""
        for number, size in enumerate(self._first_chunks):
            if number:
                self._load_first_of_weight(size)
            self.load_first_of_x(self.x, size)
        if self._turns_factor:
            with self.core.scratch() as count:
                self._turn_chunk(self.core.copy(self._first_inputs, count))

    @property
    def _first_chunks(self) -> tuple[int, ...]:
        """K bytes of the first chunk, and of those that are on their way when it is turned."""
        return (self.mapping.first_chunk_bytes, *(self.mapping.chunk_bytes for _ in range(self._chunks_ahead)))

    @property
    def _first_inputs(self) -> int:
        """Rows of K in the first chunk."""
        return self.mapping.first_chunk_bytes // self.mapping.shape.dtype.bytes

    def _leave_first_chunks(self, left: Register, chunks: Register) -> None:
        """Count what is loaded and turned off what is left for the loop."""
        core, mapping, loaded = self.core, self.mapping, sum(self._first_chunks)
        core.increase(left, -loaded)
        core.increase(self.left, -loaded // mapping.shape.dtype.bytes if self._turns_factor else -loaded)
        core.increase(chunks, -len(self._first_chunks))
        self._begin_turning(0)
        if self._turns_factor:
            core.increase(self.unturned, -self._first_inputs)

    def _load_first_of_weight(self, size: int) -> None:
        """Load so many K bytes of the second operand; the address moves on."""
        core, inputs = self.core, size // self.mapping.shape.dtype.bytes
        with core.scratch() as count, core.scratch() as pitch:
            self._load_some_of_weight(core.copy(inputs if self._turns_factor else size, count), pitch)
            core.increase(self.weight, core.multiply(pitch, inputs, pitch) if self._turns_factor else size)

    def _load_chunk_of_weight(self) -> None:
        """Load a chunk of the second operand; the address moves to the next."""
        core, mapping = self.core, self.mapping
        most = mapping.chunk_inputs if self._turns_factor else mapping.chunk_bytes
        with core.scratch() as count, core.scratch() as pitch:
            self._load_some_of_weight(core.minimum(self.left, most, count), pitch)
            core.increase(self.weight, core.multiply(pitch, most, pitch) if self._turns_factor else most)
        core.increase(self.left, -most)

    def _load_some_of_weight(self, size: Register, pitch: Register) -> None:
        """Load so many rows of K, or bytes of rows; sets `pitch` to the distance between rows."""
        core, mapping, buffer = self.core, self.mapping, self.buffers.weight
        core.load_argument("weight_pitch", pitch)
        rows, row_bytes, out_pitch = self.present, size, mapping.chunk_bytes
        if self._turns_factor:
            rows, row_bytes, out_pitch = size, self.present, self.tile_bytes
        core.emit(
            "dma_in", out=buffer, out_pitch=out_pitch, address=self.weight, address_pitch=pitch, rows=rows,
            row_bytes=row_bytes, broadcast=self._broadcast(mapping.weight_receivers),
        )  # fmt: skip
        core.push(buffer)

    def _end_chunk(self) -> None:
        core = self.core
        if self._turns_factor:
            core.increase(self.loaded, 1)
            with core.when_less(ZERO, self.loaded):
                core.increase(self.loaded, -1)
                self._turn()

    def _begin_turning(self, loaded: int) -> None:
        """Note that nothing is turned yet, and how many chunks may be."""
        if self._turns_factor:
            self.core.copy(loaded, self.loaded)
            self._own_inputs(self.unturned)

    def _turn(self) -> None:
        """Turn the next chunk, and begin with the next tile's behind the last one."""
        core, mapping = self.core, self.mapping
        with core.scratch() as count:
            self._turn_chunk(core.minimum(self.unturned, mapping.chunk_inputs, count))
        core.increase(self.unturned, -mapping.chunk_inputs)
        with core.when_at_least(ZERO, self.unturned):
            self._own_inputs(self.unturned)

    def _turn_chunk(self, count: Register) -> None:
        """Turn so many rows of K, with zeros behind the last one up to a block."""
        mapping = self.mapping
        block = self.machine.matrix.block_k_bytes // mapping.shape.dtype.bytes
        for start, width in mapping.column_blocks:
            if mapping.shape.inputs % block:
                self._clear_behind(count, width, block)
            self._turn_block(count, start, width)
        self.core.pop(self.buffers.weight)

    def _clear_behind(self, count: Register, width: int, block: int) -> None:
        """Write zeros behind so many rows of K up to a whole block."""
        core, mapping = self.core, self.mapping
        with core.scratch() as missing, core.scratch() as offset:
            core.add(count, block - 1, missing)
            core.compute("div", missing, block, missing)
            core.multiply(missing, block, missing)
            core.subtract(missing, count, missing)
            with core.when_less(0, missing):
                core.emit(
                    "fill", out=self.buffers.factor, out_offset=core.multiply(count, mapping.shape.dtype.bytes, offset),
                    out_pitch=mapping.chunk_bytes, rows=width, columns=missing, out_dtype=mapping.shape.dtype.name,
                    value=0.0,
                )  # fmt: skip

    def _turn_block(self, count: Register, start: int, width: int) -> None:
        """Turn a block of columns."""
        core, mapping, dtype = self.core, self.mapping, self.mapping.shape.dtype
        with core.scratch() as offset:
            core.emit(
                "transpose", out=self.buffers.factor, out_pitch=mapping.chunk_bytes, a=self.buffers.weight,
                a_offset=core.copy(start * dtype.bytes, offset) if start else ZERO, a_pitch=self.tile_bytes, rows=count,
                columns=width, a_dtype=dtype.name,
            )  # fmt: skip
        core.push(self.buffers.factor)
