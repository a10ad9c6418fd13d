"""What the steps of a recipe mean, in plain NumPy: the oracle of `pointwise` operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from compiler.graph import Step

_RESULTS: dict[str, Callable[..., np.ndarray]] = {
    "vadd": np.add, "vsub": np.subtract, "vmul": np.multiply, "vdiv": np.divide, "vmax": np.maximum,
    "vmin": np.minimum, "vadds": np.add, "vmuls": np.multiply, "vmaxs": np.maximum, "vmins": np.minimum,
    "vless": np.less, "vequal": np.equal, "vselect": lambda a, b, value: np.asarray(np.where(b != 0, a, value)),
    "vspread": lambda a: a, "vcast": lambda a: a, "vabs": np.abs, "vfloor": np.floor, "vround": np.rint,
    "vrecip": np.reciprocal, "vsqrt": np.sqrt, "vrsqrt": lambda a: 1 / np.sqrt(a), "vexp": np.exp,
    "vsigmoid": lambda a: 1 / (1 + np.exp(-a)), "vtanh": np.tanh, "vsilu": lambda a: a / (1 + np.exp(-a)),
    "vlog": np.log, "vsin": np.sin, "vcos": np.cos, "vatan": np.arctan, "verf": np.vectorize(math.erf, otypes=[float]),
    "vpow": np.power,
    "rowsum": lambda a: a.sum(-1, keepdims=True), "rowmax": lambda a: a.max(-1, keepdims=True),
    "rowmin": lambda a: a.min(-1, keepdims=True), "rowprod": lambda a: a.prod(-1, keepdims=True),
    "number": lambda value: np.asarray([value]),
}  # fmt: skip


def evaluate_steps(steps: Sequence[Step], inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the result of a recipe as float64 of the broadcast shape."""
    values = [np.asarray(array, np.float64) for array in inputs]
    with np.errstate(all="ignore"):
        for step in steps:
            operands = [values[operand] for operand in step.operands]
            constants = [] if step.constant is None else [np.float64(step.constant)]
            values.append(np.asarray(_RESULTS[step.instruction](*operands, *constants), np.float64))
    return values[-1]
