"""The exported models under tests/data/onnx: their runs, inputs, dims, and ONNX Runtime's outputs (see meta.json)."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from compiler.frontend import fuse_model
from compiler.graph import Graph
from compiler.onnx_import import import_model, load_onnx
from isa.affine import Affine

FOLDER = Path(__file__).resolve().parents[1] / "data" / "onnx"
CASES = tuple(sorted(path.name for path in FOLDER.iterdir() if path.is_dir()))
# ONNX Runtime rounds activations in these, per tensor or in blocks, so that single outputs differ visibly.
ROUNDED_CASES = ("genai_int4_b32", "genai_int8", "hf_legacy_past_int8dyn")
# Cache lengths are compiled as this range; the runs stay within it.
PAST_RANGE = (0, 64)
# Dims that follow from others and are therefore not given.
DERIVED_DIMS = ("total", "total_sequence_length", "kv_cache_dim")
# The mask of this case can only be broadcast for one new token or for an empty cache.
NO_CHUNKS = ("genai_fp16_cpu",)
PAST_DIMS = ("past", "past_sequence_length")


@dataclass(frozen=True)
class Step:
    """One run of one graph of a case."""

    case: str
    run: str
    index: int
    graph: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


def runs_of(case: str) -> tuple[str, ...]:
    """Return the names of the runs of a case."""
    return tuple(run["name"] for run in _meta(case)["runs"])


def steps_of(case: str, run: str) -> Iterator[Step]:
    """Return the steps of a run, in order."""
    (description,) = [found for found in _meta(case)["runs"] if found["name"] == run]
    with np.load(FOLDER / case / "ref.npz") as arrays:
        for index, step in enumerate(description["steps"]):
            prefix = f"{run}.s{index}"
            inputs = {name: arrays[f"{prefix}.in.{name}"] for name in step["inputs"]}
            outputs = {name: arrays[f"{prefix}.out.{name}"] for name in step["outputs"]}
            yield Step(case, run, index, step["graph"], inputs, outputs)


def _meta(case: str) -> dict:
    return json.loads((FOLDER / case / "meta.json").read_text())


@functools.cache
def imported(case: str, file: str) -> Graph:
    """Return the graph of a file of a case."""
    return load_onnx(FOLDER / case / file)


def model_of(case: str, file: str) -> onnx.ModelProto:
    """Return a file of a case as a model that a test may change."""
    return onnx.load(FOLDER / case / file, load_external_data=False)


def graph_of(case: str, model: onnx.ModelProto) -> Graph:
    """Import a changed model; its external data is that of the case."""
    return import_model(model, FOLDER / case, "changed")


def dims_for(graph: Graph, inputs: Mapping[str, np.ndarray], case: str = "") -> dict[str, int | tuple[int, int]]:
    """Return the dims that a user would give for these inputs: sizes, and a range for the cache length."""
    dims: dict[str, int | tuple[int, int]] = {}
    for name in graph.inputs:
        for dim, size in zip(graph.values[name].shape, inputs[name].shape, strict=True):
            if isinstance(dim, Affine):
                ((symbol, _),) = dim.terms
                if symbol not in DERIVED_DIMS:
                    is_range = symbol in PAST_DIMS and not (case in NO_CHUNKS and size == 0)
                    dims[symbol] = PAST_RANGE if is_range else int(size)
    return dims


@functools.cache
def _fused(case: str, file: str, dims: tuple[tuple[str, int | tuple[int, int]], ...]) -> Graph:
    return fuse_model(imported(case, file), dict(dims))


def fused_for(case: str, file: str, inputs: Mapping[str, np.ndarray]) -> Graph:
    """Return the fused graph for the shapes of these inputs."""
    return _fused(case, file, tuple(sorted(dims_for(imported(case, file), inputs, case).items())))


def first_step(case: str, file: str) -> Step:
    """Return the first step of the first run that runs a file of a case."""
    return next(step for run in runs_of(case) for step in steps_of(case, run) if step.graph == file)


def files_of(case: str) -> tuple[str, ...]:
    """Return the names of the ONNX files of a case."""
    return tuple(sorted(path.name for path in (FOLDER / case).glob("*.onnx")))


def meaningful(step: Step, name: str, array: np.ndarray) -> np.ndarray:
    """Return the elements of an output that belong to tokens which are not padding."""
    keep = step.inputs.get("attention_mask")
    if keep is None:
        return array
    if array.ndim == 4:  # a cache, [batch, heads, tokens, head_dim]
        return array.transpose(0, 2, 1, 3)[keep != 0]
    return array[keep[:, -array.shape[1] :] != 0]
