"""The space of a sweep: parameters with finitely many values each, and the machine that a choice of them makes.

A choice is an index into the values of every parameter, also of those that are not active in it. Parameters apply in
the order of the file; `frequency` goes last, through the machine's points of clock and voltage.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from isa.errors import ToolError
from isa.machine import Machine, machine_fields
from sweeps.expressions import Expression, Value
from sweeps.points import ParameterValue
from sweeps.scaling import with_scaled_energy

Choice = tuple[int, ...]
FREQUENCY = "frequency"
"""The path that is no field: the clock in MHz, with the voltage that the machine's `dvfs` gives there."""
BASE = "base."
"""In front of a field or figure in expressions: that of the base machine."""
DERIVED = (
    "pe_count", "cycles_per_second", "peak_simd_elements_per_second", "total_local_memory_bytes",
    "local_memory_bytes_per_second", "sram_bytes_per_second", "dram_deliverable_bytes_per_second",
    "dram_bytes_per_cycle",
)  # fmt: skip
"""Properties of a machine that expressions may name besides its fields."""
LIST_TYPE = "tuple"


@functools.cache
def fields() -> Mapping[str, str]:
    """Return the type name of every field of a machine that is one value, by path."""
    return {field.path: field.type_name for field in machine_fields() if field.type_name != LIST_TYPE}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter: its values in order, what it sets (path, expression), and when it is active.

    One of a field sets that, and `sets` is empty; then `label` is the path.
    """

    label: str
    values: tuple[ParameterValue, ...]
    sets: tuple[tuple[str, Expression], ...] = ()
    when: Expression | None = None

    @property
    def is_ordered(self) -> bool:
        """Whether its values are numbers, in ascending or descending order."""
        numbers = [value for value in self.values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        return len(numbers) == len(self.values) and numbers in (sorted(numbers), sorted(numbers, reverse=True))


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a choice means: the values of the active parameters by label, and the changes of fields by path."""

    values: Mapping[str, ParameterValue]
    changes: Mapping[str, Value]


class Names(Mapping[str, Value]):
    """Values that expressions read: given ones first, then those of machines, computed when they are asked for."""

    def __init__(self, given: Mapping[str, Value], *sources: Callable[[str], Value | None]) -> None:
        self._given, self._sources = given, sources

    def __getitem__(self, name: str) -> Value:
        if name in self._given:
            return self._given[name]
        for source in self._sources:
            value = source(name)
            if value is not None:
                return value
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        try:
            self[str(name)]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


def machine_values(machine: Machine, prefix: str = "") -> Callable[[str], Value | None]:
    """Return a source of fields and derived figures of a machine, for names behind a prefix."""

    def value(name: str) -> Value | None:
        path = name.removeprefix(prefix)
        if not name.startswith(prefix) or (path not in fields() and path not in DERIVED):
            return None
        found: Value = machine.value(path)
        return found

    return value


def assign(base: Machine, parameters: tuple[Parameter, ...], choice: Choice) -> Assignment:
    """Return what a choice means on a base machine; ExpressionError for an expression without a value."""
    values: dict[str, ParameterValue] = {}
    changes: dict[str, Value] = {}
    sources = machine_values(base), machine_values(base, BASE)
    for parameter, index in zip(parameters, choice, strict=True):
        names = Names({**changes, **values}, *sources)
        if parameter.when is not None and not parameter.when.evaluate(names):
            continue
        value = values[parameter.label] = parameter.values[index]
        names = Names({**changes, **values}, *sources)
        sets = [(path, expression.evaluate(names)) for path, expression in parameter.sets]
        for path, new in sets or [(parameter.label, value)]:
            changes[path] = _as_field(path, new)
    return Assignment(values, changes)


def own_value(base: Machine, parameter: Parameter, before: Mapping[str, ParameterValue]) -> ParameterValue | None:
    """Return the value that a parameter has on the base machine, given those of earlier ones; None without one.

    A field's own; of a parameter that sets several the first of its values that leaves them all as they are.
    """
    own = Names({FREQUENCY: base.frequency_mhz}, machine_values(base))
    if not parameter.sets:
        return own.get(parameter.label)
    for value in parameter.values:
        names = Names({**before, parameter.label: value}, machine_values(base), machine_values(base, BASE))
        with contextlib.suppress(ToolError):
            if all(_is_equal(expression.evaluate(names), own[path]) for path, expression in parameter.sets):
                return value
    return None


def _is_equal(first: Value, second: Value) -> bool:
    """Compare but for the rounding of a calculation."""
    if isinstance(first, str) or isinstance(second, str):
        return first == second
    return math.isclose(first, second, rel_tol=1e-9)


def _as_field(path: str, value: Value) -> Value:
    """Return whole floats as whole numbers where the field is one."""
    is_whole = isinstance(value, float) and value.is_integer() and fields().get(path) == "int"
    return int(value) if is_whole else value


def is_active(base: Machine, parameters: tuple[Parameter, ...], before: Choice) -> bool:
    """Tell whether the parameter behind the first ones is active, given the choice of those.

    If that cannot be told it is: what is wrong is told when the point is made.
    """
    when = parameters[len(before)].when
    if when is None:
        return True
    try:
        assignment = assign(base, parameters[: len(before)], before)
        sources = machine_values(base), machine_values(base, BASE)
        return bool(when.evaluate(Names({**assignment.changes, **assignment.values}, *sources)))
    except ToolError:
        return True


def machine_with(base: Machine, changes: Mapping[str, Value], scale_energy: bool) -> Machine:
    """Return the base machine with changes, and with energies of its new size; MachineError if they make none."""
    changed = base.with_changes({path: value for path, value in changes.items() if path != FREQUENCY})
    if scale_energy:
        changed = with_scaled_energy(changed, base)
    if FREQUENCY not in changes:
        return changed
    frequency = changes[FREQUENCY]
    if isinstance(frequency, (bool, str)):
        raise ToolError(f"a clock must be a number of MHz, not {frequency!r}", where=FREQUENCY)
    return changed.at_frequency(float(frequency))


def plain(machine: Machine) -> dict[str, Any]:
    """Return all values of a machine as JSON has them; `Machine.from_dict` reads them back."""
    values: dict[str, Any] = machine.model_dump(mode="json")
    return values


def digest_of(machine: Machine) -> str:
    """Return the sha256 over all values of a machine."""
    text = json.dumps(plain(machine), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def grid(base: Machine, parameters: tuple[Parameter, ...]) -> Iterator[Choice]:
    """Yield all choices, the last parameter's values in turn first; one that is not active has its first value."""

    def extended(before: Choice) -> Iterator[Choice]:
        if len(before) == len(parameters):
            yield before
            return
        active = is_active(base, parameters, before)
        for index in range(len(parameters[len(before)].values) if active else 1):
            yield from extended((*before, index))

    return extended(())


MOST_COUNTED = 200_000
"""Choices of a grid are counted up to here where parameters depend on others."""


def grid_size(base: Machine, parameters: tuple[Parameter, ...], most: int = MOST_COUNTED) -> int | None:
    """Return how many choices the grid has; None for more than `most` if it would take long to tell."""
    if all(parameter.when is None for parameter in parameters):
        return math.prod(len(parameter.values) for parameter in parameters)
    count = sum(1 for _ in itertools.islice(grid(base, parameters), most + 1))
    return None if count > most else count
