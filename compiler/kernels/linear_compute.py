"""Core B of a linear kernel: expansion of packed weights, matrix products, accumulators, and the way out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, Register
from compiler.kernels.linear_expand import Expander
from compiler.kernels.linear_finish import Finisher
from compiler.kernels.linear_parts import add_parts, exchange_parts, exchanged_blocks
from compiler.kernels.linear_resident import ResidentLoader
from compiler.kernels.linear_stream import XStream
from compiler.kernels.linear_walk import Buffers
from compiler.linear_mapping import LinearMapping
from isa.dtypes import FP32, Dtype
from isa.machine import Machine

Operand = tuple[BufferHandle, Register, Register]
"""Buffer, offset and pitch."""
Columns = Sequence[tuple[int, int]]
"""Blocks of columns of a tile: the first column, and how many."""


class Multiplier(Expander, Finisher, ResidentLoader):
    """Core B: matrix products, accumulators, and the way out.

    A packed weight is expanded one part of a chunk ahead of the products, beyond the ends of tiles: products that wait
    for their part fill the matrix engine's queue and would hold up the command that expands the next one.
    """

    def __init__(self, mapping: LinearMapping, machine: Machine, core: CoreBuilder, buffers: Buffers) -> None:
        super().__init__(mapping, machine, core, buffers)
        self.stream = XStream(self) if mapping.streams_constants else None
        held = mapping.block_rows
        self.row_blocks = range(-(-mapping.tile_rows // held))
        self.block_rows = [core.register() for _ in self.row_blocks] if len(self.row_blocks) > 1 else [self.tile_rows]
        self.column_blocks = mapping.column_blocks

    def emit(self) -> None:
        if self.mapping.resident:
            self.load_resident_x()
        self._prepare()
        for _ in self.tiles():
            if self._loads_ends:
                self._load_ends_of_first()
            if self.stream is not None:
                self.stream.load_first()
            if self._starts_loaded:
                self._start_accumulators()
            if self._loads_ends:
                self._load_ends_of_next()
            self._multiply_chunks()
            self._finish()
        if self.mapping.resident:
            self.give_x_back()
        if self.buffers.zeros is not None:
            self._give_zeros_back(self.buffers.zeros)

    @property
    def _loads_ends(self) -> bool:
        """Tell whether this core loads what tiles start from and what results meet."""
        return self.loads_initial_late and (self._has_initial or bool(self.buffers.results_like))

    def _load_ends_of_first(self) -> None:
        """Load what the first tile starts from, and what its results meet."""
        with self.in_first_tile():
            self._load_start()
            self._load_finish()

    def _load_ends_of_next(self) -> None:
        """Load the same of the next tile, if there is one."""
        core = self.core
        with core.scratch() as step, core.scratch() as end:
            core.multiply(self.stride, self.tile_bytes, step)
            core.increase(self.out_offset, step)
            core.multiply(core.load_argument("output_tiles", end), self.tile_bytes, end)
            with core.when_less(self.out_offset, end):
                self._load_start()
                self._load_finish()
            core.multiply(self.stride, self.tile_bytes, step)
            core.subtract(self.out_offset, step, self.out_offset)

    def _prepare(self) -> None:
        """Make what all tiles need: zeros to start from, the first part of a packed weight."""
        if self.buffers.zeros is not None:
            self._fill_zeros(self.buffers.zeros)
        if self.buffers.scales is not None:
            self.begin_expansion(self.buffers.scales)

    @property
    def _has_initial(self) -> bool:
        return self.mapping.shape.start is not None

    @property
    def _starts_loaded(self) -> bool:
        """Tell whether products add to what accumulators are loaded with; else the first ones are set."""
        return self._has_initial

    def _fill_zeros(self, buffer: BufferHandle) -> None:
        self.core.emit("fill", out=buffer, rows=1, columns=self.mapping.block_rows, out_dtype="fp32", value=0.0)
        self.core.push(buffer)

    def _give_zeros_back(self, zeros: BufferHandle) -> None:
        """Pop them; a PE may have had no use for any, and reads some now, as is asked of who pops."""
        self.core.emit("acc_load", bank=0, a=zeros, rows=1, columns=1, a_dtype=FP32.name, spread="row")
        self.core.pop(zeros)

    def _begin_rows(self) -> None:
        """Set the valid rows of each block; a block without any keeps one, which is not stored."""
        if self.stream is not None:
            self.stream.begin()
        if len(self.row_blocks) == 1:
            return
        held = self.mapping.block_rows
        for block, rows in enumerate(self.block_rows):
            if self.mapping.has_whole_rows:
                self.core.copy(min(self.mapping.tile_rows - block * held, held), rows)
                continue
            self.core.subtract(self.tile_rows, block * held, rows)
            self.core.minimum(rows, held, rows)
            self.core.maximum(rows, 1, rows)

    def _banks(self, columns: Columns = ()) -> Iterator[tuple[int, int, int, int]]:
        """Yield (bank, row block, first column, columns), of some blocks of columns if they are given."""
        for block in self.row_blocks:
            for index, (start, width) in enumerate(self.column_blocks):
                if not columns or (start, width) in columns:
                    yield block * len(self.column_blocks) + index, block, start, width

    def _start_accumulators(self) -> None:
        initial = self.buffers.turned_residual or self.buffers.initial
        for part in range(self.mapping.k_parts if self.mapping.starts_apart else 1):
            with self._at_part(part):
                for bank, block, start, width in self._banks():
                    if self.mapping.owners[block] == part or self.buffers.zeros is None:
                        self._start_accumulator(bank, block, start, width, initial)
                    else:
                        self._load_accumulator(bank, self.buffers.zeros, 0, self._extent(block, width))
        self.core.pop(initial)

    @contextmanager
    def _at_part(self, part: int) -> Iterator[None]:
        """Run the code at the PEs that have this part of K, or at all if it is not split."""
        if self.k_part is None:
            yield
            return
        with ExitStack() as inside:
            with self.core.scratch() as ours:
                self.core.copy(part, ours)
                inside.enter_context(self.core.when_equal(self.k_part, ours))
            yield

    def _start_accumulator(self, bank: int, block: int, start: int, width: int, initial: BufferHandle) -> None:
        """Load an accumulator with its part of bias or residual."""
        shape, extent = self.mapping.shape, self._extent(block, width)
        if shape.start == "bias":
            self._load_accumulator(bank, initial, start * FP32.bytes, extent)
            return
        residual_pitch = self.mapping.turned_residual_pitch_bytes
        offset, pitch = self._place_in_tile(block, start, shape.out_dtype, residual_pitch)
        self._with_offset(
            offset, "acc_load", bank=bank, a=initial, a_pitch=pitch, a_dtype=shape.out_dtype.name, spread="full",
            **extent,
        )  # fmt: skip

    def _load_accumulator(self, bank: int, source: BufferHandle, offset: int, extent: dict[str, Any]) -> None:
        """Load an accumulator with one number per output, the same in all rows of x."""
        spread = "column" if self.mapping.is_swapped else "row"
        self._with_offset(
            offset, "acc_load", bank=bank, a=source, a_pitch=FP32.bytes, a_dtype=FP32.name, spread=spread, **extent
        )

    def _extent(self, block: int, width: Register | int) -> dict[str, Any]:
        """Return the rows and columns of an accumulator that holds `width` outputs of a block of rows."""
        rows = self.block_rows[block]
        return {"rows": width, "columns": rows} if self.mapping.is_swapped else {"rows": rows, "columns": width}

    def _place_in_tile(self, block: int, start: int, dtype: Dtype, turned_pitch: int) -> tuple[int, int]:
        """Return (byte offset, pitch) of an accumulator in rows of x, or in rows per output if they are turned."""
        mapping = self.mapping
        first_row = block * mapping.block_rows
        if mapping.turns_results:
            return start * turned_pitch + first_row * dtype.bytes, turned_pitch
        pitch = mapping.tile_columns * dtype.bytes
        return first_row * pitch + start * dtype.bytes, dtype.bytes if mapping.is_swapped else pitch

    def _with_offset(self, offset: int, name: str, operand: str = "a_offset", **operands: object) -> None:
        """Emit a command whose constant offset passes through a scratch register."""
        with self.core.scratch() as register:
            value = ZERO if offset == 0 else self.core.copy(offset, register)
            self.core.emit(name, **{operand: value}, **operands)  # type: ignore[arg-type]

    def _multiply_chunks(self) -> None:
        core, mapping = self.core, self.mapping
        with core.scratch() as left, core.scratch() as x_offset, core.scratch() as chunks:
            self.own_k("k_bytes", mapping.k_part_bytes, left)
            if mapping.resident:
                core.copy(0, x_offset)
            self.own_chunks(chunks)
            if mapping.expansions > 1:
                core.multiply(chunks, mapping.expansions, chunks)
            if not self._starts_loaded or mapping.first_chunk_bytes:
                self._take_first_chunk(left, x_offset)
                core.increase(chunks, -1)
            with core.loop(chunks):
                self._take_chunk(left, x_offset, is_first=False)

    def _take_first_chunk(self, left: Register, x_offset: Register) -> None:
        """Multiply the first chunk or part of a tile."""
        self._take_chunk(left, x_offset, is_first=True)

    def _take_chunk(self, left: Register, x_offset: Register, *, is_first: bool) -> None:
        """Multiply a chunk or part, of `left` bytes at most, and give its slots back; move to the next one."""
        core, mapping = self.core, self.mapping
        with core.scratch() as blocks:
            core.minimum(left, mapping.part_bytes, blocks)
            core.compute("div", blocks, self.machine.matrix.block_k_bytes, blocks)
            if self.stream is not None:
                self.stream.load_next()
            if self.buffers.scales is not None:
                self.expand_next(self.buffers.scales)
            self._multiply_chunk(blocks, x_offset if mapping.resident else ZERO, self.column_blocks, is_first=is_first)
        core.increase(left, -mapping.part_bytes)
        core.pop(self.buffers.factor)
        self._leave_x(x_offset)

    def _leave_x(self, x_offset: Register) -> None:
        """Go on to the next chunk or part of x."""
        if self.mapping.resident:
            self.core.increase(x_offset, self.mapping.part_bytes)
        else:
            self.core.pop(self.buffers.x)

    @property
    def _repeats_suffice(self) -> bool:
        """Tell whether a command multiplies all of a chunk or part."""
        matrix = self.machine.matrix
        return self.mapping.part_bytes // matrix.block_k_bytes <= matrix.max_repeat_blocks

    def _multiply_chunk(self, blocks: Register, x_offset: Register, columns: Columns, *, is_first: bool) -> None:
        """Multiply `blocks` blocks of K by the columns in a slot; in as many commands as the machine's repeat asks for.

        If it takes several, `blocks` are none in the end.
        """
        core, repeat = self.core, self.machine.matrix.max_repeat_blocks
        block_bytes = self.machine.matrix.block_k_bytes
        if self._repeats_suffice:
            self._multiply_blocks(blocks, x_offset, ZERO, columns, is_first=is_first)
            return
        with core.scratch() as trips, core.scratch() as x, core.scratch() as weight, core.scratch() as step:
            core.add(blocks, repeat - 1, trips)
            core.compute("div", trips, repeat, trips)
            core.copy(x_offset, x)
            core.copy(0, weight)

            def take_step(*, is_first: bool) -> None:
                core.minimum(blocks, repeat, step)
                self._multiply_blocks(step, x, weight, columns, is_first=is_first)
                core.increase(x, repeat * block_bytes)
                core.increase(weight, repeat * block_bytes)
                core.increase(blocks, -repeat)

            if is_first:
                take_step(is_first=True)
                core.increase(trips, -1)
            with core.loop(trips):
                take_step(is_first=False)

    def _multiply_blocks(
        self, blocks: Register, x_offset: Register, weight_offset: Register, columns: Columns, *, is_first: bool
    ) -> None:
        core, mapping = self.core, self.mapping
        x_pitch = core.argument("k_bytes") if mapping.resident else core.constant(mapping.chunk_bytes)
        with core.scratch() as x, core.scratch() as weight:
            for bank, block, start, width in self._banks(columns):
                skipped, behind = block * mapping.block_rows * mapping.chunk_bytes, start - columns[0][0]
                a_offset = x_offset if block == 0 else core.add(x_offset, skipped, x)
                b_offset = core.add(weight_offset, behind * mapping.part_bytes, weight) if behind else weight_offset
                held: Operand = (self.buffers.x, a_offset, x_pitch)
                streamed: Operand = (self.buffers.factor, b_offset, core.constant(mapping.part_bytes))
                if mapping.is_swapped:
                    held, streamed = streamed, held
                with self._columns(start, width) as valid:
                    core.emit(
                        mapping.instruction, bank=bank, a=held[0], a_offset=held[1], a_pitch=held[2], b=streamed[0],
                        b_offset=streamed[1], b_pitch=streamed[2], k_blocks=blocks, **self._extent(block, valid),
                        a_dtype=mapping.shape.dtype.name, accumulate="set" if is_first else "add",
                    )  # fmt: skip

    @contextmanager
    def _columns(self, start: int, width: int) -> Iterator[Register | int]:
        """Run the block if `width` columns from `start` on are to be multiplied; yields how many of them."""
        yield width

    def _finish(self) -> None:
        """Round the results of a tile and store them, if it is no padding."""
        with self._inside():
            if not self.mapping.stores_blocks:
                self._drain(*self._target())
                self.core.push(self.buffers.activation[0])
                self._activate()
                self._send()
                return
            pairs = exchanged_blocks(self.mapping)
            for pair in pairs:
                self._exchange_and_store(pair)
            exchanged = {block for pair in pairs for block in pair}
            for block in self.row_blocks:
                if block not in exchanged:
                    with self._has_rows(block), self._summed(block):
                        self._store_block(block)
            for buffer in self.buffers.results_like.values():
                self.core.pop(buffer)

    def _exchange_and_store(self, pair: tuple[int, int]) -> None:
        """Let two parts of K send each other the sums of a block of rows at the same time, and store a block each."""
        assert self.k_part is not None
        banks = [[(bank, self._extent(block, width)) for bank, block, _, width in self._banks() if block == one]
                 for one in pair]  # fmt: skip
        exchange_parts(self.core, self.mapping, self.k_part, *banks)
        for owner, block in enumerate(pair):
            with self._at_part(owner):
                self._store_block(block)

    def _store_block(self, block: int) -> None:
        """Round and store a block of rows."""
        if self.mapping.shape.gate:
            self._drain_through_gate(block)
        elif self.mapping.shape.finish:
            self._drain_through_steps(block)
        else:
            self._drain(*self._target(), block)
        self._send(block)

    @contextmanager
    def _summed(self, block: int, columns: Columns = ()) -> Iterator[None]:
        """Run the code for a block of rows, or columns of it, where it is complete: if K is split, at its owner."""
        if self.k_part is None:
            yield
            return
        owner = self.mapping.owners[block]
        for bank, other, start, width in self._banks(columns):
            if other == block:
                with self._columns(start, width) as valid:
                    add_parts(self.core, self.mapping, self.k_part, bank, owner, self._extent(block, valid))
        with self._at_part(owner):
            yield

    @contextmanager
    def _has_rows(self, block: int) -> Iterator[None]:
        """Run the code for a block of rows that is not beyond the last one."""
        if block == 0 or self.mapping.has_whole_rows:
            yield
            return
        core = self.core
        with ExitStack() as inside:
            with core.scratch() as first:
                core.copy(block * self.mapping.block_rows, first)
                inside.enter_context(core.when_less(first, self.tile_rows))
            yield

    def _drain_through_gate(self, block: int) -> None:
        """Make a block of `out`: what comes first is at the gate while the next is drained."""
        both = self.buffers.activation[0]
        self._drain(both, FP32, block)
        self.core.push(both)
        self._pass_gate(block)
        self.core.pop(both)

    def _drain_through_steps(self, block: int) -> None:
        """Make a block of `out`, step by step in fp32: what comes first is under way while the next is drained."""
        sources = self.buffers.activation
        self._drain(sources[0], FP32, block)
        for step, source, target in zip(
            self.mapping.shape.finish, sources, (*sources[1:], self.buffers.out), strict=True
        ):
            self.core.push(source)
            self._take_step(step, source, target, block)
            self.core.pop(source)

    def _target(self) -> tuple[BufferHandle, Dtype]:
        """Return where results go: to the activation, or straight to the way out."""
        activation = self.buffers.activation
        return (activation[0], FP32) if activation else (self.buffers.out, self.mapping.shape.out_dtype)

    def _drain(self, out: BufferHandle, dtype: Dtype, only: int | None = None) -> None:
        """Write the accumulators of a tile, or of one of its blocks of rows, to one slot of a buffer with its rows."""
        target, turned_pitch = self.buffers.turned_result or out, self.mapping.turned_result_pitch_bytes
        for bank, block, start, width in self._banks():
            if only not in (None, block):
                continue
            offset, pitch = self._place_in_tile(block if only is None else 0, start, dtype, turned_pitch)
            self._with_offset(
                offset, "acc_drain", "out_offset", out=target, out_pitch=pitch, bank=bank, out_dtype=dtype.name,
                **self._extent(block, width),
            )  # fmt: skip
        if target is not out:
            self._turn_result(target, out, dtype, self.tile_rows if only is None else self.block_rows[only])

    def _turn_result(self, turned: BufferHandle, out: BufferHandle, dtype: Dtype, count: Register) -> None:
        """Make `count` rows, one per row of x, of a tile with a row per output."""
        core, mapping = self.core, self.mapping
        core.push(turned)
        with core.scratch() as out_pitch, core.scratch() as pitch, core.scratch() as rows:
            core.emit(
                "transpose", out=out, out_pitch=core.copy(mapping.tile_columns * dtype.bytes, out_pitch), a=turned,
                a_pitch=core.copy(mapping.turned_result_pitch_bytes, pitch), rows=core.copy(mapping.tile_columns, rows),
                columns=count, a_dtype=dtype.name,
            )  # fmt: skip
        core.pop(turned)

    def _send(self, block: int | None = None) -> None:
        """Store the results of a tile, or of one of its blocks of rows, that are in the result's rows."""
        core, out = self.core, self.buffers.out
        core.push(out)
        with core.scratch() as address, core.scratch() as size, core.scratch() as out_pitch, core.scratch() as width:
            self._find_result(block or 0, address, out_pitch, size)
            core.minimum(size, self.width_bytes(width), size)
            core.emit(
                "dma_out", address=address, address_pitch=out_pitch, a=out, a_pitch=self.tile_bytes,
                rows=self.tile_rows if block is None else self.block_rows[block], row_bytes=size,
            )  # fmt: skip
        core.pop(out)

    def _find_result(self, block: int, address: Register, pitch: Register, size: Register) -> None:
        """Set address and pitch to where a block of rows of the tile is stored, `size` to the bytes from there on."""
        core = self.core
        core.load_argument("out_pitch", pitch)
        if block:
            core.add(self.first_row, block * self.mapping.block_rows, address)
            core.multiply(address, pitch, address)
        else:
            core.multiply(self.first_row, pitch, address)
        core.increase(address, self.out_offset)
        core.increase(address, core.load_argument("out", size))
        core.subtract(core.load_argument("out_bytes", size), self.out_offset, size)
