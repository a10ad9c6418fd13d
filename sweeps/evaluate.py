"""Evaluating a machine: compile each workload for it, leave out what cannot win, simulate the rest.

Everything goes in and out as plain values, so that it may happen in any process on any computer. What is wrong with a
machine or a model is a result (`infeasible`), and so is an error of ours (`failed`): neither ends a sweep.
"""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from isa.cache_folder import ROOT, sources_digest
from isa.errors import ToolError
from isa.machine import Machine
from sweeps.cost_assumptions import cost_assumptions
from sweeps.figures import MEASURES, figures_of, is_dominated, machine_figures, vector
from sweeps.points import Objective
from sweeps.workloads import Workload, compiler_of

if TYPE_CHECKING:
    from isa.program import Program
    from simulator.launcher import Timings
    from simulator.report import Report

PACKAGES = ("isa", "compiler", "simulator", "models")
"""Packages whose sources decide what a run measures."""
_OWN_SOURCES = ("evaluate.py", "workloads.py")
KEPT_TIMINGS = 32
"""Runs of which is kept what launches took, for points that differ in energy only."""
RunStatus = Literal["ok", "infeasible", "failed"]
BOUND_OF: Mapping[str, str] = {measure: f"bound_{measure}" for measure in MEASURES}
"""By measure, the name under which a run keeps what it was bound to before: who discards asks that alone."""
Measures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Run:
    """A workload to run, and the key of its result."""

    key: str
    workload: Workload


@dataclass(frozen=True, slots=True)
class DiscardRule:
    """What the bounds of a point must not be dominated by, and how bounds become figures."""

    objectives: tuple[Objective, ...]
    workloads: tuple[Workload, ...]
    front: tuple[tuple[float, ...], ...]
    cost: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """A machine with what is still to be run on it; `known` are the measures of its other workloads by name.

    Without a `rule` nothing is discarded.
    """

    number: int
    version: str
    machine: Mapping[str, Any]
    runs: tuple[Run, ...]
    known: Mapping[str, Measures] = field(default_factory=dict)
    rule: DiscardRule | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a run: measures and limit if it is ok, else the reason; `detail` is a traceback of ours."""

    key: str
    status: RunStatus
    reason: str = ""
    detail: str = ""
    measures: Measures = field(default_factory=dict)
    limit: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task: results of its runs as far as they were needed, or the figures that discarded it.

    `crash` says that the workers died on it, each time.
    """

    number: int
    results: tuple[RunResult, ...] = ()
    discarded: Mapping[str, float] | None = None
    crash: str = ""


class WrongVersionError(ToolError):
    """A worker with other sources than those of the sweep: its results would not be those of this version."""


@functools.cache
def tool_version() -> str:
    """Return the digest of all sources that decide what a run measures."""
    own = [(ROOT / __package__ / name).read_text(encoding="utf-8") for name in _OWN_SOURCES]
    return sources_digest(ROOT, PACKAGES, own)


def evaluate(task: Task) -> Outcome:
    """Run a task in this process."""
    if task.version != tool_version():
        raise WrongVersionError(
            f"a worker has version {tool_version()[:12]}, the sweep is of version {task.version[:12]}",
            help="install the same version for all workers",
        )
    machine = Machine.from_dict(task.machine)
    compiled: list[tuple[Run, Program, Measures]] = []
    for run in task.runs:
        program = _compiled(run, machine)
        if isinstance(program, RunResult):
            return Outcome(task.number, (program,))
        compiled.append((run, program, _bounds(program)))
    if task.rule is not None:
        known = {name: {measure: measures[bound] for measure, bound in BOUND_OF.items()}
                 for name, measures in task.known.items()}  # fmt: skip
        bounds = _bound_figures(machine, known | {run.workload.name: bound for run, _, bound in compiled}, task.rule)
        if is_dominated(vector(task.rule.objectives, bounds), task.rule.front):
            return Outcome(task.number, discarded=bounds)
    return Outcome(task.number, tuple(_simulated(*one) for one in compiled))


def _compiled(run: Run, machine: Machine) -> Program | RunResult:
    """Return the program, or why there is none for this machine; ToolError if the model itself is wrong or gone."""
    try:
        compiler = compiler_of(run.workload)
    except ToolError:
        raise
    except Exception as error:
        return _failure(run, error)
    try:
        return compiler.program(machine)
    except ToolError as error:
        return RunResult(run.key, "infeasible", one_line(error))
    except Exception as error:
        return _failure(run, error)


def _failure(run: Run, error: Exception) -> RunResult:
    return RunResult(run.key, "failed", f"{type(error).__name__}: {error}", traceback.format_exc())


def one_line(error: ToolError) -> str:
    """Return what an error says without its help, on one line."""
    first = f"{error.where}: {error.what}" if error.where else error.what
    return " ".join(first.split())


def _bounds(program: Program) -> Measures:
    from simulator.early_bounds import early_bound

    bound = early_bound(program)
    return {
        "latency_seconds": bound.latency_seconds, "energy_joules": bound.energy_joules,
        "average_watts": bound.average_power_watts, "peak_watts": bound.peak_power_watts,
    }  # fmt: skip


def _bound_figures(machine: Machine, measures: Mapping[str, Measures], rule: DiscardRule) -> dict[str, float]:
    assumptions = cost_assumptions(rule.cost)
    return figures_of(machine, machine_figures(machine, assumptions), rule.workloads, measures, assumptions)


def _simulated(run: Run, program: Program, bounds: Measures) -> RunResult:
    from simulator.simulator import Simulator

    start = time.perf_counter()
    try:
        report = Simulator(program, timings=_timings()).profile(indices=run.workload.indices)
    except ToolError as error:
        return RunResult(run.key, "infeasible", one_line(error))
    except Exception as error:
        return _failure(run, error)
    seconds = time.perf_counter() - start
    measures = _measures(report) | {BOUND_OF[measure]: value for measure, value in bounds.items()}
    return RunResult(run.key, "ok", measures=measures, limit=_limit(report), seconds=seconds)


@functools.cache
def _timings() -> Timings:
    from simulator.launcher import Timings

    return Timings(KEPT_TIMINGS)


def _measures(report: Report) -> dict[str, float]:
    return {
        "latency_seconds": report.latency_seconds,
        "energy_joules": report.energy_joules,
        "average_watts": report.average_power_watts,
        "peak_watts": report.peak_power_watts,
        "lower_bound_seconds": report.lower_bound_seconds,
        "launch_share": report.launch_cycles / report.cycles if report.cycles else 0.0,
        "model_utilization": report.model_utilization,
        "dram_bytes": float(report.dram_bytes),
        "sram_bytes": float(report.sram_bytes),
        "sram_hit_rate": report.sram_hit_rate,
        "useful_macs": float(report.useful_macs),
        **{f"utilization_{name}": share for name, share in report.utilization.items()},
    }


_LIMITS = {"dpe": "matrix engines", "issue": "command issue", "sram": "SRAM bandwidth", "dram": "DRAM bandwidth"}


def _limit(report: Report) -> str:
    """Return what takes the largest part of the time: a resource by its lower bound, or starting launches."""
    latency = report.latency_seconds or 1.0
    shares = {_LIMITS[name]: seconds / latency for name, seconds in report.lower_bounds_seconds.items()}
    shares["starting launches"] = report.launch_cycles / report.cycles if report.cycles else 0.0
    name = max(shares, key=lambda key: shares[key])
    return f"{name} ({shares[name] * 100:.0f} % of the time)"
