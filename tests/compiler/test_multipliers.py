"""Linears that multiply their results: which ones are made, and what they give, against the reference of the parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from compiler import fuse_model
from compiler.emit import emit
from compiler.graph import Activation, Graph, LinearAttributes, Operation, PointwiseAttributes, Step
from compiler.legalize import legalize
from compiler.mapping import map_graph
from compiler.multipliers import fuse_multipliers
from compiler.placement import place
from compiler.quantize import Quantization, quantize_weights
from compiler.reference import run_reference
from compiler.shaping import MULTIPLIER, RESIDUAL, input_at
from isa.machine import Machine, preset
from simulator import Simulator
from tests.compiler.graphs import Array, GraphWriter, check_padding, run_graph, small_machine

HOST = {"fp32": "float32", "fp16": "float16", "bf16": "float32"}
TOLERANCE = {"fp32": 2e-5, "fp16": 4e-3, "bf16": 3e-2}
MACHINES = ("mtia-2i", "mtia-v1", "mtia-300", "hbm-concept")
PRODUCT, SUM = (PointwiseAttributes((Step(name, (0, 1)),)) for name in ("vmul", "vadd"))


@dataclass(frozen=True)
class Case:
    """A linear, what its result is multiplied by, and what is added to that."""

    shape: tuple[int, ...]
    inputs: int
    outputs: int
    bias: bool = True
    activation: Activation | None = None
    residual: bool = True
    turned: bool = False
    """The linear's result is the second operand of the product, and this of the sum."""
    dtype: str = "fp16"


def problem(case: Case) -> tuple[GraphWriter, dict[str, Array]]:
    """Return the graph as the front end leaves it, and inputs of unit size."""
    rng, host = np.random.default_rng(case.inputs * 7919 + case.outputs), HOST[case.dtype]
    writer, inputs, shape = GraphWriter(host), dict[str, Array](), (*case.shape, case.outputs)
    for name, columns in (("x", case.inputs), ("m", case.outputs), ("r", case.outputs)):
        if name != "r" or case.residual:
            inputs[name] = rng.standard_normal((*case.shape, columns)).astype(host)
            writer.input(name, inputs[name].shape)
    writer.constant("w", (rng.standard_normal((case.inputs, case.outputs)) / np.sqrt(case.inputs)).astype(host))
    bias = writer.constant("b", rng.standard_normal(case.outputs).astype(host)) if case.bias else None
    order = -1 if case.turned else 1
    writer.add("linear", ("x", "w", bias, None), "sums", shape, LinearAttributes(False, case.activation))
    writer.add("pointwise", ("sums", "m")[::order], "product" if case.residual else "y", shape, PRODUCT)
    if case.residual:
        writer.add("pointwise", ("product", "r")[::order], "y", shape, SUM)
    return writer, inputs


def fused(graph: Graph, machine: Machine, dtype: str = "fp16") -> Graph:
    """Return the graph with a multiplier, which must be made."""
    result = fuse_multipliers(graph, machine, dtype, only_faster=False)
    assert [op.kind for op in result.operations] == ["linear"]
    return result


def check(case: Case, machine: Machine) -> None:
    """Fuse, run and compare with what the graph meant before."""
    writer, inputs = problem(case)
    graph = writer.graph("y")
    expected = run_reference(graph, inputs)["y"]
    one, tolerance = fused(graph, machine, case.dtype), TOLERANCE[case.dtype]
    np.testing.assert_allclose(run_reference(one, inputs)["y"], expected, rtol=1e-6, atol=1e-6)
    result = run_graph(one, machine, inputs, case.dtype)["y"].astype(np.float64)
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)
    check_padding(one, machine, inputs, case.dtype)


@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        Case, st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple), st.integers(1, 300), st.integers(1, 300),
        st.booleans(), st.sampled_from([None, "relu", "sigmoid", "tanh"]), st.booleans(), st.booleans(),
        st.sampled_from(["fp16", "bf16", "fp32"]),
    ),
    st.sampled_from(MACHINES),
)  # fmt: skip
def test_any_shape(case: Case, machine: str) -> None:
    """Every rank, odd sizes, both orders of operands: sums, product and sum on every kind of chip."""
    check(case, small_machine(machine))


