"""How figures, parameters and strangers' words are written for people: labels, units, scaled numbers, safe text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from sweeps.points import FIGURES, Objective, ParameterValue

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"),
             (1e-9, "n"), (1e-12, "p"))  # fmt: skip
_BINARY = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
_UNIT_OF_SUFFIX = {"seconds": "s", "joules": "J", "watts": "W", "mm2": "mm2", "dollars": "$"}
_WITHOUT_PREFIX = {"mm2", "$", "%", ""}
_ABBREVIATIONS = {"tco": "TCO", "dram": "DRAM", "sram": "SRAM", "pes": "PEs", "pe": "PE", "noc": "NoC", "mhz": "MHz",
                  "tdp": "TDP"}  # fmt: skip
ABSENT = "-"
"""What stands for the value of a conditional parameter that a point does not have."""


def plain(text: str) -> str:
    """Return a text without anything that a terminal or a reader could be misled by: such signs as escapes."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def figure_unit(name: str, objectives: Iterable[Objective] = ()) -> str:
    """Return the unit of a figure, also of one per workload: of the objective, of FIGURES, or of its name's end."""
    own = name.rpartition(".")[2]
    units = {objective.name: objective.unit for objective in objectives}
    if name in units:
        return units[name]
    return FIGURES[own].unit if own in FIGURES else _UNIT_OF_SUFFIX.get(own.rpartition("_")[2], "")


def figure_label(name: str) -> str:
    """Return the name of a figure in words: decode.energy_per_token_joules -> "decode: energy per token"."""
    workload, _, own = name.rpartition(".")
    words = own.split("_")
    if words[-1] in _UNIT_OF_SUFFIX:
        words.pop()
        words += ["power"] if own.endswith("_watts") else []
    label = " ".join(_ABBREVIATIONS.get(word, word) for word in words)
    label = label.removesuffix(" per second")
    return plain(f"{workload}: {label}" if workload else label)


def workload_text(row: Mapping[str, Any]) -> str:
    """Return what a table of `[[workloads]]` says a workload is: "llama-3-8b, decode, batch 16, past 2048, fp16"."""
    layers = f"{row['layers']} layer{'s' if row['layers'] > 1 else ''}" if "layers" in row else None
    sizes = {name: row[name] for name in ("batch", "sequence", "past") if name in row} | row.get("dims", {})
    words = [PurePath(row["model"]).name, layers, row.get("phase"), *(f"{name} {size}" for name, size in sizes.items())]
    words += [row.get("dtype", "fp16"), f"{row['quantize']} weights" if "quantize" in row else None, row.get("indices")]
    return ", ".join(word for word in words if word)


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Return for each dotted path its shortest end of two or more parts that no other path has."""
    result = {}
    for path in paths:
        lengths = range(2, path.count(".") + 2)
        ends = (_end(path, length) for length in lengths if _is_only(path, paths, length))
        result[path] = next(ends, path)
    return result


def _end(path: str, length: int) -> str:
    return ".".join(path.split(".")[-length:])


def _is_only(path: str, paths: Sequence[str], length: int) -> bool:
    return all(_end(other, length) != _end(path, length) for other in paths if other != path)


def parameter_label(name: str) -> str:
    """Return the (shortened) name of a parameter in words without its bytes, which its values tell."""
    words = re.sub(r"[._]bytes(_per_second)?$", "", plain(name)).replace(".", " ").replace("_", " ").split(" ")
    return " ".join(_ABBREVIATIONS.get(word, word) for word in words)


def scale_of(values: Iterable[float], unit: str) -> tuple[float, str]:
    """Return (divisor, unit with prefix) that suits all values: the greatest has 1 to 999 before the point."""
    finite = [abs(value) for value in values if math.isfinite(value) and value]
    if unit in _WITHOUT_PREFIX or not finite:
        return 1.0, shown_unit(unit)
    divisor, prefix = next((pair for pair in _PREFIXES if max(finite) >= pair[0] * 0.99995), _PREFIXES[-1])
    return divisor, prefix + shown_unit(unit)


def shown_unit(unit: str) -> str:
    """Return a unit as people write it: mm2 -> "mm²", 1/s -> "/s"."""
    return plain(re.sub(r"^1/", "/", unit.replace("mm2", "mm²")))


def number(value: float, digits: int = 4) -> str:
    """Return a number with that many significant digits, all digits before the point, and thousands set apart."""
    if not math.isfinite(value):
        return str(value)
    if value and abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    before = math.floor(math.log10(abs(value) * (1 + 0.5 * 10**-digits))) + 1 if value else 1
    return f"{value:,.{max(0, digits - before)}f}"


def amount(value: float, unit: str) -> str:
    """Return a value with unit and SI prefix: 0.0931, "s" -> "93.10 ms"; 7, "$" -> "$7.000"."""
    divisor, scaled = scale_of([value], unit)
    text = number(value / divisor)
    return f"${text}" if unit == "$" else f"{text} {scaled}".strip()


def parameter_text(name: str, value: ParameterValue | None) -> str:
    """Return a value of a parameter; bytes in the largest binary unit that leaves a whole number, rates scaled."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return plain(value)
    if name.endswith("bytes_per_second"):
        return amount(value, "B/s")
    if name.endswith("bytes") and value and value == int(value):
        size, unit = next(pair for pair in _BINARY if int(value) % pair[0] == 0)
        return f"{int(value) // size:,} {unit}"
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}" if abs(value) < 1e15 else f"{value:.6g}"
    return f"{value:.6g}"


def change_text(value: float, before: float) -> str:
    """Return by how much a value differs from one before, with sign: "-23.1 %"; times from 10-fold on."""
    if not before or value / before < 0:
        return f"{value - before:+.3g}"
    ratio = value / before
    return f"x {number(ratio, 3)}" if ratio >= 10 else f"{100 * (ratio - 1):+.1f} %"
