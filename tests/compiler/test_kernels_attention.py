"""Attention against NumPy on the simulator: groups, tails, open pasts, masks, several machines."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.graph import AttentionAttributes, Operation, Value
from isa.affine import Affine, Dim
from simulator import Simulator
from tests.compiler.graphs import Array, GraphWriter, compile_graph, small_machine

CASES = (
    # machine, batch, sequence, past, range of the past, heads, kv heads, head_dim, causal, masked
    ("mtia-2i", 1, 1, 40, None, 4, 2, 16, True, False),
    ("mtia-2i", 2, 7, 0, None, 4, 2, 16, True, True),
    ("mtia-2i", 2, 1, 300, (0, 512), 8, 2, 64, True, True),
    ("mtia-2i", 3, 1, 0, (0, 64), 6, 6, 32, True, False),
    ("mtia-2i", 1, 70, 33, (0, 100), 4, 1, 32, True, False),
    ("mtia-2i", 1, 70, 0, None, 4, 4, 32, False, False),
    ("mtia-2i", 1, 40, 500, (0, 500), 8, 2, 128, True, True),
    ("mtia-v1", 1, 5, 3, None, 6, 3, 80, True, True),
    ("mtia-v1", 1, 50, 3, None, 8, 2, 128, True, True),
    ("mtia-v1", 2, 1, 130, (0, 130), 8, 2, 128, True, False),
    ("hbm-concept", 1, 33, 65, (0, 128), 8, 2, 64, True, False),
)


def _reference(arrays: dict[str, Array], heads: int, kv_heads: int, causal: bool) -> tuple[Array, Array]:
    """Return the result in float64, and which rows see any key."""
    batch, sequence, width = arrays["q"].shape
    head_dim = width // heads

    def split(array: Array, count: int) -> Array:
        return array.reshape(batch, sequence, count, head_dim).transpose(0, 2, 1, 3).astype(np.float64)

    def keys(name: str) -> Array:
        joined = np.concatenate([arrays[f"past_{name}"], split(arrays[name], kv_heads)], axis=2)
        return np.repeat(joined, heads // kv_heads, axis=1)

    q, k, v = split(arrays["q"], heads), keys("k"), keys("v")
    past = k.shape[2] - sequence
    seen = np.ones((batch, 1, sequence, past + sequence), dtype=bool)
    if causal:
        seen &= np.arange(past + sequence) <= past + np.arange(sequence)[:, None]
    if "mask" in arrays:
        seen &= (arrays["mask"] != 0)[:, None, None, :]
    scores = np.where(seen, q @ k.transpose(0, 1, 3, 2) * head_dim**-0.5, -1e30)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    result = weights / weights.sum(-1, keepdims=True) @ v
    return result.transpose(0, 2, 1, 3).reshape(batch, sequence, width), seen.any(-1)[:, 0]


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(item) for item in case))
def test_attention(
    case: tuple[str, int, int, int, tuple[int, int] | None, int, int, int, bool, bool], dtype: str
) -> None:
    """Rows that see a key agree with NumPy, with and without random delays; stated MACs are those issued."""
    machine, batch, sequence, past, bounds, heads, kv_heads, head_dim, causal, masked = case
    length: Dim = Affine.symbol("past") if bounds else past
    host = np.dtype(np.float32 if dtype == "fp32" else np.float16)
    writer, rng = GraphWriter(host.name), np.random.default_rng(past)
    shapes: dict[str, tuple[Dim, ...]] = {"q": (batch, sequence, heads * head_dim)}
    shapes |= dict.fromkeys(("k", "v"), (batch, sequence, kv_heads * head_dim))
    shapes |= {f"past_{name}": (batch, kv_heads, length, head_dim) for name in ("k", "v")}
    arrays: dict[str, Array] = {}
    for name, shape in shapes.items():
        writer.input(name, shape)
        sizes = [past if isinstance(dim, Affine) else dim for dim in shape]
        arrays[name] = rng.standard_normal(sizes).astype(host)
    if masked:
        writer.input("mask", (batch, length + sequence), "int64")
        arrays["mask"] = (rng.random((batch, past + sequence)) > 0.3).astype(np.int64)
    attributes = AttentionAttributes(heads, kv_heads, head_dim, head_dim**-0.5, causal, length)
    inputs = ("q", "k", "v", "past_k", "past_v", "mask" if masked else None)
    writer.values["y"] = Value("y", shapes["q"], host.name)
    writer.operations.append(Operation("attention", "attention", inputs, ("y", None, None), attributes))
    graph = writer.graph("y", symbols={"past": bounds} if bounds else None)
    simulator = Simulator(compile_graph(graph, small_machine(machine), dtype))
    result = simulator.run(arrays)
    delayed = simulator.run(arrays, jitter_cycles=300, jitter_seed=3)

    np.testing.assert_array_equal(result.outputs["y"], delayed.outputs["y"])
    expected, sees = _reference(arrays, heads, kv_heads, causal)
    np.testing.assert_allclose(
        result.outputs["y"][sees], expected[sees], rtol=0, atol=3e-6 if dtype == "fp32" else 3e-3
    )
    operation = result.report.operations[-1]
    assert operation.issued_macs == operation.stated_macs >= operation.useful_macs > 0
