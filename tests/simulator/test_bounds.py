"""No program gets outside its memories: wrong registers are errors, and kernels compiled with checks find nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isa.errors import MachineError, ProgramError, SimulationError
from isa.memory_map import DRAM_BASE, SRAM_BASE
from tests.simulator.kernels import Job, zeros
from tests.simulator.test_timing import job, machine

ROOT = Path(__file__).parents[2]
HUGE = "li r9, 1\nli r10, 62\nsll r9, r9, r10\n"
"""r9 = 2**62: times a few rows it overflows 64 bits."""


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("li r6, -3\ndma_in tile, r0, r0, r1, r0, r6, r3, none", "-3 rows"),
        ("li r7, -64\ndma_in tile, r0, r0, r1, r0, r2, r7, none", "-64 rows"),
        ("li r7, -64\ndma_copy r1, r0, r1, r0, r2, r7", "-64 rows"),
        ("li r6, -1\nfill tile, r0, r0, r6, r3, fp32, 1.0", "-1 rows"),
        ("li r5, -5\nmml bank0, tile, r0, r0, tile, r0, r0, r2, r2, r5, fp16, set", "-5 rows"),
        (HUGE + "fill tile, r0, r0, r9, r2, fp32, 1.0", "4611686018427387904 rows"),
        (HUGE + "fill tile, r0, r9, r4, r2, fp32, 1.0", "leaves its slot"),
        ("li r5, 65\nfill tile, r0, r5, r4, r2, fp32, 1.0", "leaves its slot"),
        ("li r5, -4\nfill tile, r0, r5, r4, r2, fp32, 1.0", "negative pitch -4"),
        (HUGE + "fill tile, r9, r0, r2, r2, fp32, 1.0", "outside buffer 'tile'"),
        ("li r5, -4\nfill tile, r5, r0, r2, r2, fp32, 1.0", "offset -4 lies outside buffer 'tile'"),
        (HUGE + "dma_in tile, r0, r0, r1, r9, r4, r2, none", "outside the shared SRAM"),
        (HUGE + "dma_in tile, r0, r0, r8, r9, r4, r2, none", "outside the DRAM"),
        (HUGE + "dma_in tile, r0, r0, r9, r0, r2, r2, none", "outside the DRAM"),
        ("li r5, -640000\ndma_in tile, r0, r0, r1, r5, r4, r2, none", "negative pitch -640000"),
        (
            "li r5, 65535\nadd r1, r1, r5\nli r3, 2\ndma_in tile, r0, r0, r1, r0, r2, r3, none",
            "outside the shared SRAM",
        ),
        ("addi r1, r1, -1\ndma_in tile, r0, r0, r1, r0, r2, r2, none", "is no device address"),
        ("dma_in tile, r0, r0, r2, r0, r2, r2, none", "is no device address"),
        ("li r6, 33\nmml bank0, tile, r0, r0, tile, r0, r0, r6, r2, r0, fp16, set", "does not fit"),
    ],
)
def test_wrong_registers_are_errors(code: str, sentence: str) -> None:
    """Negative and overflowing sizes, pitches, offsets and addresses say what is wrong, also when only timed."""
    text = f"arg r1, 0\narg r8, 1\nli r2, 1\nli r3, 64\nli r4, 5\n{code}\nhalt"
    timed = job(text, buffers=".buffer tile 64 2", arguments=(SRAM_BASE, DRAM_BASE))
    images = zeros(1 << 16, 1 << 16)
    with pytest.raises(SimulationError, match="instruction") as caught:
        timed.run(images)
    assert sentence in str(caught.value)


def sparse_product(k_blocks: int) -> Job:
    """Return a product of dense zeros with a row of weights in a slot of 64 bytes: 3 blocks of 18 fit."""
    text = "li r1, 1\nli r2, 64\nfill weights, r0, r0, r1, r2, int8, 0.0\npush weights, 1\n"
    text += f"li r3, {k_blocks}\nmml_sparse bank0, data, r0, r0, weights, r0, r0, r1, r1, r3, fp16, set\nhalt"
    data = "li r1, 1\nli r2, 128\nfill data, r0, r0, r1, r2, int8, 0.0\npush data, 1\nhalt"
    return job(text, data, ".buffer weights 64 1\n.buffer data 128 1")


def test_compressed_weights_stay_in_their_slot() -> None:
    with pytest.raises(SimulationError, match=r"buffer 'weights' leaves its slot"):
        sparse_product(4).profile()


def test_weights_that_are_not_compressed_are_an_error() -> None:
    """Dense zeros have equal places. A profile has no data, and times the command."""
    timed = sparse_product(3)
    assert timed.profile().commands_by_name["mml_sparse"] == 1
    with pytest.raises(SimulationError, match=r"mml_sparse(?s:.)*b is not compressed 2:4: the two places"):
        timed.run(zeros())


@pytest.mark.parametrize("size", ["r0, r3", "r2, r0", "r0, r0"])
def test_empty_transfers_move_nothing(size: str) -> None:
    """Zero rows or bytes are no error."""
    text = f"arg r1, 0\nli r2, 1\nli r3, 64\ndma_in tile, r0, r0, r1, r0, {size}, none\nhalt"
    report = job(text, buffers=".buffer tile 64 2", arguments=(DRAM_BASE,)).profile()
    assert report.dram_bytes == report.noc_bytes == 0 and report.busy_cycles["dram"] == 0


def test_limits_of_the_tables() -> None:
    """What the sequencer has a fixed number of places for is refused beyond that number."""
    with pytest.raises(ProgramError, match="65 slots, at most 64"):
        job("halt", buffers=".buffer tile 64 65").profile()
    with pytest.raises(MachineError, match=r"dma\.outstanding"):
        machine(dma__outstanding=65)


@pytest.mark.slow
def test_kernels_with_bounds_checks_find_nothing(tmp_path: Path) -> None:
    """Compiled with checks of every index, litmus programs, all commands and a model run as without."""
    environment = {**os.environ, "TILEWRIGHT_BOUNDSCHECK": "1", "TILEWRIGHT_CACHE_DIR": str(tmp_path / "cache")}
    tests = ["test_litmus.py", "test_timing.py", "test_sequencer_twin.py"]
    command = [sys.executable, "-m", "pytest", "-q", *(f"tests/simulator/{name}" for name in tests)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(
    "command",
    [
        "vadds out, r0, r0, tile, r0, r0, r6, r7, int8, int8, 1.0",
        "fill out, r0, r0, r6, r7, int8, 1.0",
        "mml bank0, tile, r0, r0, tile, r0, r0, r5, r5, r6, int8, set",
    ],
)
def test_rows_that_lie_over_each_other_do_not_leave_the_scratch(command: str) -> None:
    """With a pitch of 0 an operand may have far more elements than local memory has bytes: an error, not an overrun."""
    text = f"li r5, 32\nli r6, 1000\nli r7, 32000\nli r8, 1\n{command}\nhalt"
    buffers = ".buffer tile 32000 1\n.buffer out 32000 1"
    filled = "li r7, 32000\nli r8, 1\nfill tile, r0, r0, r8, r7, int8, 1.0\npush tile, 1\nhalt"
    with pytest.raises(SimulationError, match="more elements than local memory has bytes"):
        job(filled, text, buffers).run(zeros(1 << 12, 1 << 12))
