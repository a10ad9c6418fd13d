"""If with a condition that sizes and constants decide -> the operations of the branch that is taken."""

from __future__ import annotations

import numpy as np

from compiler.dialects.rewrite import Rewriter, is_onnx, onnx_attributes
from compiler.graph import Body, Graph, OnnxAttributes, Operation
from compiler.inline import inlined
from compiler.shape_inference import facts_so_far


def take_branches(graph: Graph) -> Graph:
    """Replace the Ifs whose condition is known now, also those in the branches taken; others stay, to be refused."""
    while any(is_onnx(operation, "If") for operation in graph.operations):
        facts, rewriter, is_changed = facts_so_far(graph), Rewriter(graph), False
        for operation in graph.operations:
            fact = facts.get(operation.inputs[0] or "") if is_onnx(operation, "If") else None
            if fact is None or fact.content is None or fact.content.dtype == object:
                continue
            rewriter.replace(operation, _taken(rewriter, operation, bool(np.all(fact.content))))
            is_changed = True
        if not is_changed:
            break
        graph = rewriter.build()
    return graph


def _taken(rewriter: Rewriter, operation: Operation, condition: bool) -> list[Operation]:
    body = onnx_attributes(operation).get("then_branch" if condition else "else_branch")
    assert isinstance(body, Body)
    operations, constants = inlined(body.operations, body.constants, operation.name, {})
    rewriter.constants.update(constants)
    made = {*body.constants, *(name for inner in body.operations for name in inner.outputs if name)}
    for place, (name, output) in enumerate(zip(body.outputs, operation.outputs, strict=False)):
        if output:
            source = f"{operation.name}/{name}" if name in made else name
            identity = OnnxAttributes("", "Identity")
            operations.append(Operation("onnx", f"{operation.name}/output_{place}", (source,), (output,), identity))
    return operations
