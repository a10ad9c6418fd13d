"""The error for checkpoint directories that cannot be used."""

from __future__ import annotations


class CheckpointError(ValueError):
    """Says where the mistake is, what it is and what to do about it."""

    def __init__(self, what: str, *, where: str, help: str) -> None:
        self.what, self.where, self.help = what, where, help
        super().__init__(f"{where}: {what}\n  help: {help}")
