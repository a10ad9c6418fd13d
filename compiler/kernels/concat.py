"""Tensors joined along an axis: rows go to their place tensor by tensor, columns are put together row by row."""

from __future__ import annotations

import math

from compiler.graph import AxisAttributes, Operation
from compiler.kernel_builder import CoreBuilder, KernelBuilder, Register, round_up
from compiler.kernels import move_rows
from compiler.kernels.blocks import (
    BLOCK_ARGUMENTS,
    Block,
    Tiling,
    align_down,
    align_up,
    dealt_blocks,
    start_of,
    store_block,
)
from compiler.kernels.move_rows import choose_tiling, data_columns, pad_rows
from compiler.lowering import ArgumentValue, Lowering
from compiler.packing import ROW_ALIGNMENT_BYTES
from compiler.shape_inference import int_shape
from compiler.strides import Axis, Walk, collapsed
from isa.kernel import Kernel
from isa.machine import Machine


def lower(context: Lowering, op: Operation) -> None:
    """Launch a concatenation; tensors without elements take no part."""
    assert isinstance(op.attributes, AxisAttributes)
    shape = int_shape(context.mapped.graph.value(op.outputs[0] or "").shape)
    if not math.prod(shape):
        return
    if op.attributes.axis == len(shape) - 1:
        _join_columns(context, op)
    else:
        _join_rows(context, op, shape, op.attributes.axis)


def _join_rows(context: Lowering, op: Operation, shape: tuple[int, ...], axis: int) -> None:
    """Launch one move of rows for each tensor."""
    out = context.region(op.outputs[0])
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 : -1])
    first = 0
    for name in op.inputs:
        x = context.region(name)
        if not x.rows:
            continue
        rows = x.rows // outer
        axes = (
            Axis(outer, rows * x.pitch_bytes, shape[axis] * inner * out.pitch_bytes),
            Axis(rows, x.pitch_bytes, out.pitch_bytes),
        )
        walk = Walk(
            context.address(x), context.address(out, first * out.pitch_bytes), collapsed(axes),
            Axis(x.columns, x.dtype.bytes, x.dtype.bytes), 0, out.row_bytes, x.dtype,
        )  # fmt: skip
        move_rows.launch(context, op, walk)
        first += rows


def _join_columns(context: Lowering, op: Operation) -> None:
    out, machine = context.region(op.outputs[0]), context.machine
    sources = [region for region in map(context.region, op.inputs) if region.columns]
    tiling = choose_tiling(
        out.rows, out.rows, out.row_bytes, machine.pe_count, tile_bytes=machine.pe.local_memory_bytes // 16
    )
    count = len(sources)
    kernel = context.kernel(build, tiling, count)
    arguments: dict[str, ArgumentValue] = {
        **tiling.arguments(1, out.rows, out.row_bytes), "out": context.address(out), "out_pitch": out.pitch_bytes,
        "data_bytes": out.columns * out.dtype.bytes,
    }  # fmt: skip
    first = 0
    for index, x in enumerate(sources):
        size = x.columns * x.dtype.bytes
        arguments |= {
            f"x{index}": context.address(x), f"x{index}_pitch": x.pitch_bytes, f"first{index}": first,
            f"last{index}": first + size,
        }  # fmt: skip
        first += size
    items = arguments["items"]
    assert isinstance(items, int)
    context.launch(op, kernel, context.rectangle(items), arguments)


def build(machine: Machine, tiling: Tiling, count: int) -> Kernel:
    """Return the kernel that puts rows together from `count` tensors, each at bytes first..last of a row."""
    names = [f"{name}{index}{end}" for index in range(count) for name, end in
             (("x", ""), ("x", "_pitch"), ("first", ""), ("last", ""))]  # fmt: skip
    arguments = (*BLOCK_ARGUMENTS, "out", "out_pitch", "data_bytes", *names)
    name = f"concat_{count}_{tiling.block_rows}x{tiling.piece_bytes}"
    builder = KernelBuilder(name, machine, arguments)
    pitch = tiling.piece_bytes + (ROW_ALIGNMENT_BYTES if machine.dma.alignment_bytes > 1 else 0)
    pitch = round_up(pitch, ROW_ALIGNMENT_BYTES)
    tile = builder.buffer("tile", tiling.block_rows * pitch, 2)
    out = builder.buffer("out", tiling.block_rows * tiling.piece_bytes, 2)
    a, b = builder.core_a, builder.core_b
    alignment = machine.dma.alignment_bytes
    with dealt_blocks(a, tiling) as block, a.scratch() as low, a.scratch() as high:
        for index in range(count):
            _overlap(a, block, index, low, high)
            with a.when_less(low, high), a.scratch() as skip, a.scratch() as value:
                a.subtract(high, low, high)
                a.subtract(low, a.load_argument(f"first{index}", value), low)
                align_down(a, low, alignment, skip)
                a.increase(high, skip)
                align_up(a, high, alignment)
                start_of(a, f"x{index}", 0, block, skip, low)
                a.emit(
                    "dma_in", out=tile, out_pitch=pitch, address=skip,
                    address_pitch=a.load_argument(f"x{index}_pitch", value), rows=block.rows, row_bytes=high,
                )  # fmt: skip
                a.push(tile)
    with dealt_blocks(b, tiling) as block, b.scratch() as low, b.scratch() as high:
        b.copy(block.size, low)
        data_columns(b, block, low)
        pad_rows(b, out, block, low, tiling.piece_bytes)
        for index in range(count):
            _overlap(b, block, index, low, high)
            with b.when_less(low, high), b.scratch() as skip, b.scratch() as value:
                b.subtract(high, low, high)
                b.subtract(low, b.load_argument(f"first{index}", value), value)
                align_down(b, value, alignment, skip)
                b.subtract(low, block.offset, low)
                b.emit(
                    "copy", out=out, out_offset=low, out_pitch=tiling.piece_bytes, a=tile, a_offset=skip, a_pitch=pitch,
                    rows=block.rows, row_bytes=high,
                )  # fmt: skip
                b.pop(tile)
        b.push(out)
        start_of(b, "out", 0, block, low, block.offset)
        store_block(b, block, out, tiling.piece_bytes, low)
    return builder.build()


def _overlap(core: CoreBuilder, block: Block, index: int, low: Register, high: Register) -> None:
    """Emit (low, high) = the bytes of a row that tensor `index` has in this piece; none if not low < high."""
    core.maximum(block.offset, core.load_argument(f"first{index}", low), low)
    core.add(block.offset, block.size, high)
    with core.scratch() as last:
        core.minimum(high, core.load_argument(f"last{index}", last), high)
