"""Rows from one place to another, for slices that cannot be views: both ends have an address and a pitch."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

from compiler.graph import Operation, SliceAttributes
from compiler.kernel_builder import CoreBuilder, KernelBuilder, Register
from compiler.kernels.dealing import cut_rows, dealt_pieces, row_address
from compiler.lowering import ArgumentValue, Lowering
from compiler.shape_inference import int_shape
from isa.affine import Affine
from isa.errors import UnsupportedError
from isa.kernel import Kernel
from isa.machine import Machine
from isa.program import Argument

ARGUMENTS = ("x", "x_pitch", "out", "out_pitch", "items", "pieces", "row_bytes", "data_bytes")
"""`data_bytes` of a row of x are copied, zeros follow up to `row_bytes`."""
LARGEST_PIECE_BYTES = 16384


def build(machine: Machine, piece_bytes: int) -> Kernel:
    """Return the kernel for pieces of `piece_bytes`."""
    builder = KernelBuilder(f"copy_{piece_bytes}", machine, ARGUMENTS)
    tile, out = builder.buffer("tile", piece_bytes, 2), builder.buffer("out", piece_bytes, 2)
    a, b = builder.core_a, builder.core_b
    with _pieces(a, piece_bytes) as (row, offset, size), a.scratch() as address:
        row_address(a, "x", "x_pitch", row, address)
        a.increase(address, offset)
        a.emit("dma_in", out=tile, address=address, rows=1, row_bytes=_data(a, offset, size))
        a.push(tile)
    with _pieces(b, piece_bytes) as (row, offset, size), b.scratch() as address:
        b.emit("fill", out=out, rows=1, columns=piece_bytes // 4, out_dtype="fp32", value=0.0)
        row_address(b, "out", "out_pitch", row, address)
        b.increase(address, offset)
        with b.scratch() as whole:
            b.copy(size, whole)
            b.emit("copy", out=out, a=tile, rows=1, row_bytes=_data(b, offset, size))
            b.push(out)
            b.pop(tile)
            b.emit("dma_out", address=address, a=out, rows=1, row_bytes=whole)
        b.pop(out)
    return builder.build()


def _data(core: CoreBuilder, offset: Register, size: Register) -> Register:
    """Emit `size = min(size, data_bytes - offset)`."""
    with core.scratch() as left:
        core.subtract(core.argument("data_bytes"), offset, left)
        return core.minimum(size, left, size)


def _pieces(core: CoreBuilder, piece_bytes: int) -> AbstractContextManager[tuple[Register, Register, Register]]:
    items, pieces, row_bytes = (core.argument(name) for name in ("items", "pieces", "row_bytes"))
    return dealt_pieces(core, items, pieces, row_bytes, piece_bytes)


def lower(context: Lowering, op: Operation) -> None:
    """Launch one copy per run of rows that have the same pitch: one in all, or one per sequence of a batch."""
    assert isinstance(op.attributes, SliceAttributes)
    x, out = context.region(op.inputs[0]), context.region(op.outputs[0])
    shape = int_shape(context.mapped.graph.value(op.inputs[0] or "").shape)
    (start,) = int_shape((op.attributes.start,))
    axis = op.attributes.axis % len(shape)
    if axis == len(shape) - 1:
        _launch(context, op, context.address(x, start * x.dtype.bytes), context.address(out), out.rows)
        return
    outer = math.prod(shape[:axis])
    rows, step = out.rows // outer, x.rows // outer
    first = start * (step // shape[axis])
    for index in range(outer):
        source = context.address(x, (index * step + first) * x.pitch_bytes)
        _launch(context, op, source, context.address(out, index * rows * out.pitch_bytes), rows)


def _launch(context: Lowering, op: Operation, source: Argument, target: Argument, rows: int) -> None:
    x, out = context.region(op.inputs[0]), context.region(op.outputs[0])
    alignment = context.machine.dma.alignment_bytes
    if isinstance(source.expression, Affine) or source.expression % alignment:
        what = f"a slice that starts at a byte that is no multiple of {alignment}"
        raise UnsupportedError(what, where=op.name, help=f"{context.machine.name} has no unaligned transfers")
    pieces = cut_rows(rows, out.row_bytes, context.machine.pe_count, LARGEST_PIECE_BYTES)
    items = rows * pieces.count
    kernel = context.kernel(("copy", pieces.piece_bytes), lambda: build(context.machine, pieces.piece_bytes))
    arguments: dict[str, ArgumentValue] = {
        "x": source, "x_pitch": x.pitch_bytes, "out": target, "out_pitch": out.pitch_bytes, "items": items,
        "pieces": pieces.count, "row_bytes": out.row_bytes, "data_bytes": out.columns * out.dtype.bytes,
    }  # fmt: skip
    context.launch(op, kernel, context.rectangle(items), arguments)
