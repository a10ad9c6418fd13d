"""Arithmetic of two tensors."""

from __future__ import annotations

from compiler.dialects.rewrite import Rewriter, onnx_attributes
from compiler.evaluate import FLOAT_DTYPES
from compiler.generic.rule import Replacement, Rule
from compiler.graph import Operation


def _sum_or_product(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """Floats of equal shapes have a kernel of their own."""
    new = Replacement(rewriter, operation)
    left, right = (new.value(name) for name in operation.inputs)
    computed = left.name in rewriter.values and right.name in rewriter.values
    if not computed or left.shape != right.shape or left.dtype not in FLOAT_DTYPES:
        return None
    new.add(onnx_attributes(operation).op_type.lower(), operation.inputs, output=operation.outputs[0])
    return new.operations


RULES: dict[str, Rule] = {"Add": _sum_or_product, "Mul": _sum_or_product}
