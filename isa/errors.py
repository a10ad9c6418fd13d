"""The errors a user can meet, for all packages.

Every message says where, what and what to do; a command line prints it without a traceback and exits with 1.
Anything else that escapes is our own bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ToolError(Exception):
    """Root of all errors that are the input's fault: `where: what`, then a `help:` line."""

    def __init__(self, what: str, *, where: str = "", help: str = "") -> None:
        self.what, self.where, self.help = what, where, help
        super().__init__(what)

    def __str__(self) -> str:
        first = f"{self.where}: {self.what}" if self.where else self.what
        return f"{first}\n  help: {self.help}" if self.help else first


class ModelError(ToolError):
    """The ONNX file, its dims or its weights cannot be used as they are."""


class UnsupportedError(ToolError):
    """Legal input that this compiler does not handle; names the op and the nearest supported form."""


class AssemblyError(ToolError):
    """Assembly text or an instruction that the ISA table does not allow."""


class MachineError(ToolError):
    """A machine description with a wrong key or value."""


class ProgramError(ToolError):
    """A program file that is damaged, of another version, or does not fit the machine."""


class SimulationError(ToolError):
    """A run that cannot go on: deadlock, access out of range, inputs that do not fit."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the nearest known name, or the empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean '{matches[0]}'?" if matches else ""
