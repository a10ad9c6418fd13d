"""`linear` against NumPy on the simulator: both ways to spread it, every start of the accumulators, odd sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from compiler.graph import Activation, LinearAttributes
from compiler.legalize import legalize
from compiler.linear_mapping import LinearMapping
from compiler.mapping import map_graph
from isa.machine import Machine
from isa.memory_map import BASES
from simulator import Simulator
from tests.compiler.graphs import Array, GraphWriter, compile_graph, run_graph, small_machine


@dataclass(frozen=True)
class Case:
    """A product and what it starts from."""

    rows: int
    inputs: int
    outputs: int
    bias: bool = False
    residual: bool = False
    rows_are_outputs: bool = False
    dtype: str = "fp16"
    activation: Activation | None = None


@dataclass(frozen=True)
class Problem:
    """A graph with one linear, inputs for it and the expected result in fp32."""

    writer: GraphWriter
    inputs: dict[str, Array]
    expected: Array


ACTIVATIONS: dict[Activation | None, Callable[[Array], Array]] = {
    None: lambda array: array,
    "relu": lambda array: np.maximum(array, 0),
    "sigmoid": lambda array: 1 / (1 + np.exp(-array)),
    "tanh": np.tanh,
}


def problem(case: Case) -> Problem:
    """Return random operands of unit size for a case."""
    rng = np.random.default_rng(case.rows * 7919 + case.inputs)
    host = np.dtype(np.float32 if case.dtype == "fp32" else np.float16)
    writer = GraphWriter(host.name)
    inputs = {"x": rng.standard_normal((1, case.rows, case.inputs)).astype(host)}
    writer.input("x", inputs["x"].shape)
    weight = (rng.standard_normal((case.inputs, case.outputs)) / np.sqrt(case.inputs)).astype(host)
    expected = inputs["x"].astype(np.float64) @ weight.astype(np.float64)
    writer.constant("weight", weight.T.copy() if case.rows_are_outputs else weight)
    bias = residual = None
    if case.bias:
        row = rng.standard_normal(case.outputs).astype(np.float32)
        bias = writer.constant("bias", row)
        expected = expected + row
    if case.residual:
        inputs["r"] = rng.standard_normal((1, case.rows, case.outputs)).astype(host)
        residual = writer.input("r", inputs["r"].shape)
        expected = expected + inputs["r"]
    shape = (1, case.rows, case.outputs)
    attributes = LinearAttributes(case.rows_are_outputs, case.activation)
    writer.add("linear", ("x", "weight", bias, residual), "y", shape, attributes)
    expected = ACTIVATIONS[case.activation](expected)
    return Problem(writer, inputs, expected)


def mapping_of(case: Case, machine: Machine) -> LinearMapping:
    """Return the mapping that is chosen for a case."""
    mapped = map_graph(legalize(problem(case).writer.graph("y")), machine, case.dtype)
    return mapped.linears["y_op"]


def check(case: Case, machine: Machine) -> None:
    """Run a case and compare within the rounding of the stored result, in fp32 also within that of the sums."""
    given = problem(case)
    result = run_graph(given.writer.graph("y"), machine, given.inputs, case.dtype)["y"]
    relative = {"fp16": 2**-10, "bf16": 2**-7, "fp32": 2**-23 * np.sqrt(case.inputs)}[case.dtype]
    np.testing.assert_allclose(result.astype(np.float64), given.expected, rtol=relative, atol=4 * relative)


MACHINES = ("mtia-2i", "mtia-v1")
DTYPES = ("fp16", "fp32")


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 7, 33, 70])
@pytest.mark.parametrize(("bias", "residual"), [(False, False), (True, False), (False, True), (True, True)])
def test_odd_sizes(machine: str, dtype: str, rows: int, bias: bool, residual: bool) -> None:
    """Sizes that fill no block give the product, with every start of the accumulators."""
    check(Case(rows, 172, 333, bias, residual, rows_are_outputs=residual, dtype=dtype), small_machine(machine))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(3, 1200, 1500), (301, 300, 523), (40, 32, 1)])
def test_activations(machine: str, dtype: str, activation: Activation, rows: int, inputs: int, outputs: int) -> None:
    """The activation of every result, in resident and streamed products of several tiles, is that of the sum."""
    check(Case(rows, inputs, outputs, bias=True, dtype=dtype, activation=activation), small_machine(machine))


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_an_activation_leaves_the_padding_of_rows_zero(activation: Activation) -> None:
    """What reads whole rows adds nothing: a pooled sum over a view of all columns equals that of the data."""
    given = problem(Case(5, 64, 37, activation=activation))
    weight = given.writer.constant("w2", np.eye(37, dtype=np.float16))
    given.writer.add("linear", ("y", weight, None, None), "z", (1, 5, 37), LinearAttributes(True))
    program = compile_graph(given.writer.graph("z"), small_machine())
    simulator = Simulator(program)
    simulator.run(given.inputs)
    storage = program.storage_by_name["y"]
    device = simulator._device
    assert device is not None
    start = storage.address - BASES[storage.space]
    rows = device.sram[start : start + storage.bytes].view(np.float16).reshape(5, -1)
    assert rows[:, :37].any() and not rows[:, 37:].any()


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("residual", [False, True])
def test_resident_loops(machine: str, dtype: str, residual: bool) -> None:
    """A resident product makes at least three trips in the loops over chunks and over output tiles."""
    case = Case(3, 7000 if dtype == "fp16" else 3500, 2200, residual=residual, dtype=dtype)
    mapping = mapping_of(case, small_machine(machine))
    assert mapping.resident and mapping.pe_count == 6
    assert min(mapping.chunks, mapping.output_rounds) >= 3
    check(case, small_machine(machine))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("residual", [False, True])
def test_streamed_loops(machine: str, dtype: str, residual: bool) -> None:
    """A streamed product makes at least three trips over chunks, output tiles and row tiles, with ragged last tiles."""
    case = Case(1101, 500, 900, residual=residual, dtype=dtype)
    changes = {"pe.local_memory_bytes": 98304, "accumulator.banks": 4, "simd.multiply_adds_per_cycle": 16}
    chip = small_machine(machine, **changes)
    mapping = mapping_of(case, chip)
    assert not mapping.resident and mapping.pe_count == 6
    assert min(mapping.chunks, mapping.output_rounds, mapping.row_rounds) >= 3
    assert mapping.tile_rows > chip.accumulator.rows
    check(case, chip)


@pytest.mark.parametrize(
    "case", [Case(381, 500, 500), Case(381, 500, 500, bias=True), Case(381, 500, 500, residual=True)]
)
@pytest.mark.parametrize("broadcasts", [False, True])
def test_rows_are_split_over_columns_where_that_fills_the_grid(case: Case, broadcasts: bool) -> None:
    """Twelve blocks of rows are four trips over three columns of PEs, or three over two rows with larger tiles."""
    chip = small_machine(**{"dma.broadcast_reads": broadcasts})
    mapping = mapping_of(case, chip)
    assert mapping.is_turned and (mapping.row_parts, mapping.output_parts) == (3, 2)
    check(case, chip)


@pytest.mark.parametrize("changes", [{"dma.broadcast_reads": False}, {"matrix.max_repeat_blocks": 3}])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [2, 70])
def test_machine_features_are_asked(changes: dict[str, object], dtype: str, rows: int) -> None:
    """Without broadcasts, or with a short repeat, other commands give the same product."""
    check(Case(rows, 172, 333, dtype=dtype), small_machine(**changes))


def test_fp32_uses_a_matrix_engine_that_has_it() -> None:
    """The instruction follows the machine's rate: fp32 is the matrix engine's where it has a rate for it."""
    case = Case(7, 172, 333, dtype="fp32")
    wide = small_machine(**{"matrix.rate_by_dtype.fp32": 0.5})
    assert mapping_of(case, wide).instruction == "mml"
    assert mapping_of(case, small_machine()).instruction == "vmml"
    check(case, wide)


def test_bf16() -> None:
    """The element type of a compilation is that of x, the weight and the result."""
    check(Case(7, 172, 100, dtype="bf16"), small_machine())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 70, 1101])
def test_macs_are_those_of_the_commands(rows: int, dtype: str) -> None:
    """Useful MACs are M x N x K; useful plus stated padding is what the simulator counts; fp32 keeps the DPE idle."""
    from simulator import Simulator

    machine = small_machine(**{"accumulator.banks": 4})
    program = compile_graph(problem(Case(rows, 172, 333, dtype=dtype)).writer.graph("y"), machine, dtype)
    report = Simulator(program).profile()
    assert (report.utilization["dpe"] == 0) == (dtype == "fp32")
    assert 0 < report.model_utilization <= report.utilization["se" if dtype == "fp32" else "dpe"]
    (launch,) = program.entries[0].launches
    assert launch.useful_macs == rows * 172 * 333
    assert report.issued_macs == launch.parts[0].issued_macs >= launch.useful_macs


def test_equal_tiles_share_a_kernel() -> None:
    """Layers with the same tiles run the same kernel."""
    writer = GraphWriter()
    writer.input("x", (1, 1, 64))
    for index in range(3):
        writer.constant(f"w{index}", np.zeros((64, 64), np.float16))
        source = "x" if index == 0 else f"y{index - 1}"
        writer.add("linear", (source, f"w{index}", None, None), f"y{index}", (1, 1, 64), LinearAttributes(False))
    assert len(compile_graph(writer.graph("y2"), small_machine()).kernels) == 1
