"""The page everybody reads: which passes run, in which order, and why each may stand where it stands.

`FRONT` turns an imported ONNX graph into a fused graph, `BACK` turns that into a program. A pass is a name, a sentence
and a function; `requires` and `ensures` name facts of `FACTS`, which the driver checks at the door and on the way out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from compiler.emit import MODULE_BY_KIND, PLACED_KINDS, emit
from compiler.frontend import FRONT_END
from compiler.gates import fuse_gates
from compiler.graph import Graph
from compiler.keys_in_rows import read_keys_in_rows
from compiler.kinds import SUPPORTED_KINDS
from compiler.launch_merging import merge_launches
from compiler.legalize import legalize
from compiler.mapped import MappedGraph
from compiler.mapping import Choose, by_estimate, map_graph
from compiler.multipliers import fuse_multipliers
from compiler.placement import place
from compiler.quantize import Quantization, quantize_weights
from compiler.round_in_linears import round_in_linears
from compiler.row_chunks import chunk_rows
from compiler.shape_inference import bind_dims
from compiler.verify import verify
from compiler.wide_linears import widen_linears
from isa.errors import ModelError, did_you_mean
from isa.machine import Machine
from isa.program import Program

Level = Graph | MappedGraph | Program
DimRange = int | tuple[int, int]
Observer = Callable[[str, Level], None]


@dataclass(frozen=True)
class Options:
    """What a compilation is asked for: machine, element type, sizes of dims (or ranges), leniency, quantization.

    With `separate_launches` every operation has a launch of its own. `choose` finds the mapping of a linear.
    """

    machine: Machine
    dtype: str = "fp16"
    dims: Mapping[str, DimRange] = field(default_factory=dict)
    ignore_capacity: bool = False
    quantization: Quantization | None = None
    separate_launches: bool = False
    choose: Choose = by_estimate


@dataclass(frozen=True, slots=True)
class Pass:
    """One step from level to level."""

    name: str
    doc: str
    run: Callable[[Level, Options], Level]
    requires: tuple[str, ...] = ()
    ensures: tuple[str, ...] = ()


def _of_graph(step: Callable[[Graph], Graph]) -> Callable[[Level, Options], Level]:
    return lambda level, _: step(_graph(level))


def _graph(level: Level) -> Graph:
    assert isinstance(level, Graph)
    return level


def _mapped(level: Level) -> MappedGraph:
    assert isinstance(level, MappedGraph)
    return level


def _program(level: Level) -> Program:
    assert isinstance(level, Program)
    return level


FRONT = (
    Pass("bind_dims", "Give named dims their sizes; ranges stay symbols.",
         lambda level, options: bind_dims(_graph(level), options.dims)),
    *(Pass(name, doc, _of_graph(step), ensures=("fused",) if name == "check_supported" else ())
      for name, step, doc in FRONT_END),
)  # fmt: skip
"""ONNX graph -> fused graph."""

BACK = (
    Pass("quantize_weights", "Give the linears of a float model integer weights, if that is asked for.",
         lambda level, options: quantize_weights(_graph(level), options.quantization), requires=("fused",),
         ensures=("fused",)),
    Pass("fuse_gates", "Make linears that meet in a gate one with both weights.",
         lambda level, options: fuse_gates(_graph(level), options.machine, options.dtype), requires=("fused",),
         ensures=("fused",)),
    Pass("fuse_multipliers", "Let linears multiply their results by a tensor, and add another, where that is faster.",
         lambda level, options: fuse_multipliers(_graph(level), options.machine, options.dtype), requires=("fused",),
         ensures=("fused",)),
    Pass("widen_linears", "Make linears of one x one with the outputs of all, where that is faster.",
         lambda level, options: widen_linears(_graph(level), options.machine, options.dtype), requires=("fused",),
         ensures=("fused",)),
    Pass("legalize", "Split what no kernel does at once; put keys and values into caches.",
         _of_graph(legalize), requires=("fused",), ensures=("has_kernels",)),
    Pass("read_keys_in_rows", "Let attention without a past read keys and values where they are made.",
         lambda level, options: read_keys_in_rows(_graph(level), options.machine, options.dtype),
         requires=("has_kernels",), ensures=("has_kernels",)),
    Pass("round_in_linears", "Let linears round their own rows of x where that costs less than a launch.",
         lambda level, options: round_in_linears(_graph(level), options.machine, options.dtype),
         requires=("has_kernels",), ensures=("has_kernels",)),
    Pass("chunk_rows", "Work on some rows after others where SRAM has no room for all at once.",
         lambda level, options: chunk_rows(_graph(level), options.machine, options.dtype), requires=("has_kernels",),
         ensures=("has_kernels",)),
    Pass("map", "Choose tiles and PEs, a region for every value, a packing for every constant.",
         lambda level, options: map_graph(_graph(level), options.machine, options.dtype, options.choose),
         requires=("has_kernels",), ensures=("mapped",)),
    Pass("place", "Give every tensor an address in SRAM or DRAM by its live range.",
         lambda level, options: place(_mapped(level), options.ignore_capacity), requires=("mapped",),
         ensures=("placed",)),
    Pass("emit", "Build kernels and launches, describe ports and constants.",
         lambda level, options: emit(_mapped(level), options.ignore_capacity), requires=("placed",),
         ensures=("emitted",)),
    Pass("merge_launches", "Make one launch of several where starting them would show.",
         lambda level, options: _program(level) if options.separate_launches else merge_launches(_program(level)),
         requires=("emitted",), ensures=("emitted",)),
)  # fmt: skip
"""Fused graph -> program."""

FACTS: Mapping[str, Callable[[Level], bool]] = {
    "fused": lambda level: isinstance(level, Graph) and all(op.kind in SUPPORTED_KINDS for op in level.operations),
    "has_kernels": lambda level: (
        isinstance(level, Graph) and all(op.kind in (*MODULE_BY_KIND, *PLACED_KINDS) for op in level.operations)
    ),
    "mapped": lambda level: isinstance(level, MappedGraph),
    "placed": lambda level: (
        isinstance(level, MappedGraph) and all(item.address is not None for item in level.storages.values())
    ),
    "emitted": lambda level: isinstance(level, Program),
}
"""Facts that passes require and ensure."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a pass took."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """The level after the last pass, and what each pass took."""

    level: Level
    timings: tuple[Timing, ...]


