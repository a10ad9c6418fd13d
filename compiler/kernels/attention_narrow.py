"""Softmax of narrow scores: fp16, relative to the largest so far.

Scores come as bf16 first, which has room for all; the largest of a row may be a little off, but what is taken off its
scores comes back with the rescaling. Accumulators subtract that from the scores that they still hold, and give them
again as fp16: those that are close to the largest are close to zero, where fp16 is finest, and one that is 65504 below
it weighs nothing.
"""

from __future__ import annotations

from compiler.attention_mapping import FP32_BYTES
from compiler.kernel_builder import BufferHandle, Register
from compiler.kernels.attention_softmax import Softmax
from compiler.kernels.attention_walk import loaded
from isa.dtypes import BF16


class NarrowSoftmax(Softmax):
    """The SIMD engine's share of narrow attention; of any other it is that of `Softmax`."""

    def emit(self) -> None:
        """Emit the code of the core; zeros are there for all items."""
        origin = self.buffers.origin
        if origin is not None:
            with loaded(self.core, 1) as (one,):
                self.core.emit("fill", out=origin, rows=one, columns=self.rows, out_dtype="fp32", value=0.0)
            self.core.push(origin)
        super().emit()

    def find_maxima(self) -> None:
        """Take the largest scores of the next step into `maximum`, and tell the accumulators as soon as can be."""
        core, buffers = self.core, self.buffers
        if buffers.peak is None:
            return
        with core.scratch() as limit, core.scratch() as columns:
            self.load_chunk_rows(self.first_key, columns)
            self.load_limit(limit)
            with core.when_less(limit, columns):
                self.limit(buffers.scores, limit, columns, BF16)
                self._reduce(buffers.masked, columns)
            with core.when_at_least(limit, columns):
                self._reduce(buffers.scores, columns)
        for target in (buffers.peak, buffers.maximum):
            with core.when_less(self.done, self.blocks):
                self.dense("vcast", target, buffers.column, BF16.name)
            with core.when_at_least(self.done, self.blocks):
                self.dense("vmax", target, buffers.column, BF16.name, b=buffers.maximum)
            core.push(target)
        core.pop(buffers.column)

    def _reduce(self, scores: BufferHandle, columns: Register) -> None:
        """Leave the maxima of rows in `column`, in the type of the scores: others are slower."""
        with loaded(self.core, BF16.bytes, self.tile.keys * BF16.bytes) as (dense, pitch):
            self.core.emit(
                "rowmax", out=self.buffers.column, out_pitch=dense, a=scores, a_pitch=pitch, rows=self.rows,
                columns=columns, out_dtype=BF16.name, a_dtype=BF16.name,
            )  # fmt: skip
        self.move(self.buffers.column, scores)

    def exponentiate(self, scores: BufferHandle, columns: Register) -> None:
        """Leave weights in `probabilities`; the old maximum stays in front of the new one until it is not needed."""
        core, tile, buffers, dtype = self.core, self.tile, self.buffers, self.shape.dtype
        if buffers.origin is None:
            super().exponentiate(scores, columns)
            return
        sizes = (FP32_BYTES, tile.keys * tile.score_dtype.bytes, tile.keys * dtype.bytes)
        with loaded(core, *sizes) as (dense, pitch, out_pitch):
            core.emit(
                "vexpsub", out=buffers.probabilities, out_pitch=out_pitch, a=scores, a_pitch=pitch, b=buffers.origin,
                b_pitch=dense, rows=self.rows, columns=columns, out_dtype=dtype.name, a_dtype=tile.score_dtype.name,
                b_dtype="fp32", spread="column", value=self.late_scale,
            )  # fmt: skip
        self.move(buffers.probabilities, scores)
        self.leave_factor()

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
