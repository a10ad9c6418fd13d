"""Core B of a linear whose second operand is computed: it lies in SRAM as [N, K] or [K, N], not packed in tiles.

Of tiles at the last column only the columns that are there are multiplied. What an accumulator of a single tile holds
is stored as soon as it is complete: all products of its last chunk are made at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from compiler.kernel_builder import ZERO, CoreBuilder, Register, Scalar
from compiler.kernels.linear_compute import Multiplier
from compiler.kernels.linear_walk import Buffers
from compiler.linear_mapping import LinearMapping, padded_outputs
from isa.machine import Machine


class ComputedMultiplier(Multiplier):
    """Core B: of the last tile only the columns that are there are multiplied."""

    def __init__(self, mapping: LinearMapping, machine: Machine, core: CoreBuilder, buffers: Buffers) -> None:
        super().__init__(mapping, machine, core, buffers)
        if mapping.is_ragged:
            self.valid = core.register()
            """Columns of the tile that are multiplied; a tile of padding keeps one, which is not stored."""

    @property
    def _turns_factor(self) -> bool:
        """Tell whether the second operand is [K, N], which the layout unit turns."""
        return self.mapping.shape.factor == "columns"

    @property
    def _starts_loaded(self) -> bool:
        """Columns of padding that are stored but not multiplied must be zero."""
        shape = self.mapping.shape
        return shape.factor == "rows" and shape.outputs < padded_outputs(shape)

    def _prepare(self) -> None:
        if self._starts_loaded:
            self._fill_zeros(self.buffers.initial)

    def _start_accumulators(self) -> None:
        for bank, block, _, width in self._banks():
            self.core.emit(
                "acc_load", bank=bank, a=self.buffers.initial, a_dtype="fp32", spread="row",
                **self._extent(block, width),
            )  # fmt: skip

    def _multiply_chunks(self) -> None:
        core = self.core
        if self.mapping.is_ragged:
            core.compute("div", self.out_offset, self.mapping.shape.out_dtype.bytes, self.valid)
            with core.scratch() as outputs:
                core.subtract(core.load_argument("outputs", outputs), self.valid, self.valid)
            core.maximum(self.valid, 1, self.valid)
            if isinstance(self.width, Register):
                core.minimum(self.valid, self.width, self.valid)
        super()._multiply_chunks()

    def _take_first_chunk(self, left: Register, x_offset: Register) -> None:
        size = self.mapping.first_chunk_bytes
        if not size:
            super()._take_first_chunk(left, x_offset)
            return
        blocks = size // self.machine.matrix.block_k_bytes
        self._take_blocks(blocks, x_offset, is_first=not self._starts_loaded)
        self.core.increase(left, -size)

    def _take_chunk(self, left: Register, x_offset: Register, *, is_first: bool) -> None:
        """Multiply a chunk and give its slots back."""
        core, mapping = self.core, self.mapping
        if not self._turns_factor:
            super()._take_chunk(left, x_offset, is_first=is_first)
            return
        with core.scratch() as blocks:
            core.minimum(left, mapping.chunk_bytes, blocks)
            core.compute("div", blocks, self.machine.matrix.block_k_bytes, blocks)
            self._take_blocks(blocks, x_offset, is_first=is_first)
        core.increase(left, -mapping.chunk_bytes)

    def _take_blocks(self, blocks: Scalar, x_offset: Register, *, is_first: bool) -> None:
        """Multiply so many blocks of K and give their slots back.

        A single tile's accumulators are complete in the order of the blocks of columns, which are turned one by one;
        those of others in that of the blocks of rows, by which they are stored.
        """
        core, resident = self.core, self.mapping.resident
        by_columns = self._turns_factor and self.mapping.stores_banks
        for columns in [[block] for block in self.column_blocks] if by_columns else [self.column_blocks]:
            with core.scratch() as count:
                self._multiply_chunk(
                    core.copy(blocks, count), x_offset if resident else ZERO, columns, is_first=is_first
                )
            core.pop(self.buffers.factor, len(columns) if self._turns_factor else 1)
        self._leave_x(x_offset)

    def _finish(self) -> None:
        """Store the results of a tile, those of a single one accumulator by accumulator as they are complete."""
        if not self.mapping.stores_banks:
            super()._finish()
            return
        core = self.core
        with self._inside(), core.scratch() as address, core.scratch() as pitch, core.scratch() as size:
            self._find_result(0, address, pitch, size)
            for accumulator in self._as_complete():
                _, block, start, width = accumulator
                with self._has_rows(block), self._summed(block, [(start, width)]):
                    self._store_bank(accumulator, (address, pitch, size))

    def _as_complete(self) -> list[tuple[int, int, int, int]]:
        """Return what `_banks` yields in the order in which accumulators are complete."""
        return sorted(self._banks(), key=lambda bank: bank[2]) if self._turns_factor else [*self._banks()]

    def _store_bank(self, accumulator: tuple[int, int, int, int], place: tuple[Register, Register, Register]) -> None:
        """Round and store what an accumulator, as `_banks` yields it, holds, as far as it is in the result's rows.

        `place` is the address of the tile, the pitch there, and the bytes of its rows.
        """
        core, out, dtype = self.core, self.buffers.out, self.mapping.shape.out_dtype
        tile, pitch, left = place
        bank, block, start, width = accumulator
        out_pitch = self.mapping.stored_outputs * dtype.bytes
        core.emit(
            "acc_drain", out=out, out_pitch=out_pitch, bank=bank, out_dtype=dtype.name, **self._extent(block, width)
        )
        core.push(out)
        with core.scratch() as address, core.scratch() as size, ExitStack() as inside:
            core.multiply(pitch, block * self.mapping.block_rows, address)
            core.increase(address, tile)
            core.increase(address, start * dtype.bytes)
            if self.mapping.is_ragged:
                core.add(left, -start * dtype.bytes, size)
                core.minimum(size, width * dtype.bytes, size)
                inside.enter_context(core.when_less(ZERO, size))
            else:
                core.copy(width * dtype.bytes, size)
            core.emit(
                "dma_out", address=address, address_pitch=pitch, a=out, a_pitch=out_pitch,
                rows=self.block_rows[block], row_bytes=size,
            )  # fmt: skip
        core.pop(out)

    @contextmanager
    def _columns(self, start: int, width: int) -> Iterator[Register | int]:
        if not self.mapping.is_ragged:
            yield width
            return
        core = self.core
        with ExitStack() as inside:
            columns = inside.enter_context(core.scratch())
            if start:
                inside.enter_context(core.when_less(start, self.valid))
            core.subtract(self.valid, start, columns)
            yield core.minimum(columns, width, columns)
