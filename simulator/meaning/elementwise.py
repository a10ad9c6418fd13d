"""Element-wise arithmetic in fp32: every result is one operation, rounded once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from isa.table import BY_NAME
from simulator.jit import kernel
from simulator.meaning.order import larger, larger_plain, smaller, smaller_plain
from simulator.meaning.plain import Command

Floats = npt.NDArray[np.float32]

_ADD, _SUB, _MUL, _DIV, _MAX, _MIN, _SELECT, _LIMIT = (
    BY_NAME[name].opcode for name in ("vadd", "vsub", "vmul", "vdiv", "vmax", "vmin", "vselect", "vlimit")
)
_ADDS, _MULS, _MAXS, _MINS = (BY_NAME[name].opcode for name in ("vadds", "vmuls", "vmaxs", "vmins"))
_CAST, _ABS = BY_NAME["vcast"].opcode, BY_NAME["vabs"].opcode


@kernel
def apply(opcode, a, b, value, limit, out, count):
    """out[0:count] = operation(a, b); return False for an opcode that is not here.

    `b` holds the constant where the instruction has no operand b; `limit` counts the elements that `vlimit` keeps.
    """
    if opcode == _ADD or opcode == _ADDS:
        for index in range(count):
            out[index] = a[index] + b[index]
    elif opcode == _SUB:
        for index in range(count):
            out[index] = a[index] - b[index]
    elif opcode == _MUL or opcode == _MULS:
        for index in range(count):
            out[index] = a[index] * b[index]
    elif opcode == _DIV:
        for index in range(count):
            out[index] = a[index] / b[index]
    elif opcode == _MAX or opcode == _MAXS:
        for index in range(count):
            out[index] = larger(a[index], b[index])
    elif opcode == _MIN or opcode == _MINS:
        for index in range(count):
            out[index] = smaller(a[index], b[index])
    elif opcode == _SELECT:
        for index in range(count):
            out[index] = a[index] if b[index] != 0 else value
    elif opcode == _LIMIT:
        for index in range(count):
            out[index] = a[index] if index < limit else value
    elif opcode == _CAST:
        for index in range(count):
            out[index] = a[index]
    elif opcode == _ABS:
        for index in range(count):
            out[index] = abs(a[index])
    else:
        return False
    return True


def _limit(a: Floats, command: Command) -> Floats:
    rows, columns = np.indices(a.shape)
    first, step = int(command.values[4]), int(command.values[5])
    return np.where(columns < first + rows * step, a, command.constant)


BINARY: dict[str, Callable[[Floats, Floats, np.float32], Floats]] = {
    "vadd": lambda a, b, value: a + b,
    "vsub": lambda a, b, value: a - b,
    "vmul": lambda a, b, value: a * b,
    "vdiv": lambda a, b, value: a / b,
    "vmax": lambda a, b, value: larger_plain(a, b),
    "vmin": lambda a, b, value: smaller_plain(a, b),
    "vselect": lambda a, b, value: np.where(b != 0, a, value),
}
UNARY: dict[str, Callable[[Floats, Command], Floats]] = {
    "vlimit": _limit,
    "vadds": lambda a, command: a + command.constant,
    "vmuls": lambda a, command: a * command.constant,
    "vmaxs": lambda a, command: larger_plain(a, np.full_like(a, command.constant)),
    "vmins": lambda a, command: smaller_plain(a, np.full_like(a, command.constant)),
    "vcast": lambda a, command: a,
    "vabs": lambda a, command: np.abs(a),
}
