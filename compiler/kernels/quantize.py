"""Rows of floats -> int8 or e4m3 with a scale per row: largest magnitude / 127 or 448. One row at a time per PE.

A row is as long as K, so its largest magnitude comes from `rowmax` of pieces; the accumulators' row ranges would need
the row in banks first.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.graph import Operation
from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, OperandValue, Register, round_up
from compiler.kernels.dealing import dealt_items, row_address
from compiler.lowering import ArgumentValue, Lowering
from compiler.packing import ROW_ALIGNMENT_BYTES
from compiler.reference_quantized import SMALLEST_RANGE
from isa.dtypes import FP32, Dtype
from isa.errors import UnsupportedError
from isa.kernel import Kernel
from isa.machine import Machine

ARGUMENTS = ("x", "x_pitch", "out", "out_pitch", "scales", "scales_pitch", "rows")
LARGEST_CHUNK = 2048
_SCALE_ELEMENTS = ROW_ALIGNMENT_BYTES // FP32.bytes


@dataclass(frozen=True, slots=True)
class RowShape:
    """Elements of a row with the padding of x and with that of the result, and the types of both."""

    columns: int
    out_columns: int
    dtype: Dtype
    out_dtype: Dtype

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """(first element, elements) of the pieces that are worked on at a time."""
        return [(start, min(LARGEST_CHUNK, self.columns - start)) for start in range(0, self.columns, LARGEST_CHUNK)]


@dataclass(frozen=True, slots=True)
class _Buffers:
    x: BufferHandle
    magnitudes: BufferHandle
    partial: BufferHandle
    statistic: BufferHandle
    scale: BufferHandle
    out: BufferHandle


def build(shape: RowShape, machine: Machine) -> Kernel:
    """Return the kernel; raises UnsupportedError if a row does not fit in local memory."""
    for x_slots in (2, 1):
        kernel = KernelBuilder(f"quantize_{shape.columns}", machine, ARGUMENTS)
        sizes = (x_slots * shape.columns * shape.dtype.bytes, LARGEST_CHUNK * FP32.bytes, 2 * shape.out_columns)
        if sum(round_up(size, 64) for size in sizes) + 1024 <= machine.pe.local_memory_bytes:
            return _build(shape, kernel, x_slots)
    what = f"a row of {shape.columns} elements does not fit in local memory"
    raise UnsupportedError(what, where="quantize", help="use a machine with a larger pe.local_memory_bytes")


def _build(shape: RowShape, builder: KernelBuilder, x_slots: int) -> Kernel:
    buffers = _Buffers(
        x=builder.buffer("x", shape.columns * shape.dtype.bytes, x_slots),
        magnitudes=builder.buffer("magnitudes", min(LARGEST_CHUNK, shape.columns) * FP32.bytes, 1),
        partial=builder.buffer("partial", len(shape.chunks) * FP32.bytes, 1),
        statistic=builder.buffer("statistic", ROW_ALIGNMENT_BYTES, 2),
        scale=builder.buffer("scale", ROW_ALIGNMENT_BYTES, 2),
        out=builder.buffer("out", shape.out_columns, 2),
    )
    core = builder.core_a
    with dealt_items(core, core.argument("rows")) as item, core.scratch() as address:
        row_address(core, "x", "x_pitch", item, address)
        core.emit("dma_in", out=buffers.x, address=address, rows=1, row_bytes=shape.columns * shape.dtype.bytes)
        core.push(buffers.x)
    core = builder.core_b
    with dealt_items(core, core.argument("rows")) as item:
        _statistic(core, buffers, shape)
        _round(core, buffers, shape)
        _store(core, buffers.scale, "scales", item, ROW_ALIGNMENT_BYTES)
        _store(core, buffers.out, "out", item, shape.out_columns)
    return builder.build()


def _statistic(core: CoreBuilder, buffers: _Buffers, shape: RowShape) -> None:
    """Leave the scale in the read slot of `statistic` and in `scale`."""
    for index, (start, width) in enumerate(shape.chunks):
        with core.scratch() as offset:
            core.copy(start * shape.dtype.bytes, offset)
            core.emit(
                "vabs", out=buffers.magnitudes, a=buffers.x, a_offset=offset, rows=1, columns=width, out_dtype="fp32",
                a_dtype=shape.dtype.name,
            )  # fmt: skip
            core.push(buffers.magnitudes)
            core.copy(index * FP32.bytes, offset)
            core.emit(
                "rowmax", out=buffers.partial, out_offset=offset, a=buffers.magnitudes, rows=1, columns=width,
                out_dtype="fp32", a_dtype="fp32",
            )  # fmt: skip
            core.pop(buffers.magnitudes)
    core.push(buffers.partial)
    _single(core, "rowmax", buffers.statistic, buffers.partial, columns=len(shape.chunks))
    core.pop(buffers.partial)
    for name, value in (("vmaxs", float(SMALLEST_RANGE)), ("vmuls", 1 / shape.out_dtype.largest)):
        _single(core, name, buffers.statistic, buffers.statistic, columns=1, value=value)
        core.pop(buffers.statistic)
    _single(core, "vlimit", buffers.scale, buffers.statistic, columns=_SCALE_ELEMENTS, first=1, value=0.0)


def _single(core: CoreBuilder, name: str, out: BufferHandle, a: BufferHandle, **operands: OperandValue) -> None:
    core.emit(name, out=out, a=a, rows=1, out_dtype="fp32", a_dtype="fp32", **operands)
    core.push(out)


def _round(core: CoreBuilder, buffers: _Buffers, shape: RowShape) -> None:
    """Divide the row by its scale, rounded to a byte; what is beyond the row's padding is zeros."""
    core.emit(
        "vdiv", out=buffers.out, a=buffers.x, b=buffers.statistic, rows=1, columns=shape.columns,
        out_dtype=shape.out_dtype.name, a_dtype=shape.dtype.name, b_dtype="fp32", spread="column",
    )  # fmt: skip
    for start in range(shape.columns, shape.out_columns, _SCALE_ELEMENTS):
        with core.scratch() as offset:
            core.copy(start, offset)
            core.emit(
                "vlimit", out=buffers.out, out_offset=offset, a=buffers.statistic, rows=1, columns=_SCALE_ELEMENTS,
                out_dtype=shape.out_dtype.name, a_dtype="fp32", value=0.0,
            )  # fmt: skip
    core.push(buffers.out)
    core.pop(buffers.x)
    core.pop(buffers.statistic)


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
    kernel = context.kernel(("quantize", shape), lambda: build(shape, context.machine))
    arguments: dict[str, ArgumentValue] = {
        "x": context.address(x), "x_pitch": x.pitch_bytes, "out": context.address(out), "out_pitch": out.pitch_bytes,
        "scales": context.address(scales), "scales_pitch": scales.pitch_bytes, "rows": x.rows,
    }  # fmt: skip
    context.launch(op, kernel, context.rectangle(x.rows), arguments)
