"""Writing a file so that it appears complete or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from isa.errors import ToolError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a new file beside `path` that takes its place when the block ends well, and is removed otherwise.

    A link is followed. What is no ordinary file (a pipe, /dev/stdout) is written to directly. Raises OSError.
    """
    if _is_special(path):
        with open(path, "wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _is_special(path: str | Path) -> bool:
    return Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir()


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file; ToolError if it cannot be written."""
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise ToolError(f"cannot be written: {error.strerror}", where=str(path)) from error


def check_writable(path: str | Path) -> None:
    """Raise ToolError if a file cannot be written there, so that a long run does not end with nothing."""
    if _is_special(path):
        return
    folder = Path(os.path.realpath(path)).parent
    if Path(path).is_dir():
        raise ToolError("cannot be written: it is a folder", where=str(path), help="give the name of a file")
    if not folder.is_dir():
        raise ToolError(f"cannot be written: there is no folder '{Path(path).parent}'", where=str(path),
                        help="make the folder first")  # fmt: skip
    if not os.access(folder, os.W_OK):
        raise ToolError(f"cannot be written: no permission in folder '{Path(path).parent}'", where=str(path))
