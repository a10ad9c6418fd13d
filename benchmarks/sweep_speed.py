"""How many machines a second are compiled for and simulated, as a sweep does it, and whether memory stays flat.

    python benchmarks/sweep_speed.py --points 20

One decoder layer of Llama-3-8B without weights, prefill of 512 tokens, fp16, on variants of mtia-2i: a deterministic
quasi-random walk over the fields of `FIELDS`, most of which change code as well as time. One process; the front end
runs once and kernels of the simulator are compiled before the clock starts, the rest is done for each
point. Seconds are those of the CPU. With `--points 1000` memory is shown at point 20 and at point 1000.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compiler import compile_graph, fuse_model
from isa.errors import ToolError
from isa.machine import Machine, preset
from models import MODELS
from models.llama import build_llama
from simulator import Simulator

FIELDS: Mapping[str, Sequence[float]] = {
    "grid.rows": range(5, 13),
    "grid.columns": range(5, 13),
    "pe.local_memory_bytes": [size << 10 for size in range(256, 641, 32)],
    "pe.command_queue_depth": [4, 6, 8, 12, 16],
    "sram.bytes": [size << 20 for size in range(64, 513, 64)],
    "sram.bytes_per_cycle": [1000.0 + 250 * step for step in range(17)],
    "dram.channels": [8, 16, 32],
    "dram.bytes_per_second": [1e9 * rate for rate in range(100, 805, 5)],
    "frequency_mhz": [1100, 1250, 1350],
    "dma.outstanding": [8, 16, 32],
}
"""What varies, and the values it takes."""
SEQUENCE, FIRST = 512, 20
STATM = "/proc/self/statm"


@dataclass
class Totals:
    """CPU seconds and points so far."""

    compiling: float = 0.0
    simulating: float = 0.0
    points: int = 0
    infeasible: int = 0


def variant(number: int) -> Machine:
    """Return machine `number` of the walk: a step of each field's own irrational length (Kronecker's sequence)."""
    changes = {}
    for index, (path, values) in enumerate(FIELDS.items()):
        place = math.modf((number + 1) * math.sqrt(_prime(index)))[0]
        changes[path] = values[int(place * len(values))]
    return preset("mtia-2i").with_changes(changes)


def _prime(index: int) -> int:
    return [2, 3, 5, 7, 11, 13, 17, 19, 23, 29][index]


def resident_bytes() -> int:
    """Return the memory that this process holds now."""
    with open(STATM, encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Evaluate the points and print the table."""
    parser = argparse.ArgumentParser(description="Points per CPU-second of a sweep, and its memory.")
    parser.add_argument("--points", type=int, default=20, help="how many machines (default: 20)")
    wanted: int = parser.parse_args().points
    layer = build_llama(replace(MODELS["llama-3-8b"], layers=1, vocabulary=512), "absent")
    graph = fuse_model(layer, {"batch": 1, "sequence": SEQUENCE, "past": 0})
    Simulator(compile_graph(graph)).profile()
    totals, at_first = Totals(), 0
    for number in range(wanted):
        start = time.process_time()
        try:
            program = compile_graph(graph, variant(number))
        except ToolError:
            totals.infeasible += 1
            continue
        compiled = time.process_time()
        Simulator(program).profile()
        totals.simulating += time.process_time() - compiled
        totals.compiling += compiled - start
        totals.points += 1
        if totals.points == FIRST:
            at_first = resident_bytes()
    _print(totals, at_first)


def _print(totals: Totals, at_first: int) -> None:
    each = 1e3 / max(totals.points, 1)
    seconds = totals.compiling + totals.simulating
    print(
        f"{totals.points} points, {totals.infeasible} infeasible: {totals.points / seconds:.2f} points per CPU-second"
    )
    print(f"compile  {totals.compiling * each:7.1f} ms a point")
    print(f"simulate {totals.simulating * each:7.1f} ms a point")
    if at_first:
        now = resident_bytes()
        print(f"memory   {at_first / 1e6:7.1f} MB at point {FIRST}, {now / 1e6:.1f} MB at point {totals.points}: "
              f"{100 * (now / at_first - 1):+.1f} %")  # fmt: skip


if __name__ == "__main__":
    main()
