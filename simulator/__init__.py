"""The simulator: program + machine (+ inputs) -> outputs, cycles, joules, utilization.

Public names are loaded on first use, so that importing the package does not import numba.
"""

from __future__ import annotations

import importlib

_MODULE_OF = {
    **dict.fromkeys(("Result", "Simulator"), "simulator"),
    **dict.fromkeys(("OperationReport", "Report"), "report"),
    **dict.fromkeys(("EarlyBound", "early_bound"), "early_bounds"),
    "Timings": "launcher",
    "run_kernel": "kernel_runner",
    "simulated_cycles": "cost",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'simulator' has no attribute '{name}'")
    return getattr(importlib.import_module(f"simulator.{_MODULE_OF[name]}"), name)
