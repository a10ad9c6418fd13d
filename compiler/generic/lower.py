"""ONNX operations that no dialect fused -> generic kinds, by one table of rules over all topics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.dialects.rewrite import Rewriter
from compiler.generic import (
    arithmetic,
    comparison,
    einsum,
    functions,
    indexing,
    movement,
    normalization,
    padding,
    products,
    quantization,
    reduction,
    scattering,
    selection,
)
from compiler.generic.rule import Replacement, Rule, SymbolicSizeError
from compiler.graph import Graph, OnnxAttributes, Operation, dtype_of

RULES: dict[str, Rule] = {
    **arithmetic.RULES,
    **comparison.RULES,
    **functions.RULES,
    **movement.RULES,
    **einsum.RULES,
    **indexing.RULES,
    **normalization.RULES,
    **padding.RULES,
    **products.RULES,
    **quantization.RULES,
    **reduction.RULES,
    **scattering.RULES,
    **selection.RULES,
}
"""The rule of each operation type of the domain `ai.onnx`; these are the operations listed as supported."""


def lower_generic(graph: Graph) -> Graph:
    """Rewrite each left-over ONNX operation that has a rule; the others stay, to be refused."""
    rewriter = Rewriter(graph)
    for operation in graph.operations:
        replacement = _lowered(rewriter, operation)
        if replacement is not None:
            rewriter.replace(operation, replacement)
    return rewriter.build()


def _lowered(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Return what takes the place of an operation; None if it has no rule, or none for its sizes."""
    attributes = operation.attributes
    if not isinstance(attributes, OnnxAttributes) or attributes.domain or attributes.op_type not in RULES:
        return None
    outputs = [name for name in operation.outputs if name]
    try:
        if all(0 in rewriter.values[name].shape for name in outputs):
            return _of_nothing(Replacement(rewriter, operation), outputs)
        return RULES[attributes.op_type](rewriter, operation)
    except SymbolicSizeError:
        return None


def _of_nothing(new: Replacement, outputs: Sequence[str]) -> list[Operation]:
    """Make results without elements, which are the same whatever the operation is."""
    for output in outputs:
        shape, dtype = new.shape(output), new.value(output).dtype
        new.broadcast(new.constant("nothing", np.zeros([1] * len(shape), dtype_of(dtype))), shape, output)
    return new.operations
