"""Exported models that no rule was written for: other opsets, biases, packed projections, static caches, full size."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from compiler import compile_model
from compiler.frontend import fuse_model
from compiler.graph import Graph
from compiler.onnx_import import load_onnx
from compiler.pipeline import BACK, FRONT, Options, run_passes
from compiler.reference import run_reference
from isa.affine import Affine
from isa.machine import preset
from simulator import Simulator

DATA = Path(__file__).parents[1] / "data"
VARIANTS = sorted((DATA / "variants").glob("*.onnx"))
VOCABULARY, BATCH = 97, 2
KINDS = {"embedding": 1, "rms_norm": 5, "linear": 15, "rope": 4, "attention": 2, "swiglu": 2}
Dims = dict[str, int | tuple[int, int]]


def sizes_of(graph: Graph, sequence: int, past: int) -> dict[str, int]:
    """Return a size for each named dim."""
    names = {name for value in graph.inputs for dim in graph.values[value].shape for name in _symbols(dim)}
    by_name = {"batch": BATCH, "seq": sequence, "past": past, "total": past + sequence}
    return {name: by_name[name] for name in names}


def _symbols(dim: int | Affine) -> list[str]:
    return [name for name, _ in dim.terms] if isinstance(dim, Affine) else []


def inputs_of(graph: Graph, sizes: dict[str, int], sequence: int, past: int) -> dict[str, Any]:
    """Return random inputs: the first sequence of masks is padded on the left."""
    random = np.random.default_rng(past)
    inputs: dict[str, Any] = {}
    for name in graph.inputs:
        value = graph.values[name]
        shape = [dim if isinstance(dim, int) else dim.evaluate(sizes) for dim in value.shape]
        if name.startswith("pos"):
            inputs[name] = np.broadcast_to(np.arange(past, past + sequence), shape).astype(value.dtype)
        elif "mask" in name:
            inputs[name] = np.ones(shape, value.dtype)
            inputs[name][0, : past // 3] = 0
        elif value.dtype == "float32":
            inputs[name] = random.standard_normal(shape).astype(np.float32)
        else:
            inputs[name] = random.integers(0, VOCABULARY, shape).astype(value.dtype)
    return inputs


def expected_of(path: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs that ONNX Runtime gives."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip([info.name for info in session.get_outputs()], session.run(None, inputs), strict=True))


def dims_of(sizes: dict[str, int]) -> Dims:
    """Return what a user gives: a range for the cache, and not what follows."""
    return {name: (0, 16) if name == "past" else size for name, size in sizes.items() if name != "total"}


@pytest.mark.parametrize(("sequence", "past"), [(3, 6), (1, 9), (5, 0)])
@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_variants_fuse_and_mean_the_same(path: Path, sequence: int, past: int) -> None:
    """Prefill, decode and chunks in between give ONNX Runtime's logits and caches."""
    graph = load_onnx(path)
    sizes = sizes_of(graph, sequence, past)
    fused = fuse_model(graph, dims_of(sizes))
    counts = Counter(operation.kind for operation in fused.operations if operation.kind != "slice")
    is_packed, is_static = "phi3" in path.stem, "static" in path.stem
    assert counts == KINDS | ({"linear": 9} if is_packed else {}) | ({"embedding": 2} if is_static else {})
    inputs = inputs_of(graph, sizes, sequence, past)
    found = run_reference(fused, inputs)
    for name, array in expected_of(path, inputs).items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("path", [path for path in VARIANTS if "static" in path.stem], ids=lambda path: path.stem)
def test_static_caches_run_on_the_chip(path: Path) -> None:
    """Written at positions 9, 10 and 11 of 40, in fp32; all other positions keep their bits."""
    graph = load_onnx(path)
    sizes = sizes_of(graph, 3, 9)
    inputs = inputs_of(graph, sizes, 3, 9)
    machine = preset("mtia-2i").with_changes({"grid.rows": 2, "grid.columns": 3})
    found = Simulator(compile_model(path, machine, "fp32", dims_of(sizes))).run(inputs).outputs
    for name, array in expected_of(path, inputs).items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5, err_msg=name)
    axis = inputs["c0"].shape.index(40)
    others = np.setdiff1d(np.arange(40), inputs["pos"])
    np.testing.assert_array_equal(found["n0"].take(others, axis), inputs["c0"].take(others, axis))


@pytest.mark.parametrize(
    ("file", "dtype", "nodes"),
    [("llama_3_8b_fp16_opset20.onnx", "fp16", 2500), ("llama_3_8b_bf16_opset23.onnx", "bf16", 1900)],
)
def test_full_size_graphs_fuse_and_map_without_their_data(file: str, dtype: str, nodes: int) -> None:
    """An exported Llama-3-8B with 64 cache inputs becomes seven kinds of operations, whose weights nobody reads."""
    graph = load_onnx(DATA / "full_size" / file)
    assert len(graph.operations) > nodes and len(graph.inputs) == 67
    options = Options(preset("mtia-2i"), dtype, {"batch": 1, "seq": 1, "past": (0, 8191)})
    level = run_passes(FRONT, graph, options).level
    assert isinstance(level, Graph)
    assert Counter(operation.kind for operation in level.operations) == {
        "embedding": 1, "rms_norm": 65, "linear": 225, "rope": 64, "attention": 32, "swiglu": 32,
    }  # fmt: skip
    run_passes(BACK, level, options, stop_after="map")
