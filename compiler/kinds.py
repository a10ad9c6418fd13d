"""The kinds of composite operations that are left after fusion; what each means is in `compiler.reference`."""

from __future__ import annotations

SUPPORTED_KINDS = (
    "embedding", "rms_norm", "linear", "rope", "attention", "swiglu", "add", "mul", "slice",
)  # fmt: skip
