"""Rows of floats in local memory -> numbers of a byte with a scale per row: largest magnitude / largest of the type."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.kernel_builder import BufferHandle, CoreBuilder, OperandValue, Register, Scalar
from compiler.reference_quantized import SMALLEST_RANGE
from isa.dtypes import FP32, Dtype


@dataclass(frozen=True, slots=True)
class RowRounding:
    """`columns` of the rows in `raw` (`raw_pitch` bytes apart), rounded into `out` up to `out_columns`, zeros behind.

    `scales` and `least` have two slots each of one fp32 number per row. Distances and sizes are at least one row's.
    """

    raw: BufferHandle
    raw_pitch: int
    out: BufferHandle
    columns: int
    out_columns: int
    scales: BufferHandle
    least: BufferHandle
    dtype: Dtype
    out_dtype: Dtype


def emit_row_rounding(core: CoreBuilder, rounding: RowRounding, rows: Scalar) -> None:
    """Round what is pushed in `raw`, use it up and push `out`; leaves the scales in the read slot of `scales`."""
    _largest_magnitudes(core, rounding, rows)
    for name, value in (("vmaxs", float(SMALLEST_RANGE)), ("vmuls", 1 / rounding.out_dtype.largest)):
        _column(core, name, rounding.scales, rounding.scales, rows, value=value)
        core.pop(rounding.scales)
    _divide(core, rounding, rows)
    core.push(rounding.out)
    core.pop(rounding.raw)


def _largest_magnitudes(core: CoreBuilder, rounding: RowRounding, rows: Scalar) -> None:
    """Leave max(greatest, -least) of each row in the read slot of `scales`."""
    for name, out in (("rowmax", rounding.scales), ("rowmin", rounding.least)):
        with core.scratch() as pitch, core.scratch() as columns:
            core.emit(
                name, out=out, out_pitch=FP32.bytes, a=rounding.raw, a_pitch=core.copy(rounding.raw_pitch, pitch),
                rows=rows, columns=core.copy(rounding.columns, columns), out_dtype=FP32.name,
                a_dtype=rounding.dtype.name,
            )  # fmt: skip
        core.push(out)
    _column(core, "vmuls", rounding.least, rounding.least, rows, value=-1.0)
    core.pop(rounding.least)
    _column(
        core, "vmax", rounding.scales, rounding.scales, rows, b=rounding.least, b_pitch=FP32.bytes, b_dtype=FP32.name,
        spread="full",
    )  # fmt: skip
    core.pop(rounding.scales)
    core.pop(rounding.least)


def _column(
    core: CoreBuilder, name: str, out: BufferHandle, a: BufferHandle, rows: Scalar, **operands: OperandValue
) -> None:
    """Emit a step on one number per row, and push its result."""
    core.emit(
        name, out=out, out_pitch=FP32.bytes, a=a, a_pitch=FP32.bytes, rows=rows, columns=1, out_dtype=FP32.name,
        a_dtype=FP32.name, **operands,
    )  # fmt: skip
    core.push(out)


def _divide(core: CoreBuilder, rounding: RowRounding, rows: Scalar) -> None:
    with core.scratch() as raw_pitch, core.scratch() as out_pitch, core.scratch() as columns:
        core.copy(rounding.raw_pitch, raw_pitch)
        core.copy(rounding.out_columns * rounding.out_dtype.bytes, out_pitch)
        core.emit(
            "vdiv", out=rounding.out, out_pitch=out_pitch, a=rounding.raw, a_pitch=raw_pitch, b=rounding.scales,
            b_pitch=FP32.bytes, rows=rows, columns=core.copy(rounding.columns, columns),
            out_dtype=rounding.out_dtype.name, a_dtype=rounding.dtype.name, b_dtype=FP32.name, spread="column",
        )  # fmt: skip
        _clear_ends(core, rounding, rows, out_pitch)


def _clear_ends(core: CoreBuilder, rounding: RowRounding, rows: Scalar, out_pitch: Register) -> None:
    """Write zeros behind the columns, at most as many at a time as a row of `raw` has, whose numbers do not matter."""
    for start in range(rounding.columns, rounding.out_columns, rounding.columns):
        with core.scratch() as offset, core.scratch() as raw_pitch, core.scratch() as width:
            core.emit(
                "vlimit", out=rounding.out, out_offset=core.copy(start, offset), out_pitch=out_pitch, a=rounding.raw,
                a_pitch=core.copy(rounding.raw_pitch, raw_pitch), rows=rows,
                columns=core.copy(min(rounding.columns, rounding.out_columns - start), width),
                out_dtype=rounding.out_dtype.name, a_dtype=rounding.dtype.name, value=0.0,
            )  # fmt: skip
