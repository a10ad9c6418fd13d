"""Small checkpoint directories for tests, and a Llama in float64 that reads the same `config.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}

SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 203,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}


def weights_of(config: Mapping[str, Any], seed: int = 0) -> dict[str, Array]:
    """Return random weights in float64 of the published names and shapes; biases where the configuration has them."""
    random = np.random.default_rng(seed)
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    query, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    qwen = config["architectures"] == ["Qwen2ForCausalLM"]
    attention, feed = config.get("attention_bias", False), config.get("mlp_bias", False)
    linears = {
        "self_attn.q_proj": (query, hidden, attention or qwen),
        "self_attn.k_proj": (kv, hidden, attention or qwen),
        "self_attn.v_proj": (kv, hidden, attention or qwen),
        "self_attn.o_proj": (hidden, query, attention),
        "mlp.gate_proj": (wide, hidden, feed),
        "mlp.up_proj": (wide, hidden, feed),
        "mlp.down_proj": (hidden, wide, feed),
    }
    weights = {"model.embed_tokens.weight": random.normal(size=(config["vocab_size"], hidden)) * hidden**-0.5}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name, (outputs, inputs, biased) in linears.items():
            weights[f"{prefix}.{name}.weight"] = random.normal(size=(outputs, inputs)) * inputs**-0.5
            if biased:
                weights[f"{prefix}.{name}.bias"] = random.normal(size=outputs) * 0.3
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}.{name}.weight"] = 1 + 0.2 * random.normal(size=hidden)
    weights["model.norm.weight"] = 1 + 0.2 * random.normal(size=hidden)
    if not config.get("tie_word_embeddings", False):
        weights["lm_head.weight"] = random.normal(size=(config["vocab_size"], hidden)) * hidden**-0.5
    return weights


def safetensors_bytes(weights: Mapping[str, Array]) -> bytes:
    """Return a file of the published format: length, header in JSON, data."""
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in weights.items():
        place = [end, end := end + array.nbytes]
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": place}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in weights.values())


def write_checkpoint(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Array], dtype: str = "F32", shards: int = 1
) -> Path:
    """Write a directory as save_pretrained does, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    stored = {name: array.astype(DTYPES[dtype]) for name, array in weights.items()}
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(stored))
        return folder
    files = [f"model-{number + 1:05}-of-{shards:05}.safetensors" for number in range(shards)]
    for number, file in enumerate(files):
        (folder / file).write_bytes(safetensors_bytes(dict(list(stored.items())[number::shards])))
    weight_map = {name: files[index % shards] for index, name in enumerate(stored)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def llama_logits(config: Mapping[str, Any], weights: Mapping[str, Array], ids: Array) -> Array:
    """Return the logits [batch, sequence, vocabulary] of a prefill, everything in float64, head by head."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim", config["hidden_size"] // heads)
    stream = weights["model.embed_tokens.weight"][ids]
    angles = np.arange(ids.shape[1])[:, None] * _frequencies(config, width)
    hidden_from = np.triu(np.full((ids.shape[1], ids.shape[1]), -np.inf), 1)
    for layer in range(config["num_hidden_layers"]):

        def linear(name: str, value: Array, prefix: str = f"model.layers.{layer}") -> Array:
            return value @ weights[f"{prefix}.{name}.weight"].T + weights.get(f"{prefix}.{name}.bias", 0.0)

        normed = _norm(config, stream, weights[f"model.layers.{layer}.input_layernorm.weight"])
        query, key, value = (linear(f"self_attn.{part}_proj", normed) for part in "qkv")
        mixed = np.zeros_like(query)
        for head in range(heads):
            own, shared = _columns(head, width), _columns(head * kv_heads // heads, width)
            rotated = _rotate(query[..., own], angles), _rotate(key[..., shared], angles)
            scores = rotated[0] @ rotated[1].swapaxes(-1, -2) / math.sqrt(width) + hidden_from
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[..., own] = shares / shares.sum(-1, keepdims=True) @ value[..., shared]
        stream = stream + linear("self_attn.o_proj", mixed)
        normed = _norm(config, stream, weights[f"model.layers.{layer}.post_attention_layernorm.weight"])
        gate = linear("mlp.gate_proj", normed)
        stream = stream + linear("mlp.down_proj", gate / (1 + np.exp(-gate)) * linear("mlp.up_proj", normed))
    head_weight = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return _norm(config, stream, weights["model.norm.weight"]) @ head_weight.T


def _columns(head: int, width: int) -> slice:
    return slice(head * width, (head + 1) * width)


def _norm(config: Mapping[str, Any], value: Array, scale: Array) -> Array:
    return value / np.sqrt((value**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * scale


def _rotate(value: Array, angles: Array) -> Array:
    """Rotate pairs (x, y) that lie half a head apart: x cos - y sin, y cos + x sin."""
    x, y = np.split(value, 2, axis=-1)
    return np.concatenate([x * np.cos(angles) - y * np.sin(angles), y * np.cos(angles) + x * np.sin(angles)], axis=-1)


def _frequencies(config: Mapping[str, Any], width: int) -> Array:
    """Return the angle per position of each pair, by wave lengths as the Llama 3.1 report says."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta", config.get("rope_theta", 1e4))
    frequencies = theta ** -(np.arange(0, width, 2) / width)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "linear":
        return frequencies / rope["factor"]
    if kind == "default":
        return frequencies
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    context = rope["original_max_position_embeddings"]
    result = []
    for frequency in frequencies:
        wave = 2 * math.pi / frequency
        smooth = (context / wave - low) / (high - low)
        if wave < context / high:
            result.append(frequency)
        elif wave > context / low:
            result.append(frequency / rope["factor"])
        else:
            result.append((1 - smooth) * frequency / rope["factor"] + smooth * frequency)
    return np.array(result)
