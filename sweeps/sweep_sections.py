"""The sections of a sweep file: one frozen pydantic class per table. What one may name in them is checked elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from isa.machine_sections import Section
from sweeps.points import Goal, ParameterValue

SAMPLERS = ("grid", "random", "quasi_random", "nsga2", "tpe")
MOST_VALUES = 10_000
"""A parameter has at most so many values."""
_SLACK = 1e-9
"""Relative: the last value of a range may be missed by so much for rounding."""
_DIGITS = 12


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _number(value: Any) -> Any:
    """Pass a number; else one problem is told, and not one for each type that a number may have."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PydanticCustomError("number", "must be a number")
    return value


def _value(value: Any) -> Any:
    if not isinstance(value, (bool, str)) and (not isinstance(value, (int, float)) or not math.isfinite(value)):
        raise PydanticCustomError("value", "must be a number, a text, true or false")
    return value


Number = Annotated[int | float, BeforeValidator(_number)]
Values = Annotated[
    tuple[Annotated[ParameterValue, BeforeValidator(_value)], ...],
    BeforeValidator(_as_tuple),
    Field(min_length=1, max_length=MOST_VALUES),
]


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as dotted paths."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _flat(value: Any) -> Any:
    return flattened(value) if isinstance(value, dict) else value


def _inconsistent(path: str, sentence: str) -> PydanticCustomError:
    return PydanticCustomError("inconsistent", "{text}", {"text": sentence, "problems": ((path, sentence),)})


def _tidy(value: float) -> float:
    """Drop the last digits of a float, which come from adding or multiplying, not from the user."""
    return float(f"{value:.{_DIGITS}g}")


class RangeSection(Section):
    """`start`, `start + step`, ... up to `stop`, which counts if it is met; whole numbers stay whole."""

    start: Number
    stop: Number
    step: Number = Field(gt=0)

    def numbers(self) -> tuple[int | float, ...]:
        """Return its values in order."""
        steps = (self.stop - self.start) / self.step * (1 + _SLACK) + _SLACK
        count = math.floor(steps) + 1 if math.isfinite(steps) else math.inf
        if not 1 <= count <= MOST_VALUES:
            raise _inconsistent("range", f"has {max(count, 0)} values; 1 to {MOST_VALUES} are possible")
        numbers = (self.start + index * self.step for index in range(int(count)))
        return tuple(number if isinstance(number, int) else _tidy(number) for number in numbers)


class LogRangeSection(Section):
    """`start`, `start * factor`, ... up to `stop`; or `count` values from `start` to `stop` with a constant factor.

    Between two whole numbers, `count` values are rounded to whole ones, each there once.
    """

    start: Number = Field(gt=0)
    stop: Number = Field(gt=0)
    factor: Number | None = Field(default=None, gt=1)
    count: int | None = Field(default=None, ge=2, le=MOST_VALUES)

    def numbers(self) -> tuple[int | float, ...]:
        """Return its values in order."""
        if (self.factor is None) == (self.count is None) or self.stop < self.start:
            raise _inconsistent("log_range", "needs a stop of at least start, and either factor or count")
        if not math.isfinite(self.stop / self.start):
            raise _inconsistent("log_range", "its stop is too large a multiple of its start")
        if self.factor is not None:
            steps = math.floor(math.log(self.stop / self.start) / math.log(self.factor) + _SLACK)
            if steps >= MOST_VALUES:
                raise _inconsistent("log_range", f"has {steps + 1} values; 1 to {MOST_VALUES} are possible")
            numbers = [self.start * self.factor**step for step in range(steps + 1)]
            return tuple(number if isinstance(number, int) else _tidy(number) for number in numbers)
        assert self.count is not None
        ratio, last = self.stop / self.start, self.count - 1
        spread = [self.start * ratio ** (index / last) for index in range(self.count)]
        if isinstance(self.start, int) and isinstance(self.stop, int):
            return tuple(dict.fromkeys(round(number) for number in spread))
        return tuple(_tidy(number) for number in spread)


