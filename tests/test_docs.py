"""What README and docs say is true: commands run, programs run, names exist, links lead somewhere.

A ```sh block may hold only commands that a test or continuous integration runs, so nobody can document what fails.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from isa.machine import Machine, machine_fields, preset_path
from isa.table import INSTRUCTIONS, Timing
from simulator import hardware as hw
from simulator import state as st
from simulator.energy import energy_parts, host_joules
from simulator.report import Report
from sweeps.expressions import FUNCTIONS
from sweeps.points import FIGURES
from sweeps.sweep_sections import (
    SAMPLERS,
    BudgetSection,
    ConstraintSection,
    FileSections,
    LogRangeSection,
    ObjectiveSection,
    ParameterSection,
    RangeSection,
    SamplerSection,
    WorkloadSection,
)

ROOT = Path(__file__).resolve().parents[1]
NEW_INSTRUCTION = ROOT / "docs" / "adding-an-instruction.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CASE = ROOT / "tests" / "data" / "onnx" / "hf_legacy_past"
RUN_ELSEWHERE = {
    "make demo": "tests/test_examples.py calls its parts",
    "make test": ".ci/run",
    "make check": ".ci/run",
    "python benchmarks/micro.py --picture docs/roofline.svg": "tests/test_micro.py",
    "python benchmarks/roofline.py": "tests/test_roofline.py",
    "python benchmarks/cost_model.py": "tests/test_roofline.py",
    "sweep-machines run examples/sweep_llama.toml": "tests/sweeps/test_example.py",
    "python -m isa.manual > docs/isa.md": "tests/isa/test_manual.py",
    "python -m isa.machine_document > docs/machine.md": "tests/isa/test_machine.py",
}


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def _commands(page: Path) -> list[str]:
    lines = [line.strip() for block in _blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README's commands name."""
    prefix = "b1.s1.in."
    reference = np.load(CASE / "ref.npz")
    np.savez(
        tmp_path / "inputs.npz", **{key.removeprefix(prefix): reference[key] for key in reference if prefix in key}
    )
    shutil.copy(CASE / "model.onnx", tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shutil.copy(preset_path("mtia-2i"), tmp_path / "my-chip.toml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a documented command in this process; return its exit code."""
    from compiler import cli as compiling
    from simulator import cli as simulating
    from sweeps import cli as sweeping

    name, *arguments = shlex.split(command)
    if name == "python" and arguments[0].startswith("examples/"):
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
        return 0
    commands = {
        "compile-model": compiling.main, "simulate-program": simulating.main, "sweep-machines": sweeping.main,
    }  # fmt: skip
    return commands[name](arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_runs(page: Path, user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, so that one may use what another one wrote."""
    for command in _commands(page):
        if command not in RUN_ELSEWHERE:
            assert _run(command, monkeypatch) == 0, command


def test_make_runs_what_the_tests_run() -> None:
    """The commands run elsewhere are targets of the Makefile, and those of continuous integration are in its script."""
    makefile, integration = (ROOT / "Makefile").read_text(), (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^demo: .*\n\t\$\(BIN\)/python examples/demo.py$", makefile, flags=re.MULTILINE)
    for command, where in RUN_ELSEWHERE.items():
        if where == ".ci/run":
            assert re.search(rf"^{command}$", integration, flags=re.MULTILINE)
            assert re.search(rf"^{command.removeprefix('make ')}:", makefile, flags=re.MULTILINE)


def test_the_python_example_of_the_readme_runs(user_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the token that the reference chooses."""
    (code,) = _blocks(ROOT / "README.md", "python")
    exec(compile(code, "README.md", "exec"), {})
    expected = np.load(CASE / "ref.npz")["b1.s1.out.logits"].argmax(-1)
    assert capsys.readouterr().out.splitlines()[-1].startswith(str(expected))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_exist(page: Path) -> None:
    """Links are relative files or addresses of the web; headings of other pages exist too."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        linked = page.parent / path if path else page
        assert linked.is_file(), target
        headings = [re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
                    for line in linked.read_text().splitlines() if line.startswith("#")]  # fmt: skip
        assert not heading or heading in headings, target


def test_modules_named_by_the_architecture_exist() -> None:
    """Every `name.py` of a section about a package is a module of that package, and every package is named."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    for package in ("isa", "compiler", "simulator", "sweeps"):
        (section,) = re.findall(rf"^## {package}\n(.*?)^## ", text, flags=re.DOTALL | re.MULTILINE)
        named = re.findall(r"`([\w/]+\.py)`", section)
        assert named
        assert [name for name in named if not (ROOT / package / name).is_file()] == []


@pytest.mark.parametrize("name", ["timing.md", "energy.md"])
def test_machine_fields_named_by_the_docs_exist(name: str) -> None:
    """Every `section.field` is a field of the machine; energy.md leaves out its section, and names reported figures."""
    fields = {field.path for field in machine_fields()}
    sections = {path.partition(".")[0] for path in fields}
    words = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)*)`", (ROOT / "docs" / name).read_text()))
    named = {word for word in words if "." in word and word.partition(".")[0] in sections}
    if name == "energy.md":
        others = fields | {*Report.__dataclass_fields__, *vars(Report)}
        figures = {word for word in words - others if re.search(r"_per_|_(watts|joules|volts|mhz|us)$", word)}
        named |= {f"energy.{word}" for word in figures}
    known = fields | {path.rpartition(".")[0] for path in fields}
    assert len(named) > 5 and named - known == set()


def test_timing_lists_every_class_with_its_instructions() -> None:
    """Every timing class of commands has a row."""
    text = (ROOT / "docs" / "timing.md").read_text()
    for timing in {instruction.timing for instruction in INSTRUCTIONS if instruction.is_command}:
        assert f"| {Timing(timing).name} | `" in text


def test_energy_lists_every_part() -> None:
    """Every part of a report has a row, every field of the section is named, and figures are those of the preset."""
    machine = Machine.from_toml(preset_path("mtia-2i"))
    text = (ROOT / "docs" / "energy.md").read_text()
    for part in {**energy_parts(machine, st.new_stats(hw.hardware_of(machine)), 1.0), **host_joules(machine, 1)}:
        assert f"| `{part}` | " in text.partition("## Voltage")[0]
        low, high = machine.energy_uncertainty.factors(part)
        assert f"| `{part}` | {low:g} to {high:g} |" in text
    for field in type(machine.energy).model_fields:
        assert f"`{field}`" in text or f"`energy.{field}`" in text, field
    rows = re.findall(r"\| `(\w+(?:`, `\w+)*)` \| ([\d., ]+)(?: W| mW/GB)? \|", text)
    assert len(rows) > 10
    for fields, values in rows:
        numbers = [float(value) for value in values.split(",")]
        assert [getattr(machine.energy, field) for field in fields.split("`, `")] == numbers


def test_the_worked_example_of_a_new_instruction_works(tmp_path: Path) -> None:
    """Its diff touches three files and applies to a copy, where its golden passes."""
    touched = _apply_the_worked_example(tmp_path)
    assert touched == ["isa/table.py", "simulator/meaning/elementwise.py", "tests/simulator/test_meaning.py"]
    assert "### `vsquare`" in _run_in(tmp_path, sys.executable, "-m", "isa.manual")
    golden = "squares or (fast_and_plain and vsquare) or plain_twin"
    assert "3 passed" in _run_in(tmp_path, sys.executable, "-m", "pytest", "-q", touched[2], "-k", golden)


@pytest.mark.slow
def test_the_simulator_runs_the_new_instruction(tmp_path: Path) -> None:
    """All its kernels are compiled anew for that."""
    _apply_the_worked_example(tmp_path)
    (code,) = _blocks(NEW_INSTRUCTION, "python")
    _run_in(tmp_path, sys.executable, "-c", code)


def _apply_the_worked_example(folder: Path) -> list[str]:
    """Apply the diff to a copy of the sources in a folder; return the files that it touches."""
    (diff,) = _blocks(NEW_INSTRUCTION, "diff")
    ignored = shutil.ignore_patterns("__pycache__", "data")
    for name in ("isa", "simulator", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    _run_in(folder, "git", "apply", "-", text=diff)
    return re.findall(r"^\+\+\+ b/(.*)$", diff, flags=re.MULTILINE)


def _run_in(folder: Path, *command: str, text: str | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_key_and_figure_of_sweeps_has_its_place() -> None:
    """The page of sweeps names every key of a sweep file, every sampler, figure and function of expressions."""
    text = (ROOT / "docs" / "sweeps.md").read_text()
    sections = (FileSections, ParameterSection, RangeSection, LogRangeSection, WorkloadSection, ObjectiveSection,
                ConstraintSection, SamplerSection, BudgetSection)  # fmt: skip
    keys = {key for section in sections for key in section.model_fields}
    named = set(re.findall(r"`\[*([a-z_0-9]+)(?:\]+| =[^`]*)?`", text))
    assert (keys | set(SAMPLERS) | set(FIGURES) | set(FUNCTIONS)) - named == set()
