"""What crosses the host link: the bytes of inputs and outputs as the device holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from isa.affine import Dim, evaluate
from isa.dtypes import BY_NAME
from isa.program import Entry


def moved_bytes(entry: Entry, bindings: Mapping[str, int]) -> int:
    """Return the bytes of all inputs and outputs of an entry."""
    return sum(_port_bytes(port.shape, port.device_dtype, bindings) for port in (*entry.inputs, *entry.outputs))


def _port_bytes(shape: tuple[Dim, ...], dtype: str, bindings: Mapping[str, int]) -> int:
    return math.prod(evaluate(dim, bindings) for dim in shape) * BY_NAME[dtype].bytes