class ParameterSection(Section):
    """`[[parameters]]`: a field of the machine by `path`, or a `name` that sets several fields by expressions."""

    path: str | None = None
    name: str | None = Field(default=None, pattern=r"^[A-Za-z_]\w*$")
    values: Values | None = None
    range: RangeSection | None = None
    log_range: LogRangeSection | None = None
    set: Annotated[dict[str, str], BeforeValidator(_flat)] = Field(default_factory=dict)
    when: str | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> ParameterSection:
        if (self.path is None) == (self.name is None):
            raise _inconsistent("path", "a parameter has either a path, or a name and what it sets")
        if self.name is not None and not self.set:
            raise _inconsistent("name", "a parameter with a name needs `set`, a table of paths and expressions")
        if self.path is not None and self.set:
            raise _inconsistent("set", "is for a parameter with a name in place of a path")
        if sum(given is not None for given in (self.values, self.range, self.log_range)) != 1:
            raise _inconsistent("values", "a parameter needs one of values, range and log_range")
        if len(set(map(repr, self.choices))) < len(self.choices):
            raise _inconsistent("values", "a value is there twice")
        return self

    @property
    def key_of_values(self) -> str:
        """The key that gives its values."""
        return next((key for key in ("values", "range", "log_range") if getattr(self, key) is not None), "")

    @property
    def label(self) -> str:
        """What the parameter is called in tables."""
        return self.path or self.name or ""

    @property
    def choices(self) -> tuple[ParameterValue, ...]:
        """All its values in order."""
        if self.values is not None:
            return self.values
        source = self.range or self.log_range
        assert source is not None
        return source.numbers()


class ConstraintSection(Section):
    """`[[constraints]]`: an expression that must hold."""

    expression: str


class WorkloadSection(Section):
    """`[[workloads]]`: a model by name or file, its sizes, and how much it counts."""

    name: str = Field(pattern=r"^[A-Za-z_]\w*$")
    model: str
    layers: int | None = Field(default=None, ge=1)
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    quantize: Literal["int8", "fp8", "int4"] | None = None
    group_size: int | None = None
    phase: Literal["prefill", "decode"] | None = None
    batch: int | None = Field(default=None, ge=1)
    sequence: int | None = Field(default=None, ge=1)
    past: int | None = Field(default=None, ge=0)
    dims: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    indices: str = "uniform"
    weight: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _has_its_sizes(self) -> WorkloadSection:
        if self.phase == "prefill" and self.sequence is None:
            raise _inconsistent("phase", "prefill needs `sequence`, the tokens of the prompt")
        if self.phase == "decode" and self.past is None:
            raise _inconsistent("phase", "decode needs `past`, the tokens before the one that is computed")
        if self.phase == "decode" and self.sequence not in (None, 1):
            raise _inconsistent("sequence", "decode computes one token of each sequence at a time")
        for name in ("batch", "sequence", "past"):
            if getattr(self, name) is not None and name in self.dims:
                raise _inconsistent(name, f"is given in dims.{name} too")
        return self

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of dims as given, with what the phase says."""
        short = {"batch": self.batch, "sequence": self.sequence, "past": self.past}
        phase = {"prefill": {"past": 0}, "decode": {"sequence": 1}}.get(self.phase or "", {})
        return phase | self.dims | {name: size for name, size in short.items() if size is not None}


class ObjectiveSection(Section):
    """`[[objectives]]`: a figure, and whether less or more of it is wanted."""

    figure: str
    goal: Goal | None = None


class SamplerSection(Section):
    """`[sampler]`: which points are tried; `batch` of them are chosen and evaluated together.

    With `discard`, points that cannot be on the front are not simulated.
    """

    kind: Literal["grid", "random", "quasi_random", "nsga2", "tpe"] = "grid"
    seed: int = Field(default=0, ge=0, lt=2**32)
    batch: int = Field(default=16, ge=2, le=4096)
    discard: bool = True


class BudgetSection(Section):
    """`[budget]`: where the sweep ends."""

    points: int | None = Field(default=None, ge=1)
    hours: float | None = Field(default=None, gt=0)


class FileSections(Section):
    """The whole file; the tables that hold names are checked one by one."""

    name: str = Field(min_length=1)
    machine: str
    scale_energy: bool = True
    changes: dict[str, Any] = Field(default_factory=dict)
    parameters: list[Any]
    constraints: list[Any] = Field(default_factory=list)
    workloads: list[Any]
    objectives: list[Any]
    sampler: dict[str, Any] = Field(default_factory=dict)
    budget: dict[str, Any] = Field(default_factory=dict)
    cost: dict[str, Any] = Field(default_factory=dict)
