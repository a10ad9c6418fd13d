"""Indexing, order, products, padding and quantization from ONNX files, at sizes that the published cases have not.

Against ONNX Runtime, which nobody here wrote; every case on both machines, in fp32 and with activations in fp16.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler import compile_model
from isa.errors import ModelError, SimulationError, UnsupportedError
from simulator import Simulator
from tests.compiler.graphs import small_machine

Array = npt.NDArray[np.generic]


def _floats(*shape: int, seed: int = 1) -> Array:
    """Multiples of 1/64, so that fp16 holds them and products of few are exact."""
    return (np.random.default_rng(seed).integers(-128, 129, shape) / 64).astype(np.float32)


def _integers(low: int, high: int, *shape: int, dtype: type = np.int64, seed: int = 2) -> Array:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


@dataclass(frozen=True)
class Case:
    """An operator, its run-time inputs and its constants in order (by name `x0`, `c1`, ...), and its attributes."""

    op_type: str
    operands: tuple[tuple[str, Array], ...]
    attributes: dict[str, object] = field(default_factory=dict)
    outputs: int = 1

    @property
    def inputs(self) -> dict[str, Array]:
        """What a run gets."""
        return {f"{kind}{place}": array for place, (kind, array) in enumerate(self.operands) if kind == "x"}

    def model(self) -> onnx.ModelProto:
        """Return the model of one node, with the shapes of its outputs."""
        return onnx.shape_inference.infer_shapes(self.unchecked())

    def unchecked(self) -> onnx.ModelProto:
        """Return the model of one node, be it valid or not."""
        names = [f"{kind}{place}" for place, (kind, _) in enumerate(self.operands)]
        node = helper.make_node(
            self.op_type, names, [f"y{n}" for n in range(self.outputs)], f"{self.op_type}_0", **self.attributes
        )
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in self.inputs.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
        constants = [
            numpy_helper.from_array(array, name)
            for name, (kind, array) in zip(names, self.operands, strict=True)
            if kind == "c"
        ]
        graph = helper.make_graph([node], self.op_type, inputs, outputs, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@dataclass(frozen=True)
class _Constant:
    """An operand that the file holds."""

    array: Array


def _case(op_type: str, *operands: Array | _Constant, outputs: int = 1, **attributes: object) -> Case:
    named = (("c", operand.array) if isinstance(operand, _Constant) else ("x", operand) for operand in operands)
    return Case(op_type, tuple(named), attributes, outputs)


def _constant(*numbers: int) -> _Constant:
    return _Constant(np.array(numbers))


def _scalar(number: int) -> _Constant:
    return _Constant(np.array(number))


def _bytes(*shape: int) -> Array:
    return _integers(-128, 128, *shape, dtype=np.int8)


def _different(count: int, chosen: int) -> Array:
    return np.random.default_rng(3).permutation(count)[:chosen]


CASES: dict[str, Case] = {
    "argmax of equals": _case("ArgMax", _integers(0, 4, 5, 41, 3).astype(np.float32), axis=1),
    "argmin, last": _case("ArgMin", _floats(7, 300), axis=-1, keepdims=0, select_last_index=1),
    "top 5": _case("TopK", _floats(3, 131), _constant(5), axis=1, outputs=2),
    "smallest 3, inner axis": _case("TopK", _floats(2, 37, 4), _constant(3), axis=1, largest=0, outputs=2),
    "cumulative sum": _case("CumSum", _integers(-3, 4, 3, 77).astype(np.float32), _scalar(1)),
    "reverse, exclusive": _case("CumSum", _integers(0, 9, 33, 2), _scalar(0), exclusive=1, reverse=1),
    "gather rows": _case("Gather", _floats(40, 3, 5), _integers(-40, 40, 2, 13)),
    "gather an inner axis": _case("Gather", _floats(3, 19, 7), _integers(-19, 19, 4), axis=1),
    "gather of a weight": _case("Gather", _Constant(_floats(3, 19)), _integers(0, 19, 8), axis=1),
    "gather the last": _case("Gather", _floats(3, 19, 7), _scalar(-1), axis=1),
    "gather backwards": _case("Gather", _floats(3, 19), _constant(17, 11, 5), axis=1),
    "gather constant places": _case("Gather", _floats(9, 33), _Constant(np.array([[0, 7], [7, -2]]))),
    "elements": _case("GatherElements", _floats(9, 33), _integers(-9, 9, 4, 30), axis=0),
    "elements of rows": _case("GatherElements", _floats(5, 33), _integers(-33, 33, 5, 70), axis=1),
    "gather nd": _case("GatherND", _floats(6, 7, 11), _integers(0, 6, 3, 4, 2)),
    "gather nd, batches": _case("GatherND", _floats(3, 9, 11), _integers(0, 9, 3, 5, 1), batch_dims=1),
    "scatter elements": _case(
        "ScatterElements", _floats(9, 33), _different(9, 4)[:, None].repeat(33, 1), _floats(4, 33, seed=5), axis=0
    ),
    "scatter, shorter": _case(
        "ScatterElements", _floats(9, 70), np.tile(np.array([69, 3, -5]), (6, 1)), _floats(6, 3, seed=5), axis=1
    ),
    "scatter and add": _case(
        "ScatterElements", _floats(7, 50), _integers(-50, 50, 7, 20), _floats(7, 20, seed=5), axis=1, reduction="add"
    ),
    "scatter nd": _case("ScatterND", _floats(40, 6), _different(40, 3)[:, None], _floats(3, 6, seed=5)),
    "scatter nd, largest": _case(
        "ScatterND", _floats(4, 9, 6), _integers(0, 4, 11, 2), _floats(11, 6, seed=5), reduction="max"
    ),
    "one hot": _case("OneHot", _integers(-7, 7, 5, 9), _scalar(7), _Constant(_floats(2)), axis=1),
    "triangle": _case("Trilu", _floats(2, 37, 45), _scalar(-3), upper=0),
    "pad": _case("Pad", _floats(3, 7, 33), _constant(1, 0, 5, 0, 2, 40), _Constant(_floats(1)[0])),
    "cut and pad": _case("Pad", _floats(9, 33), _constant(-2, 3, 4, -5)),
    "pad by the edge": _case("Pad", _floats(9, 33), _constant(2, 3, 1, 4), mode="edge"),
    "pad by reflection": _case("Pad", _floats(9, 33), _constant(2, 30, 8, 4), mode="reflect"),
    "product of batches": _case("MatMul", _floats(2, 3, 5, 40), _floats(2, 3, 40, 33)),
    "row by matrices": _case("MatMul", _floats(40), _floats(3, 40, 7)),
    "matrices by column": _case("MatMul", _floats(2, 5, 40), _floats(40)),
    "gemm": _case("Gemm", _floats(40, 5), _floats(33, 40), _floats(33), transA=1, transB=1, alpha=0.5, beta=2.0),
    "einsum of heads": _case("Einsum", _floats(2, 5, 3, 8), _floats(2, 9, 3, 8), equation="bqhd,bkhd->bhqk"),
    "einsum with a sum": _case("Einsum", _floats(4, 5, 6), _floats(7, 6), equation="...ij,kj->...k"),
    "outer product": _case("Einsum", _floats(5), _floats(9), equation="i,j->ij"),
    "integer product": _case("MatMulInteger", _bytes(9, 70), _bytes(70, 33)),
    "quantize rows": _case(
        "QuantizeLinear", _floats(4, 6, 33), _Constant(abs(_floats(6)) + 1), _Constant(_bytes(6)), axis=1
    ),
    "dequantize blocks": _case(
        "DequantizeLinear", _bytes(9, 33), _Constant(abs(_floats(9, 3)) + 1), axis=1, block_size=16
    ),
    "norm of channels": _case(
        "InstanceNormalization", _floats(2, 5, 7, 9), _Constant(_floats(5)), _Constant(_floats(5, seed=4))
    ),
    "batch norm": _case(
        "BatchNormalization", _floats(2, 5, 33), *(_Constant(_floats(5, seed=seed)) for seed in (4, 5, 6)),
        _Constant(abs(_floats(5)) + 1),
    ),
    "blocks to channels": _case("SpaceToDepth", _floats(2, 3, 8, 12), blocksize=4),
    "slice from before the first": _case(
        "Slice", _floats(9, 33), _constant(-12, 40), _constant(-(1 << 63), -40), _constant(0, 1), _constant(-1, -3)
    ),
    "slice behind the last": _case("Slice", _floats(1, 8), _constant(1), _constant(2), _constant(0)),
    "no wide rows": _case("Mul", _floats(0, 33), _floats(0, 33)),
    "flatten a number": _case("Flatten", np.array(0.5, np.float32), axis=0),
    "softmax of nothing": _case("Softmax", _floats(0, 3)),
    "sums of nothing": _case("MatMul", _floats(2, 5, 0), _floats(0, 3)),
    "nothing and a constant": _case("Add", _floats(0, 3), _Constant(_floats(0, 3))),
    "join of nothing": _case("Concat", _floats(2, 0), _floats(3, 0), axis=0),
    "top 0": _case("TopK", _floats(3, 5), _constant(0), outputs=2),
    "scatter nothing": _case("ScatterElements", _floats(3, 5), _integers(0, 1, 0, 5), _floats(0, 5)),
    "scatter no rows": _case("ScatterND", _floats(3, 5), _integers(0, 1, 0, 1), _floats(0, 5)),
    "cut off and pad": _case("Pad", _floats(2, 3), _constant(0, -4, 0, 5), _Constant(_floats(1)[0])),
    "mean of whole numbers": _case("ReduceMean", np.array([[1, 2, 2], [-1, -2, -2]], np.int32), _constant(1)),
    "one scale for all": _case("LayerNormalization", _floats(5, 33), _Constant(_floats(1))),
    "a column to a row": _case("Transpose", _floats(40, 300, 1), perm=[2, 1, 0]),
    "channels to blocks": _case("DepthToSpace", _floats(2, 18, 4, 5), blocksize=3, mode="CRD"),
}  # fmt: skip


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 2e-6), ("fp16", 2e-3)])
@pytest.mark.parametrize("name", CASES)
def test_operators(name: str, dtype: str, tolerance: float, machine: str) -> None:
    """Whole numbers are equal; floats are, up to the rounding of results to the program's type."""
    case = CASES[name]
    session = onnxruntime.InferenceSession(case.model().SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, case.inputs)
    outputs = Simulator(compile_model(case.model(), small_machine(machine), dtype=dtype)).run(case.inputs).outputs
    for index, array in enumerate(expected):
        found = outputs[f"y{index}"]
        assert found.shape == array.shape and found.dtype == array.dtype
        if array.dtype.kind in "iu":
            np.testing.assert_array_equal(found, array)
        else:
            np.testing.assert_allclose(found, array, rtol=tolerance, atol=tolerance * np.abs(array).max(initial=0))


