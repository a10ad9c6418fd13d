"""Telling what is wrong with a TOML file: all problems in one error, each with its line and dotted key path."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from isa.errors import ToolError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

_TABLE = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"""^\s*([A-Za-z0-9_.\-"' ]+?)\s*=""")

_IN_TOML = {"tuple_type": "must be a list", "list_type": "must be a list", "dict_type": "must be a table"}
"""What pydantic says in words of Python, by the type of its error."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: dotted key path, sentence, and what to do about it."""

    path: str
    what: str
    help: str = ""


def read_toml(path: Path, kind: str, error_type: type[ToolError], help: str) -> str:
    """Return the text of a file; an error of that type if there is none, or it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise error_type(f"no such {kind}", where=str(path), help=help) from error
    except (OSError, UnicodeDecodeError) as error:
        raise error_type(f"cannot read the {kind}: {error}", where=str(path)) from error


def parse_toml(text: str, where: str, error_type: type[ToolError]) -> dict[str, Any]:
    """Return the values of TOML text; an error of that type, with the line, if it is none."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        line = re.search(r"line (\d+)", str(error))
        place = f"{where}:{line.group(1)}" if line else where
        raise error_type(f"this is not TOML: {error}", where=place) from error


def key_lines(text: str) -> dict[str, int]:
    """Return the line number (from 1) of every table and key of TOML text, by dotted path.

    The tables of an array have a number in their path: `parameters.0.values` is in the first `[[parameters]]`.
    """
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.match(line):
            table = _plain(header.group(2))
            if header.group(1) == "[[":
                counts[table] = counts.get(table, -1) + 1
                lines.setdefault(table, number)
            table = _numbered(table, counts)
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            path = _plain(key.group(1))
            lines.setdefault(f"{table}.{path}" if table else path, number)
    return lines


def _numbered(table: str, counts: Mapping[str, int]) -> str:
    """Return the path of a table with the number of the present one behind every array in it."""
    parts, plain = list[str](), ""
    for part in table.split("."):
        plain = f"{plain}.{part}" if plain else part
        parts += [part, str(counts[plain])] if plain in counts else [part]
    return ".".join(parts)


def _plain(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def line_of(path: str, lines: Mapping[str, int]) -> int | None:
    """Return the line of a key, or of the nearest table around it."""
    while path:
        if path in lines:
            return lines[path]
        path = path.rpartition(".")[0]
    return None


def told(
    problems: Sequence[Problem], where: str, lines: Mapping[str, int], error_type: type[ToolError], help: str
) -> ToolError:
    """Return one error that tells all problems in the order of their lines; `help` is for those that have none."""
    placed = sorted(((line_of(problem.path, lines) or 0, problem) for problem in problems), key=lambda pair: pair[0])
    texts = [(f"{where}:{line}" if line else where, problem) for line, problem in placed]
    if len(texts) == 1:
        place, problem = texts[0]
        return error_type(f"{problem.path}: {problem.what}", where=place, help=problem.help or help)
    rows = [f"  {place}: {one.path}: {one.what}" + (f" ({one.help})" if one.help else "") for place, one in texts]
    return error_type("\n".join([f"{len(rows)} problems", *rows]), where=where, help=help)


def field_problems(error: ValidationError, root: type[BaseModel], path: str = "") -> list[Problem]:
    """Return what pydantic found wrong with values of `root`, which lie at a dotted path of the file."""
    prefix = f"{path}." if path else ""
    return [problem for details in error.errors() for problem in _of_details(cast(Any, details), root, prefix)]


def _of_details(details: Mapping[str, Any], root: type[BaseModel], prefix: str) -> Iterator[Problem]:
    path = prefix + ".".join(str(part) for part in details["loc"])
    kind = details["type"]
    if kind == "inconsistent":
        for inner_path, what in details["ctx"]["problems"]:
            yield Problem(prefix + inner_path, what)
    elif kind == "extra_forbidden":
        allowed = _allowed_keys(details["loc"][:-1], root)
        hint = did_you_mean(str(details["loc"][-1]), allowed)
        yield Problem(path, "unknown key", f"{hint} allowed here: {', '.join(allowed)}".strip())
    elif kind == "missing":
        yield Problem(path, "missing")
    elif kind in ("too_short", "string_too_short"):
        yield Problem(path, "must not be empty")
    else:
        what = _IN_TOML.get(kind) or details["msg"].replace("Input should be", "must be")
        yield Problem(path.rstrip("."), f"{what}, not {details['input']!r}")


def _allowed_keys(location: Sequence[Any], section: type[BaseModel]) -> tuple[str, ...]:
    for name in location:
        section = cast("type[BaseModel]", section.model_fields[name].annotation)
    return tuple(section.model_fields)
