"""Workloads: a model at given sizes. Its front end runs once per process, whatever the number of machines."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from isa.errors import ModelError, ToolError

if TYPE_CHECKING:
    from compiler import GraphCompiler
    from compiler.graph import Graph

_ELEMENT_TYPES: Mapping[str, Literal["float16", "bfloat16", "float32"]] = {
    "fp16": "float16", "bf16": "bfloat16", "fp32": "float32",
}  # fmt: skip
KEPT_GRAPHS = 64
_HEADERS = ("config.json", "model.safetensors.index.json")


@dataclass(frozen=True, slots=True)
class Workload:
    """A model by known name or by path, at sizes of its dims. `digest` is that of the file, "" for a known name.

    `weight` says how much it counts where figures of several workloads are combined; it and the name shape no run.
    """

    name: str
    model: str
    layers: int | None
    dtype: str
    quantize: str | None
    group_size: int | None
    dims: tuple[tuple[str, int], ...]
    indices: str
    weight: float
    digest: str

    @property
    def definition(self) -> dict[str, Any]:
        """Everything that shapes a run, as plain values."""
        model = self.digest or self.model
        return {
            "model": model, "layers": self.layers, "dtype": self.dtype, "quantize": self.quantize,
            "group_size": self.group_size, "dims": dict(self.dims), "indices": self.indices,
        }  # fmt: skip

    @property
    def key(self) -> str:
        """Sha256 of the definition."""
        return hashlib.sha256(json.dumps(self.definition, sort_keys=True).encode()).hexdigest()

    @property
    def tokens(self) -> int:
        """What a run gives: batch x sequence tokens, or batch samples where the model has no sequence."""
        dims = dict(self.dims)
        return dims.get("batch", 1) * dims.get("sequence", 1)


@functools.lru_cache(maxsize=KEPT_GRAPHS)
def graph_of(workload: Workload) -> Graph:
    """Return the fused graph; a ToolError says what is wrong with the model or its sizes."""
    from compiler import fuse_model
    from models import build, list_models

    dims = dict(workload.dims)
    if workload.model in list_models():
        try:
            model = build(workload.model, "absent", _ELEMENT_TYPES[workload.dtype], workload.layers)
        except ValueError as error:
            raise ModelError(str(error), where=workload.name) from error
        return fuse_model(model, dims, workload.dtype)
    if digest_of(Path(workload.model)) != workload.digest:
        raise ModelError("the model is another one than when the sweep began", where=workload.model)
    return fuse_model(workload.model, dims, workload.dtype)


@functools.lru_cache(maxsize=KEPT_GRAPHS)
def compiler_of(workload: Workload) -> GraphCompiler:
    """Return what compiles the workload for machines; ToolErrors as `graph_of`."""
    from compiler import GraphCompiler

    return GraphCompiler(graph_of(workload), workload.dtype, quantize=workload.quantize, group_size=workload.group_size)


def digest_of(path: Path) -> str:
    """Return the sha256 of a model: of an ONNX file, or of what says the sizes in a checkpoint directory.

    Weights are left out where they lie in files of their own: no time depends on them. ToolError if it cannot be read.
    """
    files = [path / name for name in _HEADERS if (path / name).is_file()] if path.is_dir() else [path]
    digest = hashlib.sha256()
    try:
        for file in files:
            digest.update(file.read_bytes())
    except OSError as error:
        raise ToolError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return digest.hexdigest()
