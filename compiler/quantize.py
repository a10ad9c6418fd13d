"""`--quantize`: the linears of a float model get narrow weights, which the loader makes; nothing is read here.

* int8: one symmetric scale per output, and x rounded to int8 row by row while the model runs; the matrix engine
  multiplies integers.
* fp8: the same with e4m3 floats in place of integers.
* int4: a symmetric scale for each `group_size` elements of K, expanded on the chip; x stays in floating point.

All linears are quantized, the one that gives the logits too: it is read whole for every token. Tables of embeddings
stay as they are: a token reads one row of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from compiler.evaluate import FLOAT_DTYPES
from compiler.graph import (
    Graph,
    LinearAttributes,
    Operation,
    QuantizeAttributes,
    RowDtype,
    Value,
    WeightFormat,
)
from isa.errors import ModelError

Scheme = Literal["int8", "fp8", "int4"]
SCHEMES: tuple[Scheme, ...] = ("int8", "fp8", "int4")
_ROW_DTYPES: Mapping[Scheme, RowDtype] = MappingProxyType({"int8": "int8", "fp8": "float8_e4m3fn"})
"""By scheme, the type of weights and rows of x that are multiplied as they are."""
DEFAULT_GROUP_SIZE = 32
"""Elements of K with one scale in int4: half a bit per weight (in fp16), as most files of 4-bit models have it."""
SMALLEST_GROUP_SIZE = 16


@dataclass(frozen=True, slots=True)
class Quantization:
    """How weights are quantized: a scheme, and for int4 the elements of K that share a scale."""

    scheme: Scheme
    group_size: int | None = None


def quantization(scheme: str | None, group_size: int | None = None) -> Quantization | None:
    """Return the choice that a user's words mean, None for no quantization; raises ModelError for impossible ones."""
    if scheme is None:
        if group_size is not None:
            raise ModelError("a group size without int4 weights", where="--group-size", help="add --quantize int4")
        return None
    chosen = next((known for known in SCHEMES if known == scheme), None)
    if chosen is None:
        raise ModelError(f"no scheme '{scheme}'", where="--quantize", help=f"choose {' or '.join(SCHEMES)}")
    if chosen in _ROW_DTYPES:
        if group_size is not None:
            help = f"{chosen} weights have a scale per output; use --quantize int4 for groups"
            raise ModelError(f"a group size for {chosen} weights", where="--group-size", help=help)
        return Quantization(chosen)
    size = DEFAULT_GROUP_SIZE if group_size is None else group_size
    if size < SMALLEST_GROUP_SIZE or size & (size - 1):
        help = f"give a power of two of at least {SMALLEST_GROUP_SIZE}, for example {DEFAULT_GROUP_SIZE} or 128"
        raise ModelError(f"{size} is no size of groups", where="--group-size", help=help)
    return Quantization("int4", size)


def quantize_weights(graph: Graph, choice: Quantization | None) -> Graph:
    """Return the graph with quantized linears; those that are quantized in the file stay as they are."""
    if choice is None:
        return graph
    values, operations = dict(graph.values), list[Operation]()
    dtype = _ROW_DTYPES.get(choice.scheme)
    rounded: dict[str, tuple[str, str]] = {}
    for op in graph.operations:
        if not _is_float_linear(graph, op):
            operations.append(op)
        elif dtype is None:
            operations.append(_with_format(op, WeightFormat(4, choice.group_size, is_computed=True), op.inputs))
        else:
            x = op.inputs[0] or ""
            if x not in rounded:
                operations.append(_rounding(values, x, dtype))
                rounded[x] = (operations[-1].outputs[0] or "", operations[-1].outputs[1] or "")
            narrow, scales = rounded[x]
            inputs = (narrow, *(*op.inputs[1:], None, None, None)[:3], None, None, scales)
            operations.append(_with_format(op, WeightFormat(8, None, True, dtype != "int8"), inputs))
    return replace(graph, values=values, operations=tuple(operations))


def _is_float_linear(graph: Graph, op: Operation) -> bool:
    if not isinstance(op.attributes, LinearAttributes) or op.attributes.weight_format is not None:
        return False
    return op.inputs[1] in graph.constants and graph.value(op.inputs[1] or "").dtype in FLOAT_DTYPES


def _with_format(op: Operation, weight_format: WeightFormat, inputs: Sequence[str | None]) -> Operation:
    assert isinstance(op.attributes, LinearAttributes)
    return replace(op, inputs=tuple(inputs), attributes=replace(op.attributes, weight_format=weight_format))


def _rounding(values: dict[str, Value], x: str, dtype: RowDtype) -> Operation:
    """Return the operation that rounds the rows of x, and add its results to the values."""
    shape = values[x].shape
    narrow, scales = f"{x}.rounded_to_{dtype}", f"{x}.row_scales"
    values[narrow] = Value(narrow, shape, dtype)
    values[scales] = Value(scales, (*shape[:-1], 1), "float32")
    return Operation("quantize", f"{x}.rounding", (x,), (narrow, scales), QuantizeAttributes(dtype))
