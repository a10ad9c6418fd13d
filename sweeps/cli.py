"""sweep-machines: evaluate many machines against models, and look at what came out.

Everything is imported where it is needed: `--help` is quick.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from isa.command_line import run_command

NAME = "sweep-machines"


@click.group(NAME, context_settings={"max_content_width": 100})
def command() -> None:
    """Sweep machines over the parameters of a file, and show the best ones."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(command, NAME, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
