"""Samplers: which points a sweep tries. What they give depends on the seed and on what they were told, on nothing else.

No sampler tries a design twice. Random and quasi-random choices are functions of the point's number, but for what takes
the place of one that was there before. Optuna's samplers are asked for a batch at a time, each by a new sampler seeded
with its number: a study that is rebuilt from a store goes on like the lost one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from isa.errors import ToolError
from isa.machine import Machine
from sweeps.points import Objective
from sweeps.space import Choice, Parameter, grid, is_active

if TYPE_CHECKING:
    import optuna

    from sweeps.sweep import Sweep

_GENERATION = "NSGAIISampler:generation"
"""Where Optuna keeps the generation of a trial."""
_SPARES = 20
"""Random choices that are tried in place of one that was there before."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a sampler hears of a point: figures of the objectives, and by how much it fails (0: all constraints hold).

    `figures` are empty for a point without any, which then fails.
    """

    choice: Choice
    figures: tuple[float, ...]
    violation: float


class Sampler(Protocol):
    """Chooses points by number; hears of all points of a batch, in order, before it is asked for the next."""

    def ask(self, first: int, count: int) -> Sequence[Choice]:
        """Return the choices of the points `first .. first + count`; fewer where the space ends."""
        ...

    def tell(self, first: int, told: Sequence[Told]) -> None:
        """Take what came of the points from `first` on: one batch, or the last part of one."""
        ...


def sampler_of(sweep: Sweep) -> Sampler:
    """Return a new sampler of the kind that the sweep wants."""
    settings, parameters = sweep.sampler, sweep.parameters
    if settings.kind == "grid":
        return Grid(sweep.base, parameters)
    untried = Untried(sweep.base, parameters, settings.seed)
    if settings.kind == "random":
        return Scattered(Random(parameters, settings.seed), untried)
    if settings.kind == "quasi_random":
        return Scattered(QuasiRandom(parameters, settings.seed), untried)
    return Learning(settings.kind, parameters, sweep.objectives, settings.seed, settings.batch, untried)


class Grid:
    """All choices in a fixed order, the last parameter's values in turn first."""

    def __init__(self, base: Machine, parameters: tuple[Parameter, ...]) -> None:
        self._base, self._parameters = base, parameters
        self._choices: Iterator[Choice] = iter(())
        self._next: int | None = None

    def ask(self, first: int, count: int) -> Sequence[Choice]:
        if self._next != first:
            self._choices = itertools.islice(grid(self._base, self._parameters), first, None)
        self._next = first + count
        return list(itertools.islice(self._choices, count))

    def tell(self, first: int, told: Sequence[Told]) -> None:
        pass


class Random:
    """Every value of a parameter equally likely, whatever the others are."""

    def __init__(self, parameters: tuple[Parameter, ...], seed: int) -> None:
        self._sizes, self._seed = [len(parameter.values) for parameter in parameters], seed

    def choices(self, first: int, count: int) -> Sequence[Choice]:
        import numpy as np

        rows = (
            np.random.default_rng((self._seed, number)).random(len(self._sizes))
            for number in range(first, first + count)
        )
        return [_choice(row.tolist(), self._sizes) for row in rows]


class QuasiRandom:
    """A Halton sequence, whose digits each dimension permutes by the seed: points that fill the space evenly.

    Halton, "On the efficiency of certain quasi-random sequences", Numerische Mathematik 2 (1960); permuted as by Owen,
    "A randomized Halton algorithm in R" (2017).
    """

    def __init__(self, parameters: tuple[Parameter, ...], seed: int) -> None:
        self._sizes, self._seed = [len(parameter.values) for parameter in parameters], seed
        self._permutations = [
            _permutations(base, (seed, index)) for index, base in enumerate(_primes(len(self._sizes)))
        ]

    def choices(self, first: int, count: int) -> Sequence[Choice]:
        rows = ([_inverse(number, digits) for digits in self._permutations] for number in range(first, first + count))
        return [_choice(row, self._sizes) for row in rows]


class Scattered:
    """Choices that do not depend on what came of others, each at most once."""

    def __init__(self, source: Random | QuasiRandom, untried: Untried) -> None:
        self._source, self._untried = source, untried

    def ask(self, first: int, count: int) -> Sequence[Choice]:
        return self._untried.of(first, self._source.choices(first, count))

    def tell(self, first: int, told: Sequence[Told]) -> None:
        self._untried.note(told)


