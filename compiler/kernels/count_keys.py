"""Positions of new tokens behind sequences of different lengths: the ones of each row of flags, less one.

One PE does it: a row of flags is a few kilobytes, and there is one row per sequence.
"""

from __future__ import annotations

from compiler.graph import Operation
from compiler.kernel_builder import KernelBuilder, OperandValue
from compiler.kernels.dealing import INDEX_BYTES
from compiler.lowering import ArgumentValue, Lowering
from compiler.packing import padded_row_bytes
from isa.dtypes import INT32
from isa.kernel import Kernel
from isa.machine import Machine

ARGUMENTS = ("flags", "flags_pitch", "keys", "out")


def build(machine: Machine, rows: int, row_bytes: int) -> Kernel:
    """Return the kernel for `rows` sequences and flags of at most `row_bytes` each."""
    builder = KernelBuilder(f"count_keys_{rows}", machine, ARGUMENTS)
    flags = builder.buffer("flags", row_bytes, 2)
    out_bytes = padded_row_bytes(rows, INT32)
    counts, limited, out = (builder.buffer(name, out_bytes, 1) for name in ("counts", "limited", "out"))
    a, b = builder.core_a, builder.core_b
    with a.scratch() as address:
        a.copy(a.argument("flags"), address)
        with a.loop(rows):
            a.emit("dma_in", out=flags, address=address, rows=1, row_bytes=row_bytes)
            a.push(flags)
            a.increase(address, a.argument("flags_pitch"))
    with b.scratch() as offset:
        b.copy(0, offset)
        with b.loop(rows):
            b.emit(
                "rowsum", out=counts, out_offset=offset, a=flags, rows=1, columns=b.argument("keys"), out_dtype="int32",
                a_dtype="int32",
            )  # fmt: skip
            b.pop(flags)
            b.increase(offset, INDEX_BYTES)
    b.push(counts)
    both: dict[str, OperandValue] = {
        "rows": 1,
        "columns": out_bytes // INDEX_BYTES,
        "out_dtype": "int32",
        "a_dtype": "int32",
    }
    b.emit("vlimit", out=limited, a=counts, first=rows, value=1.0, **both)  # so that the row's padding becomes 0
    b.push(limited)
    b.pop(counts)
    b.emit("vadds", out=out, a=limited, value=-1.0, **both)
    b.push(out)
    b.pop(limited)
    b.emit("dma_out", address=b.argument("out"), a=out, rows=1, row_bytes=out_bytes)
    b.pop(out)
    return builder.build()


def lower(context: Lowering, op: Operation) -> None:
    """Launch the count on one PE; only the flags of keys that there are count."""
    flags, out = context.region(op.inputs[0]), context.region(op.outputs[0])
    keys = context.mapped.graph.value(op.inputs[0] or "").shape[1]
    kernel = context.kernel(build, out.columns, flags.row_bytes)
    arguments: dict[str, ArgumentValue] = {
        "flags": context.address(flags), "flags_pitch": flags.pitch_bytes, "keys": keys, "out": context.address(out),
    }  # fmt: skip
    context.launch(op, kernel, (1, 1), arguments)
