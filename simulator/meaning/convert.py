"""Element types: bytes of a row to fp32 and back.

Reading widens exactly (int32: to nearest even). Writing rounds to nearest even; integers and fp8e4m3 saturate, other
floats overflow to infinity; a NaN becomes the one positive quiet NaN of its type, 0 in an integer type, so that no
NaN's payload or sign can be seen in memory.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from isa import dtypes
from simulator.jit import inner_kernel
from simulator.meaning.tables import Bytes, Floats, Scalar

_INT8, _INT32, _FP16, _BF16, _FP32 = (
    dtype.code for dtype in (dtypes.INT8, dtypes.INT32, dtypes.FP16, dtypes.BF16, dtypes.FP32)
)
_FP8E4M3, _FP8E5M2, _INT4 = dtypes.FP8E4M3.code, dtypes.FP8E5M2.code, dtypes.INT4.code
SPREAD_ROW, SPREAD_COLUMN = 1, 2
"""Codes of the choice `spread`."""
WORDS = -1
"""In place of a dtype code: 32-bit words as they are, without the canonical NaN."""
_MAGNITUDE, _INFINITY, _NAN = 0x7FFFFFFF, 0x7F800000, 0x7FC00000
_HALF_SCALE = np.float32(2.0**112)
"""2 ** (127 - 15): moves a binary16 exponent to its place in binary32."""
_ROUND = np.float32(2.0**23)
"""Adding and subtracting it rounds 0 <= x < 2**23 to an integer, to nearest even."""


@inner_kernel
def load_block(
    memory: Bytes,
    address: Scalar,
    pitch: Scalar,
    rows: Scalar,
    columns: Scalar,
    spread: Scalar,
    dtype: Scalar,
    bytes_as_float: Floats,
    out: Floats,
) -> None:
    """out[0 : rows * columns] = rows of elements, `pitch` bytes apart, as fp32; `memory` is uint8[n], n % 4 == 0.

    spread SPREAD_ROW repeats the first row, SPREAD_COLUMN the first element of each row.
    """
    stored_rows = min(rows, 1) if spread == SPREAD_ROW else rows
    stored_columns = min(columns, 1) if spread == SPREAD_COLUMN else columns
    for row in range(stored_rows):
        _load_row(memory, address + row * pitch, stored_columns, dtype, bytes_as_float, out, row * columns)
    for row in range(stored_rows, rows):
        for index in range(columns):
            out[np.uint64(row * columns + index)] = out[np.uint64(index)]
    if stored_columns < columns:
        for row in range(rows):
            for index in range(1, columns):
                out[np.uint64(row * columns + index)] = out[np.uint64(row * columns)]


@inner_kernel
def _load_row(
    memory: Bytes, start: Scalar, columns: Scalar, dtype: Scalar, bytes_as_float: Floats, out: Floats, to: Scalar
) -> None:
    """out[to : to + columns] = the elements from byte `start` on.

    Only steps of one become vector code, so this knows nothing of spreading; and only unsigned indices do, because
    numba lets a signed one count from the end.
    """
    halves, integers, singles, bits = (
        memory.view(np.uint16),
        memory.view(np.int32),
        memory.view(np.float32),
        out.view(np.uint32),
    )
    half, word = start >> 1, start >> 2
    if dtype == _FP16:
        for index in range(columns):
            bits[np.uint64(to + index)] = _widen_half(np.uint32(halves[np.uint64(half + index)]))
    elif dtype == _BF16:
        for index in range(columns):
            bits[np.uint64(to + index)] = np.uint32(halves[np.uint64(half + index)]) << np.uint32(16)
    elif dtype in (_FP32, WORDS):
        for index in range(columns):
            out[np.uint64(to + index)] = singles[np.uint64(word + index)]
    elif dtype == _INT8:
        for index in range(columns):
            out[np.uint64(to + index)] = np.float32(np.int8(memory[np.uint64(start + index)]))
    elif dtype == _INT32:
        for index in range(columns):
            out[np.uint64(to + index)] = np.float32(integers[np.uint64(word + index)])
    elif dtype == _INT4:
        for index in range(columns):
            pair = np.int32(memory[np.uint64(start + (index >> 1))])
            out[np.uint64(to + index)] = np.float32(((pair >> (index & 1) * 4 & 15) ^ 8) - 8)
    else:
        for index in range(columns):
            out[np.uint64(to + index)] = bytes_as_float[dtype, memory[np.uint64(start + index)]]


@inner_kernel
def store_block(
    values: Floats, rows: Scalar, columns: Scalar, dtype: Scalar, memory: Bytes, address: Scalar, pitch: Scalar
) -> None:
    """Store float32[rows * columns] as rows of elements, `pitch` bytes apart; `memory` is uint8[n], n % 4 == 0."""
    halves, integers, words, bits = (
        memory.view(np.uint16),
        memory.view(np.int32),
        memory.view(np.uint32),
        values.view(np.uint32),
    )
    for row in range(rows):
        start, first = address + row * pitch, row * columns
        half, word = start >> 1, start >> 2
        if dtype == _FP16:
            for index in range(columns):
                halves[np.uint64(half + index)] = _narrow(bits[np.uint64(first + index)], 13, 15, 15, 0x7C00, 0x7E00)
        elif dtype == _BF16:
            for index in range(columns):
                halves[np.uint64(half + index)] = _narrow_to_bf16(bits[np.uint64(first + index)])
        elif dtype == _FP32:
            for index in range(columns):
                words[np.uint64(word + index)] = _canonical(bits[np.uint64(first + index)])
        elif dtype == WORDS:
            for index in range(columns):
                words[np.uint64(word + index)] = bits[np.uint64(first + index)]
        elif dtype == _FP8E4M3:
            for index in range(columns):
                memory[np.uint64(start + index)] = _narrow(bits[np.uint64(first + index)], 20, 7, 7, 0x7E, 0x7F)
        elif dtype == _FP8E5M2:
            for index in range(columns):
                memory[np.uint64(start + index)] = _narrow(bits[np.uint64(first + index)], 21, 15, 7, 0x7C, 0x7E)
        elif dtype == _INT8:
            for index in range(columns):
                memory[np.uint64(start + index)] = _to_integer(values[np.uint64(first + index)], 128)
        else:
            for index in range(columns):
                integers[np.uint64(word + index)] = _to_integer(values[np.uint64(first + index)], 1 << 31)


@inner_kernel
def _widen_half(code: Scalar) -> Scalar:
    """Return the bits of a binary16 code in fp32: shift, rescale (subnormals too), restore infinities and the sign."""
    small = np.uint32((code & np.uint32(0x7FFF)) << np.uint32(13))
    scaled = np.float32(small.view(np.float32) * _HALF_SCALE).view(np.uint32)
    special = np.uint32(_INFINITY) if code & np.uint32(0x7C00) == np.uint32(0x7C00) else np.uint32(0)
    return np.uint32(scaled | special | ((code & np.uint32(0x8000)) << np.uint32(16)))


@inner_kernel
def _canonical(word: Scalar) -> Scalar:
    return word if word & np.uint32(_MAGNITUDE) <= np.uint32(_INFINITY) else np.uint32(_NAN)


@inner_kernel
def _narrow_to_bf16(word: Scalar) -> Scalar:
    rounded = np.uint32(word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.uint32(rounded if word & np.uint32(_MAGNITUDE) <= np.uint32(_INFINITY) else np.uint32(0x7FC0))


@inner_kernel
def _narrow(word: Scalar, shift: Scalar, bias: Scalar, sign_bit: Scalar, largest: Scalar, nan: Scalar) -> Scalar:
    """Return the code of an fp32 value (its bits: `word`) in a type with 23 - shift mantissa bits.

    `largest` is the code of infinity, or of the largest number where the type saturates. Below the smallest normal
    number, adding a power of two lets the adder do the rounding to a multiple of the smallest subnormal.
    """
    magnitude = np.uint32(word & np.uint32(_MAGNITUDE))
    anchor = np.uint32((128 - bias + shift) << 23)
    subnormal = np.uint32(np.float32(magnitude.view(np.float32) + anchor.view(np.float32)).view(np.uint32) - anchor)
    odd = (magnitude >> np.uint32(shift)) & np.uint32(1)
    half = np.uint32((1 << (shift - 1)) - 1)
    normal = np.uint32(magnitude - np.uint32((127 - bias) << 23) + half + odd) >> np.uint32(shift)
    code = subnormal if magnitude < np.uint32((128 - bias) << 23) else min(normal, np.uint32(largest))
    code = code | ((word >> np.uint32(31)) << np.uint32(sign_bit))
    return np.uint32(code if magnitude <= np.uint32(_INFINITY) else np.uint32(nan))


@inner_kernel
def _to_integer(value: Scalar, end: Scalar) -> Scalar:
    """Return a value rounded to nearest even and saturated to -end..end - 1; 0 for a NaN."""
    magnitude = min(abs(value), np.float32(end)) if value == value else np.float32(0.0)
    whole = np.int64((magnitude + _ROUND) - _ROUND if magnitude < _ROUND else magnitude)
    return -whole if value < 0 else min(whole, end - 1)


def load_plain(data: npt.NDArray[np.uint8], code: int) -> npt.NDArray[np.float32]:
    """Return uint8[rows, bytes] as float32[rows, elements]; an odd number of 4-bit elements gets one more."""
    if code == _INT4:
        nibbles = np.stack([data & 15, data >> 4], axis=-1).reshape(len(data), -1)
        return np.where(nibbles < 8, nibbles, nibbles - np.float32(16)).astype(np.float32)
    return np.ascontiguousarray(data).view(dtypes.BY_CODE[code].numpy).astype(np.float32)


def store_plain(values: npt.NDArray[np.float32], code: int) -> npt.NDArray[np.uint8]:
    """Return float32[rows, elements] as uint8[rows, bytes]."""
    dtype = dtypes.BY_CODE[code]
    is_nan = np.isnan(values)
    if dtype.is_float:
        limit = 448.0 if dtype is dtypes.FP8E4M3 else np.inf
        with np.errstate(over="ignore", invalid="ignore"):
            stored = np.clip(values, -limit, limit).astype(dtype.numpy)
        stored[is_nan] = np.array(np.nan, dtype=dtype.numpy)
    else:
        limits = np.iinfo(dtype.numpy)
        whole = np.rint(np.where(is_nan, 0, values).astype(np.float64))
        stored = np.clip(whole, limits.min, limits.max).astype(dtype.numpy)
    return np.ascontiguousarray(stored).view(np.uint8)
