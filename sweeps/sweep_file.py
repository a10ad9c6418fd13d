"""Reading a sweep file: TOML text to `Sweep`, with every problem told at once by file, line and key path."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from isa.errors import ToolError
from isa.file_problems import Problem, field_problems, key_lines, line_of, parse_toml, read_toml, told
from isa.machine import Machine, load_machine
from isa.machine_sections import Section
from sweeps import names_in_files as known
from sweeps.cost_assumptions import assumption_problems
from sweeps.expressions import Expression, ExpressionError
from sweeps.points import FIGURES, Objective
from sweeps.space import Parameter
from sweeps.sweep import Sweep
from sweeps.sweep_sections import (
    BudgetSection,
    ConstraintSection,
    FileSections,
    ObjectiveSection,
    ParameterSection,
    SamplerSection,
    WorkloadSection,
    flattened,
)
from sweeps.workloads import Workload, digest_of

_HELP = "docs/sweeps.md lists what a sweep file holds"
Row = TypeVar("Row", bound=Section)


class SweepError(ToolError):
    """A sweep file with wrong keys or values, or a sweep that cannot be run as asked."""


def read_sweep(source: str | Path) -> Sweep:
    """Return the sweep of a TOML file (a path) or of TOML text (a str with a newline); SweepError has all problems.

    Files that it names are looked for from its own folder.
    """
    is_text = isinstance(source, str) and "\n" in source
    where = "sweep text" if is_text else str(source)
    text = str(source) if is_text else read_toml(Path(source), "sweep file", SweepError, "give a TOML file")
    folder = Path() if is_text else Path(source).parent
    return _Reading(where, key_lines(text), folder).sweep(parse_toml(text, where, SweepError))


def from_definition(definition: Mapping[str, Any]) -> Sweep:
    """Return the sweep that a stored definition describes; the model files that it names need not be there."""
    values = copy.deepcopy(dict(definition))
    digests = [row.pop("digest", "") for row in values["workloads"]]
    return _Reading("stored sweep", {}, Path(), digests).sweep(values)


class _Reading:
    """One file being read: where it is, and what was wrong so far.

    `digests` are those that the model files of the workloads had when a stored sweep began.
    """

    def __init__(self, where: str, lines: Mapping[str, int], folder: Path, digests: Sequence[str] = ()) -> None:
        self._where, self._lines, self._folder, self._digests = where, lines, folder, digests
        self._problems: list[Problem] = []
        self._wrong: set[str] = set()

    def sweep(self, values: dict[str, Any]) -> Sweep:
        stored_machine = values.get("machine")
        if isinstance(stored_machine, dict):
            values["machine"] = "stored"
        top = self._section(FileSections, values, "")
        if top is None:
            top = _what_there_is(values)
        base = self._base(top, stored_machine)
        parameters = self._rows(ParameterSection, top.parameters, "parameters", at_least=1)
        workloads = self._rows(WorkloadSection, top.workloads, "workloads", at_least=1)
        objectives = self._rows(ObjectiveSection, top.objectives, "objectives", at_least=1)
        constraints = self._rows(ConstraintSection, top.constraints, "constraints", at_least=0)
        sampler = self._section(SamplerSection, top.sampler, "sampler")
        budget = self._section(BudgetSection, top.budget, "budget")
        if sampler and budget and sampler.kind != "grid" and budget == BudgetSection():
            self._say("budget", f"the sampler {sampler.kind} never ends by itself: give points or hours")
        self._problems += assumption_problems(top.cost, "cost")
        ready = self._parameters(parameters, base)
        running = self._workloads(workloads)
        wanted = self._objectives(objectives, workloads)
        required = self._constraints(constraints, parameters, workloads)
        if self._problems:
            raise told(self._problems, self._where, self._lines, SweepError, _HELP)
        assert base is not None and sampler is not None and budget is not None
        definition = {**values, "machine": base.model_dump(mode="json"), "changes": {}}
        definition["workloads"] = [
            {**row, "model": workload.model} | ({"digest": workload.digest} if workload.digest else {})
            for row, workload in zip(values["workloads"], running, strict=True)
        ]
        return Sweep(
            top.name, base, top.scale_energy, ready, *required, running, wanted, sampler, budget, top.cost, definition,
            {one.name: self._place(f"workloads.{index}") for index, one in enumerate(running)},
        )  # fmt: skip

    def _say(self, path: str, what: str, help: str = "") -> None:
        self._problems.append(Problem(path, what, help))

    def _place(self, path: str) -> str:
        line = line_of(path, self._lines)
        return f"{self._where}:{line}" if line else self._where

    def _section(self, kind: type[Row], values: Mapping[str, Any], path: str) -> Row | None:
        try:
            return kind.model_validate(dict(values))
        except ValidationError as error:
            self._problems += field_problems(error, kind, path)
            return None

    def _rows(self, kind: type[Row], rows: list[Any], path: str, at_least: int) -> list[Row | None]:
        if len(rows) < at_least and not any(problem.path == path for problem in self._problems):
            self._say(path, f"a sweep needs at least one [[{path}]]")
        found: list[Row | None] = []
        for index, values in enumerate(rows):
            if not isinstance(values, dict):
                self._say(f"{path}.{index}", f"must be a table [[{path}]], not {values!r}")
                found.append(None)
            else:
                place = f"{path}.{index}"
                found.append(self._section(kind, values, place) or self._names_in(kind, values, place))
        return found

    def _names_in(self, kind: type[Row], values: Mapping[str, Any], path: str) -> Row:
        """Return what a wrong row names, as far as that can be told: it is checked too, and other rows may use it.

        Texts, and tables of texts, in which nothing was found; "" in place of texts that it should have.
        """
        self._wrong.add(path)
        told = [problem.path for problem in self._problems]
        names: dict[str, Any] = {name: "" for name, field in kind.model_fields.items() if field.is_required()}
        for name in kind.model_fields.keys() & values.keys():
            texts = flattened({name: values[name]})
            if all(isinstance(text, str) for text in texts.values()) and not any(
                one == f"{path}.{name}" or one.startswith(f"{path}.{name}.") for one in told
            ):
                names[name] = flattened(values[name]) if isinstance(values[name], dict) else values[name]
        return kind.model_construct(**names)

    def _base(self, top: FileSections, stored: Any) -> Machine | None:
        changes = flattened(top.changes)
        for path in changes:
            if help := known.field_problem(path):
                self._say(f"changes.{path}", "no field of a machine", help)
        try:
            machine = Machine.from_dict(stored) if isinstance(stored, dict) else self._machine(top.machine)
        except ToolError as error:
            self._say("machine", error.what, error.help)
            return None
        try:
            return machine.with_changes(changes)
        except ToolError as error:
            if not any(known.field_problem(path) for path in changes):
                self._say("changes", error.what)
            return machine

    def _machine(self, name: str) -> Machine:
        beside = self._folder / name
        return load_machine(beside if name.endswith(".toml") and beside.is_file() else name)

    def _parameters(self, rows: list[ParameterSection | None], base: Machine | None) -> tuple[Parameter, ...]:
        ready: list[Parameter] = []
        for index, row in enumerate(rows):
            if row is None:
                continue
            path = f"parameters.{index}"
            choices = () if path in self._wrong else row.choices
            if row.label and row.label in [before.label for before in ready]:
                self._say(f"{path}.{'path' if row.path else 'name'}", f"'{row.label}' is a parameter already")
            if row.name and (help := known.taken(row.name)):
                self._say(f"{path}.name", f"'{row.name}' is no free name", help)
            if row.path and (help := known.field_problem(row.path, frequency=True)):
                self._say(f"{path}.path", f"no field of a machine: '{row.path}'", help)
            elif row.path:
                for sentence in known.value_problems(base, row.path, choices):
                    self._say(f"{path}.{row.key_of_values}", sentence)
            before = known.names_of_parameters(ready)
            when = self._expression(f"{path}.when", row.when, before) if row.when is not None else None
            sets = []
            for target, text in row.set.items():
                if help := known.field_problem(target, frequency=True):
                    self._say(f"{path}.set", f"no field of a machine: '{target}'", help)
                expression = self._expression(f"{path}.set", text, {*before, row.label}) if row.label else None
                sets += [(target, expression)] if expression else []
            ready.append(Parameter(row.label, choices, tuple(sets), when))
        return tuple(ready)

    def _expression(self, path: str, text: str, names: set[str]) -> Expression | None:
        try:
            expression = Expression(text)
        except ExpressionError as error:
            self._say(path, error.what, error.help)
            return None
        for name in expression.names:
            if name not in names:
                self._say(path, f"no '{name}' is known here", known.hint(name, names))
        return expression

    def _constraints(
        self,
        rows: list[ConstraintSection | None],
        parameters: list[ParameterSection | None],
        workloads: list[WorkloadSection | None],
    ) -> tuple[tuple[Expression, ...], tuple[Expression, ...]]:
        figures = set(known.simulated_figures([row.name for row in workloads if row]))
        names = known.names_of_constraints([row.label for row in parameters if row]) | figures
        found: dict[bool, list[Expression]] = {False: [], True: []}
        for index, row in enumerate(rows):
            if row is None or (not row.expression and f"constraints.{index}" in self._wrong):
                continue
            expression = self._expression(f"constraints.{index}.expression", row.expression, names)
            if expression is not None:
                found[bool(figures & set(expression.names))].append(expression)
        return tuple(found[False]), tuple(found[True])

    def _objectives(
        self, rows: list[ObjectiveSection | None], workloads: list[WorkloadSection | None]
    ) -> tuple[Objective, ...]:
        names = known.figures([row.name for row in workloads if row])
        found: list[Objective] = []
        for index, row in enumerate(rows):
            if row is None or not row.figure:
                continue
            if row.figure not in names:
                self._say(f"objectives.{index}.figure", f"no figure '{row.figure}'", known.hint(row.figure, names))
            elif row.figure in [one.name for one in found]:
                self._say(f"objectives.{index}.figure", f"'{row.figure}' is an objective already")
            else:
                figure = FIGURES[row.figure.rpartition(".")[2]]
                found.append(Objective(row.figure, row.goal or figure.goal, figure.unit))
        return tuple(found)

    def _workloads(self, rows: list[WorkloadSection | None]) -> tuple[Workload, ...]:
        found: list[Workload] = []
        for index, row in enumerate(rows):
            if row is None:
                continue
            path = f"workloads.{index}"
            if row.name and row.name in [one.name for one in found]:
                self._say(f"{path}.name", f"'{row.name}' is a workload already")
            if help := known.taken(row.name):
                self._say(f"{path}.name", f"'{row.name}' is no free name", help)
            found.append(self._workload(row, path, self._digests[index] if self._digests else ""))
        return tuple(found)

    def _workload(self, row: WorkloadSection, path: str, digest: str) -> Workload:
        from models import default_dims, list_models

        model, sizes = row.model, {} if path in self._wrong else row.sizes
        if path in self._wrong and (not model or model in list_models()):
            pass  # its sizes may be what is wrong
        elif row.model in list_models():
            sizes = {**default_dims(row.model), **sizes}
            for key, sentence, help in known.model_problems(row, sizes):
                self._say(f"{path}.{key}", sentence, help)
        elif not digest and (self._folder / row.model).exists():
            model = str((self._folder / row.model).resolve())
            try:
                digest = digest_of(Path(model))
            except ToolError as error:
                self._say(f"{path}.model", error.what)
            if row.layers is not None:
                self._say(f"{path}.layers", "only models by name can be made with fewer layers")
        elif not digest:
            self._say(f"{path}.model", f"no model '{row.model}'", known.hint_for_model(row.model))
        if sentence := known.indices_problem(row.indices):
            self._say(f"{path}.indices", sentence)
        return Workload(
            row.name, model, row.layers, row.dtype, row.quantize, row.group_size, tuple(sorted(sizes.items())),
            row.indices, row.weight, digest,
        )  # fmt: skip


def _what_there_is(values: Mapping[str, Any]) -> FileSections:
    """Return the file's tables as far as they are tables, so that what is in them is checked too."""
    lists = {name: values.get(name, []) for name in ("parameters", "workloads", "objectives")}
    lists = {name: rows if isinstance(rows, list) else [] for name, rows in lists.items()}
    rest = {
        name: values[name]
        for name, kind in (
            ("changes", dict),
            ("constraints", list),
            ("sampler", dict),
            ("budget", dict),
            ("cost", dict),
        )
        if isinstance(values.get(name), kind)
    }
    machine = values.get("machine")
    return FileSections.model_construct(
        name="", machine=machine if isinstance(machine, str) else "mtia-2i", scale_energy=True,
        **{"changes": {}, "constraints": [], "sampler": {}, "budget": {}, "cost": {}, **lists, **rest},
    )  # fmt: skip
