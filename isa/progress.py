"""Signs of life on stderr for work that takes longer than a second."""

from __future__ import annotations

import contextlib
import sys
import threading
from types import TracebackType
from typing import Self

QUIET_SECONDS = 1.0
LINE_SECONDS = 10.0
_FRAME_SECONDS = 0.1


class Progress:
    """A context in which `step` may be called; says nothing at all if the work ends within a second.

    On a terminal a bar that vanishes at the end, else a plain line every ten seconds. `starting` is what it says until
    the first step.
    """

    def __init__(self, label: str, starting: str = "") -> None:
        self._label, self._starting = label, starting or label
        self._done, self._note = 0, ""
        self._total: int | None = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def step(self, done: int, total: int | None, note: str = "") -> None:
        """Tell that `done` of `total` parts are finished (None: nobody knows of how many), and what else there is."""
        self._done, self._total, self._note = done, total, note

    @property
    def _has_begun(self) -> bool:
        return self._total != 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        if self._ended.wait(QUIET_SECONDS):
            return
        with contextlib.suppress(OSError, ValueError):  # nobody listens: stderr is closed
            self._draw() if sys.stderr.isatty() else self._print_lines()

    def _print_lines(self) -> None:
        while True:
            of_total = f" of {self._total}" if self._total is not None else ""
            text = f"{self._label}: {self._done}{of_total}" if self._has_begun else self._starting
            text += f", {self._note}" if self._note else ""
            print(f"{text} ...", file=sys.stderr, flush=True)
            if self._ended.wait(LINE_SECONDS):
                return

    def _draw(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("{task.fields[note]}"))  # fmt: skip
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(self._starting, total=None, note="")
            while not self._ended.wait(_FRAME_SECONDS):
                if self._has_begun:
                    bar.update(task, description=self._label, completed=self._done, total=self._total, note=self._note)
