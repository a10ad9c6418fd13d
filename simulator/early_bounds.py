"""What a program takes at least, told before it is simulated: a sweep need not simulate what even so is no better.

Time: launches start one after another, and their products pass the matrix engines, their constants and caches the DRAM.
Energy: background over that time, products and DRAM traffic at what each costs, the host link. Power: the background.
Kernels whose work depends on data (gathers, words that a core reads) are taken to do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from isa import columns
from isa.affine import evaluate
from isa.columns import decode_columns
from isa.dtypes import BY_CODE
from isa.kernel import Kernel
from isa.machine import Machine
from isa.program import Program
from isa.table import BY_NAME
from simulator import traits
from simulator.bounds import IN_DRAM
from simulator.energy import background_joules, host_joules, product_joules, traffic_joules, within_tdp
from simulator.hardware import TICKS_PER_CYCLE
from simulator.ports import moved_bytes
from simulator.traits import traits_table

_PRODUCTS = [BY_NAME[name].opcode for name in ("mml", "vmml", "mml_sparse")]
_SPARSE, _LOAD_WORD = BY_NAME["mml_sparse"].opcode, BY_NAME["lw"].opcode


@dataclass(frozen=True, slots=True)
class EarlyBound:
    """No run takes less time, energy, or power; `peak_power_watts` is that of what the TDP is about."""

    latency_seconds: float
    energy_joules: float
    average_power_watts: float
    peak_power_watts: float


@dataclass(frozen=True, slots=True)
class _Work:
    """What is known of a kernel: whether data decide what it does, and how it multiplies (element type, is sparse)."""

    depends_on_data: bool
    products: frozenset[tuple[str, bool]]


def early_bound(program: Program, machine: Machine | None = None, dims: Mapping[str, int] | None = None) -> EarlyBound:
    """Return the bound of the program's first entry, on its own machine or another one with an equal code digest."""
    chosen, entry, bindings = machine or program.machine, program.entries[0], dims or {}
    works = [_work_of(kernel) for kernel in program.kernels]
    starting = products = product_energy = 0.0
    stored: dict[str, int] = {}
    for index, launch in enumerate(entry.launches):
        starting_ns = chosen.launch_ns(launch.rows * launch.columns, replaces=index > 0)
        starting += int(starting_ns / chosen.cycle_ns * TICKS_PER_CYCLE) / TICKS_PER_CYCLE / chosen.cycles_per_second
        work = works[launch.kernel]
        if work.depends_on_data:
            continue
        macs = evaluate(launch.useful_macs, bindings)
        if macs and work.products:
            products += macs / max(_rate(chosen, *product) for product in work.products)
            product_energy += min(product_joules(chosen, dtype, macs) for dtype, _ in work.products)
        for touch in launch.touches:
            place = program.storage_by_name[touch.storage]
            if place.role in IN_DRAM:
                size = min(evaluate(touch.bytes, bindings), place.bytes)
                stored[touch.storage] = max(stored.get(touch.storage, 0), size)
    traffic = sum(stored.values())
    seconds = starting + max(products, traffic / chosen.dram_deliverable_bytes_per_second)
    background = background_joules(chosen, 1.0)
    energy = seconds * sum(background.values()) + product_energy + traffic_joules(chosen, traffic)
    energy += sum(host_joules(chosen, moved_bytes(entry, bindings)).values())
    return EarlyBound(seconds, energy, sum(background.values()), within_tdp(chosen, background))


def _rate(machine: Machine, dtype: str, is_sparse: bool) -> float:
    return machine.sparse_peak_macs_per_second(dtype) if is_sparse else machine.peak_macs_per_second(dtype)


def _work_of(kernel: Kernel) -> _Work:
    code = np.concatenate([decode_columns(kernel.core_a), decode_columns(kernel.core_b)])
    opcodes = code[:, columns.OPCODE]
    depends = bool(traits_table()[opcodes, traits.INDEXED].any() or (opcodes == _LOAD_WORD).any())
    multiplies = code[np.isin(opcodes, _PRODUCTS)]
    pairs = zip(multiplies[:, columns.D1], multiplies[:, columns.OPCODE] == _SPARSE, strict=True)
    return _Work(depends, frozenset((BY_CODE[int(code)].name, bool(sparse)) for code, sparse in pairs))
