"""The shape of a `linear` of a graph."""

from __future__ import annotations

import math

from compiler.graph import Graph, LinearAttributes, Operation
from compiler.linear_shape import LinearShape, PackedWeight
from compiler.mapped import BIAS, ROW_SCALES, ZERO_POINTS
from compiler.quantized_packing import integer_dtype
from compiler.shape_inference import int_shape
from isa.dtypes import INT8, Dtype

RESIDUAL = 3


def linear_shape(graph: Graph, op: Operation, dtype: Dtype) -> LinearShape:
    """Return the shape of a linear whose sizes are known, in a program that computes in `dtype`."""
    assert isinstance(op.attributes, LinearAttributes)
    *outer, inputs = int_shape(graph.value(op.inputs[0] or "").shape)
    outputs = int_shape(graph.value(op.outputs[0] or "").shape)[-1]
    x_dtype = dtype if input_at(op, ROW_SCALES) is None else INT8
    return LinearShape(
        math.prod(outer), inputs, outputs, x_dtype, dtype, input_at(op, BIAS) is not None,
        input_at(op, RESIDUAL) is not None, op.attributes.activation, _packed_weight(op), op.attributes.gate,
    )  # fmt: skip


def input_at(op: Operation, index: int) -> str | None:
    """Return an input that may be left out."""
    return op.inputs[index] if index < len(op.inputs) else None


def _packed_weight(op: Operation) -> PackedWeight | None:
    """Return how the weight is expanded; None for floats, and for integers that are multiplied as they are."""
    assert isinstance(op.attributes, LinearAttributes)
    weight_format = op.attributes.weight_format
    if weight_format is None or input_at(op, ROW_SCALES) is not None:
        return None
    has_zero_points = input_at(op, ZERO_POINTS) is not None
    return PackedWeight(integer_dtype(weight_format), weight_format.block, has_zero_points)
