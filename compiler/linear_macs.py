"""Multiply-accumulates of a `linear`: those that it needs, and those that the commands of a mapping issue."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.kernel_builder import round_up
from compiler.linear_mapping import LinearMapping
from compiler.linear_shape import LinearShape


def useful_macs(shape: LinearShape) -> int:
    """Return the multiply-accumulates that the operation needs."""
    return shape.rows * shape.inputs * shape.outputs * shape.parts


def issued_macs(mapping: LinearMapping) -> int:
    """Return the multiply-accumulates that the matrix commands issue, padding included.

    Outputs are multiplied in whole tiles, but of a computed operand only what is there: a tile of padding multiplies a
    single one.
    """
    tiles = 1 if mapping.resident else mapping.row_parts * mapping.row_rounds
    if mapping.instruction == "mml" and not mapping.is_swapped:
        rows = tiles * round_up(mapping.tile_rows, mapping.block_rows)
    else:
        rows = sum(sum(_valid_rows(mapping, tile)) for tile in range(tiles))
    held = mapping.block_rows if mapping.is_swapped else 1
    columns = sum(round_up(width, held) for width in _multiplied_widths(mapping)) * mapping.shape.parts
    return rows * columns * (mapping.k_bytes // mapping.shape.dtype.bytes)


def _multiplied_widths(mapping: LinearMapping) -> Iterator[int]:
    """Yield how many outputs of each tile are multiplied."""
    for tile in range(mapping.output_tiles):
        first = mapping.first_output(tile)
        yield max(1, min(mapping.needed_outputs, mapping.first_output(tile + 1)) - first)


def _valid_rows(mapping: LinearMapping, tile: int) -> Iterator[int]:
    """Yield the rows of each block of a tile of rows; a block of padding has one."""
    first = min(tile * mapping.tile_rows, mapping.shape.rows - 1)
    rows = min(mapping.shape.rows - first, mapping.tile_rows)
    for start in range(0, mapping.tile_rows, mapping.block_rows):
        yield max(1, min(rows - start, mapping.block_rows))
