"""What transfers do to banks and links, against a twin that looks at one byte and one link after another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.assembly import parse_assembly
from isa.machine import Machine, preset
from isa.memory_map import DRAM_BASE, SRAM_BASE, fold_count
from isa.network import HOPS, Rectangle
from isa.program import Argument, Entry, Launch, LaunchPart, Program, Storage
from simulator import hardware as hw
from simulator import state
from simulator.launcher import Launcher

SIZE = 1 << 20
MACHINES = (
    {}, {"sram.slices": 4, "sram.banks": 2, "sram.interleave_bytes": 512}, {"noc.topology": "mesh"},
    {"noc.topology": "mesh", "noc.cluster_rows": 2, "noc.cluster_columns": 4, "noc.column_link_bytes_per_cycle": 24},
    {"sram.slices": 7, "sram.bytes": 7 << 24, "sram.cache_step_bytes": 0, "grid.columns": 5},
)  # fmt: skip


@dataclass(frozen=True)
class Transfer:
    """One command that the PEs of a rectangle execute: each alone, or together."""

    is_write: bool
    in_dram: bool
    mode: str
    address: int
    rows: int
    size: int
    pitch: int

    def rows_in_whole(self, access_bytes: int) -> list[range]:
        """The bytes of each row, in whole accesses."""
        starts = [self.address + row * self.pitch for row in range(self.rows)]
        return [
            range(start // access_bytes * access_bytes, -(-(start + self.size) // access_bytes) * access_bytes)
            for start in starts
        ]


TRANSFERS = st.builds(
    Transfer, is_write=st.booleans(), in_dram=st.booleans(), mode=st.sampled_from(["none", "row", "column", "all"]),
    address=st.integers(0, 300_000), rows=st.integers(1, 3), size=st.integers(1, 9000), pitch=st.integers(0, 90_000),
)  # fmt: skip
WHOLE_UNITS = st.builds(
    Transfer, is_write=st.booleans(), in_dram=st.just(False), mode=st.sampled_from(["none", "row"]),
    address=st.integers(0, 500).map(lambda unit: 512 * unit), rows=st.integers(2, 10),
    size=st.integers(1, 5).map(lambda units: 512 * units), pitch=st.integers(0, 150).map(lambda units: 512 * units),
)  # fmt: skip
"""Rows that the simulator serves together."""


def unit_of(address: int, interleave: int, units: int) -> int:
    """The slice or channel of a byte: the sum of the lowest digits of its interleave unit in base `units`."""
    index, digits = address // interleave, 0
    for _ in range(fold_count(units, interleave)):
        digits += index % units
        index //= units
    return digits % units


def bank_ticks(machine: Machine, transfer: Transfer, piece_ticks: int) -> Counter[int]:
    """Ticks of each bank: whole accesses of each piece of a bank, rounded up piece by piece."""
    sram, busy = machine.sram, Counter[int]()
    for row in transfer.rows_in_whole(sram.access_bytes):
        pieces = Counter(byte // sram.bank_interleave_bytes for byte in row)
        for piece, count in pieces.items():
            address = piece * sram.bank_interleave_bytes
            turn = address // sram.interleave_bytes // sram.slices
            bank = unit_of(address, sram.interleave_bytes, sram.slices) * sram.banks + (piece + turn) % sram.banks
            busy[bank] += -(-count * piece_ticks // sram.bank_interleave_bytes)
    return busy


def link_ticks(machine: Machine, transfer: Transfer, targets: list[Rectangle]) -> tuple[Counter[int], int]:
    """Ticks of each link, and the byte-hops: every group sends what came through a port over the route from there."""
    network, busy, hops = machine.network, Counter[int](), 0
    memory = machine.dram if transfer.in_dram else machine.sram
    units = machine.dram.channels if transfer.in_dram else machine.sram.slices
    widths = machine.noc.row_link_bytes_per_cycle, machine.noc.column_link_bytes_per_cycle
    ports = Counter(
        unit_of(byte, memory.interleave_bytes, units) % network.ports
        for row in transfer.rows_in_whole(memory.access_bytes)
        for byte in row
    )
    for target in targets:
        (routes,), numbers = network.routes(np.array([target]), is_write=transfer.is_write)
        for port, size in ports.items():
            for number in numbers[slice(*routes[port][:HOPS])].tolist():
                busy[number] += size * hw.TICKS_PER_CYCLE // widths[network.links[number].is_column]
                hops += size
    return busy, hops


def groups(machine: Machine, transfer: Transfer, corner: tuple[int, int], shape: tuple[int, int]) -> list[Rectangle]:
    """Routers that each group of a launch reaches."""
    rows = [(corner[0] + row) // machine.noc.cluster_rows for row in range(shape[0])]
    columns = [(corner[1] + column) // machine.noc.cluster_columns for column in range(shape[1])]
    if transfer.is_write or transfer.mode == "none":
        return [Rectangle(row, row, column, column) for row in rows for column in columns]
    if transfer.mode == "row":
        return [Rectangle(row, row, columns[0], columns[-1]) for row in rows]
    if transfer.mode == "column":
        return [Rectangle(rows[0], rows[-1], column, column) for column in columns]
    return [Rectangle(rows[0], rows[-1], columns[0], columns[-1])]


def run(machine: Machine, transfer: Transfer, corner: tuple[int, int], shape: tuple[int, int]) -> state.Stats:
    """Return the counters of a launch of that one command."""
    base = DRAM_BASE if transfer.in_dram else SRAM_BASE
    text = f".kernel one\n.args base\n.buffer tile {-(-3 * 9000 // 32) * 32} 1\n.core A\narg r1, 0\n"
    text += f"li r2, {transfer.address}\nadd r1, r1, r2\nli r3, {transfer.pitch}\nli r4, {transfer.rows}\n"
    text += f"li r5, {transfer.size}\n"
    if transfer.is_write:
        text += "li r6, 1\nfill tile, r0, r0, r6, r6, int8, 0.0\npush tile, 1\ndma_out r1, r3, tile, r0, r5, r4, r5\n"
    else:
        text += f"dma_in tile, r0, r5, r1, r3, r4, r5, {transfer.mode}\n"
    text += "halt\n.core B\nhalt\n"
    (kernel,) = parse_assembly(text)
    storage = Storage("memory", "dram" if transfer.in_dram else "sram", base, SIZE, "state")
    launch = Launch("one", 0, *corner, *shape, (Argument(0, "memory"),), (), 0, (LaunchPart("one"),))
    program = Program(machine, (kernel,), (storage,), (), (Entry("main", {}, (), (), (launch,)),))
    return Launcher(program, machine, None).run(launch, {}).stats


@settings(max_examples=80, deadline=None)
@given(TRANSFERS | WHOLE_UNITS, st.sampled_from(MACHINES), st.data())
def test_banks_and_links(transfer: Transfer, changes: dict[str, object], data: st.DataObject) -> None:
    """Any command on any rectangle keeps each bank and each link busy as long as the twin says."""
    machine = preset("mtia-2i").with_changes({**changes, "sram.cache_step_bytes": 0})
    shape = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    corner = data.draw(st.integers(0, machine.grid.rows - shape[0])), data.draw(st.integers(0, 2))
    stats = run(machine, transfer, corner, shape)
    targets = groups(machine, transfer, corner, shape)
    numbers = hw.hardware_of(machine).numbers
    if not transfer.in_dram:
        expected = bank_ticks(machine, transfer, int(numbers[hw.SRAM_PIECE_TICKS]))
        banks = np.flatnonzero(stats.server_busy[state.SRAM_BANKS])
        found = {int(bank): int(stats.server_busy[state.SRAM_BANKS, bank]) for bank in banks}
        assert found == {bank: ticks * len(targets) for bank, ticks in expected.items()}
    links, hops = link_ticks(machine, transfer, targets)
    busy = np.flatnonzero(stats.server_busy[state.LINKS])
    assert {int(link): int(stats.server_busy[state.LINKS, link]) for link in busy} == +links
    assert stats.counts[state.BYTE_HOPS] == hops
