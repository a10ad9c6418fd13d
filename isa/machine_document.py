"""Writes `docs/machine.md` from the classes and presets; `python -m isa.machine_document > docs/machine.md` renews it.

Sources come from the comments of the preset files: every value there must have one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

from isa.file_problems import key_lines
from isa.machine import PRESETS, Machine, MachineField, machine_fields, preset, preset_path
from isa.machine_sections import Section

_INTRODUCTION = """\
# The machine description

This page is generated from `isa/machine_sections.py` and `isa/presets/*.toml` by `python -m isa.machine_document`.

A machine is one TOML file. `compile-model --machine` and `simulate-program --machine` take the name of a preset or a
file; copy a preset to start with. In Python: `preset("mtia-2i").with_changes({"pe.local_memory_bytes": 524288})`;
`preset("mtia-2i").at_frequency(1100)` takes the voltage of `[dvfs]` along. A list is changed as a whole.

The column *shapes* says what a field decides. `code`: which programs are valid; a program runs only on machines that
agree with its own in all of these (`code_digest`). `time`: only cycles and joules (`timing_digest`); it may be changed
for a program that exists. `label`: nothing, it is for people.
"""
_COMMENT = re.compile(r"#\s*(.+?)\s*$")


def machine_document() -> str:
    """Return the text of `docs/machine.md`."""
    parts = [_INTRODUCTION]
    for section, fields in itertools.groupby(machine_fields(), key=_section_name):
        parts += _section_lines(section, list(fields))
    return "\n".join(parts)


def preset_sources(name: str) -> dict[str, str]:
    """Return the source comment of every line of a preset that has one, by dotted path."""
    text = preset_path(name).read_text(encoding="utf-8")
    rows = text.splitlines()
    found = ((path, _COMMENT.search(rows[number - 1])) for path, number in key_lines(text).items())
    return {path: match.group(1) for path, match in found if match}


def _section_name(field: MachineField) -> str:
    return field.path.partition(".")[0] if "." in field.path else ""


def _section_lines(section: str, fields: list[MachineField]) -> Iterator[str]:
    annotation = Machine.model_fields[section].annotation if section else Machine
    about = annotation.__doc__ if isinstance(annotation, type) and issubclass(annotation, Section) else ""
    yield f"## `[{section}]`\n" if section else "## The chip\n"
    yield f"{about}\n"
    yield _row(("field", "unit", "meaning", "shapes", *PRESETS))
    yield _row(["---"] * (4 + len(PRESETS)))
    for field in fields:
        values = [_value_text(preset(name).value(field.path)) for name in PRESETS]
        yield _row((f"`{field.path}`", field.unit, field.description, field.shapes, *values))
    yield "\nSources:\n"
    yield _row(("field", *PRESETS))
    yield _row(["---"] * (1 + len(PRESETS)))
    sources = [preset_sources(name) for name in PRESETS]
    for field in fields:
        yield _row((f"`{field.path}`", *(source.get(field.path, "") for source in sources)))
    yield ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _value_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, tuple):
        return ", ".join(_value_text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print(machine_document(), end="")
