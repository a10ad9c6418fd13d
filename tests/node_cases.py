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
    "CenterCropPad": (1,), "CumSum": (1,), "OneHot": (1,), "Pad": (1, 3), "TopK": (1,),
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
        moved = _with_imported_opset(model)
        if moved is None:
            continue
        inputs, outputs = (_arrays(test, f"{which}_") for which in ("input", "output"))
        model, given = _with_constants(moved, inputs)
        cases.append(NodeCase(test.name, model, given, outputs, test.rtol, test.atol))
    return tuple(sorted(cases, key=lambda case: case.name))


def _with_imported_opset(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Declare the nearest opset that is imported; None if the case is no valid model there.

    A published case declares the opset that last changed its operation, which may be older or newer than those: it may
    have attributes or types that the operation has not got yet, or has no more.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    (imported,) = (item for item in copied.opset_import if item.domain == "")
    declared, imported.version = imported.version, min(max(imported.version, LOWEST_OPSET), HIGHEST_OPSET)
    if declared < imported.version and _definition(model, declared) != _definition(model, imported.version):
        return None
    copied.ir_version = min(copied.ir_version, onnx.IR_VERSION)
    try:
        onnx.checker.check_model(copied, full_check=declared != imported.version)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return None
    return copied


def _definition(model: onnx.ModelProto, opset: int) -> int | None:
    """Return the version of the definition that an opset has of a model's operation, None if it has none."""
    try:
        return int(onnx.defs.get_schema(model.graph.node[0].op_type, opset, "").since_version)
    except onnx.defs.SchemaError:
        return None


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
        elif expected.dtype.itemsize == 1:  # types of few numbers
            np.testing.assert_array_equal(found.astype(np.float64), expected.astype(np.float64))
        else:
            found, expected = (array.astype(np.float64) for array in (found, expected))
            np.testing.assert_allclose(found, expected, rtol=case.relative_tolerance, atol=case.absolute_tolerance)
