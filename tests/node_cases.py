"""Node cases that the onnx package publishes, compiled in fp32 and simulated on a small machine."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests

from compiler.emit import emit
from compiler.frontend import fuse_model
from compiler.legalize import legalize
from compiler.mapping import map_graph
from compiler.onnx_import import HIGHEST_OPSET, LOWEST_OPSET, import_model
from compiler.placement import place
from isa.program_checks import verify_program
from simulator import Simulator
from tests.compiler.graphs import Array, small_machine

CONSTANT_INPUTS = {
    "Expand": (1,), "Reshape": (1,), "Slice": (1, 2, 3, 4), "Split": (1,), "Squeeze": (1,), "Tile": (1,),
    "Unsqueeze": (1,),
    **{f"Reduce{name}": (1,) for name in (
        "L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"
    )},
}  # fmt: skip
"""Inputs that shapes depend on: exporters write them as constants, and so do the cases here."""


@dataclass(frozen=True)
class NodeCase:
    """A model of one node with its inputs, outputs and tolerances."""

    name: str
    model: onnx.ModelProto
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    relative_tolerance: float
    absolute_tolerance: float

    @property
    def op_type(self) -> str:
        """The operation of the node."""
        return str(self.model.graph.node[0].op_type)


@functools.cache
def node_cases(op_types: frozenset[str]) -> tuple[NodeCase, ...]:
    """Return the published cases of one node of these operations, in order of their names."""
    cases = []
    for test in load_model_tests(kind="node"):
        model = test.model or onnx.load(f"{test.model_dir}/model.onnx")
        nodes = model.graph.node
        if len(nodes) != 1 or nodes[0].domain or nodes[0].op_type not in op_types:
            continue
        inputs, outputs = (_arrays(test, f"{which}_") for which in ("input", "output"))
        model, given = _with_constants(_with_imported_opset(model), inputs)
        cases.append(NodeCase(test.name, model, given, outputs, test.rtol, test.atol))
    return tuple(sorted(cases, key=lambda case: case.name))


def _with_imported_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Declare the nearest opset that is imported: a published case declares the one that last changed its operation."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    for imported in copied.opset_import:
        if imported.domain == "":
            imported.version = min(max(imported.version, LOWEST_OPSET), HIGHEST_OPSET)
    return copied


def _with_constants(model: onnx.ModelProto, inputs: tuple[Array, ...]) -> tuple[onnx.ModelProto, tuple[Array, ...]]:
    """Turn the inputs that shapes depend on into initializers of a model that may be changed."""
    node, names = model.graph.node[0], [value.name for value in model.graph.input]
    bound = {node.input[index] for index in CONSTANT_INPUTS.get(node.op_type, ()) if index < len(node.input)}
    given = []
    for name, array in zip(names, inputs, strict=True):
        if name in bound:
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            model.graph.input.remove(next(value for value in model.graph.input if value.name == name))
        else:
            given.append(array)
    return model, tuple(given)


def _arrays(test: object, stem: str) -> tuple[Array, ...]:
    data_sets = getattr(test, "data_sets", None)
    if data_sets:
        return tuple(_array(item) for item in data_sets[0][0 if stem == "input_" else 1])
    folder = Path(str(getattr(test, "model_dir", ""))) / "test_data_set_0"
    files = sorted(folder.glob(f"{stem}*.pb"), key=lambda path: int(path.stem.rsplit("_", 1)[1]))
    return tuple(onnx.numpy_helper.to_array(onnx.load_tensor(str(path))) for path in files)


def _array(item: object) -> Array:
    array: Array = onnx.numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else np.asarray(item)
    return array


def run_case(case: NodeCase) -> None:
    """Compile and simulate; raises AssertionError if an output is not the published one."""
    names = [value.name for value in case.model.graph.input]
    graph = fuse_model(import_model(case.model, None, case.name), {})
    program = emit(place(map_graph(legalize(graph), small_machine(), "fp32")))
    verify_program(program)
    given = {name: array for name, array in zip(names, case.inputs, strict=True) if name in graph.inputs}
    outputs = Simulator(program).run(given).outputs
    for value, expected in zip(case.model.graph.output, case.outputs, strict=True):
        found = outputs[value.name]
        assert found.shape == expected.shape
        if expected.dtype.kind in "iub":
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, rtol=case.relative_tolerance, atol=case.absolute_tolerance)
