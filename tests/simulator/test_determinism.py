"""One program, two processes with different hash seeds: the same file, the same bits, the same cycles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from isa.assembly import parse_assembly
from simulator import Simulator, kernel_runner, run_kernel

ROOT = Path(__file__).parents[2]
CHILD = """
import hashlib, json, sys
from isa.container import load_program, save_program
from simulator import Simulator
from tests.simulator.llamas import inputs_for, llama

program = llama("llama-tiny-odd", 3, 64)
save_program(program, sys.argv[1])
result = Simulator(load_program(sys.argv[1])).run(inputs_for(program, 17))
digest = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in result.outputs.items()}
print(json.dumps({"outputs": digest, "report": result.report.to_dict()}))
"""

PEEK = """
.kernel peek
; what local memory and a bank held before x came
.args x y
.buffer tile 128 1
.buffer fresh 128 1
.buffer sums 128 1
.core A
    arg r1, 0
    li r5, 128
    li r6, 1
    dma_in tile, r0, r0, r1, r0, r0, r5, none
    push tile, 1
    dma_in tile, r0, r0, r1, r0, r6, r5, none
    dma_in fresh, r0, r0, r1, r0, r6, r5, none
    push fresh, 1
    halt
.core B
    arg r2, 1
    li r5, 128
    li r6, 1
    li r7, 32
    addi r3, r2, 128
    dma_out r2, r0, tile, r0, r0, r6, r5
    pop tile, 1
    acc_drain sums, r0, r5, bank0, r6, r7, fp32
    push sums, 1
    dma_out r3, r0, sums, r0, r0, r6, r5
    acc_load bank0, fresh, r0, r5, r6, r7, fp32, full
    pop fresh, 1
    pop sums, 1
    halt
"""


def _child(folder: Path, seed: int) -> tuple[bytes, str]:
    path = folder / f"program{seed}.bin"
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, str(path)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return path.read_bytes(), done.stdout


def test_two_processes_agree(tmp_path: Path) -> None:
    """Program files are equal byte by byte, outputs bit by bit, and every figure of the report."""
    with ThreadPoolExecutor() as pool:
        (first_file, first), (second_file, second) = pool.map(lambda seed: _child(tmp_path, seed), (1, 4242))
    assert first_file == second_file
    assert json.loads(first)["report"]["cycles"] > 0 and len(json.loads(first)["outputs"]) == 5
    assert first == second


class _RunsTwice(Simulator):
    def run(self, *arguments, **options):
        first, second = (super(_RunsTwice, self).run(*arguments, **options) for _ in range(2))
        assert first.report == second.report
        return second


def test_a_run_sees_nothing_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local memories and banks are zero at first, also where the run before left something."""
    monkeypatch.setattr(kernel_runner, "Simulator", _RunsTwice)
    (kernel,) = parse_assembly(PEEK)
    result = run_kernel(kernel, {"x": np.ones(32, np.float32)}, {"y": ((2, 32), "float32")})
    np.testing.assert_array_equal(result.outputs["y"], np.zeros((2, 32)))
