"""Pairwise products of the features of each sample: x x^T in accumulators, the chosen runs of it side by side.

Tiles of samples are dealt over the PEs. Core A lays the features of a sample under each other; core B multiplies each
sample's rows with themselves, and the layout unit picks the runs, for all samples of the tile with one command each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from compiler.graph import InteractionAttributes, Operation, Run
from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, OperandValue, Register
from compiler.kernels.dealing import dealt_items
from compiler.lowering import ArgumentValue, Lowering
from isa.dtypes import Dtype
from isa.errors import UnsupportedError
from isa.kernel import Kernel
from isa.machine import Machine

MOST_SAMPLES = 16
"""Samples of a tile."""
SLOTS = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """A tile of `samples` samples with `features` rows of `row_bytes`; `data_bytes` of a row are no padding."""

    features: int
    row_bytes: int
    data_bytes: int
    out_bytes: int
    dtype: Dtype
    runs: tuple[Run, ...]
    prefix: int | None
    samples: int

    @property
    def product_row_bytes(self) -> int:
        """Bytes of a row of x x^T."""
        return self.features * self.dtype.bytes

    @property
    def sample_bytes(self) -> int:
        """Bytes of local memory that one sample needs."""
        prefix = 0 if self.prefix is None else self.row_bytes
        return SLOTS * (self.features * (self.row_bytes + self.product_row_bytes) + prefix + self.out_bytes)


@dataclass(frozen=True, slots=True)
class _Buffers:
    x: BufferHandle
    products: BufferHandle
    prefix: BufferHandle | None
    out: BufferHandle


def build(machine: Machine, plan: Plan) -> Kernel:
    """Return the kernel of a plan."""
    names = [f"{name}_{index}" for index in range(plan.features) for name in ("feature", "pitch")]
    arguments = ("samples", "tiles", "out", "out_pitch", *names)
    builder = KernelBuilder(f"interaction_{plan.features}x{plan.data_bytes}", machine, arguments)
    products = plan.samples * plan.features * plan.product_row_bytes
    buffers = _Buffers(
        builder.buffer("x", plan.samples * plan.features * plan.row_bytes, SLOTS),
        builder.buffer("products", products, SLOTS),
        None if plan.prefix is None else builder.buffer("prefix", plan.samples * plan.row_bytes, SLOTS),
        builder.buffer("out", plan.samples * plan.out_bytes, SLOTS),
    )
    _load(plan, builder.core_a, buffers)
    _Multiplier(plan, machine, builder.core_b, buffers).emit()
    return builder.build()


@contextmanager
def _tiles(plan: Plan, core: CoreBuilder) -> Iterator[tuple[Register, Register]]:
    """Repeat the block for this PE's tiles; yields (first sample, samples)."""
    with dealt_items(core, core.argument("tiles")) as tile, core.scratch() as first, core.scratch() as count:
        core.multiply(tile, plan.samples, first)
        core.subtract(core.argument("samples"), first, count)
        core.minimum(count, plan.samples, count)
        yield first, count


def _load(plan: Plan, core: CoreBuilder, buffers: _Buffers) -> None:
    with _tiles(plan, core) as (first, count):
        for feature in range(plan.features):
            _load_feature(plan, core, feature, (first, count), buffers.x, feature, plan.features)
        core.push(buffers.x)
        if buffers.prefix is not None and plan.prefix is not None:
            _load_feature(plan, core, plan.prefix, (first, count), buffers.prefix, 0, 1)
            core.push(buffers.prefix)


def _load_feature(
    plan: Plan, core: CoreBuilder, feature: int, tile: tuple[Register, Register], out: BufferHandle, row: int, rows: int
) -> None:
    """Load one feature of all samples of a tile into row `row` of `rows` rows per sample."""
    with core.scratch() as address, core.scratch() as pitch, core.scratch() as offset:
        core.multiply(tile[0], core.load_argument(f"pitch_{feature}", pitch), address)
        core.increase(address, core.load_argument(f"feature_{feature}", offset))
        core.copy(row * plan.row_bytes, offset)
        core.emit(
            "dma_in", out=out, out_offset=offset, out_pitch=rows * plan.row_bytes, address=address, address_pitch=pitch,
            rows=tile[1], row_bytes=plan.row_bytes,
        )  # fmt: skip


