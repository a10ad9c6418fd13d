"""Element-wise operations of one or two tensors of the same shape: core A loads pieces of rows, core B computes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from compiler.graph import Operation
from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, Register
from compiler.kernels.dealing import cut_rows, dealt_pieces, row_address
from compiler.lowering import ArgumentValue, Lowering
from isa.dtypes import Dtype
from isa.kernel import Kernel
from isa.machine import Machine

LARGEST_PIECE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Recipe:
    """`instruction(a, b)`, or with `first`: `instruction(first(a), b)`, where `first(a)` stays in fp32."""

    instruction: str
    first: str | None = None


RECIPES: Mapping[str, Recipe] = {
    "add": Recipe("vadd"),
    "mul": Recipe("vmul"),
    "swiglu": Recipe("vmul", first="vsilu"),
}
"""Kinds with two inputs."""

ARGUMENTS = ("a", "a_pitch", "b", "b_pitch", "out", "out_pitch", "items", "pieces", "row_bytes")


def build(kind: str, machine: Machine, dtype: Dtype, piece_bytes: int) -> Kernel:
    """Return the kernel for pieces of `piece_bytes`."""
    recipe = RECIPES[kind]
    builder = KernelBuilder(f"{kind}_{piece_bytes}", machine, ARGUMENTS)
    a, b = builder.buffer("a", piece_bytes, 2), builder.buffer("b", piece_bytes, 2)
    out = builder.buffer("out", piece_bytes, 2)
    first = builder.buffer("first", piece_bytes // dtype.bytes * 4, 1) if recipe.first else None
    _load(builder.core_a, (a, b), piece_bytes)
    _compute(builder.core_b, recipe, (a, b, out, first), dtype, piece_bytes)
    return builder.build()


def _load(core: CoreBuilder, buffers: tuple[BufferHandle, BufferHandle], piece_bytes: int) -> None:
    with _pieces(core, piece_bytes) as (row, offset, size), core.scratch() as address:
        for name, buffer in zip(("a", "b"), buffers, strict=True):
            row_address(core, name, f"{name}_pitch", row, address)
            core.increase(address, offset)
            core.emit("dma_in", out=buffer, address=address, rows=1, row_bytes=size)
            core.push(buffer)


def _pieces(core: CoreBuilder, piece_bytes: int) -> AbstractContextManager[tuple[Register, Register, Register]]:
    items, pieces, row_bytes = (core.argument(name) for name in ("items", "pieces", "row_bytes"))
    return dealt_pieces(core, items, pieces, row_bytes, piece_bytes)


def _compute(
    core: CoreBuilder,
    recipe: Recipe,
    buffers: tuple[BufferHandle, BufferHandle, BufferHandle, BufferHandle | None],
    dtype: Dtype,
    piece_bytes: int,
) -> None:
    a, b, out, first = buffers
    with _pieces(core, piece_bytes) as (row, offset, size), core.scratch() as elements, core.scratch() as address:
        core.compute("div", size, dtype.bytes, elements)
        left, left_dtype = a, dtype.name
        if first is not None and recipe.first is not None:
            core.emit(recipe.first, out=first, a=a, rows=1, columns=elements, out_dtype="fp32", a_dtype=dtype.name)
            core.push(first)
            core.pop(a)
            left, left_dtype = first, "fp32"
        core.emit(
            recipe.instruction, out=out, a=left, b=b, rows=1, columns=elements, out_dtype=dtype.name,
            a_dtype=left_dtype, b_dtype=dtype.name,
        )  # fmt: skip
        core.push(out)
        core.pop(left)
        core.pop(b)
        _store(core, out, row, offset, size, address)


def _store(
    core: CoreBuilder, out: BufferHandle, row: Register, offset: Register, size: Register, address: Register
) -> None:
    row_address(core, "out", "out_pitch", row, address)
    core.increase(address, offset)
    core.emit("dma_out", address=address, a=out, rows=1, row_bytes=size)
    core.pop(out)


def lower(context: Lowering, op: Operation) -> None:
    """Launch an element-wise operation."""
    a, b, out = (context.region(name) for name in (*op.inputs, *op.outputs))
    pieces = cut_rows(out.rows, out.row_bytes, context.machine.pe_count, LARGEST_PIECE_BYTES)
    items = out.rows * pieces.count
    kernel = context.kernel(
        (op.kind, pieces.piece_bytes), lambda: build(op.kind, context.machine, context.dtype, pieces.piece_bytes)
    )
    arguments: dict[str, ArgumentValue] = {
        "a": context.address(a), "a_pitch": a.pitch_bytes, "b": context.address(b), "b_pitch": b.pitch_bytes,
        "out": context.address(out), "out_pitch": out.pitch_bytes, "items": items, "pieces": pieces.count,
        "row_bytes": out.row_bytes,
    }  # fmt: skip
    context.launch(op, kernel, context.rectangle(items), arguments)
