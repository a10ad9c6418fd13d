"""Rounding to floats of 8 bits and less, in fp32 arithmetic: the value stays a wider float that holds it exactly.

Adding and taking off a multiple of a number rounds it, to nearest even, to as many bits as the sum has left for it.
"""

from __future__ import annotations

import ml_dtypes

from compiler.generic.recipe import Term, choose
from compiler.graph import dtype_of

_FP32_PRECISION = 24


def rounded_to(x: Term, dtype: str, saturate: bool) -> Term:
    """Return x rounded to nearest even; what is too large becomes the largest number, or infinite or NaN."""
    info = ml_dtypes.finfo(dtype_of(dtype))  # type: ignore[no-untyped-call]
    precision, smallest, largest = int(info.nmant) + 1, 2.0 ** int(info.minexp), float(info.max)
    limited = choose(x.is_equal(x), x.apply("vmin", 4 * largest).apply("vmax", -4 * largest), x)
    multiple = limited * 2.0 ** (_FP32_PRECISION - precision)
    normal = limited + multiple - multiple
    grid = 1.5 * smallest * 2.0 ** (_FP32_PRECISION - precision)
    result = choose(abs(limited).is_less(smallest), limited + grid - grid, normal)
    if saturate:
        return choose(x.is_equal(x), result.apply("vmin", largest).apply("vmax", -largest), result)
    beyond = result * float("inf") if dtype == "float8_e5m2" else result * float("nan")
    return choose(abs(result).is_greater(largest), beyond, result)