class _Multiplier:
    """Core B: products, runs, and the way out."""

    def __init__(self, plan: Plan, machine: Machine, core: CoreBuilder, buffers: _Buffers) -> None:
        self.plan, self.machine, self.core, self.buffers = plan, machine, core, buffers
        self.blocks = blocks_of(plan, machine)
        self.unrolled = max(1, min(machine.accumulator.banks // len(self.blocks), 4))

    def emit(self) -> None:
        core, plan, buffers = self.core, self.plan, self.buffers
        with _tiles(plan, core) as (first, count):
            self._multiply_samples(count)
            core.push(buffers.products)
            core.pop(buffers.x)
            self._pick_runs(count)
            core.push(buffers.out)
            core.pop(buffers.products)
            with core.scratch() as address:
                core.multiply(first, core.argument("out_pitch"), address)
                core.increase(address, core.argument("out"))
                core.emit(
                    "dma_out", address=address, address_pitch=core.argument("out_pitch"), a=buffers.out,
                    a_pitch=plan.out_bytes, rows=count, row_bytes=plan.out_bytes,
                )  # fmt: skip
            core.pop(buffers.out)

    def _multiply_samples(self, count: Register) -> None:
        """Multiply sample by sample; neighbours use different banks, so that one drains while the next one fills."""
        core = self.core
        with core.scratch() as x, core.scratch() as product, core.scratch() as sample, core.scratch() as trips:
            for register in (x, product, sample):
                core.copy(0, register)
            core.add(count, self.unrolled - 1, trips)
            core.compute("div", trips, self.unrolled, trips)
            with core.loop(trips):
                for turn in range(self.unrolled):
                    with core.when_less(sample, count):
                        self._multiply_sample(x, product, turn * len(self.blocks))
                    core.increase(x, self.plan.features * self.plan.row_bytes)
                    core.increase(product, self.plan.features * self.plan.product_row_bytes)
                    core.increase(sample, 1)

    def _multiply_sample(self, x: Register, product: Register, first_bank: int) -> None:
        core, plan, held = self.core, self.plan, self.machine.matrix.block_rows
        for index, (row, column) in enumerate(self.blocks):
            bank = (first_bank + index) % self.machine.accumulator.banks
            rows, columns = (min(held, plan.features - start) for start in (row, column))
            with core.scratch() as a, core.scratch() as b, core.scratch() as out:
                core.add(x, row * plan.row_bytes, a)
                core.add(x, column * plan.row_bytes, b)
                self._multiply_block(a, b, {"bank": bank, "rows": rows, "columns": columns})
                core.add(product, row * plan.product_row_bytes + column * plan.dtype.bytes, out)
                core.emit(
                    "acc_drain", out=self.buffers.products, out_offset=out, out_pitch=plan.product_row_bytes, bank=bank,
                    rows=rows, columns=columns, out_dtype=plan.dtype.name,
                )  # fmt: skip

    def _multiply_block(self, a: Register, b: Register, block: dict[str, OperandValue]) -> None:
        """Emit the products of two blocks of rows, in as many commands as the machine's repeat asks for."""
        core, matrix, pitch = self.core, self.machine.matrix, self.plan.row_bytes
        left = pitch // matrix.block_k_bytes
        whole, rest = divmod(left, matrix.max_repeat_blocks)

        def multiply(k_blocks: int, accumulate: str) -> None:
            core.emit(
                self.machine.matrix_instruction(self.plan.dtype.name), a=self.buffers.x, a_offset=a, a_pitch=pitch,
                b=self.buffers.x, b_offset=b, b_pitch=pitch, k_blocks=k_blocks, a_dtype=self.plan.dtype.name,
                accumulate=accumulate, **block,
            )  # fmt: skip

        steps = [matrix.max_repeat_blocks] * min(whole, 1) or [rest]
        multiply(steps[0], "set")
        for trips, k_blocks in ((whole - 1, matrix.max_repeat_blocks), (1 if whole and rest else 0, rest)):
            if trips > 0:
                with core.loop(trips):
                    core.increase(a, matrix.max_repeat_blocks * matrix.block_k_bytes)
                    core.increase(b, matrix.max_repeat_blocks * matrix.block_k_bytes)
                    multiply(k_blocks, "add")

    def _pick_runs(self, count: Register) -> None:
        """Lay prefix, runs and zeros up to the end of the row side by side."""
        core, plan, buffers = self.core, self.plan, self.buffers
        end = 0
        if buffers.prefix is not None:
            core.emit(
                "copy", out=buffers.out, out_pitch=plan.out_bytes, a=buffers.prefix, a_pitch=plan.row_bytes, rows=count,
                row_bytes=plan.data_bytes,
            )  # fmt: skip
            core.pop(buffers.prefix)
            end = plan.data_bytes
        for run in plan.runs:
            size = run.count * plan.dtype.bytes
            with core.scratch() as out, core.scratch() as a, core.scratch() as row_bytes:
                core.copy(end, out)
                core.copy(run.row * plan.product_row_bytes + run.first * plan.dtype.bytes, a)
                core.emit(
                    "copy", out=buffers.out, out_offset=out, out_pitch=plan.out_bytes, a=buffers.products, a_offset=a,
                    a_pitch=plan.features * plan.product_row_bytes, rows=count, row_bytes=core.copy(size, row_bytes),
                )  # fmt: skip
            end += size
        if end < plan.out_bytes:
            with core.scratch() as out:
                core.emit(
                    "fill", out=buffers.out, out_offset=core.copy(end, out), out_pitch=plan.out_bytes, rows=count,
                    columns=(plan.out_bytes - end) // plan.dtype.bytes, out_dtype=plan.dtype.name, value=0.0,
                )  # fmt: skip


def blocks_of(plan: Plan, machine: Machine) -> tuple[tuple[int, int], ...]:
    """Return (first row, first column) of the blocks of x x^T that the runs need."""
    held = machine.matrix.block_rows
    needed = {
        (run.row // held * held, column // held * held)
        for run in plan.runs
        for column in (*range(run.first, run.first + run.count, held), run.first + run.count - 1)
    }
    return tuple(sorted(needed))


def plan_of(context: Lowering, op: Operation, attributes: InteractionAttributes) -> Plan:
    """Choose the samples of a tile; raises UnsupportedError if one sample does not fit in local memory."""
    x, out = context.region(op.inputs[0]), context.region(op.outputs[0])
    machine, data_bytes = context.machine, x.columns * x.dtype.bytes
    plan = Plan(
        sum(attributes.counts), x.row_bytes, data_bytes, out.row_bytes, x.dtype, attributes.runs, attributes.prefix, 1
    )
    fitting = machine.pe.local_memory_bytes // (plan.sample_bytes + SLOTS * 64)
    if fitting < 1:
        what = f"the interaction of {plan.features} features of {data_bytes} bytes, which do not fit in local memory"
        raise UnsupportedError(what, where=op.name, help="use fewer features, or a machine with more local memory")
    return replace(plan, samples=min(-(-out.rows // machine.pe_count), fitting, MOST_SAMPLES))


def lower(context: Lowering, op: Operation) -> None:
    """Launch the products of all samples."""
    attributes, machine = op.attributes, context.machine
    assert isinstance(attributes, InteractionAttributes)
    plan, out = plan_of(context, op, attributes), context.region(op.outputs[0])
    tiles = -(-out.rows // plan.samples)
    arguments: dict[str, ArgumentValue] = {
        "samples": out.rows, "tiles": tiles, "out": context.address(out), "out_pitch": out.pitch_bytes,
    }  # fmt: skip
    feature = 0
    for name, count in zip(op.inputs, attributes.counts, strict=True):
        region = context.region(name)
        for index in range(count):
            arguments[f"feature_{feature}"] = context.address(region, index * region.pitch_bytes)
            arguments[f"pitch_{feature}"] = count * region.pitch_bytes
            feature += 1
    kernel = context.kernel(build, plan)
    elements = plan.row_bytes // plan.dtype.bytes
    useful = out.rows * sum(run.count for run in plan.runs) * (plan.data_bytes // plan.dtype.bytes)
    context.launch(
        op, kernel, context.rectangle(tiles), arguments, useful, out.rows * elements * _issued(plan, machine)
    )


def _issued(plan: Plan, machine: Machine) -> int:
    """Return the products that the matrix commands issue for one sample and one element of K."""
    held, total = machine.matrix.block_rows, 0
    for row, column in blocks_of(plan, machine):
        rows, columns = (min(held, plan.features - start) for start in (row, column))
        total += columns * (held if machine.matrix_instruction(plan.dtype.name) == "mml" else rows)
    return total
