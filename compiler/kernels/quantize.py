"""Rows of floats -> int8 or e4m3 with a scale per row: largest magnitude / 127 or 448. One row at a time per PE.

A row's largest magnitude comes from `rowmax` and `rowmin`; the accumulators' row ranges would need it in banks first.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.graph import Operation
from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, Register, round_up
from compiler.kernels.dealing import dealt_items, row_address
from compiler.kernels.row_rounding import RowRounding, emit_row_rounding
from compiler.lowering import ArgumentValue, Lowering
from compiler.packing import ROW_ALIGNMENT_BYTES
from isa.dtypes import FP32, Dtype
from isa.errors import UnsupportedError
from isa.kernel import Kernel
from isa.machine import Machine

ARGUMENTS = ("x", "x_pitch", "out", "out_pitch", "scales", "scales_pitch", "rows")
_SCALE_ELEMENTS = ROW_ALIGNMENT_BYTES // FP32.bytes


@dataclass(frozen=True, slots=True)
class RowShape:
    """Elements of a row with the padding of x and with that of the result, and the types of both."""

    columns: int
    out_columns: int
    dtype: Dtype
    out_dtype: Dtype


def build(machine: Machine, shape: RowShape) -> Kernel:
    """Return the kernel; raises UnsupportedError if a row does not fit in local memory."""
    for x_slots in (2, 1):
        kernel = KernelBuilder(f"quantize_{shape.columns}", machine, ARGUMENTS)
        sizes = (x_slots * shape.columns * shape.dtype.bytes, 2 * shape.out_columns)
        if sum(round_up(size, 64) for size in sizes) + 1024 <= machine.pe.local_memory_bytes:
            return _build(shape, kernel, x_slots)
    what = f"a row of {shape.columns} elements does not fit in local memory"
    raise UnsupportedError(what, where="quantize", help="use a machine with a larger pe.local_memory_bytes")


def _build(shape: RowShape, builder: KernelBuilder, x_slots: int) -> Kernel:
    row_bytes = shape.columns * shape.dtype.bytes
    rounding = RowRounding(
        raw=builder.buffer("x", row_bytes, x_slots),
        raw_pitch=row_bytes,
        out=builder.buffer("out", shape.out_columns, 2),
        columns=shape.columns,
        out_columns=shape.out_columns,
        scales=builder.buffer("statistic", ROW_ALIGNMENT_BYTES, 2),
        least=builder.buffer("least", FP32.bytes, 2),
        dtype=shape.dtype,
        out_dtype=shape.out_dtype,
    )
    scale = builder.buffer("scale", ROW_ALIGNMENT_BYTES, 2)
    core = builder.core_a
    with dealt_items(core, core.argument("rows")) as item, core.scratch() as address:
        row_address(core, "x", "x_pitch", item, address)
        core.emit("dma_in", out=rounding.raw, address=address, rows=1, row_bytes=row_bytes)
        core.push(rounding.raw)
    core = builder.core_b
    with dealt_items(core, core.argument("rows")) as item:
        emit_row_rounding(core, rounding, 1)
        core.emit(
            "vlimit", out=scale, a=rounding.scales, rows=1, columns=_SCALE_ELEMENTS, first=1, out_dtype="fp32",
            a_dtype="fp32", value=0.0,
        )  # fmt: skip
        core.push(scale)
        core.pop(rounding.scales)
        _store(core, scale, "scales", item, ROW_ALIGNMENT_BYTES)
        _store(core, rounding.out, "out", item, shape.out_columns)
    return builder.build()


def _store(core: CoreBuilder, buffer: BufferHandle, name: str, item: Register, size: int) -> None:
    with core.scratch() as address:
        row_address(core, name, f"{name}_pitch", item, address)
        core.emit("dma_out", address=address, a=buffer, rows=1, row_bytes=size)
    core.pop(buffer)


def lower(context: Lowering, op: Operation) -> None:
    """Launch; rows are dealt over the PEs."""
    x, (out, scales) = context.region(op.inputs[0]), (context.region(name) for name in op.outputs)
    out_columns = out.row_bytes // out.dtype.bytes
    shape = RowShape(min(x.row_bytes // x.dtype.bytes, out_columns), out_columns, x.dtype, out.dtype)
    kernel = context.kernel(build, shape)
    arguments: dict[str, ArgumentValue] = {
        "x": context.address(x), "x_pitch": x.pitch_bytes, "out": context.address(out), "out_pitch": out.pitch_bytes,
        "scales": context.address(scales), "scales_pitch": scales.pitch_bytes, "rows": x.rows,
    }  # fmt: skip
    context.launch(op, kernel, context.rectangle(x.rows), arguments)
