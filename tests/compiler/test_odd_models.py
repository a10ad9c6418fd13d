"""Small models in which forms that fuse stand in odd surroundings: results against ONNX Runtime or NumPy.

Their intermediate values are outputs too, rows stand alone, indices are computed, heads are narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from compiler import compile_model
from isa.machine import Machine
from simulator import Simulator
from tests.compiler.graphs import Array, small_machine

NODE = helper.make_node
TOKENS, WIDTH, HEADS = 5, 16, 4


def _floats(*shape: int, seed: int = 1) -> Array:
    return (np.random.default_rng(seed).integers(-64, 65, shape) / 64).astype(np.float32)


def _weights(**shapes: tuple[int, ...]) -> dict[str, Array]:
    return {name: _floats(*shape, seed=place) / 4 for place, (name, shape) in enumerate(shapes.items())}


def _model(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Array], constants: Mapping[str, Array], outputs: Sequence[str]
) -> onnx.ModelProto:
    for place, node in enumerate(nodes):
        node.name = f"{node.op_type}_{place}"
    ends = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    graph = helper.make_graph(
        nodes, "odd", ends, [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def _check(
    model: onnx.ModelProto, inputs: Mapping[str, Array], machine: Machine | None = None, tolerance: float = 1e-5
) -> None:
    """Compare all outputs with those of ONNX Runtime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, dict(inputs))
    found = Simulator(compile_model(model, machine or small_machine(), dtype="fp32")).run(inputs).outputs
    for item, array in zip(session.get_outputs(), expected, strict=True):
        np.testing.assert_allclose(found[item.name], array, rtol=tolerance, atol=tolerance, err_msg=item.name)


def _attention_nodes() -> list[onnx.NodeProto]:
    """Attention as torch exports it, with the weights `p` of the values on the way."""
    nodes = [NODE("MatMul", ["x", f"w{name}"], [f"{name}0"]) for name in "qkv"]
    for name, order in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))):
        nodes += [
            NODE("Reshape", [f"{name}0", "split"], [f"{name}1"]), NODE("Transpose", [f"{name}1"], [name], perm=order)
        ]  # fmt: skip
    nodes += [NODE("MatMul", ["q", "k"], ["s"]), NODE("Softmax", ["s"], ["p"]), NODE("MatMul", ["p", "v"], ["o"])]
    return [*nodes, NODE("Transpose", ["o"], ["o1"], perm=(0, 2, 1, 3)), NODE("Reshape", ["o1", "merge"], ["y"])]


