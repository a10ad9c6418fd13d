"""How fast random rows of a table can come at best: every PE gathers them as deep as its local memory allows.

    python -m benchmarks.gather_bound [MACHINE ...] [--row-bytes 256] [--rows 6000]

prints, for each machine, what its DRAM channels alone give for such rows (all of them waiting from the start, spread
evenly), and what all PEs together reach through queues, network and uneven channels. The second is the bound that a
look-up of an embedding is held to: nothing is added up, nothing written, no index is waited for.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.launches import profile_kernel
from isa.machine import PRESETS, Machine, preset
from isa.program import Argument
from simulator.dram_check import bus_efficiency

ROW_BYTES = 256
"""A row of 128 elements in fp16, as in the tables of DLRM."""
ROWS_OF_A_PE = 6000
"""Rows that each PE fetches: what comes before the first and after the last is a hundredth of the time."""
ROWS_OF_A_COMMAND, MOST_SLOTS = 32, 48
_VISITS, _ROWS_OF_A_BANK = 20_000, 30_000
_TABLE_BYTES = 1 << 33

_START = """
.kernel gather
.args commands table
.buffer indices {index_bytes} 1
.buffer rows {slot_bytes} {slots}
.buffer sink 64 1
.core A
    arg r1, 0
    arg r2, 1
    li r3, {row_bytes}
    li r4, {rows}
    li r5, 1
    li r6, {index_bytes}
    fill indices, r0, r0, r5, r6, int8, 0.0
    push indices, 1
    loop r1, end
"""
_INDEXED = """
    dma_gather rows, r0, r3, indices, r0, r2, r3, r4, r3
"""
_ONE_BY_ONE = """
    li r7, 0
    li r9, 0
    loop r4, row
    lw r8, indices, r9
    mul r8, r8, r3
    add r8, r8, r2
    dma_in rows, r7, r0, r8, r0, r5, r3, none
    add r7, r7, r3
row:
"""
_END = """
    push rows, 1
end:
    halt
.core B
    arg r1, 0
    li r2, 1
    loop r1, end
    vabs sink, r0, r0, rows, r0, r0, r2, r2, int8, int8
    pop rows, 1
end:
    halt
"""


def dram_bytes_per_second(machine: Machine, row_bytes: int = ROW_BYTES) -> float:
    """What the channels give for rows drawn at random with their banks, if none ever lacks work."""
    random, timing = np.random.default_rng(0), machine.dram_timing
    bursts = -(-row_bytes // timing.burst_bytes)
    bank = random.integers(0, timing.banks, _VISITS).repeat(bursts)
    row = random.integers(0, _ROWS_OF_A_BANK, _VISITS).repeat(bursts)
    share = bus_efficiency(machine, bank, row, np.zeros(len(bank), np.int64))
    useful = row_bytes / (bursts * timing.burst_bytes)
    return share * useful * machine.dram.ecc_efficiency * machine.dram.bytes_per_second


def gathered_bytes_per_second(machine: Machine, row_bytes: int = ROW_BYTES, rows: int = ROWS_OF_A_PE) -> float:
    """What all PEs reach that fetch random rows of one large table, and drop them."""
    slot_bytes = ROWS_OF_A_COMMAND * row_bytes
    slots = min(MOST_SLOTS, machine.pe.local_memory_bytes * 3 // 4 // slot_bytes)
    text = (_START + (_INDEXED if machine.dma.indexed else _ONE_BY_ONE) + _END).format(
        index_bytes=4 * ROWS_OF_A_COMMAND, slot_bytes=slot_bytes, slots=slots, row_bytes=row_bytes,
        rows=ROWS_OF_A_COMMAND,
    )  # fmt: skip
    commands = rows // ROWS_OF_A_COMMAND
    report = profile_kernel(
        text, [commands, Argument(0, "dram")], machine, machine.grid.rows, machine.grid.columns, {"dram": _TABLE_BYTES}
    )
    (launch,) = report.operations
    return launch.dram_bytes / (launch.cycles / machine.cycles_per_second)


def main() -> None:
    """Print both figures of machines."""
    parser = argparse.ArgumentParser(description="The rate at which random rows of a table can come at best.")
    parser.add_argument("machines", nargs="*", default=list(PRESETS), metavar="MACHINE")
    parser.add_argument("--row-bytes", type=int, default=ROW_BYTES, metavar="N")
    parser.add_argument("--rows", type=int, default=ROWS_OF_A_PE, metavar="N", help="rows that each PE fetches")
    arguments = parser.parse_args()
    print(f"{'machine':<14}{'stream':>10}{'channels':>10}{'gathered':>10}  GB/s, rows of {arguments.row_bytes} bytes")
    for name in arguments.machines:
        machine = preset(name)
        rates = (
            machine.dram_deliverable_bytes_per_second,
            dram_bytes_per_second(machine, arguments.row_bytes),
            gathered_bytes_per_second(machine, arguments.row_bytes, arguments.rows),
        )
        print(f"{name:<14}" + "".join(f"{rate / 1e9:>10.1f}" for rate in rates))


if __name__ == "__main__":
    main()
