"""Reading a machine description: TOML text to `Machine`, with every problem told by file, line and key path.

The classes of `isa.machine_sections` are the only schema; this file finds lines and words the messages.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from isa.errors import MachineError, did_you_mean
from isa.file_problems import field_problems, key_lines, parse_toml, read_toml, told
from isa.machine import Machine

_FILE_HELP = "give a preset name or a TOML file"
_FIELDS_HELP = "docs/machine.md lists every field"


def read(source: str | Path) -> Machine:
    """Return the machine of a TOML file (a path) or of TOML text (a str with a newline)."""
    is_text = isinstance(source, str) and "\n" in source
    where = "machine text" if is_text else str(source)
    text = cast(str, source) if is_text else read_toml(Path(source), "machine file", MachineError, _FILE_HELP)
    return check(parse_toml(text, where, MachineError), where, key_lines(text))


def check(values: Mapping[str, Any], where: str, lines: Mapping[str, int] | None = None) -> Machine:
    """Return the machine with these nested values; raise one MachineError with all problems, with lines if known."""
    try:
        return Machine.model_validate(dict(values))
    except ValidationError as error:
        raise told(field_problems(error, Machine), where, lines or {}, MachineError, _FIELDS_HELP) from error


def changed(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested `values` with the dotted paths of `changes` set; wrong keys are left for `check`."""
    result = copy.deepcopy(values)
    for path, value in changes.items():
        *tables, key = path.split(".")
        table = result
        for index, name in enumerate(tables):
            inner = table.setdefault(name, {})
            if not isinstance(inner, dict):
                kind = "list, which is given as a whole" if isinstance(inner, tuple) else "number"
                raise MachineError(f"'{'.'.join(tables[: index + 1])}' is a {kind}, not a table", where=path)
            table = inner
        table[key] = value
    return result


def unknown_preset(name: str, presets: tuple[str, ...]) -> MachineError:
    """Return the error for a machine name that is no preset."""
    hint = did_you_mean(name, presets)
    advice = f"{hint} presets: {', '.join(presets)}; or give a file that ends in .toml".strip()
    return MachineError(f"unknown machine '{name}'", help=advice)
