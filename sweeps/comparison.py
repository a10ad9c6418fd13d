"""Designs of a sweep beside published results: the knee and the base machine first, then what others measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from isa.machine import Machine
from sweeps.cost import CostAssumptions
from sweeps.pareto import front_of
from sweeps.points import PointRow, SweepTable
from sweeps.published import ComparisonRow, Unit, published_rows, row_of_machine


def comparison_of(
    table: SweepTable,
    machine_of: Callable[[PointRow], Machine],
    assumptions: CostAssumptions | None = None,
    units: Mapping[str, Unit] | None = None,
) -> tuple[ComparisonRow, ...]:
    """Return a row for each workload on the knee and on the base machine, then every published result.

    `machine_of` gives the effective machine of a point; `units` is what each workload makes (tokens if it is left out).
    Points without throughput and power of a workload have no row of it.
    """
    knee, base = front_of(table).knee, table.baseline
    designs = [(knee, f"knee, point {knee.number}")] if knee else []
    designs += [(base, "base machine")] if base is not None and base.status == "ok" else []
    rows = [
        _own_row(
            row,
            name,
            workload,
            table.workload_texts.get(workload, ""),
            machine_of,
            assumptions,
            (units or {}).get(workload, "tokens"),
        )
        for row, name in designs
        for workload in table.workloads
        if {f"{workload}.throughput_per_second", f"{workload}.average_watts"} <= row.figures.keys()
    ]
    return (*rows, *published_rows(assumptions))


def _own_row(
    row: PointRow,
    name: str,
    workload: str,
    text: str,
    machine_of: Callable[[PointRow], Machine],
    assumptions: CostAssumptions | None,
    unit: Unit,
) -> ComparisonRow:
    rate, watts = (row.figures[f"{workload}.{figure}"] for figure in ("throughput_per_second", "average_watts"))
    found = row_of_machine(
        machine_of(row), f"{workload}: {text}" if text else workload, rate, watts, assumptions, unit=unit
    )
    return dataclasses.replace(found, device=name)
