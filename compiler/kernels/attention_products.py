"""Products of attention: who has which accumulator banks, and the scores of a block of queries with a chunk of keys.

Core A asks for scores behind the loads of their keys, core B for products with values behind their weights, each as
early as its buffers allow. So neither waits in the queue of commands behind the other's, and the matrix engine takes
what is ready. Each core has banks of its own: what two cores ask of one bank has no order. A machine with a single bank
leaves the scores to core B.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from compiler.attention_mapping import FP32_BYTES, AttentionTile, banks_of
from compiler.kernel_builder import BufferHandle, CoreBuilder, OperandValue, Register
from compiler.kernels.attention_walk import AttentionBuffers, Walk, loaded
from isa.dtypes import BF16, FP32, Dtype
from isa.machine import Machine


class Products(Walk):
    """What both cores know of products."""

    def __init__(self, tile: AttentionTile, machine: Machine, core: CoreBuilder, buffers: AttentionBuffers) -> None:
        super().__init__(tile, machine, core, buffers)
        self.rows = core.register()
        core.copy(tile.rows, self.rows)
        self.banks = banks_of(tile, machine)
        self.scores_on_core_a = machine.accumulator.banks > 1

    @property
    def repeats_blocks(self) -> bool:
        """True if one command multiplies all of K, that of scores and that of products with values."""
        longest = max(self.shape.row_bytes, self.tile.keys * self.shape.dtype.bytes)
        return longest // self.machine.matrix.block_k_bytes <= self.machine.matrix.max_repeat_blocks

    def scores(self, q_offset: Register, first_key: Register, *, pops_keys: bool = False) -> None:
        """Multiply the block of queries at an offset with the chunk of keys at `first_key`.

        Narrow scores go to `scores` twice: as bf16, which has room for all, and less the `peak` that the largest of
        them make known, as fp16. With `pops_keys` pieces of keys are given back as soon as they are used.
        """
        core, tile, shape, buffers = self.core, self.tile, self.shape, self.buffers
        k_blocks = shape.row_bytes // self.machine.matrix.block_k_bytes
        with core.scratch() as chunk_rows, loaded(core, shape.row_bytes, shape.block_rows) as (pitch, columns):
            self.load_chunk_rows(first_key, chunk_rows)
            for index, bank in self._score_blocks:
                with self._when_loaded(index, chunk_rows) as place:
                    start = place if pops_keys else index * shape.block_rows
                    with loaded(core, start * shape.row_bytes) as (offset,):
                        a, b = (buffers.q, q_offset, pitch), (buffers.k, offset, pitch)
                        self.multiply(bank, a, b, columns, k_blocks)
                    if pops_keys and place + shape.block_rows == shape.key_step:
                        core.pop(buffers.k)
                    dtype = BF16 if tile.is_narrow else tile.score_dtype
                    self.drain(bank, buffers.scores, index, tile.keys, columns, dtype)
            core.push(buffers.scores)
            if buffers.peak is not None:
                self._lower_scores(buffers.peak, chunk_rows, columns)

    @property
    def _score_blocks(self) -> list[tuple[int, int]]:
        """Blocks of scores and their banks."""
        banks = self.banks.scores
        return [(index, banks[index % len(banks)]) for index in range(self.tile.keys // self.shape.block_rows)]

    @contextmanager
    def _when_loaded(self, index: int, chunk_rows: Register) -> Iterator[int]:
        """Do what is in here if a chunk has the keys of a block of scores; yields their place in their step."""
        core, first, step = self.core, index * self.shape.block_rows, self.shape.key_step
        with ExitStack() as stack:
            if first >= step:
                (bound,) = stack.enter_context(loaded(core, first - first % step))
                stack.enter_context(core.when_less(bound, chunk_rows))
            yield first % step

    def _lower_scores(self, peak: BufferHandle, chunk_rows: Register, columns: Register) -> None:
        """Subtract `peak` from the rows of scores, which are all in banks still, and write them anew."""
        core = self.core
        for index, bank in self._score_blocks:
            with self._when_loaded(index, chunk_rows):
                with loaded(core, FP32_BYTES) as (dense,):
                    core.emit(
                        "acc_sub", bank=bank, a=peak, a_pitch=dense, rows=self.rows, columns=columns, a_dtype="fp32",
                        spread="column",
                    )  # fmt: skip
                self.drain(bank, self.buffers.scores, index, self.tile.keys, columns, self.tile.score_dtype)
        core.push(self.buffers.scores)
        core.pop(peak)

    def multiply(
        self,
        bank: int,
        a: tuple[BufferHandle, Register, Register],
        b: tuple[BufferHandle, Register, Register],
        columns: Register,
        k_blocks: Register | int,
        accumulate: str = "set",
    ) -> None:
        """Emit one multiplication; a machine that repeats fewer blocks gets a loop of commands."""
        core, instruction, step = self.core, self.shape.instruction, self.machine.matrix.block_k_bytes
        common: dict[str, OperandValue] = {
            "bank": bank, "a": a[0], "a_pitch": a[2], "b": b[0], "b_pitch": b[2], "rows": self.rows, "columns": columns,
            "a_dtype": self.shape.dtype.name,
        }  # fmt: skip
        with ExitStack() as stack:
            if isinstance(k_blocks, int):
                (k_blocks,) = stack.enter_context(loaded(core, k_blocks))
            if self.repeats_blocks:
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

    def drain(
        self, bank: int, out: BufferHandle, index: int, row_elements: int, columns: Register, dtype: Dtype = FP32
    ) -> None:
        """Write a bank to block `index` of the columns of a buffer's rows."""
        core, size = self.core, dtype.bytes
        with loaded(core, index * self.shape.block_rows * size, row_elements * size) as (offset, pitch):
            core.emit(
                "acc_drain", out=out, out_offset=offset, out_pitch=pitch, bank=bank, rows=self.rows, columns=columns,
                out_dtype=dtype.name,
            )  # fmt: skip
