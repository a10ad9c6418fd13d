"""`--quantize fp8`: rows and weights in e4m3, products summed in fp32, against NumPy and ml_dtypes bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from compiler.graph import (
    Activation,
    Constant,
    FileReference,
    LinearAttributes,
    Operation,
    QuantizeAttributes,
    Value,
)
from compiler.quantize import Quantization, quantize_weights
from compiler.round_in_linears import move_into_readers
from isa import dtypes
from isa.machine import Machine
from isa.program import Reference
from simulator import Simulator
from tests.compiler.graphs import Array, GraphWriter, compile_graph, run_graph, small_machine

Floats = npt.NDArray[np.float32]
E4M3 = ml_dtypes.float8_e4m3fn
HOST = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
MACHINES = ("mtia-300", "mtia-2i")


def able_machine(name: str, **changes: object) -> Machine:
    """Return few PEs that multiply fp8, also where the preset's cannot."""
    return small_machine(name, **{"matrix.rate_by_dtype.fp8": 1.0, **changes})


@dataclass(frozen=True)
class Case:
    """A product and what is added to it."""

    rows: int
    inputs: int
    outputs: int
    rows_are_outputs: bool = True
    bias: bool = False
    residual: bool = False
    activation: Activation | None = None
    dtype: str = "fp16"
    changes: tuple[tuple[str, object], ...] = ()


def product(case: Case) -> tuple[GraphWriter, dict[str, Array]]:
    """Return the float graph and its inputs, in the host type of the program's elements; a row of x is zero."""
    rng = np.random.default_rng(case.rows * 7919 + case.inputs)
    host = HOST[case.dtype]
    writer = GraphWriter(str(host))
    inputs: dict[str, Array] = {"x": rng.standard_normal((1, case.rows, case.inputs)).astype(host)}
    inputs["x"][0, case.rows // 2] *= 0 if case.rows > 1 else 1
    writer.input("x", inputs["x"].shape)
    weight = (rng.standard_normal((case.outputs, case.inputs)) / np.sqrt(case.inputs)).astype(np.float32)
    weight[case.outputs // 2] = 0
    writer.constant("weight", weight if case.rows_are_outputs else weight.T.copy())
    bias = writer.constant("bias", rng.standard_normal(case.outputs).astype(np.float32)) if case.bias else None
    if case.residual:
        inputs["r"] = rng.standard_normal((1, case.rows, case.outputs)).astype(host)
        writer.input("r", inputs["r"].shape)
    operands = ("x", "weight", bias, "r" if case.residual else None)
    attributes = LinearAttributes(case.rows_are_outputs, case.activation)
    writer.add("linear", operands, "y", (1, case.rows, case.outputs), attributes)
    return writer, inputs


def rounded(divided: Floats) -> Floats:
    """Return what a store in e4m3 leaves: nearest even, the ends saturate."""
    return np.clip(divided, np.float32(-448), np.float32(448)).astype(E4M3).astype(np.float32)


def row_scales(x: Floats) -> Floats:
    """Return the scale of each row; one without numbers has that of the range 1e-30."""
    return np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(1e-30)) * np.float32(1 / 448)


def by_hand(case: Case, writer: GraphWriter, inputs: dict[str, Array]) -> Floats:
    """Return the result in fp32, one rounding per step in the chip's order."""
    x = inputs["x"][0].astype(np.float32)
    weight = np.asarray(writer.constants["weight"].source)
    weight = weight if case.rows_are_outputs else weight.T
    scales, column_scales = row_scales(x), np.abs(weight).max(-1) / np.float32(448)
    a = rounded(x / scales)
    b = rounded(weight / np.where(column_scales == 0, np.float32(1), column_scales)[:, None])
    sums = np.zeros((case.rows, case.outputs), np.float32)
    for k in range(case.inputs):
        sums += a[:, k, None] * b[None, :, k]
    result = sums * scales * column_scales
    if case.bias:
        result = result + np.asarray(writer.constants["bias"].source)
    if case.residual:
        result = result + inputs["r"][0].astype(np.float32)
    return np.maximum(result, np.float32(0)) if case.activation == "relu" else result


CASES = [
    *(Case(rows, inputs, 75, dtype=dtype) for rows in (1, 37) for inputs in (40, 172) for dtype in HOST),
    Case(3, 200, 131, rows_are_outputs=False, residual=True),
    Case(70, 1000, 90, bias=True, dtype="fp32"),
    Case(2, 96, 64, bias=True, activation="relu", dtype="bf16"),
    Case(1, 2100, 333, residual=True),
    Case(100, 700, 333, residual=True, changes=(("pe.local_memory_bytes", 65536),)),
    Case(200, 2304, 700, rows_are_outputs=False, bias=True, changes=(("pe.local_memory_bytes", 98304),)),
]

WHOLE_TILES = [
    *(Case(rows, inputs, 600, residual=True, dtype=dtype)
      for rows, inputs in ((2, 33), (8, 96), (32, 300)) for dtype in ("fp32", "bf16")),
    Case(32, 1500, 333, bias=True),
]  # fmt: skip
"""Rows that a PE can hold."""


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("case", "is_own"),
    [*((case, False) for case in CASES), *((case, True) for case in (*CASES, *WHOLE_TILES) if case.rows <= 32)],
    ids=str,
)
def test_every_bit_is_that_of_numpy(case: Case, is_own: bool, machine: str) -> None:
    """Resident and streamed mappings, several trips, tails, rows and outputs of zeros; x rounded by a launch or not."""
    writer, inputs = product(case)
    graph = quantize_weights(writer.graph("y"), Quantization("fp8"))
    if is_own:
        graph = move_into_readers(graph, [op for op in graph.operations if op.kind == "quantize"])
        assert [op.kind for op in graph.operations] == ["linear"]
    result = run_graph(graph, able_machine(machine, **dict(case.changes)), inputs, case.dtype)["y"]
    expected = by_hand(case, writer, inputs).astype(HOST[case.dtype])
    np.testing.assert_array_equal(result[0], expected)
    assert np.isfinite(expected.astype(np.float32)).all() and expected.any()


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 64), (23, 40), (13, 5000)])
def test_rows_are_rounded_like_ml_dtypes(rows: int, columns: int, machine: str) -> None:
    """Numbers of all sizes, rows of zeros, of one number, of the smallest and of the largest ones of fp16."""
    rng = np.random.default_rng(rows)
    x = (rng.standard_normal((1, rows, columns)) * 2.0 ** rng.integers(-14, 8, (1, rows, columns))).astype(np.float16)
    if rows > 5:
        x[0, 1] = 0
        x[0, 2, 1:] = 0
        x[0, 3] = rng.choice([-65504, 65504, 0], columns)
        x[0, 4] = rng.choice([-(2.0**-24), 2.0**-24], columns)
    writer = GraphWriter()
    writer.input("x", x.shape)
    writer.values |= {"q": Value("q", x.shape, "float8_e4m3fn"), "s": Value("s", (1, rows, 1), "float32")}
    attributes = QuantizeAttributes("float8_e4m3fn")
    writer.operations.append(Operation("quantize", "rounding", ("x",), ("q", "s"), attributes))
    results = run_graph(writer.graph("q", "s"), able_machine(machine), {"x": x})
    wide = x.astype(np.float32)
    scales = row_scales(wide)
    np.testing.assert_array_equal(results["s"], scales)
    np.testing.assert_array_equal(results["q"].astype(np.float32), rounded(wide / scales))
    assert np.abs(results["q"].astype(np.float32)).max() == 448