def _run(case: Case) -> dict[str, Array]:
    return dict(Simulator(compile_model(case.model(), small_machine(), dtype="fp32")).run(case.inputs).outputs)


def test_a_row_of_minus_infinity_has_a_logarithm() -> None:
    """As masked scores have it: -inf, not NaN."""
    rows = np.array([[-np.inf] * 3, [-np.inf, 0, 0], [np.inf, 0, 0]], np.float32)
    found = _run(_case("ReduceLogSumExp", rows, _constant(1), keepdims=0))["y0"]
    np.testing.assert_allclose(found, [-np.inf, np.log(2), np.inf], rtol=1e-6)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
def test_the_best_of_a_row_of_nan_is_one_of_its_places(op_type: str, last: int) -> None:
    """It may choose what is read next."""
    found = _run(_case(op_type, np.full((2, 3), np.nan, np.float32), axis=1, select_last_index=last))["y0"]
    assert np.all((found >= 0) & (found < 3))


def test_the_last_of_several_updates_wins() -> None:
    """As NumPy and ONNX Runtime have it, although ONNX leaves it open."""
    data, indices = np.zeros((2, 5), np.float32), np.array([[1, 1, 3], [4, 4, 4]])
    case = _case("ScatterElements", data, indices, _floats(2, 3), axis=1)
    outputs = Simulator(compile_model(case.model(), small_machine(), dtype="fp32")).run(case.inputs).outputs
    np.put_along_axis(data, indices, case.inputs["x2"], 1)
    np.testing.assert_array_equal(outputs["y0"], data)