def test_the_weights_of_an_attention_are_an_output() -> None:
    """As `output_attentions` has it: two operations must not have the name of one."""
    constants = _weights(wq=(WIDTH, WIDTH), wk=(WIDTH, WIDTH), wv=(WIDTH, WIDTH))
    constants |= {"split": np.array([0, 0, HEADS, WIDTH // HEADS]), "merge": np.array([0, 0, WIDTH])}
    inputs = {"x": _floats(2, TOKENS, WIDTH)}
    _check(_model(_attention_nodes(), inputs, constants, ["p", "y"]), inputs)


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_narrow_heads_at_the_end_of_memory(tokens: int, machine: str) -> None:
    """Heads of 16 bytes are padded to blocks of 32; behind the last one there is nothing to read."""
    constants, inputs = _weights(wq=(WIDTH, WIDTH), wk=(WIDTH, 8), wv=(WIDTH, 8)), {"x": _floats(2, tokens, WIDTH)}
    inputs |= {name: _floats(2, 2, 2, 4, seed=seed) for seed, name in enumerate(("pk", "pv"))}
    nodes = [NODE("MatMul", ["x", f"w{name}"], [name]) for name in "qkv"] + [NODE("Relu", ["q"], ["r"])]
    ends = {"q_num_heads": HEADS, "kv_num_heads": 2}
    attention = NODE("Attention", ["r", "k", "v", "", "pk", "pv"], ["y", "nk", "nv"], **ends)
    _check(_model([*nodes, attention], inputs, constants, ["r", "y"]), inputs, small_machine(machine))


def test_a_mask_of_flags_per_head() -> None:
    """It is no padding of keys, so the attention does not fuse; its sizes are known, so it runs all the same."""
    constants = _weights(wq=(WIDTH, WIDTH), wk=(WIDTH, WIDTH), wv=(WIDTH, WIDTH))
    mask = np.random.default_rng(0).random((2, HEADS, TOKENS, TOKENS)) < 0.6
    mask[..., 0] = True
    inputs = {"x": _floats(2, TOKENS, WIDTH), "mask": mask}
    nodes = [NODE("MatMul", ["x", f"w{name}"], [name]) for name in "qkv"]
    attention = NODE("Attention", ["q", "k", "v", "mask"], ["y"], q_num_heads=HEADS, kv_num_heads=HEADS)
    _check(_model([*nodes, attention], inputs, constants, ["y"]), inputs)


def test_a_mask_of_the_tokens_that_are_pooled() -> None:
    """The softmax is over the tokens, an axis that is not the last."""
    flags = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    inputs, constants = {"x": _floats(2, TOKENS, WIDTH), "flags": flags}, _weights(w=(WIDTH, 1))
    constants |= {"last": np.array([-1]), "large": np.array(-1e4, np.float32), "one": np.array(1, np.float32)}
    nodes = [
        NODE("MatMul", ["x", "w"], ["s"]), NODE("Cast", ["flags"], ["f"], to=onnx.TensorProto.FLOAT),
        NODE("Unsqueeze", ["f", "last"], ["f1"]), NODE("Sub", ["one", "f1"], ["f2"]),
        NODE("Mul", ["f2", "large"], ["m"]), NODE("Add", ["s", "m"], ["t"]), NODE("Softmax", ["t"], ["y"], axis=1),
    ]  # fmt: skip
    _check(_model(nodes, inputs, constants, ["y"]), inputs)


def test_ids_are_no_mask_of_what_they_choose() -> None:
    """A softmax over the width of chosen rows has nothing to do with the number of ids."""
    inputs = {"ids": np.array([[3, 1, 4, 1, 5]])}
    nodes = [NODE("Gather", ["table", "ids"], ["r"]), NODE("Softmax", ["r"], ["y"])]
    _check(_model(nodes, inputs, _weights(table=(9, WIDTH)), ["y"]), inputs)


def test_rows_of_a_table_at_computed_places() -> None:
    """What a model computes is not checked before a run, and reads the nearest row."""
    inputs = {"x": _floats(3, 9)}
    nodes = [NODE("ArgMax", ["x"], ["i"], axis=-1, keepdims=0), NODE("Gather", ["table", "i"], ["y"])]
    _check(_model(nodes, inputs, _weights(table=(9, WIDTH)), ["y"]), inputs)


@pytest.mark.parametrize("after", ["Relu", "Sigmoid"])
def test_a_constant_row_is_added_to_a_single_row(after: str) -> None:
    """Its shape is that of the result: still it is no residual, which is computed."""
    inputs = {"x": _floats(1, WIDTH)}
    nodes = [NODE("MatMul", ["x", "w"], ["h"]), NODE("Add", ["row", "h"], ["s"]), NODE(after, ["s"], ["y"])]
    _check(_model(nodes, inputs, _weights(w=(WIDTH, 3), row=(1, 3)), ["y"]), inputs)


def test_an_output_that_nothing_reads() -> None:
    """The first of two is left out, which ONNX Runtime does not allow."""
    inputs = {"x": _floats(3, 9) + np.arange(9, dtype=np.float32) / 1024}
    model = _model([NODE("TopK", ["x", "k"], ["", "i"])], inputs, {"k": np.array([2])}, ["i"])
    found = Simulator(compile_model(model, small_machine(), dtype="fp32")).run(inputs).outputs["i"]
    np.testing.assert_array_equal(found, np.argsort(-inputs["x"])[:, :2])


def test_a_zero_point_that_stands_for_a_relu() -> None:
    """Operands of a product of activations stay unrounded, but not what the rounding cuts off."""
    inputs = {"x": _floats(2, TOKENS, WIDTH)}
    constants = {"scale": np.array(1 / 255, np.float32), "zero": np.array(0, np.uint8)}
    nodes = [
        NODE("Transpose", ["x"], ["t"], perm=(0, 2, 1)), NODE("QuantizeLinear", ["t", "scale", "zero"], ["q"]),
        NODE("DequantizeLinear", ["q", "scale", "zero"], ["d"]), NODE("MatMul", ["x", "d"], ["y"]),
    ]  # fmt: skip
    _check(_model(nodes, inputs, constants, ["y"]), inputs, tolerance=1e-4)
