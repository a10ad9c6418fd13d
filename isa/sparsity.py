"""Weights with 2:4 sparsity as `mml_sparse` reads them: of every 4 elements of K, 2 and where they were.

A compressed row has the kept elements first, half of the dense row. Then follow 4 bits per group of 4 elements, the low
nibble first: first place + 4 * second place, with first < second; then zeros up to a whole number of elements. What one
command multiplies is one row: weights whose K several commands share are compressed piece by piece.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from isa.dtypes import Dtype
from isa.errors import ModelError

GROUP, KEPT = 4, 2
_BITS = 2
"""Bits of a place."""


def compressed_row_bytes(elements: int, dtype: Dtype) -> int:
    """Return the bytes of a compressed row of so many dense elements, a multiple of 4."""
    codes = -(-elements // (2 * GROUP))
    return (elements // 2 + -(-codes // dtype.bytes)) * dtype.bytes


def compress(weights: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return uint8[rows, compressed_row_bytes] of dense[rows, elements] in a host array type of the device's.

    A group with fewer than 2 elements that are not zero keeps zeros at its first free places. Raises ModelError if a
    group has more, or if rows are not whole groups. Hand them to `run_kernel` as `.view(np.int8)`.
    """
    if weights.ndim != 2 or weights.shape[1] % GROUP:
        raise ModelError(f"weights of shape {weights.shape} are not rows of whole groups of {GROUP}")
    count, elements = weights.shape
    groups = weights.reshape(count, elements // GROUP, GROUP)
    is_zero = groups == 0
    _check_pattern(is_zero)
    places = np.sort(np.argsort(is_zero, axis=-1, kind="stable")[..., :KEPT], axis=-1)
    kept = np.take_along_axis(groups, places, axis=-1).reshape(count, elements // 2)
    bits = (places[..., None] >> np.arange(_BITS) & 1).astype(np.uint8).reshape(count, elements)
    codes = np.packbits(bits, axis=1, bitorder="little")
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % weights.dtype.itemsize)))
    return np.concatenate([np.ascontiguousarray(kept).view(np.uint8), codes], axis=1)


def _check_pattern(is_zero: npt.NDArray[np.bool_]) -> None:
    counts = (~is_zero).sum(-1)
    wrong = np.argwhere(counts > KEPT)
    if len(wrong):
        row, group = (int(number) for number in wrong[0])
        first = group * GROUP
        raise ModelError(
            f"{counts[row, group]} of elements {first}..{first + GROUP - 1} of row {row} are not zero, 2:4 has {KEPT}",
            help="prune the weights: the 2 elements of least magnitude of every 4 are made zero",
        )


def expand(rows: npt.NDArray[np.uint8], dtype: Dtype, elements: int) -> npt.NDArray[Any]:
    """Return dense[rows, elements] of compressed rows."""
    kept = np.ascontiguousarray(rows[:, : dtype.row_bytes(elements) // 2]).view(dtype.numpy)
    dense = np.zeros((len(rows), elements), dtype.numpy)
    np.put_along_axis(dense, kept_indices(rows, dtype, elements), kept, axis=1)
    return dense


def kept_indices(rows: npt.NDArray[np.uint8], dtype: Dtype, elements: int) -> npt.NDArray[np.int64]:
    """Return int64[rows, elements / 2]: which elements of the dense rows were kept, as the compressed rows say."""
    codes = np.ascontiguousarray(rows[:, dtype.row_bytes(elements) // 2 :])
    bits = np.unpackbits(codes, axis=1, bitorder="little")[:, :elements].reshape(len(rows), elements // 2, _BITS)
    places = bits.astype(np.int64) @ (1 << np.arange(_BITS))
    indices: npt.NDArray[np.int64] = places + np.arange(elements // 2) // KEPT * GROUP
    return indices
