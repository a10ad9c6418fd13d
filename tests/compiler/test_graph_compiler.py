"""A program that machines share is the one that would be made for each of them, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import models
from compiler import GraphCompiler, compile_graph, fuse_model
from compiler.graph import Graph
from isa.container import save_program
from isa.errors import ToolError
from isa.machine import Machine, machine_fields
from isa.reuse import Kept
from tests.compiler.graphs import small_machine

Result = TypeVar("Result")
FIELDS = [field for field in machine_fields() if field.type_name in ("int", "float", "bool")]
SWEEPS = Path(__file__).parents[2] / "docs" / "sweeps.md"


def _anew(self: Kept[Result], key: Hashable, machine: Machine, find: Callable[[Machine], Result]) -> Result:
    return find(machine)


def _graph(name: str, **dims: int) -> Graph:
    return fuse_model(models.build(name, "absent"), dims)


GRAPHS = {
    "prefill": _graph("llama-tiny", batch=1, sequence=9, past=0),
    "decode": _graph("llama-tiny", batch=2, sequence=1, past=5),
    "dlrm": _graph("dlrm-tiny", batch=3),
}
COMPILERS = {name: GraphCompiler(graph) for name, graph in GRAPHS.items()}


def _bytes(make: Callable[[], object], path: Path) -> bytes | str:
    try:
        save_program(make(), path)  # type: ignore[arg-type]
    except ToolError as error:
        return str(error)
    return path.read_bytes()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([*GRAPHS]),
    st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from([0.5, 2, 3])), min_size=1, max_size=2),
)
def test_programs_are_those_of_a_fresh_compilation(
    tmp_path: Path, name: str, changes: list[tuple[object, float]]
) -> None:
    """Whatever a machine has other than those before it; refusals too."""
    base = small_machine()
    values = {
        field.path: not base.value(field.path) if field.type_name == "bool"  # type: ignore[attr-defined]
        else type(base.value(field.path))(base.value(field.path) * factor)  # type: ignore[attr-defined]
        for field, factor in changes
    }  # fmt: skip
    try:
        machine = base.with_changes(values)
    except ToolError:
        return
    found = _bytes(lambda: COMPILERS[name].program(machine), tmp_path / "found")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kept, "result", _anew)
        assert found == _bytes(lambda: compile_graph(GRAPHS[name], machine), tmp_path / "fresh")


def _named_fields() -> list[str]:
    """Return the fields that the documentation says are never read."""
    (paragraph,) = (
        part for part in SWEEPS.read_text().split("\n\n") if part.startswith("Never read are, for example,")
    )
    named = {name.strip("[]") for name in re.findall(r"`([^`]*)`", paragraph)}
    return [field.path for field in FIELDS if field.path in named or field.path.split(".")[0] in named]


@pytest.mark.parametrize("name", GRAPHS)
def test_what_the_compiler_never_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that differs in all of these fields gets the same program."""
    compiler, machine = GraphCompiler(GRAPHS[name]), small_machine()
    program, paths = compiler.program(machine), _named_fields()
    assert len(paths) > 30
    monkeypatch.setattr("compiler.graph_compiler.run_passes", lambda *_: pytest.fail("compiled again"))
    for path in paths:
        value = machine.value(path)
        try:
            machine = machine.with_changes({path: not value if isinstance(value, bool) else type(value)(value * 2)})
        except ToolError:
            continue
    again = compiler.program(machine)
    assert again.machine == machine and again.kernels == program.kernels and again.entries == program.entries
