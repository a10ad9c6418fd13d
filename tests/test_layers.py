"""Imports run one way: isa <- compiler, isa <- simulator, all <- sweeps; models imports none. In functions too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "isa": {"isa"},
    "compiler": {"compiler", "isa"},
    "simulator": {"simulator", "isa"},
    "models": {"models"},
    "sweeps": {"sweeps", "isa", "compiler", "simulator", "models"},
}
# The places where things are put together may import these, and only inside functions.
LAZY = {"compiler/cli.py": {"models", "simulator"}, "compiler/checkpoint_import.py": {"models"}}
OURS = set(ALLOWED)


def imports(tree: ast.AST, inside: bool = False) -> Iterator[tuple[str, int, bool]]:
    """Yield (top-level package, line, whether inside a function) of every import, `importlib` calls by literal too."""
    for node in ast.iter_child_nodes(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            names = [first.value for first in node.args[:1] if isinstance(first, ast.Constant)]
        for name in names:
            yield name.partition(".")[0], node.lineno, inside
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(node, inside or is_function)


def violations(path: str, text: str) -> list[str]:
    """Return what is wrong with the imports of the file at `path` (relative to the root)."""
    package = path.partition("/")[0]
    found = []
    for name, line, inside in imports(ast.parse(text)):
        if name not in OURS or name in ALLOWED[package]:
            continue
        if inside and name in LAZY.get(path, set()):
            continue
        found.append(f"{path}:{line}: {package} must not import {name}" + ("" if inside else " at module level"))
    return found


@pytest.mark.parametrize("package", sorted(OURS))
def test_packages_import_only_what_they_may(package: str) -> None:
    """No file of a package breaks the layers."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = [row for file in files for row in violations(file.relative_to(ROOT).as_posix(), file.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    ("path", "text", "count"),
    [
        ("isa/x.py", "import compiler.graph", 1),
        ("isa/x.py", "import json, numpy\nfrom isa.table import ROWS\nfrom . import compiler", 0),
        ("compiler/passes/x.py", "def run():\n    from simulator import Simulator", 1),
        ("compiler/cli.py", "def run():\n    from simulator import Simulator\n    import models", 0),
        ("compiler/cli.py", "from simulator import Simulator", 1),
        ("compiler/sub/cli.py", "def run():\n    import simulator", 1),
        ("simulator/x.py", "class A:\n    def f(self):\n        if self:\n            import compiler", 1),
        ("simulator/x.py", "import importlib\nm = importlib.import_module('compiler.graph')", 1),
        ("models/x.py", "from isa.errors import ModelError", 1),
        ("simulator/x.py", "import sweeps", 1),
        ("sweeps/x.py", "import models\nfrom simulator import Simulator\nfrom compiler import compile_graph", 0),
    ],
)
def test_the_rule_sees_every_kind_of_import(path: str, text: str, count: int) -> None:
    """The check itself: nested, lazy, dotted and dynamic imports."""
    assert len(violations(path, text)) == count
