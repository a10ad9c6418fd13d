"""The steps that turn the elements of a constant as the source has them into the bytes the device wants.

A step is a frozen value; `shape_after` gives the shape it makes and raises ValueError, with a sentence, if it cannot.
`isa.packing` carries them out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from isa import dtypes

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transpose:
    """Axis i of the result is axis `axes[i]` of the source."""

    axes: tuple[int, ...]

    def shape_after(self, shape: Shape) -> Shape:
        if sorted(self.axes) != list(range(len(shape))):
            raise ValueError(f"axes {self.axes} are no permutation of the {len(shape)} axes of {shape}")
        return tuple(shape[axis] for axis in self.axes)


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same elements in C order under another shape; no -1."""

    shape: Shape

    def shape_after(self, shape: Shape) -> Shape:
        if min(self.shape, default=0) < 0 or math.prod(self.shape) != math.prod(shape):
            raise ValueError(f"cannot reshape {shape} to {self.shape}")
        return self.shape


@dataclass(frozen=True, slots=True)
class Pad:
    """Zeros at the end of each axis, up to `shape`."""

    shape: Shape

    def shape_after(self, shape: Shape) -> Shape:
        if len(shape) != len(self.shape) or any(old > new for old, new in zip(shape, self.shape, strict=True)):
            raise ValueError(f"cannot pad {shape} to {self.shape}")
        return self.shape


@dataclass(frozen=True, slots=True)
class Cast:
    """To the device type `dtype`, rounded and saturated as a store on the device does (`docs/isa.md`)."""

    dtype: str

    def shape_after(self, shape: Shape) -> Shape:
        if self.dtype not in dtypes.BY_NAME:
            raise ValueError(f"unknown device type {self.dtype!r}")
        return shape


@dataclass(frozen=True, slots=True)
class Take:
    """The elements at `indices` of one axis; a range, or a short list of indices (not negative)."""

    axis: int
    indices: range | tuple[int, ...]

    def shape_after(self, shape: Shape) -> Shape:
        if not 0 <= self.axis < len(shape):
            raise ValueError(f"{shape} has no axis {self.axis}")
        ends = (min(self.indices, default=0), max(self.indices, default=0))
        if self.indices and not 0 <= ends[0] <= ends[1] < shape[self.axis]:
            raise ValueError(f"indices {ends[0]}..{ends[1]} are outside axis {self.axis} of {shape}")
        return (*shape[: self.axis], len(self.indices), *shape[self.axis + 1 :])


@dataclass(frozen=True, slots=True)
class Shift:
    """Whole numbers plus `value`, saturated in the integer device type `dtype`: unsigned codes become signed ones."""

    value: int
    dtype: str

    def shape_after(self, shape: Shape) -> Shape:
        if self.dtype not in _INTEGERS:
            raise ValueError(f"cannot shift to {self.dtype!r}; {' or '.join(_INTEGERS)}")
        return shape


@dataclass(frozen=True, slots=True)
class Quantize:
    """Floats as elements of `dtype`: each `group` of the last axis divided by their `GroupScales`, then stored."""

    dtype: str
    group: int

    def shape_after(self, shape: Shape) -> Shape:
        _check_groups(self.dtype, self.group, shape)
        return shape


@dataclass(frozen=True, slots=True)
class GroupScales:
    """The fp32 scales of `Quantize`: largest magnitude of `group` elements of the last axis / `Dtype.largest`."""

    dtype: str
    group: int

    def shape_after(self, shape: Shape) -> Shape:
        _check_groups(self.dtype, self.group, shape)
        return (*shape[:-1], shape[-1] // self.group)


_INTEGERS = ("int4", "int8")
QUANTIZED = (*_INTEGERS, "fp8e4m3")
"""Types that weights are quantized to."""


def _check_groups(dtype: str, group: int, shape: Shape) -> None:
    if dtype not in QUANTIZED:
        raise ValueError(f"cannot quantize to {dtype!r}; {' or '.join(QUANTIZED)}")
    if group < 1 or not shape or shape[-1] % group:
        raise ValueError(f"the last axis of {shape} is not whole groups of {group}")


PackStep = Transpose | Reshape | Pad | Cast | Take | Shift | Quantize | GroupScales
