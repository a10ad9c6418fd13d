"""Work for executors that ends its process, in a module of its own: spawned processes import it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from isa.errors import ToolError
from sweeps.evaluate import Outcome, Task


def work(task: Task) -> Outcome:
    """Do what `task.version` says: "kill" always dies, "kill once PATH" does while there is no such file."""
    word, _, path = task.version.partition(" once ")
    if word == "kill" and not (path and Path(path).exists()):
        if path:
            Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "refuse":
        raise ToolError("this worker will not do")
    return Outcome(task.number, discarded={"pid": float(os.getpid())})


class Unloadable:
    """Work that cannot be brought to another process: its workers end before they are ready."""

    def __call__(self, task: Task) -> Outcome:
        return Outcome(task.number)

    def __setstate__(self, state: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def __getstate__(self) -> str:
        return "something"
