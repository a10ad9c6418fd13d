"""`g * sigmoid(g) * up` in its spellings -> `swiglu`."""

from __future__ import annotations

from compiler.dialects.rewrite import Rewriter, is_onnx, number, operands
from compiler.graph import Graph, Operation


def fuse_activations(graph: Graph) -> Graph:
    """Turn a product with SiLU (Mul and Sigmoid, QuickGelu or Swish with alpha 1) into `swiglu`."""
    rewriter = Rewriter(graph)
    for operation in graph.operations:
        if not is_onnx(operation, "Mul"):
            continue
        for activated, up in operands(operation):
            gate = _silu(rewriter, activated)
            if gate is not None and up != gate and graph.value(up).shape == graph.value(gate).shape:
                rewriter.replace(operation, [Operation("swiglu", operation.name, (gate, up), operation.outputs)])
                break
    return rewriter.build()


def _silu(rewriter: Rewriter, name: str) -> str | None:
    """Return g if a value is `g * sigmoid(g)`."""
    fused = rewriter.producer(name, "QuickGelu", "Swish")
    if fused is not None:
        default = 1.702 if is_onnx(fused, "QuickGelu") else 1.0
        return fused.inputs[0] if number(fused, "alpha", default) == 1.0 else None
    product = rewriter.producer(name, "Mul")
    if product is not None:
        for gate, gated in operands(product):
            sigmoid = rewriter.producer(gated, "Sigmoid")
            if sigmoid is not None and sigmoid.inputs[0] == gate:
                return gate
    return None
