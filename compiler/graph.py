"""Level 1 and 2: the graph of operations, before and after fusion.

A `Graph` is a frozen value: operations in topological order, each value named and produced once (SSA by
construction). Sizes are ints or `Affine` expressions over runtime symbols. Constants are described, not loaded: a
weight of 16 GB is a name, a shape and a place to read it from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from isa.affine import Affine, Dim


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor's name, shape and element type (a NumPy dtype name, or `bfloat16`)."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class FileReference:
    """Bytes of a constant in a side file: little-endian, C order, `length` bytes from `offset`."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class JoinedSource:
    """Constants of one type, none of them absent, that are one tensor together, behind one another along `axis`."""

    axis: int
    parts: tuple[Constant, ...]


ConstantSource = np.ndarray | FileReference | JoinedSource | None

NIBBLES = ("int4", "uint4")
"""Types that lie two per byte in a file, low nibble first; arrays of them hold one element per byte."""


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A constant tensor; `source` is an array, a place in a file, others together, or None (absent: timing only)."""

    value: Value
    source: ConstantSource

    def load(self) -> np.ndarray:
        """Return the array (memory-mapped if it is in a file); raises ValueError when its bytes are absent."""
        if self.source is None:
            raise ValueError(f"constant {self.value.name} has no data")
        if isinstance(self.source, FileReference):
            shape = tuple(int(dim) for dim in self.value.shape)  # type: ignore[arg-type]
            if self.value.dtype in NIBBLES:
                packed = np.memmap(self.source.path, np.uint8, "r", self.source.offset, (self.source.length,))
                return unpack_nibbles(packed, self.value.dtype)[: math.prod(shape)].reshape(shape)
            return np.memmap(self.source.path, dtype_of(self.value.dtype), "r", self.source.offset, shape)
        if isinstance(self.source, JoinedSource):
            return np.concatenate([part.load() for part in self.source.parts], self.source.axis)
        return self.source


def dtype_of(name: str) -> np.dtype:
    """Return the NumPy dtype of a name, `bfloat16` and the fp8 names included."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        dtype: np.dtype = np.dtype(getattr(ml_dtypes, name))
        return dtype


def unpack_nibbles(packed: np.ndarray, dtype: str) -> np.ndarray:
    """Return the elements (`int4` or `uint4`) of bytes that hold two each, low nibble first."""
    pairs = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)
    return (pairs if dtype == "uint4" else (pairs.astype(np.int8) ^ 8) - 8).astype(dtype_of(dtype))


# --- attributes, one frozen class per kind of operation that needs any --------------------------------------------


@dataclass(frozen=True, slots=True)
class NoAttributes:
    """For kinds that need none."""


