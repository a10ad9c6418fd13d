"""An axis of the source's rows becomes another axis of the result: tiles are transposed in local memory."""

from __future__ import annotations

from dataclasses import replace

from compiler.graph import Operation
from compiler.kernel_builder import KernelBuilder, round_up
from compiler.kernels.blocks import (
    BLOCK_ARGUMENTS,
    Tiling,
    add_outer,
    align_down,
    align_up,
    dealt_blocks,
    launch_walk,
    outer_names,
    start_of,
    store_block,
)
from compiler.kernels.move_rows import data_columns, pad_rows
from compiler.lowering import Lowering
from compiler.packing import ROW_ALIGNMENT_BYTES
from compiler.strides import Walk, places
from isa.dtypes import Dtype
from isa.kernel import Kernel
from isa.machine import Machine

LARGEST_TILE_BYTES = 256
"""Bytes along each side of a tile."""
SLOTS = 4
"""Tiles in local memory: two that come in, two that go out."""


def launch(context: Lowering, op: Operation, walk: Walk) -> None:
    """Launch tiles of [the source's rows, the result's rows] over all PEs."""
    element, machine = walk.dtype.bytes, context.machine
    across = next(axis for axis in walk.outer if axis.source == element)
    outer = tuple(axis for axis in walk.outer if axis is not across)
    tiling = _tiling(across.size * element, walk.row_bytes, element, places(outer), machine)
    kernel = context.kernel(build, tiling, len(outer), walk.dtype)
    rows = replace(across, source=walk.columns.source)
    launch_walk(context, op, kernel, walk, tiling, rows, outer, skip_bytes=walk.skip_bytes)


def _tiling(source_bytes: int, row_bytes: int, element: int, outer: int, machine: Machine) -> Tiling:
    """Return the largest tiles that fit and still give every PE one, if there are enough elements."""
    sides = [min(round_up(size, ROW_ALIGNMENT_BYTES), LARGEST_TILE_BYTES) for size in (source_bytes, row_bytes)]
    while max(sides) > ROW_ALIGNMENT_BYTES:
        fits = SLOTS * sides[0] * sides[1] // element <= machine.pe.local_memory_bytes // 2
        if fits and outer * -(-source_bytes // sides[0]) * -(-row_bytes // sides[1]) >= machine.pe_count:
            break
        longer = sides.index(max(sides))
        sides[longer] = round_up(sides[longer] // 2, ROW_ALIGNMENT_BYTES)
    return Tiling(sides[0] // element, sides[1])


def build(machine: Machine, tiling: Tiling, axes: int, dtype: Dtype) -> Kernel:
    """Return the kernel; a block's `rows` are those of the result, its columns are rows of the source."""
    names = ("x", "x_pitch", "out", "out_pitch", "data_bytes", "skip_bytes", *outer_names(axes, "x", "out"))
    name = f"move_transposed_{tiling.block_rows}x{tiling.piece_bytes}_{dtype.name}"
    builder = KernelBuilder(name, machine, (*BLOCK_ARGUMENTS, *names))
    element, alignment = dtype.bytes, machine.dma.alignment_bytes
    pitch = tiling.block_rows * element + (ROW_ALIGNMENT_BYTES if alignment > 1 else 0)
    tile = builder.buffer("tile", tiling.piece_bytes // element * pitch, 2)
    out = builder.buffer("out", tiling.block_rows * tiling.piece_bytes, 2)
    a, b = builder.core_a, builder.core_b
    with dealt_blocks(a, tiling) as block, a.scratch() as address, a.scratch() as size, a.scratch() as count:
        a.copy(block.size, count)
        data_columns(a, block, count)
        a.compute("div", count, element, count)
        a.compute("div", block.offset, element, address)
        with a.scratch() as value:
            a.multiply(address, a.load_argument("x_pitch", value), address)
            a.increase(address, a.load_argument("x", value))
        add_outer(a, "x", axes, block.outer, address)
        with a.scratch() as skip:
            a.multiply(block.row, element, size)
            a.increase(size, a.load_argument("skip_bytes", skip))
            align_down(a, size, alignment, skip)
            a.increase(address, size)
            a.multiply(block.rows, element, size)
            a.increase(size, skip)
            align_up(a, size, alignment)
        with a.scratch() as x_pitch:
            a.emit(
                "dma_in", out=tile, out_pitch=pitch, address=address,
                address_pitch=a.load_argument("x_pitch", x_pitch), rows=count, row_bytes=size,
            )  # fmt: skip
        a.push(tile)
    with dealt_blocks(b, tiling) as block, b.scratch() as address, b.scratch() as size, b.scratch() as skip:
        b.multiply(block.row, element, address)
        b.increase(address, b.load_argument("skip_bytes", skip))
        align_down(b, address, alignment, skip)
        b.copy(block.size, size)
        data_columns(b, block, size)
        pad_rows(b, out, block, size, tiling.piece_bytes)
        b.compute("div", size, element, size)
        b.emit(
            "transpose", out=out, out_pitch=tiling.piece_bytes, a=tile, a_offset=skip, a_pitch=pitch, rows=size,
            columns=block.rows, a_dtype=dtype.name,
        )  # fmt: skip
        b.push(out)
        b.pop(tile)
        start_of(b, "out", axes, block, address, block.offset)
        store_block(b, block, out, tiling.piece_bytes, address)
    return builder.build()
