"""A linear that rounds its own rows of x to int8 or e4m3: every PE all of them, while its first weights come in."""

from __future__ import annotations

from dataclasses import replace

from compiler.kernel_builder import CoreBuilder, KernelBuilder
from compiler.kernels.linear_scaled import ScaledLoader, ScaledMultiplier, ScalingBuffers
from compiler.kernels.linear_walk import Buffers
from compiler.kernels.row_rounding import RowRounding, emit_row_rounding
from compiler.linear_mapping import LinearMapping
from compiler.packing import padded_row_bytes
from isa.dtypes import FP32
from isa.machine import Machine


def emit_rounded(
    builder: KernelBuilder, mapping: LinearMapping, machine: Machine, buffers: Buffers, scaling: ScalingBuffers
) -> None:
    """Emit both cores; `scaling` is that of a linear whose x is rounded by others."""
    shape, raw_dtype = mapping.shape, mapping.shape.rounded_from
    assert raw_dtype is not None
    elements = mapping.k_bytes // shape.dtype.bytes
    rounding = RowRounding(
        raw=builder.buffer("raw", mapping.tile_rows * mapping.raw_row_bytes, 1, shared=True),
        raw_pitch=mapping.raw_row_bytes,
        out=buffers.x,
        columns=min(padded_row_bytes(shape.inputs, raw_dtype) // raw_dtype.bytes, elements),
        out_columns=elements,
        scales=scaling.row_scales,
        least=builder.buffer("least", mapping.tile_rows * FP32.bytes, 2),
        dtype=raw_dtype,
        out_dtype=shape.dtype,
    )
    scaling = replace(scaling, row_scale_bytes=FP32.bytes, kept=(scaling.row_scales,))
    RoundedLoader(mapping, machine, builder.core_a, buffers, scaling).emit()
    RoundedMultiplier(mapping, machine, builder.core_b, buffers, scaling, rounding).emit()


class RoundedLoader(ScaledLoader):
    """Core A: no scales of the rows of x, which core B makes."""

    def _load_row_scales(self) -> None:
        """Nothing."""


class RoundedMultiplier(ScaledMultiplier):
    """Core B: rounds x once, then multiplies."""

    def __init__(
        self, mapping: LinearMapping, machine: Machine, core: CoreBuilder, buffers: Buffers, scaling: ScalingBuffers,
        rounding: RowRounding,
    ) -> None:  # fmt: skip
        super().__init__(mapping, machine, core, buffers, scaling)
        self.rounding = rounding

    def load_resident_x(self) -> None:
        core, rounding = self.core, self.rounding
        with (
            core.scratch() as pitch, core.scratch() as row_bytes, core.scratch() as address,
            core.scratch() as address_pitch,
        ):  # fmt: skip
            core.copy(rounding.raw_pitch, pitch)
            core.copy(rounding.columns * rounding.dtype.bytes, row_bytes)
            core.emit(
                "dma_in", out=rounding.raw, out_pitch=pitch, address=core.load_argument("x", address),
                address_pitch=core.load_argument("x_pitch", address_pitch), rows=core.argument("rows"),
                row_bytes=row_bytes, broadcast=self._broadcast(self.mapping.x_receivers),
            )  # fmt: skip
        core.push(rounding.raw)

    def _prepare(self) -> None:
        super()._prepare()
        emit_row_rounding(self.core, self.rounding, self.core.argument("rows"))
