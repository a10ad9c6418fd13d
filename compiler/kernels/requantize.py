"""`clip(round(x / scale), low, high) * scale`: core A loads pieces of rows, core B rounds them, integers in between."""

from __future__ import annotations

from contextlib import AbstractContextManager

from compiler.graph import Operation, RequantizeAttributes
from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, OperandValue, Register
from compiler.kernels.dealing import cut_rows, dealt_pieces, row_address
from compiler.lowering import ArgumentValue, Lowering
from isa.dtypes import FP32, INT32, Dtype
from isa.kernel import Kernel
from isa.machine import Machine

ARGUMENTS = ("x", "x_pitch", "out", "out_pitch", "items", "pieces", "row_bytes")
LARGEST_PIECE_BYTES = 4096


def build(machine: Machine, attributes: RequantizeAttributes, dtype: Dtype, piece_bytes: int) -> Kernel:
    """Return the kernel for pieces of `piece_bytes`."""
    builder = KernelBuilder(f"requantize_{piece_bytes}", machine, ARGUMENTS)
    x, out = builder.buffer("x", piece_bytes, 2), builder.buffer("out", piece_bytes, 2)
    integers = builder.buffer("integers", piece_bytes // dtype.bytes * INT32.bytes, 2)
    divisor = builder.buffer("divisor", FP32.bytes, 1)
    a, b = builder.core_a, builder.core_b
    with _pieces(a, piece_bytes) as (row, offset, size), a.scratch() as address:
        row_address(a, "x", "x_pitch", row, address)
        a.increase(address, offset)
        a.emit("dma_in", out=x, address=address, rows=1, row_bytes=size)
        a.push(x)
    b.emit("fill", out=divisor, rows=1, columns=1, out_dtype="fp32", value=attributes.scale)
    b.push(divisor)
    with _pieces(b, piece_bytes) as (row, offset, size), b.scratch() as address, b.scratch() as columns:
        b.compute("div", size, dtype.bytes, columns)
        _round(b, attributes, dtype, (x, divisor, integers, out), columns)
        row_address(b, "out", "out_pitch", row, address)
        b.increase(address, offset)
        b.emit("dma_out", address=address, a=out, rows=1, row_bytes=size)
        b.pop(out)
    return builder.build()


def _pieces(core: CoreBuilder, piece_bytes: int) -> AbstractContextManager[tuple[Register, Register, Register]]:
    items, pieces, row_bytes = (core.argument(name) for name in ("items", "pieces", "row_bytes"))
    return dealt_pieces(core, items, pieces, row_bytes, piece_bytes)


def _round(
    core: CoreBuilder,
    attributes: RequantizeAttributes,
    dtype: Dtype,
    buffers: tuple[BufferHandle, BufferHandle, BufferHandle, BufferHandle],
    columns: Register,
) -> None:
    x, divisor, integers, out = buffers
    core.emit(
        "vdiv", out=integers, a=x, b=divisor, rows=1, columns=columns, out_dtype="int32", a_dtype=dtype.name,
        b_dtype="fp32", spread="column",
    )  # fmt: skip
    core.push(integers)
    core.pop(x)
    steps: tuple[tuple[str, BufferHandle, str, OperandValue], ...] = (
        ("vmaxs", integers, "int32", float(attributes.low)),
        ("vmins", integers, "int32", float(attributes.high)),
        ("vmuls", out, dtype.name, attributes.scale),
    )
    for name, target, target_dtype, value in steps:
        core.emit(
            name, out=target, a=integers, rows=1, columns=columns, out_dtype=target_dtype, a_dtype="int32", value=value
        )
        core.push(target)
        core.pop(integers)


def lower(context: Lowering, op: Operation) -> None:
    """Launch; pieces of rows are dealt over the PEs."""
    attributes = op.attributes
    assert isinstance(attributes, RequantizeAttributes)
    x, out = context.region(op.inputs[0]), context.region(op.outputs[0])
    pieces = cut_rows(out.rows, out.row_bytes, context.machine.pe_count, LARGEST_PIECE_BYTES)
    kernel = context.kernel(build, attributes, context.dtype, pieces.piece_bytes)
    items = out.rows * pieces.count
    arguments: dict[str, ArgumentValue] = {
        "x": context.address(x), "x_pitch": x.pitch_bytes, "out": context.address(out), "out_pitch": out.pitch_bytes,
        "items": items, "pieces": pieces.count, "row_bytes": out.row_bytes,
    }  # fmt: skip
    context.launch(op, kernel, context.rectangle(items), arguments)
