"""Movement of the long tail from ONNX files: against the evaluator of the onnx package; ids may move too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compiler import compile_model
from simulator import Simulator
from tests.compiler.graphs import small_machine

SHAPE = (3, 5, 7, 2)
CASES: dict[str, tuple[str, list[object], dict[str, object], int]] = {
    "reshape": ("Reshape", [[6, -1, 7]], {}, 1),
    "flatten": ("Flatten", [], {"axis": 2}, 1),
    "unsqueeze": ("Unsqueeze", [[0, 3]], {}, 1),
    "transpose": ("Transpose", [], {"perm": [2, 0, 3, 1]}, 1),
    "reverse axes": ("Transpose", [], {}, 1),
    "expand": ("Expand", [[2, 3, 5, 7, 2]], {}, 1),
    "steps": ("Slice", [[4, 6], [-9, 0], [1, 2], [-2, -3]], {}, 1),
    "inside": ("Slice", [[1], [-1], [2]], {}, 1),
    "split": ("Split", [[1, 4, 2]], {"axis": 2}, 3),
    "uneven split": ("Split", [], {"axis": 1, "num_outputs": 2}, 2),
    "tile": ("Tile", [[1, 2, 1, 3]], {}, 1),
}


def _model(nodes: list[onnx.NodeProto], arrays: dict[str, object], inputs: dict[str, np.ndarray]) -> onnx.ModelProto:
    described = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in nodes[-1].output]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "movement", described, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize("case", CASES)
def test_elements_go_where_onnx_says(case: str, machine: str) -> None:
    """Any rank, steps backwards, uneven parts; results are the same bits."""
    op_type, arrays, attributes, count = CASES[case]
    constants = {f"c{index}": np.asarray(array, np.int64) for index, array in enumerate(arrays)}
    node = helper.make_node(op_type, ["x", *constants], [f"y{index}" for index in range(count)], **attributes)
    x = np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32)
    model = _model([node], constants, {"x": x})
    expected = ReferenceEvaluator(model).run(None, {"x": x})
    outputs = Simulator(compile_model(model, small_machine(machine), dtype="fp32")).run({"x": x}).outputs
    for name, array in zip(node.output, expected, strict=True):
        np.testing.assert_array_equal(outputs[name], array)


@pytest.mark.parametrize("also_output", [False, True])
def test_ids_may_be_moved_before_they_choose_rows(also_output: bool) -> None:
    """Batch above 1: transposed ids, and ids that something else reads too, choose the right rows."""
    table = np.random.default_rng(4).standard_normal((11, 6)).astype(np.float32)
    ids = np.random.default_rng(5).integers(0, 11, (3, 4))
    nodes = [
        helper.make_node("Transpose", ["ids"], ["turned"], perm=[1, 0]),
        helper.make_node("Gather", ["table", "ids" if also_output else "turned"], ["y"]),
    ]
    model = _model(nodes, {"table": table}, {"ids": ids})
    if also_output:
        model.graph.output.append(helper.make_tensor_value_info("turned", TensorProto.INT64, None))
    outputs = Simulator(compile_model(model, small_machine(), dtype="fp32")).run({"ids": ids}).outputs
    np.testing.assert_array_equal(outputs["y"], table[ids if also_output else ids.T])


def test_an_output_may_be_a_copy_of_an_input() -> None:
    """It has memory of its own."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    model = _model([helper.make_node("Identity", ["x"], ["y"])], {}, {"x": x})
    outputs = Simulator(compile_model(model, small_machine(), dtype="fp32")).run({"x": x}).outputs
    np.testing.assert_array_equal(outputs["y"], x)


def test_constants_mean_what_they_meant_in_the_opset_of_the_file() -> None:
    """DFT without an axis transforms axis 1 up to opset 19, the last but one since; the onnx package folds it."""
    signal = np.random.default_rng(6).standard_normal((1, 4, 3, 1)).astype(np.float32)
    nodes = [helper.make_node("DFT", ["signal"], ["waves"]), helper.make_node("Add", ["x", "waves"], ["y"])]
    x = np.random.default_rng(7).standard_normal((1, 4, 3, 2)).astype(np.float32)
    model = _model(nodes, {"signal": signal}, {"x": x})
    model.opset_import[0].version = 17
    outputs = Simulator(compile_model(model, small_machine(), dtype="fp32")).run({"x": x}).outputs
    waves = np.fft.fft(signal[..., 0], axis=1)
    np.testing.assert_allclose(outputs["y"], x + np.stack([waves.real, waves.imag], -1), atol=1e-5)


def test_ids_that_the_model_computes_read_rows_that_are_there() -> None:
    """Nobody can check them before a run: what is out of range reads the nearest row."""
    nodes = [helper.make_node("Add", ["ids", "ids"], ["more"]), helper.make_node("Gather", ["table", "more"], ["y"])]
    table, ids = np.arange(66, dtype=np.float32).reshape(11, 6), np.array([[0, 5, -1], [6, -5, 99]])
    model = _model(nodes, {"table": table}, {"ids": ids})
    outputs = Simulator(compile_model(model, small_machine(), dtype="fp32")).run({"ids": ids}).outputs
    np.testing.assert_array_equal(outputs["y"], table[[[0, 10, 9], [10, 1, 10]]])
