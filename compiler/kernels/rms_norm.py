"""`x / sqrt(mean(x^2) + epsilon) * weight`, one row at a time per PE, in fp32 between load and store.

Rows are walked in chunks of columns, so that fp32 temporaries of long rows fit beside the weight, which stays. Where
no PE has two rows, core B loads x, so that core A uses constants only and need not wait until x is there; of a single
row only its PE loads the weight.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Literal

from compiler.graph import Operation, RmsNormAttributes
from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, Register, round_up
from compiler.kernels.dealing import dealt_items, one_item, row_address
from compiler.lowering import ArgumentValue, Lowering
from isa.dtypes import Dtype
from isa.errors import UnsupportedError
from isa.kernel import Kernel
from isa.machine import Machine

ARGUMENTS = ("x", "x_pitch", "weight", "out", "out_pitch", "rows")
LARGEST_CHUNK = 4096
Rows = Literal["one", "one per PE", "many"]
"""How many rows there are."""


@dataclass(frozen=True, slots=True)
class RmsNormShape:
    """True columns of a row (for the mean), columns with padding, epsilon, element type; rows, if no PE has two."""

    columns: int
    padded_columns: int
    epsilon: float
    dtype: Dtype
    rows: Rows = "many"


@dataclass(frozen=True, slots=True)
class _Buffers:
    x: BufferHandle
    weight: BufferHandle
    wide: BufferHandle
    partial: BufferHandle
    statistic: BufferHandle
    out: BufferHandle


def build(machine: Machine, shape: RmsNormShape) -> Kernel:
    """Return the kernel; raises UnsupportedError if a row does not fit in local memory."""
    for chunk, x_slots in (
        (LARGEST_CHUNK, 2 if shape.rows == "many" else 1),
        (LARGEST_CHUNK, 1),
        (LARGEST_CHUNK // 4, 1),
    ):
        chunk = min(chunk, shape.padded_columns)
        if _local_bytes(shape, chunk, x_slots) <= machine.pe.local_memory_bytes:
            return _build(shape, machine, chunk, x_slots)
    what = f"a row of {shape.columns} elements does not fit in local memory"
    raise UnsupportedError(what, where="rms_norm", help="use a machine with a larger pe.local_memory_bytes")


def _local_bytes(shape: RmsNormShape, chunk: int, x_slots: int) -> int:
    row = shape.padded_columns
    buffers = (
        x_slots * row * shape.dtype.bytes,
        row * 4,
        chunk * 4,
        4 * (row // chunk + 1),
        64,
        2 * chunk * shape.dtype.bytes,
    )
    return sum(round_up(size, 64) for size in buffers)


def _build(shape: RmsNormShape, machine: Machine, chunk: int, x_slots: int) -> Kernel:
    row, size = shape.padded_columns, shape.dtype.bytes
    chunks = [(start, min(chunk, row - start)) for start in range(0, row, chunk)]
    builder = KernelBuilder(f"rms_norm_{shape.columns}", machine, ARGUMENTS)
    buffers = _Buffers(
        x=builder.buffer("x", row * size, x_slots, shared=True),
        weight=builder.buffer("weight", row * 4, 1, shared=shape.rows == "one"),
        wide=builder.buffer("wide", chunk * 4, 1, shared=True),
        partial=builder.buffer("partial", len(chunks) * 4, 1, shared=True),
        statistic=builder.buffer("statistic", 4, 2, shared=True),
        out=builder.buffer("out", chunk * size, 2 if shape.rows == "many" else min(2, len(chunks)), shared=True),
    )
    core_a, core = builder.core_a, builder.core_b
    _load_weight(core_a, buffers, shape, machine)
    core_a.await_inputs()
    if shape.rows == "many":
        with _rows(core_a, shape) as item:
            _load_x(core_a, buffers, shape, item)
    with _rows(core, shape) as item, core.scratch() as address:
        if shape.rows != "many":
            _load_x(core, buffers, shape, item)
        _statistic(core, buffers, shape, chunks)
        row_address(core, "out", "out_pitch", item, address)
        _scale(core, buffers, shape, chunks, address)
        if shape.rows == "one":
            core.pop(buffers.weight)
    return builder.build()


def _rows(core: CoreBuilder, shape: RmsNormShape) -> AbstractContextManager[Register]:
    rows = core.argument("rows")
    return dealt_items(core, rows) if shape.rows == "many" else one_item(core, rows)


def _load_weight(core: CoreBuilder, buffers: _Buffers, shape: RmsNormShape, machine: Machine) -> None:
    """Load the weight for good, or for the only row."""
    with ExitStack() as of_row:
        if shape.rows == "one":
            of_row.enter_context(_rows(core, shape))
        core.emit(
            "dma_in", out=buffers.weight, address=core.argument("weight"), rows=1, row_bytes=shape.padded_columns * 4,
            broadcast="all" if machine.dma.broadcast_reads and shape.rows != "one" else "none",
        )  # fmt: skip
        core.push(buffers.weight)


def _load_x(core: CoreBuilder, buffers: _Buffers, shape: RmsNormShape, item: Register) -> None:
    with core.scratch() as address:
        row_address(core, "x", "x_pitch", item, address)
        core.emit("dma_in", out=buffers.x, address=address, rows=1, row_bytes=shape.padded_columns * shape.dtype.bytes)
    core.push(buffers.x)


def _statistic(core: CoreBuilder, buffers: _Buffers, shape: RmsNormShape, chunks: list[tuple[int, int]]) -> None:
    """Leave `1 / sqrt(mean(x^2) + epsilon)` in the read slot of `statistic`."""
    name, wide, partial, statistic = shape.dtype.name, buffers.wide, buffers.partial, buffers.statistic
    for index, (start, width) in enumerate(chunks):
        with core.scratch() as offset:
            core.copy(start * shape.dtype.bytes, offset)
            core.emit(
                "vmul", out=wide, a=buffers.x, a_offset=offset, b=buffers.x, b_offset=offset, rows=1, columns=width,
                out_dtype="fp32", a_dtype=name, b_dtype=name,
            )  # fmt: skip
            core.push(wide)
            core.copy(index * 4, offset)
            core.emit(
                "rowsum",
                out=partial,
                out_offset=offset,
                a=wide,
                rows=1,
                columns=width,
                out_dtype="fp32",
                a_dtype="fp32",
            )
            core.pop(wide)
    core.push(partial)
    core.emit("rowsum", out=statistic, a=partial, rows=1, columns=len(chunks), out_dtype="fp32", a_dtype="fp32")
    core.push(statistic)
    core.pop(partial)
    _replace(core, statistic, "vmuls", value=1.0 / shape.columns)
    _replace(core, statistic, "vadds", value=shape.epsilon)
    _replace(core, statistic, "vrsqrt")


def _replace(core: CoreBuilder, buffer: BufferHandle, name: str, **operands: float) -> None:
    core.emit(name, out=buffer, a=buffer, rows=1, columns=1, out_dtype="fp32", a_dtype="fp32", **operands)
    core.push(buffer)
    core.pop(buffer)


def _scale(
    core: CoreBuilder, buffers: _Buffers, shape: RmsNormShape, chunks: list[tuple[int, int]], address: Register
) -> None:
    name, wide, out = shape.dtype.name, buffers.wide, buffers.out
    for start, width in chunks:
        with core.scratch() as offset:
            core.copy(start * shape.dtype.bytes, offset)
            core.emit(
                "vmul", out=wide, a=buffers.x, a_offset=offset, b=buffers.statistic, rows=1, columns=width,
                out_dtype="fp32", a_dtype=name, b_dtype="fp32", spread="column",
            )  # fmt: skip
            core.push(wide)
            core.copy(start * 4, offset)
            core.emit(
                "vmul", out=out, a=wide, b=buffers.weight, b_offset=offset, rows=1, columns=width, out_dtype=name,
                a_dtype="fp32", b_dtype="fp32",
            )  # fmt: skip
        core.push(out)
        core.pop(wide)
        core.emit("dma_out", address=address, a=out, rows=1, row_bytes=width * shape.dtype.bytes)
        core.pop(out)
        core.increase(address, width * shape.dtype.bytes)
    core.pop(buffers.statistic)
    core.pop(buffers.x)


def lower(context: Lowering, op: Operation) -> None:
    """Launch a norm; rows are dealt over the PEs."""
    assert isinstance(op.attributes, RmsNormAttributes)
    x, out = context.region(op.inputs[0]), context.region(op.outputs[0])
    padded = out.row_bytes // context.dtype.bytes
    rows: Rows = "one" if x.rows == 1 else "one per PE" if x.rows <= context.machine.pe_count else "many"
    shape = RmsNormShape(x.columns, padded, op.attributes.epsilon, context.dtype, rows)
    kernel = context.kernel(build, shape)
    arguments: dict[str, ArgumentValue] = {
        "x": context.address(x), "x_pitch": x.pitch_bytes, "weight": context.packed(op, 1),
        "out": context.address(out), "out_pitch": out.pitch_bytes, "rows": x.rows,
    }  # fmt: skip
    grid = context.machine.grid
    rectangle = context.rectangle(x.rows) if rows == "many" else (grid.rows, grid.columns)
    context.launch(op, kernel, rectangle, arguments)
