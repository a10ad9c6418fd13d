"""Executors: every task has one outcome, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from isa.errors import ToolError
from sweeps.evaluate import Task
from sweeps.executors import LocalProcesses
from tests.sweeps import deadly


def _task(number: int, what: str = "") -> Task:
    return Task(number, what, {}, ())


@pytest.fixture(scope="module")
def two_workers() -> Iterator[LocalProcesses]:
    """Shared by the tests: starting workers takes a second."""
    executor = LocalProcesses(2, deadly.work)
    yield executor
    executor.close()
    assert executor.pids() == []


def test_workers_share_the_tasks(two_workers: LocalProcesses) -> None:
    """In processes of their own, which stay for the next batch."""
    outcomes = list(two_workers.run([_task(number) for number in range(20)]))
    assert sorted(outcome.number for outcome in outcomes) == list(range(20))
    used = {int((outcome.discarded or {})["pid"]) for outcome in outcomes}
    assert used <= set(two_workers.pids()) and os.getpid() not in used
    assert list(two_workers.run([])) == []


def test_a_lost_task_is_given_again(two_workers: LocalProcesses, tmp_path: Path) -> None:
    """Once its worker died, another one is started and does it."""
    tasks = [_task(0, f"kill once {tmp_path / 'done'}"), *(_task(number) for number in range(1, 6))]
    outcomes = list(two_workers.run(tasks))
    assert sorted(outcome.number for outcome in outcomes) == list(range(6))
    assert not any(outcome.crash for outcome in outcomes)


def test_idle_workers_may_die(two_workers: LocalProcesses) -> None:
    """The next batch starts others."""
    list(two_workers.run([_task(0), _task(1)]))
    for pid in two_workers.pids():
        os.kill(pid, signal.SIGKILL)
    assert len(list(two_workers.run([_task(number) for number in range(4)]))) == 4


def test_a_task_that_kills_its_workers_is_blamed(two_workers: LocalProcesses) -> None:
    """After three deaths; the other tasks are done."""
    outcomes = {outcome.number: outcome for outcome in two_workers.run([_task(0, "kill"), _task(1), _task(2)])}
    assert outcomes[0].crash == "3 workers ended on it, the last with signal SIGKILL"
    assert not outcomes[1].crash and not outcomes[2].crash


def test_an_error_for_the_user_ends_the_run(two_workers: LocalProcesses) -> None:
    """Such as a worker of another version; the executor can be used again."""
    with pytest.raises(ToolError, match="this worker will not do"):
        list(two_workers.run([_task(0, "refuse")]))
    assert len(list(two_workers.run([_task(0)]))) == 1


def test_workers_that_never_get_ready_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sentence instead of trying for ever."""
    monkeypatch.setattr("sweeps.executors.MOST_FALSE_STARTS", 2)
    executor = LocalProcesses(2, deadly.Unloadable())
    with pytest.raises(ToolError, match=r"2 workers in a row ended before they were ready, .* SIGKILL"):
        list(executor.run([_task(0)]))
    executor.close()
