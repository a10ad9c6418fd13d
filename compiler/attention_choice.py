"""Chooses the tile of an attention: the one that an estimate of the busiest PE's time likes best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from compiler.attention_mapping import (
    JOIN_BANKS,
    AttentionShape,
    AttentionTile,
    Bias,
    Depths,
    deepest,
    key_step,
    local_bytes,
    may_be_narrow,
    split_items,
)
from compiler.graph import AttentionAttributes
from compiler.mapped import CacheRegion
from isa.errors import UnsupportedError
from isa.machine import Machine
from isa.reuse import Kept

_DEPTHS = (
    Depths(2, 2, 2, 2, 2),
    Depths(2, 2, 1, 2, 1),
    Depths(1, 2, 1, 2, 1),
    Depths(1, 2, 1, 1, 1),
    Depths(1, 2, 1, 1, 1, 1, 1),
    Depths(1, 1, 1, 1, 1, 1, 2),
    Depths(1, 1, 1, 1, 1, 1, 1),
)
"""From the deepest buffers, which let loads run ahead, to those that are needed at least."""
_OVERLAP = 4
"""How well units work at once: the power in the mean of their times; infinite if the slowest decided alone."""
_FEW_ROUNDS = 16
"""Items per PE from which on it does not matter how they are dealt."""
_SCATTERED = 0.8
"""Share of bandwidth of transfers that do not reach all channels of DRAM."""
_WAITING = 1.06
"""What PEs lose that wait for each other to read keys."""
_HOP_CYCLES = 30
"""What each part of an item adds to the joining of the parts."""
_SPARED = 0.04
"""What an attention of one token may take longer for less local memory, which holds weights of what comes behind."""
_KEY_STEPS = (8, 6, 4, 3, 2, 1)
_TOKEN_BLOCKS = (1, 2, 4, 8)
_MOST_BLOCKS = 8
"""Blocks of an item beyond which only the heads of a group can lead."""
_STEP_COMMANDS, _STEP_INSTRUCTIONS = 28, 90
"""Commands of a step that no size changes, and scalar instructions, as the kernel is written."""
_STALLS = 8
"""Results of the SIMD engine and the accumulators that a step waits for, one after the other; twice as many if sums
are carried back to the accumulators."""


def choose_tile(
    cache: CacheRegion,
    attributes: AttentionAttributes,
    has_mask: bool,
    bias: Bias,
    machine: Machine,
    past_is_kept: bool = False,
    reads_rows: bool = False,
) -> AttentionTile:
    """Return the tile with the shortest estimated time among those that fit in local memory."""
    asked = (cache, attributes, has_mask, bias, past_is_kept, reads_rows)
    return _CHOSEN.result(asked, machine, lambda view: _fastest_tile(*asked, view))


_CHOSEN = Kept[AttentionTile](64)


def _fastest_tile(
    cache: CacheRegion,
    attributes: AttentionAttributes,
    has_mask: bool,
    bias: Bias,
    past_is_kept: bool,
    reads_rows: bool,
    machine: Machine,
) -> AttentionTile:
    shape = AttentionShape(
        cache.batch, cache.sequence, cache.heads, attributes.head_count // cache.heads, cache.head_dim,
        cache.padded_head_dim, cache.capacity, attributes.scale, attributes.causal, has_mask, bias, cache.dtype,
        machine.matrix_instruction(cache.dtype.name), machine.matrix.block_rows, key_step(machine, cache.dtype),
        past_is_kept, reads_rows,
    )  # fmt: skip
    past = attributes.past if isinstance(attributes.past, int) else (cache.capacity - cache.sequence) // 2
    estimates = list(_estimates(shape, machine))
    if estimates:
        # Of those that take as long, those whose tokens see about as many keys.
        best = min(estimates, key=lambda estimate: (estimate.cycles(past), estimate.tile.token_blocks))
        if not best.tile.shape.is_stacked:
            return best.tile
        most = best.cycles(past) * (1 + _SPARED)
        good = [estimate.tile for estimate in estimates if estimate.cycles(past) <= most]
        return min(good, key=lambda tile: local_bytes(tile, machine))
    raise UnsupportedError(
        f"attention with {attributes.head_count} heads of {cache.head_dim} does not fit in local memory",
        where="attention", help="use a machine with a larger pe.local_memory_bytes",
    )  # fmt: skip


def _estimates(shape: AttentionShape, machine: Machine) -> Iterator[_Estimate]:
    """Yield the tiles that fit; of the depths of buffers only the best, and other ways only where they may pay."""
    longest = -(-shape.capacity // shape.key_step)
    joins = machine.accumulator.reduction_network and machine.accumulator.banks > JOIN_BANKS + 1
    parts = machine.matrix.block_rows if shape.is_stacked and joins else 1
    for tokens, token_blocks, heads in _row_choices(shape):
        for steps in _KEY_STEPS:
            if steps > longest and steps > 1:
                continue
            keys = steps * shape.key_step
            tile = AttentionTile(shape, tokens, token_blocks, heads, keys, parts, _DEPTHS[-1])
            depths = deepest(tile, _DEPTHS, machine)
            estimate = _Estimate(replace(tile, depths=depths) if depths else tile, machine)
            if depths:
                yield from _shared_too(estimate, machine)
            if estimate.is_simd_bound and not shape.is_stacked and machine.accumulator.banks > 1:
                for is_narrow in (False, True) if may_be_narrow(tile, machine) else (False,):
                    carried = replace(tile, is_carried=True, is_narrow=is_narrow)
                    depths = deepest(carried, _DEPTHS, machine)
                    if depths:
                        yield from _shared_too(_Estimate(replace(carried, depths=depths), machine), machine)


def _shared_too(estimate: _Estimate, machine: Machine) -> Iterator[_Estimate]:
    yield estimate
    if estimate.is_transfer_bound and _may_share(estimate.tile, machine):
        yield _Estimate(replace(estimate.tile, is_shared=True), machine)


def _may_share(tile: AttentionTile, machine: Machine) -> bool:
    """Return whether the PEs of a row can read keys together: whole rows of items that see nothing of their own."""
    columns = machine.grid.columns
    may_broadcast = machine.dma.broadcast_reads and columns > 1 and machine.accumulator.banks > 1
    if tile.shape.is_stacked or not tile.shape.is_masked_once or not may_broadcast:
        return False
    return tile.head_groups * tile.tiles % columns == 0


def _row_choices(shape: AttentionShape) -> Iterator[tuple[int, int, int]]:
    """Yield (tokens of a block, blocks of tokens, heads)."""
    if shape.is_stacked:
        yield 1, 1, shape.group
        return
    tokens = 1
    while tokens < min(shape.sequence, shape.block_rows):
        tokens *= 2
    tokens = min(tokens, shape.block_rows)
    heads = [count for count in range(1, shape.group + 1) if shape.group % count == 0]
    if len(heads) > 2:
        heads = [1, heads[len(heads) // 2], heads[-1]]
    for count in heads:
        for blocks in _TOKEN_BLOCKS:
            if blocks == 1 or ((blocks - 1) * tokens < shape.sequence and blocks * count <= _MOST_BLOCKS):
                yield tokens, blocks, count
    if tokens > 1:
        yield tokens // 2, 1, 1  # the smallest, for little local memory
        yield 1, 1, 1


class _Estimate:
    """Cycles of a tile's steps, chunks and items on a machine."""

    def __init__(self, tile: AttentionTile, machine: Machine) -> None:
        self.tile, self.shape, self.machine = tile, tile.shape, machine
        matrix, simd = self._matrix(), self._simd()
        units = (matrix, simd, self._accumulator(), self._issue())
        self.is_simd_bound = simd > matrix
        self.step = float(sum(unit**_OVERLAP for unit in units) ** (1 / _OVERLAP))
        transfer = self._transfer()
        self.is_transfer_bound = transfer > self.step * tile.blocks
        self.chunk = max(self.step * tile.blocks, self._layout(), transfer)
        if tile.depths.transposed == 1 and not tile.is_narrow:
            self.chunk += self._layout()
        if tile.depths.k == 1 and not tile.is_narrow:
            self.chunk += transfer / 8
        if tile.is_shared:
            self.chunk *= _WAITING

    def cycles(self, past: int) -> float:
        """Return the time of the PE with the most work."""
        tile, pes = self.tile, self.machine.pe_count
        costs = self._items(past)
        if tile.is_shared:
            return self._rows_of_items(costs)
        whole, parts = split_items(tile, self.machine)
        if parts > 1:
            return float(-(-whole // pes) * costs[0] + self._part(past, parts))
        if tile.items > _FEW_ROUNDS * pes:
            return float(costs.mean() * tile.items / pes + costs.max() / 2)
        loads = np.zeros(-(-tile.items // pes) * pes)
        loads[: tile.items] = np.repeat(costs[::-1], tile.items // tile.tiles)
        turns = loads.reshape(-1, pes)
        turns[1::2] = turns[1::2, ::-1]
        return float(turns.sum(0).max())

    def _rows_of_items(self, costs: npt.NDArray[np.float64]) -> float:
        """Return the time of the row of PEs with the most work; its longest item holds up the others."""
        grid, shape = self.machine.grid, self.shape
        longest = np.repeat(costs[::-1], self.tile.head_groups)[:: grid.columns]
        rounds = -(-len(longest) * shape.kv_heads * shape.batch // grid.rows)
        return float(longest.mean() * rounds)

    def _items(self, past: int) -> npt.NDArray[np.float64]:
        """Return the cycles of the items along the tokens: chunks, steps that fill the pipeline, and the store."""
        tile, shape, tokens = self.tile, self.shape, self.tile.item_tokens
        first = np.arange(tile.tiles) * tokens
        seen = past + (
            np.minimum(first + tokens, shape.sequence) if shape.causal else np.full(tile.tiles, shape.sequence)
        )
        chunks = -(-seen // shape.key_step) * (shape.key_step / tile.keys)
        share = np.minimum(-(-(shape.sequence - first) // tile.tokens), tile.token_blocks) / tile.token_blocks
        return np.asarray(chunks * self.chunk * share + 2.5 * self.step + self._store() * tile.blocks * share + 300)

    def _part(self, past: int, parts: int) -> float:
        """Return the cycles of a part of an item; a short last chunk waits as long as any."""
        tile, step = self.tile, self.shape.key_step
        keys = -(-(past + self.shape.sequence) // (parts * step)) * step
        return -(-keys // tile.keys) * self.chunk + 2.5 * self.step + self._store() + 300 + parts * _HOP_CYCLES

    def _store(self) -> float:
        return self.tile.rows * self.shape.padded_head_dim / self.machine.simd.elements_per_cycle + 60

    def _products(self, columns: int, k_blocks: float) -> float:
        machine, shape, rows = self.machine, self.shape, self.tile.rows
        matrix = machine.matrix
        if shape.instruction != "mml":
            k = k_blocks * matrix.block_k_bytes / shape.dtype.bytes
            return k * rows * -(-columns // machine.simd.multiply_adds_per_cycle)
        held = -(-rows * matrix.block_k_bytes // matrix.operand_fill_bytes_per_cycle)
        return k_blocks * max(columns, held) / (matrix.rate_by_dtype[shape.dtype.name] * matrix.tiles)

    def _matrix(self) -> float:
        tile, shape, matrix = self.tile, self.shape, self.machine.matrix
        blocks = shape.row_bytes / matrix.block_k_bytes
        scores = tile.keys // shape.block_rows * self._products(shape.block_rows, blocks)
        k_blocks = tile.keys * shape.dtype.bytes / matrix.block_k_bytes
        values = shape.padded_head_dim / shape.block_rows * self._products(shape.block_rows, k_blocks)
        return scores + values + self._products(1, k_blocks)

    def _simd(self) -> float:
        tile, shape, simd = self.tile, self.shape, self.machine.simd
        rate = simd.rate_by_dtype["fp32"]
        narrow = min(math.inf if tile.is_narrow else rate, simd.rate_by_dtype[shape.dtype.name])
        passes = 1 if shape.is_masked_once else 2 + (shape.bias != "none") * 3
        row = passes * -(-tile.keys // simd.elements_per_cycle) / (narrow if tile.is_narrow else rate)
        row += -(-tile.keys // simd.lut_elements_per_cycle) / narrow
        row += (1 if tile.is_carried else 2) * -(-shape.padded_head_dim // simd.elements_per_cycle) / rate
        products = self._matrix() if shape.instruction != "mml" else 0
        stalls = (2 if tile.is_carried else 1) * _STALLS
        return tile.rows * row + stalls * simd.latency_cycles + products

    def _accumulator(self) -> float:
        tile, shape, accumulator = self.tile, self.shape, self.machine.accumulator
        keys, depth = tile.keys * (1 + tile.is_narrow), shape.padded_head_dim * (1 + tile.is_carried)
        elements = keys + depth + accumulator.drain_elements_per_cycle
        return tile.rows * elements / accumulator.drain_elements_per_cycle

    def _issue(self) -> float:
        tile, shape, machine = self.tile, self.shape, self.machine
        score_blocks, value_blocks = tile.keys // shape.block_rows, -(-shape.padded_head_dim // shape.block_rows) + 1
        products = score_blocks + value_blocks
        drains = products * (machine.issue_cycles("acc_drain") + 3)
        key_bytes = tile.keys * shape.dtype.bytes
        if max(shape.row_bytes, key_bytes) // machine.matrix.block_k_bytes > machine.matrix.max_repeat_blocks:
            products = score_blocks * shape.row_bytes // machine.matrix.block_k_bytes
            products += value_blocks * key_bytes // machine.matrix.block_k_bytes
        fixed = _STEP_COMMANDS * machine.issue_cycles("push") + _STEP_INSTRUCTIONS
        return products * (machine.issue_cycles(shape.instruction) + 3) + drains + fixed

    def _layout(self) -> float:
        return self.tile.keys * self.shape.row_bytes / self.machine.layout.bytes_per_cycle

    def _transfer(self) -> float:
        """Return the cycles that keys and values of a chunk take, all PEs loading at once."""
        machine, shape = self.machine, self.shape
        cached = 2 * shape.batch * shape.kv_heads * shape.capacity * shape.row_bytes <= machine.sram.bytes // 2
        has_cache = machine.sram.has_cache
        is_near = shape.reads_rows or (cached and has_cache)
        shared = machine.sram.bytes_per_cycle if is_near else machine.dram_bytes_per_cycle
        users = min(machine.pe_count, self.tile.items * split_items(self.tile, machine)[1])
        if self.tile.is_shared:
            users = machine.grid.rows
        rate = min(machine.dma.bytes_per_cycle, shared * 0.95 / users)
        size = self.tile.keys * shape.row_bytes
        if size < machine.dram.channels * machine.dram.interleave_bytes and not shape.reads_rows:
            rate *= _SCATTERED
        return 2 * size / rate + 100
