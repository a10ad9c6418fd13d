"""Fused graphs of real exporters' files compute what ONNX Runtime computed on the files."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.reference import run_reference
from isa.errors import ModelError
from tests.compiler import exported_models
from tests.compiler.exported_models import CASES, ROUNDED_CASES, Step, fused_for, meaningful, runs_of, steps_of

RUNS = [(case, run) for case in CASES if case not in ROUNDED_CASES for run in runs_of(case)]
ROUNDED_RUNS = [(case, run) for case in ROUNDED_CASES for run in runs_of(case)]


def tolerance(case: str) -> float:
    """fp16 files are computed with fp16 roundings by ONNX Runtime and in fp32 here."""
    return 5e-2 if "fp16" in case else 1e-3


def assert_close(step: Step, outputs: dict[str, np.ndarray]) -> None:
    """Compare all outputs of a step where they carry meaning."""
    assert set(outputs) == set(step.outputs)
    for name, expected in step.outputs.items():
        assert outputs[name].shape == expected.shape
        found, wanted = (meaningful(step, name, array).astype(np.float64) for array in (outputs[name], expected))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance(step.case), err_msg=f"{step.run} {name}")


@pytest.mark.parametrize(("case", "run"), RUNS)
def test_every_step_matches_onnx_runtime(case: str, run: str) -> None:
    """Logits and caches of each recorded step are reproduced, with the cache length compiled as a range."""
    for step in steps_of(case, run):
        graph = fused_for(case, step.graph, step.inputs)
        assert_close(step, run_reference(graph, step.inputs))


@pytest.mark.parametrize(("case", "run"), [(case, run) for case, run in RUNS if "past" in case or "genai" in case])
def test_greedy_decoding_feeds_its_own_cache_back(case: str, run: str) -> None:
    """Prefill and decode steps on our own caches and tokens choose the tokens that ONNX Runtime chose."""
    outputs: dict[str, np.ndarray] = {}
    chosen, expected = [], []
    for step in steps_of(case, run):
        inputs = dict(step.inputs)
        if outputs:
            inputs["input_ids"] = chosen[-1][:, None]
            for name in step.inputs:
                if name.startswith("past_key_values"):
                    inputs[name] = outputs[name.replace("past_key_values", "present")]
        outputs = run_reference(fused_for(case, step.graph, step.inputs), inputs)
        assert_close(step, outputs)
        chosen.append(outputs["logits"][:, -1].argmax(-1))
        expected.append(step.outputs["logits"][:, -1].argmax(-1))
    assert len(chosen) > 1
    np.testing.assert_array_equal(np.stack(chosen), np.stack(expected))


@pytest.mark.parametrize(("case", "run"), ROUNDED_RUNS)
def test_models_with_rounded_activations_stay_near_onnx_runtime(case: str, run: str) -> None:
    """The mean difference is that of the rounding, a few hundredths of logits of unit size."""
    differences = []
    for step in steps_of(case, run):
        outputs = run_reference(fused_for(case, step.graph, step.inputs), step.inputs)
        found, wanted = (meaningful(step, "logits", array) for array in (outputs["logits"], step.outputs["logits"]))
        differences.append(np.abs(found - wanted).mean())
    assert np.mean(differences) < 0.04


def test_group_query_attention_of_one_sequence_refuses_padding() -> None:
    """Several new tokens behind a past have no lengths of their own: a mask with zeros is refused."""
    step = exported_models.first_step("genai_fp16_gqa", "model.onnx")
    graph = fused_for("genai_fp16_gqa", "model.onnx", step.inputs)
    (requirement,) = graph.requirements
    assert requirement.input_name == "attention_mask"
    padded = dict(step.inputs)
    padded["attention_mask"] = padded["attention_mask"].copy()
    padded["attention_mask"][0, 0] = 0
    with pytest.raises(ModelError, match=r"must be in 1..1: GroupQueryAttention counts its keys with it"):
        run_reference(graph, padded)
