"""Graphs inside of graphs: branches that sizes decide, and functions that a file defines."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compiler import compile_model
from compiler.frontend import fuse_model
from compiler.onnx_import import import_model
from isa.errors import ModelError, UnsupportedError
from simulator import Simulator
from tests.compiler.graphs import small_machine


def _value(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _branch(op_type: str, output: str) -> onnx.GraphProto:
    """An If inside of the branch reads what is around both, has the same inner names, and gives on what it reads."""
    empty = [helper.make_empty_tensor_value_info("q")]
    inner = [
        helper.make_graph([helper.make_node("Exp", ["r"], ["q"])], "inner_then", [], empty),
        helper.make_graph([], "inner_else", [], [helper.make_empty_tensor_value_info("r")]),
    ]
    nodes = [
        helper.make_node(op_type, ["x"], ["r"]),
        helper.make_node("If", ["is_short"], ["z"], then_branch=inner[0], else_branch=inner[1]),
        helper.make_node("Add", ["z", "shift"], [output]),
    ]
    shift = numpy_helper.from_array(np.array([2.0], np.float32), "shift")
    return helper.make_graph(nodes, output, [], [helper.make_empty_tensor_value_info(output)], [shift])


def _nested() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "one"], ["length"]),
        helper.make_node("Greater", ["length", "four"], ["is_long"]),
        helper.make_node("Less", ["length", "four"], ["is_short"]),
        helper.make_node("If", ["is_long"], ["y"], then_branch=_branch("Relu", "a"), else_branch=_branch("Tanh", "b")),
    ]
    constants = [numpy_helper.from_array(np.array(number), name) for number, name in ((1, "one"), (4, "four"))]
    graph = helper.make_graph(nodes, "nested", [_value("x", "batch", "n")], [_value("y", "batch", "n")], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize("length", [3, 4, 9])
def test_sizes_decide_which_branch_is_compiled(length: int) -> None:
    """Each dim of the model has its own branches, also inside of the branch that is taken."""
    x = np.random.default_rng(1).standard_normal((2, length)).astype(np.float32)
    program = compile_model(_nested(), small_machine(), dims={"batch": 2, "n": length}, dtype="fp32")
    (expected,) = ReferenceEvaluator(_nested()).run(None, {"x": x})
    np.testing.assert_allclose(Simulator(program).run({"x": x}).outputs["y"], expected, atol=1e-6)


def test_a_branch_that_an_input_decides_is_refused() -> None:
    """The node is named, with the form that is supported and the exporter's option that gives it."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op_type, ["x"], ["r"])], name, [], [helper.make_empty_tensor_value_info("r")]
        )
        for name, op_type in (("then", "Relu"), ("else", "Tanh"))
    }
    node = helper.make_node("If", ["use_cache"], ["y"], name="merged", **branches)
    inputs = [_value("x", 2, 3), _value("use_cache", 1, kind=TensorProto.BOOL)]
    graph = helper.make_graph([node], "merged", inputs, [_value("y", 2, 3)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    with pytest.raises(UnsupportedError) as caught:
        fuse_model(import_model(model, None, "merged"), {})
    text = str(caught.value)
    assert "merged (If) of [1]" in text and "--no-post-process" in text


def test_functions_of_the_file_are_put_where_they_are_called() -> None:
    """Also functions that call functions, as older exporters of torch write them."""
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    square = helper.make_function(
        "local", "Square", ["a"], ["b"], [helper.make_node("Mul", ["a", "a"], ["b"])], imports
    )
    nodes = [helper.make_node("Square", ["a"], ["t"], domain="local"), helper.make_node("Neg", ["t"], ["b"])]
    outer = helper.make_function("local", "Outer", ["a"], ["b"], nodes, imports)
    calls = [
        helper.make_node("Outer", ["x"], ["t"], domain="local"),
        helper.make_node("Outer", ["t"], ["y"], domain="local"),
    ]
    graph = helper.make_graph(calls, "calls", [_value("x", 5, 7)], [_value("y", 5, 7)])
    model = helper.make_model(graph, opset_imports=imports, functions=[outer, square])
    x = np.random.default_rng(2).standard_normal((5, 7)).astype(np.float32)
    outputs = Simulator(compile_model(model, small_machine(), dtype="fp32")).run({"x": x}).outputs
    np.testing.assert_allclose(outputs["y"], -(x**4), rtol=1e-6)


def test_functions_have_default_attributes() -> None:
    """A call that leaves an attribute out gets the default of the function, not that of the operator inside."""
    softmax = helper.make_node("Softmax", ["a"], ["b"])
    softmax.attribute.add(name="axis", ref_attr_name="dim", type=onnx.AttributeProto.INT)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    function = helper.make_function("local", "Share", ["a"], ["b"], [softmax], imports)
    function.attribute_proto.append(helper.make_attribute("dim", 0))
    calls = [
        helper.make_node("Share", ["x"], ["t"], domain="local"),
        helper.make_node("Share", ["t"], ["y"], domain="local", dim=1),
    ]
    graph = helper.make_graph(calls, "calls", [_value("x", 5, 7)], [_value("t", 5, 7), _value("y", 5, 7)])
    model = helper.make_model(graph, opset_imports=imports, functions=[function])
    x = np.random.default_rng(2).standard_normal((5, 7)).astype(np.float32)
    found = Simulator(compile_model(model, small_machine(), dtype="fp32")).run({"x": x}).outputs
    for name, before, axis in (("t", x, 0), ("y", found["t"], 1)):
        powers = np.exp(before.astype(np.float64))
        np.testing.assert_allclose(found[name], powers / powers.sum(axis, keepdims=True), rtol=1e-5)
    assert not model.graph.node[0].attribute


def test_a_function_that_calls_itself_is_refused() -> None:
    """With the name of the function."""
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    call = helper.make_node("Endless", ["x"], ["y"], domain="local")
    function = helper.make_function("local", "Endless", ["x"], ["y"], [call], imports)
    graph = helper.make_graph([call], "calls", [_value("x", 5, 7)], [_value("y", 5, 7)])
    model = helper.make_model(graph, opset_imports=imports, functions=[function])
    with pytest.raises(ModelError, match="the model-local functions Endless cannot be inlined"):
        compile_model(model, small_machine())
