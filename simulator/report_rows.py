"""Rows of a report: what each launch took, and each operation in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

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
class Measured:
    """What counters over a time say, as in `OperationReport`."""

    issued_macs: int
    dram_bytes: int
    sram_bytes: int
    sram_hit_rate: float
    commands: int
    energy_parts_joules: Mapping[str, float]
    bound_by: str
    utilization: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Rows:
    """Makes the rows of one run of a program on a machine."""

    program: Program
    machine: Machine
    _known: dict[int, Measured] = field(default_factory=dict)

    def measured(self, stats: st.Stats, ticks: int) -> Measured:
        """Return what counters say that live as long as the rows are made: those of equal launches are the same."""
        if id(stats) not in self._known:
            self._known[id(stats)] = self._measure(stats, ticks)
        return self._known[id(stats)]

    def _measure(self, stats: st.Stats, ticks: int) -> Measured:
        counters = stats.counts
        seconds = ticks / TICKS_PER_CYCLE / self.machine.cycles_per_second
        return Measured(
            issued_macs=int(counters[st.ISSUED_MACS : st.ACTIVE_MACS].sum()),
            dram_bytes=int(counters[st.DRAM_READ] + counters[st.DRAM_WRITTEN]),
            sram_bytes=int(counters[st.SRAM_READ] + counters[st.SRAM_WRITTEN]), sram_hit_rate=sram_hit_rate(stats),
            commands=int(counters[: st.ISSUED_MACS].sum()),
            energy_parts_joules=energy_parts(self.machine, stats, seconds),
            bound_by=bound_of(self.machine, stats, ticks), utilization=utilization_of(self.machine, stats, ticks),
        )  # fmt: skip

    def launch_row(self, launch: Launch, timed: Timed, bindings: Mapping[str, int], start_ticks: int) -> LaunchReport:
        """Return what a launch took that begins so many ticks after the run."""
        bound = lower_bound(self.program, self.machine, counters_of(launch, timed), bindings)
        measured = self.measured(timed.stats, timed.ticks)
        return LaunchReport(
            name=launch.name, kernel=self.program.kernels[launch.kernel].name,
            start_cycles=cycles_of(start_ticks), cycles=cycles_of(timed.ticks), reused=timed.reused,
            lower_bound_cycles=bound.seconds * self.machine.cycles_per_second, lower_bound_resource=bound.resource,
            bound_by=measured.bound_by, utilization=measured.utilization,
        )  # fmt: skip

    def operation_rows(
        self, launch: Launch, index: int, timed: Timed, bindings: Mapping[str, int], start_cycles: int
    ) -> Iterator[OperationReport]:
        """Yield what each operation of a launch took; cycles are rounded so that together they are the launch's."""
        begun = 0
        kernels = (part.name for part in self.program.kernels[launch.kernel].operation_parts)
        for part, kernel, piece in zip(launch.parts, kernels, timed.parts, strict=True):
            ended, measured = cycles_of(piece.end_ticks), self.measured(piece.stats, piece.ticks)
            bound = lower_bound(self.program, self.machine, [(part, piece.stats)], bindings)
            yield OperationReport(
                operation=part.operation, launch=index, kernel=kernel,
                start_cycles=start_cycles + begun, cycles=ended - begun, reused=timed.reused,
                useful_macs=evaluate(part.useful_macs, bindings), stated_macs=part.stated_macs(bindings),
                issued_macs=measured.issued_macs, dram_bytes=measured.dram_bytes, sram_bytes=measured.sram_bytes,
                sram_hit_rate=measured.sram_hit_rate, commands=measured.commands,
                energy_parts_joules=measured.energy_parts_joules,
                lower_bound_cycles=bound.seconds * self.machine.cycles_per_second, lower_bound_resource=bound.resource,
                bound_by=measured.bound_by, utilization=measured.utilization,
            )  # fmt: skip
            begun = ended
