"""The shape of a `linear` of a graph, and of a product that is spread like one."""

from __future__ import annotations

import math

from compiler.graph import Graph, LinearAttributes, Operation, ProductAttributes
from compiler.linear_shape import LinearShape, PackedWeight
from compiler.mapped import BIAS, ROW_SCALES, ZERO_POINTS
from compiler.products import inputs_of, places
from compiler.quantized_packing import stored_dtype
from compiler.shape_inference import int_shape
from isa.dtypes import Dtype, of_host

RESIDUAL, MULTIPLIER = 3, 11
"""Indices among the inputs of a linear: of tensors with the shape of its result."""


def linear_shape(graph: Graph, op: Operation, dtype: Dtype) -> LinearShape:
    """Return the shape of a linear whose sizes are known, in a program that computes in `dtype`."""
    assert isinstance(op.attributes, LinearAttributes)
    x = graph.value(op.inputs[0] or "")
    *outer, inputs = int_shape(x.shape)
    outputs = int_shape(graph.value(op.outputs[0] or "").shape)[-1]
    rounded = of_host(op.attributes.x_rounding or (x.dtype if input_at(op, ROW_SCALES) else ""))
    return LinearShape(
        math.prod(outer), inputs, outputs, rounded or dtype, dtype,
        input_at(op, BIAS) is not None, input_at(op, RESIDUAL) is not None, op.attributes.activation,
        _packed_weight(op), rounded_from=dtype if op.attributes.x_rounding else None, gate=op.attributes.gate,
        has_multiplier=input_at(op, MULTIPLIER) is not None,
    )  # fmt: skip


def product_shape(graph: Graph, op: Operation, dtype: Dtype, out_dtype: Dtype) -> LinearShape:
    """Return the shape of one of the products of matrices that a `matmul` consists of."""
    is_turned = isinstance(op.attributes, ProductAttributes) and not op.attributes.rows_are_outputs
    *outer, outputs = int_shape(graph.value(op.outputs[0] or "").shape)
    return LinearShape(
        math.prod(outer) // places(graph, op), inputs_of(graph, op), outputs, dtype, out_dtype, False, False,
        factor="columns" if is_turned else "rows",
    )  # fmt: skip


def input_at(op: Operation, index: int) -> str | None:
    """Return an input that may be left out."""
    return op.inputs[index] if index < len(op.inputs) else None


def _packed_weight(op: Operation) -> PackedWeight | None:
    """Return how the weight is expanded; None for floats, and for integers that are multiplied as they are."""
    assert isinstance(op.attributes, LinearAttributes)
    weight_format = op.attributes.weight_format
    if weight_format is None or op.attributes.x_rounding or input_at(op, ROW_SCALES) is not None:
        return None
    has_zero_points = input_at(op, ZERO_POINTS) is not None
    return PackedWeight(stored_dtype(weight_format), weight_format.block, has_zero_points)
