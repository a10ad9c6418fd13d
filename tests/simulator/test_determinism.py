"""One program, two processes with different hash seeds: the same file, the same bits, the same cycles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
