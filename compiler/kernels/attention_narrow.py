"""Softmax of narrow scores: fp16, relative to the running maximum, which accumulators start from minus.

The first maximum comes from a look at the first keys: their scores as bf16, which has room for them; that they are
coarse does not matter, for what is taken off scores comes back with the rescaling. From then on a score close to the
maximum is close to zero, where fp16 is finest, and one that is 65504 below it weighs nothing. One that is so far above
it is infinite: such a row has no result, where fp32 would have one.
"""

from __future__ import annotations

from compiler.attention_mapping import FP32_BYTES
from compiler.kernel_builder import BufferHandle, Register
from compiler.kernels.attention_softmax import Softmax
from compiler.kernels.attention_walk import loaded
from isa.dtypes import BF16


class NarrowSoftmax(Softmax):
    """The SIMD engine's share of narrow attention; of any other it is that of `Softmax`."""

    def look(self) -> None:
        """Leave the maxima of the first keys of all blocks in `maximum`, and what to shift scores by in `shift`."""
        core, tile, buffers = self.core, self.tile, self.buffers
        with core.scratch() as limit, loaded(core, self.shape.key_step) as (columns,), core.loop(self.blocks):
            self.load_limit(limit)
            with core.when_less(limit, columns):
                self.limit(buffers.scores, limit, columns, BF16)
                self._start_from(buffers.masked, columns)
            with core.when_at_least(limit, columns):
                self._start_from(buffers.scores, columns)
            if tile.blocks > 1:
                core.increase(self.block, 1)
        if tile.blocks > 1:
            core.copy(0, self.block)

    def _start_from(self, scores: BufferHandle, columns: Register) -> None:
        core, buffers = self.core, self.buffers
        assert buffers.shift is not None
        self._find_maxima(scores, columns, BF16.name)
        core.pop(scores)
        for target, sign in ((buffers.maximum, 1.0), (buffers.shift, -1.0)):
            self.dense("vmuls", target, buffers.column, BF16.name, value=sign)
            core.push(target)
        core.pop(buffers.column)

    def _find_maxima(self, scores: BufferHandle, columns: Register, dtype: str) -> None:
        """Leave the maxima of rows in `column`, in the type of the scores: others are slower."""
        with loaded(self.core, self.tile.score_dtype.bytes, self.tile.keys * self.tile.score_dtype.bytes) as sizes:
            dense, pitch = sizes
            self.core.emit(
                "rowmax", out=self.buffers.column, out_pitch=dense, a=scores, a_pitch=pitch, rows=self.rows,
                columns=columns, out_dtype=dtype, a_dtype=dtype,
            )  # fmt: skip
        self.core.push(self.buffers.column)

    def exponentiate(self, scores: BufferHandle, columns: Register) -> None:
        """Leave weights in `probabilities`, the new maximum in `maximum` and `shift`, and what it does in `rescale`."""
        core, tile, buffers, dtype = self.core, self.tile, self.buffers, self.shape.dtype
        if buffers.shift is None or buffers.growth is None:
            super().exponentiate(scores, columns)
            return
        self._find_maxima(scores, columns, tile.score_dtype.name)
        self.dense("vmaxs", buffers.growth, buffers.column, tile.score_dtype.name, value=0.0)
        self.move(buffers.growth, buffers.column)
        self.dense("vadd", buffers.maximum, buffers.maximum, b=buffers.growth)
        core.push(buffers.maximum)
        sizes = (FP32_BYTES, tile.keys * tile.score_dtype.bytes, tile.keys * dtype.bytes)
        with loaded(core, *sizes) as (dense, pitch, out_pitch):
            core.emit(
                "vexpsub", out=buffers.probabilities, out_pitch=out_pitch, a=scores, a_pitch=pitch, b=buffers.growth,
                b_pitch=dense, rows=self.rows, columns=columns, out_dtype=dtype.name, a_dtype=tile.score_dtype.name,
                b_dtype="fp32", spread="column", value=self.late_scale,
            )  # fmt: skip
        self.move(buffers.probabilities, scores)
        core.pop(buffers.growth)
        with core.scratch() as newest:
            core.multiply(self.blocks, buffers.maximum.slot_bytes, newest)
            self.dense("vmuls", buffers.shift, buffers.maximum, a_offset=newest, value=-1.0)
            core.push(buffers.shift)
            with core.when_at_least(self.done, self.blocks):
                self.dense(
                    "vexpsub", buffers.rescale, buffers.maximum, b=buffers.maximum, b_offset=newest,
                    value=self.late_scale,
                )  # fmt: skip
                core.push(buffers.rescale)
        core.pop(buffers.maximum)

    def store(self, address: Register, rows: Register) -> None:
        """Divide a block by its sums of weights, and store the rows of it that are tokens, piece by piece."""
        core, tile, shape, buffers = self.core, self.tile, self.shape, self.buffers
        if not tile.is_narrow:
            super().store(address, rows)
            return
        width, depth, size = shape.block_rows, shape.padded_head_dim, shape.dtype.bytes
        self.invert_weights()
        with core.scratch() as place, core.scratch() as out_pitch:
            core.copy(address, place)
            core.load_argument("out_pitch", out_pitch)
            for first in range(0, shape.head_dim, width):
                columns = min(width, shape.head_dim - first)
                sizes = (width * size, depth * FP32_BYTES, first * FP32_BYTES, columns, FP32_BYTES, columns * size)
                with loaded(core, *sizes) as (narrow, pitch, offset, count, dense, row_bytes):
                    core.emit(
                        "vmul", out=buffers.out, out_pitch=narrow, a=buffers.output, a_offset=offset, a_pitch=pitch,
                        b=buffers.column, b_pitch=dense, rows=self.rows, columns=count, out_dtype=shape.dtype.name,
                        a_dtype="fp32", b_dtype="fp32", spread="column",
                    )  # fmt: skip
                    core.push(buffers.out)
                    core.emit(
                        "dma_out", address=place, address_pitch=out_pitch, a=buffers.out, a_pitch=narrow, rows=rows,
                        row_bytes=row_bytes,
                    )  # fmt: skip
                core.pop(buffers.out)
                core.increase(place, width * size)
        core.pop(buffers.output)
        core.pop(buffers.column)
