"""The house style as tests: sizes, docstrings, annotations, names, and what must not be in the repository."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("isa", "compiler", "simulator", "models", "sweeps")
FILE_LINES, FUNCTION_LINES = 500, 60

# Exceptions, each with its reason: "rule: place" as the rule reports it. A stale entry fails.
ALLOWED: dict[str, str] = {
    "no_pickle: simulator/jit.py": "numba's compiled kernels are pickles; kept only in a folder of this user alone",
}

Rule = Callable[[str, str], Iterator[str]]
_UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
_OUTSIDE_PATH = re.compile(r"""(?<![\w.}$])/(?:work|tmp|home|root)/""")
_PICKLE = re.compile(r"\b(pickle|cPickle|dill|cloudpickle|joblib|shelve|marshal)\b")
_VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base", "impl"}
_VERSION_SUFFIX = re.compile(r"(_v\d+|^new_|_old|_new)$")


@functools.cache
def _tracked() -> tuple[str, ...]:
    """Files that git tracks or would add; outside of a repository, everything but dot folders."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return tuple(sorted(name for name in set(done.stdout.splitlines()) if (ROOT / name).is_file()))
    names = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
    return tuple(sorted(name for name in names if not name.startswith(".") and "/." not in name))


def _python_files() -> list[str]:
    return [name for name in _tracked() if name.endswith(".py")]


def _package_files() -> list[str]:
    return [name for name in _python_files() if name.startswith(tuple(f"{package}/" for package in PACKAGES))]


def _text_files() -> list[str]:
    endings = (".py", ".md", ".toml", ".txt", ".lark", ".asm", ".lock", ".json", ".cfg", "Makefile", "run", ".html")
    return [name for name in _tracked() if name.endswith(endings) and not name.startswith("tests/data/")]


def _functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def short_files(name: str, text: str) -> Iterator[str]:
    """Files of code have at most 500 lines."""
    if (lines := text.count("\n")) > FILE_LINES:
        yield f"{name} has {lines} lines"


def short_functions(name: str, text: str) -> Iterator[str]:
    """Functions have at most 60 lines, their docstring included."""
    for node in _functions(text):
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES:
            yield f"{name}: {node.name} has {lines} lines"


def module_docstrings(name: str, text: str) -> Iterator[str]:
    """Every module says what it is for."""
    if not ast.get_docstring(ast.parse(text)):
        yield name


def public_annotations(name: str, text: str) -> Iterator[str]:
    """Every public function has its arguments and result annotated."""
    for node in _functions(text):
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        bare = [arg.arg for arg in every if arg and arg.annotation is None and arg.arg not in ("self", "cls")]
        if not node.name.startswith("_") and (bare or node.returns is None):
            yield f"{name}: {node.name}({', '.join(bare)})"


def plain_names(name: str, _text: str) -> Iterator[str]:
    """Modules are named after what they hold, and have no history in their names."""
    stem = Path(name).stem
    if stem in _VAGUE_NAMES or _VERSION_SUFFIX.search(stem) or stem.startswith("new_"):
        yield name


def nothing_unfinished(name: str, text: str) -> Iterator[str]:
    """No marks for later work."""
    for number, line in enumerate(text.splitlines(), 1):
        if _UNFINISHED.search(line):
            yield f"{name}:{number}"


def no_pickle(name: str, text: str) -> Iterator[str]:
    """Nothing unpickles: program files and caches come from strangers."""
    if any(re.match(r"\s*(import|from)\s", line) and _PICKLE.search(line) for line in text.splitlines()):
        yield name


def no_outside_paths(name: str, text: str) -> Iterator[str]:
    """No path of somebody's machine."""
    for number, line in enumerate(text.splitlines(), 1):
        if _OUTSIDE_PATH.search(line):
            yield f"{name}:{number}"


def no_skipped_tests(name: str, text: str) -> Iterator[str]:
    """Every test runs."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"pytest\.(mark\.)?(skip|skipif|xfail|importorskip)\b", line):
            yield f"{name}:{number}"


def _test_files() -> list[str]:
    return [name for name in _python_files() if name.startswith("tests/")]


RULES: tuple[tuple[Rule, Callable[[], list[str]]], ...] = (
    (short_files, _python_files),
    (short_functions, _python_files),
    (module_docstrings, _python_files),
    (public_annotations, _package_files),
    (plain_names, _package_files),
    (nothing_unfinished, _text_files),
    (no_pickle, _python_files),
    (no_outside_paths, _text_files),
    (no_skipped_tests, _test_files),
)
_THIS = Path(__file__).name


def _found(rule: Rule, files: Callable[[], list[str]]) -> list[str]:
    names = [name for name in files() if not name.endswith(_THIS)]
    return [f"{rule.__name__}: {row}" for name in names for row in rule(name, (ROOT / name).read_text("utf-8"))]


@pytest.mark.parametrize(("rule", "files"), RULES, ids=lambda value: getattr(value, "__name__", ""))
def test_the_rule_holds(rule: Rule, files: Callable[[], list[str]]) -> None:
    """Each rule holds in all files but for the exceptions, and every exception is still needed."""
    assert files()
    found = _found(rule, files)
    exceptions = [entry for entry in ALLOWED if entry.startswith(f"{rule.__name__}:")]
    assert [row for row in found if row not in exceptions] == []
    assert [entry for entry in exceptions if entry not in found] == [], "stale exceptions"


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (short_files, "a.py", "\n" * 501),
        (short_functions, "a.py", "def f():\n" + "    x = 1\n" * 60),
        (module_docstrings, "a.py", "x = 1\n"),
        (public_annotations, "a.py", "def f(x) -> int:\n    return 1\n"),
        (public_annotations, "a.py", "class A:\n    def f(self, *rest: int):\n        pass\n"),
        (plain_names, "isa/utils.py", ""),
        (plain_names, "isa/tiling_v2.py", ""),
        (nothing_unfinished, "a.py", "# TODO: later\n"),
        (no_pickle, "a.py", "    import pickle\n"),
        (no_outside_paths, "a.md", "see /work/main\n"),
        (no_skipped_tests, "tests/a.py", "@pytest.mark.skip\n"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_rules_can_fail(rule: Rule, name: str, text: str) -> None:
    """Each rule finds what it is there for."""
    assert list(rule(name, text))


def _base_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[ ;]", row)[0].lower().replace("_", "-") for row in requirements}


def test_every_dependency_has_an_exact_pin() -> None:
    """pyproject says what is needed with a lower bound; the lock has exactly one pin for each, and pins only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert [row for row in needed if not re.fullmatch(r"[A-Za-z0-9_.-]+>=\d[\d.]*", row)] == []
    rows = [row for row in (ROOT / "requirements.lock").read_text().splitlines() if not row.startswith("#")]
    assert [row for row in rows if not re.fullmatch(r"[A-Za-z0-9_.-]+==\d[\w.]*", row)] == []
    assert len(_base_names(rows)) == len(rows)
    assert _base_names(needed) - _base_names(rows) == set()


def test_the_package_is_typed() -> None:
    """Each package tells type checkers that it has annotations."""
    assert [package for package in PACKAGES if not (ROOT / package / "py.typed").is_file()] == []


def test_test_data_stays_small() -> None:
    """A clone is self-contained and light: test data below 24 MB in all."""
    sizes = [(ROOT / name).stat().st_size for name in _tracked() if name.startswith("tests/data/")]
    assert sum(sizes) < 24_000_000
