"""Core B of the attention kernel: scores, running softmax, weighted sum of values, and the final division.

A step is one block of query rows against one chunk of keys. Units take commands in order, so the order here is what
lets them work at the same time: the scores of the next step are asked for before the softmax of this one, and the
product of the step before is added after it. While the SIMD engine is at the softmax, the matrix engine multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from compiler.attention_mapping import FP32_BYTES, AttentionTile
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
        self.value_banks = range(banks - max(1, min(columns, max(banks - 2, banks // 2))), banks)
        self.score_banks = range(max(1, self.value_banks.start))

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
        if self.tile.is_shared:
            self._skip_chunks()
        if is_part:
            with core.when_at_least(self.begin, self.end):
                self.stand_in()
                self.gather_maxima()
            self.join()
        else:
            self.store_blocks()

    def _skip_chunks(self) -> None:
        """Give back the keys that others of the row see, and this item does not."""
        core = self.core
        with core.scratch() as loaded_chunks, core.scratch() as chunks:
            self.load_chunk_count(loaded_chunks, self.loaded_end)
            self.load_chunk_count(chunks)
            core.subtract(loaded_chunks, chunks, chunks)
            with core.loop(chunks):
                core.pop(self.buffers.k)

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
                    if first >= shape.key_step:
                        (bound,) = stack.enter_context(loaded(core, first - first % shape.key_step))
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
        accumulate: str = "set",
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
                core.emit(instruction, **common, a_offset=a[1], b_offset=b[1], k_blocks=k_blocks, accumulate=accumulate)
                return
            (one,) = stack.enter_context(loaded(core, 1))
            a_offset, b_offset, rest = (stack.enter_context(core.scratch()) for _ in range(3))
            core.copy(a[1], a_offset)
            core.copy(b[1], b_offset)
            core.emit(instruction, **common, a_offset=a_offset, b_offset=b_offset, k_blocks=one, accumulate=accumulate)
            core.add(k_blocks, -1, rest)
            with core.loop(rest):
                core.increase(a_offset, step)
                core.increase(b_offset, step)
                core.emit(instruction, **common, a_offset=a_offset, b_offset=b_offset, k_blocks=one, accumulate="add")

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
                self._multiply(bank, a, b, columns, k_blocks, "set" if carried is None else "add")
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
