"""ONNX graphs of real architectures, made from a configuration or a checkpoint directory: no other framework.

`build("llama-3-8b")` gives a graph whose weights are references to a file that does not exist (timing only);
`build("llama-tiny", weights=0)` gives one with seeded weights; `read_checkpoint(folder).model()` one whose weights lie
in the folder's safetensors files. Importing this package loads neither onnx nor numpy.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from models.checkpoint import Checkpoint, read_checkpoint
from models.checkpoint_error import CheckpointError
from models.llama_config import MODELS, LlamaConfig, RopeScaling
from models.weight_kind import ElementType, Weights

if TYPE_CHECKING:
    import onnx

__all__ = [
    "MODELS",
    "Checkpoint",
    "CheckpointError",
    "ElementType",
    "LlamaConfig",
    "RopeScaling",
    "Weights",
    "build",
    "config_of",
    "list_models",
    "read_checkpoint",
]


def list_models() -> tuple[str, ...]:
    """Return the names that `build` takes, families together, small before large."""
    return tuple(MODELS)


def config_of(name: str) -> LlamaConfig:
    """Return the configuration of a named model; ValueError with the nearest name if there is none."""
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"unknown model '{name}'; {hint}models: {', '.join(MODELS)}")
    return MODELS[name]


def build(name: str, weights: Weights = "absent", dtype: ElementType = "float16") -> onnx.ModelProto:
    """Return the ONNX model of that name; see `models.llama.build_llama`."""
    from models.llama import build_llama

    return build_llama(config_of(name), weights, dtype)
