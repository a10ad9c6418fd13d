"""`x / sqrt(mean(x^2) + epsilon) * weight` in fp32 between load and store; every PE has whole rows.

A PE works on several rows at a time if they are short, so that they wait for each step of the formula together. Long
rows are walked in chunks of columns, so that their fp32 temporaries fit beside the weight. Core B loads x, so that core
A uses constants only and need not wait until x is there; of a single row only its PE loads the weight.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from compiler.graph import Operation, RmsNormAttributes
from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, KernelBuilder, Register, Scalar, round_up
from compiler.kernels.dealing import OnePerPe, one_item, one_per_pe, row_address
from compiler.lowering import ArgumentValue, Lowering
from isa.dtypes import FP32, Dtype
from isa.errors import UnsupportedError
from isa.kernel import Kernel
from isa.machine import Machine

ARGUMENTS = ("x", "x_pitch", "weight", "out", "out_pitch", "rows")
LARGEST_CHUNK = 4096
"""Elements that are worked on at a time, at most: of one row, or of several."""
ASKING_CYCLES = 64
"""In which core B asks for its first rows: at the start of a launch core A lets them come before weights of others."""
PASSES, STEPS = 4, 8
"""Commands on the columns of a row, and commands that wait for each other, on a row or on its statistic."""
Rows = Literal["one", "one per PE", "a block per PE", "many"]
"""How many rows there are; with the last two every PE has some."""


@dataclass(frozen=True, slots=True)
class RmsNormShape:
    """True columns of a row (for the mean), columns with padding, epsilon, element type; rows, and their PEs.

    `block_rows` are the rows that a PE works on at a time; `x_slots` of such blocks are in its memory.
    """

    columns: int
    padded_columns: int
    epsilon: float
    dtype: Dtype
    rows: Rows = "many"
    places: OnePerPe | None = None
    block_rows: int = 1
    x_slots: int = 1


@dataclass(frozen=True, slots=True)
class _Buffers:
    x: BufferHandle
    weight: BufferHandle
    wide: BufferHandle
    statistic: BufferHandle
    out: BufferHandle
    partial: BufferHandle | None = None
    """Sums of the chunks of a row, if there are several."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a shape is worked on: columns of a chunk, slots of x, rows of a block."""

    shape: RmsNormShape
    chunk: int
    x_slots: int

    @property
    def block_rows(self) -> int:
        """Rows of a block, one if rows come in chunks."""
        return max(1, min(self.shape.block_rows, self.chunk // self.shape.padded_columns))

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """First column and width of each chunk."""
        row = self.shape.padded_columns
        return [(start, min(self.chunk, row - start)) for start in range(0, row, self.chunk)]

    @property
    def chunk_columns(self) -> int:
        """Columns of the widest chunk."""
        return self.chunks[0][1]

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return by buffer (bytes of a slot, slots)."""
        row, size, rows, columns = (
            self.shape.padded_columns,
            self.shape.dtype.bytes,
            self.block_rows,
            self.chunk_columns,
        )
        count = len(self.chunks)
        partial = {"partial": (count * FP32.bytes, 1)} if count > 1 else {}
        return {
            "x": (rows * row * size, self.x_slots), "weight": (row * FP32.bytes, 1),
            "wide": (rows * columns * FP32.bytes, 2 if count == 1 else 1), **partial, "statistic": (rows * FP32.bytes, 2),
            "out": (rows * columns * size, 2 if self.shape.rows == "many" else min(2, count)),
        }  # fmt: skip

    @property
    def local_bytes(self) -> int:
        """Bytes of local memory."""
        return sum(round_up(size, 64) * slots for size, slots in self.sizes().values())


def build(machine: Machine, shape: RmsNormShape) -> Kernel:
    """Return the kernel; raises UnsupportedError if a row does not fit in local memory."""
    for chunk, x_slots in ((LARGEST_CHUNK, shape.x_slots), (LARGEST_CHUNK, 1), (LARGEST_CHUNK // 4, 1)):
        layout = _Layout(shape, chunk, x_slots)
        if layout.local_bytes <= machine.pe.local_memory_bytes:
            return _build(layout, machine)
    what = f"a row of {shape.columns} elements does not fit in local memory"
    raise UnsupportedError(what, where="rms_norm", help="use a machine with a larger pe.local_memory_bytes")


def _build(layout: _Layout, machine: Machine) -> Kernel:
    shape = layout.shape
    builder = KernelBuilder(f"rms_norm_{shape.columns}", machine, ARGUMENTS)
    handles = {
        name: builder.buffer(name, *sizes, shared=name != "weight" or shape.rows != "one per PE")
        for name, sizes in layout.sizes().items()
    }
    buffers = _Buffers(**handles)
    _load_weight(builder.core_a, buffers, shape, machine)
    builder.core_a.await_inputs()
    _Normalizer(layout, machine, builder.core_b, buffers).emit()
    return builder.build()


def _load_weight(core: CoreBuilder, buffers: _Buffers, shape: RmsNormShape, machine: Machine) -> None:
    """Load the weight: for all rows, or on the PE of the only one."""
    with ExitStack() as of_row:
        if shape.rows == "one":
            assert shape.places is not None
            of_row.enter_context(one_item(core, core.argument("rows"), shape.places))
        core.emit(
            "dma_in", out=buffers.weight, address=core.argument("weight"), rows=1,
            row_bytes=shape.padded_columns * FP32.bytes,
            broadcast="all" if machine.dma.broadcast_reads and shape.rows != "one" else "none",
        )  # fmt: skip
        core.push(buffers.weight)
    if shape.places is None:
        core.pause(ASKING_CYCLES)


class _Normalizer:
    """Core B."""

    def __init__(self, layout: _Layout, machine: Machine, core: CoreBuilder, buffers: _Buffers) -> None:
        self.layout, self.shape, self.core, self.buffers = layout, layout.shape, core, buffers
        self.lanes = machine.simd.elements_per_cycle
        self.rows: Scalar = 1
        """Rows of the block."""

    def emit(self) -> None:
        """Emit the code of the core."""
        core, shape = self.core, self.shape
        if shape.places is not None:
            with one_item(core, core.argument("rows"), shape.places) as item, core.scratch() as address:
                self._load(row_address(core, "x", "x_pitch", item, address), ZERO)
                self._normalize(row_address(core, "out", "out_pitch", item, address), ZERO)
                if shape.rows == "one":
                    core.pop(self.buffers.weight)
            return
        self._emit_blocks()
        core.pop(self.buffers.weight)

    def _emit_blocks(self) -> None:
        """Work on the rows p, p + P, ... of PE p of P, a block of them at a time; the next one is loaded before."""
        core, shape = self.core, self.shape
        is_single = shape.rows == "a block per PE" and self.layout.block_rows == shape.block_rows
        x, out, left, x_step, out_step = (core.register() for _ in range(5))
        self._find_rows(x, out, left, x_step, out_step)
        if is_single:
            self.rows = left
            self._load(x, x_step)
            self._normalize(out, out_step)
            return
        most = self.layout.block_rows
        self.rows = core.register() if most > 1 else 1
        unloaded = core.copy(left, core.register())
        if self.layout.x_slots > 1:
            self._load_block(x, x_step, unloaded)
        with ExitStack() as body:
            with core.scratch() as blocks:
                core.add(left, most - 1, blocks)
                body.enter_context(core.loop(core.compute("div", blocks, most, blocks)))
            with core.when_less(0, unloaded):
                self._load_block(x, x_step, unloaded)
            self._count(left)
            self._normalize(out, out_step)
            core.increase(left, -most)
            with core.scratch() as step:
                core.increase(out, core.multiply(out_step, most, step))

    def _find_rows(self, x: Register, out: Register, left: Register, x_step: Register, out_step: Register) -> None:
        """Set the addresses of the first row in x and out, how many rows there are, and how far apart they lie."""
        core = self.core
        with core.scratch() as item, core.scratch() as pes, core.scratch() as columns:
            core.load_coordinate("columns", columns)
            core.multiply(core.load_coordinate("row", item), columns, item)
            core.multiply(core.load_coordinate("rows", pes), columns, pes)
            core.increase(item, core.load_coordinate("column", columns))
            for name, address, step in (("x", x, x_step), ("out", out, out_step)):
                row_address(core, name, f"{name}_pitch", item, address)
                core.multiply(pes, core.argument(f"{name}_pitch"), step)
            core.subtract(core.argument("rows"), item, left)
            core.increase(left, pes)
            core.increase(left, -1)
            core.compute("div", left, pes, left)

    def _count(self, left: Register) -> None:
        """Set the rows of the block that comes next of so many rows."""
        if isinstance(self.rows, Register):
            self.core.minimum(left, self.layout.block_rows, self.rows)

    def _load_block(self, x: Register, step: Register, left: Register) -> None:
        """Load the next block of so many rows, and move on."""
        core, most = self.core, self.layout.block_rows
        self._count(left)
        self._load(x, step)
        core.increase(left, -most)
        with core.scratch() as skipped:
            core.increase(x, core.multiply(step, most, skipped))

    def _load(self, address: Register, step: Scalar) -> None:
        row_bytes = self.shape.padded_columns * self.shape.dtype.bytes
        self.core.emit(
            "dma_in", out=self.buffers.x, out_pitch=self._pitch(row_bytes), address=address, address_pitch=step,
            rows=self.rows, row_bytes=row_bytes,
        )  # fmt: skip
        self.core.push(self.buffers.x)

    def _pitch(self, row_bytes: int) -> int:
        """Return how far the rows of a block lie apart; of a single row it does not matter."""
        return 0 if self.rows == 1 else row_bytes

    def _normalize(self, address: Register, step: Scalar) -> None:
        """Normalize the block and store it."""
        if len(self.layout.chunks) == 1:
            self._weigh_beside_statistic()
            self._scale_weighed(address, step)
        else:
            self._find_statistic()
            self._scale(address, step)

    def _weigh_beside_statistic(self) -> None:
        """Leave whole rows times the weight in the read slot of `wide`, and their statistics in that of `statistic`.

        A half of the columns is multiplied wherever the engine would wait for a result.
        """
        core, buffers, columns = self.core, self.buffers, self.layout.chunk_columns
        half = min(columns, round_up(columns // 2, self.lanes))
        self._square(0, columns)
        self._weigh(0, half)
        self._sum(buffers.statistic, 0, columns)
        core.push(buffers.statistic)
        self._weigh(half, columns - half)
        core.push(buffers.wide)
        core.pop(buffers.x)
        self._finish_statistic()

    def _weigh(self, start: int, width: int) -> None:
        """Multiply some columns of x by the weight, into the next slot of `wide`."""
        if not width:
            return
        core, buffers, size = self.core, self.buffers, self.shape.dtype.bytes
        with core.scratch() as offset, core.scratch() as wide_offset:
            core.copy(start * size, offset)
            core.copy(start * FP32.bytes, wide_offset)
            core.emit(
                "vmul", out=buffers.wide, out_offset=wide_offset, out_pitch=self._wide_pitch, a=buffers.x,
                a_offset=offset, a_pitch=self._x_pitch, b=buffers.weight, b_offset=wide_offset, rows=self.rows,
                columns=width, out_dtype="fp32", a_dtype=self.shape.dtype.name, b_dtype="fp32", spread="row",
            )  # fmt: skip

    def _scale_weighed(self, address: Register, step: Scalar) -> None:
        """Multiply weighed rows by their statistics, and store them at an address, `step` apart."""
        core, buffers, name = self.core, self.buffers, self.shape.dtype.name
        columns, row_bytes = self.layout.chunk_columns, self.layout.chunk_columns * self.shape.dtype.bytes
        core.emit(
            "vmul", out=buffers.out, out_pitch=self._pitch(row_bytes), a=buffers.wide, a_pitch=self._wide_pitch,
            b=buffers.statistic, b_pitch=self._pitch(FP32.bytes), rows=self.rows, columns=columns, out_dtype=name,
            a_dtype="fp32", b_dtype="fp32", spread="column",
        )  # fmt: skip
        core.push(buffers.out)
        core.pop(buffers.wide)
        core.emit(
            "dma_out", address=address, address_pitch=step, a=buffers.out, a_pitch=self._pitch(row_bytes),
            rows=self.rows, row_bytes=row_bytes,
        )  # fmt: skip
        core.pop(buffers.out)
        core.pop(buffers.statistic)

    @property
    def _x_pitch(self) -> int:
        return self._pitch(self.shape.padded_columns * self.shape.dtype.bytes)

    @property
    def _wide_pitch(self) -> int:
        return self._pitch(self.layout.chunk_columns * FP32.bytes)

    def _find_statistic(self) -> None:
        """Leave `1 / sqrt(mean(x^2) + epsilon)` of each row in the read slot of `statistic`."""
        core, buffers, chunks = self.core, self.buffers, self.layout.chunks
        assert buffers.partial is not None
        for index, (start, width) in enumerate(chunks):
            self._square(start, width)
            self._sum(buffers.partial, index, width)
        core.push(buffers.partial)
        core.emit(
            "rowsum", out=buffers.statistic, a=buffers.partial, rows=1, columns=len(chunks), out_dtype="fp32",
            a_dtype="fp32",
        )  # fmt: skip
        core.push(buffers.statistic)
        core.pop(buffers.partial)
        self._finish_statistic()

    def _square(self, start: int, width: int) -> None:
        """Leave the squares of some columns in a slot of `wide`."""
        core, x, name = self.core, self.buffers.x, self.shape.dtype.name
        with core.scratch() as offset:
            core.copy(start * self.shape.dtype.bytes, offset)
            core.emit(
                "vmul", out=self.buffers.wide, out_pitch=self._wide_pitch, a=x, a_offset=offset, a_pitch=self._x_pitch,
                b=x, b_offset=offset, b_pitch=self._x_pitch, rows=self.rows, columns=width, out_dtype="fp32",
                a_dtype=name, b_dtype=name,
            )  # fmt: skip
        core.push(self.buffers.wide)

    def _sum(self, into: BufferHandle, index: int, width: int) -> None:
        """Add up each row of a slot of `wide`, to the number of this index in a buffer."""
        core, wide = self.core, self.buffers.wide
        with core.scratch() as offset:
            core.copy(index * FP32.bytes, offset)
            core.emit(
                "rowsum", out=into, out_offset=offset, out_pitch=self._pitch(FP32.bytes), a=wide,
                a_pitch=self._wide_pitch, rows=self.rows, columns=width, out_dtype="fp32", a_dtype="fp32",
            )  # fmt: skip
        core.pop(wide)

    def _finish_statistic(self) -> None:
        """Make statistics of the sums of squares."""
        self._replace("vmuls", value=1.0 / self.shape.columns)
        self._replace("vadds", value=self.shape.epsilon)
        self._replace("vrsqrt")

    def _replace(self, name: str, **operands: float) -> None:
        """Replace each statistic by a function of it."""
        buffer, pitch = self.buffers.statistic, self._pitch(FP32.bytes)
        self.core.emit(
            name, out=buffer, out_pitch=pitch, a=buffer, a_pitch=pitch, rows=self.rows, columns=1, out_dtype="fp32",
            a_dtype="fp32", **operands,
        )  # fmt: skip
        self.core.push(buffer)
        self.core.pop(buffer)

    def _scale(self, address: Register, step: Scalar) -> None:
        """Multiply chunks by statistic and weight, and store the rows at an address, `step` apart."""
        core, shape, buffers = self.core, self.shape, self.buffers
        name, wide, out, size, columns = (
            shape.dtype.name, buffers.wide, buffers.out, shape.dtype.bytes, self.layout.chunk_columns
        )  # fmt: skip
        wide_pitch, out_pitch = self._pitch(columns * FP32.bytes), self._pitch(columns * size)
        with core.scratch() as target:
            core.copy(address, target)
            for start, width in self.layout.chunks:
                with core.scratch() as offset:
                    core.copy(start * size, offset)
                    core.emit(
                        "vmul", out=wide, out_pitch=wide_pitch, a=buffers.x, a_offset=offset, a_pitch=self._x_pitch, b=buffers.statistic,
                        b_pitch=self._pitch(FP32.bytes), rows=self.rows, columns=width, out_dtype="fp32", a_dtype=name,
                        b_dtype="fp32", spread="column",
                    )  # fmt: skip
                    core.push(wide)
                    core.copy(start * FP32.bytes, offset)
                    core.emit(
                        "vmul", out=out, out_pitch=out_pitch, a=wide, a_pitch=wide_pitch, b=buffers.weight,
                        b_offset=offset, rows=self.rows, columns=width, out_dtype=name, a_dtype="fp32", b_dtype="fp32",
                        spread="row",
                    )  # fmt: skip
                core.push(out)
                core.pop(wide)
                core.emit(
                    "dma_out", address=target, address_pitch=step, a=out, a_pitch=out_pitch, rows=self.rows,
                    row_bytes=width * size,
                )  # fmt: skip
                core.pop(out)
                core.increase(target, width * size)
        core.pop(buffers.statistic)
        core.pop(buffers.x)


def _waits_for_results(machine: Machine, columns: int) -> bool:
    """Tell whether the SIMD engine waits for results about as long as it works on a row, or longer.

    If it works longer, rows one by one are better: one is loaded and another one stored meanwhile.
    """
    simd = machine.simd
    return PASSES * columns / simd.elements_per_cycle <= 2 * STEPS * simd.latency_cycles


def lower(context: Lowering, op: Operation) -> None:
    """Launch a norm; rows are dealt over the PEs."""
    assert isinstance(op.attributes, RmsNormAttributes)
    x, out = context.region(op.inputs[0]), context.region(op.outputs[0])
    padded = out.row_bytes // context.dtype.bytes
    places = one_per_pe(context, x.rows)
    most = -(-x.rows // context.machine.pe_count)
    block_rows = max(1, min(most, LARGEST_CHUNK // padded)) if _waits_for_results(context.machine, padded) else 1
    rows: Rows = "many" if most > block_rows else "a block per PE"
    if places is not None:
        rows = "one" if x.rows == 1 else "one per PE"
    x_slots = 2 if most > 2 * block_rows else 1
    shape = RmsNormShape(x.columns, padded, op.attributes.epsilon, context.dtype, rows, places, block_rows, x_slots)
    kernel = context.kernel(build, shape)
    arguments: dict[str, ArgumentValue] = {
        "x": context.address(x), "x_pitch": x.pitch_bytes, "weight": context.packed(op, 1),
        "out": context.address(out), "out_pitch": out.pitch_bytes, "rows": x.rows,
    }  # fmt: skip
    rectangle = places.rectangle(context, x.rows) if places else context.rectangle(x.rows)
    context.launch(op, kernel, rectangle, arguments)
