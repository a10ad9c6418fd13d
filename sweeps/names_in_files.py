"""What may be named in a sweep file, and what to say to who named something else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from isa.errors import ToolError, did_you_mean
from isa.file_problems import field_problems
from isa.machine import PRESETS, Machine, preset
from sweeps.points import FIGURES, MACHINE_FIGURES, ParameterValue
from sweeps.space import BASE, DERIVED, FREQUENCY, Parameter, fields
from sweeps.sweep_sections import WorkloadSection

_RESERVED = {"base", "and", "or", "not", "min", "max", "ceil", "floor", "log2", "abs", FREQUENCY, *FIGURES, *DERIVED}
_MOST_TOLD = 3


def hint(name: str, known: Collection[str]) -> str:
    """Return the nearest known name, or the first ones."""
    near = did_you_mean(name, known)
    return near or f"known: {', '.join(sorted(known)[:8])}, ..."


def field_problem(path: str, *, frequency: bool = False) -> str:
    """Return what to do about a path that is no field of a machine; the empty string if it is one."""
    paths = {*fields(), *((FREQUENCY,) if frequency else ())}
    return "" if path in paths else did_you_mean(path, paths) or "docs/machine.md lists every field"


def taken(name: str) -> str:
    """Return why a parameter or workload cannot have this name; the empty string if it can."""
    used = {path.partition(".")[0] for path in fields()} | _RESERVED
    return "it means something in expressions already" if name in used else ""


def value_problems(base: Machine | None, path: str, values: Sequence[ParameterValue]) -> Iterator[str]:
    """Yield what is wrong with values of a field in themselves, the first few; without a base machine on any."""
    if base is None:
        yield from () if path == FREQUENCY else value_problems(preset(PRESETS[0]), path, values)
        return
    if path == FREQUENCY:
        lowest, highest = base.dvfs.frequencies_mhz[0], base.dvfs.frequencies_mhz[-1]
        wrong = [f"{value} is not in {lowest:g}..{highest:g} MHz, where dvfs has voltages" for value in values
                 if not isinstance(value, (int, float)) or not lowest <= value <= highest]  # fmt: skip
    else:
        wrong = [sentence for value in values for sentence in _problems_of_value(base, path, value)]
    yield from wrong[:_MOST_TOLD]
    if len(wrong) > _MOST_TOLD:
        yield f"and {len(wrong) - _MOST_TOLD} more values"


def _problems_of_value(base: Machine, path: str, value: ParameterValue) -> Iterator[str]:
    """Rules between fields are left to the points: other parameters may change the other fields."""
    section: Any = base
    *tables, name = path.split(".")
    for table in tables:
        section = getattr(section, table)
    try:
        type(section).model_validate({**section.model_dump(), name: value})
    except ValidationError as error:
        problems = field_problems(error, type(section))
        if not any(details["type"] == "inconsistent" for details in error.errors()):
            yield from (problem.what for problem in problems if problem.path == name)


def names_of_parameters(before: Sequence[Parameter]) -> set[str]:
    """Return what `when` and `set` may read: fields, derived figures that need no area, and earlier parameters."""
    of_machine = {*fields(), *DERIVED}
    return of_machine | {f"{BASE}{name}" for name in of_machine} | {parameter.label for parameter in before}


def names_of_constraints(labels: Sequence[str]) -> set[str]:
    """Return what constraints may read without a simulation."""
    of_machine = {*fields(), *DERIVED, *MACHINE_FIGURES}
    return of_machine | {f"{BASE}{name}" for name in of_machine} | set(labels)


def simulated_figures(workloads: Sequence[str]) -> list[str]:
    """Return the figures that need a simulation, in all and per workload."""
    names = [name for name in FIGURES if name not in MACHINE_FIGURES]
    return [*names, *(f"{workload}.{name}" for workload in workloads for name in names)]


def figures(workloads: Sequence[str]) -> list[str]:
    """Return all figures that an objective may name."""
    return [*MACHINE_FIGURES, *simulated_figures(workloads)]


def hint_for_model(name: str) -> str:
    """Return what to do about a model that is neither known nor there."""
    from models import list_models

    near = did_you_mean(name, list_models())
    return f"{near} known models: {', '.join(list_models())}; or the path of an ONNX file or checkpoint".strip()


def model_problems(row: WorkloadSection, sizes: Mapping[str, int]) -> Iterator[tuple[str, str, str]]:
    """Yield (key, sentence, help) for sizes that a model by name has not, or lacks."""
    from models import DLRM_MODELS

    is_dlrm = row.model in DLRM_MODELS
    dims = ("batch",) if is_dlrm else ("batch", "sequence", "past")
    if is_dlrm and row.layers is not None:
        yield "layers", f"{row.model} has no decoder layers", ""
    if is_dlrm and row.phase is not None:
        yield "phase", f"{row.model} has no phases", "leave it out"
    for name in sizes:
        if name not in dims and not (is_dlrm and row.phase):
            yield f"dims.{name}", f"{row.model} has no dim '{name}'", f"it has {', '.join(dims)}"
    for name in dims:
        if name not in sizes:
            yield "phase", f"the size of '{name}' is missing", "give phase = 'prefill' or 'decode', or the dim itself"


def indices_problem(text: str) -> str:
    """Return what is wrong with a distribution of indices; the empty string if nothing is."""
    from simulator.index_distribution import parse_distribution

    try:
        parse_distribution(text)
    except ToolError as error:
        return error.what
    return ""
