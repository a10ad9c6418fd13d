"""Where results that are slow to make are kept between runs, and the digest that tells whether they still hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The folder of the packages."""


def cache_root() -> Path:
    """Return the user's folder for all caches: TILEWRIGHT_CACHE_DIR, or `tilewright` in the user's cache folder.

    Raises RuntimeError for a user without a home.
    """
    chosen = os.environ.get("TILEWRIGHT_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tilewright"


def sources_digest(root: Path, packages: Iterable[str], settings: Iterable[str]) -> str:
    """Return a hex sha256 over names and contents of all Python files of the packages and over the settings."""
    digest = hashlib.sha256()
    for setting in settings:
        digest.update(setting.encode() + b"\0")
    for path in sorted(path for package in packages for path in (root / package).rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
