"""Reductions, softmax and norms from ONNX files, against the evaluator of the onnx package; many rows on few PEs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compiler import compile_model
from isa.errors import UnsupportedError
from simulator import Simulator
from tests.compiler.graphs import small_machine

CASES: dict[str, tuple[str, tuple[int, ...], list[int] | None, dict[str, object]]] = {
    "last": ("ReduceSum", (37, 5, 33), [-1], {}),
    "first": ("ReduceMax", (5, 37, 3), [0], {"keepdims": 0}),
    "two apart": ("ReduceMean", (4, 3, 5, 21), [1, 3], {}),
    "all": ("ReduceL2", (7, 11), None, {"keepdims": 0}),
    "long rows": ("ReduceLogSumExp", (3, 5003), [1], {}),
    "softmax": ("Softmax", (29, 4, 65), None, {"axis": -1}),
    "softmax inside": ("Softmax", (3, 41, 7), None, {"axis": 1}),
    "log softmax": ("LogSoftmax", (31, 70), None, {"axis": 1}),
}


def _run(node: object, x: np.ndarray, constants: dict[str, np.ndarray], machine: str, dtype: str) -> tuple[list, list]:
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    ends = [helper.make_tensor_value_info("x", kind, x.shape)]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output]  # type: ignore[attr-defined]
    model = helper.make_model(
        helper.make_graph([node], "reduction", ends, outputs, tensors), opset_imports=[helper.make_opsetid("", 21)]
    )
    found = Simulator(compile_model(model, small_machine(machine), dtype=dtype)).run({"x": x}).outputs
    return [found[value.name] for value in outputs], ReferenceEvaluator(model).run(None, {"x": x})


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("fp16", 4e-3)])
@pytest.mark.parametrize("case", CASES)
def test_reductions(case: str, dtype: str, tolerance: float, machine: str) -> None:
    """Any axes and row lengths; sums are in fp32 in both modes, so fp16 rounds at the ends only."""
    op_type, shape, axes, attributes = CASES[case]
    constants = {} if axes is None else {"axes": np.array(axes)}
    node = helper.make_node(op_type, ["x", *constants], ["y"], **attributes)
    x = np.random.default_rng(8).standard_normal(shape).astype(np.float32)
    (found,), (expected,) = _run(node, x, constants, machine, dtype)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize(("axis", "has_bias"), [(-1, True), (1, False)])
def test_layer_norm(axis: int, has_bias: bool, machine: str) -> None:
    """Over one or several axes, with mean and reciprocal deviation as outputs."""
    x = np.random.default_rng(9).standard_normal((19, 3, 35)).astype(np.float32) + 3
    names = ["scale", "bias"] if has_bias else ["scale"]
    constants = {name: np.random.default_rng(10).random(x.shape[axis:]).astype(np.float32) for name in names}
    node = helper.make_node("LayerNormalization", ["x", *names], ["y", "mean", "deviation"], axis=axis)
    for found, expected in zip(*_run(node, x, constants, machine, "fp32"), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_rows_that_no_local_memory_holds_are_refused() -> None:
    node = helper.make_node("Softmax", ["x"], ["y"])
    with pytest.raises(UnsupportedError, match="a row of 300000 elements does not fit in local memory"):
        _run(node, np.zeros((1, 300_000), np.float32), {}, "mtia-2i", "fp32")
