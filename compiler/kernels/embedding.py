"""Rows of a table by int32 ids: core A fetches the row that an id chooses (or a piece of it), core B stores it."""

from __future__ import annotations

from contextlib import AbstractContextManager

from compiler.graph import Operation, WeightFormat
from compiler.kernel_builder import CoreBuilder, KernelBuilder, Register
from compiler.kernels import embedding_quantized
from compiler.kernels.dealing import INDEX_BYTES, Pieces, cut_rows, dealt_pieces, fetch_row, row_address
from compiler.lowering import ArgumentValue, Lowering
from isa.errors import UnsupportedError
from isa.kernel import Kernel
from isa.machine import Machine

ARGUMENTS = ("ids", "table", "table_pitch", "out", "out_pitch", "items", "pieces", "row_bytes")
LARGEST_PIECE_BYTES = 16384


def build(machine: Machine, id_bytes: int, piece_bytes: int) -> Kernel:
    """Return the kernel for `id_bytes` of ids and pieces of `piece_bytes`."""
    builder = KernelBuilder(f"embedding_{piece_bytes}", machine, ARGUMENTS)
    ids, rows = builder.buffer("ids", id_bytes, 1), builder.buffer("rows", piece_bytes, 2)
    a, b = builder.core_a, builder.core_b
    a.emit(
        "dma_in", out=ids, address=a.argument("ids"), rows=1, row_bytes=id_bytes,
        broadcast="all" if machine.dma.broadcast_reads else "none",
    )  # fmt: skip
    a.push(ids)
    with _pieces(a, piece_bytes) as (row, offset, size), a.scratch() as address:
        a.add(offset, a.argument("table"), address)
        pitch = a.argument("table_pitch")
        fetch_row(a, machine, out=rows, indices=ids, index=row, table=address, pitch=pitch, row_bytes=size)
    with _pieces(b, piece_bytes) as (row, offset, size), b.scratch() as address:
        row_address(b, "out", "out_pitch", row, address)
        b.increase(address, offset)
        b.emit("dma_out", address=address, a=rows, rows=1, row_bytes=size)
        b.pop(rows)
    return builder.build()


def _pieces(core: CoreBuilder, piece_bytes: int) -> AbstractContextManager[tuple[Register, Register, Register]]:
    items, pieces, row_bytes = (core.argument(name) for name in ("items", "pieces", "row_bytes"))
    return dealt_pieces(core, items, pieces, row_bytes, piece_bytes)


def lower(context: Lowering, op: Operation) -> None:
    """Launch a look-up of all ids; every PE holds all of them."""
    if isinstance(op.attributes, WeightFormat):
        return embedding_quantized.lower(context, op, op.attributes)
    ids, out = context.region(op.inputs[0]), context.region(op.outputs[0])
    limit = context.machine.pe.local_memory_bytes // 2
    if ids.row_bytes > limit:
        what = f"{ids.columns} ids at once"
        raise UnsupportedError(what, where=op.name, help=f"at most {limit // INDEX_BYTES}; use a shorter sequence")
    pieces: Pieces = cut_rows(out.rows, out.row_bytes, context.machine.pe_count, LARGEST_PIECE_BYTES)
    items = out.rows * pieces.count
    kernel = context.kernel(build, ids.row_bytes, pieces.piece_bytes)
    table, table_pitch = context.packed(op, 1) if op.kind == "embedding" else None, out.row_bytes
    if table is None:
        rows = context.region(op.inputs[1])
        table, table_pitch = context.address(rows), rows.pitch_bytes
    arguments: dict[str, ArgumentValue] = {
        "ids": context.address(ids), "table": table, "table_pitch": table_pitch,
        "out": context.address(out), "out_pitch": out.pitch_bytes, "items": items, "pieces": pieces.count,
        "row_bytes": out.row_bytes,
    }  # fmt: skip
    context.launch(op, kernel, context.rectangle(items), arguments)
