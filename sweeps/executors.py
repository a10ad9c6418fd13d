"""Where tasks are evaluated: in this process, in local processes, or (`sweeps.dask_executor`) on a dask cluster.

An executor takes a batch of tasks and yields what came of each as soon as it is known, in any order. Workers may die:
their tasks are given again, and a task on which workers die `MOST_DEATHS` times is told as a crash.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from isa.errors import ToolError
from sweeps.evaluate import Outcome, Task, evaluate

MOST_DEATHS = 3
"""A task is given to so many workers in all before it is blamed for their deaths."""
MOST_FALSE_STARTS = 10
"""So many workers in a row may end before they are ready; then something is wrong with this computer."""
_PATIENCE_SECONDS = 5.0


class Executor(Protocol):
    """Evaluates tasks somewhere."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield the outcome of every task, each once, as they come."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


class InProcess:
    """Evaluates one task after another in this process: the slow twin of all other executors."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        return map(evaluate, tasks)

    def close(self) -> None:
        pass


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection[Any, Any]
    task: Task | None = None


class LocalProcesses:
    """Spawned processes on this computer, each with one task at a time.

    The first one starts alone: it fills the kernel cache, from which the others only read.
    """

    def __init__(self, count: int, work: Callable[[Task], Outcome] = evaluate) -> None:
        self._work = work
        self._context = multiprocessing.get_context("spawn")
        self._count = count
        self._workers: list[_Worker] = []
        self._deaths: dict[int, int] = {}
        self._is_warm, self._false_starts = False, 0

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        waiting, left = deque(tasks), len(tasks)
        self._deaths = {}
        while left:
            self._staff(min(self._count, left) if self._is_warm else 1)
            for worker in self._workers:
                if worker.task is None and waiting:
                    self._give(worker, waiting.popleft())
            for outcome in self._gathered(waiting):
                left -= 1
                yield outcome

    def close(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_PATIENCE_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self._workers = []

    def pids(self) -> list[int]:
        """Return the process ids of the workers that are alive."""
        return [worker.process.pid for worker in self._workers if worker.process.pid and worker.process.is_alive()]

    def _staff(self, count: int) -> None:
        """Start workers until there are enough."""
        while len(self._workers) < count:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs, self._work), daemon=True)
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours, _GETTING_READY))

    def _give(self, worker: _Worker, task: Task) -> None:
        worker.task = task
        with contextlib.suppress(OSError):  # it is dead: `_gathered` sees that
            worker.connection.send(task)

    def _gathered(self, waiting: deque[Task]) -> list[Outcome]:
        """Wait until a worker has something to say or is dead; return outcomes, put lost tasks back."""
        outcomes: list[Outcome] = []
        ready = wait([worker.connection for worker in self._workers])
        for worker in [one for one in self._workers if one.connection in ready]:
            try:
                said = worker.connection.recv()
            except (EOFError, OSError):
                outcomes += self._mourned(worker, waiting)
                continue
            if worker.task is _GETTING_READY:
                self._is_warm, self._false_starts = True, 0
            worker.task = None
            if isinstance(said, ToolError):
                raise said
            if isinstance(said, Outcome):
                outcomes.append(said)
        return outcomes

    def _mourned(self, worker: _Worker, waiting: deque[Task]) -> list[Outcome]:
        worker.process.join(_PATIENCE_SECONDS)
        worker.connection.close()
        self._workers.remove(worker)
        task = worker.task
        if task is None:
            return []
        if task is _GETTING_READY:
            self._count_false_start(worker.process)
            return []
        deaths = self._deaths[task.number] = self._deaths.get(task.number, 0) + 1
        if deaths < MOST_DEATHS:
            waiting.appendleft(task)
            return []
        return [Outcome(task.number, crash=f"{deaths} workers ended on it, the last with {_ending(worker.process)}")]

    def _count_false_start(self, process: BaseProcess) -> None:
        self._false_starts += 1
        if self._false_starts >= MOST_FALSE_STARTS:
            self._false_starts = 0
            raise ToolError(
                f"{MOST_FALSE_STARTS} workers in a row ended before they were ready, the last with {_ending(process)}",
                help="give them more memory, or fewer --workers; --workers 0 shows more",
            )


_GETTING_READY = Task(-2, "", {}, ())
"""What a worker does before its first task."""


def _ending(process: BaseProcess) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _serve(connection: Connection[Any, Any], work: Callable[[Task], Outcome]) -> None:
    """Evaluate what comes through the connection until it is closed: the coordinator ended or needs no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the coordinator, which ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        warm_up()
        connection.send("ready")
        while True:
            task = connection.recv()
            try:
                said: Outcome | ToolError = work(task)
            except ToolError as error:
                said = error
            connection.send(said)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def warm_up() -> None:
    """Import what tasks need, and compile the kernels of the simulator if they are not in the cache yet."""
    from compiler import compile_graph, fuse_model
    from isa.machine import preset
    from models import build
    from simulator.simulator import Simulator

    graph = fuse_model(build("dlrm-tiny"), {"batch": 1})
    Simulator(compile_graph(graph, preset("mtia-2i"))).profile()
