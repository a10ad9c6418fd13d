"""The words of the command line as functions: run a sweep, resume it, ask how it stands, load its table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isa.errors import ToolError, did_you_mean
from sweeps.coordinator import Coordinator, Observer
from sweeps.evaluate import one_line, tool_version
from sweeps.executors import Executor, InProcess, LocalProcesses
from sweeps.points import BASELINE_NUMBER, FIGURES, Objective, SweepTable
from sweeps.store import Store, StoredSweep, StoreError
from sweeps.sweep import Sweep
from sweeps.sweep_file import SweepError, from_definition, read_sweep
from sweeps.wording import workload_text
from sweeps.workloads import compiler_of

DEFAULT_STORE = "sweeps.sqlite"


@dataclass(frozen=True, slots=True)
class SweepStatus:
    """How a sweep of a store stands; `total` is None where the budget does not say it."""

    name: str
    points: Counter[str]
    total: int | None
    is_of_this_version: bool


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What a store holds, and whether a process writes it now."""

    sweeps: tuple[SweepStatus, ...]
    runs: Counter[str]
    is_being_written: bool


def run(
    sweep: Sweep | str | Path,
    store: str | Path = DEFAULT_STORE,
    *,
    workers: int | None = None,
    dask: str | None = None,
    observe: Observer = lambda _: None,
) -> SweepTable:
    """Run a sweep (or a sweep file) to its end and return its table; goes on where it was interrupted before.

    `workers` are local processes, by default one per CPU; 0 evaluates in this process. `dask` is the address of a
    scheduler in place of them. A script that calls this with processes has to be importable: it starts with
    `if __name__ == "__main__":`.
    Raises SweepError, also for models that no machine could run, and StoreError.
    """
    chosen = sweep if isinstance(sweep, Sweep) else read_sweep(sweep)
    if not _has_begun(chosen, store):
        _check_workloads(chosen)
    with Store.to_write(store) as opened:
        executor = _executor(workers, dask)
        try:
            Coordinator(chosen, opened, executor, observe).run()
        finally:
            executor.close()
        return _table(opened, _find(opened, chosen.name, chosen.digest))


def resume(
    store: str | Path = DEFAULT_STORE,
    name: str | None = None,
    *,
    workers: int | None = None,
    dask: str | None = None,
    observe: Observer = lambda _: None,
    retry_failed: bool = False,
) -> SweepTable:
    """Go on with a sweep of a store, the latest one without a name, as `run` would; its file is not needed.

    `retry_failed` tries again what failed. What another version of the tool computed is computed again.
    """
    with Store.to_read(store) as opened:
        found = _find(opened, name)
    if retry_failed:
        with Store.to_write(store) as opened:
            opened.forget_failed()
    return run(from_definition(found.definition), store, workers=workers, dask=dask, observe=observe)


def status(store: str | Path = DEFAULT_STORE) -> StoreStatus:
    """Return how the sweeps of a store stand; it may be written meanwhile."""
    with Store.to_read(store) as opened:
        sweeps = tuple(
            SweepStatus(
                one.name, opened.counts(one), one.total,
                one.version == tool_version(),
            )
            for one in opened.sweeps()
        )  # fmt: skip
        return StoreStatus(sweeps, opened.run_counts(), opened.is_being_written())


def load_table(store: str | Path = DEFAULT_STORE, name: str | None = None) -> SweepTable:
    """Return the table of a sweep of a store, of the latest one without a name, as far as it is known."""
    with Store.to_read(store) as opened:
        return _table(opened, _find(opened, name))


def stored_sweep(store: str | Path = DEFAULT_STORE, name: str | None = None) -> StoredSweep:
    """Return a sweep of a store, the latest one without a name: what its file said, and the tool's version then."""
    with Store.to_read(store) as opened:
        return _find(opened, name)


def _has_begun(sweep: Sweep, store: str | Path) -> bool:
    """Tell whether this version of the tool began the sweep before: then its workloads were checked."""
    if not Path(store).is_file():
        return False
    try:
        with Store.to_read(store) as opened:
            return any((one.digest, one.version) == (sweep.digest, tool_version()) for one in opened.sweeps())
    except StoreError:  # whoever writes it will tell what is wrong
        return False


def _check_workloads(sweep: Sweep) -> None:
    """Run the front end on every workload, so that wrong models and sizes end the sweep before it begins."""
    problems: list[tuple[str, ToolError]] = []
    for workload in sweep.workloads:
        try:
            compiler_of(workload)
        except ToolError as error:
            problems.append((f"{sweep.places.get(workload.name, sweep.name)}: workload '{workload.name}'", error))
    if len(problems) == 1:
        place, only = problems[0]
        raise SweepError(one_line(only), where=place, help=only.help)
    if problems:
        rows = [f"  {place}: {one_line(one)}" + (f" ({one.help})" if one.help else "")
                for place, one in problems]  # fmt: skip
        raise SweepError("\n".join([f"{len(rows)} workloads cannot run", *rows]), where=sweep.name)


def _executor(workers: int | None, dask: str | None) -> Executor:
    if dask is not None:
        from sweeps.dask_executor import DaskCluster

        return DaskCluster(dask)
    count = (os.cpu_count() or 1) if workers is None else workers
    return LocalProcesses(count) if count else InProcess()


def _find(store: Store, name: str | None, digest: str | None = None) -> StoredSweep:
    sweeps = store.sweeps()
    if not sweeps:
        raise StoreError("the store has no sweeps", help="`sweep-machines run FILE` makes one")
    found = [one for one in sweeps if name in (None, one.name) and digest in (None, one.digest)]
    if not found:
        names = tuple(dict.fromkeys(one.name for one in sweeps))
        help = f"{did_you_mean(name or '', names)} sweeps of the store: {', '.join(names)}".strip()
        raise SweepError(f"no sweep '{name}' in the store", help=help)
    return found[-1]


def _table(store: Store, sweep: StoredSweep) -> SweepTable:
    definition = sweep.definition
    rows = [point.row for point in store.points(sweep)]
    baseline = next((row for row in rows if row.number == BASELINE_NUMBER), None)
    return SweepTable(
        sweep.name, tuple(_objective(row) for row in definition["objectives"]),
        tuple(row.get("path") or row["name"] for row in definition["parameters"]),
        tuple(row for row in rows if row.number != BASELINE_NUMBER), baseline,
        tuple(row["name"] for row in definition["workloads"]),
        {row["name"]: workload_text(row) for row in definition["workloads"]},
    )  # fmt: skip


def _objective(row: Mapping[str, Any]) -> Objective:
    figure = FIGURES[row["figure"].rpartition(".")[2]]
    return Objective(row["figure"], row.get("goal") or figure.goal, figure.unit)
