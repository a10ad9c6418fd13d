"""Quantized operations of ONNX Runtime's tools and of ONNX itself -> linear and embedding with a weight format.

Weights stay as they are in the file: MatMulNBits, GatherBlockQuantized, and DequantizeLinear before MatMul or around
Gather. Activations that a graph rounds statically (QuantizeLinear, DequantizeLinear) are rounded the same way, by
`requantize`, but for operands of products of two of them: attention keeps queries, keys, values and probabilities in
floating point, which is finer. What a graph quantizes dynamically is in `quantized_dynamic`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from compiler.dialects.linear import replace_with_bias
from compiler.dialects.quantized_dynamic import fuse_dynamic
from compiler.dialects.quantized_weight import BITS, QuantizedWeight, dequantized, from_blocks, from_parts
from compiler.dialects.rewrite import Rewriter, integer, is_onnx, onnx_attributes
from compiler.fold import drop_values
from compiler.graph import Constant, Graph, LinearAttributes, Operation, RequantizeAttributes, Value
from isa.errors import ModelError, UnsupportedError

RANGES = {
    "int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767),
    "uint16": (0, 65535),
}  # fmt: skip
"""Lowest and highest integer of the types that activations are rounded to."""


def fuse_quantized(graph: Graph) -> Graph:
    """Give every quantized form its meaning here; raises UnsupportedError or ModelError for those that have none."""
    graph = _fold_vectors(graph)
    rewriter = Rewriter(drop_values(graph, _unrounded(Rewriter(graph))))
    fuse_dynamic(rewriter)
    for operation in rewriter.graph.operations:
        if is_onnx(operation, "MatMulNBits"):
            _fuse_blocks(rewriter, operation)
        elif is_onnx(operation, "MatMul"):
            _fuse_matmul(rewriter, operation)
        elif is_onnx(operation, "GatherBlockQuantized"):
            _fuse_block_gather(rewriter, operation)
        elif is_onnx(operation, "DequantizeLinear"):
            _fuse_dequantize(rewriter, operation)
        elif is_onnx(operation, "Gather"):
            _fuse_gather(rewriter, operation)
    return rewriter.build()


def _unrounded(rewriter: Rewriter) -> dict[str, str]:
    """Return by rounded activation the one before, for operands and results of products of two activations."""
    before: dict[str, str] = {}
    for operation in rewriter.graph.operations:
        is_dequantize = is_onnx(operation, "DequantizeLinear")
        quantize = rewriter.producer(operation.inputs[0], "QuantizeLinear") if is_dequantize else None
        if quantize is None or quantize.inputs[0] in rewriter.constants or _cuts_one_sign(rewriter, quantize):
            continue
        name, source = operation.outputs[0] or "", quantize.inputs[0] or ""
        readers = rewriter.consumers.get(name, [])
        is_operand = bool(readers) and all(_is_of_activations(rewriter, reader) for reader in readers)
        if is_operand or _is_of_activations(rewriter, rewriter.producers.get(source)):
            before[name] = source
    return before


def _cuts_one_sign(rewriter: Rewriter, quantize: Operation) -> bool:
    """Tell a zero point at the end of its range, which stands for a Relu; probabilities have no sign to cut off.

    A guard that turns NaN into 0 may stand between a softmax and its rounding.
    """
    low, high = RANGES.get(rewriter.graph.value(quantize.outputs[0] or "").dtype, (0, 0))
    zero_point = rewriter.scalar(quantize.inputs[2]) if len(quantize.inputs) > 2 else 0.0
    guard = rewriter.producer(quantize.inputs[0], "Where")
    is_probability = rewriter.producer((guard or quantize).inputs[2 if guard else 0], "Softmax") is not None
    return zero_point in (low, high) and not is_probability


def _is_of_activations(rewriter: Rewriter, operation: Operation | None) -> bool:
    """Tell whether an operation is a product of two activations."""
    is_product = operation is not None and is_onnx(operation, "MatMul")
    return operation is not None and is_product and all(_is_activation(rewriter, name) for name in operation.inputs)


def _is_activation(rewriter: Rewriter, name: str | None) -> bool:
    """Tell whether an operand of a product is computed, and not from a constant alone."""
    while name in rewriter.producers and is_onnx(rewriter.producers[name], "DequantizeLinear", "Transpose"):
        name = rewriter.producers[name].inputs[0]
    return name not in rewriter.constants


def _fold_vectors(graph: Graph) -> Graph:
    """Evaluate DequantizeLinear of constants that are no weights of a product or table: biases, norm weights."""
    rewriter = Rewriter(graph)
    for operation in graph.operations:
        if not is_onnx(operation, "DequantizeLinear") or _is_weight(rewriter, operation):
            continue
        array = dequantized(rewriter, operation)
        if array is not None:
            name = operation.outputs[0] or ""
            rewriter.constants[name] = Constant(Value(name, array.shape, str(array.dtype)), array)
            rewriter.values.pop(name, None)
            rewriter.replace(operation, [])
    return rewriter.build()


def _is_weight(rewriter: Rewriter, operation: Operation) -> bool:
    name = operation.outputs[0] or ""
    is_matrix = (
        len(rewriter.graph.value(name).shape) == 2 and rewriter.graph.value(operation.inputs[0] or "").dtype in BITS
    )
    pending = list(rewriter.consumers.get(name, []))
    while is_matrix and pending:
        reader = pending.pop()
        if is_onnx(reader, "MatMul", "Gather", "Gemm"):
            return True
        if is_onnx(reader, "Transpose"):
            pending += rewriter.consumers.get(reader.outputs[0] or "", [])
    return False


def _names(operation: Operation, first: int) -> tuple[str, str, str | None]:
    """Return the inputs integers, scales and zero points, which stand side by side."""
    integers, scales, *rest = operation.inputs[first:]
    return integers or "", scales or "", rest[0] if rest else None


def linear_of(
    operation: Operation, x: str, weight: QuantizedWeight, rows_are_outputs: bool, bias: str | None = None
) -> Operation:
    """Return the linear that stands for a product with a quantized weight."""
    inputs = (x, weight.integers, bias, None, weight.scales, weight.zero_points)
    attributes = LinearAttributes(rows_are_outputs, weight_format=weight.format)
    return Operation("linear", operation.name, inputs, operation.outputs, attributes)


def _fuse_blocks(rewriter: Rewriter, operation: Operation) -> None:
    inputs = (*operation.inputs, *[None] * 6)[:6]
    if inputs[4] is not None:
        help = "quantize without reordering of K (act_order=False, desc_act=False)"
        raise UnsupportedError("MatMulNBits with g_idx", where=f"node {operation.name!r}", help=help)
    weight = from_blocks(rewriter, operation, _names(operation, 1))
    linear = linear_of(operation, inputs[0] or "", weight, True, inputs[5])
    if inputs[5] is not None:
        rewriter.replace(operation, [linear])
    else:
        replace_with_bias(rewriter, operation, linear)


def _fuse_matmul(rewriter: Rewriter, operation: Operation) -> None:
    """MatMul(x, W) with W = DequantizeLinear of constants, transposed any number of times."""
    name, rows_are_outputs = operation.inputs[1] or "", False
    transpose = rewriter.producer(name, "Transpose")
    while transpose is not None and len(rewriter.graph.value(name).shape) == 2:
        name, rows_are_outputs = transpose.inputs[0] or "", not rows_are_outputs
        transpose = rewriter.producer(name, "Transpose")
    dequantize = rewriter.producer(name, "DequantizeLinear")
    if dequantize is None or dequantize.inputs[0] not in rewriter.constants:
        return
    if len(rewriter.graph.value(name).shape) == 2:
        weight = from_parts(rewriter, dequantize, _names(dequantize, 0), 1 if rows_are_outputs else 0)
        linear = linear_of(operation, operation.inputs[0] or "", weight, rows_are_outputs)
        replace_with_bias(rewriter, operation, linear)


def _fuse_block_gather(rewriter: Rewriter, operation: Operation) -> None:
    attributes = onnx_attributes(operation)
    rank = len(rewriter.graph.value(operation.inputs[0] or "").shape)
    if integer(operation, "gather_axis", 0) % rank or integer(operation, "quantize_axis", 1) % rank != rank - 1:
        help = "gather rows that are quantized along themselves (gather_axis 0, quantize_axis 1)"
        raise UnsupportedError("GatherBlockQuantized along other axes", where=f"node {operation.name!r}", help=help)
    table, ids, scales, zero_points = (*operation.inputs, None)[:4]
    reshape = rewriter.producer(table, "Reshape")
    source = reshape.inputs[0] if reshape is not None else table
    if "block_size" not in dict(attributes.attributes):
        default = (*attributes.attributes, ("block_size", 128))
        operation = dataclasses.replace(operation, attributes=dataclasses.replace(attributes, attributes=default))
    weight = from_blocks(rewriter, operation, (source or "", scales or "", zero_points))
    rewriter.replace(operation, [_embedding(operation, ids, weight)])


def _embedding(operation: Operation, ids: str | None, weight: QuantizedWeight) -> Operation:
    inputs = (ids, weight.integers, weight.scales, weight.zero_points)
    return Operation("embedding", operation.name, inputs, operation.outputs, weight.format)


def _fuse_gather(rewriter: Rewriter, operation: Operation) -> None:
    """Gather(DequantizeLinear(table), ids): the rows are fetched first, then widened."""
    dequantize = rewriter.producer(operation.inputs[0], "DequantizeLinear")
    is_constant = dequantize is not None and dequantize.inputs[0] in rewriter.constants
    if dequantize is not None and is_constant and integer(operation, "axis", 0) == 0:
        weight = from_parts(rewriter, dequantize, _names(dequantize, 0), 1)
        rewriter.replace(operation, [_embedding(operation, operation.inputs[1], weight)])


def _fuse_dequantize(rewriter: Rewriter, operation: Operation) -> None:
    """DequantizeLinear of gathered rows of a table, or of what QuantizeLinear has rounded."""
    gather = rewriter.producer(operation.inputs[0], "Gather")
    if gather is not None and gather.inputs[0] in rewriter.constants and integer(gather, "axis", 0) == 0:
        names = (gather.inputs[0] or "", *_names(operation, 0)[1:])
        if len(rewriter.graph.value(names[1]).shape) == 0:
            weight = from_parts(rewriter, operation, names, 1)
            replaced = dataclasses.replace(_embedding(operation, gather.inputs[1], weight), name=gather.name)
            rewriter.replace(operation, [replaced])
        return
    quantize = rewriter.producer(operation.inputs[0], "QuantizeLinear")
    if quantize is not None and quantize.inputs[0] in rewriter.graph.values:
        attributes = _rounding(rewriter, quantize)
        if attributes != _rounding(rewriter, operation):
            what = "DequantizeLinear with another scale or zero point than the QuantizeLinear before it"
            raise UnsupportedError(what, where=f"node {operation.name!r}", help="use the same ones")
        rewriter.replace(
            operation, [Operation("requantize", operation.name, quantize.inputs[:1], operation.outputs, attributes)]
        )


def _rounding(rewriter: Rewriter, operation: Operation) -> RequantizeAttributes:
    scale, where = rewriter.scalar(operation.inputs[1]), f"node {operation.name!r}"
    zero_point = rewriter.scalar(operation.inputs[2]) if len(operation.inputs) > 2 else 0.0
    if scale is None or zero_point is None:
        what = "activations with more than one scale or zero point, or with computed ones"
        raise UnsupportedError(what, where=where, help="quantize activations per tensor")
    if not np.isfinite(scale) or scale <= 0:
        help = "quantize again; values with -inf, such as masks, must not be quantized"
        raise ModelError(f"the scale {operation.inputs[1]!r} is {scale}", where=where, help=help)
    integers = operation.outputs[0] if is_onnx(operation, "QuantizeLinear") else operation.inputs[0]
    dtype = rewriter.graph.value(integers or "").dtype
    if dtype not in RANGES:
        raise UnsupportedError(f"activations in {dtype}", where=where, help=f"supported: {', '.join(RANGES)}")
    low, high = RANGES[dtype]
    return RequantizeAttributes(scale, low - int(zero_point), high - int(zero_point))
