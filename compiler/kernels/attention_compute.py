"""Core B of the attention kernel: scores, running softmax, weighted sum of values, and the final division.

A step is one block of query rows against one chunk of keys. Units take commands in order, so the order here is what
lets them work at the same time: the scores of the next step are asked for before the softmax of this one, and the
product of the step before is added after it. While the SIMD engine is at the softmax, the matrix engine multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from compiler.attention_mapping import AttentionTile
from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, OperandValue, Register
from compiler.kernels.attention_parts import Joiner
from compiler.kernels.attention_walk import AttentionBuffers, loaded
from isa.machine import Machine


class Attender(Joiner):
    """Core B: scores, running softmax and weighted sum of each block of query rows."""

    def __init__(self, tile: AttentionTile, machine: Machine, core: CoreBuilder, buffers: AttentionBuffers) -> None:
        super().__init__(tile, machine, core, buffers)
        self.left = core.register()
        """Steps of the item that are still to come."""
        self.next_block, self.next_key = core.register() if tile.blocks > 1 else ZERO, core.register()
        """Block and first key of the step whose scores come next."""
        banks = machine.accumulator.banks
        columns = -(-self.shape.padded_head_dim // self.shape.block_rows) + 1
        self.value_banks = range(banks - min(columns, max(banks - 2, banks // 2)), banks)
        self.score_banks = range(self.value_banks.start)

    def item(self, is_part: bool) -> None:
        """Work through the steps, then divide and store."""
        core = self.core
        core.copy(0, self.done)
        if self.tile.blocks > 1:
            core.copy(0, self.next_block)
            core.copy(0, self.block)
        for register in (self.next_key, self.first_key):
            core.copy(self.begin, register)
        self.load_chunk_count(self.left)
        core.multiply(self.left, self.blocks, self.left)
        with ExitStack() as stack:
            if is_part:
                stack.enter_context(core.when_less(ZERO, self.left))
            self._steps(is_part)
        if is_part:
            with core.when_at_least(self.begin, self.end):
                self.stand_in()
                self.gather_maxima()
            self.join()
        else:
            self.store_blocks()

    def _steps(self, is_part: bool) -> None:
        core = self.core
        self._scores()
        with core.loop(self.left):
            core.increase(self.left, -1)
            with core.when_less(ZERO, self.left):
                self._scores()
            with core.when_at_least(ZERO, self.left):
                core.pop(self.buffers.q)
            self.weigh()
            if is_part:
                with core.when_at_least(ZERO, self.left):
                    self.gather_maxima()
            with core.when_less(ZERO, self.done):
                self.accumulate()
            self._multiply_values()
            self._advance()
        self.accumulate()

    def _advance(self) -> None:
        """Go on to the next step: the next block, or the first one of the next chunk."""
        core, buffers = self.core, self.buffers
        core.increase(self.done, 1)
        with self._after_last_block(self.block):
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

    def _scores(self) -> None:
        """Multiply the next block of queries with its chunk of keys."""
        core, tile, shape, buffers = self.core, self.tile, self.shape, self.buffers
        with (
            core.scratch() as q_offset,
            core.scratch() as chunk_rows,
            loaded(core, shape.row_bytes, shape.block_rows) as (pitch, columns),
        ):
            core.multiply(self.next_block, tile.block_bytes, q_offset)
            self.load_chunk_rows(self.next_key, chunk_rows)
            for index in range(tile.keys // shape.block_rows):
                with ExitStack() as stack:
                    first = index * shape.block_rows
                    if first % shape.key_step == 0 and first:
                        (bound,) = stack.enter_context(loaded(core, first))
                        stack.enter_context(core.when_less(bound, chunk_rows))
                    bank = self.score_banks[index % len(self.score_banks)]
                    (start,) = stack.enter_context(loaded(core, first * shape.row_bytes))
                    a, b = (buffers.q, q_offset, pitch), (buffers.k, start, pitch)
                    self._multiply(bank, a, b, columns, shape.row_bytes // self.machine.matrix.block_k_bytes)
                    self.drain(bank, buffers.scores, index, tile.keys, columns)
        core.push(buffers.scores)
        with self._after_last_block(self.next_block):
            core.pop(buffers.k)
            core.increase(self.next_key, tile.keys)

    def _multiply(
        self,
        bank: int,
        a: tuple[BufferHandle, Register, Register],
        b: tuple[BufferHandle, Register, Register],
        columns: Register,
        k_blocks: Register | int,
    ) -> None:
        """Emit one multiplication; a machine that repeats fewer blocks gets a loop of commands."""
        core, limit, instruction = self.core, self.machine.matrix.max_repeat_blocks, self.shape.instruction
        common: dict[str, OperandValue] = {
            "bank": bank, "a": a[0], "a_pitch": a[2], "b": b[0], "b_pitch": b[2], "rows": self.rows, "columns": columns,
            "a_dtype": self.shape.dtype.name,
        }  # fmt: skip
        step, key_bytes = self.machine.matrix.block_k_bytes, self.tile.keys * self.shape.dtype.bytes
        with ExitStack() as stack:
            if isinstance(k_blocks, int):
                (k_blocks,) = stack.enter_context(loaded(core, k_blocks))
            if max(self.shape.row_bytes, key_bytes) // step <= limit:
                core.emit(instruction, **common, a_offset=a[1], b_offset=b[1], k_blocks=k_blocks, accumulate="set")
                return
            (one,) = stack.enter_context(loaded(core, 1))
            a_offset, b_offset, rest = (stack.enter_context(core.scratch()) for _ in range(3))
            core.copy(a[1], a_offset)
            core.copy(b[1], b_offset)
            core.emit(instruction, **common, a_offset=a_offset, b_offset=b_offset, k_blocks=one, accumulate="set")
            core.add(k_blocks, -1, rest)
            with core.loop(rest):
                core.increase(a_offset, step)
                core.increase(b_offset, step)
                core.emit(instruction, **common, a_offset=a_offset, b_offset=b_offset, k_blocks=one, accumulate="add")

    def _multiply_values(self) -> None:
        """Multiply the weights with the values, and with the ones below them."""
        core, tile, shape, buffers = self.core, self.tile, self.shape, self.buffers
        element, width, depth = shape.dtype.bytes, shape.block_rows, shape.padded_head_dim
        starts = [*range(0, depth, width), depth]
        with core.scratch() as k_blocks, loaded(core, tile.keys * element) as (pitch,):
            self.load_chunk_rows(self.first_key, k_blocks)
            with loaded(core, self.machine.matrix.block_k_bytes // element) as (block,):
                core.compute("div", k_blocks, block, k_blocks)
            for index, first in enumerate(starts):
                bank = self.value_banks[index % len(self.value_banks)]
                count = min(width, depth - first) or 1
                with loaded(core, first * tile.keys * element, count) as (start, columns):
                    a, b = (buffers.probabilities, ZERO, pitch), (buffers.v_transposed, start, pitch)
                    self._multiply(bank, a, b, columns, k_blocks)
                    if first < depth:
                        self.drain(bank, buffers.product, index, depth, columns)
                    else:
                        self.drain(bank, buffers.sums, 0, 1, columns)
        core.push(buffers.product)
        core.push(buffers.sums)
        core.pop(buffers.probabilities)
