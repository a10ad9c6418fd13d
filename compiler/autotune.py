"""Measuring instead of estimating: the best few mappings of each linear are timed, and the fastest one is taken.

Who compiles hands in what a program costs, usually the simulator. What came out is kept in the user's cache folder, by
a digest of all that it depends on: the sources of compiler, ISA and simulator, the machine, the linear. A file appears
complete or not at all, so any number of processes may tune at the same time; one that cannot be read is made anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from compiler.emit import emit
from compiler.graph import Graph, Operation
from compiler.linear_mapping import LinearMapping
from compiler.linear_search import ranked_mappings
from compiler.linear_shape import LinearShape
from compiler.mapping import map_graph
from compiler.placement import place
from isa.cache_folder import ROOT, cache_root, sources_digest
from isa.errors import ModelError
from isa.machine import Machine
from isa.program import Program
from isa.whole_file import replacing

CostFunction = Callable[[Program], float]
PACKAGES = ("compiler", "isa", "simulator")
"""What a measured mapping depends on."""
_PRODUCERS = ("quantize",)
"""Kinds whose results are of types that no input of a model has: a linear that reads one is timed with it."""


class Autotuner:
    """Times the `count` best mappings by `cost` (lower is better); raises ModelError for a count below 1."""

    def __init__(self, count: int, cost: CostFunction, folder: Path | None = None) -> None:
        if count < 1:
            raise ModelError(f"{count} mappings cannot be compared", where="--autotune", help="give at least 1")
        self.count, self.cost = count, cost
        self._folder = folder
        self._known: dict[str, LinearMapping] = {}

    def choose(self, shape: LinearShape, op: Operation, graph: Graph, machine: Machine, dtype: str) -> LinearMapping:
        """Return the mapping of a linear of a graph that costs least; UnsupportedError if none fits."""
        candidates = ranked_mappings(shape, machine)[: self.count]
        key = self._digest(shape, machine, dtype)
        if key not in self._known:
            index = _read(self._file(key), len(candidates))
            if index is None:
                costs = [self.cost(alone(op, graph, machine, dtype, mapping)) for mapping in candidates]
                index = costs.index(min(costs))
                _write(self._file(key), index)
            self._known[key] = candidates[index]
        return self._known[key]

    def _digest(self, shape: LinearShape, machine: Machine, dtype: str) -> str:
        parts = (_sources(), machine.code_digest, machine.timing_digest, dtype, str(self.count), repr(shape))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _file(self, key: str) -> Path | None:
        try:
            folder = self._folder or cache_root() / "mappings"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, RuntimeError):
            return None
        return folder / f"{key}.json"


@functools.cache
def _sources() -> str:
    return sources_digest(ROOT, PACKAGES, ())


def _read(path: Path | None, count: int) -> int | None:
    """Return the number of the best candidate, or None if nothing of sense is kept."""
    try:
        kept = json.loads(path.read_text()) if path else None
    except (OSError, ValueError):
        return None
    index = kept.get("best") if isinstance(kept, dict) else None
    return index if isinstance(index, int) and 0 <= index < count else None


def _write(path: Path | None, index: int) -> None:
    """Keep a number; without a place for it, it is found again next time."""
    if path is None:
        return
    try:
        with replacing(path) as file:
            file.write(json.dumps({"best": index}).encode())
    except OSError:
        return


def alone(op: Operation, graph: Graph, machine: Machine, dtype: str, mapping: LinearMapping) -> Program:
    """Return the program of one linear with a mapping; what it reads is given."""
    producers = graph.producers()
    before = [producers[name] for name in op.inputs if name in producers and producers[name].kind in _PRODUCERS]
    operations = (*{item.name: item for item in before}.values(), op)
    made = {name for item in operations for name in item.outputs}
    read = dict.fromkeys(name for item in operations for name in item.inputs if name and name not in made)
    inputs = tuple(name for name in read if name not in graph.constants)
    small = replace(
        graph,
        inputs=inputs,
        outputs=(op.outputs[0] or "",),
        operations=operations,
        symbols={},
        equalities=(),
        requirements=(),
    )
    mapped = map_graph(small, machine, dtype, choose=lambda *_: mapping)
    return emit(place(mapped, ignore_capacity=True), capacity_ignored=True)
