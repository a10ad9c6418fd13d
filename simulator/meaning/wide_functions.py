"""Functions of fp32 numbers that keep 53 bits between their steps and round once: log, sin, cos, atan, erf, pow.

Only additions, products, divisions and roundings of IEEE double precision are used, so the bits depend on no library.
The polynomials interpolate at Chebyshev points of their interval; all are within `ERROR_ULPS` of the exact value, sin
and cos up to 10^5 (beyond, they miss by up to 2^-52 * |x|).

log: x = m * 2^e with m in [0.71, 1.42), f = (m - 1) / (m + 1), e * ln 2 + 2 f * P(f^2). sin, cos: x - n * pi/2 with
pi/2 in three parts, then Taylor polynomials; NaN beyond 2^30. atan: 1/x above 1, (x - 1) / (x + 1) above 0.41. erf:
eight pieces of width 1/2. pow: exp(b * log |a|) with C99's results for zeros, infinities and negative a.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isa.table import BY_NAME
from simulator.jit import inner_kernel
from simulator.meaning import codes
from simulator.meaning.plain import Command, of_a, of_a_and_b
from simulator.meaning.tables import Array, Floats, Scalar

ERROR_ULPS = 0.52

_LOG, _SIN, _COS, _ATAN, _ERF, _POW = (
    BY_NAME[name].opcode for name in ("vlog", "vsin", "vcos", "vatan", "verf", "vpow")
)
_LN2, _LOG2_E = 0.6931471805599453, 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
_HALF_PI, _TWO_OVER_PI = 1.5707963267948966, 0.6366197723675814
_PI_FIRST, _PI_SECOND, _PI_THIRD = 1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624879595063154e-21
_LARGEST_ANGLE = 2.0**30
_SQRT2, _TAN_PI_8 = 1.4142135623730951, 0.41421356237309503
_MANTISSA, _EXPONENT_OF_ONE = (1 << 52) - 1, 1023 << 52
_LOG_SERIES = np.array(
    (1.0, 0.3333333333323757, 0.2000000005107, 0.14285704835132723, 0.11111932202808318, 0.09054380939258323,
     0.08493943624514164)
)  # fmt: skip
_ATAN_SERIES = np.array(
    (1.0, -0.3333333333073207, 0.19999999597343168, -0.1428569009352446, 0.11110377719158537, -0.09078302347696778,
     0.07563088825377627, -0.0587229868890273, 0.030630117452649264)
)  # fmt: skip
_SIN_SERIES = np.array((1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800, 1 / 6227020800))
_COS_SERIES = np.array((1.0, -1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800, 1 / 479001600))
_EXP_SERIES = np.array((1.0, 1.0, 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040, 1 / 40320, 1 / 362880, 1 / 3628800))
_ERF_SERIES = np.array(
    (
        (1.1283791670824082, -0.3761263852563839, 0.11283774012933868, -0.026863143013902878, 0.005200413669323705,
         -0.000769453375445058, 0.0, 0.0, 0.0),
        (0.7111556336535148, 0.6429310712774107, -0.48219830198811003, 0.02678835001760419, 0.15068698899241373,
         -0.05321707283290141, -0.026873650586004365, 0.017885346473022184, 0.002326567676494143),
        (0.922900128256458, 0.23652112200053732, -0.2956514034805592, 0.1675358905439236, -0.0061593142643936215,
         -0.04718656232986537, 0.021296085891571895, 0.0037451869636812743, -0.005586793377899892),
        (0.986671671219182, 0.052774995451009644, -0.09235624264506415, 0.09015738693510048, -0.04810225946808905,
         0.006618472879379268, 0.008965908934229678, -0.005933097203254002, 0.0006686833905614945),
        (0.9985372834133184, 0.007142319215263912, -0.01607021779136506, 0.021724512431135302, -0.019083385326059837,
         0.010660061219096828, -0.0029042625169570764, -0.0007215428072918896, 0.0009975791421372594),
        (0.99989937807788, 0.0005862772864785572, -0.0016122624586364064, 0.0027603803114113947, -0.0032581074085460304,
         0.0027562905904077745, -0.0016576883172713722, 0.0006358190692061121, -8.129846163826357e-05),
        (0.9999956972205359, 2.9189011704056765e-05, -9.486433106903839e-05, 0.00019581263210087548,
         -0.00028656960226719356, 0.00031362877472816664, -0.0002635139510729893, 0.00017359721186206972,
         -8.195632870307866e-05),
        (0.999999886272743, 8.814288563789773e-07, -3.305369008941042e-06, 7.97032707931827e-06,
         -1.3841565775064199e-05, 1.8330082919882016e-05, -1.9254767780729797e-05, 1.714450499731563e-05,
         -1.1501535009013175e-05),
    )
)  # fmt: skip
"""Row 0: erf(x) / x in x^2 for x < 1/2; row k: erf around k/2 + 1/4; above 4 erf is 1 in fp32."""


@inner_kernel
def _polynomial(series: Floats, x: Scalar) -> Scalar:
    result = series[len(series) - 1]
    for index in range(len(series) - 2, -1, -1):
        result = result * x + series[index]
    return result


@inner_kernel
def _logarithm(x: Scalar) -> Scalar:
    """Return log(x) of x > 0, finite or infinite, unrounded."""
    if not x < np.inf:
        return x
    bits = np.float64(x).view(np.int64)
    exponent = np.float64((bits >> 52) - 1023)
    mantissa = np.int64((bits & _MANTISSA) | _EXPONENT_OF_ONE).view(np.float64)
    if mantissa > _SQRT2:
        mantissa, exponent = mantissa * 0.5, exponent + 1.0
    f = (mantissa - 1.0) / (mantissa + 1.0)
    return exponent * _LN2 + 2.0 * f * _polynomial(_LOG_SERIES, f * f)


@inner_kernel
def _log(x: Scalar) -> Scalar:
    if x > 0.0:
        return _logarithm(x)
    return -np.inf if x == 0.0 else np.nan


@inner_kernel
def _sin(x: Scalar, quarters: Scalar) -> Scalar:
    """Return the sine of x + quarters * pi/2."""
    if not abs(x) <= _LARGEST_ANGLE:
        return np.nan
    n = np.rint(x * _TWO_OVER_PI)
    r = ((x - n * _PI_FIRST) - n * _PI_SECOND) - n * _PI_THIRD
    quarter = (np.int64(n) + quarters) & 3
    if quarter & 1:
        result = _polynomial(_COS_SERIES, r * r)
    else:
        result = r * _polynomial(_SIN_SERIES, r * r)
    return -result if quarter & 2 else result


@inner_kernel
def _atan(x: Scalar) -> Scalar:
    size = abs(x)
    t = 1.0 / size if size > 1.0 else size
    u = (t - 1.0) / (t + 1.0) if t > _TAN_PI_8 else t
    result = u * _polynomial(_ATAN_SERIES, u * u)
    if t > _TAN_PI_8:
        result = 0.5 * _HALF_PI + result
    if size > 1.0:
        result = _HALF_PI - result
    return -result if x < 0.0 else result


@inner_kernel
def _erf(x: Scalar) -> Scalar:
    size = abs(x)
    if size < 0.5:
        return x * _polynomial(_ERF_SERIES[0], x * x)
    if size < 4.0:
        piece = np.int64(size * 2.0)
        result = _polynomial(_ERF_SERIES[piece], size - (0.5 * piece + 0.25))
    else:
        result = 1.0 if size >= 4.0 else np.nan
    return -result if x < 0.0 else result


@inner_kernel
def _power_of_size(size: Scalar, b: Scalar) -> Scalar:
    """Return size ** b of size >= 0, b not zero."""
    if size == 1.0:
        return 1.0
    if size == 0.0:
        return 0.0 if b > 0.0 else np.inf
    y = min(max(b * _logarithm(size), -200.0), 200.0)
    n = np.rint(y * _LOG2_E)
    r = (y - n * _LN2_HIGH) - n * _LN2_LOW
    scale = np.int64((np.int64(n) + 1023) << 52).view(np.float64)
    return _polynomial(_EXP_SERIES, r) * scale


@inner_kernel
def _pow(a: Scalar, b: Scalar) -> Scalar:
    if b == 0.0 or a == 1.0:
        return 1.0
    if a != a or b != b:
        return np.nan
    result = _power_of_size(abs(a), b)
    is_whole = np.rint(b) == b
    if a < 0.0 and a > -np.inf and not is_whole:
        return np.nan
    is_odd = is_whole and np.rint(0.5 * b) != 0.5 * b
    return -result if is_odd and np.float64(a).view(np.int64) < 0 else result


@inner_kernel
def run(opcode: Scalar, a: Floats, b: Floats, out: Floats, count: Scalar) -> Scalar:
    """out[0:count] = function(a[0:count]), `vpow` of a and b."""
    for index in range(count):
        x = np.float64(a[index])
        if opcode == _LOG:
            out[index] = _log(x)
        elif opcode == _SIN:
            out[index] = _sin(x, 0)
        elif opcode == _COS:
            out[index] = _sin(x, 1)
        elif opcode == _ATAN:
            out[index] = _atan(x)
        elif opcode == _ERF:
            out[index] = _erf(x)
        elif opcode == _POW:
            out[index] = _pow(x, np.float64(b[index]))
        else:
            return codes.NO_MEANING
    return codes.OK


def _polynomial_plain(series: Array, x: Array) -> Array:
    result = np.full_like(x, series[-1])
    for coefficient in series[-2::-1]:
        result = result * x + coefficient
    return result


def _logarithm_plain(x: Array) -> Array:
    bits = x.view(np.int64)
    exponent = ((bits >> 52) - 1023).astype(np.float64)
    mantissa = ((bits & _MANTISSA) | _EXPONENT_OF_ONE).view(np.float64)
    exponent = np.where(mantissa > _SQRT2, exponent + 1.0, exponent)
    mantissa = np.where(mantissa > _SQRT2, mantissa * 0.5, mantissa)
    f = (mantissa - 1.0) / (mantissa + 1.0)
    return np.where(x < np.inf, exponent * _LN2 + 2.0 * f * _polynomial_plain(_LOG_SERIES, f * f), x)


def _log_plain(x: Array) -> Array:
    return np.where(x > 0.0, _logarithm_plain(x), np.where(x == 0.0, -np.inf, np.nan))


def _sin_plain(x: Array, quarters: int) -> Array:
    is_small = np.abs(x) <= _LARGEST_ANGLE
    x = np.where(is_small, x, 0.0)
    n = np.rint(x * _TWO_OVER_PI)
    r = ((x - n * _PI_FIRST) - n * _PI_SECOND) - n * _PI_THIRD
    quarter = (n.astype(np.int64) + quarters) & 3
    sine, cosine = r * _polynomial_plain(_SIN_SERIES, r * r), _polynomial_plain(_COS_SERIES, r * r)
    result = np.where(quarter & 1, cosine, sine)
    return np.where(is_small, np.where(quarter & 2, -result, result), np.nan)


def _atan_plain(x: Array) -> Array:
    size = np.abs(x)
    t = np.where(size > 1.0, 1.0 / size, size)
    u = np.where(t > _TAN_PI_8, (t - 1.0) / (t + 1.0), t)
    result = u * _polynomial_plain(_ATAN_SERIES, u * u)
    result = np.where(t > _TAN_PI_8, 0.5 * _HALF_PI + result, result)
    result = np.where(size > 1.0, _HALF_PI - result, result)
    return np.where(x < 0.0, -result, result)


def _erf_plain(x: Array) -> Array:
    size = np.abs(x)
    result = np.where(size >= 4.0, 1.0, np.nan)
    for piece in range(1, 8):
        value = _polynomial_plain(_ERF_SERIES[piece], size - (0.5 * piece + 0.25))
        result = np.where((size >= 0.5 * piece) & (size < 0.5 * piece + 0.5), value, result)
    result = np.where(x < 0.0, -result, result)
    return np.where(size < 0.5, x * _polynomial_plain(_ERF_SERIES[0], x * x), result)


def _power_of_size_plain(size: Array, b: Array) -> Array:
    y = np.minimum(np.maximum(b * _logarithm_plain(size), -200.0), 200.0)
    n = np.rint(np.where(np.isnan(y), 0.0, y) * _LOG2_E)
    r = (y - n * _LN2_HIGH) - n * _LN2_LOW
    result = _polynomial_plain(_EXP_SERIES, r) * ((n.astype(np.int64) + 1023) << 52).view(np.float64)
    return np.where(size == 1.0, 1.0, np.where(size == 0.0, np.where(b > 0.0, 0.0, np.inf), result))


def _pow_plain(a: Array, b: Array) -> Array:
    result = _power_of_size_plain(np.abs(a), b)
    is_whole = np.rint(b) == b
    is_odd = is_whole & (np.rint(0.5 * b) != 0.5 * b)
    result = np.where(is_odd & np.signbit(a), -result, result)
    is_nan = np.isnan(a) | np.isnan(b) | ((a < 0.0) & (a > -np.inf) & ~is_whole)
    return np.where((b == 0.0) | (a == 1.0), 1.0, np.where(is_nan, np.nan, result))


def _rounded(function: Callable[..., Array]) -> Callable[..., Floats]:
    """Make a function of fp32 arrays from one of float64 arrays: widen, compute, round once."""

    def narrow(*operands: Floats) -> Floats:
        return np.asarray(function(*(operand.astype(np.float64) for operand in operands)), np.float32)

    return narrow


log_plain, atan_plain, erf_plain, pow_plain = (
    _rounded(part) for part in (_log_plain, _atan_plain, _erf_plain, _pow_plain)
)
sin_plain, cos_plain = _rounded(lambda x: _sin_plain(x, 0)), _rounded(lambda x: _sin_plain(x, 1))

PLAIN: dict[str, Callable[[Command], None]] = {
    "vlog": of_a(log_plain),
    "vsin": of_a(sin_plain),
    "vcos": of_a(cos_plain),
    "vatan": of_a(atan_plain),
    "verf": of_a(erf_plain),
    "vpow": of_a_and_b(pow_plain),
}
