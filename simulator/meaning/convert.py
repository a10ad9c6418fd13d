"""Element types: bytes of a row to fp32 and back.

Reading widens exactly (int32: to nearest even). Writing rounds to nearest even; integers and fp8e4m3 saturate, the other
floats overflow to infinity; a NaN becomes the one positive quiet NaN of its type, 0 in an integer type, so that no
NaN's payload or sign can be seen in memory.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from isa import dtypes
from simulator.jit import kernel

_INT8, _INT32, _FP16, _BF16, _FP32 = (
    dtype.code for dtype in (dtypes.INT8, dtypes.INT32, dtypes.FP16, dtypes.BF16, dtypes.FP32)
)
_FP8E4M3, _FP8E5M2 = dtypes.FP8E4M3.code, dtypes.FP8E5M2.code
_MAGNITUDE, _SIGN, _INFINITY, _NAN = 0x7FFFFFFF, 0x80000000, 0x7F800000, 0x7FC00000
_HALF_SCALE = np.float32(2.0**112)
"""2 ** (127 - 15): moves a binary16 exponent to its place in binary32."""
_ROUND = np.float32(2.0**23)
"""Adding and subtracting it rounds 0 <= x < 2**23 to an integer, to nearest even."""
_INT32_END = np.float32(2.0**31)


@kernel
def load(memory, address, dtype, count, tables, out):
    """out[0:count] = the elements at memory[address:], as fp32; `memory` is uint8[n], `out` float32[>= count]."""
    if dtype == _FP16:
        _widen_half(memory[address : address + 2 * count].view(np.uint16), count, out, out.view(np.uint32))
    elif dtype == _BF16:
        halves, bits = memory[address : address + 2 * count].view(np.uint16), out.view(np.uint32)
        for index in range(count):
            bits[index] = np.uint32(halves[index]) << np.uint32(16)
    elif dtype == _FP32:
        words = memory[address : address + 4 * count].view(np.float32)
        for index in range(count):
            out[index] = words[index]
    elif dtype == _INT32:
        integers = memory[address : address + 4 * count].view(np.int32)
        for index in range(count):
            out[index] = np.float32(integers[index])
    else:
        values = tables.bytes_as_float[dtype]
        for index in range(count):
            out[index] = values[memory[address + index]]


@kernel
def store(values, count, dtype, memory, address):
    """memory[address:] = values[0:count], rounded to the type; `values` is float32[>= count], `memory` uint8[n]."""
    bits = values.view(np.uint32)
    if dtype == _FP16:
        halves = memory[address : address + 2 * count].view(np.uint16)
        for index in range(count):
            halves[index] = _narrow(bits[index], values[index], 13, 15, 15, 0x7C00, 0x7E00)
    elif dtype == _BF16:
        halves = memory[address : address + 2 * count].view(np.uint16)
        for index in range(count):
            word = bits[index]
            rounded = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            halves[index] = rounded if word & np.uint32(_MAGNITUDE) <= np.uint32(_INFINITY) else np.uint32(0x7FC0)
    elif dtype == _FP32:
        words = memory[address : address + 4 * count].view(np.uint32)
        for index in range(count):
            word = bits[index]
            words[index] = word if word & np.uint32(_MAGNITUDE) <= np.uint32(_INFINITY) else np.uint32(_NAN)
    elif dtype == _FP8E4M3:
        for index in range(count):
            memory[address + index] = _narrow(bits[index], values[index], 20, 7, 7, 0x7E, 0x7F)
    elif dtype == _FP8E5M2:
        for index in range(count):
            memory[address + index] = _narrow(bits[index], values[index], 21, 15, 7, 0x7C, 0x7E)
    else:
        _store_integers(values, count, dtype, memory, address)


@kernel
def _widen_half(halves, count, out, bits):
    """Binary16 codes to fp32: shift, rescale (which also makes subnormals right), restore infinities and the sign."""
    for index in range(count):
        code = np.uint32(halves[index])
        bits[index] = (code & np.uint32(0x7FFF)) << np.uint32(13)
        out[index] = out[index] * _HALF_SCALE
        special = np.uint32(_INFINITY) if code & np.uint32(0x7C00) == np.uint32(0x7C00) else np.uint32(0)
        bits[index] = bits[index] | special | ((code & np.uint32(0x8000)) << np.uint32(16))


@kernel
def _narrow(word, value, shift, bias, sign_bit, largest, nan):
    """Return the code of an fp32 value (its bits: `word`) in a type with 23 - shift mantissa bits.

    `largest` is the code of infinity, or of the largest number where the type saturates. Below the smallest normal
    number, adding a power of two lets the adder do the rounding to a multiple of the smallest subnormal.
    """
    magnitude = word & np.uint32(_MAGNITUDE)
    anchor = np.uint32((128 - bias + shift) << 23)
    subnormal = np.uint32(np.float32(abs(value) + anchor.view(np.float32)).view(np.uint32) - anchor)
    odd = (magnitude >> np.uint32(shift)) & np.uint32(1)
    half = np.uint32((1 << (shift - 1)) - 1)
    normal = np.uint32(magnitude - np.uint32((127 - bias) << 23) + half + odd) >> np.uint32(shift)
    code = subnormal if magnitude < np.uint32((128 - bias) << 23) else min(normal, np.uint32(largest))
    code = code | ((word >> np.uint32(31)) << np.uint32(sign_bit))
    return np.uint32(code if magnitude <= np.uint32(_INFINITY) else np.uint32(nan))


@kernel
def _store_integers(values, count, dtype, memory, address):
    if dtype == _INT8:
        for index in range(count):
            value = values[index]
            clamped = min(max(value if value == value else np.float32(0.0), np.float32(-128.0)), np.float32(127.0))
            rounded = np.int32((abs(clamped) + _ROUND) - _ROUND)
            memory[address + index] = np.uint8(-rounded if clamped < 0 else rounded)
        return
    words = memory[address : address + 4 * count].view(np.int32)
    for index in range(count):
        value = values[index] if values[index] == values[index] else np.float32(0.0)
        magnitude = min(abs(value), _INT32_END)
        whole = np.int64((magnitude + _ROUND) - _ROUND if magnitude < _ROUND else magnitude)
        words[index] = -whole if value < 0 else min(whole, 0x7FFFFFFF)


def load_plain(data: npt.NDArray[np.uint8], code: int) -> npt.NDArray[np.float32]:
    """Return uint8[rows, bytes] as float32[rows, elements]."""
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
