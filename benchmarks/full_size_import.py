"""Exported graphs of Llama-3-8B: seconds and peak memory from the file to a mapped graph and to a program file.

    python benchmarks/full_size_import.py

Each row is a process of its own. `graph only` is the exported file without its data; `16 GB of data` has beside it a
sparse file of the right size, so that all weights are there (as zeros), and goes on to write the program.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FILES = {"fp16": "llama_3_8b_fp16_opset20.onnx", "bf16": "llama_3_8b_bf16_opset23.onnx"}
DATA_BYTES = 16_060_522_496
LIMIT_SECONDS, LIMIT_GIGABYTES = 10, 4


def measure(path: Path, dtype: str, program: str) -> None:
    """Import, fuse and map, and write the program if asked to; print seconds of each and peak memory."""
    from compiler.onnx_import import load_onnx
    from compiler.pipeline import BACK, FRONT, Options, run_passes
    from isa.container import save_program
    from isa.machine import preset
    from isa.program import Program

    options = Options(preset("mtia-2i"), dtype, {"batch": 1, "seq": 1, "past": (0, 8191)})
    start = time.perf_counter()
    graph = load_onnx(path)
    imported = time.perf_counter()
    fused = run_passes(FRONT, graph, options).level
    front = time.perf_counter()
    mapped = run_passes(BACK, fused, options, stop_after="map").level
    end = time.perf_counter()
    text = f"import {imported - start:5.2f} s, fuse {front - imported:5.2f} s, map {end - front:5.2f} s"
    if program:
        behind = [item.name for item in BACK].index("map") + 1
        result = run_passes(BACK[behind:], mapped, options).level
        assert isinstance(result, Program)
        save_program(result, Path(program))
        text += f", place, emit and write {time.perf_counter() - end:5.2f} s"
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    verdict = "ok" if end - start < LIMIT_SECONDS and gigabytes < LIMIT_GIGABYTES else "TOO MUCH"
    print(f"{text}, peak {gigabytes:.2f} GB, {len(graph.operations)} operations imported: {verdict}", flush=True)


def main() -> int:
    """Print a row for each file, without and with data; return 1 if one takes too much."""
    failed = 0
    for dtype, file in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            shutil.copyfile(ROOT / "tests" / "data" / "full_size" / file, path)
            for name in ("graph only", "16 GB of data"):
                program = ""
                if name != "graph only":
                    with (Path(folder) / "model.onnx.data").open("wb") as data:
                        data.truncate(DATA_BYTES)
                    program = str(Path(folder) / "model.program")
                command = [sys.executable, __file__, str(path), dtype, program]
                environment = {**os.environ, "PYTHONPATH": str(ROOT)}
                row = subprocess.run(command, capture_output=True, text=True, env=environment)
                failed += row.returncode != 0 or "ok" not in row.stdout.split(": ")[-1]
                print(f"{dtype} {name:14} {row.stdout.strip() or row.stderr.strip()}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
    else:
        sys.exit(main())
