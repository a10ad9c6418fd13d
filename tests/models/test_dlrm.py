"""DLRM graphs: published sizes, the same probabilities on the chip as from ONNX Runtime, no data if absent."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest

from compiler import compile_model
from compiler.frontend import fuse_model
from compiler.onnx_import import import_model
from models import DLRM_MODELS, DlrmConfig, build
from models.dlrm import build_dlrm
from simulator import Simulator
from tests.compiler.graphs import small_machine

# Rows of all tables, indices per sample (MLPerf's own figures: 187.8 and 204.2 million rows, 26 and 214 indices).
PUBLISHED = {"dlrm-mlperf": (187_767_399, 26), "dlrm-dcnv2": (204_184_588, 214)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    config = DLRM_MODELS[name]
    assert (sum(config.table_rows), sum(config.hot)) == PUBLISHED[name]
    assert len(config.table_rows) == 26 and config.interaction_width == (479 if name == "dlrm-mlperf" else 3456)


@pytest.mark.parametrize("name", DLRM_MODELS)
def test_everything_fuses(name: str) -> None:
    """Only layers, bags, and products or cross layers are left, at full size too."""
    config = DLRM_MODELS[name]
    model = build(name)
    assert all(
        tensor.data_location == onnx.TensorProto.EXTERNAL
        for tensor in model.graph.initializer
        if "weight" in tensor.name
    )
    kinds = [operation.kind for operation in fuse_model(import_model(model, None, name), {"batch": 64}).operations]
    assert kinds.count("embedding_bag") == len(config.table_rows)
    assert kinds.count("linear") == len(config.layers) + 2 * config.cross_layers
    assert set(kinds) == {"linear", "embedding_bag"} | (
        {"join", "pointwise"} if config.cross_layers else {"interaction"}
    )


def _inputs(config: DlrmConfig, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    inputs = {"dense": rng.standard_normal((batch, config.dense)).astype(np.float32)}
    for table, (rows, hot) in enumerate(zip(config.table_rows, config.hot, strict=True)):
        inputs[f"indices.{table}"] = rng.integers(0, rows, (batch, hot))
    return inputs


@pytest.mark.parametrize(("machine", "dtype"), [("mtia-2i", "fp32"), ("mtia-v1", "fp32"), ("mtia-2i", "fp16")])
@pytest.mark.parametrize(("name", "batch"), [("dlrm-tiny", 1), ("dlrm-tiny", 37), ("dlrm-dcnv2-tiny", 23)])
def test_probabilities_are_those_of_onnx_runtime(name: str, batch: int, machine: str, dtype: str) -> None:
    model, inputs = build(name, 7, "float32"), _inputs(DLRM_MODELS[name], batch)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)
    program = compile_model(model, small_machine(machine), dtype, dims={"batch": batch})
    result = Simulator(program).run(inputs).outputs["probability"]
    assert np.ptp(expected) > 0.01 or batch == 1
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 if dtype == "fp32" else 1e-2)


@pytest.mark.parametrize("name", ["dlrm-mlperf", "dlrm-dcnv2"])
def test_kernels_of_full_size_programs_give_the_probabilities_of_onnx_runtime(name: str) -> None:
    """With tables of few rows the program has the very kernels of the full-size one; those are executed."""
    batch, config = 192, DLRM_MODELS[name]
    small = dataclasses.replace(config, table_rows=tuple(min(rows, 97) for rows in config.table_rows))
    model = build_dlrm(small, 3, "float32")
    program = compile_model(model, "mtia-2i", "fp16", dims={"batch": batch})
    full = compile_model(build(name, "absent", "float32"), "mtia-2i", "fp16", dims={"batch": batch})
    assert program.kernels == full.kernels
    inputs = _inputs(small, batch)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)
    result = Simulator(program).run(inputs).outputs["probability"]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-2)


def test_sizes_that_do_not_fit_are_refused() -> None:
    config = DLRM_MODELS["dlrm-tiny"]
    for changes, text in (({"bottom": (48, 8)}, "8 elements, rows have 16"), ({"hot": (1,)}, "5 tables, and 1 counts"),
                          ({"cross_layers": 2}, "need a rank"), ({"dim": 0}, "at least 1")):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            dataclasses.replace(config, **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown element type"):
        build_dlrm(config, 0, "float8")  # type: ignore[arg-type]
