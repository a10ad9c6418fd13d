"""Names of operations for a table: equal layers share one, and what is too long loses what tells least."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_LAYER = re.compile(r"(?<=[./])\d+(?=[./&]|$)")
"""A number that is a part of a path, like that of a layer."""
_SERIAL = re.compile(r"(?<=_)\d+(?=[./&]|$)")
"""A number that an exporter gave a node to tell it from others of its kind, where no path says its layer."""
_TYPE = re.compile(r"/[A-Z][^&]*(?=&|$)")
"""The type of a node that its name ends with, and what the compiler may have put behind it."""
_STEM = re.compile(r".*?[./](?=[^./]+(/[A-Z][^./]*)?$)")
"""What stands before the part of a name that tells it from its neighbours."""
_LONGEST_CUT = 8


def shared_name(operation: str, kernel: str) -> str:
    """Return the name that an operation shares with those of other layers; one that is only numbered has its code's."""
    name = _LAYER.sub("*", operation)
    if name != operation or not _SERIAL.search(name):
        return name
    kinds = dict.fromkeys(_SERIAL.sub("*", name).split("&"))
    return f"{'&'.join(kinds)} ({kernel})"


def short_names(names: Sequence[str], width: int) -> list[str]:
    """Return names of at most `width` characters, without types of nodes where others tell them apart."""
    whole = [_joined(name) for name in names]
    short = [_cut(_TYPE.sub("", name) or name, width) for name in whole]
    count = Counter(short)
    return [one if count[one] == 1 else _cut(name, width) for one, name in zip(short, whole, strict=True)]


def _joined(name: str) -> str:
    """Write what joined names begin with once: a.q/MatMul&a.k/MatMul -> a.q/MatMul&k/MatMul."""
    first, *others = name.split("&")
    stem = _STEM.match(first)
    return "&".join([first, *(other.removeprefix(stem[0]) if stem else other for other in others)])


def _cut(name: str, width: int) -> str:
    """Return a name without its beginning, or if it is short, without that of the kernel's name behind it."""
    if len(name) <= width:
        return name
    head, bracket, kernel = name.partition(" (")
    if bracket and len(head) < width - _LONGEST_CUT:
        return f"{head} (..{kernel[len(head) + 4 - width :]}"
    rest = name[len(name) - width + 2 :]
    path = re.match(rf"[^./&]{{0,{_LONGEST_CUT}}}[./&](?=[^./&]+[./&])", rest)
    return f"..{rest[path.end() :] if path else rest}"