def test_sigmoid_keeps_padding_zero() -> None:
    """The one activation with a tile more, on sums that are floats before they are scaled."""
    case = Case(1, 2100, 333, bias=True, activation="sigmoid")
    writer, inputs = product(case)
    graph = quantize_weights(writer.graph("y"), Quantization("fp8"))
    result = run_graph(graph, able_machine("mtia-300"), inputs)["y"][0].astype(np.float32)
    np.testing.assert_allclose(result, 1 / (1 + np.exp(-by_hand(case, writer, inputs))), atol=1e-3)


def test_weights_in_a_side_file_are_read_by_the_loader(tmp_path: Path) -> None:
    """The program refers to the file; its device bytes are those of the same weights inside the model."""
    case = Case(3, 200, 131)
    writer, inputs = product(case)
    graph = quantize_weights(writer.graph("y"), Quantization("fp8"))
    machine = able_machine("mtia-300")
    expected = Simulator(compile_graph(graph, machine)).run(inputs).outputs["y"]
    weight = np.asarray(writer.constants["weight"].source)
    path = tmp_path / "weights.bin"
    path.write_bytes(b"\0" * 64 + weight.tobytes())
    writer.constants["weight"] = Constant(
        Value("weight", weight.shape, "float32"), FileReference(path, 64, weight.nbytes)
    )
    program = compile_graph(quantize_weights(writer.graph("y"), Quantization("fp8")), machine)
    assert all(isinstance(constant.source, Reference) for constant in program.constants)
    np.testing.assert_array_equal(Simulator(program).run(inputs).outputs["y"], expected)


def test_the_largest_number_of_a_type_is_that_of_its_standard() -> None:
    largest = {dtype.name: dtype.largest for dtype in dtypes.DTYPES}
    assert (largest["int4"], largest["int8"], largest["fp8e4m3"], largest["fp8e5m2"]) == (7, 127, 448, 57344)
    assert largest["fp16"] == 65504
