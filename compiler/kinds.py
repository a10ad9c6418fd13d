"""The kinds of composite operations that are left after fusion; what each means is in `compiler.reference`."""

from __future__ import annotations

SUPPORTED_KINDS = (
    "embedding", "rms_norm", "linear", "rope", "attention", "swiglu", "add", "mul", "slice",
    "embedding_bag", "interaction", "join", "quantize", "requantize", "move", "reshape", "concat", "pointwise",
)  # fmt: skip

MOVEMENT_KINDS = ("move", "reshape", "concat")
"""Kinds that only move elements."""
GENERIC_KINDS: tuple[str, ...] = (*MOVEMENT_KINDS, "pointwise")
"""Those of the long tail. Their constant inputs lie in memory like values, in regions of their own."""

VIEW_KINDS = ("move", "reshape")
"""Kinds whose result may be a view of their input."""

DENSE_INDEX_INPUTS = {"embedding": (0,), "rope": (1, 4), "cache_append": (1,)}
"""By kind, which inputs hold whole numbers (ids, positions) that are read as one row without gaps."""
