"""Seeded models too large for one ONNX file: the graph in NAME.onnx, its weights beside it in NAME.data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto

from models import build, config_of
from models.graph_writer import NUMPY_TYPES
from models.weight_kind import ElementType

_BLOCK_ELEMENTS = 1 << 22
"""Drawn and written at a time, so that memory stays small."""


def save_seeded(name: str, folder: Path, seed: int, dtype: ElementType = "float16") -> Path:
    """Write a named model of any size and return the path of its ONNX file.

    The weights are those of `build(name, seed, dtype)`. ValueError if the name is unknown, OSError if the disk is full.
    """
    model, config = build(name, "absent", dtype), config_of(name)
    stored = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    table_deviation = config.hidden**-0.5 if config.tied_embeddings else 1.0
    with open(folder / f"{name}.data", "wb") as file:
        for index, tensor in enumerate(stored):
            place = {entry.key: entry.value for entry in tensor.external_data}
            file.seek(int(place["offset"]))
            is_table, is_norm = tensor.name == "model.embed_tokens.weight", len(tensor.dims) == 1
            deviation = 0.1 if is_norm else table_deviation if is_table else tensor.dims[0] ** -0.5
            random, count = np.random.default_rng((seed, index)), int(np.prod(tensor.dims))
            for start in range(0, count, _BLOCK_ELEMENTS):
                values = random.standard_normal(min(count - start, _BLOCK_ELEMENTS), np.float32)
                file.write(((1.0 if is_norm else 0.0) + deviation * values).astype(NUMPY_TYPES[dtype]).tobytes())
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path
