"""Flat mappings: all PEs, or those of each band of rows of PEs, split the outputs of a linear and share rows of x.

Or neighbours split K: then tiles have more outputs, so that less passes the ports of PEs for as many products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from compiler.kernel_builder import round_up
from compiler.linear_mapping import STREAMED_BLOCKS, LinearMapping, padded_outputs
from compiler.linear_shape import LinearShape
from isa.machine import Machine

K_PARTS = (2, 3, 4)
"""Parts that neighbours may split K of a constant in."""


def flat_choices(shape: LinearShape, machine: Machine) -> Iterator[LinearMapping]:
    """Yield flat mappings with K in one chunk, where the rows of a band fit in the accumulators of one PE."""
    held, banks = machine.matrix.block_rows, machine.accumulator.banks // shape.parts
    if not machine.dma.broadcast_reads or not banks:
        return
    for bands in _band_counts(shape, machine):
        most = min(-(-shape.rows // (bands * held)), banks)
        rounds = {-(-shape.rows // (bands * held * row_blocks)) for row_blocks in range(1, most + 1)}
        for row_rounds in sorted(rounds) if bands == 1 else [min(rounds)]:
            tile_rows = -(-shape.rows // (bands * row_rounds))
            for column_blocks in range(1, banks // -(-tile_rows // held) + 1):
                for tile in _tiles(shape, machine, bands, column_blocks * held):
                    yield _choice(shape, machine, bands, row_rounds, tile_rows, tile)


def split_choices(shape: LinearShape, machine: Machine) -> Iterator[LinearMapping]:
    """Yield flat mappings of a constant whose K neighbours split, with a single round of tiles."""
    held, banks = machine.matrix.block_rows, machine.accumulator.banks // shape.parts
    is_plain = not (shape.is_computed or shape.packed or shape.is_scaled)
    if not (machine.dma.broadcast_reads and machine.accumulator.reduction_network and is_plain):
        return
    columns = banks // -(-shape.rows // held)
    for k_parts in K_PARTS:
        parts = machine.pe_count // k_parts
        is_even = machine.grid.rows % k_parts == 0 and k_parts <= -(-shape.rows // held) <= STREAMED_BLOCKS
        if is_even and padded_outputs(shape) <= parts * columns * held:
            for tile in _tiles(shape, machine, k_parts, columns * held):
                yield from _split(_choice(shape, machine, k_parts, 1, shape.rows, tile), machine, k_parts)


def _split(banded: LinearMapping, machine: Machine, k_parts: int) -> Iterator[LinearMapping]:
    """Yield the mapping whose PEs have parts of K where those of a banded one have bands of rows."""
    part_bytes = round_up(-(-banded.k_bytes // k_parts), machine.matrix.block_k_bytes)
    if -(-banded.k_bytes // part_bytes) == k_parts:
        yield replace(banded, bands=1, chunk_bytes=part_bytes, k_part_bytes=part_bytes)


def _band_counts(shape: LinearShape, machine: Machine) -> Iterator[int]:
    """Yield numbers of bands that have the same number of blocks of rows, and no more than there are accumulators.

    A computed weight comes from SRAM, as x does: nothing is gained.
    """
    blocks = -(-shape.rows // machine.matrix.block_rows)
    for bands in range(1, machine.grid.rows + 1):
        is_even = blocks % bands == 0 and machine.grid.rows % bands == 0
        if bands > 1 and shape.is_computed:
            return
        if is_even and blocks <= bands * machine.accumulator.banks:
            yield bands


def _tiles(shape: LinearShape, machine: Machine, bands: int, largest: int) -> Iterator[int]:
    """Yield the outputs of a tile: whole blocks, and of a constant what gives all PEs of a band the same."""
    parts, held = machine.pe_count // bands, machine.matrix.block_rows
    even = even_tile(shape, machine, parts, rounds=-(-padded_outputs(shape) // (parts * largest)))
    if largest - held < even < largest and not shape.is_computed:
        yield even
    if largest % _tile_step(shape, machine) == 0:
        yield largest


def even_tile(shape: LinearShape, machine: Machine, parts: int, rounds: int) -> int:
    """Return the outputs of a tile with which so many parts of the grid have the same in so many rounds."""
    return round_up(-(-padded_outputs(shape) // (parts * rounds)), _tile_step(shape, machine))


def _tile_step(shape: LinearShape, machine: Machine) -> int:
    """Return what outputs of a tile are a multiple of, so that the machine reaches it in the result.

    Of a computed operand in rows of K, too.
    """
    element_bytes = min(shape.dtype.bytes, shape.out_dtype.bytes) if shape.is_computed else shape.out_dtype.bytes
    return max(1, machine.dma.alignment_bytes // element_bytes)


def _choice(
    shape: LinearShape, machine: Machine, bands: int, row_rounds: int, tile_rows: int, tile: int
) -> LinearMapping:
    """Return the mapping on as few rows of PEs as need no further round."""
    grid, tiles = machine.grid, -(-padded_outputs(shape) // tile)
    output_rounds = -(-tiles // (machine.pe_count // bands))
    parts = -(-tiles // output_rounds)
    columns = min(parts, grid.columns)
    band_rows = -(-parts // columns)
    k_bytes = round_up(shape.inputs * shape.dtype.bytes, machine.matrix.block_k_bytes)
    return LinearMapping(
        shape, machine.matrix_instruction(shape.dtype.name), False, band_rows * bands, columns,
        machine.matrix.block_rows, tile_rows, tile, chunks=1, chunk_bytes=k_bytes, k_bytes=k_bytes,
        row_rounds=row_rounds, output_rounds=-(-tiles // (band_rows * columns)), x_slots=1, weight_slots=1,
        is_flat=True, bands=bands,
    )  # fmt: skip
