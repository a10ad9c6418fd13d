"""Linears with a gate: which ones are made of two, and what they give, against the reference of the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import pytest

from compiler.gates import fuse_gates
from compiler.graph import (
    Activation,
    Graph,
    LinearAttributes,
    Operation,
    PointwiseAttributes,
    Step,
    Value,
    WeightFormat,
)
from compiler.legalize import legalize
from compiler.linear_mapping import LinearMapping
from compiler.mapping import map_graph
from compiler.quantize import Quantization, quantize_weights
from compiler.reference import run_reference
from isa.machine import Machine
from tests.compiler.graphs import Array, GraphWriter, check_padding, run_graph, small_machine
from tests.compiler.test_kernels_quantized import integers

HOST = {"fp32": "float32", "fp16": "float16", "bf16": "float32"}
TOLERANCE = {"fp32": 2e-5, "fp16": 4e-3, "bf16": 3e-2}
MACHINES = ("mtia-2i", "mtia-v1")


@dataclass(frozen=True)
class Case:
    """Two products of one x, and what passes one of them."""

    rows: int
    inputs: int
    outputs: int
    bias: bool = False
    gate: Activation = "silu"
    rows_are_outputs: bool = False
    dtype: str = "fp16"
    weight_format: WeightFormat | None = None
    zero_points: bool = False


def problem(case: Case) -> tuple[GraphWriter, dict[str, Array]]:
    """Return the graph of gate, factor and product as the front end leaves it, and inputs."""
    rng = np.random.default_rng(case.rows * 7919 + case.inputs)
    host = HOST[case.dtype]
    writer = GraphWriter(host)
    inputs: dict[str, Array] = {"x": rng.standard_normal((1, case.rows, case.inputs)).astype(host)}
    writer.input("x", inputs["x"].shape)
    shape = (1, case.rows, case.outputs)
    for name in ("gate", "up"):
        weight, *quantized = _weight(case, rng, writer, name)
        bias = writer.constant(f"{name}.b", rng.standard_normal(case.outputs).astype(host)) if case.bias else None
        activation = case.gate if name == "gate" and case.gate != "silu" else None
        attributes = LinearAttributes(case.rows_are_outputs, activation, case.weight_format)
        writer.add("linear", ("x", weight, bias, None, *quantized), name, shape, attributes)
    if case.gate == "silu":
        writer.add("swiglu", ("gate", "up"), "y", shape)
    else:
        writer.add("pointwise", ("up", "gate"), "y", shape, PointwiseAttributes((Step("vmul", (0, 1)),)))
    return writer, inputs


def _weight(case: Case, rng: np.random.Generator, writer: GraphWriter, name: str) -> list[str | None]:
    """Return the names of a weight and, if it is quantized, of its scales and zero points."""
    weight_format = case.weight_format

    def constant(part: str, array: Array) -> str:
        return writer.constant(f"{name}.{part}", array if case.rows_are_outputs else np.ascontiguousarray(array.T))

    if weight_format is None:
        weight = rng.standard_normal((case.outputs, case.inputs)) / np.sqrt(case.inputs)
        return [constant("w", weight.astype(HOST[case.dtype]))]
    groups = -(-case.inputs // weight_format.block) if weight_format.block else 1
    stored = groups * weight_format.block if weight_format.block else case.inputs
    scales = rng.uniform(0.5, 1.5, (case.outputs, groups)) / ((1 << (weight_format.bits - 2)) * np.sqrt(case.inputs))
    zero_points = integers(rng, weight_format.bits, True, (case.outputs, groups))
    return [
        constant("w", integers(rng, weight_format.bits, True, (case.outputs, stored))),
        constant("s", scales.astype(np.float32)),
        constant("z", zero_points) if case.zero_points else None,
    ]


def fused(graph: Graph, machine: Machine, dtype: str = "fp16") -> Graph:
    """Return the graph with its gate, which must be made."""
    result = fuse_gates(graph, machine, dtype, only_faster=False)
    assert [op.kind for op in result.operations if op.kind != "quantize"] == ["linear"]
    return result


def mapping_of(case: Case, machine: Machine) -> LinearMapping:
    """Return the mapping that is chosen for a case."""
    graph = fused(problem(case)[0].graph("y"), machine, case.dtype)
    return map_graph(legalize(graph), machine, case.dtype).linears["y_op"]


def check(
    graph: Graph, inputs: dict[str, Array], machine: Machine, dtype: str = "fp16", tolerance: float | None = None
) -> None:
    """Fuse, run and compare with what the graph meant before."""
    error = tolerance or TOLERANCE[dtype]
    result = run_graph(fused(graph, machine, dtype), machine, inputs, dtype)["y"].astype(np.float32)
    device = {name: array.astype(ml_dtypes.bfloat16).astype(np.float32) for name, array in inputs.items()}
    expected = run_reference(graph, device if dtype == "bf16" else inputs)["y"].astype(np.float32)
    np.testing.assert_allclose(result, expected, rtol=error, atol=error)
    assert np.abs(expected).max() > 0.5


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("rows", [1, 7, 33, 70])
@pytest.mark.parametrize("bias", [False, True])
def test_odd_sizes(machine: str, dtype: str, rows: int, bias: bool) -> None:
    """Sizes that fill no block give what the two products and their gate do."""
    case = Case(rows, 172, 333, bias, rows_are_outputs=bias, dtype=dtype)
    writer, inputs = problem(case)
    check(writer.graph("y"), inputs, small_machine(machine), dtype)


@pytest.mark.parametrize("gate", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("rows", [3, 301])
def test_other_gates(gate: Activation, rows: int) -> None:
    """What a linear can have as its activation can be the gate of another, on either side of the product."""
    writer, inputs = problem(Case(rows, 300, 523, gate=gate, bias=True))
    graph = writer.graph("y")
    check(graph, inputs, small_machine())
    (product,) = (op for op in graph.operations if op.kind == "pointwise")
    turned = replace(product, inputs=product.inputs[::-1])
    check(replace(graph, operations=(*graph.operations[:-1], turned)), inputs, small_machine())


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("rows", [2, 100])
def test_rows_of_the_result_end_with_zeros(dtype: str, rows: int) -> None:
    """Also where a bias or a sigmoid would leave something else."""
    for gate in ("silu", "sigmoid"):
        writer, inputs = problem(Case(rows, 64, 37, bias=True, gate=gate, dtype=dtype))  # type: ignore[arg-type]
        check_padding(fused(writer.graph("y"), small_machine(), dtype), small_machine(), inputs, dtype)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_resident_loops(machine: str, dtype: str) -> None:
    """A resident product makes at least three trips in the loops over chunks and over output tiles."""
    case = Case(3, 7000 if dtype == "fp16" else 3500, 1500, dtype=dtype)
    mapping = mapping_of(case, small_machine(machine))
    assert mapping.resident and mapping.pe_count == 6
    assert min(mapping.chunks, mapping.output_rounds) >= 3
    writer, inputs = problem(case)
    check(writer.graph("y"), inputs, small_machine(machine), dtype)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("bias", [False, True])
def test_streamed_loops(machine: str, dtype: str, bias: bool) -> None:
    """A streamed product makes at least three trips over chunks, output tiles and row tiles, with ragged last tiles."""
    case = Case(1101, 500, 500, bias, dtype=dtype)
    banks = 4 if dtype == "fp16" else 8
    changes = {"pe.local_memory_bytes": 98304, "accumulator.banks": banks, "simd.multiply_adds_per_cycle": 16}
    chip = small_machine(machine, **changes)
    mapping = mapping_of(case, chip)
    assert not mapping.resident and mapping.pe_count == 6
    assert min(mapping.chunks, mapping.output_rounds, mapping.row_rounds) >= 3
    writer, inputs = problem(case)
    check(writer.graph("y"), inputs, chip, dtype)


def test_turned() -> None:
    """Columns of PEs split the rows where that fills the grid."""
    case = Case(381, 500, 250, bias=True)
    assert mapping_of(case, small_machine()).is_turned
    writer, inputs = problem(case)
    check(writer.graph("y"), inputs, small_machine())


@pytest.mark.parametrize("changes", [{"dma.broadcast_reads": False}, {"matrix.max_repeat_blocks": 3}])
@pytest.mark.parametrize("rows", [2, 70])
def test_machine_features_are_asked(changes: dict[str, object], rows: int) -> None:
    """Without broadcasts, or with a short repeat, other commands give the same product."""
    writer, inputs = problem(Case(rows, 172, 333))
    check(writer.graph("y"), inputs, small_machine(**changes))


EXPANDED_TOLERANCE = {"fp32": 2e-5, "fp16": 1e-2}
"""Weights are rounded when they are expanded."""
FORMATS = [(4, 32, False), (4, 16, True), (8, 64, False), (8, None, True), (4, 128, True)]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize(("bits", "block", "zero_points"), FORMATS)
def test_packed_weights(machine: str, dtype: str, rows: int, bits: int, block: int | None, zero_points: bool) -> None:
    """Both weights are expanded with their own scales and zero points."""
    case = Case(
        rows, 172, 333, bias=rows > 1, dtype=dtype, weight_format=WeightFormat(bits, block), zero_points=zero_points,
        rows_are_outputs=True,
    )  # fmt: skip
    writer, inputs = problem(case)
    chip = small_machine(machine, **{"pe.local_memory_bytes": 393216})
    check(writer.graph("y"), inputs, chip, dtype, EXPANDED_TOLERANCE[dtype])


def test_packed_loops() -> None:
    """Expanded weights make several trips over everything too."""
    case = Case(200, 2304, 700, weight_format=WeightFormat(4, 32), zero_points=True)
    chip = small_machine(**{"pe.local_memory_bytes": 98304})
    mapping = mapping_of(case, chip)
    assert min(mapping.chunks, mapping.output_rounds) >= 3
    writer, inputs = problem(case)
    check(writer.graph("y"), inputs, chip, "fp16", EXPANDED_TOLERANCE["fp16"])


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("scheme", [Quantization("int8"), Quantization("int4", 32)], ids=str)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 2100, 733), (37, 172, 75), (301, 700, 333)])
@pytest.mark.parametrize("bias", [False, True])
def test_weights_that_the_loader_quantizes(
    machine: str, scheme: Quantization, rows: int, inputs: int, outputs: int, bias: bool
) -> None:
    """Also integers by integers: sums of both are scaled by row and column."""
    writer, given = problem(Case(rows, inputs, outputs, bias, rows_are_outputs=bias))
    check(quantize_weights(writer.graph("y"), scheme), given, small_machine(machine))


def test_what_is_stored_is_rounded_once() -> None:
    """The result is the nearest fp16 to the product of fp32 values, which two linears and a product miss often."""
    writer, inputs = problem(Case(40, 64, 200))
    graph, chip = writer.graph("y"), small_machine()
    exact = run_reference(graph, {"x": inputs["x"].astype(np.float64)})["y"]
    together = run_graph(fused(graph, chip), chip, inputs)["y"]
    apart = run_graph(graph, chip, inputs)["y"]
    nearest = exact.astype(np.float16)
    assert (together == nearest).mean() > 0.99 > 0.9 > (apart == nearest).mean()


def _change(change: Callable[[Operation], Operation]) -> Callable[[Graph], Graph]:
    """Change the linear `up`."""
    return lambda graph: replace(
        graph, operations=tuple(change(op) if op.outputs == ("up",) else op for op in graph.operations)
    )


def _read_twice(graph: Graph) -> Graph:
    extra = Operation("add", "other", ("up", "y"), ("z",))
    return replace(graph, operations=(*graph.operations, extra), values={**graph.values, "z": graph.values["y"]})


UNLIKE: dict[str, Callable[[Graph], Graph]] = {
    "another reader": _read_twice,
    "an output": lambda graph: replace(graph, outputs=("y", "up")),
    "another x": _change(lambda op: replace(op, inputs=("other", *op.inputs[1:]))),
    "a bias of one": _change(lambda op: replace(op, inputs=(*op.inputs[:2], "row", None))),
    "a residual": _change(lambda op: replace(op, inputs=(*op.inputs[:3], "residual"))),
    "another activation": _change(lambda op: replace(op, attributes=LinearAttributes(False, "tanh"))),
    "one linear": lambda graph: replace(
        graph, operations=(*graph.operations[:-1], replace(graph.operations[-1], inputs=("gate", "gate")))
    ),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_others_stay_apart(name: str) -> None:
    """Nothing is fused that is not a gate of two like products that nobody else reads."""
    writer, _ = problem(Case(9, 64, 64))
    writer.constant("row", np.zeros(64, np.float16))
    writer.input("residual", (1, 9, 64))
    writer.input("other", (1, 9, 64))
    graph = UNLIKE[name](writer.graph("y"))
    assert fuse_gates(graph, small_machine(), "fp16") == graph


def test_a_machine_with_one_bank_keeps_them_apart() -> None:
    """Both products need accumulators at once."""
    writer, _ = problem(Case(9, 64, 64))
    graph = writer.graph("y")
    assert fuse_gates(graph, small_machine(**{"accumulator.banks": 1}), "fp16") == graph


def test_products_of_integers_need_the_same_rounding() -> None:
    """Two linears of one x that is rounded twice are not taken for one."""
    writer, _ = problem(Case(9, 64, 64))
    graph = quantize_weights(writer.graph("y"), Quantization("int8"))
    rounding = replace(graph.operations[0], name="again", outputs=("q", "s"))
    change = _change(lambda op: replace(op, inputs=("q", *op.inputs[1:6], "s")))
    values = {**graph.values, "q": Value("q", (1, 9, 64), "int8"), "s": Value("s", (1, 9, 1), "float32")}
    graph = change(replace(graph, operations=(rounding, *graph.operations), values=values))
    assert fuse_gates(graph, small_machine(), "fp16") == graph
