"""The matrix engine's peak by simulation: every PE multiplies the same operands again and again.

What is counted are multiply-accumulates with K dense; `mml_sparse` multiplies half of them.
"""

from __future__ import annotations

from benchmarks.launches import profile_kernel
from isa.dtypes import Dtype
from isa.machine import Machine
from isa.sparsity import compressed_row_bytes
from simulator import Report

PRODUCTS = 4096
"""Multiplications of each PE: what comes before the first and after the last is a thousandth of the time."""
_LARGEST_COMMAND_BLOCKS = 32

_TEXT = """
.kernel peak
.args repeats
.buffer a {a_bytes} 1
.buffer b {b_bytes} 1
.core A
    li r1, 1
    li r2, {a_bytes}
    li r3, {b_bytes}
    fill a, r0, r0, r1, r2, int8, 0.0
    push a, 1
    fill b, r0, r0, r1, r3, int8, 0.0
    push b, 1
    halt
.core B
    arg r1, 0
    li r2, {a_pitch}
    li r3, {b_pitch}
    li r4, {block_rows}
    li r5, {k_blocks}
    loop r1, end
    {instruction} bank0, a, r0, r2, b, r0, r3, r4, r4, r5, {dtype}, add
end:
    halt
"""


def report(machine: Machine, instruction: str, dtype: Dtype, products: int = PRODUCTS) -> Report:
    """Time `mml` or `mml_sparse` of full blocks, one after another, on the whole grid."""
    matrix = machine.matrix
    k_blocks = min(_LARGEST_COMMAND_BLOCKS, matrix.max_repeat_blocks)
    a_pitch = b_pitch = k_blocks * matrix.block_k_bytes
    if instruction == "mml_sparse":
        b_pitch = compressed_row_bytes(a_pitch // dtype.bytes, dtype)
    text = _TEXT.format(
        instruction=instruction, dtype=dtype.name, k_blocks=k_blocks, block_rows=matrix.block_rows, a_pitch=a_pitch,
        b_pitch=b_pitch, a_bytes=matrix.block_rows * a_pitch, b_bytes=matrix.block_rows * b_pitch,
    )  # fmt: skip
    return profile_kernel(text, [products], machine, machine.grid.rows, machine.grid.columns, {})


def macs_per_second(machine: Machine, instruction: str, dtype: Dtype, products: int = PRODUCTS) -> float:
    """Multiply-accumulates per second that the chip reaches, K counted dense."""
    timed = report(machine, instruction, dtype, products)
    dense = 2 if instruction == "mml_sparse" else 1
    return dense * timed.issued_macs / (timed.operations[0].cycles / machine.cycles_per_second)
