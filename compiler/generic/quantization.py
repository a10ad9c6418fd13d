"""Quantization of tensors that no dialect made part of a linear: integers are computed as floats that hold them."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from compiler.dialects.rewrite import Rewriter, integer
from compiler.generic.narrow import rounded_to
from compiler.generic.products import check_exact, integers, product
from compiler.generic.recipe import Term, compute, is_float
from compiler.generic.rule import Replacement, Rule
from compiler.graph import NIBBLES, Operation, dtype_of


def _parameters(new: Replacement, name: str | None, shape: tuple[int, ...]) -> str | None:
    """Return scales or zero points so that they broadcast: one for all, one per place of an axis, or one per block."""
    if name is None:
        return None
    given = new.shape(name)
    if math.prod(given) == 1:
        return new.reshape(name, [1])
    operation, block = new.operation, integer(new.operation, "block_size", 0)
    axis = integer(operation, "axis", 1) % len(shape)
    if not block:
        return new.reshape(name, [shape[axis] if other == axis else 1 for other in range(len(shape))])
    sizes = [*given[: axis + 1], block, *given[axis + 1 :]]
    axes = [*range(axis + 1), None, *range(axis + 1, len(given))]
    repeated = new.move(name, sizes, axes)
    whole = new.reshape(repeated, [*given[:axis], given[axis] * block, *given[axis + 1 :]])
    return new.slice(whole, axis, 0, shape[axis])


def to_grid(x: Term, zero_point: Term | None, dtype: str, saturate: bool = True) -> Term:
    """Return scaled numbers rounded to a type, with their zero point."""
    if is_float(dtype):
        return rounded_to(x if zero_point is None else x + zero_point, dtype, saturate)
    limits = (ml_dtypes.iinfo if dtype in NIBBLES else np.iinfo)(dtype_of(dtype))
    rounded = x.apply("vround")
    shifted = rounded if zero_point is None else rounded + zero_point
    return shifted.apply("vmax", float(limits.min)).apply("vmin", float(limits.max))


def _quantize(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    new, output = Replacement(rewriter, operation), operation.outputs[0]
    name, dtype = str(operation.inputs[0]), new.value(operation.outputs[0]).dtype
    shape, saturate = new.shape(name), bool(integer(operation, "saturate", 1))
    operands = (name, _parameters(new, new.input(1), shape), _parameters(new, new.input(2), shape))
    compute(new, lambda x, scale, zero: to_grid(x / scale, zero, dtype, saturate), operands, dtype, output, shape)
    return new.operations


def _dequantize(rewriter: Rewriter, operation: Operation) -> list[Operation]:
    new, output = Replacement(rewriter, operation), operation.outputs[0]
    name = str(operation.inputs[0])
    shape = new.shape(name)
    operands = (name, _parameters(new, new.input(1), shape), _parameters(new, new.input(2), shape))

    def numbers(x: Term, scale: Term, zero: Term | None) -> Term:
        return (x if zero is None else x - zero) * scale

    compute(new, numbers, operands, new.value(output).dtype, output, shape)
    return new.operations


def _quantized_product(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """QLinearMatMul: integers in, integers out, with one scale and zero point each."""
    new, output = Replacement(rewriter, operation), operation.outputs[0]
    left, left_scale, left_zero, right, right_scale, right_zero, scale, zero = (str(name) for name in operation.inputs)
    dtype = new.value(output).dtype
    if any(math.prod(new.shape(name)) != 1 for name in (left_scale, right_scale, scale)) or is_float(dtype):
        return None
    check_exact(new, left)
    sums = product(new, integers(new, left, left_zero, True), integers(new, right, right_zero, False), "float32")

    def requantized(x: Term, a: Term, b: Term, scale: Term, zero: Term) -> Term:
        return to_grid(x * (a * b / scale), zero, dtype)

    numbers = [new.reshape(name, [1]) for name in (left_scale, right_scale, scale, zero)]
    compute(new, requantized, (sums, *numbers), dtype, output, new.shape(sums))
    return new.operations


RULES: dict[str, Rule] = {
    "DequantizeLinear": _dequantize,
    "QLinearMatMul": _quantized_product,
    "QuantizeLinear": _quantize,
}
