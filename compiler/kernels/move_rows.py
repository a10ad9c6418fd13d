"""Rows, or the same columns of them, to other rows: many rows in one transfer, no byte changes its place in a row
but for what the source row starts with."""

from __future__ import annotations

from dataclasses import replace

from compiler.graph import Operation
from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, Register, round_up
from compiler.kernels.blocks import (
    BLOCK_ARGUMENTS,
    Block,
    Tiling,
    align_up,
    dealt_blocks,
    launch_walk,
    outer_names,
    start_of,
    store_block,
)
from compiler.lowering import Lowering
from compiler.strides import Walk, places, row_axis
from isa.kernel import Kernel
from isa.machine import Machine
from isa.program import Argument

LARGEST_PIECE_BYTES, LARGEST_TILE_BYTES = 8192, 16384


def launch(context: Lowering, op: Operation, walk: Walk) -> None:
    """Launch a move of rows."""
    rows, outer = row_axis(walk.outer)
    tiling = choose_tiling(rows.size * places(outer), rows.size, walk.row_bytes, context.machine.pe_count)
    alignment = context.machine.dma.alignment_bytes
    data_bytes = walk.columns.size * walk.dtype.bytes
    skip = walk.skip_bytes % alignment
    is_direct = not skip and data_bytes == walk.row_bytes
    kernel = context.kernel(build, tiling, len(outer), skip, is_direct)
    source = Argument(walk.source.expression + (walk.skip_bytes - skip), walk.source.storage)
    launch_walk(context, op, kernel, replace(walk, source=source), tiling, rows, outer)


def choose_tiling(
    all_rows: int, rows: int, row_bytes: int, pe_count: int, tile_bytes: int = LARGEST_TILE_BYTES
) -> Tiling:
    """Return a tiling that gives all PEs work in tiles that are not larger than they need to be."""
    pieces = max(1, pe_count // max(all_rows, 1))
    piece = min(round_up(-(-row_bytes // pieces), 64), LARGEST_PIECE_BYTES)
    block = max(1, min(rows, tile_bytes // piece, -(-all_rows // pe_count)))
    return Tiling(block, piece)


def build(machine: Machine, tiling: Tiling, axes: int, skip: int, is_direct: bool) -> Kernel:
    """Return the kernel; `skip` bytes lie before the first column at the aligned place where its row is read."""
    names = ("x", "x_pitch", "out", "out_pitch", "data_bytes", *outer_names(axes, "x", "out"))
    name = f"move_rows_{tiling.block_rows}x{tiling.piece_bytes}{'' if is_direct else f'_from_{skip}'}"
    builder = KernelBuilder(name, machine, (*BLOCK_ARGUMENTS, *names))
    pitch = tiling.piece_bytes if is_direct else round_up(tiling.piece_bytes + skip, 64)
    tile = builder.buffer("tile", tiling.block_rows * pitch, 2)
    a, b = builder.core_a, builder.core_b
    with dealt_blocks(a, tiling) as block, a.scratch() as address, a.scratch() as size:
        start_of(a, "x", axes, block, address, block.offset)
        a.copy(block.size, size)
        if not is_direct:
            data_columns(a, block, size)
            a.increase(size, skip)
            align_up(a, size, machine.dma.alignment_bytes)
        with a.scratch() as x_pitch:
            a.emit(
                "dma_in", out=tile, out_pitch=pitch, address=address,
                address_pitch=a.load_argument("x_pitch", x_pitch), rows=block.rows, row_bytes=size,
            )  # fmt: skip
        a.push(tile)
    out = tile if is_direct else builder.buffer("out", tiling.block_rows * tiling.piece_bytes, 2)
    with dealt_blocks(b, tiling) as block, b.scratch() as address:
        if not is_direct:
            with b.scratch() as size:
                b.copy(block.size, size)
                data_columns(b, block, size)
                pad_rows(b, out, block, size, tiling.piece_bytes)
                b.emit(
                    "copy", out=out, out_pitch=tiling.piece_bytes, a=tile, a_offset=skip, a_pitch=pitch,
                    rows=block.rows, row_bytes=size,
                )  # fmt: skip
            b.push(out)
            b.pop(tile)
        start_of(b, "out", axes, block, address, block.offset)
        store_block(b, block, out, pitch if is_direct else tiling.piece_bytes, address)
    return builder.build()


def data_columns(core: CoreBuilder, block: Block, size: Register) -> None:
    """Emit `size = min(size, data_bytes - offset)`: the columns that hold data."""
    with core.scratch() as left:
        core.subtract(core.load_argument("data_bytes", left), block.offset, left)
        core.minimum(size, left, size)


def pad_rows(core: CoreBuilder, out: BufferHandle, block: Block, data: Register, pitch: int) -> None:
    """Emit zeros for a slot of rows whose data end before they do."""
    with core.when_less(data, block.size), core.scratch() as words:
        core.compute("div", block.size, 4, words)
        core.emit("fill", out=out, out_pitch=pitch, rows=block.rows, columns=words, out_dtype="fp32", value=0.0)
