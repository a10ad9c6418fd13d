"""How a streamed linear may be cut in tiles: rows, outputs and K over rows and columns of PEs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from compiler.kernel_builder import round_up
from compiler.linear_cost import least_matrix_cycles
from compiler.linear_flat import even_tile, flat_choices, split_choices
from compiler.linear_mapping import LinearMapping, padded_outputs
from compiler.linear_shape import LinearShape
from isa.machine import Machine

COLUMN_STEP = 16
"""Tiles have a multiple of this many outputs, so that tiles start at addresses every machine can reach."""
K_PARTS = (2, 3, 4, 8)
"""Parts that neighbours may split K in."""
ROW_SHARES = (2, 3, 4, 6)
"""Neighbours with the same outputs that may split the rows among them."""
LEAST_GAIN = 0.02
"""They do only if products take so much less time than without: each reads its rows for itself."""
MOST_BLOCKS = 2
"""Blocks of results per PE up to which K is split: with more, adding takes longer than uneven tiles."""


def streamed_tilings(shape: LinearShape, machine: Machine) -> Iterator[LinearMapping]:
    """Yield the tilings whose x is streamed: mappings with a single chunk and single slots."""
    k_parts = (1, *(K_PARTS if _may_split_k(shape, machine) else ()))
    tilings = [tiling for parts in k_parts for tiling in _either_way(shape, machine, k_parts=parts)]
    yield from tilings
    if shape.is_computed and machine.dma.broadcast_reads:
        least = min((least_matrix_cycles(tiling, machine) for tiling in tilings), default=math.inf)
        for shares in ROW_SHARES:
            for tiling in _either_way(shape, machine, row_shares=shares):
                if least_matrix_cycles(tiling, machine) < least * (1 - LEAST_GAIN):
                    yield tiling
    if not may_be_resident(shape, machine):
        yield from flat_choices(shape, machine)
        yield from split_choices(shape, machine)


def _either_way(shape: LinearShape, machine: Machine, k_parts: int = 1, row_shares: int = 1) -> Iterator[LinearMapping]:
    """Yield tilings whose rows are split by rows of PEs, and by columns where that is another way."""
    rows, columns = machine.grid.rows, machine.grid.columns
    if columns % row_shares == 0:
        yield from _over(shape, machine, rows, columns, k_parts=k_parts, row_shares=row_shares)
    if rows != columns and rows % row_shares == 0:
        yield from _over(shape, machine, columns, rows, k_parts=k_parts, row_shares=row_shares, is_turned=True)


def _may_split_k(shape: LinearShape, machine: Machine) -> bool:
    """Tell whether neighbours can split K, and there are few results for all PEs."""
    held = machine.matrix.block_rows
    blocks = -(-shape.rows // held) * -(-shape.outputs // held)
    can_add = shape.is_computed and machine.accumulator.reduction_network
    return can_add and blocks < MOST_BLOCKS * machine.grid.rows * machine.grid.columns


def _over(
    shape: LinearShape,
    machine: Machine,
    most_row_parts: int,
    most_output_parts: int,
    *,
    k_parts: int = 1,
    row_shares: int = 1,
    is_turned: bool = False,
) -> Iterator[LinearMapping]:
    """Yield the tilings that split rows, with K, and outputs over so many parts of the grid at most."""
    k_bytes = round_up(shape.inputs * shape.dtype.bytes, machine.matrix.block_k_bytes)
    k_part_bytes = round_up(-(-k_bytes // k_parts), machine.matrix.block_k_bytes)
    most_row_parts, most_output_parts = most_row_parts * row_shares // k_parts, most_output_parts // row_shares
    if most_row_parts == 0 or -(-k_bytes // k_part_bytes) < k_parts:
        return
    held, instruction = machine.matrix.block_rows, machine.matrix_instruction(shape.dtype.name)
    banks = machine.accumulator.banks // shape.parts
    for row_blocks in range(1, banks + 1):
        rounds = -(-shape.rows // (most_row_parts * row_blocks * held))
        tile_rows = -(-shape.rows // (most_row_parts * rounds))
        if tile_rows <= (row_blocks - 1) * held:
            continue
        row_parts = min(-(-shape.rows // tile_rows), most_row_parts)
        for tile in _tiles(shape, machine, most_output_parts, banks // row_blocks):
            tiles = -(-padded_outputs(shape) // tile)
            output_rounds = -(-tiles // most_output_parts)
            output_parts = -(-tiles // output_rounds)
            row_groups, output_groups = -(-row_parts * k_parts // row_shares), output_parts * row_shares
            grid = (output_groups, row_groups) if is_turned else (row_groups, output_groups)
            choice = LinearMapping(
                shape, instruction, False, *grid, held, tile_rows, tile, chunks=1, chunk_bytes=k_bytes,
                k_bytes=k_bytes, row_rounds=rounds, output_rounds=output_rounds, x_slots=1, weight_slots=1,
                is_turned=is_turned, k_part_bytes=k_part_bytes if k_parts > 1 else 0,
                row_shares=row_shares,
            )  # fmt: skip
            yield choice
            if shape.is_computed:
                yield from _uneven(choice, most_output_parts, machine)


def _tiles(shape: LinearShape, machine: Machine, parts: int, most_blocks: int) -> Iterator[int]:
    """Yield outputs of a tile: whole blocks, and what gives so many parts of the grid the same in every round.

    Of a computed operand only in a single one: with several that gains little, and tiles of the last may be smaller. Of
    a constant not for few rows: those stay in local memory, where PEs need not wait for each other.
    """
    held, outputs = machine.matrix.block_rows, padded_outputs(shape)
    may_be_even = shape.is_computed or not may_be_resident(shape, machine)
    for blocks in range(1, most_blocks + 1):
        rounds = 1 if shape.is_computed else -(-outputs // (parts * blocks * held))
        even = even_tile(shape, machine, parts, rounds)
        if may_be_even and (blocks - 1) * held < even < blocks * held:
            yield even
        if blocks * held % COLUMN_STEP == 0:
            yield blocks * held


def _uneven(choice: LinearMapping, parts: int, machine: Machine) -> Iterator[LinearMapping]:
    """Yield the tiling whose last round shares what is left for it among so many parts of the grid, if it is faster."""
    rounds = choice.output_rounds
    left = padded_outputs(choice.shape) - (rounds - 1) * parts * choice.tile_outputs
    last = round_up(-(-left // parts), COLUMN_STEP)
    if rounds > 1 and 0 < last < choice.tile_outputs:
        along = parts * choice.row_shares
        rows, columns = (along, choice.grid_columns) if choice.is_turned else (choice.grid_rows, along)
        uneven = replace(choice, last_tile_outputs=last, grid_rows=rows, grid_columns=columns)
        if least_matrix_cycles(uneven, machine) < least_matrix_cycles(choice, machine):
            yield uneven


def may_be_resident(shape: LinearShape, machine: Machine) -> bool:
    """Tell whether x has few rows and leaves half of local memory to the rest."""
    k_bytes = round_up(shape.inputs * shape.dtype.bytes, machine.matrix.block_k_bytes)
    has_few_rows = shape.rows <= machine.matrix.block_rows
    return has_few_rows and shape.rows * k_bytes <= machine.pe.local_memory_bytes // 2


def smallest_rectangle(pes: int, rows: int, columns: int) -> tuple[int, int]:
    """Return (rows, columns) of a rectangle with at least `pes` PEs, whole rows unless one row is enough."""
    return (1, pes) if pes <= columns else (min(-(-pes // columns), rows), columns)
