"""A linear of int8 by int8 (sums in int32) or e4m3 by e4m3 (sums in fp32).

Sums are scaled by row, then by column on the way out; bias and residual come last, in fp32 like all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, OperandValue, round_up
from compiler.kernels.linear_compute import Multiplier
from compiler.kernels.linear_load import Loader
from compiler.kernels.linear_walk import Buffers
from compiler.linear_mapping import LinearMapping
from isa.dtypes import FP32, INT32
from isa.machine import Machine


@dataclass(frozen=True, slots=True)
class ScalingBuffers:
    """`zeros` starts accumulators; a row of `row_scales` begins with its scale; `scaled` holds fp32 between steps.

    `kept` are operands of the way out that serve all tiles.
    """

    zeros: BufferHandle
    row_scales: BufferHandle
    column_scales: BufferHandle
    sums: BufferHandle
    scaled: BufferHandle
    row_scale_bytes: int
    kept: tuple[BufferHandle, ...] = ()


def scaling_buffers(
    builder: KernelBuilder, mapping: LinearMapping, machine: Machine, initial: BufferHandle
) -> ScalingBuffers:
    """Declare the buffers of the way out; `initial` holds the zeros when there is no bias and no residual."""
    has_initial = mapping.shape.has_bias or mapping.shape.has_residual
    tile_bytes = mapping.tile_rows * mapping.tile_columns * FP32.bytes
    row_scale_bytes = round_up(FP32.bytes, machine.dma.alignment_bytes)
    return ScalingBuffers(
        builder.buffer("zeros", mapping.initial_row_bytes, 1) if has_initial else initial,
        builder.buffer("row_scales", mapping.tile_rows * row_scale_bytes, 2),
        builder.buffer("column_scales", mapping.tile_columns * FP32.bytes, 2, shared=True),
        builder.buffer("sums", tile_bytes, 1, shared=True),
        builder.buffer("scaled", tile_bytes, 2, shared=True),
        row_scale_bytes,
    )


class ScaledLoader(Loader):
    """Core A: with each tile also the scales of its rows and columns."""

    def __init__(
        self, mapping: LinearMapping, machine: Machine, core: CoreBuilder, buffers: Buffers, scaling: ScalingBuffers
    ) -> None:
        super().__init__(mapping, machine, core, buffers)
        self.scaling = scaling

    def _load_beside_chunks(self) -> None:
        super()._load_beside_chunks()
        self._load_columns(self.scaling.column_scales, "scales")
        self._load_row_scales()

    def _load_row_scales(self) -> None:
        core = self.core
        with core.scratch() as address, core.scratch() as pitch:
            core.load_argument("row_scales_pitch", pitch)
            core.multiply(self.first_row, pitch, address)
            with core.scratch() as base:
                core.increase(address, core.load_argument("row_scales", base))
            size = self.scaling.row_scale_bytes
            core.emit(
                "dma_in", out=self.scaling.row_scales, out_pitch=size, address=address, address_pitch=pitch,
                rows=self.tile_rows, row_bytes=size,
            )  # fmt: skip
        core.push(self.scaling.row_scales)


class ScaledMultiplier(Multiplier):
    """Core B: accumulators start from zeros, their sums are scaled."""

    def __init__(
        self, mapping: LinearMapping, machine: Machine, core: CoreBuilder, buffers: Buffers, scaling: ScalingBuffers
    ) -> None:
        super().__init__(mapping, machine, core, buffers)
        self.scaling = scaling
        self.sum_dtype = FP32 if mapping.shape.dtype.is_float else INT32

    @property
    def _starts_loaded(self) -> bool:
        return True

    def _prepare(self) -> None:
        self._fill_zeros(self.scaling.zeros)

    def _start_accumulators(self) -> None:
        for bank, block, _, width in self._banks():
            self.core.emit(
                "acc_load", bank=bank, a=self.scaling.zeros, a_dtype="fp32", spread="row",
                **self._extent(block, width),
            )  # fmt: skip

    def _finish(self) -> None:
        """Scale every tile, so that what was loaded for it is used up, and store those that are no padding."""
        self._drain(self.scaling.sums, self.sum_dtype)
        self.core.push(self.scaling.sums)
        self._scale()
        if self.mapping.shape.gate:
            self._pass_gates()
        elif self.buffers.activation:
            self._activate()
        with self._inside():
            self._send()

    def _pass_gates(self) -> None:
        both, pitch = self.buffers.activation[0], self.mapping.tile_columns * FP32.bytes
        for block in self.row_blocks:
            first_row = block * self.mapping.block_rows
            self._pass_gate(block, first_row * pitch, first_row)
        self.core.pop(both)

    def _scale(self) -> None:
        scaling, shape = self.scaling, self.mapping.shape
        sums = (scaling.sums, self.mapping.tile_columns * self.sum_dtype.bytes, self.sum_dtype.name)
        scaled = (scaling.scaled, self.mapping.tile_columns * FP32.bytes, FP32.name)
        target, dtype = self._target()
        out = (target, self.mapping.tile_columns * dtype.bytes, dtype.name)
        rows = (scaling.row_scales, scaling.row_scale_bytes, FP32.name)
        columns = (scaling.column_scales, 0, FP32.name)
        self._combine("vmul", scaled, sums, rows, "column")
        if not self._has_initial:
            self._combine("vmul", out, scaled, columns, "row")
            return
        self._combine("vmul", scaled, scaled, columns, "row")
        if shape.has_bias:
            self._combine("vadd", out, scaled, (self.buffers.initial, 0, FP32.name), "row")
        else:
            self._combine("vadd", out, scaled, (self.buffers.initial, self.tile_bytes, shape.out_dtype.name), "full")

    def _combine(
        self,
        name: str,
        out: tuple[BufferHandle, int, str],
        a: tuple[BufferHandle, int, str],
        b: tuple[BufferHandle, int, str],
        spread: str,
    ) -> None:
        """Emit `out = a (name) b` for a tile, each (buffer, pitch, element type); both are used up but what is kept."""
        core = self.core
        with core.scratch() as out_pitch, core.scratch() as a_pitch, core.scratch() as b_pitch:
            operands: dict[str, OperandValue] = {
                "out_pitch": core.copy(out[1], out_pitch),
                "a_pitch": core.copy(a[1], a_pitch),
                "b_pitch": core.copy(b[1], b_pitch),
            }
            core.emit(
                name, out=out[0], a=a[0], b=b[0], rows=self.tile_rows, columns=self.mapping.tile_columns,
                out_dtype=out[2], a_dtype=a[2], b_dtype=b[2], spread=spread, **operands,
            )  # fmt: skip
        if out[0] is not self.buffers.out:
            core.push(out[0])
        core.pop(a[0])
        if b[0] not in self.scaling.kept:
            core.pop(b[0])
