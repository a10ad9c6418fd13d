"""A checkpoint directory (config.json and safetensors files) -> the ONNX graph of `build`, its weights left in place.

No tensor is read: the header of a safetensors file says where each one is, and the graph refers to that as
ONNX external data. Files may be links, as in the cache of huggingface_hub.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from models.checkpoint_config import read_config
from models.checkpoint_error import CheckpointError
from models.llama_config import LlamaConfig
from models.safetensors_header import read_header
from models.stored_tensor import StoredTensor
from models.weight_kind import ElementType

if TYPE_CHECKING:
    from onnx import ModelProto

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SHOWN = 8
_ONE_MODEL = "config.json and weights must be of one model, with all of its files"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Sizes and tensors of a checkpoint; locations of tensors are relative to `base`."""

    folder: Path
    config: LlamaConfig
    tensors: Mapping[str, StoredTensor]
    base: Path

    def model(self, element_type: ElementType | None = None) -> ModelProto:
        """Return the graph of `build`, with external data relative to `base`.

        Its element type is that of the embedding unless one is given; weights stored in others are cast in the graph.
        CheckpointError that names all tensors that are missing, have another shape or are not of a Llama.
        """
        from models.graph_writer import GraphWriter
        from models.llama import write_llama

        self._check_sizes()
        stored = self.tensors.get("model.embed_tokens.weight")
        chosen = element_type or (stored.element_type if stored else "float16")
        writer = GraphWriter(self.config.name, chosen, self.tensors)
        model = write_llama(writer, self._config_of_files())
        unknown = [
            name for name in self.tensors if name not in writer.used and not name.endswith("rotary_emb.inv_freq")
        ]
        self._check(writer.missing, writer.misshapen, unknown)
        return model

    def _check_sizes(self) -> None:
        """Refuse sizes beyond all that is stored before a graph of such sizes is made."""
        config = self.config
        elements = sum(math.prod(tensor.shape) for tensor in self.tensors.values())
        widths = (config.hidden, config.query_width, config.kv_width, config.feed_forward, config.vocabulary)
        if config.layers > len(self.tensors) or max(widths) > elements:
            what = f"config.json describes {config.layers} layers with widths up to {max(widths)}"
            what += f", but the files have {len(self.tensors)} tensors with {elements} elements in all"
            raise CheckpointError(what, where=str(self.folder), help=_ONE_MODEL)

    def _config_of_files(self) -> LlamaConfig:
        """Return the configuration with a head of its own if one is stored, as transformers does."""
        return replace(self.config, tied_embeddings=False) if "lm_head.weight" in self.tensors else self.config

    def _check(self, missing: Sequence[str], misshapen: Sequence[str], unknown: Sequence[str]) -> None:
        faults = [
            f"{title}: {_some(names)}"
            for title, names in (
                ("missing tensors", missing),
                ("tensors of another shape than config.json says", misshapen),
                ("tensors that this architecture does not have", unknown),
            )
            if names
        ]
        if faults:
            raise CheckpointError("; ".join(faults), where=str(self.folder), help=_ONE_MODEL)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read configuration and headers of a directory; CheckpointError says which file is wrong and why."""
    folder = Path(folder)
    config = read_config(folder)
    names = [_SINGLE] if (folder / _SINGLE).exists() else _shards(folder)
    files = {name: (folder / name).resolve() for name in names}
    base = Path(os.path.commonpath([path.parent for path in files.values()]))
    tensors: dict[str, StoredTensor] = {}
    for name, path in files.items():
        found = read_header(path, path.relative_to(base).as_posix())
        twice = sorted(set(found) & set(tensors))
        if twice:
            what = f"tensors that another file has too: {_some(twice)}"
            raise CheckpointError(what, where=str(folder / name), help="keep the files of one checkpoint only")
        tensors |= found
    return Checkpoint(folder, config, tensors, base)


def _shards(folder: Path) -> list[str]:
    """Return the names of the files that the index lists."""
    path = folder / _INDEX
    if not path.exists():
        others = sorted(file.name for file in folder.glob("*") if file.suffix in (".bin", ".pth", ".safetensors"))
        there = f", but {', '.join(others)}" if others else ""
        help = "save the model with save_pretrained of transformers, which writes safetensors"
        raise CheckpointError(f"there is no {_SINGLE} and no {_INDEX}{there}", where=str(folder), help=help)
    try:
        files = json.loads(path.read_text("utf-8"))["weight_map"].values()
        names = sorted(set(files))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        help = "copy or download the file again"
        raise CheckpointError("not an index with a 'weight_map'", where=str(path), help=help) from None
    strange = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if strange or not names:
        what = f"files outside of the directory: {strange}" if strange else "an index of no files"
        raise CheckpointError(what, where=str(path), help="keep all files of the checkpoint in its directory")
    absent = [name for name in names if not (folder / name).exists()]
    if absent:
        raise CheckpointError(
            f"missing files: {_some(absent)}", where=str(folder), help="download all of the checkpoint"
        )
    return names