@pytest.mark.parametrize(
    ("machine", "residual", "dtype"),
    [*((name, True, "fp16") for name in MACHINES), ("mtia-2i", False, "bf16"), ("mtia-v1", True, "fp32")],
)
def test_several_trips(machine: str, residual: bool, dtype: str) -> None:
    """Loops over chunks, tiles of outputs and of rows make three trips, with ragged last tiles."""
    case = Case((1101,), 500, 600, residual=residual, dtype=dtype)
    changes = {"pe.local_memory_bytes": 131072, "accumulator.banks": 4, "simd.multiply_adds_per_cycle": 16}
    chip = small_machine(machine, **changes)
    mapping = map_graph(fused(problem(case)[0].graph("y"), chip, dtype), chip, dtype).linears["y_op"]
    assert min(mapping.chunks, mapping.output_rounds, mapping.row_rounds) >= 3 and mapping.tile_rows > 1
    check(case, chip)


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("machine", MACHINES)
def test_few_rows(machine: str, rows: int) -> None:
    """A resident x makes three trips over chunks and tiles of outputs."""
    case, chip = Case((1, rows), 2100, 1500), small_machine(machine, **{"accumulator.banks": 2})
    mapping = map_graph(fused(problem(case)[0].graph("y"), chip), chip, "fp16").linears["y_op"]
    assert mapping.resident and min(mapping.chunks, mapping.output_rounds) >= 3
    check(case, chip)


def test_what_is_stored_is_rounded_once() -> None:
    """The result is the nearest fp16 to that of fp32 values, which three operations miss often."""
    writer, inputs = problem(Case((40,), 64, 200))
    graph, chip = writer.graph("y"), small_machine()
    nearest = run_reference(graph, {name: one.astype(np.float64) for name, one in inputs.items()})["y"]
    together, apart = (run_graph(one, chip, inputs)["y"] for one in (fused(graph, chip), graph))
    nearest = nearest.astype(np.float16)
    assert (together == nearest).mean() > 0.99 > 0.9 > (apart == nearest).mean()


@pytest.mark.parametrize("batch", [1, 5, 70])
@pytest.mark.parametrize("machine", MACHINES)
def test_a_layer_that_crosses_features(machine: str, batch: int) -> None:
    """Of x0 * (U V x + b) + x only two linears are left, also where x is x0; results lie where x lay."""
    chip = small_machine(machine)
    graph = fuse_model(models.build("dlrm-dcnv2-tiny", 5), dims={"batch": batch})
    rng = np.random.default_rng(batch)
    given = {
        name: rng.integers(0, 3, value.shape) if "indices" in name else rng.standard_normal(value.shape).astype("f2")
        for name in graph.inputs if (value := graph.values[name])
    }  # fmt: skip
    crossed = fuse_multipliers(graph, chip, "fp16", only_faster=False)
    assert not [op for op in crossed.operations if op.kind == "pointwise"]
    found = [op for op in crossed.operations if input_at(op, MULTIPLIER)]
    assert [input_at(op, MULTIPLIER) for op in found] == ["features"] * 2
    assert [input_at(op, RESIDUAL) for op in found] == ["features", "cross.0.sum"]
    program = emit(place(map_graph(legalize(crossed), chip, "fp16")))
    places = {storage.name: storage.address for storage in program.storages}
    assert places["cross.0.sum"] == places["cross.1.sum"]
    result = Simulator(program).run(given).outputs["probability"]
    np.testing.assert_allclose(result, run_reference(graph, given)["probability"], rtol=0, atol=1e-2)


def test_products_of_two_linears_take_the_later_one() -> None:
    """The other one's result is the multiplier; a sum of two such products is the residual of one of them."""
    writer, rng = GraphWriter(), np.random.default_rng(0)
    writer.input("x", (9, 64))
    writer.input("z", (9, 48))
    given = {"x": rng.standard_normal((9, 64)).astype("f2"), "z": rng.standard_normal((9, 48)).astype("f2")}
    for name, source, inputs in (("a", "x", 64), ("b", "z", 48), ("c", "x", 64), ("d", "z", 48)):
        writer.constant(f"w_{name}", (rng.standard_normal((64, inputs)) / 8).astype(np.float16))
        writer.add("linear", (source, f"w_{name}", None, None), name, (9, 64), LinearAttributes(True))
    writer.add("pointwise", ("b", "a"), "left", (9, 64), PRODUCT)
    writer.add("pointwise", ("c", "d"), "right", (9, 64), PRODUCT)
    writer.add("add", ("right", "left"), "y", (9, 64))
    graph, chip = writer.graph("y"), small_machine()
    one = fuse_multipliers(graph, chip, "fp16", only_faster=False)
    assert [(op.kind, op.inputs[:1], input_at(op, MULTIPLIER), input_at(op, RESIDUAL)) for op in one.operations] == [
        ("linear", ("x",), None, None), ("linear", ("x",), None, None), ("linear", ("z",), "c", None),
        ("linear", ("z",), "a", "right"),
    ]  # fmt: skip
    expected = run_reference(graph, given)["y"]
    np.testing.assert_allclose(run_graph(one, chip, given)["y"], expected, rtol=4e-3, atol=4e-3)


