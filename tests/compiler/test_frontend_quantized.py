"""Quantized forms of ONNX files, as ONNX Runtime's tools and hand-made nodes spell them, against ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from compiler import compile_model
from compiler.frontend import fuse_model
from compiler.graph import Graph
from compiler.onnx_import import import_model
from compiler.reference import run_reference
from isa.errors import ModelError, ToolError, UnsupportedError
from simulator import Simulator
from tests.compiler import exported_models
from tests.compiler.graphs import Array, small_machine

RNG = np.random.default_rng(11)
X = RNG.standard_normal((2, 5, 172)).astype(np.float32)


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, Array | onnx.TensorProto],
    output: int,
    ids: bool = False,
) -> onnx.ModelProto:
    """Return a model from x [2, 5, 172] (or ids [2, 5]) to y [2, 5, output]."""
    kind, shape = (TensorProto.INT64, [2, 5]) if ids else (TensorProto.FLOAT, [2, 5, 172])
    tensors = [
        numpy_helper.from_array(value, name) if isinstance(value, np.ndarray) else value
        for name, value in constants.items()
    ]
    graph = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5, output])], tensors,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def as_written(file: bytes | Path, inputs: Array) -> Array:
    """Return what ONNX Runtime computes without its optimizer, which would round activations to integers."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (result,) = onnxruntime.InferenceSession(file, options).run(None, {"x": inputs})
    return np.asarray(result)


def checked(onnx_model: onnx.ModelProto, inputs: Array, tolerance: float = 2e-5) -> Graph:
    """Compare the fused graph's meaning and the simulated chip in fp32 with ONNX Runtime; return the graph."""
    expected = as_written(onnx_model.SerializeToString(), inputs)
    fused = fuse_model(import_model(onnx_model, None, "test"), {})
    np.testing.assert_allclose(run_reference(fused, {"x": inputs})["y"], expected, rtol=0, atol=tolerance)
    program = compile_model(onnx_model, machine=small_machine(), dtype="fp32")
    np.testing.assert_allclose(Simulator(program).run({"x": inputs}).outputs["y"], expected, rtol=0, atol=tolerance)
    return fused


def kinds(graph: Graph) -> dict[str, int]:
    return dict(Counter(operation.kind for operation in graph.operations))


def int4_tensor(name: str, array: Array) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.INT4, array.shape, array.reshape(-1).tolist())


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("shape", ["tensor", "column"])
@pytest.mark.parametrize("has_zero_point", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_dequantized_weights(dtype: type[np.generic], shape: str, has_zero_point: bool, transposed: bool) -> None:
    """Per tensor and per column, with a Transpose between, stay integers in memory."""
    limits = np.iinfo(dtype)
    size = () if shape == "tensor" else (40,)
    weight = RNG.integers(limits.min, limits.max + 1, (40, 172) if transposed else (172, 40)).astype(dtype)
    constants: dict[str, Array | onnx.TensorProto] = {
        "w": weight, "s": RNG.uniform(0.0005, 0.001, size).astype(np.float32),
        "z": RNG.integers(limits.min, limits.max + 1, size).astype(dtype),
    }  # fmt: skip
    names = ["w", "s", "z"] if has_zero_point else ["w", "s"]
    nodes = [helper.make_node("DequantizeLinear", names, ["f"], axis=0 if transposed else 1)]
    if transposed:
        nodes.append(helper.make_node("Transpose", ["f"], ["t"], perm=[1, 0]))
    nodes.append(helper.make_node("MatMul", ["x", "t" if transposed else "f"], ["y"]))
    fused = checked(model(nodes, constants, 40), X, 1e-4)
    assert kinds(fused) == {"linear": 1}
    assert str(fused.constants[fused.operations[0].inputs[1] or ""].value.dtype) == np.dtype(dtype).name


def test_blocks_along_k_of_int4_weights() -> None:
    """`use_qdq` of the builder: DequantizeLinear with a block size."""
    x = RNG.standard_normal((2, 5, 172)).astype(np.float32)
    padded = np.concatenate((x, np.zeros((2, 5, 20), np.float32)), axis=-1)
    weight = RNG.integers(-8, 8, (192, 40))
    constants = {"w": int4_tensor("w", weight), "s": RNG.uniform(0.01, 0.02, (6, 40)).astype(np.float32)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    onnx_model = model(nodes, constants, 40)
    onnx_model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 192
    fused = checked(onnx_model, padded)
    assert kinds(fused) == {"linear": 1}


def float_model(has_relu: bool) -> onnx.ModelProto:
    """Return two layers, with a bias and Relu between or nothing."""
    constants: dict[str, Array | onnx.TensorProto] = {
        "a": (RNG.standard_normal((172, 96)) / 13).astype(np.float32),
        "b": RNG.standard_normal(96).astype(np.float32),
        "c": (RNG.standard_normal((96, 40)) / 10).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
        helper.make_node("Add", ["h", "b"], ["i"], name="bias"),
        helper.make_node("Relu", ["i"], ["j"], name="relu"),
        helper.make_node("MatMul", ["j" if has_relu else "h", "c"], ["y"], name="second"),
    ]
    return model(nodes if has_relu else [nodes[0], nodes[3]], constants, 40)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 64, 128])
