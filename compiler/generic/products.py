"""Products of computed matrices, and what is made of them. Products with weights fuse to `linear` before."""

from __future__ import annotations

import math

import numpy as np

from compiler.dialects.rewrite import Rewriter, integer, number
from compiler.generic.recipe import EXACT_INTEGER, Term, compute
from compiler.generic.rule import Replacement, Rule
from compiler.graph import Operation, dtype_of
from isa.errors import UnsupportedError


def product(new: Replacement, left: str, right: str, dtype: str, output: str | None = None) -> str:
    """Return `left @ right` by the rules of NumPy; sums of no products are zero."""
    shapes = [new.shape(left), new.shape(right)]
    a = new.reshape(left, [1, *shapes[0]]) if len(shapes[0]) == 1 else left
    b = new.reshape(right, [*shapes[1], 1]) if len(shapes[1]) == 1 else right
    rank = len(new.shape(b))
    b = new.transpose(b, [*range(rank - 2), rank - 1, rank - 2])
    outer = np.broadcast_shapes(new.shape(a)[:-2], new.shape(b)[:-2])
    kept = [*outer, *shapes[0][-2:-1], *([shapes[1][-1]] if len(shapes[1]) > 1 else [])]
    if not shapes[0][-1]:
        return new.broadcast(new.constant("zero", np.zeros([1] * len(kept), dtype_of(dtype))), kept, output)
    found = new.add("matmul", (a, b), [*outer, new.shape(a)[-2], new.shape(b)[-2]], dtype)
    return new.reshape(found, kept, output)


def _matmul(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    new = Replacement(rewriter, operation)
    left, right = (str(name) for name in operation.inputs)
    product(new, left, right, new.value(left).dtype, operation.outputs[0])
    return new.operations


def _gemm(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    new, output = Replacement(rewriter, operation), operation.outputs[0]
    left, right = (
        new.transpose(str(name), [1, 0] if integer(operation, flag, 0) else [0, 1])
        for name, flag in zip(operation.inputs, ("transA", "transB"), strict=False)
    )
    alpha, beta, dtype = number(operation, "alpha", 1.0), number(operation, "beta", 1.0), new.value(left).dtype
    if new.input(2) is None and alpha == 1.0:
        product(new, left, right, dtype, output)
        return new.operations
    found = product(new, left, right, dtype)

    def total(product: Term, extra: Term | None) -> Term:
        scaled = product if alpha == 1.0 else product * alpha
        return scaled if extra is None else scaled + (extra if beta == 1.0 else extra * beta)

    compute(new, total, (found, new.input(2)), dtype, output, new.shape(found))
    return new.operations


def integers(new: Replacement, name: str, zero_point: str | None, is_left: bool) -> str:
    """Return whole numbers less their zero points, one for all or one per row on the left, as floats."""
    if zero_point is not None and is_left and math.prod(new.shape(zero_point)) > 1:
        zero_point = new.reshape(zero_point, [*new.shape(zero_point), 1])
    return compute(
        new, lambda x, zero: x if zero is None else x - zero, (name, zero_point), "float32", shape=new.shape(name)
    )


def check_exact(new: Replacement, left: str) -> None:
    """Raise UnsupportedError if sums of products of 9-bit numbers could outgrow what fp32 holds exactly."""
    length, most = new.shape(left)[-1], EXACT_INTEGER // 255**2
    if length > most:
        what = f"an integer product of two computed matrices over {length} elements, {most} at most are exact"
        help = "keep the weight in the file as a constant, or multiply floats"
        raise UnsupportedError(what, where=f"node {new.operation.name!r}", help=help)


def _matmul_integer(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    new = Replacement(rewriter, operation)
    left, right = (str(name) for name in operation.inputs[:2])
    check_exact(new, left)
    left, right = integers(new, left, new.input(2), True), integers(new, right, new.input(3), False)
    product(new, left, right, "int32", operation.outputs[0])
    return new.operations


RULES: dict[str, Rule] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul_integer,
}
