"""Collecting problems: checks yield sentences, and all of them are told in one error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from isa.errors import ProgramError

MAX_PROBLEMS = 20
"""How many problems one error tells."""


def duplicates(kind: str, names: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for every name that is there more than once."""
    for name, count in Counter(names).items():
        if count > 1:
            yield f"the {kind} '{name}' is defined {count} times"


def raise_problems(problems: Iterable[str], where: str) -> None:
    """Raise one ProgramError that tells all problems (the first MAX_PROBLEMS of them), if there are any."""
    found = list(problems)
    if not found:
        return
    if len(found) == 1:
        raise ProgramError(found[0], where=where)
    more = [f"... and {len(found) - MAX_PROBLEMS} more"] if len(found) > MAX_PROBLEMS else []
    rows = "\n".join(f"  {line}" for line in [*found[:MAX_PROBLEMS], *more])
    raise ProgramError(f"{len(found)} problems\n{rows}", where=where)
