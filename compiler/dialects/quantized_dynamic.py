"""Activations quantized at run time and integer products (`quantize_dynamic` of ONNX Runtime) -> quantize and linear.

The graph rounds a whole tensor to uint8 with one scale and zero point; the chip rounds each row to int8 with its own
symmetric scale: finer for rows that are smaller than the largest, up to twice as coarse for numbers of one sign only.
A weight with zero points off the middle keeps its activations in floating point, which is finer than either.
"""

from __future__ import annotations

import dataclasses

from compiler.dialects.linear import replace_with_bias
from compiler.dialects.quantized_weight import QuantizedWeight, from_parts
from compiler.dialects.rewrite import Rewriter, is_onnx, operands
from compiler.graph import LinearAttributes, Operation, QuantizeAttributes


def fuse_dynamic(rewriter: Rewriter) -> None:
    """Replace products of dynamically quantized activations; all that read one share its quantization."""
    rounded: dict[str, tuple[str, str]] = {}
    for operation in rewriter.graph.operations:
        if is_onnx(operation, "MatMulInteger"):
            _fuse_integer_product(rewriter, operation, rounded)
        elif is_onnx(operation, "MatMulIntegerToFloat"):
            _fuse_scaled_product(rewriter, operation, rounded)
        elif is_onnx(operation, "DynamicQuantizeMatMul"):
            x, integers, scales, zero_points, bias = (*operation.inputs, None, None)[:5]
            weight = from_parts(rewriter, operation, (integers or "", scales or "", zero_points), 0)
            before: list[Operation] = []
            linear = _linear(rewriter, operation, x or "", weight, rounded, before)
            linear = dataclasses.replace(linear, inputs=(*linear.inputs[:2], bias, *linear.inputs[3:]))
            rewriter.replace(operation, [*before, linear])


def _fuse_integer_product(rewriter: Rewriter, product: Operation, rounded: dict[str, tuple[str, str]]) -> None:
    """MatMulInteger -> Cast -> Mul by (scale of x) * (scales of W), the two multiplied first or one by one."""
    inputs = (*product.inputs, None, None)[:4]
    quantize = rewriter.producer(inputs[0], "DynamicQuantizeLinear")
    cast = rewriter.sole_consumer(product.outputs[0] or "")
    if quantize is None or inputs[2] != quantize.outputs[2] or cast is None or not is_onnx(cast, "Cast"):
        return
    scaled = _scaling(rewriter, cast.outputs[0] or "", quantize.outputs[1] or "")
    if scaled is None:
        return
    last, scales = scaled
    weight = from_parts(rewriter, product, (inputs[1] or "", scales, inputs[3]), 0)
    before: list[Operation] = []
    linear = _linear(rewriter, product, quantize.inputs[0] or "", weight, rounded, before)
    if before:
        rewriter.replace(quantize, [quantize, *before])
    replace_with_bias(rewriter, last, dataclasses.replace(linear, outputs=last.outputs))


def _scaling(rewriter: Rewriter, name: str, x_scale: str) -> tuple[Operation, str] | None:
    """Return the last Mul after a value and the constant scales of the weight."""
    product = rewriter.sole_consumer(name)
    if product is None or not is_onnx(product, "Mul"):
        return None
    factor = next(other for own, other in operands(product) if own == name)
    both = rewriter.producer(factor, "Mul")
    if both is not None and x_scale in both.inputs:
        scales = next(other for own, other in operands(both) if own == x_scale)
        return (product, scales) if scales in rewriter.constants else None
    if factor == x_scale:
        after = _scaling(rewriter, product.outputs[0] or "", "")
        return after
    return (product, factor) if x_scale == "" and factor in rewriter.constants else None


def _fuse_scaled_product(rewriter: Rewriter, product: Operation, rounded: dict[str, tuple[str, str]]) -> None:
    """MatMulIntegerToFloat(a, W, scale of a, scales of W, zero point of a, zero points of W, bias)."""
    inputs = (*product.inputs, None, None, None)[:7]
    quantize = rewriter.producer(inputs[0], "DynamicQuantizeLinear")
    if quantize is None or (inputs[2], inputs[4]) != quantize.outputs[1:]:
        return
    weight = from_parts(rewriter, product, (inputs[1] or "", inputs[3] or "", inputs[5]), 0)
    before: list[Operation] = []
    linear = _linear(rewriter, product, quantize.inputs[0] or "", weight, rounded, before)
    if before:
        rewriter.replace(quantize, [quantize, *before])
    rewriter.replace(product, [dataclasses.replace(linear, inputs=(*linear.inputs[:2], inputs[6], *linear.inputs[3:]))])


def _linear(
    rewriter: Rewriter,
    product: Operation,
    x: str,
    weight: QuantizedWeight,
    rounded: dict[str, tuple[str, str]],
    before: list[Operation],
) -> Operation:
    """Return the linear; `before` gets the quantization of x if it is the first that needs it."""
    attributes = LinearAttributes(weight_rows_are_outputs=False, weight_format=weight.format)
    if weight.zero_points is not None:
        inputs: tuple[str | None, ...] = (x, weight.integers, None, None, weight.scales, weight.zero_points)
        return Operation("linear", product.name, inputs, product.outputs, attributes)
    if x not in rounded:
        operation, *names = quantize_rows(rewriter, x)
        rounded[x] = (names[0], names[1])
        before.append(operation)
    integers, x_scale = rounded[x]
    inputs = (integers, weight.integers, None, None, weight.scales, None, x_scale)
    return Operation("linear", product.name, inputs, product.outputs, attributes)


def quantize_rows(rewriter: Rewriter, x: str) -> tuple[Operation, str, str]:
    """Return the operation that rounds each row of x to int8, and the names of its integers and scales."""
    shape = rewriter.values[x].shape
    integers = rewriter.fresh(f"{x}.int8", shape, "int8")
    scales = rewriter.fresh(f"{x}.scale", (*shape[:-1], 1), "float32")
    names = (integers, scales)
    return Operation("quantize", f"{x}.quantize", (x,), names, QuantizeAttributes("int8")), *names
