"""Running a sweep: ask the sampler for a batch, evaluate it anywhere, keep every result, tell the sampler, again.

The table of a sweep depends on its file and the tool's version, not on how many workers there are, how often it was
interrupted, or what else is in the store: what is asked and what is discarded depends only on the batches before, of
which all points are known by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sweeps.candidates import Candidate, Judge
from sweeps.evaluate import DiscardRule, Outcome, Run, RunResult, Task, tool_version
from sweeps.executors import Executor
from sweeps.figures import are_bounded, is_dominated, vector
from sweeps.pareto import front
from sweeps.points import BASELINE_NUMBER
from sweeps.samplers import Sampler, Told, sampler_of
from sweeps.space import Choice, plain
from sweeps.store import Store, StoredPoint, StoredRun
from sweeps.sweep import Sweep


@dataclass(frozen=True, slots=True)
class Advance:
    """Where a sweep stands: points known, how many there will be (None: not known), and runs of now.

    `acknowledged` are the keys of runs that were committed since the last time.
    """

    done: int
    total: int | None
    computed: int
    front: int
    seconds: float
    acknowledged: tuple[str, ...] = ()


Observer = Callable[[Advance], None]


class Coordinator:
    """A sweep on an open store; `run` may end at any instant, in any way, and is gone on with by another one."""

    def __init__(self, sweep: Sweep, store: Store, executor: Executor, observe: Observer = lambda _: None) -> None:
        self._sweep, self._store, self._executor, self._observe = sweep, store, executor, observe
        self._judge = Judge(sweep)
        self._stored = store.sweep(sweep.name, sweep.digest, tool_version(), sweep.definition, sweep.total)
        self._points: dict[int, StoredPoint] = {}
        self._front: list[tuple[float, ...]] = []
        self._recent: list[tuple[float, ...]] = []
        self._total, self._computed, self._start = sweep.total, 0, time.monotonic()

    def run(self) -> None:
        """Evaluate the base machine and all points of the budget, as far as they are not in the store."""
        self._points = {point.row.number: point for point in self._store.points(self._stored)}
        self._say()
        if BASELINE_NUMBER not in self._points:
            self._evaluate([self._judge.baseline(BASELINE_NUMBER)])
        sampler, first = sampler_of(self._sweep), 0
        while not self._is_over(first):
            wanted = self._wanted(first)
            asked = self._asked(sampler, first, wanted)
            self._bring(first, asked)
            done = [self._points[number] for number in range(first, first + len(asked))]
            sampler.tell(first, [self._told(point) for point in done])
            self._extend_front(done)
            self._say()
            first += len(asked)
            if len(asked) < wanted:
                return

    def _wanted(self, first: int) -> int:
        size, points = self._sweep.sampler.batch, self._sweep.budget.points
        return size if points is None else min(size, points - first)

    def _asked(self, sampler: Sampler, first: int, wanted: int) -> Sequence[Choice]:
        """Return the choices of the next points; for a batch that is complete in the store, those in it."""
        stored = [self._points[number] for number in range(first, first + wanted) if number in self._points]
        return [point.choice for point in stored] if len(stored) == wanted else sampler.ask(first, wanted)

    def _is_over(self, first: int) -> bool:
        budget = self._sweep.budget
        if budget.points is not None and first >= budget.points:
            return True
        return budget.hours is not None and time.monotonic() - self._start > budget.hours * 3600

    def _told(self, point: StoredPoint) -> Told:
        figures = tuple(point.row.figures[one.name] for one in self._sweep.objectives) if point.row.figures else ()
        return Told(point.choice, figures, point.violation)

    def _extend_front(self, points: Sequence[StoredPoint]) -> None:
        self._front = _front_of([*self._front, *self._vectors(points)])
        self._recent = []

    def _vectors(self, points: Sequence[StoredPoint]) -> list[tuple[float, ...]]:
        objectives, ok = self._sweep.objectives, [point.row for point in points if point.row.status == "ok"]
        return [vector(objectives, row.figures) for row in ok if row.number != BASELINE_NUMBER]

    def _bring(self, first: int, asked: Sequence[Choice]) -> None:
        """Bring the points of these choices into the store."""
        missing = [(number, choice) for number, choice in enumerate(asked, first) if number not in self._points]
        found = [self._judge.candidate(number, choice) for number, choice in missing]
        self._keep(points=[one for one in found if isinstance(one, StoredPoint)])
        self._evaluate([one for one in found if isinstance(one, Candidate)])

    def _evaluate(self, candidates: Sequence[Candidate]) -> None:
        """Evaluate what the store does not know; candidates with equal machines are evaluated once."""
        groups: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            groups.setdefault(candidate.digest, []).append(candidate)
        tasks: list[Task] = []
        waiting: list[tuple[list[Candidate], dict[str, RunResult]]] = []
        for group in groups.values():
            known = self._store.known_runs(list(group[0].keys.values()))
            outcome = self._known_outcome(group[0], known)
            if outcome is not None:
                self._keep(points=[self._judge.point(one, known, outcome) for one in group])
            else:
                tasks.append(self._task(len(tasks), group[0], known))
                waiting.append((group, known))
        for outcome in self._outcomes(tasks):
            group, known = waiting[outcome.number]
            self._settle(outcome, group, known)
            self._say(tuple(result.key for result in outcome.results))

    def _outcomes(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        return self._executor.run(tasks) if tasks else iter(())

    def _known_outcome(self, candidate: Candidate, known: dict[str, RunResult]) -> Outcome | None:
        """Return what would come of evaluating a candidate if the store says so: the table is that of an empty one."""
        if any(result.status != "ok" for result in known.values()):
            return Outcome(0)
        if len(known) < len(candidate.keys):
            return None
        bounds = self._judge.bound_figures(candidate, known)
        is_dominated_by_bounds = is_dominated(vector(self._sweep.objectives, bounds), self._front)
        return Outcome(0, discarded=bounds if self._may_discard(candidate) and is_dominated_by_bounds else None)

    def _may_discard(self, candidate: Candidate) -> bool:
        is_wanted = self._sweep.sampler.discard and are_bounded(self._sweep.objectives)
        return is_wanted and bool(self._front) and candidate.number != BASELINE_NUMBER

    def _task(self, number: int, candidate: Candidate, known: dict[str, RunResult]) -> Task:
        workloads = self._sweep.workloads
        missing = [workload for workload in workloads if candidate.keys[workload.name] not in known]
        measures = {name: known[key].measures for name, key in candidate.keys.items() if key in known}
        rule = DiscardRule(self._sweep.objectives, workloads, tuple(self._front), self._sweep.cost)
        return Task(
            number, tool_version(), plain(candidate.machine),
            tuple(Run(candidate.keys[workload.name], workload) for workload in missing), measures,
            rule if self._may_discard(candidate) else None,
        )  # fmt: skip

    def _settle(self, outcome: Outcome, group: Sequence[Candidate], known: dict[str, RunResult]) -> None:
        """Keep the results of a task with the points that they decide, in one transaction."""
        workload_of = {key: name for name, key in group[0].keys.items()}
        workloads = {workload.name: workload.key for workload in self._sweep.workloads}
        results = known | {result.key: result for result in outcome.results}
        runs = [StoredRun(group[0].digest, workloads[workload_of[result.key]], tool_version(), result)
                for result in outcome.results]  # fmt: skip
        self._computed += len(runs)
        self._keep(runs, [self._judge.point(one, results, outcome) for one in group], group[0])

    def _keep(
        self, runs: Sequence[StoredRun] = (), points: Sequence[StoredPoint] = (), candidate: Candidate | None = None
    ) -> None:
        if runs or points:
            machines = {candidate.digest: plain(candidate.machine)} if candidate is not None else {}
            self._store.record(self._stored, machines, runs, points)
            self._points |= {point.row.number: point for point in points}
            self._recent += self._vectors(points)

    def _say(self, acknowledged: tuple[str, ...] = ()) -> None:
        done = len(self._points) - (BASELINE_NUMBER in self._points)
        seconds = time.monotonic() - self._start
        size = len(_front_of([*self._front, *self._recent])) if self._recent else len(self._front)
        self._observe(Advance(done, self._total, self._computed, size, seconds, acknowledged))


def _front_of(rows: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    import numpy as np

    return [rows[int(index)] for index in front(np.array(rows))] if rows else []
