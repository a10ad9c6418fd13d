"""Rows whose elements are read with a step, backwards or again and again: local memory picks them one by one.

A step may be any number of elements: 0 repeats one element, a negative one walks back.
"""

from __future__ import annotations

from compiler.graph import Operation
from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, Register, round_up
from compiler.kernels.blocks import (
    BLOCK_ARGUMENTS,
    Block,
    Tiling,
    align_down,
    align_up,
    dealt_blocks,
    launch_walk,
    outer_names,
    start_of,
    store_block,
)
from compiler.kernels.move_rows import choose_tiling, data_columns, pad_rows
from compiler.lowering import Lowering
from compiler.strides import Walk, places, row_axis
from isa.errors import UnsupportedError
from isa.kernel import Kernel
from isa.machine import Machine

SMALLEST_PIECE_BYTES = 64


def launch(context: Lowering, op: Operation, walk: Walk) -> None:
    """Launch a move that picks elements; raises UnsupportedError for a step that spans more than local memory."""
    machine, element = context.machine, walk.dtype.bytes
    rows, outer = row_axis(walk.outer)
    step, limit = walk.columns.source // element, _window_limit(machine)
    if spans_too_much(machine, walk):
        what = f"every {abs(step)}th element of a row"
        raise UnsupportedError(
            what, where=op.name, help=f"the span of {SMALLEST_PIECE_BYTES // element} elements is at most {limit} bytes"
        )
    tiling = choose_tiling(rows.size * places(outer), rows.size, walk.row_bytes, machine.pe_count)
    while tiling.block_rows * _window_bytes(tiling.piece_bytes, step) > limit:
        if tiling.block_rows > 1:
            tiling = Tiling(tiling.block_rows // 2, tiling.piece_bytes)
        else:
            tiling = Tiling(1, round_up(tiling.piece_bytes // 2, SMALLEST_PIECE_BYTES))
    kernel = context.kernel(build, tiling, len(outer), step, element)
    launch_walk(context, op, kernel, walk, tiling, rows, outer, skip_bytes=walk.skip_bytes)


def spans_too_much(machine: Machine, walk: Walk) -> bool:
    """Tell whether the step is too large for local memory to hold what the smallest piece is picked from."""
    step = walk.columns.source // walk.dtype.bytes
    return _window_bytes(SMALLEST_PIECE_BYTES, step) > _window_limit(machine)


def _window_limit(machine: Machine) -> int:
    return machine.pe.local_memory_bytes // 4


def _window_bytes(piece_bytes: int, step: int) -> int:
    """Bytes read for a piece, wherever it starts."""
    return round_up(piece_bytes * max(abs(step), 1) + 64, 64)


def build(machine: Machine, tiling: Tiling, axes: int, step: int, element: int) -> Kernel:
    """Return the kernel for elements of `element` bytes, `step` elements apart."""
    names = ("x", "x_pitch", "out", "out_pitch", "data_bytes", "skip_bytes", *outer_names(axes, "x", "out"))
    sign = "back_" if step < 0 else ""
    builder = KernelBuilder(
        f"move_strided_{sign}{abs(step)}_{tiling.block_rows}x{tiling.piece_bytes}", machine, (*BLOCK_ARGUMENTS, *names)
    )
    pitch = _window_bytes(tiling.piece_bytes, step)
    window = builder.buffer("window", tiling.block_rows * pitch, 1)
    out = builder.buffer("out", tiling.block_rows * tiling.piece_bytes, 2)
    a, b = builder.core_a, builder.core_b
    alignment = machine.dma.alignment_bytes
    with dealt_blocks(a, tiling) as block, a.scratch() as address, a.scratch() as size:
        with a.scratch() as skip:
            _place(a, block, alignment, (step, element), size, (address, skip))
            with a.scratch() as start:
                a.increase(address, start_of(a, "x", axes, block, start))
            a.subtract(size, element, size)
            a.multiply(size, abs(step), size)
            a.increase(size, element)
            a.increase(size, skip)
            align_up(a, size, alignment)
        with a.scratch() as x_pitch:
            a.emit(
                "dma_in", out=window, out_pitch=pitch, address=address,
                address_pitch=a.load_argument("x_pitch", x_pitch), rows=block.rows, row_bytes=size,
            )  # fmt: skip
        a.push(window)
    with dealt_blocks(b, tiling) as block, b.scratch() as address, b.scratch() as size:
        with b.scratch() as skip:
            _place(b, block, alignment, (step, element), size, (address, skip))
            pad_rows(b, out, block, size, tiling.piece_bytes)
            if step < 0:
                _pick_backwards(b, (window, out), block, (pitch, tiling.piece_bytes, step, element), (size, skip))
            else:
                _pick(b, (window, out), block, (pitch, tiling.piece_bytes, step, element), (size, skip))
        b.push(out)
        b.pop(window)
        start_of(b, "out", axes, block, address, block.offset)
        store_block(b, block, out, tiling.piece_bytes, address)
    return builder.build()


def _place(
    core: CoreBuilder,
    block: Block,
    alignment: int,
    stride: tuple[int, int],
    size: Register,
    into: tuple[Register, Register],
) -> None:
    """Emit `size` = bytes of data in the piece, `into` = (aligned offset of its window in the row, bytes to skip)."""
    step, element = stride
    offset, skip = into
    core.copy(block.size, size)
    data_columns(core, block, size)
    core.copy(block.offset, offset)
    if step < 0:
        core.increase(offset, size)
        core.increase(offset, -element)
    core.multiply(offset, step, offset)
    core.increase(offset, core.load_argument("skip_bytes", skip))
    align_down(core, offset, alignment, skip)


def _pick(
    core: CoreBuilder,
    buffers: tuple[BufferHandle, BufferHandle],
    block: Block,
    layout: tuple[int, int, int, int],
    data: tuple[Register, Register],
) -> None:
    """Emit one copy per row: its elements, `step` apart, to neighbours."""
    (window, out), (pitch, piece_bytes, step, element), (size, skip) = buffers, layout, data
    with core.scratch() as count, core.scratch() as source, core.scratch() as target:
        core.compute("div", size, element, count)
        core.copy(skip, source)
        core.copy(0, target)
        with core.loop(block.rows):
            core.emit(
                "copy", out=out, out_offset=target, out_pitch=element, a=window, a_offset=source,
                a_pitch=step * element, rows=count, row_bytes=element,
            )  # fmt: skip
            core.increase(source, pitch)
            core.increase(target, piece_bytes)


def _pick_backwards(
    core: CoreBuilder,
    buffers: tuple[BufferHandle, BufferHandle],
    block: Block,
    layout: tuple[int, int, int, int],
    data: tuple[Register, Register],
) -> None:
    """Emit one copy per column, from the last of the window on; pitches cannot be negative."""
    (window, out), (pitch, piece_bytes, step, element), (size, skip) = buffers, layout, data
    with core.scratch() as count, core.scratch() as source, core.scratch() as target:
        core.compute("div", size, element, count)
        core.subtract(count, 1, source)
        core.multiply(source, -step * element, source)
        core.increase(source, skip)
        core.copy(0, target)
        with core.loop(count):
            core.emit(
                "copy", out=out, out_offset=target, out_pitch=piece_bytes, a=window, a_offset=source, a_pitch=pitch,
                rows=block.rows, row_bytes=element,
            )  # fmt: skip
            core.increase(source, step * element)
            core.increase(target, element)
