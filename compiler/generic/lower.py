"""ONNX operations that no dialect fused -> generic kinds, by one table of rules over all topics."""

from __future__ import annotations

from compiler.dialects.rewrite import Rewriter
from compiler.generic import arithmetic, comparison, functions, movement, reduction
from compiler.generic.rule import Rule, SymbolicSizeError
from compiler.graph import Graph, OnnxAttributes, Operation

RULES: dict[str, Rule] = {
    **arithmetic.RULES,
    **comparison.RULES,
    **functions.RULES,
    **movement.RULES,
    **reduction.RULES,
}
"""The rule of each operation type of the domain `ai.onnx`; these are the operations listed as supported."""
_ALL_RULES = {**RULES, **movement.LOOK_UPS}


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
    if not isinstance(attributes, OnnxAttributes) or attributes.domain or attributes.op_type not in _ALL_RULES:
        return None
    try:
        return _ALL_RULES[attributes.op_type](rewriter, operation)
    except SymbolicSizeError:
        return None
