"""Reading a machine description: TOML text to `Machine`, with every problem told by file, line and key path.

The classes of `isa.machine_sections` are the only schema; this file finds lines and words the messages.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from isa.errors import MachineError, did_you_mean
from isa.machine import Machine
from isa.machine_sections import Section

_TABLE = re.compile(r"^\s*\[\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"""^\s*([A-Za-z0-9_.\-"' ]+?)\s*=""")
_FIELDS_HELP = "docs/machine.md lists every field"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: dotted key path, sentence, and what to do about it."""

    path: str
    what: str
    help: str


def read(source: str | Path) -> Machine:
    """Return the machine of a TOML file (a path) or of TOML text (a str with a newline)."""
    is_text = isinstance(source, str) and "\n" in source
    where = "machine text" if is_text else str(source)
    text = cast(str, source) if is_text else _read_text(Path(source))
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        place = f"{where}:{line.group(1)}" if line else where
        raise MachineError(f"this is not TOML: {error}", where=place) from error
    return check(values, where, key_lines(text))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MachineError("no such machine file", where=str(path), help="give a preset name or a TOML file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise MachineError(f"cannot read the machine file: {error}", where=str(path)) from error


def check(values: Mapping[str, Any], where: str, lines: Mapping[str, int] | None = None) -> Machine:
    """Return the machine with these nested values; raise one MachineError with all problems, with lines if known."""
    try:
        return Machine.model_validate(dict(values))
    except ValidationError as error:
        problems = [problem for details in error.errors() for problem in _problems_of(cast(Any, details))]
        raise _error_of(problems, where, lines or {}) from error


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


def key_lines(text: str) -> dict[str, int]:
    """Return the line number (from 1) of every table and key of TOML text, by dotted path."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.match(line):
            table = _plain(header.group(1))
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            path = _plain(key.group(1))
            lines.setdefault(f"{table}.{path}" if table else path, number)
    return lines


def _plain(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def _problems_of(details: Mapping[str, Any]) -> Iterator[Problem]:
    path = ".".join(str(part) for part in details["loc"])
    kind = details["type"]
    if kind == "inconsistent":
        for inner_path, sentence in details["ctx"]["problems"]:
            yield Problem(inner_path, sentence, "")
    elif kind == "extra_forbidden":
        allowed = _allowed_keys(details["loc"][:-1])
        hint = did_you_mean(str(details["loc"][-1]), allowed)
        yield Problem(path, "unknown key", f"{hint} allowed here: {', '.join(allowed)}".strip())
    elif kind == "missing":
        yield Problem(path, "missing", "")
    else:
        yield Problem(path, f"{_sentence(details['msg'])}, not {details['input']!r}", "")


def _sentence(message: str) -> str:
    """Turn pydantic's wording ("Input should be greater than 0") into ours ("must be greater than 0")."""
    return message.replace("Input should be", "must be")


def _allowed_keys(location: tuple[str, ...]) -> tuple[str, ...]:
    section: type[Section] = Machine
    for name in location:
        section = cast(type[Section], section.model_fields[name].annotation)
    return tuple(section.model_fields)


def _line_of(path: str, lines: Mapping[str, int]) -> int | None:
    """Return the line of a key, or of the nearest table around it."""
    while path:
        if path in lines:
            return lines[path]
        path = path.rpartition(".")[0]
    return None


def _error_of(problems: list[Problem], where: str, lines: Mapping[str, int]) -> MachineError:
    placed = sorted(((_line_of(problem.path, lines) or 0, problem) for problem in problems), key=lambda pair: pair[0])
    texts = [(f"{where}:{line}" if line else where, problem) for line, problem in placed]
    if len(texts) == 1:
        place, problem = texts[0]
        return MachineError(f"{problem.path}: {problem.what}", where=place, help=problem.help or _FIELDS_HELP)
    rows = [f"  {place}: {one.path}: {one.what}" + (f" ({one.help})" if one.help else "") for place, one in texts]
    return MachineError("\n".join([f"{len(rows)} problems", *rows]), where=where, help=_FIELDS_HELP)
