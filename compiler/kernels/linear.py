"""`x @ W.T (+ bias | + residual)`: core A streams chunks of x and the packed weight, core B multiplies and stores.

The packed weight is [output tile][K chunk][tile_outputs][chunk]; a chunk of a tile is one contiguous block.
Accumulators start from the bias, the residual or zeros, so that all products add. Rows of x are padded with zeros up
to a block of K. Addresses, rounds and chunks are launch arguments: one kernel serves all layers and every shape with
the same tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from compiler.graph import Operation
from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, KernelBuilder, Register
from compiler.linear_mapping import LinearMapping
from compiler.lowering import ArgumentValue, Lowering
from isa.dtypes import FP32
from isa.kernel import Kernel
from isa.machine import Machine

ARGUMENTS = (
    "x", "x_pitch", "weight", "out", "out_pitch", "rows", "k_bytes", "out_bytes", "chunks", "row_rounds",
    "output_tiles", "initial", "initial_pitch",
)  # fmt: skip
"""Addresses, pitches, `rows` of x, bytes of K and of a result row that hold data or zeros, counts; `initial` is the
bias (fp32, one row of whole tiles) or the residual (rows of the result)."""
ACTIVATED_ARGUMENTS = (*ARGUMENTS, "outputs")
"""With an activation that does not keep zeros: the outputs that are no padding."""
ACTIVATIONS = {"relu": "vmaxs", "sigmoid": "vsigmoid", "tanh": "vtanh"}


@dataclass(frozen=True, slots=True)
class _Buffers:
    x: BufferHandle
    weight: BufferHandle
    initial: BufferHandle
    out: BufferHandle
    activation: tuple[BufferHandle, ...]
    """What the accumulators held; what it became, if its padding must be made zero again."""


def build(mapping: LinearMapping, machine: Machine) -> Kernel:
    """Return the kernel of a mapping."""
    shape = mapping.shape
    arguments = ACTIVATED_ARGUMENTS if shape.activation == "sigmoid" else ARGUMENTS
    builder = KernelBuilder(_name(mapping), machine, arguments)
    tile = mapping.tile_rows * mapping.tile_outputs
    initial_bytes, initial_slots = mapping.initial_row_bytes, 1
    if shape.has_bias:
        initial_bytes, initial_slots = mapping.tile_outputs * 4, 2
    if shape.has_residual:
        initial_bytes, initial_slots = tile * shape.dtype.bytes, 2
    buffers = _Buffers(
        builder.buffer("x", mapping.x_slot_bytes, mapping.x_slots),
        builder.buffer("weight", mapping.weight_chunk_bytes, mapping.weight_slots),
        builder.buffer("initial", initial_bytes, initial_slots),
        builder.buffer("out", tile * shape.out_dtype.bytes, 2),
        tuple(builder.buffer(f"activation{step}", size, 1) for step, size in enumerate(mapping.activation_bytes)),
    )
    _Loader(mapping, machine, builder.core_a, buffers).emit()
    _Multiplier(mapping, machine, builder.core_b, buffers).emit()
    return builder.build()


def _name(mapping: LinearMapping) -> str:
    shape = mapping.shape
    start = "_bias" if shape.has_bias else "_residual" if shape.has_residual else ""
    start += f"_{shape.activation}" if shape.activation else ""
    kind = "resident" if mapping.resident else "streamed"
    return f"linear_{kind}{start}_{mapping.tile_rows}x{mapping.tile_outputs}x{mapping.chunk_inputs}"


class _Walk:
    """What both cores share: the loops over tiles, and where this PE's tiles start."""

    def __init__(self, mapping: LinearMapping, machine: Machine, core: CoreBuilder, buffers: _Buffers) -> None:
        self.mapping, self.machine, self.core, self.buffers = mapping, machine, core, buffers
        self.tile_bytes = mapping.tile_outputs * mapping.shape.out_dtype.bytes
        self.index, self.stride = self._place()
        self.row_start = core.register()
        """First row of x of the tile; beyond the last row for a tile of padding."""
        self.first_row, self.tile_rows = core.register(), core.register()
        self.out_offset = core.register()
        """Byte offset of the tile in a row of the result."""

    def _place(self) -> tuple[Register, Register]:
        """Return the first output tile of this PE and the distance to its next."""
        core = self.core
        if not self.mapping.resident:
            return core.coordinate("column"), core.coordinate("columns")
        index = core.multiply(core.coordinate("row"), core.coordinate("columns"))
        core.increase(index, core.coordinate("column"))
        return index, core.multiply(core.coordinate("rows"), core.coordinate("columns"))

    def row_tiles(self) -> Iterator[None]:
        """Loop over tiles of rows; sets `first_row` and `tile_rows`, both valid also in a tile of padding."""
        core, rows = self.core, self.core.argument("rows")
        if self.mapping.resident:
            core.copy(0, self.row_start)
        else:
            core.multiply(core.coordinate("row"), self.mapping.tile_rows, self.row_start)
        with ExitStack() as body:
            with core.scratch() as rounds:
                body.enter_context(core.loop(core.load_argument("row_rounds", rounds)))
            with core.scratch() as last:
                core.minimum(self.row_start, core.subtract(rows, 1, last), self.first_row)
            core.subtract(rows, self.first_row, self.tile_rows)
            core.minimum(self.tile_rows, self.mapping.tile_rows, self.tile_rows)
            yield
            with core.scratch() as step:
                core.multiply(core.coordinate("rows"), self.mapping.tile_rows, step)
                core.increase(self.row_start, step)

    def output_tiles(self) -> Iterator[None]:
        """Loop over output tiles of this PE; keeps `out_offset`."""
        core = self.core
        core.multiply(self.index, self.tile_bytes, self.out_offset)
        with ExitStack() as body:
            with core.scratch() as trips:
                core.load_argument("output_tiles", trips)
                core.subtract(trips, self.index, trips)
                core.increase(trips, self.stride)
                core.increase(trips, -1)
                core.compute("div", trips, self.stride, trips)
                body.enter_context(core.loop(trips))
            yield
            with core.scratch() as step:
                core.multiply(self.stride, self.tile_bytes, step)
                core.increase(self.out_offset, step)


