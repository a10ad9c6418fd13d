"""Recipes that turn a model's constants into the bytes each kernel wants; nothing is loaded here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from compiler.graph import NIBBLES, FileReference, JoinedSource
from compiler.graph import Constant as GraphConstant
from compiler.kernel_builder import round_up
from compiler.linear_mapping import LinearMapping
from compiler.shape_inference import int_shape
from isa.dtypes import FP32, Dtype
from isa.program import (
    Absent,
    Cast,
    Constant,
    Inline,
    Joined,
    PackStep,
    Pad,
    Reference,
    Reshape,
    Source,
    Take,
    Transpose,
)

ROW_ALIGNMENT_BYTES = 64
"""Rows of tensors start at multiples of this; what lies between the columns and the next multiple is zero."""


def padded_row_bytes(columns: int, dtype: Dtype) -> int:
    """Return the bytes of a row with its padding."""
    return round_up(columns * dtype.bytes, ROW_ALIGNMENT_BYTES)


def pack_weight(constant: GraphConstant, storage: str, mapping: LinearMapping, rows_are_outputs: bool) -> Constant:
    """Order [K, N] (or [N, K]) as [output tile][K chunk][tile outputs][chunk inputs], zeros beyond the edges."""
    outputs, inputs = mapping.output_tiles * mapping.tile_outputs, mapping.packed_chunks * mapping.chunk_inputs
    steps: list[PackStep] = [Cast(mapping.shape.dtype.name)]
    if not rows_are_outputs:
        steps.append(Transpose((1, 0)))
    steps += [
        Pad((outputs, inputs)),
        Reshape((mapping.output_tiles, mapping.tile_outputs, mapping.packed_chunks, mapping.chunk_inputs)),
        Transpose((0, 2, 1, 3)),
    ]
    return described(constant, storage, steps)


def pack_vector(constant: GraphConstant, storage: str, elements: int, dtype: Dtype = FP32) -> Constant:
    """One row of `elements`, zeros at its end."""
    count = int(np.prod(int_shape(constant.value.shape)))
    return described(constant, storage, [Cast(dtype.name), Reshape((count,)), Pad((elements,))])


def pack_rows(constant: GraphConstant, storage: str, dtype: Dtype, columns: int | None = None) -> Constant:
    """[..., rows, columns] with padded rows; `columns` keeps only the first ones."""
    *outer, width = int_shape(constant.value.shape)
    rows = math.prod(outer)
    steps: list[PackStep] = [Reshape((rows, width))]
    if columns is not None and columns != width:
        steps.append(Take(1, range(columns)))
        width = columns
    steps += [Cast(dtype.name), Pad((rows, padded_row_bytes(width, dtype) // dtype.bytes))]
    return described(constant, storage, steps)


def pack_tensor(constant: GraphConstant, storage: str, rows: int, columns: int, dtype: Dtype) -> Constant:
    """A tensor of any rank as `rows` padded rows of its last axis."""
    width = padded_row_bytes(columns, dtype) // dtype.bytes
    return described(constant, storage, [Reshape((rows, columns)), Cast(dtype.name), Pad((rows, width))])


def described(constant: GraphConstant, storage: str, steps: Sequence[PackStep]) -> Constant:
    """Return a constant of the program: the source as the model has it, then the steps."""
    return Constant(storage, _source(constant), int_shape(constant.value.shape), constant.value.dtype, tuple(steps))


def _source(constant: GraphConstant) -> Source:
    if isinstance(constant.source, JoinedSource):
        parts, axis = constant.source.parts, constant.source.axis
        sources = tuple(_plain_source(part) for part in parts)
        given = tuple(source for source in sources if not isinstance(source, Absent))
        assert len(given) == len(parts)
        return Joined(axis, tuple(int_shape(part.value.shape)[axis] for part in parts), given)
    return _plain_source(constant)


def _plain_source(constant: GraphConstant) -> Inline | Reference | Absent:
    assert not isinstance(constant.source, JoinedSource)
    if constant.source is None:
        return Absent()
    if isinstance(constant.source, FileReference):
        return Reference(str(constant.source.path), constant.source.offset, constant.source.length)
    if constant.value.dtype in NIBBLES:
        return Inline(_pack_nibbles(np.asarray(constant.source)))
    return Inline(constant.source)


def _pack_nibbles(elements: np.ndarray) -> np.ndarray:
    """Return the bytes that hold `int4` or `uint4` elements, two each, low nibble first."""
    codes = elements.reshape(-1).astype(np.int8).view(np.uint8) & 15
    codes = np.append(codes, np.zeros(len(codes) % 2, np.uint8))
    return codes[0::2] | codes[1::2] << 4
