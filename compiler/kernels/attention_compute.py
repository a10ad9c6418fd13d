"""Core B of the attention kernel: running softmax, weighted sum of values, and the final division.

A step is one block of query rows against one chunk of keys. Units take commands in order, so the order here is what
lets them work at the same time: the product of the step before is added after the softmax of this one. While the SIMD
engine is at the softmax, the matrix engine multiplies that product, and the scores that core A asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from compiler.attention_mapping import FP32_BYTES, AttentionTile
from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, Register
from compiler.kernels.attention_narrow import NarrowSoftmax
from compiler.kernels.attention_parts import Joiner
from compiler.kernels.attention_walk import AttentionBuffers, loaded
from isa.machine import Machine


class Attender(Joiner, NarrowSoftmax):
    """Core B: running softmax and weighted sum of each block of query rows."""

    def __init__(self, tile: AttentionTile, machine: Machine, core: CoreBuilder, buffers: AttentionBuffers) -> None:
        super().__init__(tile, machine, core, buffers)
        self.left = core.register()
        """Steps of the item that are still to come."""
        self.keeps = core.register() if tile.is_carried else ZERO
        """One if blocks follow that need the values of this step, else zero."""

    def item(self, is_part: bool) -> None:
        """Work through the steps, then divide and store."""
        core = self.core
        core.copy(0, self.done)
        if self.tile.blocks > 1:
            core.copy(0, self.block)
        core.copy(self.begin, self.first_key)
        self.load_chunk_count(self.left)
        core.multiply(self.left, self.blocks, self.left)
        with ExitStack() as stack:
            if is_part:
                stack.enter_context(core.when_less(ZERO, self.left))
            self._steps(is_part)
            if not self.scores_on_core_a:
                core.pop(self.buffers.q)
        if is_part:
            with core.when_at_least(self.begin, self.end):
                self.stand_in()
                self.gather_maxima()
            self.join()
        else:
            self.store_blocks()

    def _steps(self, is_part: bool) -> None:
        core = self.core
        if self.buffers.carried is not None:
            self._carried_steps(self.buffers.carried)
            return
        with core.loop(self.left):
            core.increase(self.left, -1)
            if not self.scores_on_core_a:
                self._own_scores()
            self.weigh()
            if is_part:
                with core.when_at_least(ZERO, self.left):
                    self.gather_maxima()
            if self._products_can_wait:
                self._multiply_values()
            with core.when_less(ZERO, self.done):
                self.accumulate()
            if not self._products_can_wait:
                self._multiply_values()
            self._advance()
        self.accumulate()

    def _carried_steps(self, carried: BufferHandle) -> None:
        """Ask for the weights of the next step between the products of this one: that keeps all queues filled.

        First come products that need no bank again, then the largest scores of the next step, which must not wait, as
        its scores keep their banks until then; weights as soon as there is work for the matrix engine meanwhile.
        """
        core, buffers, columns, banks = self.core, self.buffers, len(self._column_starts), len(self.banks.values)
        first = range(min(banks, columns))
        second, third = range(banks, min(banks + 1, columns)), range(banks + 1, columns)
        self.find_maxima()
        self.weigh()
        with core.loop(self.left), core.scratch() as k_blocks:
            core.increase(self.left, -1)
            self._load_k_blocks(k_blocks)
            core.add(self.block, 1, self.keeps)
            core.compute("slt", self.keeps, self.blocks, self.keeps)
            with core.when_less(self.done, self.blocks):
                self._multiply_columns(k_blocks, None, first)
            with core.when_at_least(self.done, self.blocks):
                self._rescale_columns(carried, first)
                self._multiply_columns(k_blocks, carried, first)
            self._advance()
            with core.when_less(ZERO, self.left):
                self.find_maxima()
            with core.when_at_least(self.blocks, self.done):
                self._multiply_columns(k_blocks, None, second)
            with core.when_less(self.blocks, self.done):
                self._rescale_columns(carried, range(banks, columns))
                core.pop(buffers.rescale)
                for index in range(banks, min(2 * banks, columns)):
                    self._load_carried(index, carried)
                self._multiply_columns(k_blocks, carried, second)
            with core.when_less(ZERO, self.left):
                self.weigh()
            with core.when_at_least(self.blocks, self.done):
                self._multiply_columns(k_blocks, None, third)
            with core.when_less(self.blocks, self.done):
                self._multiply_columns(k_blocks, carried, third)
            core.push(buffers.output)
            core.push(buffers.weight)
            core.pop(buffers.probabilities)
            if not self.tile.is_narrow:
                with core.when_equal(self.keeps, ZERO):
                    core.pop(buffers.v_transposed)

    @property
    def _products_can_wait(self) -> bool:
        """True if a product may be asked for before the one before it is added: all that may wait for it is queued.

        The core would stop at a full queue, and never come to the addition that makes room.
        """
        if self.tile.depths.product > 1:
            return True
        columns = -(-self.shape.padded_head_dim // self.shape.block_rows) + 1
        key_blocks = self.tile.keys * self.shape.dtype.bytes // self.machine.matrix.block_k_bytes
        commands = columns * (1 if self.repeats_blocks else key_blocks)
        return max(commands + 1, columns + 2) <= self.machine.pe.command_queue_depth

    def _own_scores(self) -> None:
        """Multiply the block of queries of this step with its chunk of keys."""
        core = self.core
        with core.scratch() as q_offset:
            core.multiply(self.block, self.tile.block_bytes, q_offset)
            self.scores(q_offset, self.first_key)

    def _advance(self) -> None:
        """Go on to the next step: the next block, or the first one of the next chunk."""
        core, buffers = self.core, self.buffers
        core.increase(self.done, 1)
        with self._after_last_block(self.block):
            if not self.scores_on_core_a:
                core.pop(buffers.k)
            if buffers.carried is None:
                core.pop(buffers.v_transposed)
            if self.shape.has_mask:
                core.pop(buffers.mask)
            if buffers.bias is not None:
                core.pop(buffers.bias)
            core.increase(self.first_key, self.tile.keys)

    @contextmanager
    def _after_last_block(self, block: Register) -> Iterator[None]:
        """Go on to the next block; after the last one to the first, and do what is in here."""
        core = self.core
        if self.tile.blocks == 1:
            yield
            return
        core.increase(block, 1)
        with core.when_at_least(block, self.blocks):
            core.copy(0, block)
            yield

    def _multiply_values(self) -> None:
        """Multiply the weights with the values, and with the ones below them."""
        core, buffers = self.core, self.buffers
        assert buffers.product is not None
        assert buffers.sums is not None
        with core.scratch() as k_blocks:
            self._load_k_blocks(k_blocks)
            self._multiply_columns(k_blocks, None, range(len(self._column_starts)))
        core.push(buffers.product)
        core.push(buffers.sums)
        core.pop(buffers.probabilities)

    def _load_k_blocks(self, into: Register) -> None:
        """Emit the blocks of K that the chunk at `first_key` fills."""
        core = self.core
        self.load_chunk_rows(self.first_key, into)
        with loaded(core, self.machine.matrix.block_k_bytes // self.shape.dtype.bytes) as (block,):
            core.compute("div", into, block, into)

    @property
    def _column_starts(self) -> list[int]:
        """First columns of the blocks of a product with values; the last one is that with ones."""
        return [*range(0, self.shape.padded_head_dim, self.shape.block_rows), self.shape.padded_head_dim]

    def _rescale_columns(self, carried: BufferHandle, indices: range) -> None:
        """Rescale columns of the sums so far; the first ones go into banks at once.

        The others have room in `scaled`, so that the sums so far make room for those that come.
        """
        for index in indices:
            self.rescale(self._column_starts[index], carried)
            if index < len(self.banks.values):
                self._load_carried(index, carried)

    def _multiply_columns(self, k_blocks: Register, carried: BufferHandle | None, indices: range) -> None:
        """Multiply blocks of columns, on top of what is carried if there is anything.

        Banks are loaded as early as they are free: what waits in a queue holds up what is behind it.
        """
        core, shape, buffers, banks = self.core, self.shape, self.buffers, self.banks.values
        width, depth, row = shape.block_rows, shape.padded_head_dim, self.tile.keys * shape.dtype.bytes
        for index in indices:
            first, bank = self._column_starts[index], banks[index % len(banks)]
            with loaded(core, first * row, min(width, depth - first) or 1, row) as (start, columns, pitch):
                a, b = (buffers.probabilities, ZERO, pitch), (buffers.v_transposed, start, pitch)
                if buffers.ones is not None and first == depth:
                    b = buffers.ones, ZERO, pitch
                elif buffers.ones is not None and first:
                    core.multiply(self.keeps, start, start)
                self.multiply(bank, a, b, columns, k_blocks, "set" if carried is None else "add")
                if buffers.ones is not None and first < depth:
                    with core.when_equal(self.keeps, ZERO):
                        core.pop(buffers.v_transposed)
                if first < depth:
                    self.drain(bank, buffers.product or buffers.output, index, depth, columns)
                else:
                    self.drain(bank, buffers.sums or buffers.weight, 0, 1, columns)
            if carried is not None and len(banks) <= index < len(self._column_starts) - len(banks):
                self._load_carried(index + len(banks), carried)

    def _load_carried(self, index: int, carried: BufferHandle) -> None:
        core, depth, width = self.core, self.shape.padded_head_dim, self.shape.block_rows
        first, bank = self._column_starts[index], self.banks.values[index % len(self.banks.values)]
        row, source = (width, self.buffers.scaled) if first < depth else (1, carried)
        with loaded(core, row * FP32_BYTES, min(width, depth - first) or 1) as (pitch, columns):
            core.emit(
                "acc_load", bank=bank, a=source, a_pitch=pitch, rows=self.rows, columns=columns, a_dtype="fp32",
            )  # fmt: skip
        core.pop(source)
