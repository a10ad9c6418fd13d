"""Full-size runs from start of process to report: wall time, peak memory, and how far latency is from its DRAM bound.

    python benchmarks/full_size.py            all rows
    python benchmarks/full_size.py --cold     the first row also with an empty kernel cache

Each row is a `compile-model` process of its own. `bound` is the DRAM time of the bytes the program moved, `weights`
that of every weight once (plus the cache in decode), which no mapping can beat.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODEL = "llama-3-8b"
LINEAR_PARAMETERS = 8_030_261_248 - 128_256 * 4096
"""Parameters read by every run: all but the embedding table."""
CACHE_BYTES_PER_TOKEN = 65_536 * 2
WEIGHT_BYTES = 2


@dataclass(frozen=True)
class Row:
    """A run: machine, and the dims as options."""

    machine: str
    sequence: int
    past: int


ROWS = (
    Row("mtia-2i", 512, 0), Row("mtia-2i", 1, 2048), Row("mtia-2i", 2048, 0), Row("mtia-v1", 512, 0),
    Row("mtia-v1", 1, 2048), Row("hbm-concept", 512, 0), Row("hbm-concept", 1, 2048),
)  # fmt: skip


def run(row: Row, cache: str | None = None) -> tuple[float, dict[str, Any]]:
    """Return wall seconds and the JSON report of a compile-and-simulate process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({"TILEWRIGHT_CACHE_DIR": cache} if cache else {})
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        dims = ("--dim", "batch=1", "--dim", f"sequence={row.sequence}", "--dim", f"past={row.past}")
        command = (sys.executable, "-m", "compiler.cli", MODEL, "--machine", row.machine, *dims, "--simulate")
        start = time.perf_counter()
        subprocess.run([*command, "--json", str(report)], check=True, env=environment, capture_output=True)
        return time.perf_counter() - start, json.loads(report.read_text())


def shown(row: Row, seconds: float, report: dict[str, Any], note: str = "") -> str:
    """Return a line of the table."""
    latency, bound = report["latency_seconds"], report["dram_bound_seconds"]
    once = LINEAR_PARAMETERS * WEIGHT_BYTES + row.past * CACHE_BYTES_PER_TOKEN
    ideal = once / report["dram_deliverable_bytes_per_second"]
    simulated = sum(operation["commands"] for operation in report["ops"] if not operation["reused"])
    ratios = f"{latency * 1e3:9.2f} {latency / bound:7.3f} {latency / ideal:9.3f} {report['utilization']['dpe']:6.1%}"
    return f"{row.machine:12} {row.sequence:8} {row.past:6} {ratios} {seconds:8.1f} {simulated:11,} {note}".rstrip()


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Full-size runs from start of process to report.")
    parser.add_argument("--cold", action="store_true", help="also run with an empty kernel cache")
    options = parser.parse_args(arguments)
    print(f"{MODEL}, 16-bit, batch 1; x bound: latency over the DRAM time of its bytes; x weights: of each weight once")
    print("machine      sequence   past        ms x bound x weights    dpe  seconds    commands")
    if options.cold:
        with tempfile.TemporaryDirectory() as cache:
            print(shown(ROWS[0], *run(ROWS[0], cache), note="empty kernel cache"), flush=True)
    for row in ROWS:
        run_seconds, report = run(row)
        print(shown(row, run_seconds, report), flush=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"largest peak memory of a process: {peak:.2f} GB")


if __name__ == "__main__":
    main(sys.argv[1:])
