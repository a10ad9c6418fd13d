"""Tiles of broadcast tensors: any rank becomes a few outer loops, blocks of rows, and pieces of long rows.

The axes before the last one count rows. Neighbouring axes over which every tensor moves evenly are one loop; the
innermost is the rows of a command, so many short rows are one command. A tensor that does not move along an axis (its
size there is 1) has stride 0: its rows are read again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from compiler.kernel_builder import CoreBuilder, Register
from compiler.kernels.dealing import dealt_items
from compiler.lowering import ArgumentValue, Lowering
from compiler.mapped import Region
from compiler.packing import ROW_ALIGNMENT_BYTES, padded_row_bytes
from isa.dtypes import Dtype

PIECE_STEP = 64
"""Pieces of a row are a multiple of this many elements, so that they start at aligned bytes in every element type."""
TILE_ELEMENTS = 4096
"""A tile larger than this would not be faster."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop: how often, and by how many bytes each tensor moves per trip."""

    size: int
    strides: tuple[int, ...]


def collapsed(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[Axis]:
    """Return the loops over `shape`, outermost first, given the strides of each tensor; at least one."""
    axes: list[Axis] = []
    for index, size in enumerate(shape):
        axis = Axis(size, tuple(tensor[index] for tensor in strides))
        if size == 1:
            continue
        outer = axes[-1] if axes else None
        if outer and all(far == near * size for far, near in zip(outer.strides, axis.strides, strict=True)):
            axes[-1] = Axis(outer.size * size, axis.strides)
        else:
            axes.append(axis)
    return axes or [Axis(1, (0,) * len(strides))]


def row_strides(shape: Sequence[int], region: Region, rank: int) -> list[int]:
    """Return the bytes from row to row along each axis but the last of a tensor broadcast to `rank` axes."""
    outer = [1] * (rank - len(shape)) + list(shape[:-1])
    outer = outer[len(outer) - (rank - 1) :] if rank else []
    strides, step = [0] * len(outer), region.pitch_bytes
    for index in range(len(outer) - 1, -1, -1):
        strides[index] = step if outer[index] != 1 else 0
        step *= outer[index]
    return strides


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a tiled launch: element type, whether its rows have one element for many, where it moves."""

    dtype: Dtype
    is_narrow: bool
    moves: tuple[bool, ...]

    def pitch_bytes(self, piece: int) -> int:
        """Distance of rows in a tile with `piece` columns."""
        return padded_row_bytes(1 if self.is_narrow else piece, self.dtype)

    @property
    def has_rows(self) -> bool:
        """Tell whether its rows differ."""
        return self.moves[-1]


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a launch walks its tensors: `block` rows times `piece` columns at a time, the last ones smaller."""

    tensors: tuple[Tensor, ...]
    block: int
    piece: int

    @property
    def loops(self) -> int:
        """Loops around the blocks of rows."""
        return len(self.tensors[0].moves) - 1

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the launch arguments."""
        moving = [
            (k, axis) for k, tensor in enumerate(self.tensors) for axis, moves in enumerate(tensor.moves) if moves
        ]
        return (
            "items", "blocks", "pieces", "rows", "columns", *(f"size_{axis}" for axis in range(self.loops)),
            *(f"tensor_{k}" for k in range(len(self.tensors))), *(f"stride_{k}_{axis}" for k, axis in moving),
        )  # fmt: skip


def tile_bytes(tensors: Sequence[Tensor], slots: int, block: int, piece: int) -> int:
    """Return the bytes of local memory that tiles of tensors take."""
    return sum(slots * block * tensor.pitch_bytes(piece) for tensor in tensors)


@dataclass(frozen=True, slots=True)
class Tile:
    """Registers of the tile at hand: place along the outer loops, first row, rows, first column, columns."""

    outer: tuple[Register, ...]
    first_row: Register
    rows: Register
    first_column: Register
    columns: Register


@contextmanager
def dealt_tiles(core: CoreBuilder, tiling: Tiling) -> Iterator[Tile]:
    """Repeat the block for this PE's tiles."""
    with dealt_items(core, core.argument("items")) as item, core.scratch() as rest:
        registers = [core.register() for _ in range(tiling.loops + 4)]
        first_row, rows, first_column, columns, *outer = registers
        core.copy(item, rest)
        _part(core, rest, "pieces", tiling.piece, first_column)
        _part(core, rest, "blocks", tiling.block, first_row)
        for axis in range(tiling.loops - 1, -1, -1):
            _part(core, rest, f"size_{axis}", 1, outer[axis])
        with core.scratch() as size:
            core.load_argument("columns", size)
            core.subtract(size, first_column, size)
            core.minimum(size, tiling.piece, columns)
            core.load_argument("rows", size)
            core.subtract(size, first_row, size)
            core.minimum(size, tiling.block, rows)
        yield Tile(tuple(outer), first_row, rows, first_column, columns)


def _part(core: CoreBuilder, rest: Register, argument: str, unit: int, into: Register) -> None:
    """Emit `into = rest % argument * unit; rest = rest // argument`."""
    with core.scratch() as size:
        core.load_argument(argument, size)
        core.compute("rem", rest, size, into)
        core.compute("div", rest, size, rest)
    if unit != 1:
        core.multiply(into, unit, into)


def tile_address(core: CoreBuilder, tiling: Tiling, index: int, tile: Tile, into: Register) -> Register:
    """Emit the address of the tile in tensor `index`."""
    tensor = tiling.tensors[index]
    core.load_argument(f"tensor_{index}", into)
    places = (*tile.outer, tile.first_row)
    with core.scratch() as step:
        for axis, place in enumerate(places):
            if tensor.moves[axis]:
                core.load_argument(f"stride_{index}_{axis}", step)
                core.multiply(step, place, step)
                core.increase(into, step)
        if not tensor.is_narrow:
            core.multiply(tile.first_column, tensor.dtype.bytes, step)
            core.increase(into, step)
    return into


def row_end_bytes(core: CoreBuilder, tensor: Tensor, tile: Tile, into: Register) -> Register:
    """Emit the byte at which the last 64 bytes of a row of the tile start; the row ends 64 bytes later."""
    if tensor.is_narrow:
        return core.copy(0, into)
    core.multiply(tile.columns, tensor.dtype.bytes, into)
    core.increase(into, -1)
    return core.compute("and", into, -ROW_ALIGNMENT_BYTES, into)


def load_tile(core: CoreBuilder, tiling: Tiling, index: int, tile: Tile, buffer: object) -> None:
    """Emit the transfer of a tile into a buffer and its push; a tensor whose rows are equal gives one row."""
    tensor = tiling.tensors[index]
    with core.scratch() as address, core.scratch() as size, core.scratch() as pitch:
        tile_address(core, tiling, index, tile, address)
        row_end_bytes(core, tensor, tile, size)
        core.increase(size, ROW_ALIGNMENT_BYTES)
        if tensor.has_rows:
            core.load_argument(f"stride_{index}_{tiling.loops}", pitch)
        core.emit(
            "dma_in", out=buffer, out_pitch=tensor.pitch_bytes(tiling.piece), address=address,  # type: ignore[arg-type]
            address_pitch=pitch if tensor.has_rows else 0, rows=tile.rows if tensor.has_rows else 1, row_bytes=size,
        )  # fmt: skip
    core.push(buffer)  # type: ignore[arg-type]


def tiled_arguments(
    context: Lowering, tiling: Tiling, axes: Sequence[Axis], regions: Sequence[Region], columns: int
) -> tuple[int, Mapping[str, ArgumentValue]]:
    """Return the count of tiles and the launch arguments that walk them."""
    *outer, inner = axes
    blocks, pieces = -(-inner.size // tiling.block), -(-columns // tiling.piece)
    items = math.prod(axis.size for axis in outer) * blocks * pieces
    arguments: dict[str, ArgumentValue] = {
        "items": items, "blocks": blocks, "pieces": pieces, "rows": inner.size, "columns": columns,
        **{f"size_{index}": axis.size for index, axis in enumerate(outer)},
        **{f"tensor_{index}": context.address(region) for index, region in enumerate(regions)},
    }  # fmt: skip
    for index, tensor in enumerate(tiling.tensors):
        arguments |= {
            f"stride_{index}_{axis}": axes[axis].strides[index] for axis, moves in enumerate(tensor.moves) if moves
        }
    return items, arguments
