"""Tiny Llamas compiled for a small grid, and inputs for them."""

from __future__ import annotations

from functools import cache

import numpy as np

import models
from compiler import compile_model
from isa.affine import evaluate
from isa.machine import preset
from isa.program import Program
from tests.compiler.graphs import SMALL_GRID
from tests.simulator.kernels import Array


@cache
def llama(name: str, sequence: int, longest_past: int, grid: bool = False, separate_launches: bool = False) -> Program:
    """Return a program with a cache of any length up to `longest_past`, on 2 x 3 PEs or the whole grid."""
    machine = preset("mtia-2i").with_changes({} if grid else SMALL_GRID)
    dims = {"batch": 1, "sequence": sequence, "past": (0, longest_past)}
    return compile_model(
        models.build(name, 0, "float32"), machine=machine, dims=dims, separate_launches=separate_launches
    )


def inputs_for(program: Program, past: int) -> dict[str, Array]:
    """Return random tokens and a random cache of that length."""
    rng = np.random.default_rng(past)
    inputs: dict[str, Array] = {}
    for port in program.entries[0].inputs:
        shape = tuple(evaluate(dim, {"past": past}) for dim in port.shape)
        is_ids = port.host_dtype == "int64"
        inputs[port.name] = rng.integers(0, 300, shape) if is_ids else rng.normal(0, 1, shape).astype(port.host_dtype)
    return inputs
