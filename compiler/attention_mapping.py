"""How an attention is tiled: query tokens and keys worked on at a time, buffer sizes, and the MACs that follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from compiler.graph import AttentionAttributes
from compiler.kernel_builder import round_up
from compiler.mapped import CacheRegion
from isa.affine import Dim
from isa.dtypes import Dtype
from isa.errors import UnsupportedError
from isa.machine import Machine
from isa.program import RoundedMacs

FP32_BYTES = 4
MASK_BYTES = 4
BIAS_INPUT = 6
"""Index among the inputs of attention."""

Bias = Literal["none", "shared", "per head"]
"""What is added to the scores: nothing, the same for all heads, or something else for each head."""


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """Everything that shapes the kernel: `tokens` of `sequence` queries and `keys` keys are worked on at a time.

    The keys that are read are a multiple of `key_step`: whole blocks, be they columns of scores or K of the values.
    `instruction` multiplies blocks.
    """

    batch: int
    sequence: int
    kv_heads: int
    group: int
    head_dim: int
    padded_head_dim: int
    capacity: int
    scale: float
    causal: bool
    has_mask: bool
    bias: Bias
    dtype: Dtype
    instruction: str
    block_rows: int
    key_step: int
    tokens: int
    keys: int

    @property
    def is_stacked(self) -> bool:
        """True if the rows of a block are the heads of the group, for one token."""
        return self.sequence == 1 and self.group <= self.block_rows

    @property
    def blocks(self) -> int:
        """Blocks of query rows per item."""
        return 1 if self.is_stacked else self.group

    @property
    def block_row_count(self) -> int:
        """Rows of a full block."""
        return self.group if self.is_stacked else self.tokens

    @property
    def query_rows(self) -> int:
        """Rows of all blocks of an item, whether there are as many tokens left or not."""
        return self.blocks * self.block_row_count

    @property
    def bias_rows(self) -> int:
        """Rows of the bias that an item holds at once: per token, per head, both, or one for all rows."""
        heads = self.group if self.bias == "per head" else 1
        return heads if self.is_stacked else heads * self.tokens

    @property
    def tiles(self) -> int:
        """Token tiles per sequence."""
        return -(-self.sequence // self.tokens)

    @property
    def items(self) -> int:
        """Work items."""
        return self.batch * self.kv_heads * self.tiles

    @property
    def row_bytes(self) -> int:
        """Bytes of a padded head of one token."""
        return self.padded_head_dim * self.dtype.bytes

    def rows(self, tile: int) -> int:
        """Return the rows of the blocks of a tile of tokens."""
        return self.group if self.is_stacked else min(self.tokens, self.sequence - tile * self.tokens)

    def visible(self, tile: int, past: Dim) -> Dim:
        """Return how many keys the last token of a tile sees."""
        return past + (min((tile + 1) * self.tokens, self.sequence) if self.causal else self.sequence)


def key_step(machine: Machine, dtype: Dtype) -> int:
    """Return what the keys of a chunk are a multiple of: columns of a score block, and elements of K of a block."""
    return math.lcm(machine.matrix.block_rows, machine.matrix.block_k_bytes // dtype.bytes)


def buffer_sizes(tile: AttentionTile) -> dict[str, tuple[int, int]]:
    """Return (slot bytes, slots) of each buffer."""
    rows, size, blocks = tile.block_row_count, tile.dtype.bytes, tile.blocks
    scores, column, result = rows * tile.keys * FP32_BYTES, rows * FP32_BYTES, rows * tile.padded_head_dim * FP32_BYTES
    keys = tile.keys * tile.row_bytes
    bias = {"bias": (tile.bias_rows * tile.keys * size, 2)} if tile.bias != "none" else {}
    heads = {"heads": (tile.query_rows * tile.row_bytes, 1)} if tile.head_dim != tile.padded_head_dim else {}
    return {
        "q": (tile.query_rows * tile.row_bytes, 1), "k": (keys, 2), "v": (keys, 2), "v_transposed": (keys, 2),
        "mask": (tile.keys * MASK_BYTES, 2), "scores": (scores, 2), "masked": (scores, 2), "exponent": (scores, 1),
        "weights": (rows * tile.keys * size, 1), "probabilities": (rows * tile.keys * size, 2), "column": (column, 2),
        "current": (column, 1), "rescale": (column, 1), "running": (2 * column, blocks + 1),
        "product": (result, 2), "scaled": (result, 1), "output": (result, blocks),
        "out": (rows * tile.row_bytes, 2), **bias, **heads,
    }  # fmt: skip


def _fits(tile: AttentionTile, machine: Machine) -> bool:
    sizes = buffer_sizes(tile).values()
    return sum(round_up(slot, 32) * slots + 64 for slot, slots in sizes) <= machine.pe.local_memory_bytes


def choose_tile(
    cache: CacheRegion, attributes: AttentionAttributes, has_mask: bool, bias: Bias, machine: Machine
) -> AttentionTile:
    """Return the tile with the most query tokens, then the most keys, that fits in local memory."""
    block, step = machine.matrix.block_rows, key_step(machine, cache.dtype)
    tokens = 1
    while tokens < min(cache.sequence, block):
        tokens *= 2
    tokens = min(tokens, block)
    while tokens:
        for keys in (4 * step, 2 * step, step):
            tile = AttentionTile(
                cache.batch, cache.sequence, cache.heads, attributes.head_count // cache.heads, cache.head_dim,
                cache.padded_head_dim, cache.capacity, attributes.scale, attributes.causal, has_mask, bias, cache.dtype,
                machine.matrix_instruction(cache.dtype.name), block, step, tokens, keys,
            )  # fmt: skip
            if _fits(tile, machine):
                return tile
        tokens //= 2
    raise UnsupportedError(
        f"attention with {attributes.head_count} heads of {cache.head_dim} does not fit in local memory",
        where="attention", help="use a machine with a larger pe.local_memory_bytes",
    )  # fmt: skip


def useful_macs(tile: AttentionTile, past: Dim) -> Dim:
    """Return the products that causality leaves, q k^T and weights v together."""
    pairs = past * tile.sequence + (tile.sequence * (tile.sequence + 1) // 2 if tile.causal else tile.sequence**2)
    return pairs * (2 * tile.batch * tile.kv_heads * tile.group * tile.head_dim)


def issued_macs(tile: AttentionTile, past: Dim) -> tuple[RoundedMacs, ...]:
    """Return what is multiplied: steps of keys, padded heads; the matrix engine multiplies whole blocks of rows."""
    factor = 2 * tile.batch * tile.kv_heads * tile.blocks * tile.padded_head_dim
    return tuple(
        RoundedMacs(
            factor * (tile.block_rows if tile.instruction == "mml" else tile.rows(index)),
            tile.visible(index, past),
            tile.key_step,
        )
        for index in range(tile.tiles)
    )
