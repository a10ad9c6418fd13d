"""Mappings that are measured: the cheapest of the best few, kept on disk, whoever else tunes at the same time."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import models
from compiler import Autotuner, compile_model
from compiler.linear_search import ranked_mappings
from isa.errors import ModelError
from isa.machine import preset
from isa.program import Program
from simulator import Simulator, simulated_cycles
from tests.compiler.graphs import SMALL_GRID
from tests.simulator.llamas import inputs_for

MACHINE = preset("mtia-2i").with_changes(SMALL_GRID)


class Counting:
    """A cost that says how often it was asked: the more kernels buffer, the better."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, program: Program) -> float:
        self.asked += 1
        return -float(sum(buffer.bytes for kernel in program.kernels for buffer in kernel.buffers))


def _compiled(tuner: Autotuner, **options: object) -> Program:
    return compile_model(
        models.build("llama-tiny", 0, "float32"), MACHINE, dims={"batch": 1, "sequence": 3, "past": (0, 32)},
        autotuner=tuner, **options,
    )  # type: ignore[arg-type]  # fmt: skip


def test_the_cheapest_of_the_best_is_taken(tmp_path: Path) -> None:
    """By whatever cost is handed in; shapes that occur often are measured once."""
    cost = Counting()
    tuner = Autotuner(3, cost, tmp_path)
    _compiled(tuner)
    assert cost.asked == 3 * len(tuner._known) and len(tuner._known) > 2
    for mapping in tuner._known.values():
        best = ranked_mappings(mapping.shape, MACHINE)[:3]
        assert mapping in best
        assert mapping.local_bytes == max(one.local_bytes for one in best)


def test_results_are_kept(tmp_path: Path) -> None:
    """A second tuner asks nothing; damaged, foreign and impossible files are made anew."""
    first, again = Counting(), Counting()
    program = _compiled(Autotuner(3, first, tmp_path))
    assert _compiled(Autotuner(3, again, tmp_path)) == program and again.asked == 0
    files = sorted(tmp_path.iterdir())
    for path, text in zip(files, ("", "[1]", '{"best": 99}', '{"best": "x"}', "\0"), strict=False):
        path.write_text(text)
    assert _compiled(Autotuner(3, again, tmp_path)) == program and again.asked > 0
    assert all("best" in json.loads(path.read_text()) for path in files)


def test_many_may_tune_at_once(tmp_path: Path) -> None:
    """Nobody sees half a file, and all find the same."""
    with ThreadPoolExecutor(4) as pool:
        programs = list(pool.map(lambda _: _compiled(Autotuner(3, Counting(), tmp_path)), range(4)))
    assert all(program == programs[0] for program in programs)
    assert all(path.suffix == ".json" for path in tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    """Then nothing is kept."""
    (tmp_path / "file").write_text("")
    cost = Counting()
    _compiled(Autotuner(2, cost, tmp_path / "file" / "below"))
    assert cost.asked > 0


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_simulated_mappings_compute_the_same(tmp_path: Path, quantize: str | None) -> None:
    """With the simulator as cost: never slower than by estimate for single linears, and the outputs stay."""
    tuned = _compiled(Autotuner(4, simulated_cycles, tmp_path), quantize=quantize)
    plain = compile_model(
        models.build("llama-tiny", 0, "float32"), MACHINE, dims={"batch": 1, "sequence": 3, "past": (0, 32)},
        quantize=quantize,
    )  # fmt: skip
    inputs = inputs_for(tuned, 9)
    outputs, expected = (Simulator(program).run(inputs).outputs["logits"] for program in (tuned, plain))
    np.testing.assert_allclose(outputs, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("rows_are_outputs", [True, False])
def test_products_of_computed_matrices_are_measured_too(tmp_path: Path, rows_are_outputs: bool) -> None:
    """Their second operand is no constant; the outputs stay as by estimate."""
    node = helper.make_node("Gemm", ["a", "b"], ["c"], transB=int(rows_are_outputs))
    shapes = {"a": [96, 160], "b": [224, 160] if rows_are_outputs else [160, 224], "c": [96, 224]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name, shape in shapes.items()]
    graph = helper.make_graph([node], "product", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    tuner = Autotuner(4, Counting(), tmp_path)
    tuned, plain = compile_model(model, MACHINE, autotuner=tuner), compile_model(model, MACHINE)
    assert [mapping.shape.factor for mapping in tuner._known.values()] == ["rows" if rows_are_outputs else "columns"]
    inputs = inputs_for(tuned, 9)
    outputs, expected = (Simulator(program).run(inputs).outputs["c"] for program in (tuned, plain))
    np.testing.assert_array_equal(outputs, expected)


def test_no_mapping_is_none_too_few() -> None:
    """One sentence for a count that makes no sense."""
    with pytest.raises(ModelError, match="0 mappings cannot be compared"):
        Autotuner(0, simulated_cycles)
