"""The traffic mixes that the energy figures were fitted to.

Every PE multiplies without pause, while SRAM and DRAM deliver a stated share of what they can. The host link, whose
traffic is not part of a launch, is added at its share.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.launches import profile_kernel
from isa.machine import Machine
from isa.memory_map import DRAM_BASE, SRAM_BASE
from simulator import Report
from simulator.energy import DRAM_PARTS

TRIPS, BLOCK_STEPS = 128, 32
"""Trips of the kernel, and blocks of K that each multiplies on the way."""
_UNIT_BYTES = 64
_LARGEST_COMMAND_BLOCKS = 32
_LOSSLESS = 0.97
"""Share of the deliverable DRAM rate that is asked for at most, so that the matrix engine never waits for it."""

_TEXT = """
.kernel mix
.args sram dram sram_bytes dram_bytes k_blocks repeats
.buffer a {operand_bytes} 1
.buffer b {operand_bytes} 1
.buffer near {sram_bytes} 4
.buffer far {dram_bytes} 8
.buffer rest 64 1
.core A
    coord r1, row
    coord r2, columns
    mul r1, r1, r2
    coord r2, column
    add r1, r1, r2
    arg r3, 2
    arg r4, 3
    muli r5, r3, {trips}
    mul r5, r5, r1
    arg r6, 0
    add r6, r6, r5
    muli r5, r4, {trips}
    mul r5, r5, r1
    arg r7, 1
    add r7, r7, r5
    li r1, 1
    li r8, {trips}
    loop r8, end
    dma_in near, r0, r0, r6, r0, r1, r3, none
    push near, 1
    dma_in far, r0, r0, r7, r0, r1, r4, none
    push far, 1
    add r6, r6, r3
    add r7, r7, r4
end:
    halt
.core B
    li r1, 1
    li r2, {operand_bytes}
    fill a, r0, r0, r1, r2, int8, 0.0
    push a, 1
    fill b, r0, r0, r1, r2, int8, 0.0
    push b, 1
    arg r3, 4
    arg r4, 5
    muli r5, r3, {block_k_bytes}
    li r6, {block_rows}
    li r8, {trips}
    loop r8, end
    loop r4, multiplied
    mml bank0, a, r0, r5, b, r0, r5, r6, r6, r3, {dtype}, add
multiplied:
    copy rest, r0, r0, near, r0, r0, r1, r1
    pop near, 1
    copy rest, r0, r0, far, r0, r0, r1, r1
    pop far, 1
end:
    halt
"""


@dataclass(frozen=True)
class Mix:
    """Shares of the peak rates of SRAM, DRAM and host link, beside a matrix engine that never waits."""

    name: str
    sram: float
    dram: float
    host: float

    def report(self, machine: Machine, dtype: str) -> Report:
        """Simulate the mix on the whole grid; DRAM gives no more than it can deliver."""
        matrix = machine.matrix
        k_blocks = min(_LARGEST_COMMAND_BLOCKS, matrix.max_repeat_blocks)
        cycles = BLOCK_STEPS * matrix.block_rows / (matrix.tiles * matrix.rate_by_dtype[dtype])
        dram = min(self.dram * machine.dram.bytes_per_second, _LOSSLESS * machine.dram_deliverable_bytes_per_second)
        near = _whole(cycles * self.sram * machine.sram.bytes_per_cycle / machine.pe_count)
        far = _whole(cycles * dram / machine.cycles_per_second / machine.pe_count)
        text = _TEXT.format(
            operand_bytes=k_blocks * matrix.block_rows * matrix.block_k_bytes, sram_bytes=near, dram_bytes=far,
            trips=TRIPS, block_k_bytes=matrix.block_k_bytes, block_rows=matrix.block_rows, dtype=dtype,
        )  # fmt: skip
        arguments = [SRAM_BASE, DRAM_BASE, near, far, k_blocks, BLOCK_STEPS // k_blocks]
        per_trip = TRIPS * machine.pe_count
        sizes = {"sram": near * per_trip, "dram": far * per_trip}
        return profile_kernel(text, arguments, machine, machine.grid.rows, machine.grid.columns, sizes)

    def watts(self, machine: Machine, dtype: str) -> float:
        """Power of the chip while the launch runs, the host link at its share included."""
        operation = self.report(machine, dtype).operations[0]
        joules = sum(part for name, part in operation.energy_parts_joules.items() if name not in DRAM_PARTS)
        host = self.host * machine.control.host_bytes_per_second * 8 * machine.energy.host_per_bit * 1e-12
        return joules / (operation.cycles / machine.cycles_per_second) + host


def _whole(size: float) -> int:
    return max(_UNIT_BYTES, round(size / _UNIT_BYTES) * _UNIT_BYTES)


GEMM = Mix("a GEMM stream", sram=0.5, dram=0.5, host=0.1)
ALL_UNITS = Mix("all units at peak", sram=1.0, dram=1.0, host=1.0)