@pytest.mark.parametrize("has_zero_points", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_packed_blocks(bits: int, block: int, has_zero_points: bool, flat: bool) -> None:
    """MatMulNBits with K no multiple of the block, a bias, and the flat tensors of older files."""
    blocks = -(-172 // block)
    constants: dict[str, Array | onnx.TensorProto] = {
        "w": RNG.integers(0, 256, (40, blocks, block * bits // 8)).astype(np.uint8),
        "s": RNG.uniform(0.001, 0.002, (40, blocks)).astype(np.float32),
        "z": RNG.integers(0, 256, (40, -(-blocks * bits // 8))).astype(np.uint8),
        "b": RNG.standard_normal(40).astype(np.float32),
    }
    if flat:
        constants |= {name: np.reshape(constants[name], -1) for name in ("s", "z")}
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s", "z" if has_zero_points else "", "", "b"], ["y"], domain="com.microsoft", K=172,
        N=40, bits=bits, block_size=block, accuracy_level=1,
    )  # fmt: skip
    fused = checked(model([node], constants, 40), X, 1e-4)
    assert kinds(fused) == {"linear": 1}


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("weights", [QuantType.QInt8, QuantType.QUInt8])
def test_dynamic_quantization(per_channel: bool, weights: QuantType, tmp_path: Path) -> None:
    """Signed rows of their own scale are about as fine as one unsigned tensor: coarser where Relu leaves one sign."""
    path, x = tmp_path / "quantized.onnx", X
    onnx.save(float_model(has_relu=True), tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", path, per_channel=per_channel, weight_type=weights)
    (theirs,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    (exact,) = onnxruntime.InferenceSession(tmp_path / "float.onnx").run(None, {"x": x})
    fused = fuse_model(import_model(onnx.load(path), None, "test"), {})
    assert kinds(fused)["linear"] == 2
    ours = Simulator(compile_model(path, machine=small_machine(), dtype="fp32")).run({"x": x}).outputs["y"]
    np.testing.assert_allclose(ours, run_reference(fused, {"x": x})["y"], rtol=0, atol=1e-4)
    assert np.abs(ours - exact).mean() < 1.25 * np.abs(theirs - exact).mean()


def _contrib_product(op_type: str, with_zero_points: bool, with_bias: bool) -> list[onnx.NodeProto]:
    """Return y = x @ w with the scales s, zero points z and bias b, as ONNX Runtime's optimizers write it."""
    points, bias = "z" if with_zero_points else "", "b" if with_bias else ""
    if op_type == "DynamicQuantizeMatMul":
        return [helper.make_node(op_type, ["x", "w", "s", points, bias], ["y"], domain="com.microsoft", name="product")]
    names = ["q", "w", "xs", "s", "xz", points, bias]
    return [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "xs", "xz"]),
        helper.make_node(op_type, names, ["y"], domain="com.microsoft", name="product"),
    ]


@pytest.mark.parametrize("op_type", ["MatMulIntegerToFloat", "DynamicQuantizeMatMul"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("shape", ["tensor", "column"])
@pytest.mark.parametrize("zero_points", ["none", "middle", "anywhere"])
@pytest.mark.parametrize("has_bias", [False, True])
def test_products_of_the_runtime(
    op_type: str, dtype: type[np.generic], shape: str, zero_points: str, has_bias: bool
) -> None:
    """Rows of their own scale are as fine as one tensor's; weights off the middle leave activations as they are."""
    limits, size = np.iinfo(dtype), () if shape == "tensor" else (40,)
    middle = 128 if dtype is np.uint8 else 0
    points = np.full(size, middle) if zero_points == "middle" else RNG.integers(middle - 9, middle + 10, size)
    constants: dict[str, Array | onnx.TensorProto] = {
        "w": RNG.integers(limits.min, limits.max + 1, (172, 40)).astype(dtype),
        "s": RNG.uniform(0.0005, 0.001, size).astype(np.float32), "z": points.astype(dtype),
        "b": RNG.standard_normal(40).astype(np.float32),
    }  # fmt: skip
    onnx_model = model(_contrib_product(op_type, zero_points != "none", has_bias), constants, 40)
    theirs = as_written(onnx_model.SerializeToString(), X)
    centred = np.asarray(constants["w"], np.float64) - (0 if zero_points == "none" else points)
    exact = X @ (centred * constants["s"]) + (constants["b"] if has_bias else 0)
    fused = fuse_model(import_model(onnx_model, None, "test"), {})
    is_off_middle = zero_points == "anywhere" or (zero_points == "none" and dtype is np.uint8)
    assert kinds(fused) == ({"linear": 1} if is_off_middle else {"quantize": 1, "linear": 1})
    ours = Simulator(compile_model(onnx_model, machine=small_machine(), dtype="fp32")).run({"x": X}).outputs["y"]
    np.testing.assert_allclose(ours, run_reference(fused, {"x": X})["y"], rtol=0, atol=1e-4)
    if is_off_middle:
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-4)
    assert np.abs(ours - exact).mean() < 1.25 * np.abs(theirs - exact).mean()


def test_products_that_the_runtime_has_fused(tmp_path: Path) -> None:
    """What ONNX Runtime's own optimizer leaves of two products of one tensor, and of one after them."""
    constants: dict[str, Array | onnx.TensorProto] = {
        name: (RNG.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32)
        for name, shape in {"a": (172, 96), "b": (172, 96), "c": (96, 40)}.items()
    }
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["f"], name="first"),
        helper.make_node("MatMul", ["x", "b"], ["g"], name="second"),
        helper.make_node("Add", ["f", "g"], ["h"]), helper.make_node("MatMul", ["h", "c"], ["y"], name="third"),
    ]  # fmt: skip
    plain, quantized, optimized = (tmp_path / f"{name}.onnx" for name in ("plain", "quantized", "optimized"))
    onnx.save(model(nodes, constants, 40), plain)
    quantize_dynamic(plain, quantized, weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(optimized)
    (theirs,) = onnxruntime.InferenceSession(quantized, options).run(None, {"x": X})
    onnx_model = onnx.load(optimized)
    products = Counter(node.op_type for node in onnx_model.graph.node if node.domain == "com.microsoft")
    assert products == {"MatMulIntegerToFloat": 2, "DynamicQuantizeMatMul": 1}
    fused = fuse_model(import_model(onnx_model, None, "test"), {})
    assert (kinds(fused)["quantize"], kinds(fused)["linear"]) == (2, 3)
    ours = Simulator(compile_model(optimized, machine=small_machine(), dtype="fp32")).run({"x": X}).outputs["y"]
    exact = as_written(plain, X)
    assert np.abs(ours - exact).mean() < 1.25 * np.abs(theirs - exact).mean()


def test_another_zero_point_of_the_activations_is_no_dynamic_quantization() -> None:
    """Integers that stand for other numbers than those that were rounded do not become a product of the latter."""
    quantize = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "xs", "xz"])
    constants: dict[str, Array | onnx.TensorProto] = {
        "w": RNG.integers(-9, 9, (172, 40)).astype(np.int8), "s": np.array(0.01, np.float32)
    }  # fmt: skip
    product = helper.make_node(
        "MatMulIntegerToFloat", ["q", "w", "xs", "s"], ["y"], domain="com.microsoft", name="product"
    )
    assert "product (MatMulIntegerToFloat)" in str(_refused([quantize, product], constants))
    nodes = [
        quantize, helper.make_node("MatMulInteger", ["q", "w"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT), helper.make_node("Mul", ["xs", "s"], ["k"]),
        helper.make_node("Mul", ["f", "k"], ["y"]),
    ]  # fmt: skip
    onnx_model = model(nodes, constants, 40)
    assert "linear" not in kinds(fuse_model(import_model(onnx_model, None, "test"), {}))
    ours = Simulator(compile_model(onnx_model, machine=small_machine(), dtype="fp32")).run({"x": X}).outputs["y"]
    np.testing.assert_allclose(ours, as_written(onnx_model.SerializeToString(), X), rtol=1e-5)


class _Calibration(CalibrationDataReader):
    def __init__(self) -> None:
        self.rows = iter([{"x": X}])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.rows, None)


@pytest.mark.parametrize("activations", [QuantType.QUInt8, QuantType.QInt8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_static_quantization(activations: QuantType, per_channel: bool, tmp_path: Path) -> None:
    """Rounded activations are rounded the same way: only a value on a boundary may fall to the other side."""
    path = tmp_path / "quantized.onnx"
    onnx.save(float_model(has_relu=False), tmp_path / "float.onnx")
    quantize_static(
        tmp_path / "float.onnx", path, _Calibration(), quant_format=QuantFormat.QDQ, per_channel=per_channel,
        activation_type=activations, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"],
    )  # fmt: skip
    expected = as_written(path, X)
    fused = fuse_model(import_model(onnx.load(path), None, "test"), {})
    assert kinds(fused)["linear"] == 2 and kinds(fused)["requantize"] >= 3
    ours = Simulator(compile_model(path, machine=small_machine(), dtype="fp32")).run({"x": X}).outputs["y"]
    difference = np.abs(ours - expected)
    step = max(op.attributes.scale for op in fused.operations if op.kind == "requantize")  # type: ignore[union-attr]
    assert difference.mean() < 0.02 * step and difference.max() < 1.5 * step


@pytest.mark.parametrize("has_zero_points", [False, True])
def test_gathered_blocks(has_zero_points: bool) -> None:
    """GatherBlockQuantized: the table stays packed."""
    constants: dict[str, Array | onnx.TensorProto] = {
        "w": RNG.integers(0, 256, (50, 48)).astype(np.uint8),
        "s": RNG.uniform(0.01, 0.02, (50, 3)).astype(np.float32),
        "z": RNG.integers(0, 256, (50, 2)).astype(np.uint8),
        "v": (RNG.standard_normal((96, 40)) / 10).astype(np.float32),
    }
    node = helper.make_node(
        "GatherBlockQuantized", ["w", "x", "s", "z"] if has_zero_points else ["w", "x", "s"], ["e"],
        domain="com.microsoft", bits=4, block_size=32, gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    onnx_model = model([node, helper.make_node("MatMul", ["e", "v"], ["y"])], constants, 40, ids=True)
    fused = checked(onnx_model, RNG.integers(0, 50, (2, 5)))
    assert kinds(fused) == {"embedding": 1, "linear": 1}


@pytest.mark.parametrize("order", ["rows first", "table first"])
def test_gathered_rows_are_widened_after_the_gather(order: str) -> None:
    """A table of uint8 with one scale, gathered before or after DequantizeLinear."""
    constants: dict[str, Array | onnx.TensorProto] = {
        "w": RNG.integers(0, 256, (50, 96)).astype(np.uint8), "s": np.array(0.013, np.float32),
        "z": np.array(117, np.uint8), "v": (RNG.standard_normal((96, 40)) / 10).astype(np.float32),
    }  # fmt: skip
    nodes = {
        "rows first": [
            helper.make_node("Gather", ["w", "x"], ["g"]),
            helper.make_node("DequantizeLinear", ["g", "s", "z"], ["e"]),
        ],
        "table first": [
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"]),
            helper.make_node("Gather", ["f", "x"], ["e"]),
        ],
    }[order]
    onnx_model = model([*nodes, helper.make_node("MatMul", ["e", "v"], ["y"])], constants, 40, ids=True)
    fused = checked(onnx_model, RNG.integers(0, 50, (2, 5)))
    assert kinds(fused) == {"embedding": 1, "linear": 1}
    embedding = next(op for op in fused.operations if op.kind == "embedding")
    assert fused.constants[embedding.inputs[1] or ""].value.dtype == "uint8"


def _refused(nodes: list[onnx.NodeProto], constants: dict[str, Array | onnx.TensorProto]) -> ToolError:
    with pytest.raises((ModelError, UnsupportedError)) as caught:
        fuse_model(import_model(model(nodes, constants, 40), None, "test"), {})
    return caught.value


def test_impossible_forms_are_refused_with_a_sentence() -> None:
    """Scales that are no numbers, reordered K, scales along the wrong axis."""
    weight = RNG.integers(-9, 9, (172, 40)).astype(np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=1, name="dequantize"),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    for scale in (np.inf, np.nan):
        error = _refused(nodes, {"w": weight, "s": np.full(40, scale, np.float32)})
        assert "the scale 's' is infinite or no number" in str(error) and "dequantize" in str(error)
    nodes[0] = helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0)
    error = _refused(nodes, {"w": weight, "s": np.ones(172, np.float32)})
    assert "per tensor, per output, or per block of K" in str(error)
    reordered = helper.make_node(
        "MatMulNBits", ["x", "w", "s", "", "g"], ["y"], domain="com.microsoft", K=172, N=40, bits=4, block_size=32
    )
    packed: dict[str, Array | onnx.TensorProto] = {
        "w": np.zeros((40, 6, 16), np.uint8), "s": np.ones((40, 6), np.float32), "g": np.zeros(192, np.int32),
    }  # fmt: skip
    assert "g_idx" in str(_refused([reordered], packed))
    rounding = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    error = _refused(rounding, {"s": np.array(np.inf, np.float32), "z": np.array(0, np.int8), "w": weight.astype("f4")})
    assert "masks, must not be quantized" in str(error)


class _Steps(CalibrationDataReader):
    """The inputs of the steps of a case."""

    def __init__(self, case: str) -> None:
        self.rows = iter([dict(step.inputs) for step in exported_models.steps_of(case, "b1")])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.rows, None)


def test_static_quantization_of_a_whole_llama(tmp_path: Path) -> None:
    """Attention fuses although the tool rounds its operands too; keeping those as they are is no coarser."""
    case, file = "hf_legacy_past", "model.onnx"
    original, folded, path = exported_models.FOLDER / case / file, tmp_path / "folded.onnx", tmp_path / "quantized.onnx"
    quant_pre_process(str(original), str(folded), skip_symbolic_shape=True)
    quantize_static(folded, path, _Steps(case), per_channel=True, op_types_to_quantize=["MatMul"])
    fused = fuse_model(import_model(onnx.load(path), None, "test"), {"batch": 1, "seq": 1, "past": (0, 16)})
    assert kinds(fused)["attention"] == 2 and kinds(fused)["rope"] == 4
    differences: dict[str, list[float]] = {"ours": [], "theirs": []}
    theirs, exact = (onnxruntime.InferenceSession(str(name)) for name in (path, original))
    for step in list(exported_models.steps_of(case, "b1"))[1:]:
        (expected, *_) = exact.run(None, dict(step.inputs))
        differences["theirs"].append(np.abs(theirs.run(None, dict(step.inputs))[0] - expected).mean())
        ours = run_reference(fused, dict(step.inputs))["logits"]
        differences["ours"].append(np.abs(ours - expected).mean())
    assert np.mean(differences["ours"]) < 1.1 * np.mean(differences["theirs"])
