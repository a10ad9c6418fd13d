"""Sizes of the Llama family, as in the published configurations, and tiny ones of the same shape for tests."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """A stretch of rotary waves to contexts longer than the one trained on: all of them, or Llama 3.1's slow ones.

    The last three fields are for the kind `llama3` only.
    """

    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192
    kind: Literal["llama3", "linear"] = "llama3"

    def __post_init__(self) -> None:
        if self.factor <= 0 or self.original_context < 1 or self.low_frequency_factor >= self.high_frequency_factor:
            raise ValueError(f"rotary scaling that cannot be: {self}")


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Everything that decides a Llama graph; ValueError if the sizes do not fit together."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    context: int
    rope_theta: float = 1e4
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-5
    tied_embeddings: bool = False
    query_key_value_bias: bool = False
    output_bias: bool = False
    feed_forward_bias: bool = False

    def __post_init__(self) -> None:
        sizes = (self.hidden, self.layers, self.heads, self.kv_heads, self.head_dim, self.feed_forward, self.vocabulary)
        if min(sizes) < 1:
            raise ValueError(f"{self.name}: every size must be at least 1")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.name}: {self.heads} heads cannot share {self.kv_heads} key/value heads evenly")
        if self.head_dim % 2:
            raise ValueError(f"{self.name}: rotary embedding needs an even head_dim, not {self.head_dim}")
        if self.rope_theta <= 0 or self.norm_epsilon < 0:
            raise ValueError(
                f"{self.name}: rope_theta {self.rope_theta} or norm_epsilon {self.norm_epsilon} is negative"
            )

    @property
    def query_width(self) -> int:
        """Elements of all query heads of one token."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of all key (or value) heads of one token."""
        return self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Number of weights: embedding, layers, last norm, and the head unless it is the embedding."""
        attention = self.hidden * (2 * self.query_width + 2 * self.kv_width)
        biases = self.query_key_value_bias * (self.query_width + 2 * self.kv_width) + self.output_bias * self.hidden
        biases += self.feed_forward_bias * (2 * self.feed_forward + self.hidden)
        layer = attention + 3 * self.hidden * self.feed_forward + 2 * self.hidden + biases
        tables = self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)
        return self.layers * layer + tables + self.hidden

    @property
    def kv_cache_elements_per_token(self) -> int:
        """Elements that one token adds to the cache: keys and values of every layer."""
        return 2 * self.layers * self.kv_width

    def rope_inverse_frequencies(self) -> tuple[float, ...]:
        """Return head_dim / 2 angles per position, fastest first, after scaling."""
        powers = (2 * index / self.head_dim for index in range(self.head_dim // 2))
        return tuple(self._scaled(self.rope_theta**-power) for power in powers)

    def _scaled(self, frequency: float) -> float:
        """Stretch all waves, or long ones only with a blend to the short ones (Llama 3.1 reference code)."""
        scaling = self.rope_scaling
        if scaling is None:
            return frequency
        if scaling.kind == "linear":
            return frequency / scaling.factor
        rotations = scaling.original_context * frequency / (2 * math.pi)
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        share_kept = min(max((rotations - low) / (high - low), 0.0), 1.0)
        return frequency * (share_kept + (1 - share_kept) / scaling.factor)


_LLAMA_2_7B = LlamaConfig("llama-2-7b", 4096, 32, 32, 32, 128, 11008, 32000, context=4096)
_LLAMA_2_13B = LlamaConfig("llama-2-13b", 5120, 40, 40, 40, 128, 13824, 32000, context=4096)
_LLAMA_2_70B = LlamaConfig("llama-2-70b", 8192, 80, 64, 8, 128, 28672, 32000, context=4096)
_LLAMA_3_8B = LlamaConfig("llama-3-8b", 4096, 32, 32, 8, 128, 14336, 128256, context=8192, rope_theta=5e5)
_LLAMA_3_70B = LlamaConfig("llama-3-70b", 8192, 80, 64, 8, 128, 28672, 128256, context=8192, rope_theta=5e5)
_LLAMA_3_1_8B = replace(_LLAMA_3_8B, name="llama-3.1-8b", context=131072, rope_scaling=RopeScaling(8.0))
_LLAMA_3_1_70B = replace(_LLAMA_3_70B, name="llama-3.1-70b", context=131072, rope_scaling=RopeScaling(8.0))
_LLAMA_3_1_405B = replace(
    _LLAMA_3_1_70B, name="llama-3.1-405b", hidden=16384, layers=126, heads=128, feed_forward=53248
)
_LLAMA_3_2_1B = LlamaConfig(
    "llama-3.2-1b", 2048, 16, 32, 8, 64, 8192, 128256, 131072, 5e5, RopeScaling(32.0), tied_embeddings=True
)
_LLAMA_3_2_3B = replace(_LLAMA_3_2_1B, name="llama-3.2-3b", hidden=3072, layers=28, heads=24, head_dim=128)
_TINYLLAMA = LlamaConfig("tinyllama-1.1b", 2048, 22, 32, 4, 64, 5632, 32000, context=2048)

# Sizes for tests. `wide` needs several PEs, leaves odd tails and gives every loop at least three trips;
# `odd` divides by nothing convenient and takes the branches of Llama 3.2: tied embeddings, scaled rotary.
_TINY = LlamaConfig("llama-tiny", 64, 2, 4, 2, 16, 172, 512, context=256, rope_theta=5e5)
_TINY_WIDE = LlamaConfig("llama-tiny-wide", 256, 3, 8, 2, 32, 688, 1000, context=1024, rope_theta=5e5)
_TINY_ODD = LlamaConfig(
    "llama-tiny-odd", 96, 2, 6, 2, 16, 200, 333, 256, 1e4, RopeScaling(8.0, original_context=64), tied_embeddings=True
)

MODELS: dict[str, LlamaConfig] = {
    config.name: config
    for config in (
        _LLAMA_2_7B,
        _LLAMA_2_13B,
        _LLAMA_2_70B,
        _LLAMA_3_8B,
        _LLAMA_3_70B,
        _LLAMA_3_1_8B,
        _LLAMA_3_1_70B,
        _LLAMA_3_1_405B,
        _LLAMA_3_2_1B,
        _LLAMA_3_2_3B,
        _TINYLLAMA,
        _TINY,
        _TINY_WIDE,
        _TINY_ODD,
    )
}
