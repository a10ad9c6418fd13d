"""Core A's share of products: the scores of all blocks of queries of an item with a chunk of keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from compiler.attention_mapping import AttentionTile
from compiler.kernel_builder import ZERO, CoreBuilder, Register
from compiler.kernels.attention_products import Products
from compiler.kernels.attention_walk import AttentionBuffers, loaded
from isa.machine import Machine


class Scorer(Products):
    """Asks for scores, and gives keys back."""

    def __init__(self, tile: AttentionTile, machine: Machine, core: CoreBuilder, buffers: AttentionBuffers) -> None:
        super().__init__(tile, machine, core, buffers)
        self.score_key = core.register() if self.scores_on_core_a else ZERO
        """First key of the chunk whose scores come next."""

    def score_chunk(self) -> None:
        """Multiply all blocks of queries with the chunk at `score_key` if this item sees any of it, and go on."""
        core, tile = self.core, self.tile
        with ExitStack() as stack:
            if tile.is_shared:
                stack.enter_context(core.when_less(self.score_key, self.end))
            if tile.is_narrow:
                self._score_pieces()
            else:
                with self._blocks(self.blocks) as q_offset:
                    self.scores(q_offset, self.score_key)
        if not tile.is_narrow:
            core.pop(self.buffers.k)
        elif tile.is_shared:
            self._pop_unseen_pieces()
        core.increase(self.score_key, tile.keys)

    def _score_pieces(self) -> None:
        """Multiply all blocks; the last one gives back the keys."""
        core = self.core
        with core.scratch() as others:
            core.add(self.blocks, -1, others)
            with self._blocks(others) as q_offset:
                self.scores(q_offset, self.score_key)
            core.multiply(others, self.tile.block_bytes, others)
            self.scores(others, self.score_key, pops_keys=True)

    def _pop_unseen_pieces(self) -> None:
        """Give back the keys of this chunk that others of the row see, and this item does not."""
        core = self.core
        with core.scratch() as unseen, core.scratch() as seen:
            self.load_chunk_rows(self.score_key, seen)
            core.maximum(seen, ZERO, seen)
            self.load_chunk_rows(self.score_key, unseen, self.loaded_end)
            core.subtract(unseen, seen, unseen)
            with loaded(core, self.shape.key_step) as (step,):
                core.compute("div", unseen, step, unseen)
            with core.loop(unseen):
                core.pop(self.buffers.k)

    @contextmanager
    def _blocks(self, count: Register) -> Iterator[Register]:
        """Repeat for the first `count` blocks, with the offset of each."""
        core, tile = self.core, self.tile
        if tile.blocks == 1 and not tile.is_narrow:
            yield ZERO
            return
        with core.scratch() as q_offset:
            core.copy(0, q_offset)
            with core.loop(count):
                yield q_offset
                core.increase(q_offset, tile.block_bytes)
