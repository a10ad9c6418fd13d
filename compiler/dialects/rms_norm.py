"""The spellings of root-mean-square normalization -> `rms_norm`.

`x * Reciprocal(Sqrt(ReduceMean(Pow(x, 2)) + epsilon)) * weight`, with `Div(1, Sqrt(.))`, `Pow(., -0.5)` or `x /
Sqrt(.)` instead, and the fused RMSNormalization, SimplifiedLayerNormalization and SkipSimplifiedLayerNormalization.
"""

from __future__ import annotations

from compiler.dialects.rewrite import Rewriter, integer, is_onnx, number, onnx_attributes, operands
from compiler.evaluate import axes_of
from compiler.graph import Graph, Operation, RmsNormAttributes


def fuse_norms(graph: Graph) -> Graph:
    """Turn all spellings of RMS norm into `rms_norm` (and `add`, for the one that adds a skip connection)."""
    rewriter = Rewriter(graph)
    for operation in graph.operations:
        if is_onnx(operation, "RMSNormalization", "SimplifiedLayerNormalization"):
            _fuse_direct(rewriter, operation)
        elif is_onnx(operation, "SkipSimplifiedLayerNormalization"):
            _fuse_skip(rewriter, operation)
        elif is_onnx(operation, "Mul"):
            _fuse_decomposed(rewriter, operation)
    return rewriter.build()


def _is_weight(rewriter: Rewriter, weight: str | None, value: str | None) -> bool:
    graph = rewriter.graph
    return weight in graph.constants and graph.value(weight or "").shape == graph.value(value or "").shape[-1:]


def _fuse_direct(rewriter: Rewriter, operation: Operation) -> None:
    rank = len(rewriter.graph.value(operation.inputs[0] or "").shape)
    last = rank > 0 and integer(operation, "axis", -1) % rank == rank - 1
    if last and len(operation.inputs) == 2 and _is_weight(rewriter, operation.inputs[1], operation.inputs[0]):
        attributes = RmsNormAttributes(number(operation, "epsilon", 1e-5))
        norm = Operation("rms_norm", operation.name, operation.inputs, operation.outputs[:1], attributes)
        rewriter.replace(operation, [norm])


def _fuse_skip(rewriter: Rewriter, operation: Operation) -> None:
    """Outputs 0 = norm(x + skip) and 3 = x + skip; the statistics (1, 2) do not exist at inference."""
    value, skip, weight = operation.inputs[:3]
    unused = all(name is None for name in operation.outputs[1:3]) and not any(operation.inputs[3:])
    if not unused or not _is_weight(rewriter, weight, value):
        return
    total = operation.outputs[3] if len(operation.outputs) > 3 else None
    if total is None:
        described = rewriter.graph.value(value or "")
        total = rewriter.fresh(f"{operation.outputs[0]}/sum", described.shape, described.dtype)
    attributes = RmsNormAttributes(number(operation, "epsilon", 1e-5))
    addition = Operation("add", f"{operation.name}/add", (value, skip), (total,))
    norm = Operation("rms_norm", operation.name, (total, weight), operation.outputs[:1], attributes)
    rewriter.replace(operation, [addition, norm])


def _fuse_decomposed(rewriter: Rewriter, operation: Operation) -> None:
    for weight, normalized in operands(operation):
        if not _is_weight(rewriter, weight, normalized):
            continue
        found = _normalized(rewriter, normalized)
        if found is not None:
            value, epsilon = found
            attributes = RmsNormAttributes(epsilon)
            norm = Operation("rms_norm", operation.name, (value, weight), operation.outputs, attributes)
            rewriter.replace(operation, [norm])
            return


def _normalized(rewriter: Rewriter, name: str) -> tuple[str, float] | None:
    """Return (x, epsilon) if a value is `x / sqrt(mean(x^2) + epsilon)`."""
    product = rewriter.producer(name, "Mul")
    if product is not None:
        for value, inverse in operands(product):
            root = _inverse_root(rewriter, inverse)
            found = _mean_square(rewriter, root) if root else None
            if found is not None and found[0] == value:
                return found
    quotient = rewriter.producer(name, "Div")
    root_operation = rewriter.producer(quotient.inputs[1], "Sqrt") if quotient is not None else None
    if quotient is not None and root_operation is not None:
        found = _mean_square(rewriter, root_operation.inputs[0] or "")
        if found is not None and found[0] == quotient.inputs[0]:
            return found
    return None


def _inverse_root(rewriter: Rewriter, name: str) -> str | None:
    """Return y if a value is `1 / sqrt(y)`."""
    power = rewriter.producer(name, "Pow")
    if power is not None and rewriter.scalar(power.inputs[1]) == -0.5:
        return power.inputs[0]
    inverse = rewriter.producer(name, "Reciprocal", "Div")
    if inverse is None or (is_onnx(inverse, "Div") and rewriter.scalar(inverse.inputs[0]) != 1.0):
        return None
    root = rewriter.producer(inverse.inputs[-1], "Sqrt")
    return root.inputs[0] if root is not None else None


def _mean_square(rewriter: Rewriter, name: str) -> tuple[str, float] | None:
    """Return (x, epsilon) if a value is `mean(x^2) + epsilon` over the last axis."""
    addition = rewriter.producer(name, "Add")
    if addition is None:
        return None
    for mean_name, epsilon_name in operands(addition):
        epsilon, mean = rewriter.scalar(epsilon_name), rewriter.producer(mean_name, "ReduceMean")
        if epsilon is None or mean is None or integer(mean, "keepdims", 1) != 1:
            continue
        rank = len(rewriter.graph.value(mean.inputs[0] or "").shape)
        arrays = [rewriter.array(argument) for argument in mean.inputs]
        axes = axes_of(onnx_attributes(mean), arrays)
        squared = _squared(rewriter, mean.inputs[0])
        if squared and axes is not None and rank and [axis % rank for axis in axes] == [rank - 1]:
            return squared, epsilon
    return None


def _squared(rewriter: Rewriter, name: str | None) -> str | None:
    power = rewriter.producer(name, "Pow")
    if power is not None and rewriter.scalar(power.inputs[1]) == 2.0:
        return power.inputs[0]
    product = rewriter.producer(name, "Mul")
    return product.inputs[0] if product is not None and product.inputs[0] == product.inputs[1] else None
