"""Chooses the tile of an attention: the one that an estimate of the busiest PE's time likes best."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from compiler.attention_mapping import AttentionShape, AttentionTile, Bias, Depths, fits, key_step, split_items
from compiler.graph import AttentionAttributes
from compiler.mapped import CacheRegion
from isa.errors import UnsupportedError
from isa.machine import Machine

_DEPTHS = (Depths(2, 2, 2, 2, 2), Depths(2, 2, 1, 2, 1), Depths(1, 2, 1, 2, 1), Depths(1, 2, 1, 1, 1))
"""From the deepest buffers, which let loads run ahead, to those that are needed at least."""
_OVERLAP = 4
"""How well units work at once: the power in the mean of their times; infinite if the slowest decided alone."""
_FEW_ROUNDS = 16
"""Items per PE from which on it does not matter how they are dealt."""
_SCATTERED = 0.8
"""Share of bandwidth of transfers that do not reach all channels of DRAM."""
_HOP_CYCLES = 30
"""What each part of an item adds to the joining of the parts."""
_KEY_STEPS = (8, 6, 4, 3, 2, 1)
_TOKEN_BLOCKS = (1, 2, 4, 8)
_STEP_COMMANDS, _STEP_INSTRUCTIONS = 28, 90
"""Commands of a step that no size changes, and scalar instructions, as the kernel is written."""
_STALLS = 8
"""Results of the SIMD engine and the accumulators that a step waits for, one after the other."""


def choose_tile(
    cache: CacheRegion, attributes: AttentionAttributes, has_mask: bool, bias: Bias, machine: Machine
) -> AttentionTile:
    """Return the tile with the shortest estimated time among those that fit in local memory."""
    shape = AttentionShape(
        cache.batch, cache.sequence, cache.heads, attributes.head_count // cache.heads, cache.head_dim,
        cache.padded_head_dim, cache.capacity, attributes.scale, attributes.causal, has_mask, bias, cache.dtype,
        machine.matrix_instruction(cache.dtype.name), machine.matrix.block_rows, key_step(machine, cache.dtype),
    )  # fmt: skip
    past = attributes.past if isinstance(attributes.past, int) else (cache.capacity - cache.sequence) // 2
    tiles = list(_tiles(shape, machine))
    if tiles:
        return min(tiles, key=lambda tile: _Estimate(tile, machine).cycles(past))
    raise UnsupportedError(
        f"attention with {attributes.head_count} heads of {cache.head_dim} does not fit in local memory",
        where="attention", help="use a machine with a larger pe.local_memory_bytes",
    )  # fmt: skip


def _tiles(shape: AttentionShape, machine: Machine) -> Iterator[AttentionTile]:
    """Yield the tiles that fit; of the depths of buffers only the best."""
    longest = -(-shape.capacity // shape.key_step)
    parts = machine.accumulator.columns if shape.is_stacked and machine.accumulator.reduction_network else 1
    for tokens, token_blocks, heads in _row_choices(shape):
        for steps in _KEY_STEPS:
            if steps > longest and steps > 1:
                continue
            for depths in _DEPTHS:
                tile = AttentionTile(shape, tokens, token_blocks, heads, steps * shape.key_step, parts, depths)
                if fits(tile, machine):
                    yield tile
                    break


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
    for count in heads:
        for blocks in _TOKEN_BLOCKS:
            if blocks == 1 or (blocks - 1) * tokens < shape.sequence:
                yield tokens, blocks, count
    if tokens > 1:
        yield tokens // 2, 1, 1  # the smallest, for little local memory
        yield 1, 1, 1


class _Estimate:
    """Cycles of a tile's steps, chunks and items on a machine."""

    def __init__(self, tile: AttentionTile, machine: Machine) -> None:
        self.tile, self.shape, self.machine = tile, tile.shape, machine
        units = (self._matrix(), self._simd(), self._accumulator(), self._issue())
        self.step = float(sum(unit**_OVERLAP for unit in units) ** (1 / _OVERLAP))
        self.chunk = max(self.step * tile.blocks, self._layout(), self._transfer())
        if tile.depths.transposed == 1:
            self.chunk += self._layout()

    def cycles(self, past: int) -> float:
        """Return the time of the PE with the most work."""
        tile, pes = self.tile, self.machine.pe_count
        costs = self._items(past)
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
        narrow = min(rate, simd.rate_by_dtype[shape.dtype.name])
        passes = 1 if shape.is_masked_once else 2 + (shape.bias != "none") * 3
        row = passes * -(-tile.keys // simd.elements_per_cycle) / rate
        row += -(-tile.keys // simd.lut_elements_per_cycle) / narrow
        row += 2 * -(-shape.padded_head_dim // simd.elements_per_cycle) / rate
        products = self._matrix() if shape.instruction != "mml" else 0
        return tile.rows * row + _STALLS * simd.latency_cycles + products

    def _accumulator(self) -> float:
        tile, shape, accumulator = self.tile, self.shape, self.machine.accumulator
        elements = tile.keys + shape.padded_head_dim + accumulator.drain_elements_per_cycle
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
        has_cache = machine.sram.cache_step_bytes and machine.sram.cache_step_bytes < machine.sram.bytes
        shared = machine.sram.bytes_per_cycle if cached and has_cache else machine.dram_bytes_per_cycle
        users = min(machine.pe_count, self.tile.items * split_items(self.tile, machine)[1])
        rate = min(machine.dma.bytes_per_cycle, shared * 0.8 / users)
        size = self.tile.keys * shape.row_bytes
        if size < machine.dram.channels * machine.dram.interleave_bytes:
            rate *= _SCATTERED
        return 2 * size / rate + 100
