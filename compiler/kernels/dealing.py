"""Work that falls into independent items (a row, or a piece of a row), dealt over the PEs of a launch in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, Register, Scalar, round_up
from compiler.packing import ROW_ALIGNMENT_BYTES
from isa.machine import Machine

INDEX_BYTES = 4


@contextmanager
def dealt_items(core: CoreBuilder, count: Register) -> Iterator[Register]:
    """Repeat the block for items p, p + P, ... below `count`, where this is PE p of P; yields the item's number."""
    with core.scratch() as item, core.scratch() as stride, core.scratch() as trips:
        core.multiply(core.coordinate("row"), core.coordinate("columns"), item)
        core.increase(item, core.coordinate("column"))
        core.multiply(core.coordinate("rows"), core.coordinate("columns"), stride)
        core.subtract(count, item, trips)
        core.increase(trips, stride)
        core.increase(trips, -1)
        core.compute("div", trips, stride, trips)
        with core.loop(trips):
            yield item
            core.increase(item, stride)


@contextmanager
def one_item(core: CoreBuilder, count: Register, skipped: int = 0) -> Iterator[Register]:
    """Run the block on the last `count` PEs but those skipped, of which item 0 is the last; yields the item's number.

    These are the PEs without a tile where a linear has fewer tiles than there are PEs: no weights pass their ports.
    """
    with core.scratch() as item, core.scratch() as place:
        core.multiply(core.coordinate("rows"), core.coordinate("columns"), item)
        core.multiply(core.coordinate("row"), core.coordinate("columns"), place)
        core.increase(place, core.coordinate("column"))
        core.subtract(item, place, item)
        core.increase(item, -1 - skipped)
        with core.when_less(item, count), core.when_at_least(item, ZERO):
            yield item


@dataclass(frozen=True, slots=True)
class Pieces:
    """Rows of `row_bytes` cut into `count` pieces of `piece_bytes`, the last one shorter."""

    row_bytes: int
    piece_bytes: int

    @property
    def count(self) -> int:
        """Pieces per row."""
        return -(-self.row_bytes // self.piece_bytes)


def cut_rows(rows: int, row_bytes: int, pe_count: int, largest_bytes: int) -> Pieces:
    """Cut rows so that all PEs have work, into pieces no larger than `largest_bytes` (a multiple of 64)."""
    wanted = max(1, pe_count // max(rows, 1))
    piece = round_up(-(-row_bytes // wanted), ROW_ALIGNMENT_BYTES)
    return Pieces(row_bytes, min(piece, largest_bytes))


@contextmanager
def dealt_pieces(
    core: CoreBuilder, items: Register, pieces: Register, row_bytes: Register, piece_bytes: Scalar
) -> Iterator[tuple[Register, Register, Register]]:
    """Repeat the block for this PE's pieces; yields (row, byte offset in the row, bytes)."""
    with dealt_items(core, items) as item, core.scratch() as row, core.scratch() as offset, core.scratch() as size:
        core.compute("div", item, pieces, row)
        core.compute("rem", item, pieces, offset)
        core.multiply(offset, piece_bytes, offset)
        core.subtract(row_bytes, offset, size)
        core.minimum(size, piece_bytes, size)
        yield row, offset, size


def row_address(core: CoreBuilder, base: str, pitch: str, row: Register, into: Register) -> Register:
    """Emit `into = argument base + row * argument pitch`."""
    core.multiply(row, core.argument(pitch), into)
    core.increase(into, core.argument(base))
    return into


def fetch_row(
    core: CoreBuilder,
    machine: Machine,
    *,
    out: BufferHandle,
    indices: BufferHandle,
    index: Register,
    table: Register,
    pitch: Scalar,
    row_bytes: Scalar,
) -> None:
    """Load the row of a table that element `index` of an int32 buffer chooses.

    `table` is the address of row 0. Machines without indexed transfers read the index into a register first.
    """
    with core.scratch() as offset:
        core.multiply(index, INDEX_BYTES, offset)
        if machine.dma.indexed:
            core.emit(
                "dma_gather", out=out, a=indices, a_offset=offset, address=table, address_pitch=pitch, rows=1,
                row_bytes=row_bytes,
            )  # fmt: skip
        else:
            core.emit("lw", destination=offset, a=indices, a_offset=offset)
            core.multiply(offset, pitch, offset)
            core.increase(offset, table)
            core.emit("dma_in", out=out, address=offset, rows=1, row_bytes=row_bytes)
    core.push(out)
