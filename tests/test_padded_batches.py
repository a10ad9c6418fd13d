"""Sequences of different lengths in one batch, through GroupQueryAttention, against ONNX Runtime on the same file.

The operator pads on the right: prefill of prompts that end early, then decode steps at positions of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime
import pytest

from compiler import compile_model
from isa.errors import SimulationError
from simulator import Simulator
from tests.compiler.exported_models import FOLDER
from tests.compiler.graphs import Array, small_machine

LENGTHS = np.array([9, 4, 7])
BATCH, SEQUENCE, HEAD_DIM = len(LENGTHS), 9, 16


class _Runtime:
    """The file in ONNX Runtime."""

    def __init__(self, path: str) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        caches = [item for item in self.session.get_inputs() if item.name.startswith("past_key_values")]
        dtype = np.float16 if "float16" in caches[0].type else np.float32
        self.empty = {item.name: np.zeros((BATCH, item.shape[1], 0, HEAD_DIM), dtype) for item in caches}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return dict(
            zip((item.name for item in self.session.get_outputs()), self.session.run(None, inputs), strict=True)
        )


def _past(outputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name.replace("present", "past_key_values"): x for name, x in outputs.items() if name != "logits"}


def _flags(lengths: Array, keys: int) -> Array:
    return (np.arange(keys) < lengths[:, None]).astype(np.int64)


def _simulator(path: str, sequence: int, past: int | tuple[int, int], machine: str, dtype: str) -> Simulator:
    dims = {"batch_size": BATCH, "sequence_length": sequence, "past_sequence_length": past, "kv_cache_dim": HEAD_DIM}
    return Simulator(compile_model(path, small_machine(machine), dims=dims, dtype=dtype))


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_padding_on_the_right(dtype: str, machine: str) -> None:
    """Logits of tokens that are not padding agree, and so do the caches as far as each sequence goes."""
    path = str(FOLDER / "genai_fp16_gqa" / "model.onnx")
    runtime, random, flags = _Runtime(path), np.random.default_rng(0), _flags(LENGTHS, SEQUENCE)
    inputs = {"input_ids": random.integers(0, 500, (BATCH, SEQUENCE)), "attention_mask": flags, **runtime.empty}
    expected, found = runtime.run(inputs), _simulator(path, SEQUENCE, 0, machine, dtype).run(inputs).outputs
    is_token = flags.astype(bool)
    np.testing.assert_allclose(found["logits"][is_token], expected["logits"][is_token], rtol=0, atol=2e-2)
    decode = _simulator(path, 1, (1, 20), machine, dtype)
    for step in range(3):
        lengths, keys = LENGTHS + step + 1, SEQUENCE + step + 1
        new = {"input_ids": random.integers(0, 500, (BATCH, 1)), "attention_mask": _flags(lengths, keys)}
        expected, found = runtime.run({**new, **_past(expected)}), decode.run({**new, **_past(found)}).outputs
        np.testing.assert_allclose(found["logits"], expected["logits"], rtol=0, atol=2e-2)
        for name, cache in _past(expected).items():
            present = found[name.replace("past_key_values", "present")]
            is_key = _flags(lengths, keys).astype(bool)[:, None, :, None] & np.ones(cache.shape, bool)
            np.testing.assert_allclose(present[is_key], cache[is_key], rtol=0, atol=2e-2)


def test_padding_on_the_left_is_told_apart() -> None:
    """The operator would take it for padding on the right, as ONNX Runtime silently does."""
    path = str(FOLDER / "genai_fp16_gqa" / "model.onnx")
    flags = _flags(LENGTHS, SEQUENCE)[:, ::-1]
    inputs = {"input_ids": np.zeros((BATCH, SEQUENCE), np.int64), "attention_mask": flags, **_Runtime(path).empty}
    with pytest.raises(SimulationError, match=r"'attention_mask' rises along its last axis: .*padding is on the right"):
        _simulator(path, SEQUENCE, 0, "mtia-2i", "fp32").run(inputs)
