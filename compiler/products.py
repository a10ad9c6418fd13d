"""Which products of computed tensors are spread over the grid like a linear, and which are dealt tile by tile.

Those of two matrices are spread, and those of many rows of matrices by one. Where each place of the outer axes has its
own two matrices, a launch per place pays only if they are large.
"""

from __future__ import annotations

import math

from compiler.evaluate import FLOAT_DTYPES, NARROW_FLOAT_DTYPES
from compiler.graph import Graph, Operation
from compiler.shape_inference import int_shape

SMALLEST_PLACE_MACS = 1 << 27
"""A place with fewer products (512 x 512 x 512) takes no longer than its launch."""


def is_spread(graph: Graph, op: Operation) -> bool:
    """Tell whether a `matmul` is spread like a linear; it must if it takes b as [K, N]."""
    value = graph.value(op.outputs[0] or "")
    shape = int_shape(value.shape)
    if 0 in shape or value.dtype not in (*FLOAT_DTYPES, *NARROW_FLOAT_DTYPES):
        return False
    return places(graph, op) == 1 or math.prod(shape[-2:]) * inputs_of(graph, op) >= SMALLEST_PLACE_MACS


def places(graph: Graph, op: Operation) -> int:
    """Return how many products of matrices there are; those by the same matrix are one: rows of a follow."""
    outer = [int_shape(graph.value(name or "").shape)[:-2] for name in (*op.inputs, op.outputs[0])]
    a, b, out = (math.prod(shape) for shape in outer)
    return 1 if b == 1 and a == out else out


def inputs_of(graph: Graph, op: Operation) -> int:
    """Return the elements that each result sums over."""
    return int_shape(graph.value(op.inputs[0] or "").shape)[-1]
