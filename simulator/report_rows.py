"""Rows of a report: what each launch took, and each operation in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from isa.affine import evaluate
from isa.machine import Machine
from isa.program import Launch, LaunchPart, Program
from simulator import state as st
from simulator.bounds import lower_bound
from simulator.energy import energy_parts
from simulator.hardware import TICKS_PER_CYCLE
from simulator.launcher import Timed
from simulator.report import LaunchReport, OperationReport, bound_of, cycles_of, sram_hit_rate, utilization_of


def counters_of(launch: Launch, timed: Timed) -> list[tuple[LaunchPart, st.Stats]]:
    """Return the operations of a launch with what was counted for each."""
    return [(part, counted.stats) for part, counted in zip(launch.parts, timed.parts, strict=True)]


@dataclass(frozen=True, slots=True)
class Rows:
    """Makes the rows of a program on a machine."""

    program: Program
    machine: Machine

    def launch_row(self, launch: Launch, timed: Timed, bindings: Mapping[str, int], start_ticks: int) -> LaunchReport:
        """Return what a launch took that begins so many ticks after the run."""
        bound = lower_bound(self.program, self.machine, counters_of(launch, timed), bindings)
        return LaunchReport(
            name=launch.name, kernel=self.program.kernels[launch.kernel].name,
            start_cycles=cycles_of(start_ticks), cycles=cycles_of(timed.ticks), reused=timed.reused,
            lower_bound_cycles=bound.seconds * self.machine.cycles_per_second, lower_bound_resource=bound.resource,
            bound_by=bound_of(self.machine, timed.stats, timed.ticks),
            utilization=utilization_of(self.machine, timed.stats, timed.ticks),
        )  # fmt: skip

    def operation_rows(
        self, launch: Launch, index: int, timed: Timed, bindings: Mapping[str, int], start_cycles: int
    ) -> Iterator[OperationReport]:
        """Yield what each operation of a launch took; cycles are rounded so that together they are the launch's."""
        begun = 0
        kernels = (part.name for part in self.program.kernels[launch.kernel].operation_parts)
        for part, kernel, piece in zip(launch.parts, kernels, timed.parts, strict=True):
            ended, stats, counters = cycles_of(piece.end_ticks), piece.stats, piece.stats.counts
            bound = lower_bound(self.program, self.machine, [(part, stats)], bindings)
            seconds = piece.ticks / TICKS_PER_CYCLE / self.machine.cycles_per_second
            yield OperationReport(
                operation=part.operation, launch=index, kernel=kernel,
                start_cycles=start_cycles + begun, cycles=ended - begun, reused=timed.reused,
                useful_macs=evaluate(part.useful_macs, bindings),
                issued_macs=int(counters[st.ISSUED_MACS : st.ACTIVE_MACS].sum()),
                stated_macs=part.stated_macs(bindings),
                dram_bytes=int(counters[st.DRAM_READ] + counters[st.DRAM_WRITTEN]),
                sram_bytes=int(counters[st.SRAM_READ] + counters[st.SRAM_WRITTEN]),
                sram_hit_rate=sram_hit_rate(stats), commands=int(counters[: st.ISSUED_MACS].sum()),
                energy_parts_joules=energy_parts(self.machine, stats, seconds),
                lower_bound_cycles=bound.seconds * self.machine.cycles_per_second, lower_bound_resource=bound.resource,
                bound_by=bound_of(self.machine, stats, piece.ticks),
                utilization=utilization_of(self.machine, stats, piece.ticks),
            )  # fmt: skip
            begun = ended
