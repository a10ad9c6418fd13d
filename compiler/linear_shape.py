"""What a `linear` is to its mapping and its kernel: sizes, element types, and what happens to the sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compiler.graph import Activation
from isa.dtypes import FP8E4M3, INT8, Dtype

Start = Literal["bias", "residual"]
FinishStep = Activation | Literal["multiplier", "residual"]
KEEPING_ZEROS: tuple[Activation, ...] = ("relu", "tanh", "silu")
"""Activations of zero that are zero."""
Factor = Literal["tiles", "rows", "columns"]
"""How the second operand lies in memory: a constant packed in tiles, or a computed [N, K] or [K, N] in SRAM."""


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

    With `packed`, the weight becomes `dtype` in local memory only. With int8 or e4m3 operands, results are scaled by
    row and column on the way out; with `rounded_from`, x lies in memory in that type and every PE rounds it for itself.
    With a `gate` there are two weights of this size, with a multiplier all of `finish` is done: see `LinearAttributes`.
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
    factor: Factor = "tiles"
    rounded_from: Dtype | None = None
    gate: Activation | None = None
    has_multiplier: bool = False

    @property
    def start(self) -> Start | None:
        """What products are added to: a bias, or else a residual, if nothing comes before that."""
        if self.has_bias:
            return "bias"
        return "residual" if self.has_residual and not self.finish else None

    @property
    def finish(self) -> tuple[FinishStep, ...]:
        """What becomes of sums of a block of rows one step after the other, in fp32.

        An activation is such a step if it leaves zeros beyond the last output; a residual if sums began with a bias.
        """
        before: tuple[FinishStep, ...] = (self.activation,) if self.activation else ()
        behind: tuple[FinishStep, ...] = ("residual",) if self.has_residual else ()
        if self.has_multiplier:
            return (*before, "multiplier", *behind)
        if self.activation in KEEPING_ZEROS and not (self.has_residual or self.is_scaled):
            return before
        return behind if self.has_bias else ()

    @property
    def results_like(self) -> tuple[FinishStep, ...]:
        """The steps of `finish` that read a tensor with the shape of the result."""
        return tuple(step for step in self.finish if step in ("multiplier", "residual"))

    @property
    def is_computed(self) -> bool:
        """True if the second operand is no constant: it lies in SRAM, as rows."""
        return self.factor != "tiles"

    @property
    def parts(self) -> int:
        """Weights whose products make one result: a gate, and what passes it."""
        return 2 if self.gate else 1

    @property
    def is_scaled(self) -> bool:
        """True if x and the weight are numbers of a byte, whose sums get their scales on the way out."""
        return self.dtype in (INT8, FP8E4M3)
