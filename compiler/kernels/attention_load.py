"""Core A of the attention kernel: q once per item; k, v and the mask chunk by chunk, v transposed on the way."""

from __future__ import annotations

from compiler.attention_mapping import (
    MASK_BYTES,
)
from compiler.kernel_builder import BufferHandle, OperandValue, Register
from compiler.kernels.attention_walk import Walk, loaded


class Loader(Walk):
    """Core A: loads q once per item and k, v and the mask chunk by chunk."""

    def emit(self) -> None:
        """Emit the code of the core; what lies behind each head of q is zero for all items."""
        tile = self.tile
        if self.buffers.heads is not None:
            with loaded(self.core, tile.query_rows * tile.padded_head_dim) as (columns,):
                self.core.emit(
                    "fill", out=self.buffers.q, rows=1, columns=columns, out_dtype=tile.dtype.name, value=0.0
                )
        super().emit()

    def item(self) -> None:
        """Load everything that one item reads."""
        self._load_q()
        core, tile = self.core, self.tile
        with core.scratch() as cache:
            core.multiply(self.batch, tile.kv_heads, cache)
            core.increase(cache, self.head)
            core.multiply(cache, tile.capacity * tile.row_bytes, cache)
            with self.chunks(skip_first=False):
                self._load_keys("k", self.buffers.k, cache)
                self._load_keys("v", self.buffers.v, cache)
                self._transpose_values()
                if tile.has_mask:
                    self._load_mask()
                if self.buffers.bias is not None:
                    self._load_bias(self.buffers.bias)

    def _load_q(self) -> None:
        core, tile, q = self.core, self.tile, self.buffers.heads or self.buffers.q
        head_bytes = tile.head_dim * tile.dtype.bytes
        with core.scratch() as address, core.scratch() as offset:
            core.multiply(self.batch, tile.sequence, address)
            core.increase(address, self.token)
            core.multiply(address, core.argument("q_pitch"), address)
            core.increase(address, core.argument("q"))
            core.multiply(self.head, tile.group * head_bytes, offset)
            core.increase(address, offset)
            core.copy(0, offset)
            with loaded(core, tile.row_bytes, head_bytes, tile.group) as (row_bytes, next_head, group):
                common: dict[str, OperandValue] = {
                    "out": q,
                    "out_offset": offset,
                    "out_pitch": row_bytes,
                    "row_bytes": next_head,
                }
                if tile.is_stacked:
                    core.emit("dma_in", **common, address=address, address_pitch=next_head, rows=group)
                else:
                    with core.loop(group):
                        pitch = core.argument("q_pitch")
                        core.emit("dma_in", **common, address=address, address_pitch=pitch, rows=self.rows)
                        core.increase(address, next_head)
                        core.increase(offset, tile.tokens * tile.row_bytes)
        core.push(q)
        if self.buffers.heads is not None:
            self._pad_q(self.buffers.heads)

    def _pad_q(self, heads: BufferHandle) -> None:
        """Copy heads to where zeros follow them; behind them in memory lies what may be NaN, or nothing at all."""
        core, tile = self.core, self.tile
        sizes = (tile.row_bytes, tile.head_dim * tile.dtype.bytes, tile.query_rows)
        with loaded(core, *sizes) as (pitch, head_bytes, rows):
            core.emit(
                "copy", out=self.buffers.q, out_pitch=pitch, a=heads, a_pitch=pitch, rows=rows, row_bytes=head_bytes
            )
        core.push(self.buffers.q)
        core.pop(heads)

    def _load_keys(self, argument: str, buffer: BufferHandle, cache: Register) -> None:
        """Load a chunk of k or v; its rows lie one after the other, so it is one long row."""
        core, tile = self.core, self.tile
        with core.scratch() as address, core.scratch() as size, loaded(core, tile.row_bytes) as (row_bytes,):
            core.multiply(self.first_key, row_bytes, address)
            core.increase(address, cache)
            core.increase(address, core.argument(argument))
            core.multiply(self.chunk_rows, row_bytes, size)
            core.emit("dma_in", out=buffer, address=address, rows=1, row_bytes=size)
        core.push(buffer)

    def _transpose_values(self) -> None:
        core, tile, buffers = self.core, self.tile, self.buffers
        with loaded(core, tile.keys * tile.dtype.bytes, tile.row_bytes, tile.padded_head_dim) as (pitch, row, columns):
            core.emit(
                "transpose", out=buffers.v_transposed, out_pitch=pitch, a=buffers.v, a_pitch=row, rows=self.chunk_rows,
                columns=columns, a_dtype=tile.dtype.name,
            )  # fmt: skip
        core.push(buffers.v_transposed)
        core.pop(buffers.v)

    def _load_mask(self) -> None:
        """Load the part of the mask's row that exists; what lies beyond is hidden by its position."""
        core = self.core
        with core.scratch() as address, core.scratch() as size, core.scratch() as offset, core.scratch() as pitch:
            core.load_argument("mask_pitch", pitch)
            core.multiply(self.first_key, MASK_BYTES, offset)
            core.subtract(pitch, offset, size)
            with loaded(core, self.tile.keys * MASK_BYTES) as (largest,):
                core.minimum(size, largest, size)
            core.multiply(self.batch, pitch, address)
            core.increase(address, offset)
            core.increase(address, core.load_argument("mask", offset))
            core.emit("dma_in", out=self.buffers.mask, address=address, rows=1, row_bytes=size)
        core.push(self.buffers.mask)

    def _load_bias(self, buffer: BufferHandle) -> None:
        """Load the part of the bias that exists, of all rows; what lies beyond is hidden by its position."""
        core, tile = self.core, self.tile
        element = tile.dtype.bytes
        with core.scratch() as address, core.scratch() as size, core.scratch() as pitch:
            core.multiply(self.first_key, element, address)
            core.subtract(core.load_argument("bias_row_bytes", size), address, size)
            with loaded(core, tile.keys * element) as (largest,):
                core.minimum(size, largest, size)
            core.increase(address, core.load_argument("bias", pitch))
            core.multiply(self.batch, core.load_argument("bias_batch_pitch", pitch), pitch)
            core.increase(address, pitch)
            core.multiply(self.token, core.load_argument("bias_token_pitch", pitch), pitch)
            core.increase(address, pitch)
            if tile.bias == "per head":
                core.multiply(self.head, tile.group, pitch)
                with core.scratch() as head_pitch:
                    core.multiply(pitch, core.load_argument("bias_head_pitch", head_pitch), pitch)
                core.increase(address, pitch)
            self._load_bias_rows(buffer, address, size)
        core.push(buffer)

    def _load_bias_rows(self, buffer: BufferHandle, address: Register, size: Register) -> None:
        """Load rows of `size` bytes from `address`: those of the heads, those of the tokens, or both."""
        core, tile = self.core, self.tile
        local = tile.keys * tile.dtype.bytes
        with core.scratch() as pitch, core.scratch() as offset, loaded(core, local) as (local_pitch,):
            common: dict[str, OperandValue] = {
                "out": buffer, "out_pitch": local_pitch, "address": address, "address_pitch": pitch, "row_bytes": size,
            }  # fmt: skip
            if tile.is_stacked:
                core.load_argument("bias_head_pitch", pitch)
                core.emit("dma_in", **common, rows=tile.bias_rows)
                return
            core.load_argument("bias_token_pitch", pitch)
            core.copy(0, offset)
            heads = tile.bias_rows // tile.tokens
            with loaded(core, heads) as (count,), core.scratch() as head_pitch, core.loop(count):
                core.emit("dma_in", **common, out_offset=offset, rows=self.rows)
                core.increase(address, core.load_argument("bias_head_pitch", head_pitch))
                core.increase(offset, tile.tokens * local)
