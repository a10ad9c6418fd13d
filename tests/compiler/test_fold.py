"""Folding: the constant evaluator against the ONNX reference, shapes against onnx's inference, budgets, clean-up."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from compiler.evaluate import MEANINGS, evaluate
from compiler.fold import drop_no_operations, fold_constants, merge_equal, remove_dead
from compiler.graph import Constant, FileReference, OnnxAttributes, SizesAttributes
from compiler.onnx_import import import_model
from compiler.shape_inference import FOLDED_OUTPUT_BYTES, bind_dims, infer_shapes
from compiler.symbols import Contradiction, Product, Solver, Undecided, floor_divide, is_equal, is_less, larger, smaller
from isa.affine import Affine
from isa.affine import evaluate as evaluate_dim
from tests.compiler.exported_models import CASES, dims_for, files_of, first_step, imported, model_of

RANDOM = np.random.default_rng(3)
FLOATS = RANDOM.normal(0, 2, (2, 3, 4)).astype(np.float32)
POSITIVE = np.abs(FLOATS) + 0.1
INTEGERS = RANDOM.integers(-9, 9, (2, 3, 4))
FLAGS = RANDOM.random((2, 3, 4)) < 0.5
NAN = np.where(FLAGS, np.float32(np.nan), FLOATS)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# Operator, inputs, attributes.
SAMPLES: list[tuple[str, list[np.ndarray | None], dict[str, object]]] = [
    *((name, [FLOATS], {}) for name in ("Abs", "Ceil", "Cos", "Exp", "Floor", "Neg", "Round", "Sigmoid", "Sin")),
    *((name, [POSITIVE], {}) for name in ("Log", "Reciprocal", "Sqrt")),
    *((name, [FLOATS, POSITIVE[0]], {}) for name in ("Add", "Sub", "Mul", "Div", "Less", "GreaterOrEqual")),
    *((name, [INTEGERS, INTEGERS[:, :1]], {}) for name in ("Equal", "LessOrEqual", "Greater", "Max", "Min")),
    *((name, [FLAGS, FLAGS[:, ::-1]], {}) for name in ("And", "Or", "Xor")),
    ("Pow", [POSITIVE, np.array(2.5, np.float32)], {}),
    ("Div", [INTEGERS, np.array(4)], {}),
    ("Mod", [INTEGERS, np.array(4)], {}),
    ("Mod", [FLOATS, np.array(1.5, np.float32)], {"fmod": 1}),
    ("Max", [FLOATS, POSITIVE, FLOATS * 2], {}),
    ("Not", [FLAGS], {}),
    ("IsNaN", [NAN], {}),
    ("IsInf", [np.array([1, np.inf, -np.inf], np.float32)], {}),
    ("BitwiseAnd", [INTEGERS, INTEGERS[:1]], {}),
    ("BitwiseOr", [INTEGERS, INTEGERS[:1]], {}),
    ("Cast", [FLOATS], {"to": onnx.TensorProto.INT64}),
    ("Cast", [INTEGERS], {"to": onnx.TensorProto.BOOL}),
    ("Clip", [FLOATS, np.array(-1, np.float32), None], {}),
    ("Clip", [FLOATS, None, np.array(1, np.float32)], {}),
    ("Concat", [FLOATS, POSITIVE], {"axis": -1}),
    ("ConstantOfShape", [ints(2, 3)], {"value": helper.make_tensor("v", onnx.TensorProto.INT64, [1], [5])}),
    ("CumSum", [INTEGERS, np.array(1)], {}),
    ("CastLike", [FLOATS, INTEGERS], {}),
    ("Expand", [FLOATS[:, :1], ints(3, 1)], {}),
    ("Flatten", [FLOATS], {"axis": 2}),
    ("Flatten", [FLOATS], {"axis": -1}),
    ("Gather", [FLOATS, ints(2, -1)], {"axis": 1}),
    ("GatherElements", [FLOATS, INTEGERS % 4], {"axis": -1}),
    ("GatherND", [FLOATS, RANDOM.integers(0, 2, (5, 2))], {}),
    ("Identity", [FLOATS], {}),
    ("MatMul", [FLOATS, POSITIVE.transpose(0, 2, 1)], {}),
    ("Range", [np.array(3), np.array(-5), np.array(-2)], {}),
    *((f"Reduce{name}", [FLOATS, ints(-1)], {"keepdims": 1}) for name in ("Max", "Mean", "Min", "Prod", "Sum")),
    ("ReduceSum", [INTEGERS, ints(0, 2)], {"keepdims": 0}),
    ("ReduceSum", [INTEGERS, None], {}),
    ("Reshape", [FLOATS, ints(0, -1)], {}),
    ("ScatterElements", [INTEGERS[0, 0], ints(1, -1), ints(7, 8)], {"axis": 0}),
    ("Slice", [FLOATS, ints(1), ints(2**63 - 1), ints(-1), ints(2)], {}),
    ("Slice", [FLOATS, ints(-1), ints(-(2**63)), ints(2), ints(-1)], {}),
    ("Slice", [FLOATS, ints(0, 1), ints(-1, 3)], {}),
    ("Softmax", [FLOATS], {"axis": -1}),
    ("Split", [FLOATS, ints(1, 3)], {"axis": 2}),
    ("Split", [FLOATS], {"axis": 2, "num_outputs": 2}),
    ("Squeeze", [FLOATS[:, :1], ints(1)], {}),
    ("Squeeze", [FLOATS[:1, :1]], {}),
    ("Tile", [FLOATS, ints(1, 2, 3)], {}),
    ("Transpose", [FLOATS], {"perm": [2, 0, 1]}),
    ("Transpose", [FLOATS], {}),
    ("Trilu", [np.full((3, 4), -np.inf, np.float32), np.array(1)], {"upper": 1}),
    ("Trilu", [FLOATS, np.array(-1)], {"upper": 0}),
    ("Unsqueeze", [FLOATS, ints(0, -1)], {}),
    ("Where", [FLAGS, FLOATS, np.array(0, np.float32)], {}),
]


def test_every_operator_has_a_sample() -> None:
    """No operator of the evaluator is left without an independent check."""
    assert {name for name, _, _ in SAMPLES} == set(MEANINGS)


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"), SAMPLES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_operators_mean_what_onnx_says(
    op_type: str, inputs: list[np.ndarray | None], attributes: dict[str, object]
) -> None:
    """Each operator agrees with the ONNX reference evaluator, dtype included."""
    names = [f"x{index}" if array is not None else "" for index, array in enumerate(inputs)]
    count = 2 if op_type == "Split" else 1
    node = helper.make_node(op_type, names, [f"y{index}" for index in range(count)], **attributes)
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(feeds[name].dtype), None) for name in feeds
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    model = helper.make_model(
        helper.make_graph([node], "one", values, outputs), opset_imports=[helper.make_opsetid("", 20)]
    )
    expected = ReferenceEvaluator(model).run(None, feeds)
    plain = tuple((a.name, _plain(helper.get_attribute_value(a))) for a in node.attribute)
    found = evaluate(OnnxAttributes("", op_type, plain), inputs, {})
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def _plain(value: object) -> object:
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return tuple(value) if isinstance(value, list) else value


def test_half_precision_is_widened() -> None:
    """Tables never see fp16 arithmetic: narrow inputs are widened, and casts to narrow types stay in fp32."""
    (result,) = evaluate(OnnxAttributes("", "Mul"), [np.float16([2049.0]), np.float16([1.0])], {})
    assert result.dtype == np.float32
    (cast,) = evaluate(OnnxAttributes("", "Cast", (("to", onnx.TensorProto.FLOAT16),)), [np.array([2049])], {})
    assert cast.tolist() == [2049.0]


PAST = Affine.symbol("past")
BOUNDS = {"past": (0, 64)}


def symbolic(*elements: object) -> np.ndarray:
    return np.array(elements, dtype=object)


def test_sizes_with_symbols_are_computed() -> None:
    """Shape arithmetic keeps symbols, and comparisons that their bounds decide are decided."""
    shape = symbolic(2, PAST + 1, 64)
    (total,) = evaluate(OnnxAttributes("", "Add"), [shape, ints(1)], BOUNDS)
    assert total.tolist() == [3, PAST + 2, 65]
    (equal,) = evaluate(OnnxAttributes("", "Equal"), [shape, ints(-1)], BOUNDS)
    assert equal.dtype == bool and not equal.any()
    (least,) = evaluate(OnnxAttributes("", "Min"), [shape, ints(100)], BOUNDS)
    assert least.tolist() == [2, PAST + 1, 64]
    (part,) = evaluate(OnnxAttributes("", "Gather"), [shape, np.array(2)], BOUNDS)
    assert part.dtype == np.int64 and part == 64


@pytest.mark.parametrize(
    "question",
    [
        lambda: is_less(PAST, 5, BOUNDS),
        lambda: is_equal(PAST, 5, BOUNDS),
        lambda: smaller(PAST, 5, BOUNDS),
        lambda: floor_divide(PAST, 2, BOUNDS),
        lambda: Product.of([PAST, PAST + 1]).divided_by(Product.of([2])),
    ],
)
def test_undecided_questions_are_not_guessed(question: object) -> None:
    """What depends on the value of a symbol has no answer when compiling."""
    with pytest.raises(Undecided):
        question()  # type: ignore[operator]


def test_decided_questions() -> None:
    """Bounds decide what they can."""
    assert is_less(PAST, 65, BOUNDS) and not is_less(PAST, 0, BOUNDS)
    assert not is_equal(PAST + 1, 0, BOUNDS)
    assert larger(PAST, 64, BOUNDS) == 64 and smaller(PAST, PAST + 1, BOUNDS) == PAST
    assert floor_divide(4 * PAST + 8, 4, BOUNDS) == PAST + 2 and floor_divide(-7, 2, BOUNDS) == -3
    assert Product.of([2, PAST + 1, 16]).divided_by(Product.of([2 * PAST + 2])) == 16


def test_the_solver_finds_unknowns_and_contradictions() -> None:
    """An unknown is eliminated everywhere; known sizes that differ contradict each other."""
    solver = Solver(BOUNDS)
    total, seq = Affine.symbol("total"), Affine.symbol("seq")
    solver.require_equal(total, PAST + seq, "mask")
    solver.require_equal(seq, 3, "ids")
    assert solver.solved == {"total": PAST + 3, "seq": 3}
    with pytest.raises(Contradiction):
        solver.require_equal(PAST + 3, 9, "cache")


@pytest.mark.parametrize(
    ("case", "file"), [(case, file) for case in CASES for file in files_of(case) if "genai" not in case]
)
def test_shapes_agree_with_onnx(case: str, file: str) -> None:
    """With all dims bound, every shape that onnx infers is the one we infer at the same sizes."""
    graph, step = imported(case, file), first_step(case, file)
    ours = infer_shapes(bind_dims(graph, dims_for(graph, step.inputs)))
    bindings = {"past": 9}
    model = model_of(case, file)
    for value in model.graph.input:
        shape = [evaluate_dim(dim, bindings) for dim in ours.values[value.name].shape]
        value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape))
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    compared = 0
    for value in inferred.graph.value_info:
        dims, is_known = value.type.tensor_type.shape.dim, value.type.tensor_type.HasField("shape")
        if value.name in ours.values and is_known and all(dim.HasField("dim_value") for dim in dims):
            found = [evaluate_dim(dim, bindings) for dim in ours.values[value.name].shape]
            assert found == [dim.dim_value for dim in dims], value.name
            compared += 1
    assert compared > 70


def chain(
    *nodes: onnx.NodeProto, constants: dict[str, np.ndarray] | None = None, dims: tuple[object, ...] = (2, "past")
):
    """A graph of x[dims] through nodes, of which the last gives y."""
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, dims)
    y = onnx.ValueInfoProto(name="y", type=x.type)
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "chain", [x], [y], tensors)
    return import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), None, "chain")


def test_a_size_becomes_a_sizes_operation() -> None:
    """What depends on a symbol is kept as its elements, and the operations that made it go."""
    graph = chain(
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Mul", ["shape", "two"], ["double"]),
        helper.make_node("Expand", ["x", "double"], ["y"]),
        constants={"two": ints(1, 1)},
    )
    graph = fold_constants(infer_shapes(bind_dims(graph, {"past": (0, 7)})))
    assert [operation.kind for operation in graph.operations] == ["sizes", "onnx"]
    attributes = graph.operations[0].attributes
    assert isinstance(attributes, SizesAttributes) and attributes.elements == (2, Affine.symbol("past"))
    assert not graph.constants


def test_large_results_are_not_folded() -> None:
    """Folding stops at its budget instead of filling the memory."""
    length = FOLDED_OUTPUT_BYTES // 8 + 1
    for size, folded in ((1000, True), (length, False)):
        graph = chain(
            helper.make_node("Expand", ["one", "size"], ["wide"]),
            helper.make_node("ReduceSum", ["wide"], ["sum"], keepdims=0),
            helper.make_node("Add", ["x", "sum"], ["y"]),
            constants={"one": np.float32([1]), "size": ints(size)},
            dims=(2, 2),
        )
        graph = fold_constants(infer_shapes(graph))
        assert len(graph.operations) == (1 if folded else 3)


def test_weights_are_never_read(tmp_path: Path) -> None:
    """A matrix in a side file is described only: transposing it reads nothing, even if its file has gone meanwhile."""
    graph = chain(
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
        constants={"w": np.zeros((3, 2), np.float32)},
        dims=(2, 2),
    )
    reference = FileReference(tmp_path / "gone.bin", 0, 24)
    constants = {"w": Constant(graph.constants["w"].value, reference)}
    graph = merge_equal(fold_constants(infer_shapes(dataclasses.replace(graph, constants=constants))))
    assert graph.constants["w"].source is reference
    assert len(graph.operations) == 2


def test_no_operations_are_dropped_and_outputs_keep_their_names() -> None:
    """Casts between float types and Identity go, also in front of an output."""
    graph = chain(
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Cast", ["b"], ["c"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("Concat", ["c"], ["y"], axis=0),
    )
    graph = drop_no_operations(infer_shapes(bind_dims(graph, {"past": 3})))
    (operation,) = graph.operations
    assert operation.inputs == ("x",) and operation.outputs == ("y",)


def test_casts_that_change_values_stay() -> None:
    """A cast to integers and back rounds, so it is no no-op."""
    graph = chain(
        helper.make_node("Cast", ["x"], ["a"], to=onnx.TensorProto.INT32),
        helper.make_node("Cast", ["a"], ["y"], to=onnx.TensorProto.FLOAT),
    )
    assert len(drop_no_operations(infer_shapes(bind_dims(graph, {"past": 3}))).operations) == 2


def test_equal_operations_are_merged_but_not_outputs() -> None:
    """Equal operations on equal constants become one; both outputs of a graph stay."""
    graph = chain(
        helper.make_node("Add", ["x", "one"], ["a"]),
        helper.make_node("Add", ["x", "uno"], ["b"]),
        helper.make_node("Mul", ["a", "b"], ["y"]),
        constants={"one": np.float32([1]), "uno": np.float32([1])},
    )
    graph = merge_equal(infer_shapes(bind_dims(graph, {"past": 3})))
    assert [operation.inputs for operation in graph.operations] == [("x", "one"), ("a", "a")]


def test_dead_operations_are_removed() -> None:
    """What no output needs goes, with its constants."""
    graph = chain(
        helper.make_node("Add", ["x", "one"], ["unused"]),
        helper.make_node("Neg", ["x"], ["y"]),
        constants={"one": np.float32([1])},
    )
    graph = remove_dead(graph)
    assert [operation.outputs for operation in graph.operations] == [("y",)] and not graph.constants
