"""The same elements in C order as rows of another length.

A piece of the result is a range of elements in C order. The source rows that hold it are loaded (short rows many at a
time, long rows as the windows that matter), packed without gaps in local memory, and cut into the rows of the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from compiler.graph import Operation
from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, Register, round_up
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
from compiler.packing import ROW_ALIGNMENT_BYTES, padded_row_bytes
from isa.dtypes import Dtype
from isa.kernel import Kernel
from isa.machine import Machine

ARGUMENTS = (*BLOCK_ARGUMENTS, "x", "x_pitch", "out", "out_pitch", "data_bytes")
LONG_ROW_BYTES = 4096
"""Source rows longer than this are read in windows, not whole."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Tiles of the result, columns of the source, and whether its rows are read in windows."""

    tiling: Tiling
    source_columns: int
    columns: int
    dtype: Dtype

    @property
    def is_windowed(self) -> bool:
        """Long source rows are read in windows."""
        return self.source_columns * self.dtype.bytes > LONG_ROW_BYTES

    @property
    def elements(self) -> int:
        """The most elements of a tile."""
        in_row = min(self.columns, self.tiling.piece_bytes // self.dtype.bytes)
        return self.tiling.block_rows * in_row

    @property
    def source_rows(self) -> int:
        """The most source rows that hold a tile."""
        return (self.elements + self.source_columns - 2) // self.source_columns + 1

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot for what is read at a time: a window, or all source rows of a tile."""
        if self.is_windowed:
            longest = min(self.elements, self.source_columns) * self.dtype.bytes
            return round_up(longest, ROW_ALIGNMENT_BYTES) + ROW_ALIGNMENT_BYTES
        return self.source_rows * padded_row_bytes(self.source_columns, self.dtype)

    @property
    def dense_bytes(self) -> int:
        """Bytes of what is packed without gaps."""
        elements = self.elements if self.is_windowed else self.source_rows * self.source_columns
        return round_up(elements * self.dtype.bytes, ROW_ALIGNMENT_BYTES)

    @property
    def local_bytes(self) -> int:
        """Bytes of local memory."""
        return 2 * self.slot_bytes + self.dense_bytes + 2 * self.tiling.block_rows * self.tiling.piece_bytes


def lower(context: Lowering, op: Operation) -> None:
    """Launch a reshape; nothing for a result without elements."""
    x, out = context.region(op.inputs[0]), context.region(op.outputs[0])
    if not out.rows or not out.columns:
        return
    machine, dtype = context.machine, x.dtype
    limit = machine.pe.local_memory_bytes // 2
    tiling = choose_tiling(out.rows, out.rows, out.row_bytes, machine.pe_count)
    if tiling.piece_bytes < out.row_bytes:
        tiling = Tiling(1, tiling.piece_bytes)
    plan = Plan(tiling, x.columns, out.columns, dtype)
    while plan.local_bytes > limit:
        if tiling.block_rows > 1:
            tiling = Tiling(tiling.block_rows // 2, tiling.piece_bytes)
        else:
            tiling = Tiling(1, round_up(tiling.piece_bytes // 2, ROW_ALIGNMENT_BYTES))
        plan = Plan(tiling, x.columns, out.columns, dtype)
    kernel = context.kernel(build, plan)
    arguments: dict[str, ArgumentValue] = {
        **tiling.arguments(1, out.rows, out.row_bytes),
        "x": context.address(x), "x_pitch": x.pitch_bytes, "out": context.address(out), "out_pitch": out.pitch_bytes,
        "data_bytes": out.columns * dtype.bytes,
    }  # fmt: skip
    items = arguments["items"]
    assert isinstance(items, int)
    context.launch(op, kernel, context.rectangle(items), arguments)


def build(machine: Machine, plan: Plan) -> Kernel:
    """Return the kernel of a plan."""
    tiling = plan.tiling
    name = f"reshape_{plan.source_columns}_to_{plan.columns}_{tiling.block_rows}x{tiling.piece_bytes}_{plan.dtype.name}"
    builder = KernelBuilder(name, machine, ARGUMENTS)
    tile = builder.buffer("tile", plan.slot_bytes, 2)
    dense = builder.buffer("dense", plan.dense_bytes, 1)
    out = builder.buffer("out", tiling.block_rows * tiling.piece_bytes, 2)
    _load(builder.core_a, machine, plan, tile)
    _rearrange(builder.core_b, machine, plan, (tile, dense, out))
    return builder.build()


def _load(core: CoreBuilder, machine: Machine, plan: Plan, tile: BufferHandle) -> None:
    with dealt_blocks(core, plan.tiling) as block, _elements(core, plan, block) as (first, left):
        if plan.is_windowed:
            with _windows(core, machine, plan, first, left) as (row, offset, size, skip), core.scratch() as pitch:
                core.multiply(row, core.load_argument("x_pitch", pitch), row)
                core.increase(offset, row)
                core.increase(offset, core.load_argument("x", pitch))
                core.increase(size, skip)
                align_up(core, size, machine.dma.alignment_bytes)
                core.emit("dma_in", out=tile, address=offset, rows=1, row_bytes=size)
                core.push(tile)
            return
        with core.scratch() as rows, core.scratch() as pitch:
            _source_rows(core, plan, first, left, rows)
            core.multiply(first, core.load_argument("x_pitch", pitch), first)
            with core.scratch() as address:
                core.add(first, core.load_argument("x", address), first)
            row_bytes = padded_row_bytes(plan.source_columns, plan.dtype)
            core.emit(
                "dma_in", out=tile, out_pitch=row_bytes, address=first, address_pitch=pitch, rows=rows,
                row_bytes=row_bytes,
            )  # fmt: skip
            core.push(tile)


def _rearrange(
    core: CoreBuilder, machine: Machine, plan: Plan, buffers: tuple[BufferHandle, BufferHandle, BufferHandle]
) -> None:
    tile, dense, out = buffers
    element, piece_bytes = plan.dtype.bytes, plan.tiling.piece_bytes
    row_bytes = plan.source_columns * element
    with dealt_blocks(core, plan.tiling) as block, core.scratch() as skip:
        with _elements(core, plan, block) as (first, left):
            if plan.is_windowed:
                core.copy(0, skip)
                with _windows(core, machine, plan, first, left) as (_, _, size, before):
                    core.emit("copy", out=dense, out_offset=skip, a=tile, a_offset=before, rows=1, row_bytes=size)
                    core.pop(tile)
                    core.increase(skip, size)
                core.copy(0, skip)
            else:
                with core.scratch() as rows:
                    core.compute("rem", first, plan.source_columns, skip)
                    core.multiply(skip, element, skip)
                    _source_rows(core, plan, first, left, rows)
                    core.emit(
                        "copy", out=dense, out_pitch=row_bytes, a=tile,
                        a_pitch=padded_row_bytes(plan.source_columns, plan.dtype), rows=rows, row_bytes=row_bytes,
                    )  # fmt: skip
                    core.pop(tile)
            core.push(dense)
        with core.scratch() as size:
            core.copy(block.size, size)
            data_columns(core, block, size)
            pad_rows(core, out, block, size, piece_bytes)
            core.emit(
                "copy", out=out, out_pitch=piece_bytes, a=dense, a_offset=skip, a_pitch=plan.columns * element,
                rows=block.rows, row_bytes=size,
            )  # fmt: skip
        core.push(out)
        core.pop(dense)
        with core.scratch() as address:
            start_of(core, "out", 0, block, address, block.offset)
            store_block(core, block, out, piece_bytes, address)


@contextmanager
def _elements(core: CoreBuilder, plan: Plan, block: Block) -> Iterator[tuple[Register, Register]]:
    """Lend (first element of the block in C order, count of elements): whole rows, or a part of one."""
    with core.scratch() as first, core.scratch() as count:
        with core.scratch() as offset:
            core.copy(block.size, count)
            data_columns(core, block, count)
            core.compute("div", count, plan.dtype.bytes, count)
            core.multiply(count, block.rows, count)
            core.compute("div", block.offset, plan.dtype.bytes, offset)
            core.multiply(block.row, plan.columns, first)
            core.increase(first, offset)
        yield first, count


def _source_rows(core: CoreBuilder, plan: Plan, first: Register, count: Register, rows: Register) -> None:
    """Emit `rows` = source rows that hold `count` elements from `first` on; `first` becomes the first such row."""
    core.add(first, count, rows)
    core.increase(rows, plan.source_columns - 1)
    core.compute("div", rows, plan.source_columns, rows)
    core.compute("div", first, plan.source_columns, first)
    core.subtract(rows, first, rows)


@contextmanager
def _windows(
    core: CoreBuilder, machine: Machine, plan: Plan, first: Register, left: Register
) -> Iterator[tuple[Register, Register, Register, Register]]:
    """Repeat for each source row that holds some of the elements.

    Yields (row, aligned offset of the window in the row, bytes wanted, bytes of the window before them).
    """
    columns, element = plan.source_columns, plan.dtype.bytes
    with (
        core.scratch() as trips, core.scratch() as row, core.scratch() as offset, core.scratch() as size,
        core.scratch() as skip,
    ):  # fmt: skip
        core.copy(first, row)
        _source_rows(core, plan, row, left, trips)
        with core.loop(trips):
            core.compute("div", first, columns, row)
            core.compute("rem", first, columns, offset)
            core.multiply(offset, -1, size)
            core.increase(size, columns)
            core.minimum(size, left, size)
            core.increase(first, size)
            core.subtract(left, size, left)
            core.multiply(offset, element, offset)
            core.multiply(size, element, size)
            align_down(core, offset, machine.dma.alignment_bytes, skip)
            yield row, offset, size, skip
