"""Core B of the attention kernel: scores, running softmax, weighted sum of values, and the final division."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from compiler.attention_mapping import (
    FP32_BYTES,
)
from compiler.kernel_builder import ZERO, BufferHandle, OperandValue, Register
from compiler.kernels.attention_walk import Walk, loaded

HIDDEN = -1e30
"""Score of a key that may not be seen: finite, so that a row that sees nothing stays free of NaN."""


class Attender(Walk):
    """Core B: scores, running softmax and weighted sum of each block of query rows."""

    def item(self) -> None:
        """Work through the chunks, then divide and store."""
        core = self.core
        if self.tile.is_stacked:
            core.copy(self.tile.group, self.rows)
        core.copy(0, self.first_key)
        self.measure_chunk()
        self._chunk(is_first=True)
        with self.chunks(skip_first=True):
            self._chunk(is_first=False)
        core.pop(self.buffers.q)
        with core.scratch() as address:
            self._out_address(address)
            with self._each_block():
                self._store(address)

    @contextmanager
    def _each_block(self) -> Iterator[Register]:
        """Repeat for each block of query rows; yields the byte offset of the block in q."""
        core, tile = self.core, self.tile
        with core.scratch() as offset:
            core.copy(0, offset)
            with loaded(core, tile.blocks) as (blocks,), core.loop(blocks):
                yield offset
                core.increase(offset, tile.tokens * tile.row_bytes)

    def _chunk(self, is_first: bool) -> None:
        buffers = self.buffers
        with self._each_block() as q_offset:
            self._multiply_scores(q_offset)
            self._mask_scores(q_offset)
            self._exponentiate(is_first)
            self._multiply_values()
            self._accumulate(is_first)
        self.core.pop(buffers.k)
        self.core.pop(buffers.v_transposed)
        if self.tile.has_mask:
            self.core.pop(buffers.mask)
        if buffers.bias is not None:
            self.core.pop(buffers.bias)

    def _multiply(
        self,
        bank: int,
        a: tuple[BufferHandle, Register, Register],
        b: tuple[BufferHandle, Register, Register],
        columns: Register,
        k_blocks: Register,
    ) -> None:
        """Emit one multiplication; a machine that repeats fewer blocks gets a loop of commands."""
        core, limit, instruction = self.core, self.machine.matrix.max_repeat_blocks, self.tile.instruction
        common: dict[str, OperandValue] = {
            "bank": bank, "a": a[0], "a_pitch": a[2], "b": b[0], "b_pitch": b[2], "rows": self.rows, "columns": columns,
            "a_dtype": self.tile.dtype.name,
        }  # fmt: skip
        largest = max(self.tile.row_bytes, self.tile.keys * self.tile.dtype.bytes) // self.machine.matrix.block_k_bytes
        if largest <= limit:
            core.emit(instruction, **common, a_offset=a[1], b_offset=b[1], k_blocks=k_blocks, accumulate="set")
            return
        step = self.machine.matrix.block_k_bytes
        with loaded(core, 1) as (one,), core.scratch() as a_offset, core.scratch() as b_offset, core.scratch() as rest:
            core.copy(a[1], a_offset)
            core.copy(b[1], b_offset)
            core.emit(instruction, **common, a_offset=a_offset, b_offset=b_offset, k_blocks=one, accumulate="set")
            core.add(k_blocks, -1, rest)
            with core.loop(rest):
                core.increase(a_offset, step)
                core.increase(b_offset, step)
                core.emit(instruction, **common, a_offset=a_offset, b_offset=b_offset, k_blocks=one, accumulate="add")

    def _multiply_scores(self, q_offset: Register) -> None:
        core, tile, buffers = self.core, self.tile, self.buffers
        k_blocks = tile.row_bytes // self.machine.matrix.block_k_bytes
        for index in range(tile.keys // tile.block_rows):
            with loaded(core, index * tile.block_rows) as (first,), core.when_less(first, self.chunk_rows):
                bank = index % self.machine.accumulator.banks
                offset = index * tile.block_rows * tile.row_bytes
                with loaded(core, offset, tile.row_bytes, tile.block_rows, k_blocks) as (
                    start,
                    pitch,
                    columns,
                    blocks,
                ):
                    self._multiply(bank, (buffers.q, q_offset, pitch), (buffers.k, start, pitch), columns, blocks)
                self._drain(bank, buffers.scores, index, tile.keys, tile.block_rows)
        core.push(buffers.scores)

    def _drain(self, bank: int, out: BufferHandle, index: int, row_elements: int, columns: int) -> None:
        core, width = self.core, self.tile.block_rows * FP32_BYTES
        with loaded(core, index * width, row_elements * FP32_BYTES, columns) as (offset, pitch, count):
            core.emit(
                "acc_drain", out=out, out_offset=offset, out_pitch=pitch, bank=bank, rows=self.rows, columns=count,
                out_dtype="fp32",
            )  # fmt: skip

    def _mask_scores(self, q_offset: Register) -> None:
        """Scale, add the bias, hide what lies behind the limit of each row, and what the mask hides."""
        core, tile, buffers = self.core, self.tile, self.buffers
        with core.scratch() as limit, loaded(core, tile.keys * FP32_BYTES, tile.keys) as (pitch, columns):
            self._wide("vmuls", buffers.masked, buffers.scores, pitch, columns, value=tile.scale)
            self._move(buffers.masked, buffers.scores)
            if buffers.bias is not None:
                self._add_bias(buffers.bias, q_offset)
            if tile.causal and not tile.is_stacked:
                core.subtract(self.visible, self.rows, limit)
                core.increase(limit, 1)
            else:
                core.copy(self.visible, limit)
            core.subtract(limit, self.first_key, limit)
            with loaded(core, int(tile.causal and not tile.is_stacked)) as (step,):
                self._wide(
                    "vlimit", buffers.masked, buffers.masked, pitch, columns, first=limit, step=step, value=HIDDEN
                )
            self._move(buffers.masked, buffers.masked)
            if tile.has_mask:
                self._wide(
                    "vselect", buffers.masked, buffers.masked, pitch, columns, b=buffers.mask, b_dtype="int32",
                    spread="row", value=HIDDEN,
                )  # fmt: skip
                self._move(buffers.masked, buffers.masked)

    def _add_bias(self, bias: BufferHandle, q_offset: Register) -> None:
        """Add the rows that belong to a block; minus infinity becomes the finite number of a hidden key."""
        core, tile, masked = self.core, self.tile, self.buffers.masked
        row_bytes = tile.keys * tile.dtype.bytes
        has_one_row = tile.is_stacked and tile.bias == "shared"
        with (
            core.scratch() as offset,
            loaded(core, tile.keys * FP32_BYTES, row_bytes, tile.keys) as (
                pitch,
                bias_pitch,
                columns,
            ),
        ):
            core.copy(0, offset)
            if tile.bias == "per head" and not tile.is_stacked:
                with loaded(core, tile.tokens * tile.row_bytes) as (block_bytes,):
                    core.compute("div", q_offset, block_bytes, offset)
                core.multiply(offset, tile.tokens * row_bytes, offset)
            self._wide(
                "vadd", masked, masked, pitch, columns, b=bias, b_offset=offset, b_pitch=bias_pitch,
                b_dtype=tile.dtype.name, spread="row" if has_one_row else "full",
            )  # fmt: skip
            self._move(masked, masked)
            self._wide("vmaxs", masked, masked, pitch, columns, value=HIDDEN)
            self._move(masked, masked)

    def _wide(self, name: str, out: BufferHandle, a: BufferHandle, pitch: Register, columns: Register,
              **operands: OperandValue) -> None:  # fmt: skip
        """Emit a SIMD command on all rows of the block, fp32 to fp32 with equal pitches."""
        self.core.emit(
            name, out=out, out_pitch=pitch, a=a, a_pitch=pitch, rows=self.rows, columns=columns, out_dtype="fp32",
            a_dtype="fp32", **operands,
        )  # fmt: skip

    def _move(self, written: BufferHandle, read: BufferHandle) -> None:
        self.core.push(written)
        self.core.pop(read)

    def _column(self, name: str, out: BufferHandle, a: BufferHandle, a_offset: OperandValue = ZERO,
                **operands: OperandValue) -> None:  # fmt: skip
        """Emit a SIMD command on one fp32 per row."""
        with loaded(self.core, FP32_BYTES, 2 * FP32_BYTES, 1) as (dense, paired, one):
            running = self.buffers.running
            more: dict[str, OperandValue] = {"b_pitch": dense, "b_dtype": "fp32"} if "b" in operands else {}
            self.core.emit(
                name, out=out, out_pitch=paired if out is running else dense, a=a, a_offset=a_offset,
                a_pitch=paired if a is running else dense, rows=self.rows, columns=one, out_dtype="fp32",
                a_dtype="fp32", **more, **operands,
            )  # fmt: skip

    def _exponentiate(self, is_first: bool) -> None:
        """Update the maximum; leave the factor of the old state in `rescale` and the weights in `probabilities`."""
        core, tile, buffers = self.core, self.tile, self.buffers
        if is_first:
            self._reduce("rowmax", buffers.current, buffers.masked, FP32_BYTES, "fp32")
        else:
            self._reduce("rowmax", buffers.column, buffers.masked, FP32_BYTES, "fp32")
            self._column("vmax", buffers.current, buffers.running, b=buffers.column)
            self._move(buffers.current, buffers.column)
            self._column("vsub", buffers.column, buffers.running, b=buffers.current)
            core.push(buffers.column)
            self._column("vexp", buffers.rescale, buffers.column)
            self._move(buffers.rescale, buffers.column)
        self._column("vcast", buffers.running, buffers.current)
        with loaded(core, tile.keys * FP32_BYTES, tile.keys, FP32_BYTES) as (pitch, columns, column_pitch):
            self._wide(
                "vsub", buffers.exponent, buffers.masked, pitch, columns, b=buffers.current, b_pitch=column_pitch,
                b_dtype="fp32", spread="column",
            )  # fmt: skip
        self._move(buffers.exponent, buffers.masked)
        core.pop(buffers.current)
        name = tile.dtype.name
        wide, narrow = tile.keys * FP32_BYTES, tile.keys * tile.dtype.bytes
        with loaded(core, wide, narrow, tile.keys) as (wide_pitch, pitch, columns):
            common: dict[str, OperandValue] = {
                "rows": self.rows,
                "columns": columns,
                "out_pitch": pitch,
                "out_dtype": name,
            }
            core.emit("vexp", out=buffers.weights, a=buffers.exponent, a_pitch=wide_pitch, a_dtype="fp32", **common)
            self._move(buffers.weights, buffers.exponent)
            core.emit("vcast", out=buffers.probabilities, a=buffers.weights, a_pitch=pitch, a_dtype=name, **common)
            core.push(buffers.probabilities)

    def _reduce(self, name: str, out: BufferHandle, a: BufferHandle, element_bytes: int, dtype: str) -> None:
        """Emit a reduction of the keys to one fp32 per row, and make it visible."""
        core, tile = self.core, self.tile
        with loaded(core, FP32_BYTES, tile.keys * element_bytes, tile.keys) as (out_pitch, pitch, columns):
            core.emit(
                name, out=out, out_pitch=out_pitch, a=a, a_pitch=pitch, rows=self.rows, columns=columns,
                out_dtype="fp32", a_dtype=dtype,
            )  # fmt: skip
        core.push(out)

    def _multiply_values(self) -> None:
        core, tile, buffers = self.core, self.tile, self.buffers
        element = tile.dtype.bytes
        with core.scratch() as k_blocks, loaded(core, tile.keys * element) as (pitch,):
            core.compute("div", self.chunk_rows, self.machine.matrix.block_k_bytes // element, k_blocks)
            for index, first in enumerate(range(0, tile.padded_head_dim, tile.block_rows)):
                bank = index % self.machine.accumulator.banks
                width = min(tile.block_rows, tile.padded_head_dim - first)
                with loaded(core, first * tile.keys * element, width) as (start, columns):
                    a, b = (buffers.probabilities, ZERO, pitch), (buffers.v_transposed, start, pitch)
                    self._multiply(bank, a, b, columns, k_blocks)
                self._drain(bank, buffers.product, index, tile.padded_head_dim, width)
        self._move(buffers.product, buffers.probabilities)

    def _accumulate(self, is_first: bool) -> None:
        """Update sum of weights and weighted sum of values."""
        core, tile, buffers = self.core, self.tile, self.buffers
        self._reduce("rowsum", buffers.column, buffers.weights, tile.dtype.bytes, tile.dtype.name)
        core.pop(buffers.weights)
        if not is_first:
            with loaded(core, FP32_BYTES, buffers.column.slot_bytes) as (sum_of_weights, second):
                self._column("vmul", buffers.column, buffers.running, sum_of_weights, b=buffers.rescale)
                self._move(buffers.column, buffers.running)
                more: dict[str, OperandValue] = {"out_offset": sum_of_weights, "b_offset": second}
                self._column("vadd", buffers.running, buffers.column, b=buffers.column, **more)
            core.pop(buffers.column, 2)
        else:
            with loaded(core, FP32_BYTES) as (sum_of_weights,):
                self._column("vcast", buffers.running, buffers.column, out_offset=sum_of_weights)
            core.pop(buffers.column)
        core.push(buffers.running)
        with loaded(core, tile.padded_head_dim * FP32_BYTES, tile.padded_head_dim, FP32_BYTES) as (
            pitch,
            columns,
            one,
        ):
            if is_first:
                self._wide("vcast", buffers.output, buffers.product, pitch, columns)
            else:
                rescale: dict[str, OperandValue] = {
                    "b": buffers.rescale,
                    "b_pitch": one,
                    "b_dtype": "fp32",
                    "spread": "column",
                }
                self._wide("vmul", buffers.scaled, buffers.output, pitch, columns, **rescale)
                self._move(buffers.scaled, buffers.output)
                product: dict[str, OperandValue] = {"b": buffers.product, "b_pitch": pitch, "b_dtype": "fp32"}
                self._wide("vadd", buffers.output, buffers.scaled, pitch, columns, **product)
                core.pop(buffers.scaled)
                core.pop(buffers.rescale)
        self._move(buffers.output, buffers.product)

    def _out_address(self, address: Register) -> None:
        """Emit the address of the item's first head and token in the result."""
        core, tile = self.core, self.tile
        with core.scratch() as offset:
            core.multiply(self.batch, tile.sequence, address)
            core.increase(address, self.token)
            core.multiply(address, core.argument("out_pitch"), address)
            core.increase(address, core.argument("out"))
            core.multiply(self.head, tile.group * tile.head_dim * tile.dtype.bytes, offset)
            core.increase(address, offset)

    def _store(self, address: Register) -> None:
        """Divide a block by its sum of weights and store it; `address` moves to the next head."""
        core, tile, buffers = self.core, self.tile, self.buffers
        head_bytes = tile.head_dim * tile.dtype.bytes
        with loaded(core, FP32_BYTES) as (sum_of_weights,):
            self._column("vrecip", buffers.column, buffers.running, sum_of_weights)
        self._move(buffers.column, buffers.running)
        wide = tile.padded_head_dim * FP32_BYTES
        with loaded(core, tile.row_bytes, wide, tile.padded_head_dim, FP32_BYTES) as (narrow, pitch, columns, one):
            core.emit(
                "vmul", out=buffers.out, out_pitch=narrow, a=buffers.output, a_pitch=pitch, b=buffers.column,
                b_pitch=one, rows=self.rows, columns=columns, out_dtype=tile.dtype.name, a_dtype="fp32", b_dtype="fp32",
                spread="column",
            )  # fmt: skip
            self._move(buffers.out, buffers.output)
            core.pop(buffers.column)
            with loaded(core, head_bytes) as (size,):
                pitch = size if tile.is_stacked else core.argument("out_pitch")
                core.emit(
                    "dma_out", address=address, address_pitch=pitch, a=buffers.out, a_pitch=narrow, rows=self.rows,
                    row_bytes=size,
                )  # fmt: skip
        core.pop(buffers.out)
        core.increase(address, head_bytes)
