"""A block of rows of a norm: its shape and buffers, and the commands of core B between load and store.

Where the engine would wait for results longer than it works, rows are multiplied by the weight meanwhile, before their
statistic is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compiler.kernel_builder import BufferHandle, CoreBuilder, Register, Scalar, round_up
from compiler.kernels.dealing import OnePerPe
from isa.dtypes import FP32, Dtype
from isa.machine import Machine

Rows = Literal["one", "one per PE", "a block per PE", "many"]
"""How many rows there are; with the last two every PE has some."""


@dataclass(frozen=True, slots=True)
class RmsNormShape:
    """True columns of a row (for the mean), columns with padding, epsilon, element type; rows, and their PEs.

    `block_rows` are the rows that a PE works on at a time; `x_slots` of such blocks are in its memory. If `fills_waits`
    it has also room for rows that are multiplied by the weight while the sums of their squares are waited for.
    """

    columns: int
    padded_columns: int
    epsilon: float
    dtype: Dtype
    rows: Rows = "many"
    places: OnePerPe | None = None
    block_rows: int = 1
    x_slots: int = 1
    fills_waits: bool = False


@dataclass(frozen=True, slots=True)
class Buffers:
    """Rows and the weight; squares and products in fp32; statistics of rows; results."""

    x: BufferHandle
    weight: BufferHandle
    wide: BufferHandle
    statistic: BufferHandle
    out: BufferHandle
    partial: BufferHandle | None = None
    """Sums of the chunks of a row, if there are several."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a shape is worked on: columns of a chunk, slots of x, rows of a block."""

    shape: RmsNormShape
    chunk: int
    x_slots: int

    @property
    def block_rows(self) -> int:
        """Rows of a block, one if rows come in chunks."""
        return max(1, min(self.shape.block_rows, self.chunk // self.shape.padded_columns))

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """First column and width of each chunk."""
        row = self.shape.padded_columns
        return [(start, min(self.chunk, row - start)) for start in range(0, row, self.chunk)]

    @property
    def chunk_columns(self) -> int:
        """Columns of the widest chunk."""
        return self.chunks[0][1]

    @property
    def weighs_first(self) -> bool:
        """True if whole rows are multiplied by the weight before their statistic is there."""
        return self.shape.fills_waits and len(self.chunks) == 1

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return by buffer (bytes of a slot, slots)."""
        row, size, rows, columns = (
            self.shape.padded_columns,
            self.shape.dtype.bytes,
            self.block_rows,
            self.chunk_columns,
        )
        count = len(self.chunks)
        partial = {"partial": (count * FP32.bytes, 1)} if count > 1 else {}
        return {
            "x": (rows * row * size, self.x_slots), "weight": (row * FP32.bytes, 1),
            "wide": (rows * columns * FP32.bytes, 2 if self.weighs_first else 1), **partial,
            "statistic": (rows * FP32.bytes, 2),
            "out": (rows * columns * size, 2 if self.shape.rows == "many" else min(2, count)),
        }  # fmt: skip

    @property
    def local_bytes(self) -> int:
        """Bytes of local memory."""
        return sum(round_up(size, 64) * slots for size, slots in self.sizes().values())


class BlockNormalizer:
    """Core B, where a block of rows is in the read slot of `x`."""

    def __init__(self, layout: Layout, machine: Machine, core: CoreBuilder, buffers: Buffers) -> None:
        self.layout, self.shape, self.core, self.buffers = layout, layout.shape, core, buffers
        self.lanes = machine.simd.elements_per_cycle
        self.rows: Scalar = 1
        """Rows of the block."""

    def normalize(self, address: Register, step: Scalar) -> None:
        """Normalize the block and store it."""
        if self.layout.weighs_first:
            self._weigh_beside_statistic()
            self._scale_weighed(address, step)
        else:
            self._find_statistic()
            self._scale(address, step)

    def _weigh_beside_statistic(self) -> None:
        """Leave whole rows times the weight in the read slot of `wide`, and their statistics in that of `statistic`.

        A half of the columns is multiplied wherever the engine would wait for a result.
        """
        core, buffers, columns = self.core, self.buffers, self.layout.chunk_columns
        half = min(columns, round_up(columns // 2, self.lanes))
        self._square(0, columns)
        self._weigh(0, half)
        self._sum(buffers.statistic, 0, columns)
        core.push(buffers.statistic)
        self._weigh(half, columns - half)
        core.push(buffers.wide)
        core.pop(buffers.x)
        self._finish_statistic()

    def _weigh(self, start: int, width: int) -> None:
        """Multiply some columns of x by the weight, into the next slot of `wide`."""
        if not width:
            return
        core, buffers, size = self.core, self.buffers, self.shape.dtype.bytes
        with core.scratch() as offset, core.scratch() as wide_offset:
            core.copy(start * size, offset)
            core.copy(start * FP32.bytes, wide_offset)
            core.emit(
                "vmul", out=buffers.wide, out_offset=wide_offset, out_pitch=self._wide_pitch, a=buffers.x,
                a_offset=offset, a_pitch=self._x_pitch, b=buffers.weight, b_offset=wide_offset, rows=self.rows,
                columns=width, out_dtype="fp32", a_dtype=self.shape.dtype.name, b_dtype="fp32", spread="row",
            )  # fmt: skip

    def _scale_weighed(self, address: Register, step: Scalar) -> None:
        """Multiply weighed rows by their statistics, and store them at an address, `step` apart."""
        core, buffers, name = self.core, self.buffers, self.shape.dtype.name
        columns, row_bytes = self.layout.chunk_columns, self.layout.chunk_columns * self.shape.dtype.bytes
        core.emit(
            "vmul", out=buffers.out, out_pitch=self._pitch(row_bytes), a=buffers.wide, a_pitch=self._wide_pitch,
            b=buffers.statistic, b_pitch=self._pitch(FP32.bytes), rows=self.rows, columns=columns, out_dtype=name,
            a_dtype="fp32", b_dtype="fp32", spread="column",
        )  # fmt: skip
        core.push(buffers.out)
        core.pop(buffers.wide)
        core.emit(
            "dma_out", address=address, address_pitch=step, a=buffers.out, a_pitch=self._pitch(row_bytes),
            rows=self.rows, row_bytes=row_bytes,
        )  # fmt: skip
        core.pop(buffers.out)
        core.pop(buffers.statistic)

    @property
    def _x_pitch(self) -> int:
        return self._pitch(self.shape.padded_columns * self.shape.dtype.bytes)

    @property
    def _wide_pitch(self) -> int:
        return self._pitch(self.layout.chunk_columns * FP32.bytes)

    def _find_statistic(self) -> None:
        """Leave `1 / sqrt(mean(x^2) + epsilon)` of each row in the read slot of `statistic`."""
        core, buffers, chunks = self.core, self.buffers, self.layout.chunks
        sums = buffers.partial or buffers.statistic
        for index, (start, width) in enumerate(chunks):
            self._square(start, width)
            self._sum(sums, index, width)
        core.push(sums)
        if buffers.partial is not None:
            core.emit(
                "rowsum", out=buffers.statistic, a=buffers.partial, rows=1, columns=len(chunks), out_dtype="fp32",
                a_dtype="fp32",
            )  # fmt: skip
            core.push(buffers.statistic)
            core.pop(buffers.partial)
        self._finish_statistic()

    def _square(self, start: int, width: int) -> None:
        """Leave the squares of some columns in a slot of `wide`."""
        core, x, name = self.core, self.buffers.x, self.shape.dtype.name
        with core.scratch() as offset:
            core.copy(start * self.shape.dtype.bytes, offset)
            core.emit(
                "vmul", out=self.buffers.wide, out_pitch=self._wide_pitch, a=x, a_offset=offset, a_pitch=self._x_pitch,
                b=x, b_offset=offset, b_pitch=self._x_pitch, rows=self.rows, columns=width, out_dtype="fp32",
                a_dtype=name, b_dtype=name,
            )  # fmt: skip
        core.push(self.buffers.wide)

    def _sum(self, into: BufferHandle, index: int, width: int) -> None:
        """Add up each row of a slot of `wide`, to the number of this index in a buffer."""
        core, wide = self.core, self.buffers.wide
        with core.scratch() as offset:
            core.copy(index * FP32.bytes, offset)
            core.emit(
                "rowsum", out=into, out_offset=offset, out_pitch=self._pitch(FP32.bytes), a=wide,
                a_pitch=self._wide_pitch, rows=self.rows, columns=width, out_dtype="fp32", a_dtype="fp32",
            )  # fmt: skip
        core.pop(wide)

    def _finish_statistic(self) -> None:
        """Make statistics of the sums of squares."""
        self._replace("vmuls", value=1.0 / self.shape.columns)
        self._replace("vadds", value=self.shape.epsilon)
        self._replace("vrsqrt")

    def _replace(self, name: str, **operands: float) -> None:
        """Replace each statistic by a function of it."""
        buffer, pitch = self.buffers.statistic, self._pitch(FP32.bytes)
        self.core.emit(
            name, out=buffer, out_pitch=pitch, a=buffer, a_pitch=pitch, rows=self.rows, columns=1, out_dtype="fp32",
            a_dtype="fp32", **operands,
        )  # fmt: skip
        self.core.push(buffer)
        self.core.pop(buffer)

    def _scale(self, address: Register, step: Scalar) -> None:
        """Multiply chunks by statistic and weight, and store the rows at an address, `step` apart."""
        core, shape, buffers = self.core, self.shape, self.buffers
        name, wide, out, size, columns = (
            shape.dtype.name, buffers.wide, buffers.out, shape.dtype.bytes, self.layout.chunk_columns
        )  # fmt: skip
        wide_pitch, out_pitch = self._wide_pitch, self._pitch(columns * size)
        with core.scratch() as target:
            core.copy(address, target)
            for start, width in self.layout.chunks:
                with core.scratch() as offset:
                    core.copy(start * size, offset)
                    core.emit(
                        "vmul", out=wide, out_pitch=wide_pitch, a=buffers.x, a_offset=offset, a_pitch=self._x_pitch,
                        b=buffers.statistic, b_pitch=self._pitch(FP32.bytes), rows=self.rows, columns=width,
                        out_dtype="fp32", a_dtype=name, b_dtype="fp32", spread="column",
                    )  # fmt: skip
                    core.push(wide)
                    core.copy(start * FP32.bytes, offset)
                    core.emit(
                        "vmul", out=out, out_pitch=out_pitch, a=wide, a_pitch=wide_pitch, b=buffers.weight,
                        b_offset=offset, rows=self.rows, columns=width, out_dtype=name, a_dtype="fp32", b_dtype="fp32",
                        spread="row",
                    )  # fmt: skip
                core.push(out)
                core.pop(wide)
                core.emit(
                    "dma_out", address=target, address_pitch=step, a=out, a_pitch=out_pitch, rows=self.rows,
                    row_bytes=width * size,
                )  # fmt: skip
                core.pop(out)
                core.increase(target, width * size)
        core.pop(buffers.statistic)
        core.pop(buffers.x)

    def _pitch(self, row_bytes: int) -> int:
        """Return how far the rows of a block lie apart; of a single row it does not matter."""
        return 0 if self.rows == 1 else row_bytes
