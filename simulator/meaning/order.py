"""Maximum and minimum as the chip orders numbers: a NaN wins; of two zeros the right one is kept."""

from __future__ import annotations

import numpy as np

from simulator.jit import inner_kernel
from simulator.meaning.tables import Floats, Scalar


@inner_kernel
def larger(left: Scalar, right: Scalar) -> Scalar:
    """Return the larger of two fp32 numbers."""
    return left if left > right or left != left else right


@inner_kernel
def smaller(left: Scalar, right: Scalar) -> Scalar:
    """Return the smaller of two fp32 numbers."""
    return left if left < right or left != left else right


def larger_plain(left: Floats, right: Floats) -> Floats:
    """As `larger`, for arrays."""
    return np.where((left > right) | np.isnan(left), left, right)


def smaller_plain(left: Floats, right: Floats) -> Floats:
    """As `smaller`, for arrays."""
    return np.where((left < right) | np.isnan(left), left, right)
