"""What both cores of the attention kernel share: buffers, and the loops over work items and chunks of keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from compiler.attention_mapping import (
    AttentionTile,
)
from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, Register
from compiler.kernels.dealing import dealt_items
from isa.machine import Machine


@dataclass(frozen=True, slots=True)
class AttentionBuffers:
    """The circular buffers, in the order of the data: loaded operands, scores, running state, result."""

    q: BufferHandle
    k: BufferHandle
    v: BufferHandle
    v_transposed: BufferHandle
    mask: BufferHandle
    scores: BufferHandle
    masked: BufferHandle
    exponent: BufferHandle
    weights: BufferHandle
    probabilities: BufferHandle
    column: BufferHandle
    current: BufferHandle
    rescale: BufferHandle
    running: BufferHandle
    """Maximum and sum of weights of each row, per block."""
    product: BufferHandle
    scaled: BufferHandle
    output: BufferHandle
    out: BufferHandle
    bias: BufferHandle | None = None
    heads: BufferHandle | None = None
    """Of heads that need padding: q before it has any."""


@contextmanager
def loaded(core: CoreBuilder, *values: int) -> Iterator[tuple[Register, ...]]:
    """Lend registers that hold constants; kernels need more of them than would fit for good."""
    with ExitStack() as stack:
        yield tuple(_load(core, value, stack) for value in values)


def _load(core: CoreBuilder, value: int, stack: ExitStack) -> Register:
    return core.copy(value, stack.enter_context(core.scratch())) if value else ZERO


class Walk:
    """What both cores share: the loops over items and chunks, and where an item's data starts."""

    def __init__(self, tile: AttentionTile, machine: Machine, core: CoreBuilder, buffers: AttentionBuffers) -> None:
        self.tile, self.machine, self.core, self.buffers = tile, machine, core, buffers
        self.token, self.rows, self.visible = core.register(), core.register(), core.register()
        self.batch, self.head = core.register(), core.register()
        self.chunk_rows, self.first_key = core.register(), core.register()
        """Rows of k and v in this chunk, a multiple of the tile's `key_step`."""

    def emit(self) -> None:
        """Emit the code of the core."""
        with dealt_items(self.core, self.core.argument("items")) as item:
            self._split(item)
            self.item()

    def item(self) -> None:
        """Emit the work on one item."""
        raise NotImplementedError

    def _split(self, item: Register) -> None:
        """Items count sequences and heads first, then token tiles, so that neighbours differ in work."""
        core, tile = self.core, self.tile
        with loaded(core, tile.kv_heads, tile.batch) as (heads, batch):
            core.compute("rem", item, heads, self.head)
            core.compute("div", item, heads, self.batch)
            core.compute("div", self.batch, batch, self.token)
            core.compute("rem", self.batch, batch, self.batch)
        core.multiply(self.token, tile.tokens, self.token)
        with loaded(core, tile.sequence, tile.tokens) as (sequence, tokens):
            core.subtract(sequence, self.token, self.rows)
            core.minimum(self.rows, tokens, self.rows)
        if tile.causal:
            core.add(self.token, self.rows, self.visible)
            core.increase(self.visible, core.argument("past"))
        else:
            core.add(core.argument("past"), tile.sequence, self.visible)

    @contextmanager
    def chunks(self, skip_first: bool) -> Iterator[None]:
        """Repeat the block for each chunk of keys, or for all but the first."""
        core, tile = self.core, self.tile
        with core.scratch() as trips:
            core.add(self.visible, tile.keys - 1, trips)
            with loaded(core, tile.keys) as (keys,):
                core.compute("div", trips, keys, trips)
            core.copy(tile.keys if skip_first else 0, self.first_key)
            if skip_first:
                core.increase(trips, -1)
            with core.loop(trips):
                self.measure_chunk()
                yield
                core.increase(self.first_key, tile.keys)

    def measure_chunk(self) -> None:
        """Leave the rows of the chunk at `first_key` in `chunk_rows`."""
        core, tile = self.core, self.tile
        with loaded(core, tile.key_step, tile.keys) as (step, keys):
            core.subtract(self.visible, self.first_key, self.chunk_rows)
            core.increase(self.chunk_rows, tile.key_step - 1)
            core.compute("div", self.chunk_rows, step, self.chunk_rows)
            core.multiply(self.chunk_rows, step, self.chunk_rows)
            core.minimum(self.chunk_rows, keys, self.chunk_rows)
