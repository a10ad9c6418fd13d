"""Cycles of small kernels that nothing contends with, against closed forms of `docs/timing.md`, exactly.

The machine has round rates, so that every closed form is a whole number of cycles.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.matrix_peak import macs_per_second
from isa.assembly import parse_assembly
from isa.dtypes import BF16, FP16, INT8, Dtype
from isa.machine import PRESETS, Machine, preset
from isa.memory_map import BASES, DRAM_BASE, SRAM_BASE, Space
from simulator import Report
from tests.simulator.kernels import Job

ROUND: dict[str, object] = {
    "frequency_mhz": 1000.0, "dram.bytes_per_second": 128e9, "dram_timing.refresh": "none",
    "dram_timing.same_group_burst_ns": 0.0,
    "dram.ecc_efficiency": 1.0, "sram.bytes_per_cycle": 2048.0, "pe.local_memory_bytes_per_cycle": 1024,
    "sram.cache_step_bytes": 0,
}  # fmt: skip
"""256 bytes: 32 cycles of one of 16 DRAM channels, 1 of the four banks of one of 8 SRAM slices, 4 of a link or FI."""
REQUEST, HOP, LATENCY = 30, 4, {"sram": 60, "dram": 90}
NEAR, FAR = 1, 8
"""Hops from the first PE to the west port, where unit 0 of a memory is, and to the east and south ports."""
ISSUE, SIMD_LATENCY, MATRIX_LATENCY = 4, 12, 16


def machine(**changes: object) -> Machine:
    """Return a chip with round rates."""
    return preset("mtia-2i").with_changes({**ROUND, **{name.replace("__", "."): new for name, new in changes.items()}})


def job(core_a: str, core_b: str = "halt", buffers: str = "", arguments: tuple[int, ...] = (), rows: int = 1,
        columns: int = 1, chip: Machine | None = None) -> Job:  # fmt: skip
    """Return a kernel of two pieces of code; arguments are named x0, x1, ..."""
    names = " ".join(f"x{index}" for index in range(len(arguments)))
    text = f".kernel timed\n.args {names}\n" if arguments else ".kernel timed\n"
    text += f"{buffers}\n.core A\n{core_a}\n.core B\n{core_b}\n"
    (kernel,) = parse_assembly(text)
    return Job(kernel, chip or machine(), arguments, rows, columns)


def check_account(report: Report, chip: Machine) -> None:
    """No resource is busy for longer than it exists; busy and idle time add up to all time of all instances."""
    counts = dict.fromkeys(("dpe", "se", "re", "mlu", "fi", "local_memory"), chip.pe_count)
    counts |= {"sram": chip.sram.slices * chip.sram.banks, "noc": len(chip.network.links), "dram": chip.dram.channels}
    assert set(counts) == set(report.utilization) == set(report.busy_cycles) == set(report.idle_cycles)
    total = report.latency_seconds * chip.cycles_per_second
    for name, count in counts.items():
        assert 0 <= report.utilization[name] <= 1 and report.idle_cycles[name] >= 0
        assert report.busy_cycles[name] + report.idle_cycles[name] == pytest.approx(total * count, rel=1e-12)
        assert report.utilization[name] == pytest.approx(report.busy_cycles[name] / (total * count))
    for launch in report.launches:
        assert all(0 <= value <= 1 for value in launch.utilization.values())


# --- transfers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["sram", "dram"])
@pytest.mark.parametrize("size", [32, 64, 200, 256, 1024, 4096, 16384, 131072])
def test_one_read(space: Space, size: int) -> None:
    """A transfer takes the longest of FI, busiest link and busiest channel or bank, plus the way from the farthest."""
    code = f"arg r1, 0\nli r2, 1\nli r3, {size}\ndma_in tile, r0, r0, r1, r0, r2, r3, none\nhalt"
    timed = job(code, buffers=f".buffer tile {-(-size // 32) * 32} 1", arguments=(BASES[space],))
    start = 3 + ISSUE
    units = -(-size // 256)
    if space == "dram":
        work = 32 * -(-units // 16) if units > 1 else -(-size // 64) * 64 / 256 * 32
    else:
        work = -(-units // 8) if units > 1 else min(-(-size // 32) * 32 / 64, 1)
    link = min(size, -(-units // 4) * 256) / 64
    way = max(work + LATENCY[space], link) + REQUEST + HOP * (NEAR if units == 1 else FAR)
    assert timed.cycles() == -(-max(start + max(size / 64, 4), start + way) // 1)


def test_reads_in_flight_overlap() -> None:
    """Independent reads follow each other at the rate of the port; only the last pays the latency."""
    count, size = 12, 4096
    code = f"arg r1, 0\nli r2, 1\nli r3, {size}\nli r4, {count}\nloop r4, end\n"
    code += "dma_in tile, r0, r0, r1, r0, r2, r3, none\npush tile, 1\nend:\nhalt"
    timed = job(code, buffers=f".buffer tile {size} {count}", arguments=(SRAM_BASE,))
    first, port = 5 + ISSUE, size // 64
    way = size // 2048 + LATENCY["sram"] + REQUEST + HOP * FAR
    assert timed.cycles() == first + (count - 1) * port + max(port, way)


def test_a_transfer_that_waits_for_the_port_holds_up_no_other_unit() -> None:
    """A broadcast starts with the last PE that comes; at another the other core may have filled the port by then.

    Local memory is free until that is done.
    """
    long, short = 131072, 64
    idle = "loop r4, {end}\nadd r5, r5, r5\n{end}:\n"
    load = "arg r1, 0\nli r2, 1\nli r3, {size}\ndma_in {buffer}, r0, r0, r1, r0, r2, r3, {mode}\n"
    core_a = "coord r4, column\nmuli r4, r4, 300\naddi r4, r4, 50\n" + idle.format(end="a")
    core_a += load.format(size=long, buffer="first", mode="none")
    core_a += "li r4, 200\n" + idle.format(end="b") + "fill made, r0, r0, r2, r2, int8, 0.0\nhalt"
    core_b = "coord r4, column\nmuli r4, r4, 100\n" + idle.format(end="a")
    core_b += load.format(size=short, buffer="second", mode="row") + "halt"
    buffers = f".buffer first {long} 1\n.buffer second {short} 1\n.buffer made 32 1"
    timed = job(core_a, core_b, buffers, (SRAM_BASE,), columns=2)
    assert timed.profile().busy_cycles["mlu"] == pytest.approx(2 / 64, abs=1e-3)


def test_outstanding_transfers_are_limited() -> None:
    """With one transfer in flight every read pays the whole way."""
    count, size = 6, 64
    code = f"arg r1, 0\nli r2, 1\nli r3, {size}\nli r4, {count}\nloop r4, end\n"
    code += "dma_in tile, r0, r0, r1, r0, r2, r3, none\npush tile, 1\nend:\nhalt"
    timed = job(code, buffers=f".buffer tile {size} {count}", arguments=(DRAM_BASE,), chip=machine(dma__outstanding=1))
    assert timed.cycles() == 5 + ISSUE + count * (8 + LATENCY["dram"] + REQUEST + HOP * NEAR)


@pytest.mark.parametrize(("mode", "times"), [("none", 6), ("row", 2), ("column", 3), ("all", 1)])
def test_a_broadcast_reads_once(mode: str, times: int) -> None:
    """Memory is read once per group, and passes the sides of the grid once per group."""
    size = 1024
    code = f"arg r1, 0\nli r2, 1\nli r3, {size}\ndma_in tile, r0, r0, r1, r0, r2, r3, {mode}\nhalt"
    timed = job(code, buffers=f".buffer tile {size} 1", arguments=(DRAM_BASE,), rows=2, columns=3)
    report = timed.profile()
    assert report.dram_bytes == report.noc_bytes == times * size
    assert report.commands_by_name == {"dma_in": 6}


@pytest.mark.parametrize("chip", PRESETS)
def test_all_elements_reach_deliverable_bandwidth(chip: str) -> None:
    """Every PE reads its own part of DRAM: within 5 % of deliverable bandwidth, and never above it."""
    described = preset(chip)
    size = max(16384, described.dram.channels * described.dram.interleave_bytes)
    trips = (1 << 20) // size
    code = f"""
    arg r1, 0
    coord r2, row
    coord r3, column
    coord r4, columns
    mul r2, r2, r4
    add r2, r2, r3
    muli r2, r2, {size * trips}
    add r1, r1, r2
    li r5, {trips}
    li r6, 1
    li r7, {size}
    loop r5, end
    dma_in tile, r0, r0, r1, r0, r6, r7, none
    push tile, 1
    addi r1, r1, {size}
    end:
    halt"""
    drain = f"""
    li r5, {trips}
    li r6, 1
    loop r5, end
    copy rest, r0, r0, tile, r0, r0, r6, r6
    pop tile, 1
    end:
    halt"""
    timed = job(code, drain, f".buffer tile {size} 4\n.buffer rest 32 1", (DRAM_BASE,), described.grid.rows,
                described.grid.columns, described)  # fmt: skip
    report = timed.profile()
    assert report.dram_bytes == described.pe_count * size * trips
    bound = report.dram_bytes / described.dram_bytes_per_cycle
    assert bound <= report.operations[0].cycles <= 1.05 * bound
    check_account(report, described)


# --- units -----------------------------------------------------------------------------------------------------


def multiply(count: int, rows: int, columns: int, k_blocks: int, after: int = 0, name: str = "mml") -> Job:
    """Return a kernel of `count` products on one bank, and a loop of `after` scalar instructions behind them."""
    core_b = f"li r1, 32\nli r2, {k_blocks}\nli r3, {k_blocks * 32}\nli r4, {rows}\nli r5, {columns}\nli r6, {count}\n"
    core_b += f"li r7, {after}\nloop r6, end\n{name} bank0, a, r0, r3, b, r0, r3, r4, r5, r2, fp16, add\nend:\n"
    core_b += "loop r7, rest\nadd r8, r8, r8\nrest:\nhalt"
    core_a = f"li r1, 32\nli r2, {k_blocks * 16}\nli r3, {k_blocks * 32}\n"
    core_a += "fill a, r0, r3, r1, r2, fp16, 0.0\npush a, 1\nfill b, r0, r3, r1, r2, fp16, 0.0\npush b, 1\nhalt"
    return job(core_a, core_b, f".buffer a {k_blocks * 1024} 1\n.buffer b {k_blocks * 1024} 1")


@pytest.mark.parametrize(("rows", "columns", "k_blocks"), [(32, 32, 8), (32, 1, 8), (3, 32, 4), (1, 24, 16)])
def test_back_to_back_multiplications(rows: int, columns: int, k_blocks: int) -> None:
    """Each takes k_blocks x max(columns, cycles to fill the held rows) / tiles; the last pays the latency once."""
    each = k_blocks * max(columns, -(-rows * 32 // 128)) // 2
    assert multiply(30, rows, columns, k_blocks).cycles() - multiply(10, rows, columns, k_blocks).cycles() == 20 * each
    report = multiply(30, rows, columns, k_blocks).profile()
    assert report.busy_cycles["dpe"] == 30 * each
    assert report.issued_macs == 30 * k_blocks * 16 * 32 * columns


@pytest.mark.parametrize(("rows", "columns", "k_blocks"), [(32, 32, 8), (32, 2, 8), (3, 32, 4), (1, 24, 16)])
def test_sparse_multiplications(rows: int, columns: int, k_blocks: int) -> None:
    """Twice the rate as long as held rows fill in time; half the products, at the same energy each."""
    each = k_blocks * max(columns // 2, -(-rows * 32 // 128)) / 2
    sparse, dense = (multiply(30, rows, columns, k_blocks, name=name).profile() for name in ("mml_sparse", "mml"))
    assert sparse.busy_cycles["dpe"] == 30 * each
    assert sparse.issued_macs == dense.issued_macs / 2 == 30 * k_blocks * 8 * 32 * columns
    assert sparse.energy_parts_joules["matrix"] == pytest.approx(dense.energy_parts_joules["matrix"] / 2)
    reads = [report.energy_parts_joules["local_memory"] for report in (sparse, dense)]
    per_byte = preset("mtia-2i").energy.local_memory_read_per_byte * 1e-12
    saved = 30 * columns * k_blocks * (32 - 16 - 2)
    assert reads[1] - reads[0] == pytest.approx(saved * per_byte, rel=1e-6)


@pytest.mark.parametrize("dtype", [FP16, BF16, INT8], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("chip", [name for name in PRESETS if preset(name).matrix.sparsity_2_4])
def test_sparse_products_reach_twice_the_dense_peak(chip: str, dtype: Dtype) -> None:
    """Back to back, K counted dense: within 1 % of both peaks and never above."""
    described = preset(chip)
    dense, sparse = (macs_per_second(described, name, dtype) for name in ("mml", "mml_sparse"))
    assert 0.99 < dense / described.peak_macs_per_second(dtype.name) <= 1
    assert 0.99 < sparse / described.sparse_peak_macs_per_second(dtype.name) <= 1
    assert sparse / dense == pytest.approx(2, rel=0.01)


def test_a_full_queue_stops_the_core() -> None:
    """The last of n commands is issued when the one a queue's depth before it starts."""
    count, depth, k_blocks = 30, 8, 8
    fills = 2 * (k_blocks * 1024 // 64) + 8
    start = 3 + ISSUE + fills
    each, after = k_blocks * 32 // 2, 5000
    last_issue = start + (count - 1 - depth) * each + ISSUE + 1
    assert multiply(count, 32, 32, k_blocks, after).cycles() == last_issue + 1 + after
    assert multiply(count, 32, 32, k_blocks).cycles() == start + count * each + MATRIX_LATENCY


def test_commands_pay_for_their_register_operands() -> None:
    """Four registers of a fill are written before it is issued, unless contexts keep them."""
    count, code = 30, "li r1, 1\nli r2, 30\nloop r2, end\nfill a, r0, r0, r1, r1, int8, 0.0\nend:\nhalt"
    kept, written = (
        job(code, buffers=".buffer a 32 1", chip=machine(pe__operand_write_cycles=cycles)).cycles() for cycles in (0, 3)
    )
    assert written - kept == count * 4 * 3


@pytest.mark.parametrize(("rows", "columns"), [(4, 1), (3, 32), (4, 33), (7, 100), (8, 512)])
@pytest.mark.parametrize(("name", "lanes"), [("vabs", 32), ("vexp", 16), ("rowsum", 32)])
def test_simd_rows(name: str, lanes: int, rows: int, columns: int) -> None:
    """Rows x up(columns / lanes) cycles after another; a command that needs the one before pays its latency."""
    chain, pitch = 6, columns * 4
    setup = f"li r1, {rows}\nli r2, {columns}\nli r3, {pitch}\n"
    links = "".join(
        f"{name} b{index + 1}, r0, r3, b{index}, r0, r3, r1, r2, fp32, fp32\npush b{index + 1}, 1\npop b{index}, 1\n"
        for index in range(chain)
    )
    size = -(-rows * pitch // 32) * 32
    buffers = "\n".join(f".buffer b{index} {size} 1" for index in range(chain + 1))
    timed = job(setup + "fill b0, r0, r3, r1, r2, fp32, 1.0\npush b0, 1\nhalt", setup + links + "halt", buffers)
    filled = 3 + ISSUE + rows * pitch / 64 + 8
    each = rows * -(-columns // lanes)
    assert timed.cycles() == -(-(filled + chain * (each + SIMD_LATENCY)) // 1)
    assert timed.profile().busy_cycles["se"] == chain * each


# --- scalar cores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trips", [0, 1, 2, 1000])
def test_scalar_loops(trips: int) -> None:
    """A hardware loop costs one instruction; a loop of branches pays for the branch and for each one taken."""
    hardware = f"li r1, {trips}\nloop r1, end\naddi r2, r2, 1\nmuli r3, r2, 3\nend:\nhalt"
    assert job(hardware).cycles() == 2 + 2 * trips
    assert job("halt", hardware).cycles() == 2 + 2 * trips
    branches = f"li r1, {trips + 1}\nagain:\naddi r2, r2, 1\nblt r2, r1, again\nhalt"
    assert job(branches).cycles() == 1 + 2 * (trips + 1) + 2 * trips


def test_nested_loops() -> None:
    """Ends of nested loops at the same place cost nothing."""
    code = "li r1, 3\nli r2, 5\nli r3, 7\nloop r1, c\nloop r2, b\nloop r3, a\naddi r4, r4, 1\na:\nb:\nc:\nhalt"
    assert job(code).cycles() == 4 + 3 * (1 + 5 * (1 + 7))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (8, 8)])
def test_a_barrier_waits_for_the_last(rows: int, columns: int) -> None:
    """Each PE counts up to a number of its own; all go on together, the mean hops after the last."""
    code = "coord r1, row\ncoord r2, column\nadd r1, r1, r2\nmuli r1, r1, 100\nloop r1, end\nadd r3, r3, r3\nend:\n"
    after = "li r4, 50\nloop r4, rest\nadd r3, r3, r3\nrest:\nhalt"
    slowest = 5 + 100 * (rows + columns - 2)
    assert job(code + "barrier\n" + after, rows=rows, columns=columns).cycles() == slowest + 1 + 18 + 2 + 50


def test_a_barrier_lets_all_go_on_at_once() -> None:
    """Who comes last has no later start: the same work follows for both."""
    code = "coord r1, column\n{slow}muli r1, r1, 100\nloop r1, end\nadd r3, r3, r3\nend:\nbarrier\ncoord r1, column\n"
    code += "muli r1, r1, 50\nloop r1, rest\nadd r3, r3, r3\nrest:\nhalt"
    first_is_last = job(code.format(slow="li r4, 1\nsub r1, r4, r1\n"), columns=2)
    second_is_last = job(code.format(slow="add r4, r0, r0\nadd r4, r0, r0\n"), columns=2)
    assert first_is_last.cycles() == second_is_last.cycles() == 5 + 100 + 18 + 1 + 3 + 50


def test_a_slot_is_free_only_after_it_was_visible() -> None:
    """Popping a slot that was never read takes effect when its push has."""
    code = "arg r1, 0\nli r2, 1\nli r3, 64\n" + 3 * "dma_in tile, r0, r0, r1, r0, r2, r3, none\npush tile, 1\n"
    rest = "li r2, 1\nli r3, 64\ncopy out, r0, r0, tile, r0, r0, r2, r3\npop tile, 2\nhalt"
    timed = job(code + "halt", rest, ".buffer tile 64 2\n.buffer out 64 1", (SRAM_BASE,))
    way = REQUEST + HOP * NEAR + LATENCY["sram"] + 1
    second = 3 + ISSUE + 2 * (ISSUE + 1)
    assert timed.cycles() == -(-(second + 2 * way) // 1)


def test_signals_pass_between_the_cores_of_an_element() -> None:
    """A wait ends one instruction after the signal."""
    sender = "li r1, 200\nloop r1, end\nadd r2, r2, r2\nend:\nsignal 5\nhalt"
    assert job(sender, "wait 5\nli r1, 70\nloop r1, end\nadd r2, r2, r2\nend:\nhalt").cycles() == 202 + 1 + 2 + 70


# --- laws ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, derandomize=True)
@given(size=st.integers(1, 40), trips=st.integers(1, 20), mode=st.sampled_from(["none", "row"]))
def test_bytes_and_time_are_accounted(size: int, trips: int, mode: str) -> None:
    """A kernel that reads, computes and writes moves its bytes, and the time of every resource is busy or idle."""
    size *= 64
    code = f"arg r1, 0\nli r2, 1\nli r3, {size}\nli r4, {trips}\nloop r4, end\n"
    code += f"dma_in tile, r0, r0, r1, r0, r2, r3, {mode}\npush tile, 1\naddi r1, r1, {size}\nend:\nhalt"
    rest = f"arg r1, 1\nli r2, 1\nli r3, {size}\nli r4, {trips}\nli r5, {size // 4}\nloop r4, end\n"
    rest += "vadds out, r0, r0, tile, r0, r0, r2, r5, fp32, fp32, 1.0\npop tile, 1\npush out, 1\n"
    rest += f"dma_out r1, r0, out, r0, r0, r2, r3\npop out, 1\naddi r1, r1, {size}\nend:\nhalt"
    timed = job(code, rest, f".buffer tile {size} 2\n.buffer out {size} 2", (DRAM_BASE, SRAM_BASE))
    report = timed.profile()
    check_account(report, timed.machine)
    assert report.dram_bytes == report.sram_bytes == size * trips
    assert report.commands == 3 * trips
