"""What the command lines share: exit codes, how errors are told, and the spelling of `--dim`.

Exit codes: 0 done, 1 the input was refused, 2 wrong use of the command, 70 our own bug, 130 interrupted,
141 the reader of stdout went away.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from isa.errors import ToolError

OK, REFUSED, USAGE, BUG, INTERRUPTED, READER_GONE = 0, 1, 2, 70, 130, 141

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DIM = re.compile(r"(?P<name>.+)=(?P<low>\d+)(?:\.\.(?P<high>\d+))?")


def run_command(command: click.Command, name: str, arguments: Sequence[str] | None) -> int:
    """Run a command on `arguments` (default: those of the process) and return the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names in models may have letters the terminal lacks
    try:
        code = _invoke(command, name, sys.argv[1:] if arguments is None else arguments)
        if sys.stdout is not None:  # it is None if the shell closed it
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        _silence_stdout()
        return READER_GONE
    except click.ClickException as error:
        _complain("usage error", f"{error.format_message()}\n  help: {name} --help")
        return USAGE
    except ToolError as error:
        _complain("error", str(error))
        return REFUSED
    except OSError as error:
        if error.errno not in _NO_SPACE:
            return _report_bug(error)
        _silence_stdout()
        _complain("error", f"the output cannot be written: {error.strerror}")
        return REFUSED
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted", "nothing was left half-written")
        return INTERRUPTED
    except Exception as error:
        return _report_bug(error)


def _report_bug(error: Exception) -> int:
    traceback.print_exception(error)
    _complain("internal error", f"{type(error).__name__}: {error}\n  help: this is a bug of ours: please report it "
              "with the command line and the lines above")  # fmt: skip
    return BUG


def _invoke(command: click.Command, name: str, arguments: Sequence[str]) -> int:
    try:
        with command.make_context(name, list(arguments)) as context:
            command.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return OK


def _complain(kind: str, text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the exit code still tells
        print(f"{kind}: {text}", file=sys.stderr, flush=True)


def _silence_stdout() -> None:
    """Let what is still buffered for the vanished reader go nowhere when the interpreter flushes it at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def note(text: str) -> None:
    """Tell on stderr what happened; stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def size(text: str) -> tuple[str, int]:
    """Return (name, size) of NAME=VALUE; the type of an option."""
    match = _DIM.fullmatch(text)
    if match is None or match["high"]:
        raise click.BadParameter(f"'{text}' is not of the form NAME=VALUE with a whole number")
    return match["name"], int(match["low"])


def size_or_range(text: str) -> tuple[str, int | tuple[int, int]]:
    """Return (name, size) of NAME=VALUE or (name, (low, high)) of NAME=LOW..HIGH; the type of an option."""
    match = _DIM.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"'{text}' is not of the form NAME=VALUE or NAME=LOW..HIGH with whole numbers")
    if not match["high"]:
        return match["name"], int(match["low"])
    low, high = int(match["low"]), int(match["high"])
    if low > high:
        raise click.BadParameter(f"'{text}' is an empty range")
    return match["name"], (low, high)


def by_name(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the sizes of all `--dim` options; the same name twice is wrong use."""
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise click.UsageError(f"--dim {twice} is given twice")
    return result
