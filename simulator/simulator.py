"""`Simulator(program)`: run a program on inputs, or time it without any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.container import load_program
from isa.errors import ProgramError, SimulationError
from isa.machine import Machine, load_machine, machine_fields
from isa.program import Absent, Entry, Program
from simulator import hardware as hw
from simulator import report as rp
from simulator import state as st
from simulator.binding import bind_dims, dims_of_inputs
from simulator.bounds import lower_bound
from simulator.device import Device
from simulator.energy import background_joules, bands, energy_parts, host_joules, within_tdp
from simulator.index_distribution import SEED, IndexDistribution, parse_distribution
from simulator.launcher import Launcher, Timed, Timings
from simulator.ports import moved_bytes
from simulator.power import peak_watts
from simulator.report_rows import Rows, counters_of

Array = npt.NDArray[np.generic]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Result:
    """Outputs by name as host arrays, and the report of the run."""

    outputs: Mapping[str, Array]
    report: rp.Report


class Simulator:
    """A program on a machine: the program's own, or another one with an equal code digest.

    Profiles with the same `timings` simulate launches once for all machines that have the same in all that these
    depend on, if the programs are one but for the machine, as `compiler.GraphCompiler` makes them. Reports are those
    of profiles without.
    """

    def __init__(
        self,
        program: Program | str | Path,
        machine: Machine | str | Path | None = None,
        timings: Timings | None = None,
    ) -> None:
        self.program = program if isinstance(program, Program) else load_program(program)
        chosen = self.program.machine if machine is None else machine
        self.machine = chosen if isinstance(chosen, Machine) else load_machine(chosen)
        if self.machine.code_digest != self.program.machine.code_digest:
            differing = ", ".join(_differing_code_fields(self.program.machine, self.machine))
            raise ProgramError(
                f"the program was compiled for {self.program.machine.name}, and machine {self.machine.name} differs in "
                f"fields that shape code: {differing}",
                help="compile again with --machine; only rates, latencies and energies may differ",
            )
        self._device: Device | None = None
        self._runner: tuple[tuple[int, int], Launcher] | None = None
        self._timers: dict[IndexDistribution, Launcher] = {}
        self._timings = timings

    def entry(self, name: str | None = None) -> Entry:
        """Return an entry by name; without a name, the only or first one."""
        return self.program.entries[0] if name is None else self.program.entry(name)

    def run(self, inputs: Mapping[str, Array], entry: str | None = None, *, progress: Progress | None = None,
            jitter_cycles: int = 0, jitter_seed: int = 0) -> Result:  # fmt: skip
        """Execute an entry on host arrays and return its outputs and report.

        Sizes of symbolic dims come from the inputs. Raises SimulationError for inputs that do not fit, and for what
        the program does wrong (deadlock, access out of range); ProgramError if constants are absent. `jitter_cycles`
        delays every command at random, for tests that values do not depend on time.
        """
        chosen = self.entry(entry)
        self._check_constants()
        arrays = {name: np.asarray(array) for name, array in inputs.items()}
        bindings = dims_of_inputs(chosen, arrays)
        _check_requirements(chosen, arrays)
        device = self.load()
        device.clear()
        moved = device.write_inputs(chosen, arrays, bindings)
        launcher = self._runner_for(device, (jitter_cycles, jitter_seed))
        timed = _run_all(launcher, chosen, bindings, progress)
        outputs, returned = device.read_outputs(chosen, bindings)
        return Result(outputs, self._report(chosen, bindings, timed, moved + returned))

    def _runner_for(self, device: Device, delays: tuple[int, int]) -> Launcher:
        """Return the launcher of the last run, with nothing left of it, or a new one: making one costs milliseconds."""
        if self._runner is None or self._runner[0] != delays:
            launcher = Launcher(self.program, self.machine, device, jitter_cycles=delays[0], jitter_seed=delays[1])
            self._runner = delays, launcher
        else:
            self._runner[1].forget()
        return self._runner[1]

    def load(self) -> Device:
        """Put the constants into the simulated memories now; otherwise the first run does. ProgramError if absent."""
        self._check_constants()
        if self._device is None:
            self._device = Device(self.program)
        return self._device

    def _check_constants(self) -> None:
        absent = [item.storage for item in self.program.constants if isinstance(item.source, Absent)]
        if absent:
            raise ProgramError(
                f"{len(absent)} constants have no data (the first is '{absent[0]}')",
                help="this program can only be timed: use profile, or compile a model with weights",
            )

    def profile(self, entry: str | None = None, *, dims: Mapping[str, int] | None = None,
                progress: Progress | None = None, reuse: bool = True, indices: str = "uniform",
                **sizes: int) -> rp.Report:  # fmt: skip
        """Time an entry for given sizes of its symbolic dims; no weights or inputs are needed.

        Sizes are keywords, `past=128`, or in `dims`, which takes any name. `reuse=False` simulates every launch, also
        those that must take the same time as one before. `indices` says which rows gathers touch, since there are no
        indices: `uniform` or `zipf:POWER`, like `zipf:1.05`; SimulationError for anything else.
        """
        distribution = parse_distribution(indices)
        chosen = self.entry(entry)
        bindings = bind_dims(chosen, {**(dims or {}), **sizes})
        timed: Sequence[Timed]
        if self._timings is not None and reuse:
            key = (_Code(self.program), chosen.name, tuple(sorted(bindings.items())), distribution)

            def run(view: Machine) -> tuple[Timed, ...]:
                return (
                    *_run_all(Launcher(self.program, view, None, indices=distribution), chosen, bindings, progress),
                )

            timed = self._timings.result(key, self.machine, run)
        else:
            timed = _run_all(self._timer(distribution, reuse), chosen, bindings, progress)
        return self._report(chosen, bindings, timed, moved_bytes(chosen, bindings), distribution)

    def _timer(self, indices: IndexDistribution, reuse: bool) -> Launcher:
        """Return the launcher of the last profile, which knows its launches, or a new one."""
        timer = self._timers.get(indices) if reuse else None
        if timer is None:
            timer = Launcher(self.program, self.machine, None, reuse=reuse, indices=indices)
            if reuse:
                self._timers[indices] = timer
        return timer

    def _report(self, entry: Entry, bindings: Mapping[str, int], timed: Sequence[Timed], host_bytes: int,
                indices: IndexDistribution | None = None) -> rp.Report:  # fmt: skip
        machine, total = self.machine, st.new_stats(hw.hardware_of(self.machine))
        rows, clock = Rows(self.program, machine), 0
        launches, operations, spans = [], list[rp.OperationReport](), []
        for index, (launch, result) in enumerate(zip(entry.launches, timed, strict=True)):
            starting_ns = machine.launch_ns(launch.rows * launch.columns, replaces=index > 0)
            gap = round(starting_ns / machine.cycle_ns * hw.TICKS_PER_CYCLE)
            launches.append(rows.launch_row(launch, result, bindings, clock + gap))
            operations += rows.operation_rows(launch, index, result, bindings, launches[-1].start_cycles)
            spans += [(gap, background_joules(machine, self._seconds(gap))),
                      (result.ticks, rows.measured(result.stats, result.ticks).energy_parts_joules)]  # fmt: skip
            clock += gap + result.ticks
            rp.add_stats(total, result.stats)
        launched = clock - sum(result.ticks for result in timed)
        seconds = self._seconds(clock)
        parts = {**energy_parts(machine, total, seconds), **host_joules(machine, host_bytes)}
        window = min(machine.peak_power_window_us * 1e-6, seconds)
        peak = peak_watts([(self._seconds(ticks), within_tdp(machine, used)) for ticks, used in spans], window)
        busy = rp.busy_ticks(machine, total)
        counters = total.counts
        dram = int(counters[st.DRAM_READ]), int(counters[st.DRAM_WRITTEN])
        useful = sum(operation.useful_macs for operation in operations)
        counted = [pair for each in zip(entry.launches, timed, strict=True) for pair in counters_of(*each)]
        bound = lower_bound(self.program, machine, counted, bindings)
        return rp.Report(
            machine=machine.name, entry=entry.name, dims=dict(bindings), latency_seconds=seconds,
            cycles=rp.cycles_of(clock), launch_cycles=rp.cycles_of(launched),
            tdp_watts=machine.tdp_watts, tdp_includes_dram=machine.tdp_includes_dram,
            peak_power_watts=peak, peak_window_seconds=window,
            energy_parts_joules=parts, energy_part_bands_joules=bands(machine, parts),
            launch_energy_parts_joules=background_joules(machine, self._seconds(launched)),
            utilization=rp.utilization_of(machine, total, clock),
            busy_cycles={name: value / hw.TICKS_PER_CYCLE for name, (value, _) in busy.items()},
            idle_cycles={name: (clock * count - value) / hw.TICKS_PER_CYCLE for name, (value, count) in busy.items()},
            dram_read_bytes=dram[0], dram_written_bytes=dram[1],
            sram_bytes=int(counters[st.SRAM_READ] + counters[st.SRAM_WRITTEN]), noc_bytes=int(counters[st.NOC_BYTES]),
            cache_bytes=machine.cache_bytes(self.program.bytes_of("sram")),
            cache_hit_bytes=int(counters[st.CACHE_HIT]), cache_filled_bytes=int(counters[st.CACHE_FILLED]),
            sram_hit_rate=rp.sram_hit_rate(total),
            lower_bound_seconds=bound.seconds, lower_bound_resource=bound.resource,
            lower_bounds_seconds=bound.seconds_by_resource,
            dram_bound_seconds=sum(dram) / machine.dram_deliverable_bytes_per_second,
            dram_peak_bytes_per_second=machine.dram.bytes_per_second,
            dram_deliverable_bytes_per_second=machine.dram_deliverable_bytes_per_second,
            useful_macs=useful, issued_macs=int(counters[st.ISSUED_MACS : st.ACTIVE_MACS].sum()),
            model_utilization=_model_utilization(machine, total, useful, seconds),
            instructions=int(counters[st.SCALAR_INSTRUCTIONS]), commands_by_name=rp.command_counts(total),
            host_link_seconds=host_bytes / machine.control.host_bytes_per_second,
            simulated_launches=sum(not result.reused for result in timed),
            notes=(*_index_notes(int(counters[st.ROWS_DRAWN]), indices),
                   *_notes(self.program, machine, int(counters[st.WORDS_ASSUMED])), *_power_notes(machine, peak)),
            operations=tuple(operations), launches=tuple(launches),
        )  # fmt: skip

    def _seconds(self, ticks: int) -> float:
        return ticks / hw.TICKS_PER_CYCLE / self.machine.cycles_per_second


class _Code:
    """What of a program decides how its launches run: all but the machine. The same one, not an equal one, is equal."""

    def __init__(self, program: Program) -> None:
        self._parts = (program.kernels, program.storages, program.entries)
        self._is_lenient = program.capacity_ignored

    def __hash__(self) -> int:
        return hash(tuple(map(id, self._parts)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Code) or other._is_lenient != self._is_lenient:
            return False
        return all(mine is theirs for mine, theirs in zip(self._parts, other._parts, strict=True))


def _differing_code_fields(left: Machine, right: Machine) -> list[str]:
    return [
        item.path
        for item in machine_fields()
        if item.shapes == "code" and left.value(item.path) != right.value(item.path)
    ]


def _run_all(launcher: Launcher, entry: Entry, bindings: Mapping[str, int], progress: Progress | None) -> list[Timed]:
    timed = []
    for index, launch in enumerate(entry.launches):
        timed.append(launcher.run(launch, bindings))
        if progress is not None:
            progress(index + 1, len(entry.launches))
    return timed


def _check_requirements(entry: Entry, inputs: Mapping[str, Array]) -> None:
    for name, low, high, reason, part, falls in entry.requirements:
        elements: npt.NDArray[Any] = inputs[name]
        if part:
            first, step, count, width = part
            chosen = first + step * np.arange(count)[:, None] + np.arange(width)
            elements = elements.reshape(-1)[chosen]
        if low == high == 1 and not np.all(elements == 1):
            raise SimulationError(f"input '{name}' must hold only ones: {reason}")
        outside = elements[(elements < low) | (elements > high)]
        if outside.size:
            raise SimulationError(f"input '{name}' holds {outside[0]}, which is not in {low}..{high}: {reason}")
        if falls and np.any(elements[..., 1:] > elements[..., :-1]):
            raise SimulationError(f"input '{name}' rises along its last axis: {reason}")


def _model_utilization(machine: Machine, total: st.Stats, useful_macs: int, seconds: float) -> float:
    """Useful MACs over the peak of the element types that were used, weighted by what each issued."""
    from isa.dtypes import BY_CODE

    issued = {
        BY_CODE[code].name: int(count)
        for code, count in enumerate(total.counts[st.ISSUED_MACS : st.ACTIVE_MACS])
        if count
    }
    if not issued or not seconds:
        return 0.0
    fastest = sum(count / machine.peak_macs_per_second(name) for name, count in issued.items()) / sum(issued.values())
    return useful_macs * fastest / seconds


def _index_notes(rows: int, indices: IndexDistribution | None) -> tuple[str, ...]:
    if not rows or indices is None:
        return ()
    return (f"the {rows} rows that gathers and scatters touch were drawn: {indices}, seed {SEED}",)


def _notes(program: Program, machine: Machine, words_assumed: int) -> tuple[str, ...]:
    notes = []
    if words_assumed:
        notes.append(f"{words_assumed} uses of words that cores read were taken as 0: a profile has no data")
    if program.capacity_ignored:
        notes.append("capacity was ignored: this program does not fit the memories of the machine")
    if machine.projected:
        notes.append(f"{machine.name} is a projection, not a published chip")
    return tuple(notes)


def _power_notes(machine: Machine, peak: float) -> tuple[str, ...]:
    if peak <= machine.tdp_watts:
        return ()
    return ("peak power exceeds TDP: a real chip would throttle; the frequency is not lowered",)
