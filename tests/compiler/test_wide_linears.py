"""Linears of one x that become one: which ones do, and what they give, against the reference of the separate ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from compiler import compile_model
from compiler.graph import Constant, FileReference, Graph, LinearAttributes, PointwiseAttributes, Step
from compiler.mapping import map_graph
from compiler.pipeline import BACK, Options, run_passes
from compiler.quantize import Quantization, quantization, quantize_weights
from compiler.reference import run_reference
from compiler.shaping import MULTIPLIER
from compiler.wide_linears import widen_linears
from isa.machine import preset
from isa.program import Absent, Joined, Program
from models import build
from simulator import Simulator
from tests.compiler.graphs import Array, GraphWriter, run_graph, small_machine

SIZES = (96, 32, 64)
"""Outputs: no tile ends where one of them does."""


@dataclass(frozen=True)
class Case:
    """Three products of one x."""

    rows: int = 70
    inputs: int = 172
    bias: bool = False
    rows_are_outputs: bool = False
    weights: Quantization | None = None


def problem(case: Case) -> tuple[Graph, dict[str, Array]]:
    """Return a graph with the products as the front end leaves them, each with a reader, and inputs."""
    rng, writer = np.random.default_rng(case.rows + case.inputs), GraphWriter()
    inputs: dict[str, Array] = {"x": rng.standard_normal((1, case.rows, case.inputs)).astype(np.float16)}
    writer.input("x", inputs["x"].shape)
    for number, outputs in enumerate(SIZES):
        weight = (rng.standard_normal((outputs, case.inputs)) / np.sqrt(case.inputs)).astype(np.float16)
        writer.constant(f"w{number}", weight if case.rows_are_outputs else np.ascontiguousarray(weight.T))
        bias = writer.constant(f"b{number}", rng.standard_normal(outputs).astype(np.float32)) if case.bias else None
        attributes = LinearAttributes(case.rows_are_outputs)
        writer.add("linear", ("x", f"w{number}", bias, None), f"p{number}", (1, case.rows, outputs), attributes)
        twice = PointwiseAttributes((Step("vadd", (0, 1)),))
        writer.add("pointwise", (f"p{number}", f"p{number}"), f"y{number}", (1, case.rows, outputs), twice)
    graph = replace(writer.graph("y0"), outputs=tuple(f"y{number}" for number in range(len(SIZES))))
    return quantize_weights(graph, case.weights), inputs


def widened(graph: Graph) -> Graph:
    """Return the graph with one linear and views of its result."""
    result = widen_linears(graph, small_machine(), "fp16", only_faster=False)
    kinds = [op.kind for op in result.operations if op.kind not in ("quantize", "pointwise")]
    assert kinds == ["linear", "slice", "slice", "slice"]
    return result


@pytest.mark.parametrize("scheme", [None, "int8", "int4"])
@pytest.mark.parametrize("rows_are_outputs", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 70])
def test_values(rows: int, bias: bool, rows_are_outputs: bool, scheme: str | None) -> None:
    """The results are those of separate products, without a copy of any."""
    graph, inputs = problem(Case(rows, 192, bias, rows_are_outputs, quantization(scheme)))
    found, expected = run_graph(widened(graph), small_machine(), inputs), run_reference(graph, inputs)
    assert set(found) == {"y0", "y1", "y2"}
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=2e-2, atol=2e-2 if scheme else 8e-3)


def test_the_reference_knows_them() -> None:
    """A wide linear means what the separate ones do."""
    graph, inputs = problem(Case(bias=True))
    wide, apart = run_reference(widened(graph), inputs), run_reference(graph, inputs)
    for name, array in apart.items():
        np.testing.assert_allclose(wide[name], array, rtol=1e-5, atol=1e-5)


def test_results_are_views() -> None:
    """Nothing moves what a wide linear made."""
    graph, _ = problem(Case())
    program = run_passes(BACK, widened(graph), Options(small_machine(), separate_launches=True)).level
    assert isinstance(program, Program)
    assert [launch.operation.endswith("part") for launch in program.entries[0].launches] == [False] * 4


def test_weights_in_files(tmp_path: Path) -> None:
    """Weights that lie in a file stay there, and the program finds them."""
    graph, inputs = problem(Case())
    constants = dict(graph.constants)
    for name in ("w0", "w1", "w2"):
        array = constants[name].load()
        array.tofile(tmp_path / name)
        constants[name] = Constant(constants[name].value, FileReference(tmp_path / name, 0, array.nbytes))
    wide = widened(replace(graph, constants=constants))
    found, expected = run_graph(wide, small_machine(), inputs), run_reference(graph, inputs)
    np.testing.assert_allclose(found["y1"], expected["y1"], rtol=8e-3, atol=8e-3)
    mapped = map_graph(widened(replace(graph, constants=constants)), small_machine(), "fp16")
    assert all(isinstance(constant.source, Joined) for constant in mapped.constants)


@pytest.mark.parametrize("change", ["residual", "multiplier", "format", "result", "columns", "activation"])
def test_left_apart(change: str) -> None:
    """Products that differ, whose result is one of the graph, or that fill no aligned row stay what they are."""
    graph, _ = problem(Case(weights=quantization("int8") if change == "format" else None))
    linears = [op for op in graph.operations if op.kind == "linear"]
    odd = linears[1]
    attributes = odd.attributes
    assert isinstance(attributes, LinearAttributes)
    if change == "residual":
        odd = replace(odd, inputs=(*odd.inputs[:3], "p0", *odd.inputs[4:]))
    if change == "multiplier":
        odd = replace(odd, inputs=(*odd.inputs, *(None,) * (MULTIPLIER - len(odd.inputs)), "p0"))
    if change == "format":
        assert attributes.weight_format is not None
        odd = replace(odd, attributes=replace(attributes, weight_format=replace(attributes.weight_format, block=96)))
    if change == "activation":
        odd = replace(odd, attributes=replace(attributes, activation="relu"))
    outputs = (*graph.outputs, "p1") if change == "result" else graph.outputs
    values = dict(graph.values)
    if change == "columns":
        values["p1"] = replace(values["p1"], shape=(*values["p1"].shape[:-1], 31))
    operations = tuple(odd if op.name == odd.name else op for op in graph.operations)
    graph = replace(graph, operations=operations, outputs=outputs, values=values)
    wide = widen_linears(graph, small_machine(), "fp16", only_faster=False)
    assert sorted(op.name for op in wide.operations if op.kind == "linear") == [
        f"{linears[0].name}&{linears[2].name}",
        odd.name,
    ]


def test_only_faster_ones() -> None:
    """A prefill of few rows has q, k and v in one; where DRAM binds either way they stay apart."""
    dims = {"batch": 1, "sequence": 128, "past": 0}
    model = build("llama-3.2-1b", weights="absent")
    for machine, is_wide in (("mtia-300", True), ("mtia-2i", False)):
        program = compile_model(model, preset(machine), dims=dims, separate_launches=True)
        names = [launch.operation for launch in program.entries[0].launches]
        assert any("q_proj" in name and "v_proj" in name for name in names) == is_wide
        assert all(
            isinstance(constant.source, Absent) for constant in program.constants if "q_proj" in constant.storage
        )


def test_bits_do_not_depend_on_merging() -> None:
    """Merged launches give the bits of separate ones."""
    graph, inputs = problem(Case(bias=True))
    wide, results = widened(graph), []
    for is_separate in (False, True):
        program = run_passes(BACK, wide, Options(small_machine(), separate_launches=is_separate)).level
        assert isinstance(program, Program)
        results.append(Simulator(program).run(inputs).outputs)
    assert all(np.array_equal(results[0][name], results[1][name]) for name in results[1])
