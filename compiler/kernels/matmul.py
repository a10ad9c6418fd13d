"""`a @ b.T` of two computed tensors of any rank: core A loads chunks of rows of both, core B multiplies and stores.

Large products take the way of a linear (`compiler.kernels.product`). Of others, which are often small and many, tiles
of the result are dealt over the PEs. Rows are padded with zeros up to a block of K, so padding adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from compiler.graph import Operation
from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, KernelBuilder, Register, round_up
from compiler.kernels.blocks import add_outer, outer_arguments, outer_names
from compiler.kernels.dealing import dealt_items
from compiler.kernels.product import launch_spread
from compiler.kernels.tiling import Axis, collapsed, row_strides
from compiler.lowering import ArgumentValue, Lowering
from compiler.mapped import Region
from compiler.packing import ROW_ALIGNMENT_BYTES
from compiler.products import is_spread
from compiler.shape_inference import int_shape
from isa.dtypes import FP32, INT32, Dtype
from isa.errors import UnsupportedError
from isa.kernel import Kernel
from isa.machine import Machine

ARGUMENTS = (
    "items", "row_blocks", "column_blocks", "rows", "columns", "k_bytes", "a", "a_pitch", "b", "b_pitch", "out",
    "out_pitch", "out_bytes",
)  # fmt: skip
MOST_BANKS = 4
"""Blocks of columns of a tile: the rows of a are read once for all of them."""
LARGEST_CHUNK_BYTES = 1024
SLOTS = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """A tile is one block of rows by `banks` blocks of columns; `chunk_bytes` of K at a time."""

    banks: int
    chunk_bytes: int
    dtype: Dtype
    out_dtype: Dtype
    loops: int

    @property
    def is_rounded(self) -> bool:
        """Tell whether sums of floats become whole numbers."""
        return self.out_dtype is INT32


@dataclass(frozen=True, slots=True)
class _Tile:
    """Registers: place in the outer axes, first row and rows, first column and columns."""

    outer: Register
    row: Register
    rows: Register
    column: Register
    columns: Register


@dataclass(frozen=True, slots=True)
class _Buffers:
    a: BufferHandle
    b: BufferHandle
    out: BufferHandle
    zeros: BufferHandle
    sums: BufferHandle | None
    """Of results that become whole numbers: what the accumulators held."""


def _sizes(plan: Plan, held: int) -> dict[str, tuple[int, int]]:
    """Return (bytes of a slot, slots) of each buffer."""
    width = plan.banks * held
    sizes = {
        "a": (held * plan.chunk_bytes, SLOTS),
        "b": (width * plan.chunk_bytes, SLOTS),
        "out": (held * width * plan.out_dtype.bytes, SLOTS),
        "zeros": (held * FP32.bytes, 1),
    }
    return sizes | ({"sums": (held * width * FP32.bytes, 1)} if plan.is_rounded else {})


def build(machine: Machine, plan: Plan) -> Kernel:
    """Return the kernel of a plan."""
    held, width = machine.matrix.block_rows, plan.banks * machine.matrix.block_rows
    name = f"matmul_{plan.dtype.name}_{held}x{width}x{plan.chunk_bytes}"
    builder = KernelBuilder(name, machine, (*ARGUMENTS, *outer_names(plan.loops, "a", "b", "out")))
    made = {key: builder.buffer(key, size, slots) for key, (size, slots) in _sizes(plan, held).items()}
    buffers = _Buffers(made["a"], made["b"], made["out"], made["zeros"], made.get("sums"))
    builder.core_b.emit("fill", out=buffers.zeros, rows=1, columns=held, out_dtype=FP32.name, value=0.0)
    builder.core_b.push(buffers.zeros)
    with _tiles(builder.core_a, plan, held) as tile:
        _load(builder.core_a, plan, tile, buffers)
    with _tiles(builder.core_b, plan, held) as tile:
        _multiply(builder.core_b, plan, machine, tile, buffers)
        _store(builder.core_b, plan, held, tile, buffers)
    return builder.build()


@contextmanager
def _tiles(core: CoreBuilder, plan: Plan, held: int) -> Iterator[_Tile]:
    """Repeat the block for this PE's tiles."""
    with (
        dealt_items(core, core.argument("items")) as item,
        core.scratch() as outer, core.scratch() as row, core.scratch() as rows,
        core.scratch() as column, core.scratch() as columns,
    ):  # fmt: skip
        core.copy(item, outer)
        for size, first, count, blocks in (
            (plan.banks * held, column, columns, "column_blocks"), (held, row, rows, "row_blocks")
        ):  # fmt: skip
            core.load_argument(blocks, count)
            core.compute("rem", outer, count, first)
            core.compute("div", outer, count, outer)
            core.multiply(first, size, first)
            core.subtract(core.load_argument(blocks.replace("_blocks", "s"), count), first, count)
            core.minimum(count, size, count)
        yield _Tile(outer, row, rows, column, columns)


