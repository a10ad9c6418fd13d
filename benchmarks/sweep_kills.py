"""Kills coordinators and workers of sweeps with SIGKILL at random instants, and counts what is lost or computed twice.

    python -m benchmarks.sweep_kills --kills 200

A sweep runs in a process of its own, which tells every run that it has committed. After each death of a coordinator
its workers must end, all that was told must be in the store as it was, and the sweep goes on. Every finished sweep is
compared with one that ran undisturbed in one process.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SWEEP = """\
name = "round-{seed}"
machine = "mtia-2i"
changes = {{ grid.rows = 2, grid.columns = 2 }}

[[parameters]]
path = "dram.bytes_per_second"
range = {{ start = 20e9, stop = 400e9, step = 1e8 }}

[[parameters]]
path = "sram.bytes"
log_range = {{ start = 33554432, stop = 268435456, factor = 2 }}

[[workloads]]
name = "decode"
model = "llama-tiny"
layers = 1
phase = "decode"
past = 30

[[workloads]]
name = "ranking"
model = "dlrm-tiny"
batch = 8

[[objectives]]
figure = "latency_seconds"

[[objectives]]
figure = "area_mm2"

[sampler]
kind = "{kind}"
seed = {seed}
batch = 8

[budget]
points = {points}
"""
KINDS = ("random", "nsga2")
LONGEST_SECONDS = 4.0
"""A kill comes at a random instant within so many seconds of the one before, of the start, or of the first result."""
_ORPHAN_SECONDS = 20.0


@dataclass
class Counts:
    """What a campaign of kills has seen."""

    coordinators: int = 0
    workers: int = 0
    acknowledged: dict[str, object] = field(default_factory=dict)
    lost: int = 0
    computed_twice: int = 0
    orphans: int = 0
    wrong_tables: int = 0
    sweeps: int = 0
    resume_seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        ready = sorted(self.resume_seconds) or [0.0]
        return (
            f"{self.coordinators} coordinators and {self.workers} workers killed in {self.sweeps} sweeps: "
            f"{len(self.acknowledged)} runs acknowledged, {self.lost} lost, {self.computed_twice} computed twice, "
            f"{self.orphans} workers left over, {self.wrong_tables} tables differ; from the start of the process to "
            f"going on: median {ready[len(ready) // 2]:.2f} s, longest {ready[-1]:.2f} s"
        )


class _Child:
    """A sweep in a process of its own, and what it has told."""

    def __init__(self, sweep: Path, store: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.sweep_kills", "--child", str(sweep), str(store)]
        self._start = time.monotonic()
        self._errors = store.with_name("errors.txt")  # workers of a killed coordinator complain
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.told: list[str] = []
        self.ready_seconds: float | None = None
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == "ready\n":
                self.ready_seconds = time.monotonic() - self._start
            elif line.endswith("\n"):
                self.told.append(line.strip())
        self.process.stdout.close()

    def workers(self) -> list[int]:
        """Return the process ids of its workers."""
        found = []
        for pid in _children(self.process.pid):
            command = Path(f"/proc/{pid}/cmdline")
            if command.exists() and b"spawn_main" in command.read_bytes():
                found.append(pid)
        return found

    def wait(self, seconds: float | None = None) -> int | None:
        """Return the exit code, None if it still runs then."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join()
        return code

    def wait_for_a_result(self) -> None:
        """Return when it has told a result, or has ended."""
        while not self.told and self.process.poll() is None:
            time.sleep(0.01)

    def errors(self) -> str:
        """Return what it wrote to stderr."""
        return self._errors.read_text()


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def campaign(folder: Path, kills: int, points: int, seed: int) -> Counts:
    """Kill so many times in sweeps of so many points, and finish the last one."""
    from sweeps.executors import warm_up

    warm_up()  # else all kills would come while kernels are compiled
    chance, counts, store = random.Random(seed), Counts(), folder / "sweeps.sqlite"
    while counts.coordinators + counts.workers < kills:
        counts.sweeps += 1
        file = folder / f"{counts.sweeps}.toml"
        kind = KINDS[counts.sweeps % len(KINDS)]
        file.write_text(SWEEP.format(seed=seed * 1000 + counts.sweeps, kind=kind, points=points))
        while not _disturbed(_Child(file, store), store, kills, chance, counts):
            pass
        counts.wrong_tables += not _is_as_undisturbed(file, store, folder)
    return counts


def _disturbed(child: _Child, store: Path, kills: int, chance: random.Random, counts: Counts) -> bool:
    """Kill workers, and then the coordinator, unless the sweep ends before; tell whether it did."""
    resumed = bool(counts.coordinators)
    workers: set[int] = set()
    code = None
    while code is None:
        left = counts.coordinators + counts.workers < kills
        if left and chance.random() < 0.75:
            child.wait_for_a_result()
        code = child.wait(chance.uniform(0, LONGEST_SECONDS) if left else None)
        workers |= set(child.workers())
        if code is not None:
            break
        living = sorted(child.workers())
        if living and chance.random() < 0.5:
            _kill(chance.choice(living))
            counts.workers += 1
        else:
            child.process.kill()
            counts.coordinators += 1
            child.wait()
            break
    if resumed and child.ready_seconds is not None:
        counts.resume_seconds.append(child.ready_seconds)
    counts.orphans += _left_over(workers)
    _check(child.told, store, counts)
    if code:
        raise SystemExit(f"{child.errors()}\nthe sweep ended with exit code {code}")
    return code == 0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _left_over(workers: set[int]) -> int:
    """Return how many workers still live some seconds after their coordinator is gone."""
    deadline = time.monotonic() + _ORPHAN_SECONDS
    living = workers
    while living and time.monotonic() < deadline:
        living = {pid for pid in living if Path(f"/proc/{pid}").exists()}
        time.sleep(0.02)
    return len(living)


def _check(told: list[str], store: Path, counts: Counts) -> None:
    """Compare what was told, now and before, with what is in the store."""
    from sweeps.store import Store

    counts.computed_twice += sum(key in counts.acknowledged for key in told) + len(told) - len(set(told))
    if not store.exists():
        counts.lost += len(told)
        return
    with Store.to_write(store) as opened:
        known = opened.known_runs([*counts.acknowledged, *told])
    counts.lost += sum(known.get(key) != result for key, result in counts.acknowledged.items())
    counts.lost += sum(key not in known for key in told)
    counts.acknowledged |= {key: known[key] for key in told if key in known}


def _is_as_undisturbed(file: Path, store: Path, folder: Path) -> bool:
    from sweeps.running import load_table, run
    from sweeps.tables import csv_text

    alone = run(file, folder / "undisturbed.sqlite", workers=0)
    return csv_text(load_table(store, alone.name)) == csv_text(alone)


def _run_child(sweep: str, store: str) -> None:
    from sweeps.coordinator import Advance
    from sweeps.running import run

    lines = ["ready\n"]

    def tell(advance: Advance) -> None:
        os.write(1, "".join([*lines, *(f"{key}\n" for key in advance.acknowledged)]).encode())
        lines.clear()

    run(sweep, store, workers=2, observe=tell)


def main() -> int:
    """Run a campaign and print what it has seen; exit code 1 if anything was lost or computed twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--points", type=int, default=48, help="points of each sweep")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _run_child(*arguments.child)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        counts = campaign(Path(folder), arguments.kills, arguments.points, arguments.seed)
    print(counts)
    return int(bool(counts.lost or counts.computed_twice or counts.orphans or counts.wrong_tables))


if __name__ == "__main__":
    raise SystemExit(main())
