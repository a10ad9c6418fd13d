"""Rows of a table of integers by int32 ids: core A fetches a row with its scales, core B widens and stores it."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.graph import Operation, WeightFormat
from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, Register
from compiler.kernels.dealing import dealt_items, fetch_row, row_address
from compiler.lowering import ArgumentValue, Lowering
from compiler.packing import padded_row_bytes
from compiler.quantized_packing import integer_row_bytes, stored_dtype
from isa.dtypes import FP32, INT8, Dtype
from isa.errors import UnsupportedError
from isa.kernel import Kernel
from isa.machine import Machine

ARGUMENTS = (
    "ids", "table", "scales", "scales_pitch", "zero_points", "zero_points_pitch", "out", "out_pitch", "items",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class QuantizedRow:
    """One row: elements with the padding of the result, types, and how many elements share a scale."""

    columns: int
    group: int
    integers: Dtype
    dtype: Dtype
    has_zero_points: bool

    @property
    def groups(self) -> int:
        """Scales of a row."""
        return -(-self.columns // self.group)


def build(machine: Machine, row: QuantizedRow, id_bytes: int) -> Kernel:
    """Return the kernel for `id_bytes` of ids."""
    builder = KernelBuilder(f"embedding_int{row.integers.bits}_{row.columns}", machine, ARGUMENTS)
    ids = builder.buffer("ids", id_bytes, 1)
    table_bytes = integer_row_bytes(row.columns, row.integers)
    sizes = {"table": table_bytes, "scales": padded_row_bytes(row.groups, FP32)}
    if row.has_zero_points:
        sizes["zero_points"] = integer_row_bytes(row.groups, INT8)
    buffers = {name: builder.buffer(name, size, 2) for name, size in sizes.items()}
    shifted = builder.buffer("shifted", row.columns * row.dtype.bytes, 1) if row.has_zero_points else None
    out = builder.buffer("out", row.columns * row.dtype.bytes, 2)
    core = builder.core_a
    core.emit(
        "dma_in", out=ids, address=core.argument("ids"), rows=1, row_bytes=id_bytes,
        broadcast="all" if machine.dma.broadcast_reads else "none",
    )  # fmt: skip
    core.push(ids)
    with dealt_items(core, core.argument("items")) as item:
        for name, buffer in buffers.items():
            pitch = table_bytes if name == "table" else core.argument(f"{name}_pitch")
            fetch_row(core, machine, out=buffer, indices=ids, index=item, table=core.argument(name), pitch=pitch,
                      row_bytes=sizes[name])  # fmt: skip
    core = builder.core_b
    with dealt_items(core, core.argument("items")) as item:
        _widen(core, row, buffers, shifted, out)
        _store(core, row, out, item)
    return builder.build()


def _widen(
    core: CoreBuilder,
    row: QuantizedRow,
    buffers: dict[str, BufferHandle],
    shifted: BufferHandle | None,
    out: BufferHandle,
) -> None:
    source, dtype = buffers["table"], row.integers
    if shifted is not None:
        core.emit(
            "vsubg", out=shifted, a=source, b=buffers["zero_points"], rows=1, columns=row.columns,
            out_dtype=row.dtype.name, a_dtype=dtype.name, b_dtype="int8", group=row.group,
        )  # fmt: skip
        core.push(shifted)
        core.pop(source)
        core.pop(buffers["zero_points"])
        source, dtype = shifted, row.dtype
    core.emit(
        "vmulg", out=out, a=source, b=buffers["scales"], rows=1, columns=row.columns, out_dtype=row.dtype.name,
        a_dtype=dtype.name, b_dtype="fp32", group=row.group,
    )  # fmt: skip
    core.push(out)
    core.pop(source)
    core.pop(buffers["scales"])


def _store(core: CoreBuilder, row: QuantizedRow, out: BufferHandle, item: Register) -> None:
    with core.scratch() as address:
        row_address(core, "out", "out_pitch", item, address)
        core.emit("dma_out", address=address, a=out, rows=1, row_bytes=row.columns * row.dtype.bytes)
    core.pop(out)


def lower(context: Lowering, op: Operation, weight_format: WeightFormat) -> None:
    """Launch a look-up of all ids; scales that are one row serve every id."""
    ids, out = context.region(op.inputs[0]), context.region(op.outputs[0])
    columns = out.row_bytes // context.dtype.bytes
    has_zero_points = len(op.inputs) > 3 and op.inputs[3] is not None
    row = QuantizedRow(
        columns, weight_format.block or columns, stored_dtype(weight_format), context.dtype, has_zero_points
    )
    if ids.row_bytes + 4 * columns * context.dtype.bytes > context.machine.pe.local_memory_bytes:
        what = f"{ids.columns} ids of rows of {out.columns} elements at once"
        raise UnsupportedError(what, where=op.name, help="use a shorter sequence")
    pitches = {
        name: (context.packed_bytes(op, index) // _rows(context, op, index)) * (_rows(context, op, index) > 1)
        for index, name in ((2, "scales_pitch"), (3, "zero_points_pitch"))
        if index < len(op.inputs) and op.inputs[index]
    }
    kernel = context.kernel(build, row, ids.row_bytes)
    arguments: dict[str, ArgumentValue] = {
        "ids": context.address(ids), "table": context.packed(op, 1), "scales": context.packed(op, 2),
        "zero_points": context.packed(op, 3) if has_zero_points else 0, "zero_points_pitch": 0,
        "out": context.address(out), "out_pitch": out.pitch_bytes, "items": out.rows, **pitches,
    }  # fmt: skip
    context.launch(op, kernel, context.rectangle(out.rows), arguments)


def _rows(context: Lowering, op: Operation, index: int) -> int:
    rows = context.mapped.graph.value(op.inputs[index] or "").shape[0]
    assert isinstance(rows, int)
    return rows
