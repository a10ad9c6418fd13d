"""Exporters' DLRM files, compiled and executed on the simulated chip, against the references beside them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from compiler import compile_model
from compiler.frontend import fuse_model
from compiler.onnx_import import import_model
from simulator import Simulator

FOLDER = Path(__file__).parent / "data" / "dlrm"
CASES = {
    "dlrm_dynamo": (("b1", "b7", "b32"), {"linear": 6, "embedding_bag": 4, "interaction": 1}),
    "dlrm_dynamo_embsum": (("b1", "b7", "b32"), {"linear": 6, "embedding_bag": 5, "interaction": 1}),
    "dlrm_dynamo_onehot_static": (("static",), {"linear": 5, "embedding_bag": 3, "interaction": 1}),
}
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 2e-2}


def _arrays(case: str, run: str, side: str) -> dict[str, np.ndarray]:
    prefix = f"{run}.s0.{side}."
    reference = np.load(FOLDER / case / "ref.npz")
    return {key[len(prefix) :]: reference[key] for key in reference if key.startswith(prefix)}


def _dims(case: str, batch: int) -> dict[str, int]:
    return {} if case.endswith("static") else {"batch": batch}


@pytest.mark.parametrize(
    ("machine", "dtype"), [("mtia-2i", "fp32"), ("mtia-v1", "fp32"), ("mtia-2i", "fp16"), ("mtia-2i", "bf16")]
)
@pytest.mark.parametrize(("case", "run"), [(case, run) for case, (runs, _) in CASES.items() for run in runs])
def test_probabilities_match_the_reference(case: str, run: str, machine: str, dtype: str) -> None:
    inputs = _arrays(case, run, "in")
    program = compile_model(FOLDER / case / "model.onnx", machine, dtype, dims=_dims(case, len(inputs["dense"])))
    assert sum("embedding" in kernel.name for kernel in program.kernels) == 1
    operations = [name for launch in program.entries[0].launches for name in launch.operation.split("+")]
    assert len(operations) == CASES[case][1]["linear"] + 2
    ours = Simulator(program).run(inputs).outputs["prob"]
    np.testing.assert_allclose(ours, _arrays(case, run, "out")["prob"], rtol=0, atol=TOLERANCE[dtype])


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"v{len(names)}")
    for number, node in enumerate(graph.node):
        node.name = f"n{number}"
        for attribute in node.attribute:
            if attribute.HasField("g"):
                for value in attribute.g.input:
                    value.name = names.setdefault(value.name, f"v{len(names)}")
                _rename(attribute.g, names)
                for value in attribute.g.output:
                    value.name = names[value.name]
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = names.setdefault(name, f"v{len(names)}") if name else ""


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_everything_fuses(case: str, renamed: bool) -> None:
    """Bags, interaction and layers with their activations: nothing else is left, whatever the names are."""
    model = onnx.load(FOLDER / case / "model.onnx")
    if renamed:
        _rename(model.graph, {name: name for name in ("dense", "indices", "prob")})
    graph = fuse_model(import_model(model, None, case), _dims(case, 5))
    assert Counter(operation.kind for operation in graph.operations) == CASES[case][1]
