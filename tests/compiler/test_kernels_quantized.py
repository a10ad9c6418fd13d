"""Quantized operations on the simulator against NumPy: packed weights, int8 products, rounding, tables of integers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import pytest

import compiler.mapping
from compiler.graph import (
    Activation,
    LinearAttributes,
    Operation,
    QuantizeAttributes,
    RequantizeAttributes,
    Value,
    WeightFormat,
)
from compiler.linear_mapping import LinearMapping
from compiler.linear_search import candidates
from compiler.linear_shape import LinearShape
from compiler.quantize import Quantization, quantize_weights
from compiler.reference import run_reference
from compiler.round_in_linears import move_into_readers
from isa.machine import Machine
from tests.compiler.graphs import Array, GraphWriter, check_padding, run_graph, small_machine

TOLERANCE = {"fp32": 2e-5, "fp16": 1e-2, "bf16": 8e-2}
HOST = {"fp32": "float32", "fp16": "float16", "bf16": "float32"}


@dataclass(frozen=True)
class Case:
    """A product with a quantized weight, and what is added to it."""

    rows: int
    inputs: int
    outputs: int
    bits: int = 4
    block: int | None = 32
    zero_points: bool = False
    unsigned: bool = True
    rows_are_outputs: bool = True
    bias: bool = False
    residual: bool = False
    dtype: str = "fp16"
    activation: Activation | None = None
    changes: tuple[tuple[str, object], ...] = ()


def integers(rng: np.random.Generator, bits: int, unsigned: bool, shape: tuple[int, ...]) -> Array:
    """Return random codes of all values as an array of the ONNX type."""
    low = 0 if unsigned else -(1 << (bits - 1))
    name = f"{'u' if unsigned else ''}int{bits}"
    dtype = np.dtype(name) if bits == 8 else np.dtype(getattr(ml_dtypes, name))
    return rng.integers(low, low + (1 << bits), shape).astype(dtype)


def quantized_linear(case: Case) -> tuple[GraphWriter, dict[str, Array]]:
    """Return a graph with one linear, and inputs of unit size; results have unit size too."""
    rng = np.random.default_rng(case.rows * 7919 + case.inputs)
    writer = GraphWriter(HOST[case.dtype])
    x = rng.standard_normal((1, case.rows, case.inputs)).astype(HOST[case.dtype])
    groups = -(-case.inputs // case.block) if case.block else 1
    stored = groups * case.block if case.block else case.inputs
    weight = integers(rng, case.bits, case.unsigned, (case.outputs, stored))
    scales = rng.uniform(0.5, 1.5, (case.outputs, groups)).astype(np.float32)
    scales /= np.float32((1 << (case.bits - 2)) * np.sqrt(case.inputs))
    zero_points = integers(rng, case.bits, case.unsigned, (case.outputs, groups)) if case.zero_points else None

    def constant(name: str, array: Array | None) -> str | None:
        if array is None:
            return None
        return writer.constant(name, array if case.rows_are_outputs else np.ascontiguousarray(array.T))

    names = [constant("weight", weight), constant("scales", scales), constant("zero_points", zero_points)]
    inputs: dict[str, Array] = {"x": x}
    writer.input("x", x.shape)
    bias = writer.constant("bias", rng.standard_normal(case.outputs).astype(np.float32)) if case.bias else None
    residual = None
    if case.residual:
        inputs["r"] = rng.standard_normal((1, case.rows, case.outputs)).astype(HOST[case.dtype])
        residual = writer.input("r", inputs["r"].shape)
    attributes = LinearAttributes(case.rows_are_outputs, case.activation, WeightFormat(case.bits, case.block))
    writer.add("linear", ("x", names[0], bias, residual, *names[1:]), "y", (1, case.rows, case.outputs), attributes)
    return writer, inputs


CASES = [
    *(Case(rows, 172, 75, bits, block, zero_points, dtype=dtype)
      for rows in (1, 37)
      for bits, block, zero_points in ((4, 32, False), (4, 16, True), (8, 64, False), (8, None, True), (4, 128, True))
      for dtype in ("fp32", "fp16")),
    Case(3, 200, 131, 8, None, rows_are_outputs=False, unsigned=False, residual=True),
    Case(70, 1000, 90, 4, 32, rows_are_outputs=False, unsigned=False, bias=True, dtype="bf16"),
    Case(1, 2100, 333, 4, 32, zero_points=True, bias=True),
    Case(1, 2100, 333, 4, 32, residual=True, activation=None),
    Case(2, 96, 64, 4, 1024, bias=True, activation="relu"),
    Case(130, 640, 77, 4, 64, zero_points=True, changes=(("pe.local_memory_bytes", 49152),)),
    Case(200, 2304, 700, 4, 32, zero_points=True, changes=(("pe.local_memory_bytes", 98304),)),
    Case(5, 3000, 150, 8, 2048, unsigned=False),
]  # fmt: skip


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_packed_weights_are_expanded(case: Case, machine: str) -> None:
    """Every width and block, with K no multiple of it, zero points or none, both ways round."""
    writer, inputs = quantized_linear(case)
    graph = writer.graph("y")
    result = run_graph(graph, small_machine(machine, **dict(case.changes)), inputs, case.dtype)["y"]
    expected = run_reference(graph, inputs)["y"]
    np.testing.assert_allclose(result.astype(np.float32), expected, rtol=0, atol=TOLERANCE[case.dtype] * 2)


@pytest.mark.parametrize("expansions", [2, 4])
@pytest.mark.parametrize("bits", [4, 8])
def test_zero_points_of_parts(bits: int, expansions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that are expanded in parts find scales and zero points of each part, in three tiles of three chunks."""
    case = Case(3, 1536, 700, bits, 32, zero_points=True, bias=True)
    writer, inputs = quantized_linear(case)
    chosen: list[LinearMapping] = []

    def choose(shape: LinearShape, machine: Machine) -> LinearMapping:
        found = (item for item in candidates(shape, machine) if item.expansions == expansions)
        chosen.append(next(item for item in found if min(item.chunks, item.output_rounds) >= 3))
        return chosen[-1]

    monkeypatch.setattr(compiler.mapping, "choose_linear", choose)
    result = run_graph(writer.graph("y"), small_machine(**{"pe.local_memory_bytes": 98304}), inputs)["y"]
    expected = run_reference(writer.graph("y"), inputs)["y"]
    np.testing.assert_allclose(result.astype(np.float32), expected, rtol=0, atol=TOLERANCE[case.dtype] * 2)
    assert chosen


