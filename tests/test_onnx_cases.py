"""Real exporters' files, compiled and executed on the simulated chip, against the reference logits beside them.

Tolerances are those of the issue: 1e-4 absolute in fp32, 2e-2 in fp16 and 0.15 in bf16. References of fp16 models were
computed by ONNX Runtime partly in fp16, so they are no closer than 2e-2 in any dtype. Where the reference's two best
logits differ by more than twice the tolerance, the greedy token must be the same. Steps with a cache feed back the
cache of our own run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from compiler import compile_model
from isa.errors import SimulationError
from simulator import Simulator

FOLDER = Path(__file__).parent / "data" / "onnx"
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 0.15}
REFERENCE_TOLERANCE = {"float32": 0.0, "float16": 2e-2}
"""By the element type of the reference's logits."""
LONGEST_PAST = 32
CASES = sorted(path.name for path in FOLDER.iterdir())
Array = npt.NDArray[Any]


def _runs() -> Iterator[tuple[str, str]]:
    for case in CASES:
        for run in json.loads((FOLDER / case / "meta.json").read_text())["runs"]:
            yield case, run["name"]


@cache
def _simulator(path: Path, machine: str, dtype: str, dims: tuple[tuple[str, int | tuple[int, int]], ...]) -> Simulator:
    return Simulator(compile_model(path, machine, dtype, dims=dict(dims)))


def _dims(path: Path, inputs: Mapping[str, Array]) -> tuple[tuple[str, int | tuple[int, int]], ...]:
    """Bind batch and sequence to this step's sizes, leave a past that grows open, and let the rest be inferred."""
    dims: dict[str, int | tuple[int, int]] = {}
    for value in onnx.load(path, load_external_data=False).graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, inputs[value.name].shape, strict=True):
            if dim.dim_param.startswith("past"):
                dims[dim.dim_param] = (0, LONGEST_PAST) if size else 0
            elif dim.dim_param and "total" not in dim.dim_param:
                dims[dim.dim_param] = int(size)
    return tuple(sorted(dims.items()))


def _step_arrays(reference: Mapping[str, Array], run: str, step: int, side: str) -> dict[str, Array]:
    prefix = f"{run}.s{step}.{side}."
    return {key[len(prefix) :]: reference[key] for key in reference if key.startswith(prefix)}


def _compare(ours: Array, theirs: Array, tolerance: float) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)
    best = np.sort(theirs, axis=-1)
    is_clear = best[:, -1] - best[:, -2] > 2 * tolerance
    np.testing.assert_array_equal(ours.argmax(-1)[is_clear], theirs.argmax(-1)[is_clear])


@pytest.mark.parametrize(
    ("machine", "dtype"), [("mtia-2i", "fp32"), ("mtia-v1", "fp32"), ("mtia-2i", "fp16"), ("mtia-2i", "bf16")]
)
@pytest.mark.parametrize(("case", "run"), list(_runs()))
def test_logits_match_the_reference(case: str, run: str, machine: str, dtype: str) -> None:
    """Every step of every run gives the reference's logits and tokens, at positions that are not padding."""
    reference = dict(np.load(FOLDER / case / "ref.npz"))
    steps = next(item for item in json.loads((FOLDER / case / "meta.json").read_text())["runs"] if item["name"] == run)
    cache: dict[str, Array] = {}
    for index, step in enumerate(steps["steps"]):
        inputs = _step_arrays(reference, run, index, "in")
        inputs |= {name: array.astype(inputs[name].dtype) for name, array in cache.items() if name in inputs}
        path = FOLDER / case / step["graph"]
        outputs = _simulator(path, machine, dtype, _dims(path, inputs)).run(inputs).outputs
        logits = _step_arrays(reference, run, index, "out")["logits"]
        is_real = np.ones(logits.shape[:2], dtype=bool)
        if "attention_mask" in inputs:
            is_real = inputs["attention_mask"][:, -logits.shape[1] :] != 0
        tolerance = max(TOLERANCE[dtype], REFERENCE_TOLERANCE[logits.dtype.name])
        ours, theirs = (array[is_real].astype(np.float32) for array in (outputs["logits"], logits))
        _compare(ours, theirs, tolerance)
        cache = {
            name.replace("present", "past_key_values"): array for name, array in outputs.items() if "present" in name
        }


def test_a_padded_mask_is_refused_where_the_graph_cannot_honour_it() -> None:
    """GroupQueryAttention takes lengths, not a mask: padding on the left is told, not computed wrongly."""
    path = FOLDER / "genai_fp16_gqa" / "model.onnx"
    inputs = _step_arrays(dict(np.load(path.parent / "ref.npz")), "b1", 0, "in")
    inputs["attention_mask"] = inputs["attention_mask"].copy()
    inputs["attention_mask"][0, 0] = 0
    with pytest.raises(SimulationError, match=r"attention_mask.*must hold only ones"):
        _simulator(path, "mtia-2i", "fp16", _dims(path, inputs)).run(inputs)
