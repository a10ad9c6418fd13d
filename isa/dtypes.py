"""Element types: their codes in instructions, sizes, and the NumPy types the host uses for them.

Arithmetic is specified in `docs/isa.md`: values are widened to fp32 (exactly) on reading and rounded to nearest even
on writing; integers saturate; a NaN becomes the canonical quiet NaN of the target type, or 0 in an integer type.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Dtype:
    """One element type; `bits` per element in memory, `host` is the NumPy or ml_dtypes name."""

    name: str
    code: int
    bits: int
    host: str
    is_float: bool
    doc: str

    @property
    def bytes(self) -> int:
        """Bytes per element; raises ValueError for a type that is packed below a byte."""
        if self.bits % 8:
            raise ValueError(f"{self.name} is packed, {self.bits} bits per element")
        return self.bits // 8

    def row_bytes(self, columns: int) -> int:
        """Bytes that a row of elements takes, whole bytes also for a packed type."""
        return (columns * self.bits + 7) // 8

    @cached_property
    def largest(self) -> float:
        """The largest finite number whose negative is there too: what `scale = largest magnitude / this` divides by."""
        if not self.is_float:
            return float((1 << (self.bits - 1)) - 1)
        import ml_dtypes

        return float(ml_dtypes.finfo(self.numpy).max)  # type: ignore[no-untyped-call]

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The host's array type."""
        if hasattr(np, self.host):
            return np.dtype(self.host)
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, self.host))
        return dtype


DTYPES = (
    Dtype("int8", 0, 8, "int8", False, "two's complement; stores saturate to -128..127"),
    Dtype("int32", 1, 32, "int32", False, "two's complement; accumulator of integer products"),
    Dtype("fp16", 2, 16, "float16", True, "IEEE 754 binary16"),
    Dtype("bf16", 3, 16, "bfloat16", True, "upper half of binary32"),
    Dtype("fp32", 4, 32, "float32", True, "IEEE 754 binary32; accumulator of float products"),
    Dtype("fp8e4m3", 5, 8, "float8_e4m3fn", True, "4 exponent bits, 3 mantissa bits, no infinity; saturates to 448"),
    Dtype("fp8e5m2", 6, 8, "float8_e5m2", True, "5 exponent bits, 2 mantissa bits"),
    Dtype(
        "int4",
        7,
        4,
        "int4",
        False,
        "two per byte, low nibble first; only element-wise commands read it, none writes it",
    ),
)
BY_NAME = {dtype.name: dtype for dtype in DTYPES}
BY_CODE = {dtype.code: dtype for dtype in DTYPES}
INT8, INT32, FP16, BF16, FP32, FP8E4M3, FP8E5M2, INT4 = DTYPES


def of_host(name: str) -> Dtype | None:
    """Return the device type with the NumPy name `name`, or None."""
    return next((dtype for dtype in DTYPES if dtype.host == name), None)
