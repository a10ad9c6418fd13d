"""Llama graphs: published sizes, a KV cache that agrees with a one-shot prefill, equal bytes, no data if absent."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from models import DLRM_MODELS, MODELS, build, list_models
from models.llama import LlamaConfig, RopeScaling, build_llama

TINY = ("llama-tiny", "llama-tiny-wide", "llama-tiny-odd")

# Published totals and cache sizes per token.
PUBLISHED = {
    "llama-2-7b": (6_738_415_616, 262_144),
    "llama-2-13b": (13_015_864_320, 409_600),
    "llama-2-70b": (68_976_648_192, 163_840),
    "llama-3-8b": (8_030_261_248, 65_536),
    "llama-3-70b": (70_553_706_496, 163_840),
    "llama-3.1-8b": (8_030_261_248, 65_536),
    "llama-3.1-70b": (70_553_706_496, 163_840),
    "llama-3.1-405b": (405_853_388_800, 258_048),
    "llama-3.2-1b": (1_235_814_400, 16_384),
    "llama-3.2-3b": (3_212_749_824, 57_344),
    "tinyllama-1.1b": (1_100_048_384, 11_264),
}


def _weight_elements(model: onnx.ModelProto) -> int:
    names = [tensor for tensor in model.graph.initializer if tensor.name.endswith(".weight")]
    return sum(math.prod(tensor.dims) for tensor in names)


def test_every_model_is_listed() -> None:
    """The published models and the tiny ones, under the name in their configuration."""
    assert set(list_models()) == {*PUBLISHED, *TINY, *DLRM_MODELS}
    assert all(config.name == name for name, config in MODELS.items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    """Parameter totals and cache elements per token equal the published figures."""
    assert (MODELS[name].parameters, MODELS[name].kv_cache_elements_per_token) == PUBLISHED[name]


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_holds_exactly_the_weights_of_the_configuration(name: str) -> None:
    """Without weights: every weight is referenced at its own place, and none has data."""
    model = build(name, dtype="float16")
    assert _weight_elements(model) == MODELS[name].parameters
    weights = [tensor for tensor in model.graph.initializer if tensor.name.endswith(".weight")]
    end = 0
    for tensor in weights:
        place = {entry.key: entry.value for entry in tensor.external_data}
        assert place["location"] == f"{name}.data"
        assert int(place["offset"]) >= end
        assert int(place["length"]) == 2 * math.prod(tensor.dims)
        end = int(place["offset"]) + int(place["length"])
        assert not tensor.raw_data
    assert model.ByteSize() < 3_000_000


def test_dims_have_their_names() -> None:
    """Inputs use exactly batch, sequence and past."""
    model = build("llama-3-8b")
    dims = {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*model.graph.input, *model.graph.output)}  # fmt: skip
    assert dims["input_ids"] == ["batch", "sequence"]
    assert dims["past_key_values.31.value"] == ["batch", 8, "past", 128]
    assert dims["logits"] == ["batch", "sequence", 128256]
    assert dims["present.0.key"] == ["batch", 8, "past + sequence", 128]
    assert len(model.graph.input) == 65


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_graphs_are_valid_onnx(name: str, dtype: str) -> None:
    """The checker and strict shape inference accept every element type."""
    model = build(name, weights=0, dtype=dtype)
    onnx.checker.check_model(model, full_check=True)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, tokens: np.ndarray, past: list[np.ndarray]) -> list[np.ndarray]:
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, [tokens, *past], strict=True)))


@pytest.mark.parametrize("name", TINY)
def test_decode_with_the_cache_equals_one_shot(name: str) -> None:
    """Prefill, then a step of one token and one of two, give the logits and the cache of a single prefill."""
    config = MODELS[name]
    session = _session(build(name, weights=7, dtype="float32"))
    tokens = np.random.default_rng(3).integers(0, config.vocabulary, (2, 9))
    empty = [np.zeros((2, config.kv_heads, 0, config.head_dim), np.float32)] * (2 * config.layers)
    whole = _run(session, tokens, empty)
    pieces = [_run(session, tokens[:, :6], empty)]
    pieces.append(_run(session, tokens[:, 6:7], pieces[-1][1:]))
    pieces.append(_run(session, tokens[:, 7:], pieces[-1][1:]))
    logits = np.concatenate([piece[0] for piece in pieces], axis=1)
    np.testing.assert_allclose(logits, whole[0], atol=1e-4)
    for cached, direct in zip(pieces[-1][1:], whole[1:], strict=True):
        np.testing.assert_allclose(cached, direct, atol=1e-4)
    assert 0.3 < whole[0].std() < 3
    assert len(np.unique(whole[0].argmax(axis=-1))) > 9


@pytest.mark.parametrize("name", TINY)
def test_the_graph_computes_llama(name: str) -> None:
    """The graph agrees with Llama written directly in NumPy (float64)."""
    config = MODELS[name]
    model = build(name, weights=1, dtype="float32")
    tokens = np.random.default_rng(5).integers(0, config.vocabulary, (1, 7))
    empty = [np.zeros((1, config.kv_heads, 0, config.head_dim), np.float32)] * (2 * config.layers)
    logits = _run(_session(model), tokens, empty)[0]
    np.testing.assert_allclose(logits[0], _llama(config, model, tokens[0]), atol=1e-4)


def _llama(config: LlamaConfig, model: onnx.ModelProto, tokens: np.ndarray) -> np.ndarray:
    weights = {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon) * weights[f"{name}.weight"]

    stream = weights["model.embed_tokens.weight"][tokens]
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}"
        x = norm(stream, f"{prefix}.input_layernorm")
        q, k, v = (x @ weights[f"{prefix}.self_attn.{part}_proj.weight"] for part in "qkv")
        stream = stream + _attend(config, q, k, v) @ weights[f"{prefix}.self_attn.o_proj.weight"]
        x = norm(stream, f"{prefix}.post_attention_layernorm")
        gate, up = (x @ weights[f"{prefix}.mlp.{part}_proj.weight"] for part in ("gate", "up"))
        stream = stream + (gate / (1 + np.exp(-gate)) * up) @ weights[f"{prefix}.mlp.down_proj.weight"]
    head = weights["model.embed_tokens.weight"].T if config.tied_embeddings else weights["lm_head.weight"]
    return norm(stream, "model.norm") @ head


def _attend(config: LlamaConfig, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    length, group = len(q), config.heads // config.kv_heads
    angles = np.arange(length)[:, None] * np.asarray(config.rope_inverse_frequencies())

    def rotated(x: np.ndarray) -> np.ndarray:
        first, second = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    q = rotated(q.reshape(length, config.heads, config.head_dim))
    k = np.repeat(rotated(k.reshape(length, config.kv_heads, config.head_dim)), group, axis=1)
    v = np.repeat(v.reshape(length, config.kv_heads, config.head_dim), group, axis=1)
    scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(config.head_dim)
    scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hqk,khd->qhd", shares / shares.sum(-1, keepdims=True), v).reshape(length, -1)


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Deterministic across processes and hash seeds; another seed gives other weights."""
    code = (
        "import hashlib; from models import build;"
        "print(hashlib.sha256(build('llama-tiny', weights=4).SerializeToString(deterministic=True)).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            check=True, capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1
    assert build("llama-tiny", weights=4) != build("llama-tiny", weights=5)


def test_importing_models_loads_no_onnx() -> None:
    """Names and sizes are cheap to list."""
    code = "import sys, models; models.list_models(); print('onnx' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


def test_llama_3_rope_scaling_equals_the_exporters_constant() -> None:
    """Frequencies of a llama3-scaled model as transformers computes them: 64 wide, 8 heads of 8."""
    config = LlamaConfig("scaled", 64, 2, 8, 8, 8, 172, 512, 512, 5e5, RopeScaling(8.0, original_context=64))
    expected = [1.0, 0.004700753837823868, 0.00017677668074611574, 6.647869668086059e-06]
    np.testing.assert_allclose(config.rope_inverse_frequencies(), expected, rtol=1e-6)


def test_rope_scaling_blends_between_short_and_long_waves() -> None:
    """A wave that turns 2.5 times in the original context lies half-way: the mean of kept and stretched."""
    scaling = RopeScaling(8.0, original_context=64)
    theta = (2 * math.pi * 2.5 / 64) ** -2  # the second of two frequencies is theta ** -0.5
    config = LlamaConfig("blend", 4, 1, 1, 1, 4, 4, 4, 64, theta, scaling)
    assert config.rope_inverse_frequencies()[1] == pytest.approx(theta**-0.5 * (1 + 1 / 8) / 2)


def test_wrong_arguments_are_refused_with_a_reason() -> None:
    """Unknown names, element types and sizes; weights too large to hold."""
    with pytest.raises(ValueError, match="did you mean 'llama-3-8b'"):
        build("llama3-8b")
    with pytest.raises(ValueError, match="unknown element type 'int8'"):
        build("llama-tiny", dtype="int8")
    with pytest.raises(ValueError, match="do not fit into an ONNX file"):
        build("llama-3-8b", weights=0)
    for field, value in (("kv_heads", 3), ("head_dim", 15), ("layers", 0)):
        values = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "feed_forward": 8} | {
            field: value
        }
        with pytest.raises(ValueError, match="mine: "):
            build_llama(LlamaConfig("mine", **values, vocabulary=9, context=9))


def test_a_llama_can_have_fewer_layers() -> None:
    """One layer of a large model is enough to compare machines; others have none to count."""
    inputs = [port.name for port in build("llama-3-8b", layers=1).graph.input]
    assert inputs == ["input_ids", "past_key_values.0.key", "past_key_values.0.value"]
    with pytest.raises(ValueError, match="every size must be at least 1"):
        build("llama-tiny", layers=0)
    with pytest.raises(ValueError, match="dlrm-tiny has no decoder layers"):
        build("dlrm-tiny", layers=1)
