"""Attention against NumPy on the simulator: groups, tails, open pasts, masks, biases, several machines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from compiler.attention_choice import choose_tile
from compiler.attention_mapping import AttentionTile, Depths
from compiler.graph import AttentionAttributes, Operation, RopeAttributes, Value
from compiler.reference import run_reference
from isa.affine import Affine, Dim
from isa.errors import SimulationError
from simulator import Simulator
from tests.compiler.graphs import Array, GraphWriter, compile_graph, run_graph, small_machine
from tests.simulator.kernels import poison_local_memories

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
    if "bias" in arrays:
        scores = np.maximum(scores + arrays["bias"].astype(np.float64), -1e30)
        seen = np.broadcast_to(seen, scores.shape) & np.isfinite(np.broadcast_to(arrays["bias"], scores.shape))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    result = weights / weights.sum(-1, keepdims=True) @ v
    return result.transpose(0, 2, 1, 3).reshape(batch, sequence, width), seen.any(-1).all(1)


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


PARTS = (
    # machine, batch, heads, kv heads, head_dim, masked, dtype; items that are left over six PEs are cut into parts
    ("mtia-2i", 1, 8, 2, 64, False, "fp16"),
    ("mtia-2i", 1, 4, 1, 128, True, "fp16"),
    ("mtia-2i", 4, 6, 2, 80, True, "fp16"),
    ("mtia-2i", 7, 2, 1, 32, False, "fp32"),
    ("mtia-v1", 1, 8, 2, 128, False, "fp16"),
    ("mtia-300", 3, 3, 3, 64, True, "fp16"),
    ("hbm-concept", 1, 5, 1, 16, False, "fp16"),
)


@pytest.mark.parametrize("case", PARTS, ids=lambda case: "-".join(str(item) for item in case))
def test_parts_of_an_item_join(case: tuple[str, int, int, int, int, bool, str]) -> None:
    """One program serves every past: parts with several chunks, with one, and with no keys at all."""
    machine, batch, heads, kv_heads, head_dim, masked, dtype = case
    host = np.dtype(np.float32 if dtype == "fp32" else np.float16)
    past, writer = Affine.symbol("past"), GraphWriter(host.name)
    shapes: dict[str, tuple[Dim, ...]] = {"q": (batch, 1, heads * head_dim)}
    shapes |= dict.fromkeys(("k", "v"), (batch, 1, kv_heads * head_dim))
    shapes |= {f"past_{name}": (batch, kv_heads, past, head_dim) for name in ("k", "v")}
    for name, shape in shapes.items():
        writer.input(name, shape)
    if masked:
        writer.input("mask", (batch, past + 1), "int64")
    attributes = AttentionAttributes(heads, kv_heads, head_dim, head_dim**-0.5, True, past)
    inputs = ("q", "k", "v", "past_k", "past_v", "mask" if masked else None)
    writer.values["y"] = Value("y", shapes["q"], host.name)
    writer.operations.append(Operation("attention", "attention", inputs, ("y", None, None), attributes))
    program = compile_graph(writer.graph("y", symbols={"past": (0, 1500)}), small_machine(machine), dtype)
    launch = program.entries[0].launches[-1]
    names = program.kernels[launch.kernel].arguments
    assert launch.arguments[names.index("parts")].expression > 1
    simulator = Simulator(program)
    for length in (0, 1, 31, 32, 33, 100, 190, 191, 192, 700, 1500):
        rng = np.random.default_rng(length)
        arrays: dict[str, Array] = {
            name: rng.standard_normal([length if isinstance(dim, Affine) else dim for dim in shape]).astype(host)
            for name, shape in shapes.items()
        }
        if masked:
            arrays["mask"] = (rng.random((batch, length + 1)) > 0.3).astype(np.int64)
        result = simulator.run(arrays)
        delayed = simulator.run(arrays, jitter_cycles=300, jitter_seed=3)
        np.testing.assert_array_equal(result.outputs["y"], delayed.outputs["y"])
        expected, sees = _reference(arrays, heads, kv_heads, True)
        np.testing.assert_allclose(
            result.outputs["y"][sees], expected[sees], rtol=0, atol=3e-6 if dtype == "fp32" else 3e-3
        )
        operation = result.report.operations[-1]
        assert operation.issued_macs == operation.stated_macs >= operation.useful_macs > 0


TILES = (
    # machine, tokens, blocks of tokens, heads, keys, slots of (q, k, v, v transposed...), ways and kind of mask
    ("mtia-2i", 32, 1, 4, 64, (1, 2, 1, 2, 1), ""),
    ("mtia-2i", 32, 2, 2, 96, (2, 2, 2, 2, 2), "mask"),
    ("mtia-2i", 16, 4, 1, 32, (1, 2, 1, 1, 1), ""),
    ("mtia-2i", 32, 2, 4, 64, (2, 2, 1, 2, 1), "bias"),
    ("mtia-2i", 32, 1, 2, 256, (2, 2, 2, 2, 2), "open"),
    ("mtia-v1", 32, 2, 1, 32, (1, 2, 1, 1, 1), ""),
    ("mtia-v1", 16, 1, 4, 64, (1, 2, 1, 1, 1), "mask"),
    ("mtia-300", 32, 8, 2, 64, (2, 2, 2, 2, 2), "open"),
    ("hbm-concept", 8, 2, 4, 128, (1, 2, 1, 2, 1), "mask"),
    ("mtia-v1", 32, 1, 1, 64, (1, 1, 1, 1, 1, 1, 1), "shared carried"),
    ("mtia-2i", 32, 1, 2, 96, (2, 2, 1, 2, 1), "shared"),
    ("mtia-2i", 16, 2, 2, 32, (1, 2, 1, 1, 1, 1, 1), "carried"),
    ("mtia-v1", 32, 2, 2, 32, (1, 2, 1, 2, 1), "carried mask"),
    ("mtia-300", 32, 2, 1, 64, (1, 1, 1, 1, 1), "shared carried open"),
    ("hbm-concept", 32, 1, 4, 128, (1, 2, 1, 2, 1), "carried bias"),
    ("mtia-v1", 32, 1, 2, 64, (1, 1, 1, 1, 1, 1, 2), "shared carried narrow"),
    ("mtia-v1", 16, 2, 1, 32, (1, 1, 1, 1, 1, 2, 1), "carried narrow open"),
    ("mtia-2i", 32, 1, 1, 96, (2, 2, 2, 2, 1), "shared carried narrow"),
)


@pytest.mark.parametrize("case", TILES, ids=lambda case: "-".join(str(item) for item in case))
def test_tiles_of_many_blocks(
    case: tuple[str, int, int, int, int, tuple[int, ...], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items of several blocks of rows, the last ones short, over several chunks; rows beyond the end change nothing."""
    machine, tokens, token_blocks, heads, keys, depths, kinds = case
    mask = kinds.split()[-1] if kinds else ""
    batch, sequence, head_count, kv_heads, head_dim = 2, 165, 8, 2, 48
    chosen: list[AttentionTile] = []

    def choose(*arguments: Any) -> AttentionTile:
        changes = {"tokens": tokens, "token_blocks": token_blocks, "heads": heads, "keys": keys}
        ways = {f"is_{way}": way in kinds for way in ("shared", "carried", "narrow")}
        tile = replace(choose_tile(*arguments), **changes, **ways, depths=Depths(*depths))
        chosen.append(tile)
        return tile

    monkeypatch.setattr("compiler.kernels.attention.choose_tile", choose)
    is_causal, past = mask != "open", Affine.symbol("past")
    writer, rng = GraphWriter(), np.random.default_rng(tokens)
    shapes: dict[str, tuple[Dim, ...]] = {"q": (batch, sequence, head_count * head_dim)}
    shapes |= dict.fromkeys(("k", "v"), (batch, sequence, kv_heads * head_dim))
    shapes |= {f"past_{name}": (batch, kv_heads, past, head_dim) for name in ("k", "v")}
    shapes |= {"mask": (batch, past + sequence)} if mask == "mask" else {}
    shapes |= {"bias": (1, head_count, sequence, past + sequence)} if mask == "bias" else {}
    for name, shape in shapes.items():
        writer.input(name, shape, "int64" if name == "mask" else None)
    attributes = AttentionAttributes(head_count, kv_heads, head_dim, head_dim**-0.5, is_causal, past)
    optional = (("mask" if mask == "mask" else None), *(("bias",) if mask == "bias" else ()))
    writer.values["y"] = Value("y", shapes["q"], "float16")
    inputs = ("q", "k", "v", "past_k", "past_v", *optional)
    writer.operations.append(Operation("attention", "attention", inputs, ("y", None, None), attributes))
    simulator = Simulator(compile_graph(writer.graph("y", symbols={"past": (0, 200)}), small_machine(machine)))
    assert chosen[0].items > 6 and (not chosen[0].is_shared or chosen[0].tiles * chosen[0].head_groups % 3 == 0)
    for length in (0, 7, 200):
        sizes = {
            name: [length + dim.constant if isinstance(dim, Affine) else dim for dim in shape]
            for name, shape in shapes.items()
        }
        arrays = {name: rng.standard_normal(size).astype(np.float16) for name, size in sizes.items()}
        if mask == "mask":
            arrays["mask"] = (rng.random(sizes["mask"]) > 0.3).astype(np.int64)  # type: ignore[assignment]
        with pytest.MonkeyPatch.context() as context:
            poison_local_memories(context)
            result = simulator.run(arrays)
        delayed = simulator.run(arrays, jitter_cycles=300, jitter_seed=3)
        np.testing.assert_array_equal(result.outputs["y"], delayed.outputs["y"])
        expected, sees = _reference(arrays, head_count, kv_heads, is_causal)
        np.testing.assert_allclose(result.outputs["y"][sees], expected[sees], rtol=0, atol=3e-3)
        operation = result.report.operations[-1]
        assert operation.issued_macs == operation.stated_macs >= operation.useful_macs > 0