class Untried:
    """Sees to it that no design is tried twice, and that a sweep ends when all were.

    Designs are told apart by their parameters that are active. A choice that was there before gives way to a random
    one that was not, and if none of some is new, to the first new one of the grid.
    """

    def __init__(self, base: Machine, parameters: tuple[Parameter, ...], seed: int) -> None:
        self._base, self._parameters = base, parameters
        self._spares = Random(parameters, seed)
        self._seen: set[Choice] = set()

    def note(self, told: Sequence[Told]) -> None:
        """Take what was tried."""
        self._seen |= {one.choice for one in told}

    def of(self, first: int, choices: Sequence[Choice]) -> Sequence[Choice]:
        """Return new designs for the points from `first` on, those chosen as far as they are new; fewer at the end."""
        seen, found = set(self._seen), list[Choice]()
        rest = grid(self._base, self._parameters)  # what it has passed is seen
        for number, choice in enumerate(choices, first):
            candidates = itertools.chain(self._at_random(number, choice), rest)
            new = next((one for one in candidates if one not in seen), None)
            if new is None:
                break
            found.append(new)
            seen.add(new)
        return found

    def _at_random(self, number: int, choice: Choice) -> Iterator[Choice]:
        yield self._active(choice)
        yield from map(self._active, self._spares.choices(number * _SPARES, _SPARES))

    def _active(self, choice: Choice) -> Choice:
        """Return a choice with the first value, as in the grid, for every parameter that is not active in it."""
        kept: Choice = ()
        for index in choice:
            kept += (index if is_active(self._base, self._parameters, kept) else 0,)
        return kept


_LEAST_FRACTION = 2.0**-32


def _permutations(base: int, seed: tuple[int, int]) -> list[list[int]]:
    """Return a permutation of the digits for each place that matters in 32 bits."""
    import numpy as np

    generator = np.random.default_rng(seed)
    places = math.ceil(32 / math.log2(base))
    return [generator.permutation(base).tolist() for _ in range(places)]


def _inverse(number: int, permutations: list[list[int]]) -> float:
    """Return the digits of a number, permuted and mirrored at the point, in [0, 1)."""
    base = len(permutations[0])
    fraction, scale = 0.0, 1.0
    for digits in permutations:
        scale /= base
        number, digit = divmod(number, base)
        fraction += digits[digit] * scale
    return min(fraction, 1.0 - _LEAST_FRACTION)


def _primes(count: int) -> list[int]:
    found: list[int] = []
    for number in itertools.count(2):
        if len(found) == count:
            return found
        if all(number % prime for prime in found):
            found.append(number)
    raise AssertionError


def _choice(row: Sequence[float], sizes: Sequence[int]) -> Choice:
    return tuple(min(int(share * size), size - 1) for share, size in zip(row, sizes, strict=True))


class Learning:
    """Optuna's NSGA-II or TPE through ask and tell, with a study in memory.

    A generation of NSGA-II is a batch. Points without figures count as failing constraints: every batch stays whole.
    """

    def __init__(
        self, kind: str, parameters: tuple[Parameter, ...], objectives: tuple[Objective, ...], seed: int, batch: int,
        untried: Untried,
    ) -> None:  # fmt: skip
        optuna = _optuna()
        self._kind, self._seed, self._batch = kind, seed, batch
        self._labels = [parameter.label for parameter in parameters]
        self._distributions: dict[str, Any] = {
            parameter.label: optuna.distributions.IntDistribution(0, len(parameter.values) - 1)
            if parameter.is_ordered
            else optuna.distributions.CategoricalDistribution(range(len(parameter.values)))
            for parameter in parameters
        }
        self._objectives = len(objectives)
        self._untried = untried
        directions = [objective.goal for objective in objectives]
        self._study = optuna.create_study(directions=directions, sampler=self._sampler(0))

    def ask(self, first: int, count: int) -> Sequence[Choice]:
        failed = _optuna().trial.TrialState.FAIL
        self._study.sampler = self._sampler(first // self._batch)
        trials = [self._study.ask(self._distributions) for _ in range(count)]
        for trial in trials:  # what is told comes back as finished trials: those of a store and those of now alike
            self._study.tell(trial, state=failed)
        return self._untried.of(first, [tuple(int(trial.params[label]) for label in self._labels) for trial in trials])

    def tell(self, first: int, told: Sequence[Told]) -> None:
        optuna = _optuna()
        self._untried.note(told)
        for offset, one in enumerate(told):
            attributes = {_GENERATION: (first + offset) // self._batch} if self._kind == "nsga2" else {}
            self._study.add_trial(
                optuna.trial.create_trial(
                    params=dict(zip(self._labels, one.choice, strict=True)), distributions=self._distributions,
                    values=one.figures or [0.0] * self._objectives, system_attrs=attributes,
                    constraints={"all": one.violation},
                )
            )  # fmt: skip

    def _sampler(self, batch: int) -> optuna.samplers.BaseSampler:
        from optuna.samplers import NSGAIISampler, TPESampler

        seed = (self._seed * 1_000_003 + batch) % 2**32
        if self._kind == "nsga2":
            return NSGAIISampler(population_size=self._batch, seed=seed)
        return TPESampler(n_startup_trials=self._batch, seed=seed)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ToolError("this sampler needs optuna", help="pip install tilewright[sweeps]") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
