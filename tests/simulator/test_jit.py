"""The kernel cache: never stale, never fatal. Programs run in new processes, with a copy of `jit.py` and one kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from isa.cache_folder import sources_digest
from simulator import jit

_CALLEE = """
from simulator.jit import kernel

@kernel
def step(value):
    return value + 1
"""
_CALLER = """
from simulator.callee import step
from simulator.jit import kernel

@kernel
def run(value):
    return step(value) * 10

print(run(1), sum(run.stats.cache_hits.values()))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree with a kernel that calls a kernel of another file."""
    root = tmp_path / "tree"
    (root / "isa").mkdir(parents=True)
    (root / "simulator").mkdir()
    shutil.copy(jit.__file__, root / "simulator" / "jit.py")
    (root / "simulator" / "callee.py").write_text(_CALLEE)
    (root / "simulator" / "caller.py").write_text(_CALLER)
    return root


def _run(root: Path, cache: Path) -> tuple[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(root), "TILEWRIGHT_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", "import simulator.caller"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=root)
    return done.stdout.strip(), done.stderr.strip()


def _digest_folders(cache: Path) -> list[Path]:
    return sorted(cache.glob("kernels-*"))


def test_a_second_process_loads_what_the_first_compiled(tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert _run(tree, cache) == ("20 0", "")
    assert _run(tree, cache) == ("20 1", "")
    assert cache.stat().st_mode & 0o777 == 0o700


def test_an_edit_of_a_callee_is_seen(tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    _run(tree, cache)
    (tree / "simulator" / "callee.py").write_text(_CALLEE.replace("+ 1", "+ 2"))
    assert _run(tree, cache) == ("30 0", "")


def test_an_equal_checkout_elsewhere_shares_the_cache(tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    _run(tree, cache)
    shutil.copytree(tree, tmp_path / "clone")
    assert _run(tmp_path / "clone", cache) == ("20 1", "")


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped"])
def test_damaged_files_cost_one_compilation(tree: Path, tmp_path: Path, suffix: str, damage: str) -> None:
    cache = tmp_path / "cache"
    _run(tree, cache)
    for path in cache.rglob(f"*.{suffix}"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes({"empty": b"", "truncated": bytes(content[:100]), "flipped": bytes(content)}[damage])
    result, warning = _run(tree, cache)
    assert result == "20 0"
    assert "cannot read" in warning and "compiling again" in warning
    assert _run(tree, cache) == ("20 1", "")


def test_without_a_place_to_write_kernels_are_compiled(tree: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert _run(tree, blocked / "cache") == ("20 0", "")


def test_a_folder_that_others_can_write_is_not_trusted(tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    result, warning = _run(tree, cache)
    assert result == "20 0"
    assert "can be written by others" in warning
    assert not _digest_folders(cache)


def test_only_the_newest_digests_are_kept(tmp_path: Path) -> None:
    for age in range(jit.KEPT_DIGESTS + 2):
        folder = tmp_path / f"kernels-{age}"
        folder.mkdir()
        os.utime(folder, (1000 + age, 1000 + age))
    (tmp_path / "other").mkdir()
    jit.prune(tmp_path, jit.KEPT_DIGESTS)
    assert [path.name for path in _digest_folders(tmp_path)] == [f"kernels-{age}" for age in range(2, 6)]
    assert (tmp_path / "other").exists()


def test_the_digest_sees_every_source_file_and_setting(tree: Path) -> None:
    before = sources_digest(tree, jit.PACKAGES, ("a",))
    assert sources_digest(tree, jit.PACKAGES, ("b",)) != before
    (tree / "isa" / "new.py").write_text("")
    assert sources_digest(tree, jit.PACKAGES, ("a",)) != before
