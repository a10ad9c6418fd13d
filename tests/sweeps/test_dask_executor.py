"""A dask cluster gives the table of one process, byte for byte, also when a worker is killed half-way."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from isa.errors import ToolError
from sweeps.coordinator import Advance
from sweeps.dask_executor import DaskCluster
from sweeps.evaluate import Task, WrongVersionError
from sweeps.running import run
from sweeps.sweep_file import read_sweep
from sweeps.tables import csv_text
from tests.sweeps.sweep_texts import TINY


def test_a_cluster_that_loses_a_worker_gives_the_same_table(tmp_path: Path) -> None:
    """Two workers; one is killed when a third of the runs are there, and dask starts another one in its place."""
    sweep = read_sweep(TINY)
    serial = csv_text(run(sweep, tmp_path / "serial", workers=0))
    killed: list[int] = []
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster, set_as_default=False) as client:
            pids = list(client.run(os.getpid).values())

        def kill(advance: Advance) -> None:
            if advance.computed >= 8 and not killed:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])

        table = run(sweep, tmp_path / "dask", dask=cluster.scheduler_address, observe=kill)
        assert killed and sorted(csv_text(table).splitlines()) == sorted(serial.splitlines())
        executor = DaskCluster(cluster.scheduler_address)
        with pytest.raises(WrongVersionError, match="the sweep is of version other"):
            list(executor.run([Task(0, "other", {}, ())]))
        executor.close()


def test_an_address_without_a_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, soon."""
    monkeypatch.setattr("sweeps.dask_executor._CONNECT_SECONDS", 0.2)
    with pytest.raises(ToolError, match="no dask scheduler answers"):
        DaskCluster("tcp://127.0.0.1:9")
    with pytest.raises(ToolError, match="no dask scheduler answers"):
        DaskCluster("what")