def _changed(result: str, **changes: object) -> Callable[[Graph], Graph]:
    """Change the operation that makes a value."""
    return lambda graph: replace(
        graph, operations=tuple(replace(op, **changes) if op.outputs == (result,) else op for op in graph.operations)
    )


def _of_row(graph: Graph, name: str) -> Graph:
    return replace(graph, values={**graph.values, name: replace(graph.values[name], shape=(1, 64))})


def _read_twice(graph: Graph, name: str) -> Graph:
    extra = Operation("add", "other", (name, "y"), ("z",))
    return replace(
        graph, operations=(*graph.operations, extra), values={**graph.values, "z": graph.values["y"]}, outputs=("z",)
    )


WHOLLY_APART: dict[str, Callable[[Graph], Graph]] = {
    "another reader": lambda graph: _read_twice(graph, "sums"),
    "an output": lambda graph: replace(graph, outputs=("y", "sums")),
    "a factor that is broadcast": lambda graph: _of_row(graph, "m"),
    "a constant factor": _changed("product", inputs=("sums", "constant")),
    "a square": _changed("product", inputs=("sums", "sums")),
    "a residual before it": _changed("sums", inputs=("x", "w", "b", "r")),
    "another function": _changed("product", attributes=PointwiseAttributes((Step("vmax", (0, 1)),))),
    "a longer recipe": _changed(
        "product", attributes=PointwiseAttributes((Step("vmul", (0, 1)), Step("vmul", (2, 1))))
    ),
    "operands of a byte": lambda graph: quantize_weights(graph, Quantization("int8")),
}  # fmt: skip
WITHOUT_RESIDUAL: dict[str, Callable[[Graph], Graph]] = {
    "another reader of the product": lambda graph: _read_twice(graph, "product"),
    "a product that is an output": lambda graph: replace(graph, outputs=("y", "product")),
    "a residual that is broadcast": lambda graph: _of_row(graph, "r"),
    "a constant residual": _changed("y", inputs=("product", "constant")),
    "twice the product": _changed("y", inputs=("product", "product")),
    "a difference": _changed("y", attributes=PointwiseAttributes((Step("vsub", (0, 1)),))),
}


def _graph(change: Callable[[Graph], Graph]) -> Graph:
    writer, _ = problem(Case((9,), 64, 64))
    writer.constant("constant", np.ones((9, 64), np.float16))
    return change(writer.graph("y"))


@pytest.mark.parametrize("name", WHOLLY_APART)
def test_others_stay_apart(name: str) -> None:
    graph = _graph(WHOLLY_APART[name])
    assert fuse_multipliers(graph, small_machine(), "fp16", only_faster=False).operations == graph.operations


@pytest.mark.parametrize("name", WITHOUT_RESIDUAL)
def test_others_are_only_multiplied(name: str) -> None:
    result = fuse_multipliers(_graph(WITHOUT_RESIDUAL[name]), small_machine(), "fp16", only_faster=False)
    linear, addition, *_ = result.operations
    assert (linear.outputs, input_at(linear, MULTIPLIER), input_at(linear, RESIDUAL)) == (("product",), "m", None)
    assert addition.outputs == ("y",) and addition.kind == "pointwise"


def test_what_is_slower_stays_apart() -> None:
    """Where local memory has no room for chunks of a useful length beside what results meet, three operations win."""
    graph = problem(Case((2048,), 512, 3456))[0].graph("y")
    chip = preset("mtia-2i")
    assert len(fuse_multipliers(graph, chip, "fp16").operations) == 1
    narrow = chip.with_changes({"pe.local_memory_bytes": 24576, "control.launch_replace_ns": 0})
    assert len(fuse_multipliers(graph, narrow, "fp16").operations) == 3
