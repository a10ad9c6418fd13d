"""A sweep of a store as a page, as CSV or as Parquet, with published chips and assumptions beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.cost_assumptions import assumption_sources, cost_assumptions
from sweeps.evaluate import tool_version
from sweeps.published import ComparisonRow, published_rows
from sweeps.running import DEFAULT_STORE, definition_of, load_table


@dataclass(frozen=True, slots=True)
class PublishedChip:
    """A published result in the words of the page; energy is measured at the server's plug, or taken to be the TDP."""

    name: str
    joules_per_million_tokens: float | None
    dollars_per_million_tokens: float | None
    source: str
    caveat: str


def report(
    store: str | Path = DEFAULT_STORE,
    name: str | None = None,
    *,
    html: str | Path | None = None,
    csv: str | Path | None = None,
    parquet: str | Path | None = None,
) -> None:
    """Write a sweep of a store, the latest one without a name, to the files that are given, each whole or not at all.

    Raises StoreError, and ToolError if a file cannot be written or a package for it is missing.
    """
    from sweeps.page import write_page
    from sweeps.tables import write_csv, write_parquet

    table, definition = load_table(store, name), definition_of(store, name)
    if csv is not None:
        write_csv(table, csv)
    if parquet is not None:
        write_parquet(table, parquet)
    if html is not None:
        write_page(
            table, html, published=_published(definition.get("cost", {})),
            assumptions=_assumptions(definition.get("cost", {})), versions={"sources": tool_version()[:16]},
        )  # fmt: skip


def _published(cost: Mapping[str, Any]) -> list[PublishedChip]:
    return [_chip(row) for row in published_rows(cost_assumptions(cost)) if row.unit == "tokens"]


def _chip(row: ComparisonRow) -> PublishedChip:
    name = f"{row.device}, {row.workload}, {row.precision}"
    caveat = "; ".join((f"power: {row.power_basis}", *row.caveats))
    return PublishedChip(name, row.joules_per_million, row.dollars_per_million, row.source, caveat)


def _assumptions(cost: Mapping[str, Any]) -> dict[str, str]:
    """Return every assumption of costs with where it comes from."""
    values = cost_assumptions(cost).model_dump()
    sources = assumption_sources()
    return {
        name: f"{value} ({'set by the sweep' if name in cost else sources[name].source})"
        for name, value in values.items()
    }
