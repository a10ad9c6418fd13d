"""What a `linear` is to its mapping and its kernel: sizes, element types, and what happens to the sums."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.graph import Activation
from isa.dtypes import INT8, Dtype


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight that lies in memory as integers (int4 or int8) and is expanded in local memory.

    `block` elements of K share a scale, all of them if it is None.
    """

    dtype: Dtype
    block: int | None
    has_zero_points: bool


@dataclass(frozen=True, slots=True)
class LinearShape:
    """`rows` x `inputs` by `inputs` x `outputs`, with the element type of x and the weight, and of the result.

    With `packed`, the weight becomes `dtype` in local memory only. With int8 operands, results are scaled by row and
    column on the way out. With a `gate` there are two weights of this size, see `LinearAttributes`.
    """

    rows: int
    inputs: int
    outputs: int
    dtype: Dtype
    out_dtype: Dtype
    has_bias: bool
    has_residual: bool
    activation: Activation | None = None
    packed: PackedWeight | None = None
    gate: Activation | None = None

    @property
    def parts(self) -> int:
        """Weights whose products make one result: a gate, and what passes it."""
        return 2 if self.gate else 1

    @property
    def is_scaled(self) -> bool:
        """True if the products are integers, which become floats on the way out."""
        return self.dtype is INT8
