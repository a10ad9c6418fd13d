"""Pooled embeddings of both PyTorch exporters, and other spellings, fuse and run as ONNX Runtime does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.emit import emit
from compiler.frontend import fuse_model
from compiler.graph import EmbeddingBagAttributes, Graph
from compiler.legalize import legalize
from compiler.mapping import map_graph
from compiler.onnx_import import import_model
from compiler.placement import place
from isa.errors import SimulationError, ToolError
from isa.program import Program
from simulator import Simulator
from tests.compiler.graphs import Array, small_machine

DATA = Path(__file__).parent.parent / "data"


def _fused(model: onnx.ModelProto, dims: Mapping[str, int] | None = None) -> Graph:
    return fuse_model(import_model(model, None, "test"), dims or {})


def _compiled(graph: Graph) -> Program:
    return emit(place(map_graph(legalize(graph), small_machine(), "fp32")))


def _check(model: onnx.ModelProto, inputs: Mapping[str, Array], dims: Mapping[str, int] | None = None) -> Graph:
    """Fuse, run in fp32, and compare with ONNX Runtime."""
    graph = _fused(model, dims)
    results = Simulator(_compiled(graph)).run(inputs).outputs
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, dict(inputs))
    for output, array in zip(model.graph.output, expected, strict=True):
        np.testing.assert_allclose(results[output.name], array, rtol=1e-6, atol=1e-6)
    return graph


def _kinds(graph: Graph) -> list[str]:
    return [operation.kind for operation in graph.operations]


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_loops_of_exporters(exporter: str, mode: str) -> None:
    """nn.EmbeddingBag is a Loop with If and sequences from one exporter, a Loop with a trip count from the other."""
    model = onnx.load(DATA / f"embedding_bag_{mode}_{exporter}.onnx")
    indices = np.random.default_rng(1).integers(0, 20, (6, 3))
    assert _kinds(_check(model, {"indices": indices})) == ["embedding_bag"]


def _model(
    nodes: list[onnx.NodeProto], shape: tuple[int | str, ...], outputs: Mapping[str, int], **arrays: Array
) -> onnx.ModelProto:
    table = np.random.default_rng(0).standard_normal((40, 24)).astype(np.float32)
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in {"t": table, **arrays}.items()]
    graph = helper.make_graph(
        nodes,
        "bags",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in outputs.items()],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


NODE = helper.make_node
ONE, ZERO, LAST = np.array([1]), np.array([0]), np.array([-2])
SPELLINGS = {
    "rows of the input": (
        [NODE("Gather", ["t", "ids"], ["r"]), NODE("ReduceSum", ["r", "one"], ["y"], keepdims=0)], (7, 5), 2,
    ),
    "kept axis, mean, counted from the end": (
        [NODE("Gather", ["t", "ids"], ["r"]), NODE("ReduceMean", ["r", "last"], ["y"], keepdims=1)], (7, 5), 3,
    ),
    "one of several tables, last": (
        [NODE("Slice", ["ids", "two", "three", "last"], ["s"]), NODE("Squeeze", ["s", "one"], ["i"]),
         NODE("Gather", ["t", "i"], ["r"]), NODE("ReduceSum", ["r", "one"], ["y"], keepdims=0)], (7, 3, 5), 2,
    ),
    "one of several tables, first, flat and weighted with ones": (
        [NODE("Split", ["ids"], ["a", "b"], axis=0, num_outputs=2), NODE("Reshape", ["b", "flat"], ["i"]),
         NODE("Gather", ["t", "i"], ["g"]), NODE("Mul", ["ones", "g"], ["w"]), NODE("Reshape", ["w", "bags"], ["r"]),
         NODE("ReduceSum", ["r", "one"], ["y"], keepdims=0)], (2, 7, 5), 2,
    ),
    "one index for each of several tables": (
        [NODE("Gather", ["ids", "index"], ["i"], axis=1), NODE("Gather", ["t", "i"], ["y"])], (9, 4), 2,
    ),
    "a row of indices without bags": ([NODE("Gather", ["t", "ids"], ["y"])], (9,), 2),
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling: str) -> None:
    nodes, shape, rank = SPELLINGS[spelling]
    model = _model(
        nodes, shape, {"y": rank}, one=ONE, last=LAST, two=np.array([2]), three=np.array([3]), flat=np.array([-1]),
        ones=np.ones((35, 1), np.float32), bags=np.array([7, 5, -1]), index=np.array(1),
    )  # fmt: skip
    indices = np.random.default_rng(1).integers(0, 40, shape)
    assert _kinds(_check(model, {"ids": indices})) == ["embedding_bag"]


def _with_input(model: onnx.ModelProto, name: str, shape: tuple[int, ...]) -> None:
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _weighted_by_exporter(exporter: str) -> onnx.ModelProto:
    """Return nn.EmbeddingBag with per_sample_weights [18, 1] as an exporter writes it: a factor of each row."""
    model = onnx.load(DATA / f"embedding_bag_sum_{exporter}.onnx")
    if exporter == "dynamo":
        (factor,) = [node.input[1] for node in model.graph.node if node.op_type == "Mul"]
        (ones,) = [tensor for tensor in model.graph.initializer if tensor.name == factor]
        model.graph.initializer.remove(ones)
        _with_input(model, factor, (18, 1))
        return model
    (loop,) = [node for node in model.graph.node if node.op_type == "Loop"]
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    (rows,) = [node for node in body.node if node.op_type == "ReduceSum"]
    (indices,) = [node for node in body.node if node.op_type == "Slice"]
    place = list(body.node).index(rows)
    body.node.insert(place, NODE("Slice", ["factors", *indices.input[1:]], ["bag_factors"]))
    body.node.insert(place + 1, NODE("Mul", [rows.input[0], "bag_factors"], ["weighted_rows"]))
    body.node[place + 2].input[0] = "weighted_rows"
    _with_input(model, "factors", (18, 1))
    return model


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_loops_of_exporters_with_weights_per_sample(exporter: str) -> None:
    """Rows are looked up one by one, multiplied, and then added up; the indices of all bags are one row of them."""
    model = _weighted_by_exporter(exporter)
    rng = np.random.default_rng(1)
    inputs = {"indices": rng.integers(0, 20, (6, 3)), model.graph.input[1].name: rng.random((18, 1), np.float32)}
    graph = _check(model, inputs)
    (bags,) = (operation for operation in graph.operations if operation.kind == "embedding_bag")
    assert isinstance(bags.attributes, EmbeddingBagAttributes) and bags.attributes.tables[0].hot == 1
    inputs["indices"][4, 1] = 20
    with pytest.raises(SimulationError, match=r"indices.*20.*they choose rows of the table"):
        Simulator(_compiled(graph)).run(inputs)


@pytest.mark.parametrize("is_constant", [False, True])
def test_weights_per_sample(is_constant: bool) -> None:
    """As nodes without a loop, with weights from an input and from the file."""
    rng = np.random.default_rng(2)
    weights, indices = rng.random((7, 5), np.float32), rng.integers(0, 40, (7, 5))
    nodes = [
        NODE("Gather", ["t", "ids"], ["r"]), NODE("Unsqueeze", ["weights", "two"], ["u"]),
        NODE("Mul", ["r", "u"], ["w"]), NODE("ReduceSum", ["w", "one"], ["y"], keepdims=0),
    ]  # fmt: skip
    constants = {"weights": weights} if is_constant else {}
    model = _model(nodes, (7, 5), {"y": 2}, one=ONE, two=np.array([2]), **constants)
    inputs = {"ids": indices}
    if not is_constant:
        _with_input(model, "weights", (7, 5))
        inputs["weights"] = weights
    assert _kinds(_check(model, inputs)).count("embedding") == 1


def test_indices_that_are_computed_are_not_taken_for_moved_ones() -> None:
    """Reading the input's own elements would be wrong: the offsets would be lost."""
    nodes = [NODE("Add", ["ids", "two"], ["i"]), NODE("Gather", ["t", "i"], ["r"]),
             NODE("ReduceSum", ["r", "one"], ["y"], keepdims=0)]  # fmt: skip
    model = _model(nodes, (7, 5), {"y": 2}, one=ONE, two=np.array([2]))
    assert "embedding_bag" not in _kinds(_fused(model))


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_offsets_that_are_data_are_refused(exporter: str) -> None:
    """Bags whose sizes depend on data keep their Loop, and the error names it."""
    model = onnx.load(DATA / f"embedding_bag_sum_{exporter}.onnx")
    names = {name for node in model.graph.node for name in node.output} | {x.name for x in model.graph.initializer}
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    offsets = next(
        name for node in body.node for name in node.input if name in names and node.op_type in ("Slice", "Gather")
    )
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            node.output[index] = "unused" if name == offsets else name
    for tensor in model.graph.initializer:
        tensor.name = "unused" if tensor.name == offsets else tensor.name
    model.graph.input.append(helper.make_tensor_value_info(offsets, TensorProto.INT64, [7]))
    with pytest.raises(ToolError, match="Loop"):
        _fused(model)