def run_passes(
    passes: Sequence[Pass],
    level: Level,
    options: Options,
    *,
    observe: Observer | None = None,
    stop_after: str | None = None,
    disable: Collection[str] = (),
) -> Outcome:
    """Run passes in order, verifying after each; `observe` sees (name, level) after each pass.

    `stop_after` ends after the pass of that name; passes in `disable` are left out. An unknown name is a ModelError.
    """
    for name in (*disable, *([stop_after] if stop_after else ())):
        _check_name(name, passes)
    timings = []
    for item in passes:
        if item.name not in disable:
            start = time.perf_counter()
            _check_facts(item.name, "requires", item.requires, level)
            level = item.run(level, options)
            verify(level)
            _check_facts(item.name, "ensures", item.ensures, level)
            timings.append(Timing(item.name, time.perf_counter() - start))
            if observe is not None:
                observe(item.name, level)
        if item.name == stop_after:
            break
    return Outcome(level, tuple(timings))


def _check_name(name: str, passes: Sequence[Pass]) -> None:
    names = [item.name for item in passes]
    if name not in names:
        help = f"{did_you_mean(name, names)} passes: {', '.join(names)}".strip()
        raise ModelError(f"no pass '{name}'", where="pipeline", help=help)


def _check_facts(name: str, what: str, facts: Sequence[str], level: Level) -> None:
    for fact in facts:
        if not FACTS[fact](level):
            help = "the passes are out of order, or one that establishes it is disabled"
            raise ModelError(f"pass '{name}' {what} '{fact}', which does not hold", where="pipeline", help=help)
