"""The project's own Llama graphs through the front end: full size without weights, and small ones with numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from compiler.frontend import fuse_model
from compiler.graph import RopeAttributes
from compiler.onnx_import import import_model
from compiler.reference import run_reference
from isa.affine import Affine
from models.llama import MODELS, build_llama


@pytest.mark.parametrize("dims", [{"sequence": 1, "past": (0, 8191)}, {"sequence": 2048, "past": 0}], ids=str)
def test_llama_3_8b_without_weights(dims: dict[str, int | tuple[int, int]]) -> None:
    """A full-size graph fuses without its weights, and has a table row for each position."""
    config = MODELS["llama-3-8b"]
    graph = import_model(build_llama(config), None, config.name)
    fused = fuse_model(graph, {"batch": 1, **dims})
    kinds = Counter(operation.kind for operation in fused.operations)
    assert kinds == {"embedding": 1, "rms_norm": 65, "linear": 225, "rope": 64, "attention": 32, "swiglu": 32}
    rope = next(operation for operation in fused.operations if operation.kind == "rope")
    longest = 8192 if dims["sequence"] == 1 else 2048
    assert fused.constants[rope.inputs[2] or ""].value.shape == (longest, 64)
    assert isinstance(rope.attributes, RopeAttributes)
    assert rope.attributes.start == (Affine.symbol("past") if dims["sequence"] == 1 else 0)


@pytest.mark.parametrize("name", [name for name in MODELS if "tiny" in name and "1.1b" not in name])
@pytest.mark.parametrize(("batch", "sequence", "past"), [(1, 5, 0), (2, 1, 9), (2, 3, 4), (1, 1, 0)])
def test_small_llamas_match_the_onnx_reference(name: str, batch: int, sequence: int, past: int) -> None:
    """Prefill, decode and chunks in between give the reference evaluator's logits and caches, past being a range."""
    model = build_llama(MODELS[name], weights=3, dtype="float32")
    fused = fuse_model(import_model(model, None, name), {"batch": batch, "sequence": sequence, "past": (0, 16)})
    random = np.random.default_rng(5)
    inputs: dict[str, np.ndarray] = {}
    for value in fused.inputs:
        shape = fused.values[value].shape
        sizes = tuple(dim if isinstance(dim, int) else dim.evaluate({"past": past}) for dim in shape)
        is_cache = len(shape) == 4
        inputs[value] = random.normal(size=sizes).astype(np.float32) if is_cache else random.integers(0, 50, sizes)
    expected = dict(zip(fused.outputs, ReferenceEvaluator(model).run(None, inputs), strict=True))
    found = run_reference(fused, inputs)
    for output, array in expected.items():
        np.testing.assert_allclose(found[output], array, rtol=1e-3, atol=1e-3, err_msg=output)
