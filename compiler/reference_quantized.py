"""What quantized weights and activations mean, in plain NumPy; part of `compiler.reference`."""

from __future__ import annotations

import numpy as np

from compiler.graph import RequantizeAttributes, WeightFormat

SMALLEST_RANGE = np.float32(1e-30)
"""Rows whose largest magnitude is below this are scaled as if it were this: zeros have a scale too."""


def dequantized_weight(
    weight: np.ndarray, scales: np.ndarray | None, zero_points: np.ndarray | None, weight_format: WeightFormat
) -> np.ndarray:
    """Return float32[rows, columns] of integers, or of floats to be quantized, with scales along the columns."""
    columns = weight.shape[1]
    block = weight_format.block or columns
    if weight_format.is_computed:
        weight, scales = _quantized(weight, block, (1 << (weight_format.bits - 1)) - 1)
    assert scales is not None
    middle = 1 << (weight_format.bits - 1) if str(weight.dtype).startswith("uint") else 0
    shifted = weight.astype(np.int64) - (
        middle if zero_points is None else _spread(zero_points.astype(np.int64), block, columns)
    )
    result: np.ndarray = shifted.astype(np.float32) * _spread(scales.astype(np.float32), block, columns)
    return result


def _spread(array: np.ndarray, block: int, columns: int) -> np.ndarray:
    return np.repeat(array, block, axis=1)[:, :columns]


def _quantized(weight: np.ndarray, block: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    columns = weight.shape[1]
    starts = range(0, columns, block)
    largest = np.stack([np.abs(weight[:, start : start + block]).max(axis=1) for start in starts], axis=1)
    scales = largest.astype(np.float32) / np.float32(high)
    divisors = _spread(np.where(scales == 0, np.float32(1), scales), block, columns)
    return np.rint(weight.astype(np.float32) / divisors).astype(np.int64), scales


def quantized_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 of each row's own symmetric scale, and float32 scales [..., 1]."""
    largest = np.maximum(np.abs(x).max(axis=-1, keepdims=True).astype(np.float32), SMALLEST_RANGE)
    scales = largest * np.float32(1 / 127)
    return np.clip(np.rint(x / scales), -128, 127).astype(np.int8), scales


def requantized(x: np.ndarray, attributes: RequantizeAttributes) -> np.ndarray:
    """Return the floats that are left of x on its grid of integers."""
    scale = np.float32(attributes.scale)
    rounded = np.clip(np.rint(x.astype(np.float32) / scale), attributes.low, attributes.high)
    result: np.ndarray = rounded.astype(np.float32) * scale
    return result
