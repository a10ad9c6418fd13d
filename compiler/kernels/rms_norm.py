"""`x / sqrt(mean(x^2) + epsilon) * weight` in fp32 between load and store; every PE has whole rows.

A PE works on several rows at a time if they are short, so that they wait for each step of the formula together. Long
rows are walked in chunks of columns, so that their fp32 temporaries fit beside the weight. Core B loads x, so that core
A uses constants only and need not wait until x is there; of a single row only its PE loads the weight.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from compiler.graph import Operation, RmsNormAttributes
from compiler.kernel_builder import ZERO, CoreBuilder, KernelBuilder, Register, Scalar
from compiler.kernels.dealing import one_item, one_per_pe, row_address
from compiler.kernels.rms_norm_block import BlockNormalizer, Buffers, Layout, RmsNormShape, Rows
from compiler.lowering import ArgumentValue, Lowering
from isa.dtypes import FP32
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


def build(machine: Machine, shape: RmsNormShape) -> Kernel:
    """Return the kernel; raises UnsupportedError if a row does not fit in local memory."""
    plain = replace(shape, fills_waits=False)
    for layout in (
        Layout(shape, LARGEST_CHUNK, shape.x_slots), Layout(shape, LARGEST_CHUNK, 1), Layout(plain, LARGEST_CHUNK, 1),
        Layout(plain, LARGEST_CHUNK // 4, 1),
    ):  # fmt: skip
        if layout.local_bytes <= machine.pe.local_memory_bytes:
            return _build(layout, machine)
    what = f"a row of {shape.columns} elements does not fit in local memory"
    raise UnsupportedError(what, where="rms_norm", help="use a machine with a larger pe.local_memory_bytes")


def _build(layout: Layout, machine: Machine) -> Kernel:
    shape = layout.shape
    builder = KernelBuilder(f"rms_norm_{shape.columns}", machine, ARGUMENTS)
    handles = {
        name: builder.buffer(name, *sizes, shared=name != "weight" or shape.rows != "one per PE")
        for name, sizes in layout.sizes().items()
    }
    buffers = Buffers(**handles)
    _load_weight(builder.core_a, buffers, shape, machine)
    builder.core_a.await_inputs()
    _Normalizer(layout, machine, builder.core_b, buffers).emit()
    return builder.build()


def _load_weight(core: CoreBuilder, buffers: Buffers, shape: RmsNormShape, machine: Machine) -> None:
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
    if shape.rows != "one":
        core.pause(ASKING_CYCLES)


class _Normalizer(BlockNormalizer):
    """Core B."""

    def emit(self) -> None:
        """Emit the code of the core."""
        core, shape = self.core, self.shape
        if shape.places is not None:
            with one_item(core, core.argument("rows"), shape.places) as item, core.scratch() as address:
                self._load(row_address(core, "x", "x_pitch", item, address), ZERO)
                self.normalize(row_address(core, "out", "out_pitch", item, address), ZERO)
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
            self.normalize(out, out_step)
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
            self.normalize(out, out_step)
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
    waits = _waits_for_results(context.machine, padded)
    block_rows = max(1, min(most, LARGEST_CHUNK // padded)) if waits else 1
    rows: Rows = "many" if most > block_rows else "a block per PE"
    if places is not None:
        rows = "one" if x.rows == 1 else "one per PE"
    x_slots = 2 if most > 2 * block_rows else 1
    shape = RmsNormShape(
        x.columns, padded, op.attributes.epsilon, context.dtype, rows, places, block_rows, x_slots,
        fills_waits=waits and places is None,
    )  # fmt: skip
    kernel = context.kernel(build, shape)
    arguments: dict[str, ArgumentValue] = {
        "x": context.address(x), "x_pitch": x.pitch_bytes, "weight": context.packed(op, 1),
        "out": context.address(out), "out_pitch": out.pitch_bytes, "rows": x.rows,
    }  # fmt: skip
    rectangle = places.rectangle(context, x.rows) if places else context.rectangle(x.rows)
    context.launch(op, kernel, rectangle, arguments)