@dataclass(frozen=True, slots=True)
class OnnxAttributes:
    """An operation as it stood in the ONNX file; only before fusion."""

    domain: str
    op_type: str
    attributes: tuple[tuple[str, object], ...] = ()

    def get(self, name: str, default: object = None) -> object:
        """Return one ONNX attribute."""
        return dict(self.attributes).get(name, default)

    def integer(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        value = self.get(name, default)
        assert isinstance(value, int)
        return value

    def number(self, name: str, default: float) -> float:
        """Return a float attribute."""
        value = self.get(name, default)
        assert isinstance(value, float | int)
        return float(value)

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return a list of integers, None if the attribute is absent."""
        value = self.get(name)
        return None if value is None else tuple(int(element) for element in value)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class RmsNormAttributes:
    """`x / sqrt(mean(x^2) + epsilon) * weight` over the last axis."""

    epsilon: float


Activation = Literal["relu", "sigmoid", "tanh", "silu"]


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """Integers of `bits` (4 or 8), or e4m3 floats; `block` along K, or a row of a table, share a scale (None: all).

    The operation has the scales as a further input, laid out as the weight; and zero points, or None for those in the
    middle of the codes: 0, or 2 ** (bits - 1) of unsigned ones. `is_computed`: the weight is a constant of floats,
    there are no such inputs, and the loader quantizes it: symmetric, scale = largest magnitude / (2 ** (bits - 1) - 1),
    or / 448 for e4m3.
    """

    bits: int
    block: int | None
    is_computed: bool = False
    is_float: bool = False


RowDtype = Literal["int8", "float8_e4m3fn"]
"""Types that rows of x are rounded to, each row with a scale of its own."""


@dataclass(frozen=True, slots=True)
class LinearAttributes:
    """`activation(x @ W + bias + residual)`; W is stored as [K, N], or as [N, K] when `weight_rows_are_outputs`.

    A quantized W has a format, and its scales and zero points as inputs 4 and 5. When x holds int8 or e4m3 from
    `quantize`, input 6 is its scale per row, and W must be of that type too, symmetric with one scale per output. With
    `x_rounding` x is what `quantize` to that type reads, and the linear does it.

    With a `gate` there is a second weight U like W, and the result is `gate(x @ W + bias) * (x @ U + bias of U)`:
    inputs 7 to 10 are U, its bias, scales and zero points. With a multiplier, input 11, which has the shape of the
    result, that is `activation(x @ W + bias) * multiplier + residual`.
    """

    weight_rows_are_outputs: bool
    activation: Activation | None = None
    weight_format: WeightFormat | None = None
    x_rounding: RowDtype | None = None
    gate: Activation | None = None


@dataclass(frozen=True, slots=True)
class QuantizeAttributes:
    """Each row / (its largest magnitude / the largest number of `dtype`), rounded to `dtype`; and those scales."""

    dtype: RowDtype


@dataclass(frozen=True, slots=True)
class RequantizeAttributes:
    """`clip(round(x / scale), low, high) * scale`: floats on a grid of integers, their zero point taken off."""

    scale: float
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class RopeAttributes:
    """Rotary embedding of [batch, sequence, heads * head_dim].

    Row `p` of the tables holds cos and sin of position `p`. Positions are an input [batch, sequence] or [sequence];
    without it, token `i` of each sequence has position `start + i`. `interleaved` pairs elements (2j, 2j+1), else
    (j, j + head_dim/2).
    """

    head_count: int
    head_dim: int
    interleaved: bool
    start: Dim | None


@dataclass(frozen=True, slots=True)
class AttentionAttributes:
    """Grouped-query attention: softmax(scale * q k^T + bias) v, query head h reads kv head h // (heads/kv_heads).

    `causal`: query i sees keys j <= past + i. A `keep` input [batch, past + sequence] hides keys where it is 0. A
    `bias` input, [sequence, keys], [batch, sequence, keys] or [batch, heads, sequence, keys] with 1 for any but the
    last, is added to the scores.

    `past` counts keys that are there before this run. With a `places` input ([sequence] or [batch, sequence]) all
    past + sequence positions of the cache are keys, and token i is written to position places[i]. Such a cache is
    static (it has all the positions before the run already), or its sequences are of different lengths. `cache_axes`
    says how the file arranges caches: its axis k is axis cache_axes[k] of [batch, kv head, position, head_dim].
    """

    head_count: int
    kv_head_count: int
    head_dim: int
    scale: float
    causal: bool
    past: Dim
    cache_axes: tuple[int, int, int, int] = (0, 1, 2, 3)


@dataclass(frozen=True, slots=True)
class SliceAttributes:
    """`x[..., start : start + size, ...]` along one axis."""

    axis: int
    start: Dim
    size: Dim


@dataclass(frozen=True, slots=True)
class Bags:
    """Where the indices of one table stand in their input, seen as a matrix with rows along its last axis.

    Bag `b` has the `hot` elements from column `first_column + b * column_step` of row `first_row + b * row_step`; one
    of the steps is 0. `mean` divides the sum by `hot`.
    """

    first_row: int
    row_step: int
    first_column: int
    column_step: int
    hot: int
    mean: bool


@dataclass(frozen=True, slots=True)
class EmbeddingBagAttributes:
    """Sums of table rows: input 2t are the indices of table 2t + 1, output t has one row per bag; `count` bags each."""

    count: int
    tables: tuple[Bags, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive elements of one row of a matrix of products: [row, first : first + count]."""

    row: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class InteractionAttributes:
    """Products x x^T of the features of each sample: [batch, prefix + elements of the runs].

    Input i holds `counts[i]` features, [batch, count, dim] or [batch, dim]; x has those of all inputs as rows. The runs
    of x x^T stand one after the other, behind the feature `prefix` itself if there is one.
    """

    counts: tuple[int, ...]
    runs: tuple[Run, ...]
    prefix: int | None


@dataclass(frozen=True, slots=True)
class MoveAttributes:
    """`out[i, j, ...] = x[starts + steps * place]`: axis k of the result walks along axis `axes[k]` of x.

    An axis of x that no axis of the result walks along stays at its start; None repeats along an axis of the result.
    """

    sizes: tuple[int, ...]
    axes: tuple[int | None, ...]
    starts: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShapeAttributes:
    """The shape that a reshape gives its operand, or a join of rows all of them (without it a join is of columns)."""

    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AxisAttributes:
    """The axis along which tensors are joined, or elements are looked up."""

    axis: int


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction of a recipe; an operand is an input's index, or the count of inputs + an earlier step's index.

    `instruction` is one of the SE on one or two operands (`constant` is its immediate), or `number`: the constant.
    """

    instruction: str
    operands: tuple[int, ...] = ()
    constant: float | None = None


@dataclass(frozen=True, slots=True)
class PointwiseAttributes:
    """Steps in fp32 over inputs broadcast to one shape; the last one is the output.

    Instructions on rows (`rowsum`, ...) leave one column, which other steps broadcast.
    """

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class ProductAttributes:
    """`a @ b` of computed tensors; b is stored as [..., N, K] when `rows_are_outputs`, else as [..., K, N]."""

    rows_are_outputs: bool = True


@dataclass(frozen=True, slots=True)
class SizesAttributes:
    """The elements, in C order, of a small integer tensor that depends on sizes only; before fusion is complete."""

    elements: tuple[Dim, ...]


Attributes = (
    NoAttributes
    | OnnxAttributes
    | RmsNormAttributes
    | LinearAttributes
    | WeightFormat
    | QuantizeAttributes
    | RequantizeAttributes
    | RopeAttributes
    | AttentionAttributes
    | SliceAttributes
    | EmbeddingBagAttributes
    | InteractionAttributes
    | MoveAttributes
    | ShapeAttributes
    | AxisAttributes
    | PointwiseAttributes
    | ProductAttributes
    | SizesAttributes
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation; an absent optional input is None, an unused optional output is None."""

    kind: str
    name: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str | None, ...]
    attributes: Attributes = NoAttributes()


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A graph that is an attribute of an operation (If, Loop); it also reads values of the graph around it by name."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Constant]
    operations: tuple[Operation, ...]

    def captured(self) -> tuple[str, ...]:
        """Return the names that it, or a body in it, reads from around it."""
        known = {*self.inputs, *self.constants}
        names: dict[str, None] = {}
        for operation in self.operations:
            names.update(dict.fromkeys(name for name in reads(operation) if name not in known))
            known.update(name for name in operation.outputs if name)
        names.update(dict.fromkeys(name for name in self.outputs if name not in known))
        return tuple(names)


