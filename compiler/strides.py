"""Tensors of any rank as byte strides, and loops over two of them at once with as few axes as possible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compiler.mapped import Region
from isa.dtypes import Dtype
from isa.program import Argument


@dataclass(frozen=True, slots=True)
class Axis:
    """`size` steps of `source` bytes in what is read and of `target` bytes in what is written."""

    size: int
    source: int
    target: int


def byte_strides(region: Region, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the bytes between neighbours along each axis of a tensor in a region; a scalar has one axis."""
    inner = [math.prod(shape[axis + 1 : -1]) * region.pitch_bytes for axis in range(len(shape) - 1)]
    return (*inner, region.dtype.bytes)


def collapsed(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """Return the same loop nest without axes of size 1, and with neighbours joined where both sides have no gap."""
    result: list[Axis] = []
    for axis in axes:
        if axis.size == 1:
            continue
        last = result[-1] if result else None
        if last and last.source == axis.size * axis.source and last.target == axis.size * axis.target:
            result[-1] = Axis(last.size * axis.size, axis.source, axis.target)
        else:
            result.append(axis)
    return tuple(result)


@dataclass(frozen=True, slots=True)
class Walk:
    """Where the elements come from and go to.

    `columns` is the axis along rows of the output; `outer` are the others. `skip_bytes` is where the first element
    lies in its source row. The target's rows are zero from the last column up to `row_bytes`.
    """

    source: Argument
    target: Argument
    outer: tuple[Axis, ...]
    columns: Axis
    skip_bytes: int
    row_bytes: int
    dtype: Dtype


def row_axis(axes: Sequence[Axis]) -> tuple[Axis, tuple[Axis, ...]]:
    """Split outer axes into the one whose steps become rows of a transfer (the longest), and the rest."""
    candidates = [axis for axis in axes if axis.source >= 0]
    if not candidates:
        return Axis(1, 0, 0), tuple(axes)
    longest = max(candidates, key=lambda axis: axis.size)
    place = list(axes).index(longest)
    return longest, (*axes[:place], *axes[place + 1 :])


def places(axes: Sequence[Axis]) -> int:
    """Return how many combinations of indices outer axes have."""
    return math.prod(axis.size for axis in axes)
