"""Lower bounds on time that follow from what operations must do, and no mapping or schedule can beat.

Four of them: useful products at the matrix engines' peak, their commands at the cores' issue rate, activations at the
SRAM's bandwidth, and constants, caches and activations beyond the SRAM's capacity at what the DRAM can deliver. Several
operations together are bounded by the sums; a constant counts once among them, however often it is read. Indices may
choose a row twice, so that DRAM is never bound by more than what it moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isa.affine import evaluate
from isa.dtypes import BY_CODE, BY_NAME
from isa.machine import Machine
from isa.program import LaunchPart, Program
from simulator import state as st

IN_DRAM = ("constant", "state")
"""Roles of storages that lie in DRAM before and after a run."""
NOTHING = "nothing"


@dataclass(frozen=True)
class LowerBound:
    """Seconds by resource: `dpe`, `issue`, `sram`, `dram`."""

    seconds_by_resource: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """The greatest of them."""
        return max(self.seconds_by_resource.values())

    @property
    def resource(self) -> str:
        """What the greatest one is about; `nothing` if there is no work."""
        name = max(self.seconds_by_resource, key=lambda key: self.seconds_by_resource[key])
        return name if self.seconds_by_resource[name] else NOTHING


def lower_bound(
    program: Program, machine: Machine, operations: Sequence[tuple[LaunchPart, st.Stats]], bindings: Mapping[str, int]
) -> LowerBound:
    """Return the bound of operations together; of their counters matter element types of products, and DRAM bytes."""
    in_dram: dict[str, int] = {}
    products = commands = activations = beyond = moved = 0.0
    for operation, stats in operations:
        macs = evaluate(operation.useful_macs, bindings)
        for dtype, share in _shares(stats).items():
            products += macs * share / machine.peak_macs_per_second(dtype)
            commands += macs * share / _macs_per_command(machine, dtype)
        touched = 0
        for storage, size, _ in operation.touches:
            count = evaluate(size, bindings)
            place = program.storage_by_name[storage]
            if place.role in IN_DRAM:
                in_dram[storage] = max(in_dram.get(storage, 0), min(count, place.bytes))
            else:
                touched += count
        moved += int(stats.counts[st.DRAM_READ] + stats.counts[st.DRAM_WRITTEN])
        activations += touched
        beyond += max(0, touched - machine.sram.bytes)
    return LowerBound(
        {
            "dpe": products,
            "issue": commands * machine.pe.command_issue_cycles / machine.cycles_per_second / machine.pe_count,
            "sram": activations / machine.sram_bytes_per_second,
            "dram": min(sum(in_dram.values()) + beyond, moved) / machine.dram_deliverable_bytes_per_second,
        }
    )


def _shares(stats: st.Stats) -> dict[str, float]:
    """Return by element type its share of the products that were issued."""
    issued = stats.counts[st.ISSUED_MACS : st.ACTIVE_MACS]
    whole = int(issued.sum())
    return {BY_CODE[code].name: int(count) / whole for code, count in enumerate(issued) if count}


def _macs_per_command(machine: Machine, dtype: str) -> int:
    matrix = machine.matrix
    inputs = matrix.max_repeat_blocks * matrix.block_k_bytes // BY_NAME[dtype].bytes
    return matrix.block_rows * matrix.block_rows * inputs
