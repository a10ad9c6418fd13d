"""Sweeps: many machines x many workloads -> a store -> tables, a Pareto front, a page.

from sweeps import report, run

table = run("sweep.toml", store="sweeps.sqlite", workers=4)
report(store="sweeps.sqlite", html="sweep.html")

`resume`, `status` and `front_of` (of a table) are the other words of the command line. Public names are loaded on first
use, so that importing the package is quick.
"""

from __future__ import annotations

import importlib

_MODULE_OF = {
    **dict.fromkeys(("FIGURES", "Objective", "PointRow", "SweepTable"), "points"),
    **dict.fromkeys(("load_table", "resume", "run", "status"), "running"),
    **dict.fromkeys(("Front", "front_of"), "pareto"),
    "Sweep": "sweep",
    "read_sweep": "sweep_file",
    "report": "reporting",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sweeps' has no attribute '{name}'")
    return getattr(importlib.import_module(f"sweeps.{_MODULE_OF[name]}"), name)
