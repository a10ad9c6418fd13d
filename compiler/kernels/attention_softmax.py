"""The SIMD engine's share of attention: masks, running maximum and weights, sums, division, and the store.

Maxima, sums and factors of a block's rows lie as one dense row each, and work on them is one short command.
"""

from __future__ import annotations

from compiler.attention_mapping import FP32_BYTES, AttentionTile
from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, OperandValue, Register
from compiler.kernels.attention_products import Products
from compiler.kernels.attention_walk import AttentionBuffers, loaded
from isa.dtypes import Dtype
from isa.machine import Machine

HIDDEN = -1e30
"""Score of a key that may not be seen: finite, so that a row that sees nothing stays free of NaN."""


class Softmax(Products):
    """What core B asks of the SIMD engine, step by step."""

    def __init__(self, tile: AttentionTile, machine: Machine, core: CoreBuilder, buffers: AttentionBuffers) -> None:
        super().__init__(tile, machine, core, buffers)
        self.block, self.first_key = core.register() if tile.blocks > 1 else ZERO, core.register()
        """Block and first key of the step whose softmax comes next."""
        self.done = core.register()
        """Steps of the item whose products have been asked for."""
        self.late_scale = self.shape.scale if self.shape.is_scaled_late else 1.0

    # --- one step ----------------------------------------------------------------------------------------------

    def weigh(self) -> None:
        """Turn scores into weights, update the maximum, and leave the factor of the old state in `rescale`."""
        core, buffers = self.core, self.buffers
        with core.scratch() as limit, core.scratch() as columns:
            self.load_chunk_rows(self.first_key, columns)
            self.load_limit(limit)
            scores = buffers.scores
            if not self.shape.is_scaled_late:
                self._scale(columns)
                scores = buffers.masked
            with core.when_less(limit, columns):
                self.limit(scores, limit, columns, self.tile.score_dtype)
                self._select(buffers.masked, columns)
                self.exponentiate(buffers.masked, columns)
            with core.when_at_least(limit, columns):
                self.exponentiate(self._select(scores, columns), columns)

    def load_limit(self, limit: Register) -> None:
        """Emit how many keys of the chunk the first row of the block sees."""
        core, tile = self.core, self.tile
        if self.shape.causal and not self.shape.is_stacked:
            with core.scratch() as tokens:
                with loaded(core, tile.heads) as (heads,):
                    core.compute("div", self.block, heads, tokens)
                core.multiply(tokens, tile.tokens, tokens)
                core.increase(tokens, self.token)
                core.load_argument("past", limit)
                core.increase(limit, tokens)
                core.increase(limit, 1)
        else:
            core.copy(self.end, limit)
        core.subtract(limit, self.first_key, limit)

    def _scale(self, columns: Register) -> None:
        """Scale, and add the bias: scores to `masked`."""
        buffers = self.buffers
        with loaded(self.core, self.tile.keys * FP32_BYTES) as (pitch,):
            self.wide("vmuls", buffers.masked, buffers.scores, pitch, columns, value=self.shape.scale)
        self.move(buffers.masked, buffers.scores)
        if buffers.bias is not None:
            self._add_bias(buffers.bias, columns)

    def limit(self, scores: BufferHandle, limit: Register, columns: Register, dtype: Dtype) -> None:
        """Hide what lies behind the limit of each row: scores to `masked`."""
        step = int(self.shape.causal and not self.shape.is_stacked)
        with loaded(self.core, self.tile.keys * dtype.bytes, step) as (pitch, step_register):
            self.wide(
                "vlimit", self.buffers.masked, scores, pitch, columns, dtype.name, first=limit, step=step_register,
                value=HIDDEN,
            )  # fmt: skip
        self.move(self.buffers.masked, scores)

    def _select(self, scores: BufferHandle, columns: Register) -> BufferHandle:
        """Hide what the mask hides, if there is one; returns where the scores are then."""
        masked, mask = self.buffers.masked, self.buffers.mask
        if not self.shape.has_mask:
            return scores
        with loaded(self.core, self.tile.keys * FP32_BYTES) as (pitch,):
            self.wide("vselect", masked, scores, pitch, columns, b=mask, b_dtype="int32", spread="row", value=HIDDEN)
        self.move(masked, scores)
        return masked

    def _add_bias(self, bias: BufferHandle, columns: Register) -> None:
        """Add the rows that belong to a block; minus infinity becomes the finite number of a hidden key."""
        core, tile, masked = self.core, self.tile, self.buffers.masked
        row_bytes = tile.keys * self.shape.dtype.bytes
        has_one_row = self.shape.is_stacked and self.shape.bias == "shared"
        with core.scratch() as offset, loaded(core, tile.keys * FP32_BYTES, row_bytes) as (pitch, bias_pitch):
            core.copy(0, offset)
            if not self.shape.is_stacked:
                with loaded(core, tile.heads) as (heads,), core.scratch() as head:
                    core.compute("div", self.block, heads, offset)
                    core.multiply(offset, tile.tokens * row_bytes, offset)
                    if self.shape.bias == "per head":
                        core.compute("rem", self.block, heads, head)
                        core.multiply(head, tile.item_tokens * row_bytes, head)
                        core.increase(offset, head)
            self.wide(
                "vadd", masked, masked, pitch, columns, b=bias, b_offset=offset, b_pitch=bias_pitch,
                b_dtype=self.shape.dtype.name, spread="row" if has_one_row else "full",
            )  # fmt: skip
            self.move(masked, masked)
            self.wide("vmaxs", masked, masked, pitch, columns, value=HIDDEN)
            self.move(masked, masked)

    def exponentiate(self, scores: BufferHandle, columns: Register) -> None:
        """Leave weights in `probabilities`; the old maximum stays in front of the new one until it is not needed."""
        core, tile, buffers, dtype = self.core, self.tile, self.buffers, self.shape.dtype
        wide, narrow = tile.keys * FP32_BYTES, tile.keys * dtype.bytes
        with core.scratch() as newest, loaded(core, FP32_BYTES, wide, narrow) as (dense, pitch, out_pitch):
            core.emit(
                "rowmax", out=buffers.column, out_pitch=dense, a=scores, a_pitch=pitch, rows=self.rows, columns=columns,
                out_dtype="fp32", a_dtype="fp32",
            )  # fmt: skip
            core.push(buffers.column)
            with core.when_less(self.done, self.blocks):
                self.dense("vcast", buffers.maximum, buffers.column)
            with core.when_at_least(self.done, self.blocks):
                self.dense("vmax", buffers.maximum, buffers.maximum, b=buffers.column)
            self.move(buffers.maximum, buffers.column)
            core.emit(
                "vexpsub", out=buffers.probabilities, out_pitch=out_pitch, a=scores, a_pitch=pitch, b=buffers.maximum,
                b_offset=self.load_newest(newest), b_pitch=dense, rows=self.rows, columns=columns, out_dtype=dtype.name,
                a_dtype="fp32", b_dtype="fp32", spread="column", value=self.late_scale,
            )  # fmt: skip
        self.move(buffers.probabilities, scores)
        self.leave_factor()

    def load_newest(self, into: Register) -> Register:
        """Emit the offset of the newest maximum, behind those of the blocks' steps before."""
        self.core.minimum(self.done, self.blocks, into)
        return self.core.multiply(into, self.buffers.maximum.slot_bytes, into)

    def leave_factor(self) -> None:
        """Leave what the new maximum does to the old sums in `rescale`, if there are any."""
        core, buffers = self.core, self.buffers
        with core.when_at_least(self.done, self.blocks), core.scratch() as newest:
            self.dense(
                "vexpsub", buffers.rescale, buffers.maximum, b=buffers.maximum, b_offset=self.load_newest(newest),
                value=self.late_scale,
            )  # fmt: skip
            self.move(buffers.rescale, buffers.maximum)

    def rescale(self, first: int, carried: BufferHandle) -> None:
        """Rescale columns of the weighted sums so far from `first` on, or behind them the sums of weights."""
        core, buffers, depth, width = self.core, self.buffers, self.shape.padded_head_dim, self.shape.block_rows
        if first == depth:
            self.dense("vmul", carried, buffers.weight, b=buffers.rescale)
            self.move(carried, buffers.weight)
            return
        sizes = (width * FP32_BYTES, first * FP32_BYTES, depth * FP32_BYTES, min(width, depth - first), FP32_BYTES)
        with loaded(core, *sizes) as (out_pitch, offset, pitch, columns, dense):
            core.emit(
                "vmul", out=buffers.scaled, out_pitch=out_pitch, a=buffers.output, a_offset=offset, a_pitch=pitch,
                b=buffers.rescale, b_pitch=dense, rows=self.rows, columns=columns, out_dtype="fp32", a_dtype="fp32",
                b_dtype="fp32", spread="column",
            )  # fmt: skip
        core.push(buffers.scaled)
        if first + width >= depth:
            core.pop(buffers.output)

    def accumulate(self) -> None:
        """Update sum of weights and weighted sum of values with the products of the step before this one."""
        core, buffers = self.core, self.buffers
        product, sums = buffers.product, buffers.sums
        if product is None or sums is None:
            return
        with loaded(core, self.shape.padded_head_dim * FP32_BYTES, self.shape.padded_head_dim) as (pitch, columns):
            with core.when_at_least(self.blocks, self.done):
                self.wide("vcast", buffers.output, product, pitch, columns)
                self.move(buffers.output, product)
                self.dense("vcast", buffers.weight, sums)
                self.move(buffers.weight, sums)
            with core.when_less(self.blocks, self.done), loaded(core, FP32_BYTES) as (dense,):
                self.wide(
                    "vmul", buffers.scaled, buffers.output, pitch, columns, b=buffers.rescale, b_pitch=dense,
                    b_dtype="fp32", spread="column",
                )  # fmt: skip
                self.dense("vmul", buffers.column, buffers.weight, b=buffers.rescale)
                self.move(buffers.scaled, buffers.output)
                self.move(buffers.column, buffers.weight)
                core.pop(buffers.rescale)
                self.wide(
                    "vadd", buffers.output, buffers.scaled, pitch, columns, b=product, b_pitch=pitch,
                    b_dtype="fp32",
                )  # fmt: skip
                self.dense("vadd", buffers.weight, buffers.column, b=sums)
                self.move(buffers.output, product)
                self.move(buffers.weight, sums)
                core.pop(buffers.scaled)
                core.pop(buffers.column)

    # --- the end of an item ------------------------------------------------------------------------------------

    def store_blocks(self) -> None:
        """Divide all blocks and store them."""
        core, tile, shape = self.core, self.tile, self.shape
        with core.scratch() as address, core.scratch() as left:
            self.load_out_address(address)
            if shape.is_stacked:
                core.pop(self.buffers.maximum)
                self.store(address, self.rows)
                return
            core.copy(shape.sequence, left)
            core.subtract(left, self.token, left)
            with core.scratch() as trips, loaded(core, tile.heads) as (heads,):
                core.compute("div", self.blocks, heads, trips)
                with core.loop(trips), core.scratch() as rows, core.scratch() as head_address:
                    core.minimum(left, core.copy(tile.tokens, rows), rows)
                    core.copy(address, head_address)
                    with core.loop(heads):
                        core.pop(self.buffers.maximum)
                        self.store(head_address, rows)
                        core.increase(head_address, shape.head_dim * shape.dtype.bytes)
                    core.increase(left, -tile.tokens)
                    core.multiply(core.load_argument("out_pitch", rows), tile.tokens, rows)
                    core.increase(address, rows)

    def load_out_address(self, address: Register) -> None:
        """Emit the address of the item's first head and token in the result."""
        core, shape = self.core, self.shape
        with core.scratch() as offset:
            core.multiply(self.batch, shape.sequence, address)
            core.increase(address, self.token)
            core.multiply(address, core.load_argument("out_pitch", offset), address)
            core.increase(address, core.load_argument("out", offset))
            core.multiply(self.query_head, shape.head_dim * shape.dtype.bytes, offset)
            core.increase(address, offset)

    def store(self, address: Register, rows: Register) -> None:
        """Divide a block by its sums of weights, and store the rows of it that are tokens."""
        self.invert_weights()
        self.multiply_out(self.buffers.output)
        self.write_out(address, rows)

    def invert_weights(self) -> None:
        """Leave the reciprocals of the sums of weights in `column`."""
        self.dense("vrecip", self.buffers.column, self.buffers.weight)
        self.move(self.buffers.column, self.buffers.weight)

    def multiply_out(self, values: BufferHandle) -> None:
        """Multiply a block with the reciprocals in `column`, for the store."""
        core, shape, buffers = self.core, self.shape, self.buffers
        wide = shape.padded_head_dim * FP32_BYTES
        with loaded(core, shape.row_bytes, wide, shape.padded_head_dim, FP32_BYTES) as (narrow, pitch, columns, dense):
            core.emit(
                "vmul", out=buffers.out, out_pitch=narrow, a=values, a_pitch=pitch, b=buffers.column, b_pitch=dense,
                rows=self.rows, columns=columns, out_dtype=shape.dtype.name, a_dtype="fp32", b_dtype="fp32",
                spread="column",
            )  # fmt: skip
        self.move(buffers.out, values)
        core.pop(buffers.column)

    def write_out(self, address: Register, rows: Register) -> None:
        """Store the rows of a block that are tokens."""
        core, shape, buffers = self.core, self.shape, self.buffers
        head_bytes = shape.head_dim * shape.dtype.bytes
        with core.scratch() as pitch, loaded(core, head_bytes, shape.row_bytes) as (size, narrow):
            core.copy(head_bytes, pitch) if shape.is_stacked else core.load_argument("out_pitch", pitch)
            core.emit(
                "dma_out", address=address, address_pitch=pitch, a=buffers.out, a_pitch=narrow, rows=rows,
                row_bytes=size,
            )  # fmt: skip
        core.pop(buffers.out)

    # --- commands ----------------------------------------------------------------------------------------------

    def wide(self, name: str, out: BufferHandle, a: BufferHandle, pitch: Register, columns: Register,
              dtype: str = "fp32", **operands: OperandValue) -> None:  # fmt: skip
        """Emit a SIMD command on all rows of the block, between equal types with equal pitches."""
        self.core.emit(
            name, out=out, out_pitch=pitch, a=a, a_pitch=pitch, rows=self.rows, columns=columns, out_dtype=dtype,
            a_dtype=dtype, **operands,
        )  # fmt: skip

    def dense(
        self, name: str, out: BufferHandle, a: BufferHandle, a_dtype: str = "fp32", **operands: OperandValue
    ) -> None:
        """Emit a SIMD command on one element per row of the block, which lie as a row; the result is fp32."""
        more: dict[str, OperandValue] = {"b_dtype": "fp32"} if "b" in operands else {}
        with loaded(self.core, 1) as (one,):
            self.core.emit(
                name, out=out, a=a, rows=one, columns=self.rows, out_dtype="fp32", a_dtype=a_dtype, **more, **operands
            )

    def move(self, written: BufferHandle, read: BufferHandle) -> None:
        self.core.push(written)
        self.core.pop(read)
