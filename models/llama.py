"""Llama as an ONNX graph (opset 23) with a KV cache, in the op vocabulary of the PyTorch exporter.

One graph serves prefill (`past` = 0) and decode. Inputs: `input_ids` [batch, sequence] int64 and, per layer N,
`past_key_values.N.key` and `.value` [batch, kv_heads, past, head_dim]. Outputs: `logits` [batch, sequence, vocabulary]
and `present.N.key`, `.value`. Every token counts: positions are `past` + 0, 1, ..., there is no padding mask.
Rotary angles are computed in fp32 whatever the element type.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from models.graph_writer import ONNX_TYPES, GraphWriter
from models.llama_config import MODELS, LlamaConfig, RopeScaling
from models.weight_kind import ElementType, Weights

__all__ = ["MODELS", "LlamaConfig", "RopeScaling", "build_llama"]

_TOTAL = "past + sequence"


@dataclass(frozen=True, slots=True)
class _Shared:
    """Values that all layers use: sizes as one-element vectors, the rotary angles, the mask."""

    batch: str
    sequence: str
    total: str
    cosine: str
    sine: str
    mask: str


def build_llama(config: LlamaConfig, weights: Weights = "absent", dtype: ElementType = "float16") -> ModelProto:
    """Return the model with seeded weights (`weights` is the seed) or with references to a file that does not exist.

    Equal arguments give equal bytes. ValueError if the dtype is unknown or seeded weights pass protobuf's 2 GB.
    """
    if dtype not in ONNX_TYPES:
        raise ValueError(f"unknown element type '{dtype}'; known: {', '.join(ONNX_TYPES)}")
    writer = GraphWriter(config.name, dtype, weights)
    writer.check_size(config.parameters)
    return write_llama(writer, config)


def write_llama(writer: GraphWriter, config: LlamaConfig) -> ModelProto:
    """Return the model with the weights that the writer has."""
    # With tied embeddings the table is also the head: small entries keep the logits near 1.
    deviation = config.hidden**-0.5 if config.tied_embeddings else 1.0
    table = writer.weight("model.embed_tokens.weight", (config.vocabulary, config.hidden), deviation=deviation)
    shared = _shared_values(writer, config)
    stream = writer.add("Gather", [table, "input_ids"], "model.embed_tokens", axis=0)
    for layer in range(config.layers):
        stream = _attention(writer, config, shared, layer, stream)
        stream = _feed_forward(writer, config, layer, stream)
    stream = _norm(writer, config, stream, "model.norm")
    _head(writer, config, table, stream)
    return writer.model(_inputs(config, writer.element_type), _outputs(config, writer.element_type))


def _shared_values(writer: GraphWriter, config: LlamaConfig) -> _Shared:
    batch = writer.add("Shape", ["input_ids"], "batch_size", start=0, end=1)
    sequence = writer.add("Shape", ["input_ids"], "sequence_length", start=1, end=2)
    past = writer.add("Shape", ["past_key_values.0.key"], "past_length", start=2, end=3)
    total = writer.add("Add", [past, sequence], "total_length")
    first = writer.add("Squeeze", [past], "first_position")
    end = writer.add("Squeeze", [total], "end_position")
    queries = writer.add("Range", [first, end, writer.integers(1)], "query_positions")
    keys = writer.add("Range", [writer.integers(0), end, writer.integers(1)], "key_positions")
    cosine, sine = _angles(writer, config, queries, batch, sequence)
    mask = _causal_mask(writer, queries, keys, (batch, sequence, total))
    return _Shared(batch, sequence, total, cosine, sine, mask)


def _angles(writer: GraphWriter, config: LlamaConfig, queries: str, batch: str, sequence: str) -> tuple[str, str]:
    """Return cosine and sine of position x frequency, [batch, sequence, head_dim / 2], in the element type."""
    frequencies = np.asarray(config.rope_inverse_frequencies(), dtype=np.float32).reshape(1, 1, -1)
    shape = writer.add("Concat", [batch, sequence], "position_shape", axis=0)
    row = writer.add("Unsqueeze", [queries, writer.integers([0])], "position_row")
    positions = writer.add("Expand", [row, shape], "position_ids")
    column = writer.add("Unsqueeze", [positions, writer.integers([2])], "position_column")
    whole = writer.add("Cast", [column], "position_float", to=TensorProto.FLOAT)
    table = writer.floats(frequencies, "model.rotary_emb.inv_freq")
    angles = writer.add("Mul", [whole, table], "rotary_angles")
    return _in_element_type(writer, "Cos", angles, "rotary_cos"), _in_element_type(writer, "Sin", angles, "rotary_sin")


def _in_element_type(writer: GraphWriter, op: str, angles: str, name: str) -> str:
    if writer.element_type == "float32":
        return writer.add(op, [angles], name)
    exact = writer.add(op, [angles], f"{name}_fp32")
    return writer.add("Cast", [exact], name, to=ONNX_TYPES[writer.element_type])


def _causal_mask(writer: GraphWriter, queries: str, keys: str, sizes: tuple[str, str, str]) -> str:
    """Return bool [batch, 1, sequence, total]: a query sees keys at its own and earlier positions."""
    batch, sequence, total = sizes
    key_row = writer.add("Unsqueeze", [keys, writer.integers([0, 1, 2])], "key_row")
    query_column = writer.add("Unsqueeze", [queries, writer.integers([0, 1, 3])], "query_column")
    visible = writer.add("LessOrEqual", [key_row, query_column], "visible")
    shape = writer.add("Concat", [batch, writer.integers([1]), sequence, total], "mask_shape", axis=0)
    return writer.add("Expand", [visible, shape], "attention_mask")


def _norm(writer: GraphWriter, config: LlamaConfig, stream: str, name: str) -> str:
    scale = writer.weight(f"{name}.weight", (config.hidden,), mean=1.0, deviation=0.1)
    return writer.add("RMSNormalization", [stream, scale], name, axis=-1, epsilon=config.norm_epsilon, stash_type=1)


def _linear(writer: GraphWriter, value: str, name: str, inputs: int, outputs: int, biased: bool) -> str:
    product = writer.add("MatMul", [value, writer.matrix(f"{name}.weight", inputs, outputs)], name)
    if not biased:
        return product
    bias = writer.weight(f"{name}.bias", (outputs,), deviation=0.1)
    return writer.add("Add", [product, bias], f"{name}.biased")


def _attention(writer: GraphWriter, config: LlamaConfig, shared: _Shared, layer: int, stream: str) -> str:
    prefix = f"model.layers.{layer}"
    name = f"{prefix}.self_attn"
    normed = _norm(writer, config, stream, f"{prefix}.input_layernorm")
    query = _heads(writer, config, shared, normed, f"{name}.q_proj", config.heads)
    key = _heads(writer, config, shared, normed, f"{name}.k_proj", config.kv_heads)
    value = _heads(writer, config, shared, normed, f"{name}.v_proj", config.kv_heads)
    query = _rotated(writer, shared, query, f"{name}.query", config.heads)
    key = _rotated(writer, shared, key, f"{name}.key", config.kv_heads)
    keys = writer.add("Concat", [f"past_key_values.{layer}.key", key], f"present.{layer}.key", axis=-2)
    values = writer.add("Concat", [f"past_key_values.{layer}.value", value], f"present.{layer}.value", axis=-2)
    keys = _repeated(writer, config, shared, keys, f"{name}.keys")
    values = _repeated(writer, config, shared, values, f"{name}.values")
    mixed = writer.add(
        "Attention", [query, keys, values, shared.mask], f"{name}.attention", scale=config.head_dim**-0.5, is_causal=0
    )
    tokens = writer.add("Transpose", [mixed], f"{name}.tokens", perm=[0, 2, 1, 3])
    shape = writer.add(
        "Concat", [shared.batch, shared.sequence, writer.integers([config.query_width])], f"{name}.shape", axis=0
    )
    flat = writer.add("Reshape", [tokens, shape], f"{name}.flat")
    output = _linear(writer, flat, f"{name}.o_proj", config.query_width, config.hidden, config.output_bias)
    return writer.add("Add", [stream, output], f"{name}.residual")


def _heads(writer: GraphWriter, config: LlamaConfig, shared: _Shared, value: str, name: str, heads: int) -> str:
    """Project and split into heads: [batch, sequence, hidden] -> [batch, heads, sequence, head_dim]."""
    flat = _linear(writer, value, name, config.hidden, heads * config.head_dim, config.query_key_value_bias)
    sizes = [shared.batch, shared.sequence, writer.integers([heads]), writer.integers([config.head_dim])]
    shape = writer.add("Concat", sizes, f"{name}.shape", axis=0)
    split = writer.add("Reshape", [flat, shape], f"{name}.split")
    return writer.add("Transpose", [split], f"{name}.heads", perm=[0, 2, 1, 3])


def _rotated(writer: GraphWriter, shared: _Shared, value: str, name: str, heads: int) -> str:
    inputs = [value, shared.cosine, shared.sine]
    return writer.add("RotaryEmbedding", inputs, f"{name}.rotated", interleaved=0, num_heads=heads)


def _repeated(writer: GraphWriter, config: LlamaConfig, shared: _Shared, value: str, name: str) -> str:
    """Give each query head its key/value head: [batch, kv_heads, total, d] -> [batch, heads, total, d]."""
    group = config.heads // config.kv_heads
    if group == 1:
        return value
    kv_heads, width = writer.integers([config.kv_heads]), writer.integers([config.head_dim])
    wide = writer.add("Unsqueeze", [value, writer.integers([2])], f"{name}.wide")
    sizes = [shared.batch, kv_heads, writer.integers([group]), shared.total, width]
    expanded = writer.add("Expand", [wide, writer.add("Concat", sizes, f"{name}.group_shape", axis=0)], f"{name}.group")
    sizes = [shared.batch, writer.integers([config.heads]), shared.total, width]
    return writer.add("Reshape", [expanded, writer.add("Concat", sizes, f"{name}.shape", axis=0)], f"{name}.repeated")


def _feed_forward(writer: GraphWriter, config: LlamaConfig, layer: int, stream: str) -> str:
    prefix = f"model.layers.{layer}"
    name = f"{prefix}.mlp"
    normed = _norm(writer, config, stream, f"{prefix}.post_attention_layernorm")
    biased = config.feed_forward_bias
    gate = _linear(writer, normed, f"{name}.gate_proj", config.hidden, config.feed_forward, biased)
    up = _linear(writer, normed, f"{name}.up_proj", config.hidden, config.feed_forward, biased)
    sigmoid = writer.add("Sigmoid", [gate], f"{name}.sigmoid")
    silu = writer.add("Mul", [gate, sigmoid], f"{name}.silu")
    gated = writer.add("Mul", [silu, up], f"{name}.gated")
    output = _linear(writer, gated, f"{name}.down_proj", config.feed_forward, config.hidden, biased)
    return writer.add("Add", [stream, output], f"{name}.residual")


def _head(writer: GraphWriter, config: LlamaConfig, table: str, stream: str) -> None:
    if config.tied_embeddings:
        head = writer.add("Transpose", [table], "lm_head.transposed", perm=[1, 0])
    else:
        head = writer.matrix("lm_head.weight", config.hidden, config.vocabulary)
    writer.add("MatMul", [stream, head], "logits")


def _cache(config: LlamaConfig, dtype: ElementType, prefix: str, length: str) -> list[ValueInfoProto]:
    shape: list[str | int | None] = ["batch", config.kv_heads, length, config.head_dim]
    return [
        helper.make_tensor_value_info(f"{prefix}.{layer}.{part}", ONNX_TYPES[dtype], shape)
        for layer in range(config.layers)
        for part in ("key", "value")
    ]


def _inputs(config: LlamaConfig, dtype: ElementType) -> list[ValueInfoProto]:
    tokens = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    return [tokens, *_cache(config, dtype, "past_key_values", "past")]


def _outputs(config: LlamaConfig, dtype: ElementType) -> list[ValueInfoProto]:
    shape: list[str | int | None] = ["batch", "sequence", config.vocabulary]
    logits = helper.make_tensor_value_info("logits", ONNX_TYPES[dtype], shape)
    return [logits, *_cache(config, dtype, "present", _TOTAL)]
