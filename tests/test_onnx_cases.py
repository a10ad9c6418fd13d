"""Real exporters' files, compiled and executed on the simulated chip, against the reference logits beside them.

Tolerances and the comparison itself are those of `benchmarks/onnx_cases.py`, which prints them for any folder.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.onnx_cases import Run, Step, dims_of, evaluate, imported, main, runs_of, shown, simulator_of
from isa.errors import SimulationError

FOLDER = Path(__file__).parent / "data" / "onnx"
CASES = sorted(path.name for path in FOLDER.iterdir())
RUNS = [run for case in CASES for run in runs_of(FOLDER, case)]


@pytest.mark.parametrize(
    ("machine", "dtype"), [("mtia-2i", "fp32"), ("mtia-v1", "fp32"), ("mtia-2i", "fp16"), ("mtia-2i", "bf16")]
)
@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.case}-{run.name}")
def test_logits_match_the_reference(run: Run, machine: str, dtype: str) -> None:
    """Every step of every run gives the reference's logits and tokens, at positions that are not padding."""
    row = evaluate(run, dtype, machine)
    assert row.passes, shown(row)
    assert row.tokens > 0


def test_steps_read_back_the_caches_that_the_step_before_gave() -> None:
    """Which input is which output is told by the arrays, whatever the names."""
    (run,) = (run for run in RUNS if run.case == "ref_llama_static_cache")
    assert [len(step.fed_back) for step in run.steps] == [0, 4, 4, 4, 4]
    assert run.steps[1].fed_back["cache_k.0"] == "new_cache_k.0"


def test_dims_are_bound_as_a_user_would() -> None:
    """A cache that grows is a range, what follows from it is left out."""
    (run,) = (run for run in RUNS if run.case == "hf_legacy_past" and run.name == "b2")
    assert dims_of(run, 0) == (("batch", 2), ("past", 0), ("seq", 5))
    assert dims_of(run, 2) == (("batch", 2), ("past", (0, 9)), ("seq", 1))


def test_a_difference_or_an_error_is_a_failing_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong reference fails, a model that cannot be compiled is a row, and both give exit code 1."""
    case = tmp_path / "wrong"
    case.mkdir()
    source = FOLDER / "hf_dynamo_nocache_static"
    meta = json.loads((source / "meta.json").read_text())
    arrays = dict(np.load(source / "ref.npz"))
    name = next(name for name in arrays if ".out." in name)
    np.savez(case / "ref.npz", **{**arrays, name: arrays[name] + 1.0})
    (case / "meta.json").write_text(json.dumps(meta))
    (case / "model.onnx").write_bytes((source / "model.onnx").read_bytes())
    assert main([str(tmp_path), "--dtype", "fp16"]) == 1
    assert "FAILS" in capsys.readouterr().out
    (case / "model.onnx").write_bytes((source / "model.onnx").read_bytes()[:-1000])
    simulator_of.cache_clear()
    imported.cache_clear()
    assert main([str(tmp_path), "--dtype", "fp16"]) == 1
    assert "truncated" in capsys.readouterr().out


def test_a_padded_mask_is_refused_where_the_graph_cannot_honour_it() -> None:
    """GroupQueryAttention takes lengths, not a mask: padding on the left is told, not computed wrongly."""
    run = next(run for run in RUNS if run.case == "genai_fp16_gqa")
    step: Step = run.steps[0]
    mask = step.inputs["attention_mask"].copy()
    mask[0, 0] = 0
    with pytest.raises(SimulationError, match=r"attention_mask.*rises.*padding is on the right"):
        simulator_of(step.graph, "mtia-2i", "fp16", dims_of(run, 0)).run({**step.inputs, "attention_mask": mask})
