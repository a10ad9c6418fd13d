"""Operators that did not fuse and that ONNX defines by simpler ones -> those, as the onnx package writes them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from compiler.fold import drop_no_operations, fold_constants
from compiler.graph import Constant, Graph, OnnxAttributes, Operation
from compiler.inline import inlined
from compiler.onnx_import import body_contents
from compiler.onnx_schema import function_body
from compiler.shape_inference import infer_shapes
from isa.affine import Affine

if TYPE_CHECKING:
    import onnx

EXPANDED = (
    "Attention", "CenterCropPad", "DynamicQuantizeLinear", "GroupNormalization", "RotaryEmbedding",
)  # fmt: skip
"""Operators without a rule of their own. Those that fuse are expanded only where they did not."""


def expand_functions(graph: Graph) -> Graph:
    """Replace the operators above wherever all their sizes are known; the others stay, to be refused."""
    while True:
        operations: list[Operation] = []
        constants = dict(graph.constants)
        for operation in graph.operations:
            body = _body_of(graph, operation)
            if body is None:
                operations.append(operation)
                continue
            inner, found = _operations(body, operation)
            operations += inner
            constants |= found
        if len(operations) == len(graph.operations):
            return graph
        graph = dataclasses.replace(graph, operations=tuple(operations), constants=constants)
        graph = drop_no_operations(fold_constants(infer_shapes(graph)))


def _body_of(graph: Graph, operation: Operation) -> onnx.FunctionProto | None:
    attributes = operation.attributes
    if not isinstance(attributes, OnnxAttributes) or attributes.domain or attributes.op_type not in EXPANDED:
        return None
    inputs = [graph.value(name) if name else None for name in operation.inputs]
    if any(isinstance(dim, Affine) for value in inputs if value for dim in value.shape):
        return None
    types = [(value.dtype, value.shape) if value else None for value in inputs]
    return function_body(attributes, graph.opset, types, [name is not None for name in operation.outputs])


def _operations(body: onnx.FunctionProto, operation: Operation) -> tuple[list[Operation], dict[str, Constant]]:
    """Return the operations and constants of a body that reads and makes what the operation does."""
    known: dict[str, str | None] = dict(zip(body.input, (*operation.inputs, *[None] * len(body.input)), strict=False))
    known |= {inner: outer for inner, outer in zip(body.output, operation.outputs, strict=False) if outer}
    return inlined(*body_contents(body, operation.name), operation.name, known)
