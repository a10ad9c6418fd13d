"""The cost by which mappings of linears are chosen, against the simulator."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest

from benchmarks.validate import product
from compiler import compile_model
from compiler.graph import Graph
from compiler.linear_cost import cycles
from compiler.linear_mapping import LinearMapping
from compiler.linear_search import candidates, choose_linear
from compiler.linear_shape import LinearShape
from compiler.mapped import MappedGraph
from compiler.onnx_import import import_model
from compiler.pipeline import BACK, FRONT, Options, run_passes
from compiler.quantize import quantization
from isa.dtypes import FP16
from isa.machine import preset
from isa.program import Program
from models import build
from simulator import Simulator
from simulator.report import Report

PHASES: dict[str, tuple[int, int]] = {"prefill": (512, 0), "decode": (1, 2048)}


@cache
def _model() -> Graph:
    return import_model(build("llama-3-8b", weights="absent", dtype="float16"), None, "llama-3-8b")


@cache
def _timed(phase: str, scheme: str | None, group_size: int | None) -> tuple[MappedGraph, Report]:
    """Return Llama-3-8B mapped for 2i, and its profile."""
    sequence, past = PHASES[phase]
    dims = {"batch": 1, "sequence": sequence, "past": past}
    weights = quantization(scheme, group_size)
    options = Options(preset("mtia-2i"), "fp16", dims, quantization=weights, separate_launches=True)
    levels: list[MappedGraph] = []

    def observe(name: str, level: object) -> None:
        if isinstance(level, MappedGraph):
            levels.append(level)

    program = run_passes((*FRONT, *BACK), _model(), options, observe=observe).level
    assert isinstance(program, Program)
    return levels[-1], Simulator(program).profile()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("scheme", [(None, None), ("int8", None), ("int4", 32), ("int4", 64), ("int4", 128)], ids=str)
def test_the_estimate_is_that_of_the_simulator(phase: str, scheme: tuple[str | None, int | None]) -> None:
    """For every linear of a full-size model within 5 %."""
    mapped, report = _timed(phase, *scheme)
    took = {operation.operation: operation.cycles for operation in report.operations}
    ratios = {str(mapping): cycles(mapping, mapped.machine) / took[name] for name, mapping in mapped.linears.items()}
    assert len(ratios) >= 4
    for mapping, ratio in ratios.items():
        assert ratio == pytest.approx(1, abs=0.05), mapping


def test_larger_groups_do_not_slow_a_prefill() -> None:
    """The matrix engine binds: what a block of scales allows for chunks must not cost more than a fraction of it."""
    finest, *usual = (_timed("prefill", "int4", group_size)[1].latency_seconds for group_size in (16, 32, 64, 128, 256))
    assert all(larger < 1.003 * smaller for smaller, larger in pairwise(usual))
    assert 0.999 * usual[0] < finest < 1.015 * usual[0]  # 0.625 bytes per weight, not 0.5625


@pytest.mark.parametrize("name", ["mtia-v1", "mtia-2i", "mtia-300", "hbm-concept"])
@pytest.mark.parametrize(
    ("rows", "outputs", "inputs"), [(512, 512, 512), (512, 512, 1024), (1024, 1024, 1024), (2000, 3000, 1000)]
)
def test_products_of_two_computed_matrices_cost_what_they_take(name: str, rows: int, outputs: int, inputs: int) -> None:
    """Both operands in SRAM, the second one turned on the way in: within 5 % of the simulator."""
    machine = preset(name)
    shape = LinearShape(rows, inputs, outputs, FP16, FP16, False, False, factor="columns")
    report = Simulator(compile_model(product(rows, outputs, inputs, weights=False), machine)).profile()
    (operation,) = report.operations
    assert cycles(choose_linear(shape, machine), machine) / operation.cycles == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("slots", [2, 3, 4])
def test_pes_that_go_in_step_wait_for_channels_that_are_refreshed(slots: int) -> None:
    """With few slots the way of a chunk decides, and so does a refresh somewhere: within 5 % of the simulator."""
    machine = preset("mtia-300")

    def choose(shape: LinearShape, *_: object) -> LinearMapping:
        found = (
            mapping for mapping in candidates(shape, machine)
            if (mapping.way, mapping.tile_rows, mapping.tile_outputs, mapping.chunk_inputs) == ("flat", 192, 32, 64)
        )  # fmt: skip
        return replace(next(found), x_slots=slots, weight_slots=slots)

    levels: list[MappedGraph] = []

    def observe(name: str, level: object) -> None:
        if isinstance(level, MappedGraph):
            levels.append(level)

    graph = import_model(product(192, 2048, 2048, weights=True), None, "product")
    program = run_passes((*FRONT, *BACK), graph, Options(machine, choose=choose), observe=observe).level
    assert isinstance(program, Program)
    (mapping,) = levels[-1].linears.values()
    assert not mapping.streams_constants  # there x comes in order with the weight
    assert cycles(mapping, machine) == pytest.approx(Simulator(program).profile().operations[0].cycles, rel=0.05)
