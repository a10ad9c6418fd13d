"""MatMul and Gemm with a constant matrix, and what is added to it and made of it -> `linear`."""

from __future__ import annotations

import dataclasses

from compiler.dialects.rewrite import Rewriter, integer, is_onnx, number, onnx_attributes, operands
from compiler.graph import Activation, Graph, LinearAttributes, Operation


def fuse_linear(graph: Graph) -> Graph:
    """Turn MatMul(x, W) into `linear` and absorb a Transpose of W, without reading W, and the addition of a bias."""
    rewriter = Rewriter(graph)
    for operation in graph.operations:
        weight = _weight(rewriter, operation)
        if weight is None:
            continue
        name, rows_are_outputs = weight
        attributes = LinearAttributes(rows_are_outputs)
        inputs = (operation.inputs[0], name, _bias(operation), None)
        linear = Operation("linear", operation.name, inputs, operation.outputs, attributes)
        if inputs[2] is None:
            replace_with_bias(rewriter, operation, linear)
        else:
            rewriter.replace(operation, [linear])
    return rewriter.build()


def _weight(rewriter: Rewriter, operation: Operation) -> tuple[str, bool] | None:
    """Return the constant matrix of a product and whether its rows are outputs."""
    is_product = is_onnx(operation, "MatMul") or _is_plain_gemm(rewriter, operation)
    if not is_product or operation.inputs[0] in rewriter.graph.constants:
        return None
    if len(rewriter.graph.value(operation.inputs[0] or "").shape) < 2:
        return None
    name, transposed = operation.inputs[1] or "", is_onnx(operation, "Gemm") and integer(operation, "transB", 0) == 1
    transpose = rewriter.producer(name, "Transpose")
    while transpose is not None:
        if tuple(onnx_attributes(transpose).get("perm", (1, 0))) != (1, 0):  # type: ignore[arg-type]
            return None
        name, transposed = transpose.inputs[0] or "", not transposed
        transpose = rewriter.producer(name, "Transpose")
    is_matrix = name in rewriter.graph.constants and len(rewriter.graph.value(name).shape) == 2
    return (name, transposed) if is_matrix else None


def _is_plain_gemm(rewriter: Rewriter, operation: Operation) -> bool:
    """Tell whether an operation is x @ W or x @ W.T, plus a constant row or nothing."""
    if not is_onnx(operation, "Gemm") or integer(operation, "transA", 0):
        return False
    factors = [number(operation, name, 1.0) for name in ("alpha", "beta")[: len(operation.inputs) - 1]]
    columns = rewriter.graph.value(operation.outputs[0] or "").shape[-1]
    bias = _bias(operation)
    is_row = bias is None or (
        bias in rewriter.graph.constants and rewriter.graph.value(bias).shape in ((columns,), (1, columns))
    )
    return is_row and all(factor == 1.0 for factor in factors)


def _bias(operation: Operation) -> str | None:
    return operation.inputs[2] if is_onnx(operation, "Gemm") and len(operation.inputs) > 2 else None


def replace_with_bias(rewriter: Rewriter, matmul: Operation, linear: Operation) -> None:
    """Put `linear` in the place of the product, or the addition of a constant vector to it if that is its only use."""
    product = matmul.outputs[0] or ""
    addition = rewriter.sole_consumer(product)
    if addition is not None and is_onnx(addition, "Add"):
        bias = next(other for own, other in operands(addition) if own == product)
        columns = rewriter.graph.value(product).shape[-1]
        if bias in rewriter.graph.constants and rewriter.graph.value(bias).shape == (columns,):
            inputs = (*linear.inputs[:2], bias, *linear.inputs[3:])
            rewriter.replace(addition, [dataclasses.replace(linear, inputs=inputs, outputs=addition.outputs)])
            return
    rewriter.replace(matmul, [linear])


def fuse_residuals(graph: Graph) -> Graph:
    """Fold the addition of another activation into the `linear` that is its other operand and has no other use."""
    rewriter = Rewriter(graph)
    for operation in graph.operations:
        if not is_onnx(operation, "Add") and operation.kind != "add":
            continue
        candidates = [
            (rewriter.position(rewriter.producers[own]), own, other)
            for own, other in operands(operation)
            if _takes_residual(rewriter, operation, own, other)
        ]
        if candidates:
            _, own, other = max(candidates)
            linear = rewriter.producers[own]
            inputs = (*linear.inputs[:3], other, *linear.inputs[4:])
            rewriter.replace(operation, [dataclasses.replace(linear, inputs=inputs, outputs=operation.outputs)])
    return rewriter.build()


def _takes_residual(rewriter: Rewriter, addition: Operation, own: str, other: str) -> bool:
    linear = rewriter.producers.get(own)
    if linear is None or linear.kind != "linear" or linear.inputs[3] is not None:
        return False
    if _attributes(linear).activation is not None or other in rewriter.constants:
        return False
    same_shape = rewriter.graph.value(own).shape == rewriter.graph.value(other).shape
    return same_shape and own != other and rewriter.sole_consumer(own) is addition


_ACTIVATIONS: dict[str, Activation] = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}


def fuse_linear_activations(graph: Graph) -> Graph:
    """Give a `linear` the activation that is its only reader; one with a residual may be split in two and gets none."""
    rewriter = Rewriter(graph)
    for operation in graph.operations:
        if not is_onnx(operation, *_ACTIVATIONS):
            continue
        source = operation.inputs[0] or ""
        linear = rewriter.producers.get(source)
        if linear is None or linear.kind != "linear" or linear.inputs[3] or rewriter.sole_consumer(source) is None:
            continue
        activation = _ACTIVATIONS[onnx_attributes(operation).op_type]
        if _attributes(linear).activation is None:
            attributes = dataclasses.replace(_attributes(linear), activation=activation)
            activated = dataclasses.replace(linear, outputs=operation.outputs, attributes=attributes)
            rewriter.replace(operation, [activated])
    return rewriter.build()


def _attributes(linear: Operation) -> LinearAttributes:
    assert isinstance(linear.attributes, LinearAttributes)
    return linear.attributes
