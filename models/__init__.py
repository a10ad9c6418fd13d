"""ONNX graphs of real architectures, made from a configuration or a checkpoint directory: no other framework.

`build("llama-3-8b")` gives a graph whose weights are references to a file that does not exist (timing only);
`build("llama-tiny", weights=0)` gives one with seeded weights; `read_checkpoint(folder).model()` one whose weights lie
in the folder's safetensors files. Importing this package loads neither onnx nor numpy.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING

from models.checkpoint import Checkpoint, read_checkpoint
from models.checkpoint_error import CheckpointError
from models.dlrm_config import DLRM_MODELS, DlrmConfig
from models.llama_config import MODELS, LlamaConfig, RopeScaling
from models.weight_kind import ElementType, Weights

if TYPE_CHECKING:
    import onnx

__all__ = [
    "DLRM_MODELS",
    "MODELS",
    "Checkpoint",
    "CheckpointError",
    "DlrmConfig",
    "ElementType",
    "LlamaConfig",
    "RopeScaling",
    "Weights",
    "build",
    "config_of",
    "default_dims",
    "list_models",
    "read_checkpoint",
]


def list_models() -> tuple[str, ...]:
    """Return the names that `build` takes, families together, small before large."""
    return (*MODELS, *DLRM_MODELS)


def default_dims(name: str) -> dict[str, int]:
    """Return the sizes of a named model's dims that are taken when none are given."""
    return {"batch": 1} if name in DLRM_MODELS else {"batch": 1, "past": 0}


def config_of(name: str) -> LlamaConfig:
    """Return the configuration of a named Llama model; ValueError with the nearest name if there is none."""
    _check_name(name, tuple(MODELS))
    return MODELS[name]


def _check_name(name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"unknown model '{name}'; {hint}models: {', '.join(names)}")


def build(
    name: str, weights: Weights = "absent", dtype: ElementType = "float16", layers: int | None = None
) -> onnx.ModelProto:
    """Return the ONNX model of that name; see `models.llama.build_llama` and `models.dlrm.build_dlrm`.

    `layers` gives a Llama so many layers. ValueError for an unknown name, for layers of another model or below 1.
    """
    _check_name(name, list_models())
    if name in DLRM_MODELS:
        if layers is not None:
            raise ValueError(f"{name} has no decoder layers to count")
        from models.dlrm import build_dlrm

        return build_dlrm(DLRM_MODELS[name], weights, dtype)
    from models.llama import build_llama

    config = config_of(name)
    return build_llama(config if layers is None else replace(config, layers=layers), weights, dtype)