def reads(operation: Operation) -> tuple[str, ...]:
    """Return all names that an operation reads: its inputs, and what bodies in its attributes read around them."""
    names = [name for name in operation.inputs if name]
    if isinstance(operation.attributes, OnnxAttributes):
        for _, value in operation.attributes.attributes:
            names += value.captured() if isinstance(value, Body) else ()
    return tuple(names)


@dataclass(frozen=True, slots=True)
class Equality:
    """Two sizes that must be equal when the program runs; `origin` names where it comes from."""

    left: Dim
    right: Dim
    origin: str


@dataclass(frozen=True, slots=True)
class InputRange:
    """Between which whole numbers all elements of a graph input must be when the program runs, and why.

    `falls`: along the last axis none may be larger than the one before it."""

    input_name: str
    lowest: int
    highest: int
    reason: str
    falls: bool = False


@dataclass(frozen=True)
class Graph:
    """Operations in order, over values, constants and symbols (name -> lowest and highest size).

    `opset` is the version of `ai.onnx` that ONNX operations are of."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, Value]
    constants: Mapping[str, Constant]
    operations: tuple[Operation, ...]
    symbols: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    equalities: tuple[Equality, ...] = ()
    requirements: tuple[InputRange, ...] = ()
    opset: int = 24

    def value(self, name: str) -> Value:
        """Return a value or the value of a constant."""
        return self.constants[name].value if name in self.constants else self.values[name]

    def producers(self) -> dict[str, Operation]:
        """Map each value to the operation that makes it."""
        return {name: op for op in self.operations for name in op.outputs if name}

    def consumers(self) -> dict[str, list[Operation]]:
        """Map each value to the operations that read it, in order."""
        result: dict[str, list[Operation]] = {}
        for op in self.operations:
            for name in op.inputs:
                if name:
                    result.setdefault(name, []).append(op)
        return result

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(graph: Graph) -> Iterator[str]:
    def typed(name: str) -> str:
        if name not in graph.values and name not in graph.constants:
            return f"%{name}: unknown"  # before shape inference
        value = graph.value(name)
        return f"%{name}: {value.dtype}[{', '.join(str(dim) for dim in value.shape)}]"

    yield f"graph {graph.name}({', '.join(typed(name) for name in graph.inputs)})"
    for symbol, (low, high) in sorted(graph.symbols.items()):
        yield f"  symbol {symbol} = {low}..{high}"
    for op in graph.operations:
        inputs = ", ".join(f"%{name}" if name else "none" for name in op.inputs)
        outputs = ", ".join(typed(name) if name else "none" for name in op.outputs)
        attributes = "" if isinstance(op.attributes, NoAttributes) else f" {_attribute_text(op.attributes)}"
        yield f"  {outputs} = {op.kind}({inputs}){attributes}"
    yield f"  return {', '.join(f'%{name}' for name in graph.outputs)}"


def _attribute_text(attributes: Attributes) -> str:
    if isinstance(attributes, OnnxAttributes):
        return "{" + ", ".join(f"{key}={value!r}"[:60] for key, value in attributes.attributes) + "}"
    names = attributes.__dataclass_fields__
    return "{" + ", ".join(f"{name}={_plain(getattr(attributes, name))}" for name in names) + "}"


def _plain(value: object) -> str:
    return str(value) if isinstance(value, Affine) else repr(value)
