"""How an attention is tiled: query rows and keys worked on at a time, buffer sizes, and the MACs that follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from compiler.kernel_builder import round_up
from isa.affine import Dim
from isa.dtypes import FP16, FP32, Dtype
from isa.machine import Machine
from isa.program import RoundedMacs

FP32_BYTES = 4
MASK_BYTES = 4
BIAS_INPUT = 6
"""Index among the inputs of attention."""
ROWS_INPUTS = (7, 8)
"""Indices of the rows of keys and values among its inputs, if it reads those and not the caches."""
PUSHED_TOGETHER = 2
"""Pieces of transposed values that become visible at once: that takes fewer entries of a command queue."""
JOIN_BANKS = 2
"""Accumulator banks in which the parts of an item join."""

Bias = Literal["none", "shared", "per head"]
"""What is added to the scores: nothing, the same for all heads, or something else for each head."""


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What an attention computes, with all that shapes code but no choice of the compiler in it."""

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
    past_is_kept: bool = False
    """True if no launch of the program writes keys and values that come before those of the new tokens."""
    reads_rows: bool = False
    """True if keys and values are read from rows of all heads of a token, not from caches."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a padded head of one token."""
        return self.padded_head_dim * self.dtype.bytes

    @property
    def is_stacked(self) -> bool:
        """True if the rows of a block are the heads of the group, for one token."""
        return self.sequence == 1 and self.group <= self.block_rows

    @property
    def is_scaled_late(self) -> bool:
        """True if the scale is part of the exponential: maxima are those of the bare products."""
        return self.bias == "none" and self.scale > 0

    @property
    def is_masked_once(self) -> bool:
        """True if limits are all that hides keys: chunks that all rows see need no mask."""
        return self.is_scaled_late and not self.has_mask


