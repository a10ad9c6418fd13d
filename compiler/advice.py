"""What to use instead of an operator that is not supported, and the exporter's option that avoids it, if it has one."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.graph import OnnxAttributes


@dataclass(frozen=True, slots=True)
class Advice:
    """The nearest form that is supported, and how to get it out of an exporter."""

    nearest: str
    option: str = ""

    def __str__(self) -> str:
        return f"nearest supported: {self.nearest}" + (f"; {self.option}" if self.option else "")


def _without(option: str, nearest: str) -> Advice:
    return Advice(nearest, f"in onnxruntime.transformers set FusionOptions.{option} = False")


_BY_DATA = Advice(
    "Where with a mask, which keeps all places",
    "in PyTorch use torch.where or a product with a mask in place of boolean indexing",
)
_SEQUENCE = Advice(
    "Split, Concat and Slice of tensors", "export with torch.onnx.export(dynamo=True) and fixed list lengths"
)
_RANDOM = Advice("random numbers as an input of the model", "export in evaluation mode: model.eval()")
_LOOP = Advice(
    "loops over the bags of nn.EmbeddingBag, all of one size",
    "write bags as nn.Embedding(...).sum(1); torch.onnx.export(dynamo=True) unrolls Python loops of fixed length",
)
_OPTIMIZED = Advice("the operators it was fused from", "save the optimized model at ORT_ENABLE_BASIC")
_RECURRENT = Advice("MatMul, Sigmoid and Tanh step by step")
_CONVOLUTION = Advice("MatMul of patches that Slice, Reshape and Transpose lay side by side")

_STANDARD: dict[str, Advice] = {
    **dict.fromkeys(("NonZero", "Compress", "Unique", "NonMaxSuppression"), _BY_DATA),
    **dict.fromkeys(
        (
            "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
            "RandomUniformLike",
        ),
        _RANDOM,
    ),
    **dict.fromkeys(
        (
            "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
            "SequenceMap", "SplitToSequence", "ConcatFromSequence",
        ),
        _SEQUENCE,
    ),
    **dict.fromkeys(("Loop", "Scan"), _LOOP),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _RECURRENT),
    **dict.fromkeys(("Conv", "ConvInteger", "ConvTranspose", "DeformConv", "QLinearConv"), _CONVOLUTION),
    "Attention": Advice("Attention over sizes that are all known when compiling", "bind all dims but the cache length"),
    "If": Advice(
        "If with a condition that follows from sizes and constants",
        "optimum-cli export onnx --no-post-process keeps decoder and decoder_with_past in files of their own",
    ),
    "Softmax": Advice(
        "attention whose cache is joined along the tokens and whose heads are repeated one by one",
        "attn_implementation='sdpa' in transformers",
    ),
}  # fmt: skip
_CONTRIBUTED: dict[str, Advice] = {
    "Attention": Advice(
        "MultiHeadAttention with query, key and value of their own",
        "in onnxruntime.transformers set FusionOptions.use_multi_head_attention = True",
    ),
    "BiasAdd": _without("enable_bias_add", "Add"),
    "BiasGelu": _without("enable_bias_gelu", "Add and Gelu"),
    "BiasSplitGelu": _without("enable_bias_splitgelu", "Add, Split and Gelu"),
    "EmbedLayerNormalization": _without("enable_embed_layer_norm", "Gather, Add and LayerNormalization"),
    "FastGelu": _without("enable_gelu_approximation", "Gelu"),
    "Gelu": _without("enable_gelu", "Gelu of ai.onnx, or Erf"),
    "GemmFastGelu": _without("enable_gemm_fast_gelu", "MatMul and Gelu"),
    "GroupNorm": _without("enable_group_norm", "GroupNormalization"),
    "GroupQueryAttention": Advice(
        "GroupQueryAttention without local_window_size, softcap and smooth_softmax, rotary tables as constants",
        "choose a model without a sliding window, or export it with torch.onnx.export(dynamo=True)",
    ),
    "MultiHeadAttention": Advice(
        "MultiHeadAttention with query, key and value of their own",
        "in onnxruntime.transformers set FusionOptions.enable_packed_qkv and enable_packed_kv to False",
    ),
    "QAttention": Advice(
        "MultiHeadAttention over quantized projections",
        "quantize_dynamic(..., op_types_to_quantize=['MatMul'])",
    ),
    "SkipGroupNorm": _without("enable_skip_group_norm", "Add and GroupNormalization"),
    "SkipLayerNormalization": _without("enable_skip_layer_norm", "Add and LayerNormalization"),
}


def advice_for(attributes: OnnxAttributes) -> Advice | None:
    """Return what to do about an operator, None if there is nothing to say but what is supported."""
    if not attributes.domain:
        return _STANDARD.get(attributes.op_type)
    if attributes.domain == "com.microsoft":
        return _CONTRIBUTED.get(attributes.op_type, _OPTIMIZED)
    return None
