"""The kinds of composite operations that are left after fusion; what each means is in `compiler.reference`."""

from __future__ import annotations

SUPPORTED_KINDS = (
    "embedding", "rms_norm", "linear", "rope", "attention", "swiglu", "add", "slice",
    "embedding_bag", "interaction", "join", "quantize", "requantize", "move", "reshape", "concat", "pointwise",
    "matmul", "take", "count_keys",
)  # fmt: skip

MOVEMENT_KINDS = ("move", "reshape", "concat")
"""Kinds that only move elements."""
GENERIC_KINDS: tuple[str, ...] = (*MOVEMENT_KINDS, "pointwise", "matmul", "take")
"""Those of the long tail. Their constant inputs lie in memory like values, in regions of their own."""

VIEW_KINDS = ("move", "reshape")
"""Kinds whose result may be a view of their input."""

INDEX_INPUTS: dict[str, dict[int, int | None]] = {
    "embedding": {0: 1}, "rope": {1: 2, 4: None}, "cache_append": {1: None},
}  # fmt: skip
"""By kind, inputs of whole numbers that are read as one row without gaps, each with the input whose rows they choose.

None: they choose positions of the cache that is the output.
"""

COUNTED_KINDS = ("count_keys",)
"""Kinds whose whole numbers are in range by what is demanded of their inputs."""