class _Loader(_Walk):
    """Core A: everything that comes in."""

    def emit(self) -> None:
        core, mapping = self.core, self.mapping
        weight_tile, tile_step = core.register(), core.register()
        x_row = core.register()
        core.multiply(core.argument("chunks"), mapping.weight_chunk_bytes, tile_step)
        if mapping.resident:
            self._load_x(core.load_argument("x", x_row), core.argument("rows"), core.argument("k_bytes"), "all")
        for _ in self.row_tiles():
            core.multiply(self.index, tile_step, weight_tile)
            with core.scratch() as base:
                core.increase(weight_tile, core.load_argument("weight", base))
            core.multiply(self.first_row, core.argument("x_pitch"), x_row)
            with core.scratch() as base:
                core.increase(x_row, core.load_argument("x", base))
            for _ in self.output_tiles():
                self._load_initial()
                self._load_chunks(weight_tile, x_row)
                with core.scratch() as step:
                    core.multiply(self.stride, tile_step, step)
                    core.increase(weight_tile, step)

    def _load_chunks(self, weight_tile: Register, x_row: Register) -> None:
        core, mapping = self.core, self.mapping
        with core.scratch() as weight, core.scratch() as x, core.scratch() as left, core.scratch() as size:
            core.copy(weight_tile, weight)
            if not mapping.resident:
                core.copy(x_row, x)
                core.copy(core.argument("k_bytes"), left)
            with core.loop(core.argument("chunks")):
                if not mapping.resident:
                    core.minimum(left, mapping.chunk_bytes, size)
                    self._load_x(x, self.tile_rows, size, "row")
                    core.increase(x, mapping.chunk_bytes)
                    core.increase(left, -mapping.chunk_bytes)
                core.emit(
                    "dma_in", out=self.buffers.weight, address=weight, rows=1, row_bytes=mapping.weight_chunk_bytes,
                    broadcast="none" if mapping.resident else self._broadcast("column"),
                )  # fmt: skip
                core.push(self.buffers.weight)
                core.increase(weight, mapping.weight_chunk_bytes)

    def _load_x(self, address: Register, rows: Register, size: Register, receivers: str) -> None:
        core = self.core
        pitch = size if self.mapping.resident else core.constant(self.mapping.chunk_bytes)
        core.emit(
            "dma_in", out=self.buffers.x, out_pitch=pitch, address=address, address_pitch=core.argument("x_pitch"),
            rows=rows, row_bytes=size, broadcast=self._broadcast(receivers),
        )  # fmt: skip
        core.push(self.buffers.x)

    def _broadcast(self, receivers: str) -> str:
        return receivers if self.machine.dma.broadcast_reads else "none"

    def _load_initial(self) -> None:
        if self.mapping.shape.has_bias:
            self._load_bias()
        elif self.mapping.shape.has_residual:
            self._load_residual()

    def _load_bias(self) -> None:
        core = self.core
        with core.scratch() as address:
            core.multiply(self.out_offset, 4, address)
            core.compute("div", address, self.mapping.shape.out_dtype.bytes, address)
            core.increase(address, core.argument("initial"))
            core.emit(
                "dma_in", out=self.buffers.initial, address=address, rows=1, row_bytes=self.mapping.tile_outputs * 4
            )
        core.push(self.buffers.initial)

    def _load_residual(self) -> None:
        """Read the tile's part of the residual; a tile of padding reads some other part, which is not stored."""
        core = self.core
        with core.scratch() as offset, core.scratch() as size, core.scratch() as address:
            out_bytes = core.argument("out_bytes")
            core.minimum(self.out_offset, core.subtract(out_bytes, 32, offset), offset)
            core.minimum(core.subtract(out_bytes, offset, size), self.tile_bytes, size)
            core.multiply(self.first_row, core.argument("initial_pitch"), address)
            core.increase(address, offset)
            core.increase(address, core.argument("initial"))
            core.emit(
                "dma_in", out=self.buffers.initial, out_pitch=self.tile_bytes, address=address,
                address_pitch=core.argument("initial_pitch"), rows=self.tile_rows, row_bytes=size,
            )  # fmt: skip
        core.push(self.buffers.initial)


