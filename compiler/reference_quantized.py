"""What quantized weights and activations mean, in plain NumPy; part of `compiler.reference`."""

from __future__ import annotations

import numpy as np

from compiler.graph import RequantizeAttributes, RowDtype, WeightFormat
from compiler.quantized_packing import stored_dtype
from isa.dtypes import Dtype, of_host

SMALLEST_RANGE = np.float32(1e-30)
"""Rows whose largest magnitude is below this are scaled as if it were this: zeros have a scale too."""


def dequantized_weight(
    weight: np.ndarray, scales: np.ndarray | None, zero_points: np.ndarray | None, weight_format: WeightFormat
) -> np.ndarray:
    """Return float32[rows, columns] of integers, or of floats to be quantized, with scales along the columns."""
    columns = weight.shape[1]
    block = weight_format.block or columns
    if weight_format.is_computed:
        weight, scales = _quantized(weight, block, stored_dtype(weight_format))
    assert scales is not None
    if weight_format.is_float:
        numbers: np.ndarray = weight.astype(np.float32) * _spread(scales, block, columns)
        return numbers
    middle = 1 << (weight_format.bits - 1) if str(weight.dtype).startswith("uint") else 0
    shifted = weight.astype(np.int64) - (
        middle if zero_points is None else _spread(zero_points.astype(np.int64), block, columns)
    )
    result: np.ndarray = shifted.astype(np.float32) * _spread(scales.astype(np.float32), block, columns)
    return result


def _spread(array: np.ndarray, block: int, columns: int) -> np.ndarray:
    return np.repeat(array, block, axis=1)[:, :columns]


def _quantized(weight: np.ndarray, block: int, dtype: Dtype) -> tuple[np.ndarray, np.ndarray]:
    columns = weight.shape[1]
    starts = range(0, columns, block)
    largest = np.stack([np.abs(weight[:, start : start + block]).max(axis=1) for start in starts], axis=1)
    scales = largest.astype(np.float32) / np.float32(dtype.largest)
    divisors = _spread(np.where(scales == 0, np.float32(1), scales), block, columns)
    return _rounded(weight.astype(np.float32) / divisors, dtype), scales


def quantized_rows(x: np.ndarray, dtype: RowDtype) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of `dtype` by each row's own symmetric scale, and float32 scales [..., 1]."""
    target = of_host(dtype)
    assert target is not None
    largest = np.maximum(np.abs(x).max(axis=-1, keepdims=True).astype(np.float32), SMALLEST_RANGE)
    scales = largest * np.float32(1 / target.largest)
    return _rounded(x / scales, target), scales


def _rounded(divided: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Round to nearest even and saturate; a quotient is beyond the largest number only by its own rounding."""
    low = -dtype.largest if dtype.is_float else -dtype.largest - 1
    result: np.ndarray = np.clip(divided if dtype.is_float else np.rint(divided), low, dtype.largest)
    return result.astype(dtype.numpy)


def requantized(x: np.ndarray, attributes: RequantizeAttributes) -> np.ndarray:
    """Return the floats that are left of x on its grid of integers."""
    scale = np.float32(attributes.scale)
    rounded = np.clip(np.rint(x.astype(np.float32) / scale), attributes.low, attributes.high)
    result: np.ndarray = rounded.astype(np.float32) * scale
    return result
