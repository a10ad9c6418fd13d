"""A sweep of a store as a page, as CSV or as Parquet, with published chips and assumptions beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isa.machine import Machine
from sweeps.comparison import comparison_of
from sweeps.cost_assumptions import CostAssumptions, assumption_sources, cost_assumptions
from sweeps.points import PointRow, SweepTable
from sweeps.published import ComparisonRow, Unit
from sweeps.running import DEFAULT_STORE, load_table, stored_sweep
from sweeps.store import Store, StoreError
from sweeps.sweep import Sweep
from sweeps.sweep_file import from_definition


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

    table, found = load_table(store, name), stored_sweep(store, name)
    if csv is not None:
        write_csv(table, csv)
    if parquet is not None:
        write_parquet(table, parquet)
    if html is not None:
        cost = found.definition.get("cost", {})
        with Store.to_read(store) as opened:
            comparison = _comparison(table, opened, from_definition(found.definition), cost_assumptions(cost))
        versions = {"tool, digest of its sources": found.version}
        write_page(table, html, comparison=comparison, assumptions=_assumptions(cost), versions=versions)


def _comparison(
    table: SweepTable, store: Store, sweep: Sweep, assumptions: CostAssumptions
) -> tuple[ComparisonRow, ...]:
    def machine_of(row: PointRow) -> Machine:
        values = store.machine(row.key_machine)
        if values is None:
            raise StoreError(f"the store has lost the machine of point {row.number}",
                             help="`sweep-machines run FILE` with another --store makes it anew")  # fmt: skip
        return Machine.from_dict(values)

    units: dict[str, Unit] = {
        workload.name: "tokens" if "sequence" in dict(workload.dims) else "samples" for workload in sweep.workloads
    }
    return comparison_of(table, machine_of, assumptions, units)


def _assumptions(cost: Mapping[str, Any]) -> dict[str, str]:
    """Return every assumption of costs with where it comes from."""
    values = cost_assumptions(cost).model_dump()
    sources = assumption_sources()
    return {
        name: f"{value} ({'set by the sweep' if name in cost else sources[name].source})"
        for name, value in values.items()
    }
