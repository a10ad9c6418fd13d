"""Blocks of rows, cut into pieces of columns, inside any number of outer axes: what the kernels that move data walk.

An item is (place in the outer axes, block of rows, piece of a row); items are dealt over the PEs. Outer axes are
launch arguments: their sizes `n0, n1, ...` and, for each tensor, strides `x0, x1, ...` in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from compiler.graph import Operation
from compiler.kernel_builder import BufferHandle, CoreBuilder, Register, Scalar
from compiler.kernels.dealing import dealt_items
from compiler.lowering import ArgumentValue, Lowering
from compiler.strides import Axis, Walk, places

BLOCK_ARGUMENTS = ("items", "blocks", "rows", "pieces", "row_bytes")
"""Items of all PEs, blocks per outer place, rows per outer place, pieces per row, bytes of a written row."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """At most `block_rows` rows by `piece_bytes` bytes (a multiple of 64) at a time."""

    block_rows: int
    piece_bytes: int

    def arguments(self, outer: int, rows: int, row_bytes: int) -> dict[str, ArgumentValue]:
        """Return the BLOCK_ARGUMENTS for `outer` places of `rows` rows each."""
        blocks, pieces = -(-rows // self.block_rows), -(-row_bytes // self.piece_bytes)
        return {
            "items": outer * blocks * pieces, "blocks": blocks, "rows": rows, "pieces": pieces, "row_bytes": row_bytes,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """Registers: place in the outer axes, first row and count of rows, byte offset in the row and count of bytes."""

    outer: Register
    row: Register
    rows: Register
    offset: Register
    size: Register


@contextmanager
def dealt_blocks(core: CoreBuilder, tiling: Tiling) -> Iterator[Block]:
    """Repeat the block of code for this PE's items."""
    with (
        dealt_items(core, core.argument("items")) as item,
        core.scratch() as outer, core.scratch() as row, core.scratch() as rows,
        core.scratch() as offset, core.scratch() as size,
    ):  # fmt: skip
        with core.scratch() as count:
            core.load_argument("pieces", count)
            core.compute("rem", item, count, offset)
            core.compute("div", item, count, outer)
            core.load_argument("blocks", count)
            core.compute("rem", outer, count, row)
            core.compute("div", outer, count, outer)
            core.multiply(offset, tiling.piece_bytes, offset)
            core.subtract(core.load_argument("row_bytes", count), offset, size)
            core.minimum(size, tiling.piece_bytes, size)
            core.multiply(row, tiling.block_rows, row)
            core.subtract(core.load_argument("rows", count), row, rows)
            core.minimum(rows, tiling.block_rows, rows)
        yield Block(outer, row, rows, offset, size)


def outer_names(count: int, *tensors: str) -> tuple[str, ...]:
    """Return the names of the arguments that describe `count` outer axes of some tensors."""
    return tuple(f"{prefix}{index}" for prefix in ("n", *tensors) for index in range(count))


def outer_arguments(sizes: Sequence[int], **strides: Sequence[int]) -> dict[str, ArgumentValue]:
    """Return the arguments named by `outer_names`."""
    named = {"n": sizes, **strides}
    return {f"{prefix}{index}": value for prefix, values in named.items() for index, value in enumerate(values)}


def launch_walk(
    context: Lowering,
    op: Operation,
    kernel: int,
    walk: Walk,
    tiling: Tiling,
    rows: Axis,
    outer: Sequence[Axis],
    **more: ArgumentValue,
) -> None:
    """Launch a kernel that takes a walk's blocks of `rows` inside `outer` axes; `more` are arguments of its own."""
    arguments: dict[str, ArgumentValue] = {
        **tiling.arguments(places(outer), rows.size, walk.row_bytes),
        "x": walk.source, "x_pitch": rows.source, "out": walk.target, "out_pitch": rows.target,
        "data_bytes": walk.columns.size * walk.dtype.bytes,
        **outer_arguments(
            [axis.size for axis in outer], x=[axis.source for axis in outer], out=[axis.target for axis in outer]
        ),
        **more,
    }  # fmt: skip
    items = arguments["items"]
    assert isinstance(items, int)
    context.launch(op, kernel, context.rectangle(items), arguments)


def start_of(
    core: CoreBuilder, tensor: str, axes: int, block: Block, into: Register, offset: Scalar | None = None
) -> Register:
    """Emit `into` = address of the block: the tensor's, plus outer axes, plus `row * pitch`, plus offset."""
    core.multiply(block.row, core.load_argument(f"{tensor}_pitch", into), into)
    with core.scratch() as value:
        core.increase(into, core.load_argument(tensor, value))
    if offset is not None:
        core.increase(into, offset)
    add_outer(core, tensor, axes, block.outer, into)
    return into


def add_outer(core: CoreBuilder, tensor: str, axes: int, place: Register, into: Register) -> None:
    """Emit `into += sum of index * stride` over the outer axes, whose indices are the digits of `place`."""
    if not axes:
        return
    with core.scratch() as rest, core.scratch() as value, core.scratch() as index:
        core.copy(place, rest)
        for axis in range(axes - 1, -1, -1):
            core.load_argument(f"n{axis}", value)
            core.compute("rem", rest, value, index)
            core.compute("div", rest, value, rest)
            core.multiply(index, core.load_argument(f"{tensor}{axis}", value), index)
            core.increase(into, index)


def align_down(core: CoreBuilder, address: Register, alignment: int, remainder: Register) -> None:
    """Emit `remainder = address % alignment; address -= remainder`."""
    if alignment == 1:
        core.copy(0, remainder)
        return
    core.compute("and", address, core.constant(alignment - 1), remainder)
    core.subtract(address, remainder, address)


def align_up(core: CoreBuilder, size: Register, alignment: int) -> None:
    """Emit `size` = the next multiple of `alignment`, a power of two."""
    if alignment > 1:
        core.increase(size, alignment - 1)
        core.compute("and", size, core.constant(-alignment), size)


def store_block(core: CoreBuilder, block: Block, out: BufferHandle, pitch: Scalar, address: Register) -> None:
    """Emit the transfer of a written slot to memory, and give the slot back."""
    with core.scratch() as target_pitch:
        core.emit(
            "dma_out", address=address, address_pitch=core.load_argument("out_pitch", target_pitch), a=out,
            a_pitch=pitch, rows=block.rows, row_bytes=block.size,
        )  # fmt: skip
    core.pop(out)
