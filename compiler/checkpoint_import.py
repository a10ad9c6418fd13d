"""A checkpoint directory -> `Graph`: its ONNX graph comes from models/, its weights are referenced where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from compiler.graph import Graph
from compiler.onnx_import import import_model
from isa.errors import ModelError

DEFAULT_DIMS = {"batch": 1, "past": 0}
"""Dims of the graphs of models/ that need not be given; `sequence` must be."""
ELEMENT_TYPES: dict[str, Literal["float16", "bfloat16", "float32"]] = {
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
}


def load_checkpoint(folder: Path, dtype: str) -> Graph:
    """Read config.json and the headers of safetensors files; ModelError says what is wrong with them.

    Logits and caches have the NumPy type of `dtype` (fp16, ...), whatever the weights are stored in.
    """
    from models import CheckpointError, read_checkpoint

    try:
        checkpoint = read_checkpoint(folder)
        model = checkpoint.model(ELEMENT_TYPES[dtype])
    except CheckpointError as error:
        raise ModelError(error.what, where=error.where, help=error.help) from None
    return import_model(model, checkpoint.base, str(folder))
