"""A table as a sweep makes it, of any size, with figures from a plain formula: deterministic, quick, no simulation.

Five parameters on logarithmic ranges, one of them conditional (the SRAM latency exists only where there is SRAM), three
objectives, a tenth of the points infeasible. Latency has an interior optimum in no parameter, so there is a front.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from isa.machine import preset
from sweeps.comparison import comparison_of
from sweeps.points import BASELINE_NUMBER, Objective, ParameterValue, PointRow, SweepTable

OBJECTIVES = (
    Objective("latency_seconds", "minimize", "s"),
    Objective("energy_per_token_joules", "minimize", "J"),
    Objective("area_mm2", "minimize", "mm2"),
)
PARAMETERS = ("grid.pes", "pe.local_memory_bytes", "sram.capacity_bytes", "sram.latency_cycles", "dram.channels",
              "dram.kind")  # fmt: skip
BASE: dict[str, ParameterValue] = {
    "grid.pes": 64,
    "pe.local_memory_bytes": 393216,
    "sram.capacity_bytes": 268435456,
    "sram.latency_cycles": 32,
    "dram.channels": 16,
    "dram.kind": "lpddr5",
}


def synthetic_table(points: int = 2000, seed: int = 0, name: str = "llama-3-8b decode and dlrm") -> SweepTable:
    """Return a table of that many points."""
    random = np.random.default_rng(seed)
    rows = tuple(synthetic_row(number, _values(random), random) for number in range(points))
    baseline = dataclasses.replace(synthetic_row(BASELINE_NUMBER, BASE, None), number=BASELINE_NUMBER)
    return SweepTable(name, OBJECTIVES, PARAMETERS, rows, baseline, ("decode", "dlrm"))


def _values(random: np.random.Generator) -> dict[str, ParameterValue]:
    values: dict[str, ParameterValue] = {
        "grid.pes": int(2 ** random.integers(4, 9)),
        "pe.local_memory_bytes": int(2 ** random.integers(0, 5)) * 131072,
        "sram.capacity_bytes": int(random.choice([0, 64, 128, 256, 512])) * 1048576,
        "dram.channels": int(2 ** random.integers(2, 7)),
        "dram.kind": str(random.choice(["lpddr5", "hbm3"])),
    }
    if values["sram.capacity_bytes"]:
        values["sram.latency_cycles"] = int(2 ** random.integers(4, 8))
    return values


def synthetic_row(number: int, values: dict[str, ParameterValue], random: np.random.Generator | None) -> PointRow:
    """Return a point; without `random` it is free of noise and always ok."""
    key = f"{number + 2:064x}"
    chance = random.random() if random else 1.0
    if chance < (0.25 if values["pe.local_memory_bytes"] == 131072 else 0.03):
        needed = int(values["pe.local_memory_bytes"]) + 4096
        reason = f"decode: the kernel needs {needed} bytes of local memory, the machine has less"
        return PointRow(number, "infeasible", reason, values, {}, "", key)
    if chance > 0.97 and random:
        return PointRow(number, "infeasible", "constraint 'area_mm2 <= 900' does not hold", values, {}, "", key)
    if chance > 0.94 and random:
        figures = {"latency_seconds": 0.5, "energy_per_token_joules": 0.9}
        return PointRow(number, "discarded", "its lower bounds are dominated by point 3", values, figures, "", key)
    if chance > 0.939 and random:
        return PointRow(number, "failed", "internal error: division by zero", values, {}, "", key)
    noise = float(random.lognormal(0, 0.04)) if random else 1.0
    figures, limit = _figures(values, noise)
    return PointRow(number, "ok", "", values, figures, limit, key)


def _figures(values: dict[str, ParameterValue], noise: float) -> tuple[dict[str, float], str]:
    pes, channels = float(values["grid.pes"]), float(values["dram.channels"])
    sram_mib, local_kib = float(values["sram.capacity_bytes"]) / 2**20, float(values["pe.local_memory_bytes"]) / 1024
    is_hbm = values["dram.kind"] == "hbm3"
    memory = 1.1 / channels / (4 if is_hbm else 1) / (1 + sram_mib / 400)
    compute = 0.9 / pes * (1 + 60 / local_kib)
    stall = 0.002 * math.log2(float(values.get("sram.latency_cycles", 256)))
    latency = (max(memory, compute) + 0.3 * min(memory, compute) + stall) * noise
    area = 60 + pes * (1.2 + local_kib / 420) + sram_mib * 0.45 + channels * (9.0 if is_hbm else 3.0)
    energy = (0.02 + 0.25 * memory + 0.03 * compute) * noise + latency * (0.06 * area + 2 * channels) / 160
    watts = energy * 16 / latency
    figures = {
        "latency_seconds": latency,
        "throughput_per_second": 16 / latency,
        "energy_per_token_joules": energy,
        "average_watts": watts,
        "peak_watts": watts * 1.4,
        "area_mm2": area,
        "cost_dollars": 200 + area * 1.3 + channels * (60 if is_hbm else 12),
        "performance_per_watt": 16 / latency / watts,
        "performance_per_tco": 16 / latency * 3.2e7 / (area * 8 + watts * 4),
        **{f"decode.{name}": value for name, value in _workload(latency * 0.9, energy * 1.1).items()},
        **{f"dlrm.{name}": value for name, value in _workload(latency * 1.2, energy * 0.8).items()},
    }
    share = 100 * max(memory, compute) / (memory + compute)
    first = "DRAM" if memory > compute else "matrix engine"
    second = "local memory" if stall > 0.6 * memory else "DRAM"
    return (
        figures,
        f"decode: {first} ({share:.0f} % of the cycles); dlrm: {second} ({55 + share / 5:.0f} % of the cycles)",
    )


def _workload(latency: float, energy: float) -> dict[str, float]:
    return {
        "latency_seconds": latency,
        "throughput_per_second": 16 / latency,
        "energy_per_token_joules": energy,
        "average_watts": energy * 16 / latency,
    }


ASSUMPTIONS = {"energy price": "0.08 $/kWh (assumed)", "lifetime": "4 years (assumed)"}
VERSIONS = {"tool": "a made-up version"}


def page_arguments(table: SweepTable) -> dict[str, Any]:
    """Return what a page of the table shows beside it, every design taken for the base preset."""
    comparison = comparison_of(table, lambda row: preset("mtia-2i"), units={"dlrm": "samples"})
    return {"comparison": comparison, "assumptions": ASSUMPTIONS, "versions": VERSIONS}


HOSTILE = "</script><script>window.hostile=1</script><img src=x onerror=window.hostile=1>\"'&<b>\x1b[31m\u202e=1+1"


def hostile_table() -> SweepTable:
    """A small table in which every word that a stranger chooses tries to be more than a word."""
    table = synthetic_table(60, name=HOSTILE)
    names = {name: name + HOSTILE for name in PARAMETERS}

    def spoiled(row: PointRow) -> PointRow:
        values = {
            names[name]: value if name != "dram.kind" else f"{value}{HOSTILE}" for name, value in row.values.items()
        }
        limit = f"decode{HOSTILE}: DRAM{HOSTILE} (81 % of the cycles)" if row.limit else ""
        figures = {name.replace("decode.", f"decode{HOSTILE}."): value for name, value in row.figures.items()}
        reason = f"{row.reason}{HOSTILE}" if row.reason else ""
        return dataclasses.replace(row, values=values, limit=limit, figures=figures, reason=reason, key_machine=HOSTILE)

    return dataclasses.replace(
        table,
        parameters=tuple(names.values()),
        rows=tuple(spoiled(row) for row in table.rows),
        baseline=spoiled(table.baseline) if table.baseline else None,
        workloads=(f"decode{HOSTILE}", "dlrm"),
    )


def odd_tables() -> dict[str, SweepTable]:
    """Tables at the edges of what a sweep may be, by what is odd about them."""
    table = synthetic_table(40)
    lost = tuple(row for row in table.rows if row.status != "ok")
    best = Objective("performance_per_tco", "maximize", "1/$")
    alone = next(row for row in table.rows if row.status == "ok")
    return {
        "hostile words": hostile_table(),
        "no points": dataclasses.replace(table, rows=(), baseline=None),
        "nothing feasible": dataclasses.replace(table, rows=lost, baseline=None),
        "only the base machine": dataclasses.replace(table, rows=()),
        "one objective": dataclasses.replace(table, objectives=(best,)),
        "one point, no parameters": dataclasses.replace(table, rows=(alone,), parameters=()),
        "infeasible base machine": dataclasses.replace(table, baseline=lost[0]),
        "two objectives to maximise": dataclasses.replace(
            table, objectives=(best, Objective("performance_per_watt", "maximize", "1/J"))
        ),
    }
