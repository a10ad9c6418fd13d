"""Functions of one fp32 number, defined by fp32 operations alone, so that their bits depend on no library.

exp: clamp to [-104, 89] (beyond it the result is 0 or infinite), n = round(x * log2 e), r = x - n * ln 2 in two parts,
1 + r + r^2 * (degree-4 polynomial in r) by Horner's rule, times 2^n in two steps. Largest error over all inputs:
`EXP_ERROR_ULPS`; subnormal results too, rounded once more. The others follow from it as the table says.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from isa.table import BY_NAME
from simulator.jit import inner_kernel
from simulator.meaning import codes, wide_functions
from simulator.meaning.plain import Command, of_a, of_a_and_b
from simulator.meaning.tables import Floats, Scalar

EXP_ERROR_ULPS = 1.1
_run_wide = wide_functions.run

_RECIP, _SQRT, _RSQRT, _EXP, _SIGMOID, _TANH, _SILU = (
    BY_NAME[name].opcode for name in ("vrecip", "vsqrt", "vrsqrt", "vexp", "vsigmoid", "vtanh", "vsilu")
)
_EXP_DIFFERENCE = BY_NAME["vexpsub"].opcode
_ONE, _TWO = np.float32(1.0), np.float32(2.0)
_LEAST, _GREATEST = np.float32(-104.0), np.float32(89.0)
_LOG2_E = np.float32(1.442695040888963407)
_ROUND = np.float32(1.5 * 2**23)
"""Adding it leaves the nearest integer in the low bits of the sum."""
_ROUND_BITS = np.int32(_ROUND.view(np.int32))
_LN2_HIGH = np.float32(0.693359375)
"""ln 2 with 9 bits, so that its product with n is exact."""
_LN2_LOW = np.float32(-2.12194440e-4)
_C2, _C3, _C4 = np.float32(0.5), np.float32(0.166665763), np.float32(0.0416665561)
_C5, _C6 = np.float32(0.008363178), np.float32(0.00139261817)
"""Interpolates (exp(r) - 1 - r) / r^2 at the Chebyshev points of |r| <= 0.3466."""


@inner_kernel
def exponential(x: Scalar) -> Scalar:
    """Return exp(x) of an fp32 number."""
    x = _LEAST if x < _LEAST else x
    x = _GREATEST if x > _GREATEST else x
    shifted = np.float32(x * _LOG2_E + _ROUND)
    n = shifted - _ROUND
    r = np.float32(np.float32(x - n * _LN2_HIGH) - n * _LN2_LOW)
    series = np.float32(_C5 + r * _C6)
    series = _C4 + r * series
    series = _C3 + r * series
    series = _C2 + r * series
    result = _ONE + (r + (r * r) * series)
    exponent = np.int32(shifted.view(np.int32) - _ROUND_BITS)
    half = np.int32(exponent >> 1)
    return result * _power_of_two(half) * _power_of_two(np.int32(exponent - half))


@inner_kernel
def _power_of_two(exponent: Scalar) -> Scalar:
    return np.int32(np.int32(exponent + 127) << 23).view(np.float32)


@inner_kernel
def run(opcode: Scalar, a: Floats, b: Floats, value: Scalar, out: Floats, count: Scalar) -> Scalar:
    """out[0:count] = function(a[0:count]); only functions of two numbers read b, or the constant `value`."""
    if opcode == _RECIP:
        for index in range(count):
            out[index] = _ONE / a[index]
    elif opcode == _SQRT:
        for index in range(count):
            out[index] = math.sqrt(a[index])
    elif opcode == _RSQRT:
        for index in range(count):
            out[index] = _ONE / np.float32(math.sqrt(a[index]))
    elif opcode == _EXP:
        for index in range(count):
            out[index] = exponential(a[index])
    elif opcode == _SIGMOID:
        for index in range(count):
            out[index] = _ONE / (_ONE + exponential(-a[index]))
    elif opcode == _TANH:
        for index in range(count):
            out[index] = _ONE - _TWO / (exponential(_TWO * a[index]) + _ONE)
    elif opcode == _SILU:
        for index in range(count):
            out[index] = a[index] / (_ONE + exponential(-a[index]))
    elif opcode == _EXP_DIFFERENCE:
        for index in range(count):
            out[index] = exponential(np.float32(np.float32(a[index] - b[index]) * value))
    else:
        return _run_wide(opcode, a, b, out, count)
    return codes.OK


def exponential_plain(x: Floats) -> Floats:
    """As `exponential`, for arrays."""
    x = np.where(x < _LEAST, _LEAST, x)
    x = np.where(x > _GREATEST, _GREATEST, x)
    shifted = x * _LOG2_E + _ROUND
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    series = _C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * _C6)))
    result = _ONE + (r + (r * r) * series)
    exponent = shifted.view(np.int32) - _ROUND_BITS
    half = exponent >> 1
    first, second = ((part + np.int32(127)) << np.int32(23) for part in (half, exponent - half))
    return np.asarray(result * first.view(np.float32) * second.view(np.float32), dtype=np.float32)


PLAIN: dict[str, Callable[[Command], None]] = {
    **wide_functions.PLAIN,
    "vrecip": of_a(lambda a: _ONE / a),
    "vsqrt": of_a(lambda a: np.sqrt(a, dtype=np.float32)),
    "vrsqrt": of_a(lambda a: np.divide(_ONE, np.sqrt(a), dtype=np.float32)),
    "vexp": of_a(exponential_plain),
    "vsigmoid": of_a(lambda a: _ONE / (_ONE + exponential_plain(-a))),
    "vtanh": of_a(lambda a: _ONE - _TWO / (exponential_plain(_TWO * a) + _ONE)),
    "vexpsub": lambda command: of_a_and_b(lambda a, b: exponential_plain((a - b) * command.constant))(command),
    "vsilu": of_a(lambda a: a / (_ONE + exponential_plain(-a))),
}
