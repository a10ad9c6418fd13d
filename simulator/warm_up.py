"""Compiles the meaning of commands in a second process while the first compiles the sequencer.

Both are independent (the sequencer calls the meaning through a pointer) and about equally long, so a cold start takes
little more than half the time. The processes meet in the kernel cache; without one, nothing is started.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from simulator.jit import cache_directory

_MARKER = "meaning-is-compiled"


def start() -> subprocess.Popen[bytes] | None:
    """Start compiling the meaning if the cache does not have it yet; the caller waits for the process."""
    directory = cache_directory()
    if directory is None or (directory / _MARKER).exists() or (os.cpu_count() or 1) < 2:
        return None
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "simulator.warm_up"], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:  # no memory or process to spare: this process compiles alone
        return None


def main() -> None:
    """Compile the meaning into the cache, then say so."""
    from simulator.sequencer import compile_meaning

    compile_meaning()
    directory = cache_directory()
    if directory is not None:
        Path(directory / _MARKER).touch()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
