"""Attention operators with caches and masks of their own, against ONNX Runtime or the ONNX reference evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compiler.frontend import fuse_model
from compiler.graph import AttentionAttributes, Graph
from compiler.onnx_import import import_model
from compiler.reference import run_reference

BATCH, SEQUENCE, PAST, HEADS, HEAD_DIM = 2, 3, 5, 4, 8
COLUMNS = HEADS * HEAD_DIM
Info = tuple[str, int, Sequence[int | str]]


def model_of(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[Info], outputs: Sequence[Info], kv_heads: int, opset: int
) -> onnx.ModelProto:
    """Return a model whose q, k and v are projections of `x` by random weights."""
    rng = np.random.default_rng(1)
    widths = {"q": COLUMNS, "k": kv_heads * HEAD_DIM, "v": kv_heads * HEAD_DIM}
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.3, (16, width)).astype(np.float32), f"w{name}")
        for name, width in widths.items()
    ]
    projections = [helper.make_node("MatMul", ["x", f"w{name}"], [name]) for name in widths]
    infos = [[helper.make_tensor_value_info(*info) for info in group] for group in (inputs, outputs)]
    graph = helper.make_graph([*projections, *nodes], "operator", *infos, initializer=weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def cache_infos(kv_heads: int, past: int | str = "past", total: int | str = "total") -> tuple[list[Info], list[Info]]:
    """Return the inputs and outputs of a cache."""
    before: list[Info] = [(f"past_{n}", TensorProto.FLOAT, (BATCH, kv_heads, past, HEAD_DIM)) for n in "kv"]
    after: list[Info] = [(f"present_{n}", TensorProto.FLOAT, (BATCH, kv_heads, total, HEAD_DIM)) for n in "kv"]
    return before, after


X: Info = ("x", TensorProto.FLOAT, (BATCH, SEQUENCE, 16))
Y: Info = ("y", TensorProto.FLOAT, (BATCH, SEQUENCE, COLUMNS))


def arrays_of(model: onnx.ModelProto) -> dict[str, Any]:
    """Return random inputs; integer ones are flags of which the first of each sequence may be 0."""
    rng, sizes = np.random.default_rng(2), {"past": PAST, "total": PAST + SEQUENCE}
    arrays: dict[str, Any] = {}
    for info in model.graph.input:
        shape = [dim.dim_value or sizes[dim.dim_param] for dim in info.type.tensor_type.shape.dim]
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            arrays[info.name] = rng.normal(size=shape).astype(np.float32)
        else:
            arrays[info.name] = (np.arange(shape[-1]) >= rng.integers(0, PAST, (shape[0], 1))).astype(np.int32)
    return arrays


def check(model: onnx.ModelProto, *, in_onnxruntime: bool) -> Graph:
    """Fuse with an open past, compare all outputs, and return the fused graph."""
    arrays = arrays_of(model)
    is_open = any(dim.dim_param == "past" for info in model.graph.input for dim in info.type.tensor_type.shape.dim)
    fused = fuse_model(import_model(model, None, "operator"), {"past": (0, 9)} if is_open else {})
    if in_onnxruntime:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = session.run(None, arrays)
    else:
        expected = ReferenceEvaluator(model).run(None, arrays)
    found = run_reference(fused, arrays)
    for info, array in zip(model.graph.output, expected, strict=True):
        np.testing.assert_allclose(found[info.name], array, rtol=0, atol=1e-5, err_msg=info.name)
    assert sum(operation.kind == "attention" for operation in fused.operations) == 1
    return fused


def attention_of(graph: Graph) -> AttentionAttributes:
    (attributes,) = (operation.attributes for operation in graph.operations if operation.kind == "attention")
    assert isinstance(attributes, AttentionAttributes)
    return attributes


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_its_own_cache(opset: int, kv_heads: int, causal: int) -> None:
    """Operands of three axes, keys before and after, causal behind the cache."""
    before, after = cache_infos(kv_heads)
    node = helper.make_node(
        "Attention", ["q", "k", "v", "", "past_k", "past_v"], ["y", "present_k", "present_v"], is_causal=causal,
        q_num_heads=HEADS, kv_num_heads=kv_heads, scale=0.3,
    )  # fmt: skip
    fused = check(model_of([node], [X, *before], [Y, *after], kv_heads, opset), in_onnxruntime=False)
    attributes = attention_of(fused)
    assert attributes.causal == bool(causal) and attributes.kv_head_count == kv_heads
    assert attributes.scale == pytest.approx(0.3)


def test_attention_that_gives_keys_without_taking_any() -> None:
    """A prefill."""
    _, after = cache_infos(2, total=SEQUENCE)
    node = helper.make_node(
        "Attention", ["q", "k", "v"], ["y", "present_k", "present_v"], is_causal=1, q_num_heads=HEADS, kv_num_heads=2
    )
    check(model_of([node], [X], [Y, *after], 2, 23), in_onnxruntime=False)


@pytest.mark.parametrize("shape", [(SEQUENCE, "total"), (BATCH, 1, SEQUENCE, "total"), (1, HEADS, SEQUENCE, "total")])
def test_attention_with_a_mask_given_as_floats(shape: Sequence[int | str]) -> None:
    """A graph input that is added to the scores."""
    before, after = cache_infos(2)
    node = helper.make_node(
        "Attention", ["q", "k", "v", "bias", "past_k", "past_v"], ["y", "present_k", "present_v"], q_num_heads=HEADS,
        kv_num_heads=2,
    )  # fmt: skip
    inputs: list[Info] = [X, *before, ("bias", TensorProto.FLOAT, shape)]
    fused = check(model_of([node], inputs, [Y, *after], 2, 23), in_onnxruntime=False)
    (attention,) = (operation for operation in fused.operations if operation.kind == "attention")
    assert attention.inputs[5:] == (None, "bias")


@pytest.mark.parametrize("unidirectional", [0, 1])
@pytest.mark.parametrize("with_bias", [False, True])
def test_multi_head_attention_with_its_own_cache(unidirectional: int, with_bias: bool) -> None:
    """Flags per key, an added bias and keys before and after."""
    before, after = cache_infos(HEADS)
    bias: list[Info] = [("bias", TensorProto.FLOAT, (1, HEADS, SEQUENCE, "total"))] if with_bias else []
    node = helper.make_node(
        "MultiHeadAttention",
        ["q", "k", "v", "", "flags", "bias" if with_bias else "", "past_k", "past_v"],
        ["y", "present_k", "present_v"], domain="com.microsoft", num_heads=HEADS, unidirectional=unidirectional,
    )  # fmt: skip
    inputs: list[Info] = [X, *before, ("flags", TensorProto.INT32, (BATCH, "total")), *bias]
    fused = check(model_of([node], inputs, [Y, *after], HEADS, 22), in_onnxruntime=True)
    (attention,) = (operation for operation in fused.operations if operation.kind == "attention")
    assert attention.inputs[5] == "flags"


@pytest.mark.parametrize("extra", [{"softcap": 5.0}, {"qk_matmul_output_mode": 1}])
def test_features_that_do_not_fuse(extra: dict[str, Any]) -> None:
    """Soft caps and scores as an output are computed step by step, not dropped."""
    outputs = ["y", "", "", "scores"] if "qk_matmul_output_mode" in extra else ["y"]
    node = helper.make_node("Attention", ["q", "k", "v"], outputs, q_num_heads=HEADS, kv_num_heads=2, **extra)
    scores: list[Info] = [("scores", TensorProto.FLOAT, (BATCH, HEADS, SEQUENCE, SEQUENCE))]
    model = model_of([node], [X], [Y, *scores[: len(outputs) - 3]] if len(outputs) > 1 else [Y], 2, 23)
    arrays = arrays_of(model)
    found = run_reference(fuse_model(import_model(model, None, "operator"), {}), arrays)
    for info, expected in zip(model.graph.output, ReferenceEvaluator(model).run(None, arrays), strict=True):
        np.testing.assert_allclose(found[info.name], expected, rtol=0, atol=1e-5)
