"""Numbers with their confidence and source, as the TOML files of this package hold them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

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
