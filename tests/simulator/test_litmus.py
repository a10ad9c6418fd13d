"""The programs of docs/circular_buffers.md end as the page says, on both executors and under random delays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from isa.assembly import parse_assembly
from isa.errors import SimulationError
from isa.kernel import Kernel
from isa.machine import preset
from isa.memory_map import SRAM_BASE
from tests.naive_parts import ContractViolationError, DeadlockError
from tests.simulator.kernels import Images, Job, zeros

PAGE = Path(__file__).parents[2] / "docs" / "circular_buffers.md"
NUMBERS = 1024
RULES = {
    "two_producers": "written by two",
    "two_consumers": "read by two",
    "leaves_slot": "leaves its slot",
    "unbound": "before any command",
}
"""Words of the error of each program that ends in one."""


@dataclass(frozen=True)
class Litmus:
    """A program of the page, its rectangle and what it says holds afterwards."""

    kernel: Kernel
    rows: int
    columns: int
    expect: str

    def job(self) -> Job:
        return Job(self.kernel, preset("mtia-2i"), (SRAM_BASE, SRAM_BASE + 4 * NUMBERS), self.rows, self.columns)


def _read_page() -> dict[str, Litmus]:
    programs = {}
    for block in re.findall(r"```asm\n(.*?)```", PAGE.read_text(), re.DOTALL):
        rows, columns = re.search(r"; launch: (\d+) x (\d+)", block).groups()
        expect = re.search(r"; expect: (.*)", block).group(1)
        (kernel,) = parse_assembly(block)
        programs[kernel.name] = Litmus(kernel, int(rows), int(columns), expect)
    return programs


PROGRAMS = _read_page()
GOOD = [name for name, litmus in PROGRAMS.items() if litmus.expect not in ("deadlock", "error")]
BAD = [name for name in PROGRAMS if name not in GOOD]


def _images() -> Images:
    images = zeros(8 * NUMBERS, 64)
    images.sram.view(np.float32)[:NUMBERS] = np.random.default_rng(5).standard_normal(NUMBERS).astype(np.float32)
    return images


def _holds(expect: str, images: Images) -> bool:
    numbers = images.sram.view(np.float32)
    return bool(eval(expect, {"x": numbers[:NUMBERS], "y": numbers[NUMBERS:]}))


def test_the_page_has_programs_of_every_kind() -> None:
    """Nothing is lost in reading the page."""
    assert len(PROGRAMS) == PAGE.read_text().count("```asm")
    assert len(GOOD) >= 6 and {PROGRAMS[name].expect for name in BAD} == {"deadlock", "error"}
    assert set(RULES) == {name for name in BAD if PROGRAMS[name].expect == "error"}


@pytest.mark.parametrize("name", GOOD)
def test_values_are_those_of_the_page(name: str) -> None:
    """Sequencer, with and without delays, and interpreter, in any order, give what `expect` says."""
    litmus, before = PROGRAMS[name], _images()
    job = litmus.job()
    after, _ = job.run(before)
    assert _holds(litmus.expect, after) and not _holds(litmus.expect, before)
    for seed in range(4):
        assert job.run(before, jitter_cycles=300, jitter_seed=seed)[0].equals(after)
        assert job.run_naively(before, seed or None)[0].equals(after)


@pytest.mark.parametrize("name", BAD)
def test_mistakes_end_as_the_page_says(name: str) -> None:
    """Deadlocks say who waits for what; broken rules say which, where; the interpreter agrees."""
    litmus = PROGRAMS[name]
    is_deadlock = litmus.expect == "deadlock"
    with pytest.raises(SimulationError) as caught:
        litmus.job().run(_images())
    text = str(caught.value)
    assert "'tile'" in text and name in text
    assert ("deadlock" in text) == is_deadlock
    if is_deadlock:
        wanted = "waits for data" if name == "never_pushed" else "waits for space"
        assert re.search(rf"PE \(0, 0\) core [AB] FI command at instruction \d+ {wanted} in buffer 'tile'", text)
    else:
        assert RULES[name] in text
    with pytest.raises(DeadlockError if is_deadlock else ContractViolationError):
        litmus.job().run_naively(_images())