@dataclass(frozen=True, slots=True)
class Depths:
    """Slots of the buffers that more of make faster."""

    q: int
    k: int
    v: int
    transposed: int
    product: int
    scores: int = 2
    out: int = 2


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """Everything that shapes the kernel.

    An item is `heads` query heads of one kv head and `token_blocks` times `tokens` tokens: so many blocks of rows,
    which share the keys that are loaded, `keys` at a time. The keys that are read are a multiple of `key_step`: whole
    blocks, be they columns of scores or K of the values. `instruction` multiplies blocks. Items that are left when
    every PE has had as many are cut into at most `parts` ranges of keys. With `is_shared` the PEs of a row work on
    items of one kv head at a time, and read its keys together. With `is_carried` the weighted sums so far, rescaled, go
    back into the accumulators, and products are added to them there; else the SIMD engine adds.

    With `is_narrow`, for little local memory and SIMD engines that are slow at fp32, scores are fp16: what they are
    below the largest one so far, so that those that weigh anything are small, and rounded no worse than weights. They
    stay in accumulators until that is known. Keys come and go in pieces of `key_step`, transposed values and results
    in pieces of the accumulator's width, so that there is room for the next ones early.
    """

    shape: AttentionShape
    tokens: int
    token_blocks: int
    heads: int
    keys: int
    parts: int
    depths: Depths
    is_shared: bool = False
    is_carried: bool = False
    is_narrow: bool = False

    @property
    def blocks(self) -> int:
        """Blocks of query rows of an item with all its tokens."""
        return 1 if self.shape.is_stacked else self.heads * self.token_blocks

    @property
    def rows(self) -> int:
        """Rows of a block; what lies in rows without a token is never stored."""
        return self.heads if self.shape.is_stacked else self.tokens

    @property
    def block_bytes(self) -> int:
        """Bytes of the queries of a block."""
        return self.rows * self.shape.row_bytes

    @property
    def score_dtype(self) -> Dtype:
        """Element type of scores."""
        return FP16 if self.is_narrow else FP32

    @property
    def key_pieces(self) -> int:
        """Slots that the keys of a chunk fill."""
        return self.keys // self.shape.key_step if self.is_narrow else 1

    @property
    def loads_past_early(self) -> bool:
        """True if keys of the past may be loaded before the new ones are there: if nothing else comes with them."""
        shape = self.shape
        is_plain = shape.is_stacked and not shape.has_mask and shape.bias == "none"
        return shape.past_is_kept and is_plain and self.parts > 1 and not self.is_shared

    @property
    def item_tokens(self) -> int:
        """Tokens of an item."""
        return self.tokens * self.token_blocks

    @property
    def bias_rows(self) -> int:
        """Rows of the bias that an item holds at once: per token, per head, both, or one for all rows."""
        heads = self.heads if self.shape.bias == "per head" else 1
        return heads if self.shape.is_stacked else heads * self.item_tokens

    @property
    def head_groups(self) -> int:
        """Items that share a kv head and tokens."""
        return self.shape.group // self.heads

    @property
    def tiles(self) -> int:
        """Items along the tokens of a sequence."""
        return -(-self.shape.sequence // self.item_tokens)

    @property
    def items(self) -> int:
        """Work items."""
        return self.shape.batch * self.shape.kv_heads * self.head_groups * self.tiles

    def share_rows(self, machine: Machine) -> int:
        """Return the rows of an accumulator that a block's sums of values fill, and one for its sums of weights."""
        return -(-self.rows * self.shape.padded_head_dim // machine.matrix.block_rows) + 1

    def blocks_of(self, tile: int) -> int:
        """Return the blocks of an item: fewer where the sequence ends."""
        left = self.shape.sequence - tile * self.item_tokens
        return 1 if self.shape.is_stacked else self.heads * min(-(-left // self.tokens), self.token_blocks)

    def visible(self, tile: int, past: Dim) -> Dim:
        """Return how many keys the last token of an item sees."""
        sequence = self.shape.sequence
        return past + (min((tile + 1) * self.item_tokens, sequence) if self.shape.causal else sequence)


def key_step(machine: Machine, dtype: Dtype) -> int:
    """Return what the keys of a chunk are a multiple of: columns of a score block, and elements of K of a block."""
    return math.lcm(machine.matrix.block_rows, machine.matrix.block_k_bytes // dtype.bytes)


def buffer_sizes(tile: AttentionTile, machine: Machine) -> dict[str, tuple[int, int]]:
    """Return (slot bytes, slots) of each buffer."""
    buffers = _buffers(tile, machine)
    return {name: (size, slots * _depth(tile.depths, depth)) for name, (size, slots, depth) in buffers.items()}


def _depth(depths: Depths, name: str) -> int:
    return int(getattr(depths, name)) if name else 1


def _buffers(tile: AttentionTile, machine: Machine) -> dict[str, tuple[int, int, str]]:
    """Return (slot bytes, slots, what of the tile's `Depths` multiplies the slots if anything does) of each buffer."""
    shape, rows, blocks, block_rows = tile.shape, tile.rows, tile.blocks, machine.matrix.block_rows
    size = shape.dtype.bytes
    scores, column = rows * tile.keys * tile.score_dtype.bytes, rows * FP32_BYTES
    result, pieces = column * shape.padded_head_dim, -(-shape.padded_head_dim // block_rows)
    keys, ones = tile.keys * shape.row_bytes, tile.keys * size
    buffers = {
        "q": (blocks * tile.block_bytes, 1, "q"),
        "k": (keys // tile.key_pieces, tile.key_pieces, "k"), "v": (keys, 1, "v"),
        "v_transposed": (keys + ones, 1, "transposed"), "mask": (tile.keys * MASK_BYTES, 2, ""),
        "scores": (scores, 1, "scores"), "masked": (scores, 1 if shape.is_masked_once else 2, ""),
        "probabilities": (rows * tile.keys * size, 2, ""),
        "column": (column, 2, ""), "maximum": (column, blocks + 1, ""), "rescale": (column, 2, ""),
        "weight": (column, blocks, ""), "sums": (column, 2, ""), "product": (result, 1, "product"),
        "scaled": (result, 1, ""), "output": (result, blocks, ""), "out": (rows * shape.row_bytes, 1, "out"),
    }  # fmt: skip
    if tile.is_carried:
        del buffers["product"], buffers["sums"]
        buffers["carried"] = (column, 1, "")
        waiting = pieces - len(banks_of(tile, machine).values)
        buffers["scaled"] = (column * block_rows, max(2, waiting), "")
    if tile.is_narrow:
        buffers["out"] = (rows * block_rows * size, 1, "out")
        buffers["peak"], buffers["origin"] = (column, 2, ""), (column, 1, "")
        buffers["v_transposed"], buffers["ones"] = (ones * block_rows, pieces, "transposed"), (ones, 1, "")
    if shape.bias != "none":
        buffers["bias"] = (tile.bias_rows * tile.keys * size, 2, "")
    if shape.head_dim != shape.padded_head_dim:
        buffers["heads"] = (blocks * tile.block_bytes, 1, "")
    if tile.parts > 1:
        table, share = rows * block_rows * FP32_BYTES, tile.share_rows(machine) * block_rows * FP32_BYTES
        buffers |= {
            "zeros": (max(result, table), 1, ""), "place": (table, 1, ""), "spots": (table, 2, ""),
            "maxima": (table, 1, ""), "share": (share, 1, ""), "total": (share, 1, ""),
        }  # fmt: skip
    return buffers


@dataclass(frozen=True, slots=True)
class Banks:
    """Accumulator banks of scores, of what the parts of an item join, and of values."""

    scores: range
    joins: range
    values: range


def banks_of(tile: AttentionTile, machine: Machine) -> Banks:
    """Return which banks serve what: as many as pay for values, apart from scores unless there is only one."""
    banks, joins = machine.accumulator.banks, JOIN_BANKS if tile.parts > 1 else 0
    columns = -(-tile.shape.padded_head_dim // tile.shape.block_rows) + 1
    values = max(1, min(columns, max(banks - 2, banks // 2), banks - joins - 1))
    rest = banks - values - joins
    return Banks(range(max(1, rest)), range(rest, rest + joins), range(banks - values, banks))


def deepest(tile: AttentionTile, depths: Sequence[Depths], machine: Machine) -> Depths | None:
    """Return the first of these depths with which local memory holds the buffers of a tile, None if none is."""
    slots = [(round_up(size, 32) * slots, depth) for size, slots, depth in _buffers(tile, machine).values()]
    left = machine.pe.local_memory_bytes - 64 * len(slots)
    return next((one for one in depths if sum(size * _depth(one, depth) for size, depth in slots) <= left), None)


def local_bytes(tile: AttentionTile, machine: Machine) -> int:
    """Return the local memory of the buffers of a tile, gaps included."""
    return sum(round_up(slot, 32) * slots + 64 for slot, slots in buffer_sizes(tile, machine).values())


def split_items(tile: AttentionTile, machine: Machine) -> tuple[int, int]:
    """Return how many items are worked on whole, and into how many parts each of the others is cut."""
    left = tile.items % machine.pe_count
    parts = min(tile.parts, machine.pe_count // left) if left else 1
    return (tile.items - left, parts) if parts > 1 else (tile.items, 1)


def may_be_narrow(tile: AttentionTile, machine: Machine) -> bool:
    """Return whether scores may be fp16: those of sixteen-bit types that no mask changes, if banks hold a step's.

    The transpositions of a chunk wait for the products before in the queue, where they must not stop the core: it asks
    for scores behind them, which core B waits for before it asks for the last ones of those products.
    """
    shape = tile.shape
    is_plain = shape.is_masked_once and not shape.is_stacked and shape.dtype.bytes == FP16.bytes
    pieces = -(-shape.padded_head_dim // shape.block_rows)
    queued = pieces + -(-pieces // PUSHED_TOGETHER) + 1
    stays = tile.keys // shape.block_rows <= len(banks_of(tile, machine).scores)
    return is_plain and stays and queued <= machine.pe.command_queue_depth


def useful_macs(shape: AttentionShape, past: Dim) -> Dim:
    """Return the products that causality leaves, q k^T and weights v together."""
    sequence = shape.sequence
    pairs = past * sequence + (sequence * (sequence + 1) // 2 if shape.causal else sequence**2)
    return pairs * (2 * shape.batch * shape.kv_heads * shape.group * shape.head_dim)


def issued_macs(tile: AttentionTile, past: Dim) -> tuple[RoundedMacs, ...]:
    """Return what is multiplied: steps of keys, padded heads and a column of ones, whole blocks of rows."""
    shape = tile.shape
    rows = shape.block_rows if shape.instruction == "mml" else tile.rows
    factor = shape.batch * shape.kv_heads * tile.head_groups * rows * (2 * shape.padded_head_dim + 1)
    return tuple(
        RoundedMacs(factor * tile.blocks_of(index), tile.visible(index, past), shape.key_step)
        for index in range(tile.tiles)
    )
