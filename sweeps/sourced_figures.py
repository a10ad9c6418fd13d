"""Numbers with their confidence and source, as the TOML files of this package hold them."""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from isa.errors import MachineError

Confidence = Literal["published", "derived", "recalled", "assumed", "fitted"]
CONFIDENCES: tuple[Confidence, ...] = get_args(Confidence)
"""From the best known to the least: a block of several figures is as good as its worst."""


class Figures(BaseModel):
    """A frozen group of figures; no unknown keys, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(Figures):
    """A number of a TOML file with where it comes from."""

    value: float = Field(ge=0)
    confidence: Confidence
    source: str = Field(min_length=1)


def meaning(description: str, unit: str = "") -> Any:
    """Return a required pydantic field with its meaning and unit."""
    return Field(description=description, json_schema_extra={"unit": unit})


def unit_of(figures: type[BaseModel], name: str) -> str:
    """Return the unit that `meaning` gave a field."""
    extra = figures.model_fields[name].json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def worst(figures: tuple[Figure, ...]) -> Confidence:
    """Return the confidence of what is computed from these; published if from none."""
    return max((figure.confidence for figure in figures), key=CONFIDENCES.index, default="published")


def read_toml(name: str) -> dict[str, Any]:
    """Return the plain values of a TOML file beside this module."""
    return tomllib.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


def between_processes(process_nm: float, by_process: Mapping[int, float]) -> float:
    """Return a figure of a process; between two that are known on a straight line of logarithms.

    MachineError outside of those that are known.
    """
    nodes = sorted(by_process)
    if not nodes[0] <= process_nm <= nodes[-1]:
        raise MachineError(
            f"nothing is known of area and cost in a process of {process_nm:g} nm: {nodes[0]} to {nodes[-1]} nm are",
            where="process_nm",
            help="docs/area_and_cost.md shows the table of processes",
        )
    for finer, coarser in itertools.pairwise(nodes):
        if process_nm <= coarser:
            share = math.log(process_nm / finer) / math.log(coarser / finer)
            return _geometric(by_process[finer], by_process[coarser], share)
    raise AssertionError(process_nm)


def _geometric(first: float, second: float, share: float) -> float:
    """Return first^(1 - share) x second^share."""
    return float(first ** (1 - share) * second**share)