def scaled(case: Case) -> tuple[GraphWriter, dict[str, Array]]:
    """Return the same product with x rounded to int8."""
    writer, inputs = quantized_linear(replace(case, bits=8, block=None, zero_points=False))
    writer.values["q"] = Value("q", inputs["x"].shape, "int8")
    writer.values["s"] = Value("s", (*inputs["x"].shape[:-1], 1), "float32")
    (linear,) = writer.operations
    rounding = Operation("quantize", "rounding", ("x",), ("q", "s"), QuantizeAttributes("int8"))
    operands = ("q", *linear.inputs[1:5], None, "s")
    writer.operations[:] = [rounding, replace(linear, inputs=operands)]
    return writer, inputs


SCALED_CASES = [
    *(Case(rows, inputs, 75, dtype=dtype)
      for rows in (1, 37) for inputs in (40, 172) for dtype in ("fp32", "fp16", "bf16")),
    Case(3, 200, 131, rows_are_outputs=False, unsigned=False, residual=True),
    Case(70, 1000, 90, bias=True, dtype="fp32"),
    Case(1, 2100, 333, bias=True, activation="sigmoid"),
    Case(100, 700, 333, residual=True, changes=(("pe.local_memory_bytes", 65536),)),
]  # fmt: skip


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize("case", SCALED_CASES, ids=str)
def test_integers_are_multiplied_and_scaled_by_row_and_column(case: Case, machine: str) -> None:
    """Rounded rows meet int8 weights: sums are exact, so only the scaling and the last rounding differ."""
    writer, inputs = scaled(case)
    graph = writer.graph("y")
    result = run_graph(graph, small_machine(machine, **dict(case.changes)), inputs, case.dtype)["y"]
    device = {name: array.astype(ml_dtypes.bfloat16).astype(np.float32) for name, array in inputs.items()}
    expected = run_reference(graph, device if case.dtype == "bf16" else inputs)["y"]
    np.testing.assert_allclose(result.astype(np.float32), expected, rtol=0, atol=TOLERANCE[case.dtype])


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize(
    "case",
    [*(case for case in SCALED_CASES if case.rows <= 32), Case(7, 33, 600), Case(32, 900, 333, bias=True)],
    ids=str,
)
def test_a_linear_that_rounds_its_rows_gives_the_same_bits(case: Case, machine: str) -> None:
    """Rows, tails and blocks of zeros behind them; with garbage in local memories too."""
    writer, inputs = scaled(case)
    graph, chip = writer.graph("y"), small_machine(machine, **dict(case.changes))
    rounding, _ = graph.operations
    own = move_into_readers(graph, [rounding])
    (linear,) = own.operations
    assert linear.inputs[0] == "x" and linear.attributes.x_rounding == "int8"  # type: ignore[union-attr]
    expected = run_graph(graph, chip, inputs, case.dtype)["y"]
    np.testing.assert_array_equal(run_graph(own, chip, inputs, case.dtype)["y"], expected)
    check_padding(own, chip, inputs, case.dtype)
    both = run_reference(graph, inputs)["y"], run_reference(own, inputs)["y"]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_rows_of_zeros_and_of_very_large_numbers_survive(dtype: str) -> None:
    """A row has its own scale, whatever the others hold."""
    writer, inputs = scaled(Case(3, 72, 33, dtype=dtype))
    inputs["x"][0, 0] = 0
    inputs["x"][0, 1] *= 3000
    graph = writer.graph("y")
    result = run_graph(graph, small_machine(), inputs, dtype)["y"].astype(np.float32)
    expected = run_reference(graph, inputs)["y"]
    assert (result[0, 0] == 0).all()
    np.testing.assert_allclose(result, expected, rtol=2e-3, atol=1e-2)


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize("scheme", [Quantization("int8"), Quantization("int4", 32), Quantization("int4", 128)], ids=str)
@pytest.mark.parametrize("rows_are_outputs", [False, True])
def test_floats_are_quantized_by_the_loader(scheme: Quantization, rows_are_outputs: bool, machine: str) -> None:
    """Two linears over one x share its rounding; the results are those of NumPy's quantization."""
    rng = np.random.default_rng(5)
    writer = GraphWriter("float32")
    inputs = {"x": rng.standard_normal((2, 5, 172)).astype(np.float32)}
    writer.input("x", (2, 5, 172))
    for name, outputs in (("a", 75), ("b", 40)):
        weight = rng.standard_normal((172, outputs)).astype(np.float32) / 13
        writer.constant(f"{name}.weight", weight.T.copy() if rows_are_outputs else weight)
        operands = ("x", f"{name}.weight", None, None)
        writer.add("linear", operands, name, (2, 5, outputs), LinearAttributes(rows_are_outputs))
    graph = writer.graph("a", "b")
    exact = run_reference(graph, inputs)
    graph = quantize_weights(graph, scheme)
    assert [op.kind for op in graph.operations].count("quantize") == (1 if scheme.scheme == "int8" else 0)
    results, expected = run_graph(graph, small_machine(machine), inputs, "fp32"), run_reference(graph, inputs)
    for name in ("a", "b"):
        np.testing.assert_allclose(results[name], expected[name], rtol=0, atol=2e-5)
        error = np.abs(expected[name] - exact[name]).mean()
        assert 0 < error < (0.02 if scheme.scheme == "int8" else 0.15)


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize(
    ("bits", "block", "zero_points"), [(4, 32, True), (4, 16, False), (8, None, True), (8, 32, False)]
)
def test_rows_of_integers_are_widened(bits: int, block: int | None, zero_points: bool, machine: str) -> None:
    """Ids choose packed rows together with their scales; one row of scales may serve all."""
    rng = np.random.default_rng(bits)
    writer, columns, vocabulary = GraphWriter("float32"), 96, 50
    groups = columns // block if block else 1
    rows = vocabulary if block else 1
    writer.input("ids", (2, 11), "int64")
    writer.constant("table", integers(rng, bits, True, (vocabulary, columns)))
    writer.constant("scales", rng.uniform(0.01, 0.02, (rows, groups)).astype(np.float32))
    names = ["ids", "table", "scales", None]
    if zero_points:
        names[3] = writer.constant("zero_points", integers(rng, bits, True, (rows, groups)))
    writer.add("embedding", tuple(names), "y", (2, 11, columns), WeightFormat(bits, block))
    inputs = {"ids": rng.integers(0, vocabulary, (2, 11))}
    graph = writer.graph("y")
    result = run_graph(graph, small_machine(machine), inputs, "fp32")["y"]
    np.testing.assert_array_equal(result, run_reference(graph, inputs)["y"])


@pytest.mark.parametrize(("low", "high"), [(-128, 127), (-3, 252)])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_activations_go_through_integers(low: int, high: int, dtype: str) -> None:
    """Ties round to even, what is beyond the range saturates."""
    rng = np.random.default_rng(1)
    writer = GraphWriter(HOST[dtype])
    inputs = {"x": (rng.standard_normal((3, 7, 173)) * 4).astype(HOST[dtype])}
    inputs["x"][0, 0, :9] = np.arange(9) * 0.03125
    writer.input("x", (3, 7, 173))
    writer.add("requantize", ("x",), "y", (3, 7, 173), RequantizeAttributes(0.0625, low, high))
    graph = writer.graph("y")
    result = run_graph(graph, small_machine(), inputs, dtype)["y"]
    np.testing.assert_array_equal(result.astype(np.float32), run_reference(graph, inputs)["y"])
