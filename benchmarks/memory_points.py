"""Micro-benchmarks of shared SRAM and the network: kernels with a known pattern, and the bound no chip can beat.

A bound is the longest that a bank, a link or an FI port is busy; latencies are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.launches import profile_kernel
from isa.machine import Machine
from isa.memory_map import SRAM_BASE
from isa.network import Mode, Pattern, link_cycles
from simulator import Report

TRANSFER_BYTES, MOST_TRIPS = 8192, 512
MOST_SLOTS = 20

_READ = """
.kernel {name}
.args source row_step column_step trip_step rows pitch row_bytes
.buffer tile {tile_bytes} {slots}
.buffer rest 32 1
.buffer out {tile_bytes} 1
.core A
    arg r1, 0
    arg r2, 1
    coord r3, row
    mul r2, r2, r3
    add r1, r1, r2
    arg r2, 2
    coord r3, column
    mul r2, r2, r3
    add r1, r1, r2
    arg r4, 3
    arg r5, 4
    arg r6, 5
    arg r7, 6
    li r8, {trips}
    loop r8, end
    dma_in tile, r0, r7, r1, r6, r5, r7, {mode}
    push tile, 1
    add r1, r1, r4
end:
    halt
.core B
    li r1, 1
    li r2, {tile_bytes}
    arg r3, 0
    {prepare}
    li r8, {trips}
    loop r8, end
    copy rest, r0, r0, tile, r0, r0, r1, r1
    pop tile, 1
    {write}
end:
    halt
"""
_PREPARE = """
    arg r3, 0
    li r4, {image_bytes}
    add r3, r3, r4
    coord r4, row
    coord r5, columns
    mul r4, r4, r5
    coord r5, column
    add r4, r4, r5
    li r5, {per_pe}
    mul r4, r4, r5
    add r3, r3, r4
    fill out, r0, r0, r1, r2, int8, 0.0
    push out, 1
"""
_WRITE = """
    dma_out r3, r0, out, r0, r0, r1, r2
    add r3, r3, r2
"""


@dataclass(frozen=True)
class Point:
    """A pattern on the whole grid: how groups read, from where, and whether every PE writes as much elsewhere."""

    name: str
    mode: Mode
    hits_one_slice: bool = False
    writes: bool = False

    def groups(self, machine: Machine) -> int:
        """Groups that read data of their own."""
        rows, columns = machine.grid.rows, machine.grid.columns
        return {"none": rows * columns, "row": rows, "column": columns, "all": 1}[self.mode]

    def trips(self, machine: Machine) -> int:
        """Transfers of each PE: so many that latency does not count, if half of SRAM holds what they read."""
        if self.hits_one_slice:
            return MOST_TRIPS // 8
        return min(MOST_TRIPS, machine.sram.bytes // 2 // (self.groups(machine) * TRANSFER_BYTES))

    def bytes_per_group(self, machine: Machine) -> int:
        """Bytes that each group reads."""
        return self.trips(machine) * (
            self._slice_rows(machine) * machine.sram.interleave_bytes if self.hits_one_slice else TRANSFER_BYTES
        )

    @staticmethod
    def _slice_rows(machine: Machine) -> int:
        """Interleave units that differ by a pitch of one unit less than there are slices, and so share a slice."""
        return max(machine.sram.slices - 1, 1)

    def report(self, machine: Machine) -> Report:
        """Simulate one launch of the kernel."""
        sram, per_group = machine.sram, self.bytes_per_group(machine)
        trips = self.trips(machine)
        size = per_group // trips
        rows, columns = machine.grid.rows, machine.grid.columns
        row_step = {"none": columns, "row": 1}.get(self.mode, 0) * per_group
        column_step = {"none": 1, "column": 1}.get(self.mode, 0) * per_group
        source, image, shape = SRAM_BASE, self.groups(machine) * per_group, [row_step, column_step, size, 1, 0, size]
        if self.hits_one_slice:
            unit, count = sram.interleave_bytes, sram.slices
            source, image = SRAM_BASE + (2 * count - 1) * unit, count**2 * unit
            shape = [0, 0, 0, self._slice_rows(machine), (count - 1) * unit, unit]
        text = _READ.format(
            name="pattern", tile_bytes=size, trips=trips,
            slots=min(MOST_SLOTS, machine.pe.local_memory_bytes // 2 // size), mode=self.mode,
            prepare=_PREPARE.format(image_bytes=image, per_pe=per_group) if self.writes else "",
            write=_WRITE if self.writes else "",
        )  # fmt: skip
        total = image + (rows * columns * per_group if self.writes else 0)
        return profile_kernel(text, [source, *shape], machine, rows, columns, {"sram": total})

    def bound_cycles(self, machine: Machine) -> float:
        """The longest that a resource is busy."""
        rows, columns, per_group = machine.grid.rows, machine.grid.columns, self.bytes_per_group(machine)
        read = self.groups(machine) * per_group
        written = rows * columns * per_group if self.writes else 0
        unit, slices = (0 if self.hits_one_slice else None), machine.sram.slices
        links = link_cycles(machine, Pattern(rows, columns, self.mode, slices, unit))
        back = (
            link_cycles(machine, Pattern(rows, columns, "write", slices, unit)) if self.writes else (0.0,) * len(links)
        )
        busiest_link = per_group * max(one + other for one, other in zip(links, back, strict=True))
        fi = (per_group + written / (rows * columns)) / machine.dma.bytes_per_cycle
        busiest_slice = (read + written) * (slices if self.hits_one_slice else 1) / machine.sram.bytes_per_cycle
        return max(busiest_link, fi, busiest_slice)


POINTS = (
    Point("all PEs read one slice", "none", hits_one_slice=True),
    Point("uniform reads of SRAM", "none"),
    Point("all to all through SRAM", "none", writes=True),
    Point("a stream per row, broadcast", "row"),
    Point("a stream per column, broadcast", "column"),
    Point("one stream to all, broadcast", "all"),
)
