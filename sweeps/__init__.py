"""Sweeps: many machines x many workloads -> a store -> tables, a Pareto front, a page.

Public names are loaded on first use, so that importing the package is quick.
"""

from __future__ import annotations

import importlib

_MODULE_OF = dict.fromkeys(("FIGURES", "Objective", "PointRow", "SweepTable"), "points")

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sweeps' has no attribute '{name}'")
    return getattr(importlib.import_module(f"sweeps.{_MODULE_OF[name]}"), name)