@contextmanager
def _chunks(core: CoreBuilder, plan: Plan) -> Iterator[Register]:
    """Repeat the block for the chunks of K; yields the bytes in the chunk."""
    with core.scratch() as left, core.scratch() as size, core.scratch() as trips:
        core.load_argument("k_bytes", left)
        core.increase(core.copy(left, trips), plan.chunk_bytes - 1)
        core.compute("div", trips, plan.chunk_bytes, trips)
        with core.loop(trips):
            yield core.minimum(left, plan.chunk_bytes, size)
            core.increase(left, -plan.chunk_bytes)


def _load(core: CoreBuilder, plan: Plan, tile: _Tile, buffers: _Buffers) -> None:
    operands = (("a", buffers.a, tile.row, tile.rows), ("b", buffers.b, tile.column, tile.columns))
    with core.scratch() as a_address, core.scratch() as b_address:
        addresses = (a_address, b_address)
        for (name, _, first, _), address in zip(operands, addresses, strict=True):
            _address(core, plan, name, first, tile.outer, address)
        with _chunks(core, plan) as size, core.scratch() as pitch:
            for (name, buffer, _, count), address in zip(operands, addresses, strict=True):
                core.emit(
                    "dma_in", out=buffer, out_pitch=plan.chunk_bytes, address=address,
                    address_pitch=core.load_argument(f"{name}_pitch", pitch), rows=count, row_bytes=size,
                )  # fmt: skip
                core.push(buffer)
                core.increase(address, plan.chunk_bytes)


def _address(core: CoreBuilder, plan: Plan, name: str, row: Register, outer: Register, into: Register) -> None:
    """Emit the address of a row of a tensor at a place of the outer axes."""
    core.multiply(row, core.load_argument(f"{name}_pitch", into), into)
    with core.scratch() as base:
        core.increase(into, core.load_argument(name, base))
    add_outer(core, name, plan.loops, outer, into)


@contextmanager
def _bank(core: CoreBuilder, held: int, columns: Register, bank: int) -> Iterator[Register]:
    """Run the block if some of a tile's columns are in this bank; yields how many."""
    with core.when_less(bank * held, columns), core.scratch() as width:
        core.subtract(columns, bank * held, width)
        yield core.minimum(width, held, width)


def _multiply(core: CoreBuilder, plan: Plan, machine: Machine, tile: _Tile, buffers: _Buffers) -> None:
    """Add the products of all chunks to banks that start from zeros, so columns without products stay zero."""
    held = machine.matrix.block_rows
    for bank in range(plan.banks):
        core.emit("acc_load", bank=bank, a=buffers.zeros, rows=tile.rows, columns=held, a_dtype="fp32", spread="row")
    with _chunks(core, plan) as blocks:
        core.compute("div", blocks, machine.matrix.block_k_bytes, blocks)
        with _steps(core, plan, machine, blocks) as (offset, step):
            for bank in range(plan.banks):
                with _bank(core, held, tile.columns, bank) as width, core.scratch() as b_offset:
                    core.emit(
                        machine.matrix_instruction(plan.dtype.name), bank=bank, a=buffers.a, a_offset=offset,
                        a_pitch=plan.chunk_bytes, b=buffers.b,
                        b_offset=core.add(offset, bank * held * plan.chunk_bytes, b_offset), b_pitch=plan.chunk_bytes,
                        rows=tile.rows, columns=width, k_blocks=step, a_dtype=plan.dtype.name, accumulate="add",
                    )  # fmt: skip
        core.pop(buffers.a)
        core.pop(buffers.b)


@contextmanager
def _steps(core: CoreBuilder, plan: Plan, machine: Machine, blocks: Register) -> Iterator[tuple[Register, Register]]:
    """Repeat the block for as many blocks of K as one command takes; yields (byte offset, blocks)."""
    repeat, block_bytes = machine.matrix.max_repeat_blocks, machine.matrix.block_k_bytes
    if plan.chunk_bytes <= repeat * block_bytes:
        yield ZERO, blocks
        return
    with core.scratch() as offset, core.scratch() as step, core.scratch() as trips:
        core.copy(0, offset)
        core.add(blocks, repeat - 1, trips)
        core.compute("div", trips, repeat, trips)
        with core.loop(trips):
            yield offset, core.minimum(blocks, repeat, step)
            core.increase(offset, repeat * block_bytes)
            core.increase(blocks, -repeat)


