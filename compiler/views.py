"""Results that need no kernel: they are rows of what an earlier operation wrote, seen with another shape or pitch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from compiler.graph import MoveAttributes
from compiler.mapped import Region
from compiler.packing import ROW_ALIGNMENT_BYTES
from compiler.strides import Axis, byte_strides, collapsed


def reshaped_view(region: Region, shape: Sequence[int]) -> Region | None:
    """Return a region with the elements in C order as `shape`; None if rows would not start where rows may start."""
    columns = shape[-1] if shape else 1
    rows = math.prod(shape[:-1])
    if columns == region.columns:
        return replace(region, rows=rows)
    row_bytes = columns * region.dtype.bytes
    is_dense = region.rows == 1 or region.pitch_bytes == region.columns * region.dtype.bytes
    if not is_dense or row_bytes % ROW_ALIGNMENT_BYTES or not row_bytes:
        return None
    return replace(region, rows=rows, columns=columns, pitch_bytes=row_bytes)


def moved_view(region: Region, shape: Sequence[int], attributes: MoveAttributes) -> Region | None:
    """Return the region that a move gives if it keeps columns together and finds its rows at one pitch, else None.

    No elements have no place: a cut may start behind the last one.
    """
    if 0 in attributes.sizes:
        return None
    strides = byte_strides(region, shape)
    *outer, last = (
        (size, 0 if source is None else strides[source] * attributes.steps[source])
        for size, source in zip(attributes.sizes, attributes.axes, strict=True)
    ) if attributes.sizes else ((1, region.dtype.bytes),)  # fmt: skip
    if not _keeps_columns(region, last, attributes.starts[-1] if attributes.starts else 0):
        return None
    counts = [math.prod(attributes.sizes[axis + 1 : -1]) for axis in range(len(outer))]
    rows = collapsed([Axis(size, stride, count) for (size, stride), count in zip(outer, counts, strict=True)])
    if len(rows) > 1 or any(axis.source <= 0 or axis.source % ROW_ALIGNMENT_BYTES for axis in rows):
        return None
    offset = sum(first * stride for first, stride in zip(attributes.starts, strides, strict=False))
    pitch = rows[0].source if rows else region.pitch_bytes
    return replace(
        region, offset_bytes=region.offset_bytes + offset, rows=math.prod(size for size, _ in outer), columns=last[0],
        pitch_bytes=pitch,
    )  # fmt: skip


def _keeps_columns(region: Region, columns: tuple[int, int], start: int) -> bool:
    """Tell whether the columns are neighbours and lie as rows must: from 64 bytes on, zeros behind the last one."""
    size, stride = columns
    element = region.dtype.bytes
    if (stride != element and size > 1) or start * element % ROW_ALIGNMENT_BYTES:
        return False
    return size * element % ROW_ALIGNMENT_BYTES == 0 or start + size == region.columns
