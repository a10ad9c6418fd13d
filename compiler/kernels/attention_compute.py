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
from compiler.kernels.attention_parts import Joiner
from compiler.kernels.attention_walk import AttentionBuffers, loaded
from isa.machine import Machine


class Attender(Joiner):
    """Core B: running softmax and weighted sum of each block of query rows."""

    def __init__(self, tile: AttentionTile, machine: Machine, core: CoreBuilder, buffers: AttentionBuffers) -> None:
        super().__init__(tile, machine, core, buffers)
        self.left = core.register()
        """Steps of the item that are still to come."""

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
        core, shape, buffers = self.core, self.shape, self.buffers
        carried = buffers.carried
        with core.scratch() as k_blocks:
            self.load_chunk_rows(self.first_key, k_blocks)
            with loaded(core, self.machine.matrix.block_k_bytes // shape.dtype.bytes) as (block,):
                core.compute("div", k_blocks, block, k_blocks)
            if carried is None:
                self._multiply_columns(k_blocks, None)
            else:
                with core.when_less(self.done, self.blocks):
                    self._multiply_columns(k_blocks, None)
                with core.when_at_least(self.done, self.blocks):
                    self._multiply_columns(k_blocks, carried)
                    core.pop(buffers.scaled)
                    core.pop(carried)
        for target in self._value_targets():
            core.push(target)
        core.pop(buffers.probabilities)

    def _value_targets(self) -> tuple[BufferHandle, BufferHandle]:
        """Return where products with values and with ones go."""
        buffers = self.buffers
        if buffers.product is None or buffers.sums is None:
            return buffers.output, buffers.weight
        return buffers.product, buffers.sums

    def _multiply_columns(self, k_blocks: Register, carried: BufferHandle | None) -> None:
        """Multiply block by block of columns, on top of what is carried if there is anything.

        Banks are loaded as early as they are free: what waits in a queue holds up what is behind it.
        """
        core, tile, shape, buffers = self.core, self.tile, self.shape, self.buffers
        width, depth, row = shape.block_rows, shape.padded_head_dim, tile.keys * shape.dtype.bytes
        starts, banks = [*range(0, depth, width), depth], self.value_banks
        values, sums = self._value_targets()
        if carried is not None:
            for index in range(min(len(banks), len(starts))):
                self._load_carried(starts, index, carried)
        for index, first in enumerate(starts):
            bank = banks[index % len(banks)]
            with loaded(core, first * row, min(width, depth - first) or 1, row) as (start, columns, pitch):
                a, b = (buffers.probabilities, ZERO, pitch), (buffers.v_transposed, start, pitch)
                self.multiply(bank, a, b, columns, k_blocks, "set" if carried is None else "add")
                if first < depth:
                    self.drain(bank, values, index, depth, columns)
                else:
                    self.drain(bank, sums, 0, 1, columns)
            if carried is not None and index + len(banks) < len(starts):
                self._load_carried(starts, index + len(banks), carried)

    def _load_carried(self, starts: list[int], index: int, carried: BufferHandle) -> None:
        core, depth, width = self.core, self.shape.padded_head_dim, self.shape.block_rows
        first, bank = starts[index], self.value_banks[index % len(self.value_banks)]
        row, source = (depth, self.buffers.scaled) if first < depth else (1, carried)
        offset = first * FP32_BYTES if first < depth else 0
        with loaded(core, row * FP32_BYTES, min(width, depth - first) or 1, offset) as (pitch, columns, start):
            core.emit(
                "acc_load", bank=bank, a=source, a_offset=start, a_pitch=pitch, rows=self.rows, columns=columns,
                a_dtype="fp32",
            )  # fmt: skip