def test_indices_that_are_an_input_are_checked() -> None:
    """Before a run, with what they choose from."""
    case = CASES["gather an inner axis"]
    simulator = Simulator(compile_model(case.model(), small_machine(), dtype="fp32"))
    inputs = {**case.inputs, "x1": np.array([0, 19, 1, 2])}
    with pytest.raises(SimulationError, match=r"'x1' .*-19\.\.18.*they choose from the 19 places of"):
        simulator.run(inputs)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (_case("MatMulInteger", _bytes(2, 300), _bytes(300, 2)), "over 300 elements, 258 at most are exact"),
        (_case("GatherElements", np.zeros((5000, 5000), np.float32), _integers(0, 1, 1, 1)), "into 25,000,000 places"),
    ],
)
def test_what_would_be_inexact_is_refused(case: Case, message: str) -> None:
    """The vector unit counts up to 2^24."""
    with pytest.raises(UnsupportedError, match=message):
        compile_model(case.model(), small_machine(), dtype="fp32")


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (_case("Softmax", _floats(2, 3), axis=5), "Softmax_0.*axis 5 of 2 axes"),
        (_case("Concat", _floats(2, 3), _floats(2, 3), axis=-3), "Concat_0.*axis -3 of 2 axes"),
        (_case("ReduceMax", _floats(2, 3), _constant(2)), "ReduceMax_0.*axis 2 of 2 axes"),
        (_case("Slice", _floats(2, 3), _constant(0), _constant(1), _constant(2)), "Slice_0.*axis 2 of 2 axes"),
        (_case("Transpose", _floats(2, 3), perm=[0, 0]), r"Transpose_0.*perm \[0, 0\] of 2 axes"),
        (_case("Transpose", _floats(2, 3), perm=[0]), r"Transpose_0.*perm \[0\] of 2 axes"),
        (_case("Gather", _floats(2, 3), _constant(0, 1, 7), axis=1), "Gather_0.*from 0 to 7 choose from 3 places"),
        (_case("GatherElements", _floats(2, 3), _Constant(np.array([[0, 1, -3]]))), "from -3 to 1 choose from 2 pl"),
        (_case("PRelu", _floats(3), _floats(3, 1)), r"PRelu_0.*slopes of \[3, 1\] do not broadcast to \[3\]"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(case: Case, message: str) -> None:
    """Counted modulo the number of axes, or to the nearest row, they would give something without a word."""
    with pytest.raises(ModelError, match=message):
        compile_model(case.unchecked(), small_machine(), dtype="fp32")


def test_another_form_of_what_is_supported_is_told() -> None:
    """An operator of the list is not said to be none of it."""
    case = _case("Einsum", _floats(3, 3), equation="ii->i")
    with pytest.raises(UnsupportedError, match="Einsum: supported, but not with these operands and attributes"):
        compile_model(case.model(), small_machine(), dtype="fp32")


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("target", ["FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"])
def test_every_half_number_rounds_to_narrow_floats(target: str, dtype: str, machine: str) -> None:
    """All numbers of fp16, NaN and infinite ones included, as ml_dtypes and ONNX round them."""
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(128, 512)
    kind = getattr(TensorProto, target)
    node = helper.make_node("Cast", ["x"], ["y"], to=kind, saturate=0)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT16, x.shape)]
    outputs = [helper.make_tensor_value_info("y", kind, x.shape)]
    graph = helper.make_graph([node], "cast", ends, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    found = Simulator(compile_model(model, small_machine(machine), dtype=dtype)).run({"x": x}).outputs["y"]
    with np.errstate(invalid="ignore", over="ignore"):
        expected = x.astype(helper.tensor_dtype_to_np_dtype(kind))
    np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))