def _store(core: CoreBuilder, plan: Plan, held: int, tile: _Tile, buffers: _Buffers) -> None:
    """Write the tile's columns, and behind the last one the zeros of a row's padding."""
    element, pitch = plan.out_dtype.bytes, plan.banks * held * plan.out_dtype.bytes
    with core.scratch() as size, core.scratch() as address, core.scratch() as value:
        core.multiply(tile.column, element, value)
        core.subtract(core.load_argument("out_bytes", size), value, size)
        core.minimum(size, pitch, size)
        with core.scratch() as columns:
            core.compute("div", size, element, columns)
            drained, dtype = (buffers.sums, FP32) if buffers.sums else (buffers.out, plan.out_dtype)
            for bank in range(plan.banks):
                with _bank(core, held, columns, bank) as width, core.scratch() as offset:
                    core.emit(
                        "acc_drain", out=drained, out_offset=core.copy(bank * held * element, offset), out_pitch=pitch,
                        bank=bank, rows=tile.rows, columns=width, out_dtype=dtype.name,
                    )  # fmt: skip
            if buffers.sums:
                core.push(buffers.sums)
                core.emit(
                    "vcast", out=buffers.out, out_pitch=pitch, a=buffers.sums, a_pitch=pitch, rows=tile.rows,
                    columns=columns, out_dtype=plan.out_dtype.name, a_dtype=FP32.name,
                )  # fmt: skip
                core.pop(buffers.sums)
        core.push(buffers.out)
        _address(core, plan, "out", tile.row, tile.outer, address)
        core.increase(address, value)
        core.emit(
            "dma_out", address=address, address_pitch=core.load_argument("out_pitch", value), a=buffers.out,
            a_pitch=pitch, rows=tile.rows, row_bytes=size,
        )  # fmt: skip
        core.pop(buffers.out)


def lower(context: Lowering, op: Operation) -> None:
    """Launch all products; nothing for a result without elements."""
    graph, machine = context.mapped.graph, context.machine
    if is_spread(graph, op):
        launch_spread(context, op)
        return
    names = (op.inputs[0], op.inputs[1], op.outputs[0])
    shapes = [int_shape(graph.value(name or "").shape) for name in names]
    a, b, out = (context.region(name) for name in names)
    if 0 in shapes[2]:
        return
    rank, (rows, columns) = len(shapes[2]), shapes[2][-2:]
    axes = _outer_axes(shapes, (a, b, out), rank)
    plan = _plan(machine, a, out, len(axes), op)
    held = machine.matrix.block_rows
    row_blocks, column_blocks = -(-rows // held), -(-columns // (plan.banks * held))
    places = math.prod(axis.size for axis in axes)
    items = places * row_blocks * column_blocks
    strides = {name: [axis.strides[index] for axis in axes] for index, name in enumerate(("a", "b", "out"))}
    arguments: dict[str, ArgumentValue] = {
        "items": items, "row_blocks": row_blocks, "column_blocks": column_blocks, "rows": rows, "columns": columns,
        "k_bytes": min(a.row_bytes, b.row_bytes), "a": context.address(a), "a_pitch": a.pitch_bytes,
        "b": context.address(b), "b_pitch": b.pitch_bytes, "out": context.address(out), "out_pitch": out.pitch_bytes,
        "out_bytes": out.row_bytes, **outer_arguments([axis.size for axis in axes], **strides),
    }  # fmt: skip
    kernel = context.kernel(build, plan)
    issued_rows = row_blocks * held if machine.matrix_instruction(plan.dtype.name) == "mml" else rows
    useful = places * rows * columns * shapes[0][-1]
    issued = places * issued_rows * columns * (a.row_bytes // a.dtype.bytes)
    context.launch(op, kernel, context.rectangle(items), arguments, useful, issued)


def _outer_axes(shapes: Sequence[tuple[int, ...]], regions: Sequence[Region], rank: int) -> list[Axis]:
    """Return the loops over the axes before the last two, with the strides of a, b and the result."""
    strides = [row_strides(shape, region, rank)[:-1] for shape, region in zip(shapes, regions, strict=True)]
    return collapsed(shapes[2][:-2], strides)


def _plan(machine: Machine, a: Region, out: Region, loops: int, op: Operation) -> Plan:
    """Return the plan with the largest chunks that fit; raises UnsupportedError if none does."""
    held = machine.matrix.block_rows
    aligned = ROW_ALIGNMENT_BYTES // math.gcd(ROW_ALIGNMENT_BYTES, held * out.dtype.bytes)
    wanted = round_up(min(MOST_BANKS, -(-out.columns // held)), aligned)
    most = machine.accumulator.banks // aligned * aligned
    chunk = min(a.row_bytes, LARGEST_CHUNK_BYTES)
    while chunk:
        for banks in range(min(wanted, most), 0, -aligned):
            plan = Plan(banks, chunk, a.dtype, out.dtype, loops)
            needed = sum(round_up(size, 64) * slots for size, slots in _sizes(plan, held).values())
            if needed <= machine.pe.local_memory_bytes:
                return plan
        chunk = chunk // 2 // ROW_ALIGNMENT_BYTES * ROW_ALIGNMENT_BYTES
    what = f"a product of blocks of {held} rows does not fit in local memory"
    raise UnsupportedError(what, where=op.name, help="use a machine with a larger pe.local_memory_bytes")
