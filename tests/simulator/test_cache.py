"""The cache of DRAM in SRAM: its lines against a plain twin, and what it does to bytes and time of kernels."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.assembly import parse_assembly
from isa.machine import Machine, preset
from isa.memory_map import DRAM_BASE
from isa.program import Argument, Entry, Launch, LaunchPart, Program, Storage
from simulator import Simulator, cache
from simulator import hardware as hw
from simulator.hardware import Integers
from simulator.jit import kernel
from tests.simulator.kernels import Job

LINE, WAYS, SETS = 64, 3, 5


@dataclass
class Twin:
    """A set-associative cache, the line that came first in front, as one would write it on a page."""

    sets: list[OrderedDict[int, list[int]]] = field(default_factory=lambda: [OrderedDict() for _ in range(SETS)])

    def touch(self, key: int, needed: int, now: int) -> int:
        lines = self.sets[key % SETS]
        sectors, since = lines.get(key, [0, 0])
        is_hit = sectors & needed == needed
        lines[key] = [sectors | needed, since if is_hit else now]
        if len(lines) > WAYS:
            lines.popitem(last=False)
        return since if is_hit else -1


@kernel
def _touch_all(numbers: Integers, lines: Integers, storage: Integers, first: Integers, last: Integers,
               found: Integers) -> None:  # fmt: skip
    """Touch one line after another; what was missing is there at the number of its touch."""
    for index in range(len(first)):
        key = cache.key_of(lines, storage[index], first[index] // LINE)
        row = key % numbers[hw.CACHE_SETS]
        found[index] = cache.touch(numbers, lines, row, key, cache.sectors_of(numbers, first[index], last[index]))
        if found[index] < 0:
            cache.arrive(numbers, lines, row, key, index + 1)


ACCESSES = st.lists(
    st.tuples(st.integers(-1, 1), st.integers(0, 12), st.integers(0, LINE - 1), st.integers(1, LINE)), max_size=80
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ACCESSES, min_size=1, max_size=3))
def test_lines_are_those_of_the_twin(launches: list[list[tuple[int, int, int, int]]]) -> None:
    """Same hits, misses and times for any accesses; every launch starts with nothing."""
    numbers = np.zeros(hw.NUMBER_COUNT, np.int64)
    numbers[[hw.CACHE_SETS, hw.CACHE_WAYS, hw.CACHE_LINE_SHIFT]] = SETS, WAYS, LINE.bit_length() - 1
    lines = np.zeros((SETS + 1, 2 * WAYS + 1), np.int64)
    for accesses in launches:
        cache.start_launch(lines)
        columns = np.array(accesses, np.int64).reshape(-1, 4)
        first = columns[:, 1] * LINE + columns[:, 2]
        last = np.minimum(first + columns[:, 3], (columns[:, 1] + 1) * LINE)
        found = np.zeros(len(first), np.int64)
        _touch_all(numbers, lines, columns[:, 0].copy(), first, last, found)
        twin, sector = Twin(), LINE // cache.SECTORS
        for index, storage in enumerate(columns[:, 0]):
            key = cache.key_of.py_func(lines, storage, first[index] // LINE)
            bits = {(byte % LINE) // sector for byte in range(first[index], last[index])}
            assert found[index] == twin.touch(int(key), sum(1 << bit for bit in bits), index + 1)


def reading(sizes: list[int], machine: Machine, repeat: int) -> Job:
    """Return a kernel of one PE that reads the first bytes of DRAM, each size `repeat` times, one after another."""
    code = "arg r1, 0\nli r2, 1\n"
    for size in sizes:
        code += f"li r3, {size}\n" + repeat * "dma_in tile, r0, r0, r1, r0, r2, r3, none\npush tile, 1\nfence\n"
    drain = "li r3, 32\nli r2, 1\n"
    drain += len(sizes) * repeat * "copy out, r0, r0, tile, r0, r0, r2, r3\npop tile, 1\n"
    text = f".kernel reading\n.args x0\n.buffer tile {-(-max(sizes) // 32) * 32} 1\n.buffer out 32 1\n"
    (parsed,) = parse_assembly(f"{text}.core A\n{code}halt\n.core B\n{drain}halt\n")
    return Job(parsed, machine, (DRAM_BASE,), 1, 1)


def small(steps: int) -> Machine:
    """Return a chip whose SRAM is so many megabytes of cache beside the one that jobs use, with wide ways to a PE."""
    step = 1 << 20
    return preset("mtia-2i").with_changes(
        {
            "sram.bytes": step * (1 + steps), "sram.cache_step_bytes": step, "dma.bytes_per_cycle": 1024,
            "noc.row_link_bytes_per_cycle": 1024, "noc.column_link_bytes_per_cycle": 1024,
        }
    )  # fmt: skip


def test_what_fits_is_read_once() -> None:
    """The second read of 128 KB comes from SRAM and is faster; a chip without cache reads DRAM twice."""
    size = 1 << 17
    cached, uncached = reading([size], small(1), 2).profile(), reading([size], small(0), 2).profile()
    assert cached.cache_bytes == 1 << 20 and uncached.cache_bytes == 0
    assert (cached.dram_read_bytes, cached.cache_filled_bytes, cached.cache_hit_bytes) == (size, size, size)
    assert (uncached.dram_read_bytes, uncached.cache_filled_bytes, uncached.cache_hit_bytes) == (2 * size, 0, 0)
    assert cached.sram_hit_rate == 0.5 and uncached.sram_hit_rate == 0.0
    assert cached.cycles < uncached.cycles
    assert cached.energy_parts_joules["dram_phy"] == uncached.energy_parts_joules["dram_phy"] / 2


@pytest.mark.parametrize(
    ("first", "second", "fetched"), [(256, 512, 256 + 512), (512, 256, 512), (100, 50, 128), (64, 65, 64 + 128)]
)
def test_parts_of_lines(first: int, second: int, fetched: int) -> None:
    """A sector of a line that was read is a hit; one that was not is fetched whole, with what is asked with it."""
    report = reading([first, second], small(1), 1).profile()
    assert report.dram_read_bytes == report.cache_filled_bytes == fetched
    assert report.cache_hit_bytes == (0 if second > first else second)


def test_bytes_one_by_one_are_fetched_once() -> None:
    """256 reads of a byte each fetch the four sectors they lie in."""
    text = ".kernel bytes\n.args x\n.buffer tile 32 1\n.core A\narg r1, 0\nli r2, 1\nli r4, 256\nloop r4, end\n"
    text += "dma_in tile, r0, r0, r1, r0, r2, r2, none\nadd r1, r1, r2\nend:\nhalt\n.core B\nhalt\n"
    (parsed,) = parse_assembly(text)
    report = Job(parsed, small(1), (DRAM_BASE,), 1, 1).profile()
    assert (report.dram_read_bytes, report.cache_hit_bytes) == (256, 252)


def _launches(addresses: list[int], machine: Machine, *, in_one_storage: bool = False) -> Simulator:
    """Return a program that reads 64 KB at each of two addresses twice, once per pair of addresses."""
    text = ".kernel pair\n.args x y\n.buffer tile 65536 4\n.core A\narg r1, 0\narg r4, 1\nli r2, 1\nli r3, 65536\n"
    for register in ("r1", "r4", "r1", "r4"):
        text += f"dma_in tile, r0, r0, {register}, r0, r2, r3, none\npush tile, 1\nfence\n"
    (parsed,) = parse_assembly(text + "halt\n.core B\nhalt\n")
    starts = [0] if in_one_storage else addresses
    size = max(addresses) + 65536 if in_one_storage else 65536
    storages = tuple(Storage(f"s{index}", "dram", DRAM_BASE + at, size, "state") for index, at in enumerate(starts))
    arguments = [
        Argument(at, "s0") if in_one_storage else Argument(0, f"s{index}") for index, at in enumerate(addresses)
    ]
    launches = tuple(
        Launch(f"l{index}", 0, 0, 0, 1, 1, tuple(arguments[index : index + 2]), (), 0, (LaunchPart("pair"),))
        for index in range(0, len(arguments), 2)
    )
    return Simulator(Program(machine, (parsed,), storages, (), (Entry("main", {}, (), (), launches),)))


@pytest.mark.parametrize("name", ["mtia-2i", "mtia-500"])
def test_hits_do_not_depend_on_where_storages_lie(name: str) -> None:
    """Storages at other places meet the same lines and banks, so that equal launches are found and take equal time."""
    machine = preset(name)
    period = machine.dram_period_bytes
    places = [0, period, 5 * period, 1001 * period, 7 * period, 4242 * period]
    quick, full = (_launches(places, machine).profile(reuse=reuse) for reuse in (True, False))
    assert (quick.simulated_launches, full.simulated_launches) == (1, 3)
    assert quick.cycles == full.cycles and quick.busy_cycles == full.busy_cycles
    assert quick.cache_hit_bytes == full.cache_hit_bytes == 3 * 2 * 65536


@pytest.mark.parametrize("name", ["mtia-2i", "mtia-500"])
def test_places_in_one_storage_are_told_apart(name: str) -> None:
    """Where a place in a storage decides lines and banks, launches at different ones are simulated each."""
    machine = preset(name)
    places = [index * machine.dram_period_bytes for index in (0, 1, 1, 2, 0, 1)]
    quick, full = (_launches(places, machine, in_one_storage=True).profile(reuse=reuse) for reuse in (True, False))
    assert (quick.simulated_launches, full.simulated_launches) == (2, 3)
    assert quick.cycles == full.cycles and quick.busy_cycles == full.busy_cycles