LARGE = {
    "rising": np.repeat(np.arange(6) * 4.0, 32)[:165],  # by 32 after the scale, from chunk to chunk
    "sink": np.where(np.arange(165) < 5, 32.0, 31.5),  # 2048 before the scale, where fp16 knows even numbers only
    "far above the first": np.where(np.arange(165) < 64, -200.0, 200.0),
}


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("heights", LARGE)
def test_narrow_scores_may_be_large(heights: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is close to the largest score of a row counts as in NumPy, however large it is and wherever it comes."""

    def choose(*arguments: Any) -> AttentionTile:
        changes = {"tokens": 32, "token_blocks": 2, "heads": 1, "keys": 64, "is_carried": True, "is_narrow": True}
        return replace(choose_tile(*arguments), **changes, depths=Depths(1, 1, 1, 1, 1, 1, 1))

    monkeypatch.setattr("compiler.kernels.attention.choose_tile", choose)
    sequence, heads, kv_heads, head_dim = 165, 4, 2, 64
    host = np.dtype(np.float16 if dtype == "fp16" else ml_dtypes.bfloat16)
    writer, rng = GraphWriter(host.name), np.random.default_rng(3)
    arrays: dict[str, Array] = {}
    for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        array = rng.standard_normal((1, sequence, count, head_dim))
        if name != "v":
            array[..., 0] = 64.0 if name == "q" else LARGE[heights][:, None]
        writer.input(name, (1, sequence, count * head_dim))
        arrays[name] = array.reshape(1, sequence, -1).astype(host)
    for name in ("past_k", "past_v"):
        writer.input(name, (1, kv_heads, 0, head_dim))
        arrays[name] = np.zeros((1, kv_heads, 0, head_dim), dtype=host)
    attributes = AttentionAttributes(heads, kv_heads, head_dim, head_dim**-0.5, True, 0)
    writer.values["y"] = Value("y", (1, sequence, heads * head_dim), host.name)
    inputs = ("q", "k", "v", "past_k", "past_v", None)
    writer.operations.append(Operation("attention", "attention", inputs, ("y", None, None), attributes))
    outputs = run_graph(writer.graph("y"), small_machine("mtia-v1"), arrays, dtype)
    expected, _ = _reference(arrays, heads, kv_heads, True)
    tolerance = 3e-3 if dtype == "fp16" else 2e-2
    np.testing.assert_allclose(outputs["y"].astype(np.float64), expected, rtol=0, atol=tolerance)


BIASES = (
    # machine, batch, sequence, past, range of the past, heads, kv heads, head_dim, masked, shape of the bias
    ("mtia-2i", 2, 7, 33, None, 4, 2, 16, False, ("tokens",)),
    ("mtia-2i", 2, 70, 30, None, 6, 2, 16, True, ("batch", "one", "tokens")),
    ("mtia-2i", 1, 37, 300, (0, 301), 6, 3, 32, False, ("one", "heads", "tokens")),
    ("mtia-2i", 3, 1, 150, (0, 300), 6, 2, 32, True, ("batch", "heads", "tokens")),
    ("mtia-2i", 2, 1, 130, None, 4, 2, 16, False, ("batch", "one", "one")),
    ("mtia-2i", 1, 9, 20, None, 4, 4, 16, False, ()),
    ("mtia-v1", 2, 5, 70, None, 6, 3, 80, False, ("batch", "heads", "one")),
    ("mtia-v1", 2, 1, 130, (0, 130), 8, 2, 128, False, ("one", "one", "tokens")),
)


@pytest.mark.parametrize("case", BIASES, ids=lambda case: "-".join(str(item) for item in case))
@pytest.mark.parametrize("is_constant", [False, True], ids=["input", "constant"])
def test_bias(
    case: tuple[str, int, int, int, tuple[int, int] | None, int, int, int, bool, tuple[str, ...]], is_constant: bool
) -> None:
    """A tensor that is added to the scores, minus infinity included, may differ by sequence, head and token."""
    machine, batch, sequence, past, bounds, heads, kv_heads, head_dim, masked, axes = case
    if is_constant and bounds:
        return  # a constant has one length
    length: Dim = Affine.symbol("past") if bounds else past
    writer, rng = GraphWriter(), np.random.default_rng(past)
    sizes = {"one": 1, "batch": batch, "heads": heads, "tokens": sequence}
    shapes: dict[str, tuple[Dim, ...]] = {"q": (batch, sequence, heads * head_dim)}
    shapes |= dict.fromkeys(("k", "v"), (batch, sequence, kv_heads * head_dim))
    shapes |= {f"past_{name}": (batch, kv_heads, length, head_dim) for name in ("k", "v")}
    arrays: dict[str, Array] = {}
    for name, shape in shapes.items():
        writer.input(name, shape)
        arrays[name] = rng.standard_normal([past if isinstance(dim, Affine) else dim for dim in shape])
    bias = rng.standard_normal((*(sizes[axis] for axis in axes), past + sequence))
    bias = np.where(rng.random(bias.shape) < 0.3, -np.inf, bias).astype(np.float16)
    if is_constant:
        writer.constant("bias", bias)
    else:
        writer.input("bias", (*(sizes[axis] for axis in axes), length + sequence))
        arrays["bias"] = bias
    if masked:
        writer.input("mask", (batch, length + sequence), "int64")
        arrays["mask"] = (rng.random((batch, past + sequence)) > 0.3).astype(np.int64)
    arrays = {name: array if name == "mask" else array.astype(np.float16) for name, array in arrays.items()}
    attributes = AttentionAttributes(heads, kv_heads, head_dim, head_dim**-0.5, False, length)
    inputs = ("q", "k", "v", "past_k", "past_v", "mask" if masked else None, "bias")
    writer.values["y"] = Value("y", shapes["q"], "float16")
    writer.operations.append(Operation("attention", "attention", inputs, ("y", None, None), attributes))
    graph = writer.graph("y", symbols={"past": bounds} if bounds else None)
    outputs = run_graph(graph, small_machine(machine), arrays)

    expected, sees = _reference({**arrays, "bias": bias}, heads, kv_heads, False)
    np.testing.assert_allclose(outputs["y"][sees], expected[sees], rtol=0, atol=4e-3)


STATIC = (
    # machine, batch, sequence, length of the cache, heads, kv heads, head_dim, places by sequence, arrangement
    ("mtia-2i", 1, 7, 40, 4, 2, 16, False, (0, 2, 1, 3)),
    ("mtia-2i", 2, 1, 150, 6, 2, 32, True, (0, 1, 2, 3)),
    ("mtia-2i", 2, 9, 70, 4, 4, 20, True, (2, 0, 1, 3)),
    ("mtia-v1", 2, 5, 33, 6, 3, 80, False, (0, 2, 1, 3)),
)


@pytest.mark.parametrize("case", STATIC, ids=lambda case: "-".join(str(item) for item in case))
@pytest.mark.parametrize("rotates", [False, True], ids=["copied", "rotated"])
def test_static_cache(
    case: tuple[str, int, int, int, int, int, int, bool, tuple[int, int, int, int]], rotates: bool
) -> None:
    """Keys and values go to runtime positions of a cache in any arrangement; what is not written stays."""
    machine, batch, sequence, length, heads, kv_heads, head_dim, by_sequence, axes = case
    writer, rng = GraphWriter(), np.random.default_rng(length)
    canonical = (batch, kv_heads, length, head_dim)
    shapes: dict[str, tuple[Dim, ...]] = {"q": (batch, sequence, heads * head_dim)}
    shapes |= dict.fromkeys(("k", "v"), (batch, sequence, kv_heads * head_dim))
    shapes |= {f"past_{name}": tuple(canonical[axis] for axis in axes) for name in ("k", "v")}
    arrays: dict[str, Array] = {}
    for name, shape in shapes.items():
        writer.input(name, shape)
        arrays[name] = rng.standard_normal(shape).astype(np.float16)  # type: ignore[arg-type]
    rows = batch if by_sequence else 1
    places = np.stack([rng.permutation(length)[:sequence] for _ in range(rows)])
    arrays["places"] = places if by_sequence else places[0]
    writer.input("places", arrays["places"].shape, "int64")
    bias = np.where(np.arange(length) <= np.arange(length)[:, None], 0, -np.inf).astype(np.float32)
    writer.constant("table", bias)
    writer.add("embedding", ("places", "table"), "bias", (rows, sequence, length))
    key = "k"
    if rotates:
        angles = rng.random((length, head_dim // 2))
        writer.constant("cosines", np.cos(angles).astype(np.float32))
        writer.constant("sines", np.sin(angles).astype(np.float32))
        rope = RopeAttributes(kv_heads, head_dim, False, None)
        key = writer.add("rope", ("k", "places", "cosines", "sines"), "rotated", shapes["k"], rope)
    for name in ("k", "v"):
        writer.values[f"present_{name}"] = Value(f"present_{name}", shapes[f"past_{name}"], "float16")
    attributes = AttentionAttributes(heads, kv_heads, head_dim, head_dim**-0.5, False, length - sequence, axes)
    inputs = ("q", key, "v", "past_k", "past_v", None, "bias", "places")
    writer.values["y"] = Value("y", shapes["q"], "float16")
    outputs = ("y", "present_k", "present_v")
    writer.operations.append(Operation("attention", "attention", inputs, outputs, attributes))
    graph = writer.graph(*outputs)
    found = run_graph(graph, small_machine(machine), arrays)
    expected = run_reference(graph, arrays)
    for name in outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-3, atol=4e-3, err_msg=name)
    untouched = np.setdiff1d(np.arange(length), places)
    axis = axes.index(2)
    np.testing.assert_array_equal(
        found["present_v"].take(untouched, axis), arrays["past_v"].take(untouched, axis)
    )  # fmt: skip


def test_places_beyond_the_cache_are_refused() -> None:
    """A position that the cache does not have is an error before anything runs."""
    writer = GraphWriter()
    for name in ("q", "k", "v"):
        writer.input(name, (1, 1, 32))
    for name in ("past_k", "past_v"):
        writer.input(name, (1, 1, 40, 32))
    writer.input("places", (1,), "int64")
    writer.values["y"] = Value("y", (1, 1, 32), "float16")
    attributes = AttentionAttributes(1, 1, 32, 1.0, False, 39)
    inputs = ("q", "k", "v", "past_k", "past_v", None, None, "places")
    writer.operations.append(Operation("attention", "attention", inputs, ("y", None, None), attributes))
    arrays: dict[str, Array] = {
        name: np.zeros(value.shape, np.float16) for name, value in writer.values.items() if name != "y"
    }
    for place in (40, -1):
        with pytest.raises(SimulationError, match="positions of the cache"):
            run_graph(writer.graph("y"), small_machine(), {**arrays, "places": np.array([place])})