class _Multiplier(_Walk):
    """Core B: matrix products, accumulators, and the way out."""

    def __init__(self, mapping: LinearMapping, machine: Machine, core: CoreBuilder, buffers: _Buffers) -> None:
        super().__init__(mapping, machine, core, buffers)
        held = mapping.block_rows
        self.row_blocks = range(-(-mapping.tile_rows // held))
        self.block_rows = [core.register() for _ in self.row_blocks] if len(self.row_blocks) > 1 else [self.tile_rows]
        self.column_blocks = [
            (start, min(held, mapping.tile_outputs - start)) for start in range(0, mapping.tile_outputs, held)
        ]

    def emit(self) -> None:
        core, shape = self.core, self.mapping.shape
        has_initial = shape.has_bias or shape.has_residual
        if not has_initial:
            core.emit(
                "fill", out=self.buffers.initial, rows=1, columns=self.mapping.block_rows, out_dtype="fp32", value=0.0
            )
            core.push(self.buffers.initial)
        for _ in self.row_tiles():
            self._split_rows()
            for _ in self.output_tiles():
                self._start_accumulators()
                if has_initial:
                    core.pop(self.buffers.initial)
                self._multiply_chunks()
                with (
                    core.when_less(self.row_start, core.argument("rows")),
                    core.when_less(self.out_offset, core.argument("out_bytes")),
                ):
                    self._store()

    def _split_rows(self) -> None:
        """Set the valid rows of each block; a block without any keeps one, which is not stored."""
        if len(self.row_blocks) == 1:
            return
        held = self.mapping.block_rows
        for block, rows in enumerate(self.block_rows):
            self.core.subtract(self.tile_rows, block * held, rows)
            self.core.minimum(rows, held, rows)
            self.core.maximum(rows, 1, rows)

    def _banks(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (bank, row block, first column, columns)."""
        for block in self.row_blocks:
            for index, (start, width) in enumerate(self.column_blocks):
                yield block * len(self.column_blocks) + index, block, start, width

    def _start_accumulators(self) -> None:
        shape, initial = self.mapping.shape, self.buffers.initial
        held = self.mapping.block_rows
        for bank, block, start, width in self._banks():
            rows = self.block_rows[block]
            if shape.has_residual:
                offset = block * held * self.tile_bytes + start * shape.out_dtype.bytes
                self._with_offset(
                    offset, "acc_load", bank=bank, a=initial, a_pitch=self.tile_bytes, rows=rows, columns=width,
                    a_dtype=shape.out_dtype.name, spread="full",
                )  # fmt: skip
            else:
                self._with_offset(
                    start * 4 if shape.has_bias else 0, "acc_load", bank=bank, a=initial, rows=rows, columns=width,
                    a_dtype="fp32", spread="row",
                )  # fmt: skip

    def _with_offset(self, offset: int, name: str, operand: str = "a_offset", **operands: object) -> None:
        """Emit a command whose constant offset passes through a scratch register."""
        with self.core.scratch() as register:
            value = ZERO if offset == 0 else self.core.copy(offset, register)
            self.core.emit(name, **{operand: value}, **operands)  # type: ignore[arg-type]

    def _multiply_chunks(self) -> None:
        core, mapping = self.core, self.mapping
        with core.scratch() as left, core.scratch() as blocks, core.scratch() as x_offset:
            core.copy(core.argument("k_bytes"), left)
            if mapping.resident:
                core.copy(0, x_offset)
            with core.loop(core.argument("chunks")):
                core.minimum(left, mapping.chunk_bytes, blocks)
                core.compute("div", blocks, self.machine.matrix.block_k_bytes, blocks)
                self._multiply_chunk(blocks, x_offset if mapping.resident else ZERO)
                core.increase(left, -mapping.chunk_bytes)
                core.pop(self.buffers.weight)
                if mapping.resident:
                    core.increase(x_offset, mapping.chunk_bytes)
                else:
                    core.pop(self.buffers.x)

    def _multiply_chunk(self, blocks: Register, x_offset: Register) -> None:
        """Multiply `blocks` blocks of K; in as many commands as the machine's repeat asks for."""
        core, repeat = self.core, self.machine.matrix.max_repeat_blocks
        block_bytes = self.machine.matrix.block_k_bytes
        if self.mapping.chunk_bytes // block_bytes <= repeat:
            self._multiply_blocks(blocks, x_offset, ZERO)
            return
        with core.scratch() as trips, core.scratch() as x, core.scratch() as weight, core.scratch() as step:
            core.add(blocks, repeat - 1, trips)
            core.compute("div", trips, repeat, trips)
            core.copy(x_offset, x)
            core.copy(0, weight)
            with core.loop(trips):
                core.minimum(blocks, repeat, step)
                self._multiply_blocks(step, x, weight)
                core.increase(x, repeat * block_bytes)
                core.increase(weight, repeat * block_bytes)
                core.increase(blocks, -repeat)

    def _multiply_blocks(self, blocks: Register, x_offset: Register, weight_offset: Register) -> None:
        core, mapping = self.core, self.mapping
        x_pitch = core.argument("k_bytes") if mapping.resident else core.constant(mapping.chunk_bytes)
        held = self.mapping.block_rows
        with core.scratch() as x, core.scratch() as weight:
            for bank, block, start, width in self._banks():
                a_offset = x_offset if block == 0 else core.add(x_offset, block * held * mapping.chunk_bytes, x)
                b_offset = weight_offset if start == 0 else core.add(weight_offset, start * mapping.chunk_bytes, weight)
                core.emit(
                    mapping.instruction, bank=bank, a=self.buffers.x, a_offset=a_offset, a_pitch=x_pitch,
                    b=self.buffers.weight, b_offset=b_offset, b_pitch=mapping.chunk_bytes, rows=self.block_rows[block],
                    columns=width, k_blocks=blocks, a_dtype=mapping.shape.dtype.name, accumulate="add",
                )  # fmt: skip

    def _store(self) -> None:
        core, shape, out = self.core, self.mapping.shape, self.buffers.out
        held, activation = self.mapping.block_rows, self.buffers.activation
        target, dtype = (activation[0], FP32) if activation else (out, shape.out_dtype)
        pitch = self.mapping.tile_outputs * dtype.bytes
        for bank, block, start, width in self._banks():
            self._with_offset(
                block * held * pitch + start * dtype.bytes, "acc_drain", "out_offset", out=target, out_pitch=pitch,
                bank=bank, rows=self.block_rows[block], columns=width, out_dtype=dtype.name,
            )  # fmt: skip
        if activation:
            self._activate()
        core.push(out)
        with core.scratch() as address, core.scratch() as size:
            core.multiply(self.first_row, core.argument("out_pitch"), address)
            core.increase(address, self.out_offset)
            core.increase(address, core.load_argument("out", size))
            core.subtract(core.argument("out_bytes"), self.out_offset, size)
            core.minimum(size, self.tile_bytes, size)
            core.emit(
                "dma_out", address=address, address_pitch=core.argument("out_pitch"), a=out, a_pitch=self.tile_bytes,
                rows=self.tile_rows, row_bytes=size,
            )  # fmt: skip
        core.pop(out)

    def _activate(self) -> None:
        """Apply the activation in fp32; what it makes of the zeros behind the last output becomes zero again."""
        core, shape, out = self.core, self.mapping.shape, self.buffers.out
        assert shape.activation is not None
        raw, *later = self.buffers.activation
        columns, target, dtype = self.mapping.tile_outputs, *((later[0], FP32) if later else (out, shape.out_dtype))
        core.push(raw)
        with core.scratch() as width, core.scratch() as raw_pitch, core.scratch() as pitch:
            core.copy(columns, width)
            core.copy(columns * FP32.bytes, raw_pitch)
            core.copy(columns * dtype.bytes, pitch)
            limit = {"value": 0.0} if shape.activation == "relu" else {}
            core.emit(
                ACTIVATIONS[shape.activation], out=target, out_pitch=pitch, a=raw, a_pitch=raw_pitch,
                rows=self.tile_rows, columns=width, out_dtype=dtype.name, a_dtype=FP32.name, **limit,
            )  # fmt: skip
            core.pop(raw)
            if later:
                core.push(target)
                core.compute("div", self.out_offset, shape.out_dtype.bytes, pitch)
                with core.scratch() as outputs:
                    core.subtract(core.load_argument("outputs", outputs), pitch, pitch)
                core.emit(
                    "vlimit", out=out, out_pitch=self.tile_bytes, a=target, a_pitch=raw_pitch, first=pitch,
                    rows=self.tile_rows, columns=width, out_dtype=shape.out_dtype.name, a_dtype=FP32.name, value=0.0,
                )  # fmt: skip
                core.pop(target)


def lower(context: Lowering, op: Operation) -> None:
    """Launch `x @ W.T` with bias or residual."""
    mapping = context.mapped.linears[op.name]
    x, out = context.region(op.inputs[0]), context.region(op.outputs[0])
    initial: ArgumentValue = 0
    initial_pitch = 0
    if mapping.shape.has_bias:
        initial = context.packed(op, 2)
    if mapping.shape.has_residual:
        residual = context.region(op.inputs[3])
        initial, initial_pitch = context.address(residual), residual.pitch_bytes
    arguments: dict[str, ArgumentValue] = {
        "x": context.address(x), "x_pitch": x.pitch_bytes, "weight": context.packed(op, 1),
        "out": context.address(out), "out_pitch": out.pitch_bytes, "rows": x.rows, "k_bytes": mapping.k_bytes,
        "out_bytes": out.row_bytes, "chunks": mapping.chunks, "row_rounds": mapping.row_rounds,
        "output_tiles": mapping.output_tiles, "initial": initial, "initial_pitch": initial_pitch,
    }  # fmt: skip
    if mapping.shape.activation == "sigmoid":
        arguments["outputs"] = mapping.shape.outputs
    kernel = context.kernel(("linear", mapping), lambda: build(mapping, context.machine))
    grid = (mapping.grid_rows, mapping.grid_columns)
    context.launch(op, kernel, grid, arguments, mapping.useful_macs, mapping.issued_macs)
