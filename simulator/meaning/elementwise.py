"""Element-wise arithmetic in fp32: every result is one operation, rounded once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isa.table import BY_NAME
from simulator.jit import inner_kernel
from simulator.meaning import codes
from simulator.meaning.order import larger, larger_plain, smaller, smaller_plain
from simulator.meaning.plain import Command, of_a, of_a_and_b, of_a_and_constant
from simulator.meaning.tables import Floats, Integers, Scalar

LIMIT = BY_NAME["vlimit"].opcode
_ADD, _SUB, _MUL, _DIV, _MAX, _MIN, _SELECT = (
    BY_NAME[name].opcode for name in ("vadd", "vsub", "vmul", "vdiv", "vmax", "vmin", "vselect")
)
_SUB_GROUP, _MUL_GROUP = BY_NAME["vsubg"].opcode, BY_NAME["vmulg"].opcode
_LESS, _EQUAL, _SPREAD, _FLOOR, _NEAREST = (
    BY_NAME[name].opcode for name in ("vless", "vequal", "vspread", "vfloor", "vround")
)
_ADDS, _MULS, _MAXS, _MINS = (BY_NAME[name].opcode for name in ("vadds", "vmuls", "vmaxs", "vmins"))
_CAST, _ABS = BY_NAME["vcast"].opcode, BY_NAME["vabs"].opcode


@inner_kernel
def run(opcode: Scalar, a: Floats, b: Floats, value: Scalar, out: Floats, count: Scalar) -> Scalar:
    """out[0:count] = operation(a, b, value); `b` holds the value where the instruction has no operand b."""
    if opcode in (_ADD, _ADDS):
        for index in range(count):
            out[index] = a[index] + b[index]
    elif opcode in (_SUB, _SUB_GROUP):
        for index in range(count):
            out[index] = a[index] - b[index]
    elif opcode in (_MUL, _MULS, _MUL_GROUP):
        for index in range(count):
            out[index] = a[index] * b[index]
    elif opcode == _DIV:
        for index in range(count):
            out[index] = a[index] / b[index]
    elif opcode in (_MAX, _MAXS):
        for index in range(count):
            out[index] = larger(a[index], b[index])
    elif opcode in (_MIN, _MINS):
        for index in range(count):
            out[index] = smaller(a[index], b[index])
    elif opcode == _SELECT:
        for index in range(count):
            out[index] = a[index] if b[index] != 0 else value
    elif opcode == _LESS:
        for index in range(count):
            out[index] = np.float32(1.0) if a[index] < b[index] else np.float32(0.0)
    elif opcode == _EQUAL:
        for index in range(count):
            out[index] = np.float32(1.0) if a[index] == b[index] else np.float32(0.0)
    elif opcode == _FLOOR:
        for index in range(count):
            out[index] = np.floor(a[index])
    elif opcode == _NEAREST:
        for index in range(count):
            out[index] = np.rint(a[index])
    elif opcode in (_CAST, _SPREAD):
        for index in range(count):
            out[index] = a[index]
    elif opcode == _ABS:
        for index in range(count):
            out[index] = abs(a[index])
    else:
        return codes.NO_MEANING
    return codes.OK


@inner_kernel
def spread_groups(b: Floats, rows: Scalar, columns: Scalar, group: Scalar) -> None:
    """Repeat each of the rows x ceil(columns / group) elements for its columns, in place and so from the end."""
    groups = (columns + group - 1) // group
    for row in range(rows - 1, -1, -1):
        for column in range(columns - 1, -1, -1):
            b[row * columns + column] = b[row * groups + column // group]


@inner_kernel
def limit(values: Integers, a: Floats, value: Scalar, out: Floats) -> None:
    """`vlimit`: row i keeps its first r4 + i * r5 elements."""
    rows, columns = values[6], values[7]
    for row in range(rows):
        kept = values[4] + row * values[5]
        for column in range(columns):
            out[row * columns + column] = a[row * columns + column] if column < kept else value


def _by_groups(function: Callable[[Floats, Floats], Floats]) -> Callable[[Command], None]:
    def execute(command: Command) -> None:
        command.write(function(command.read(1, command.rows, command.columns), command.read_groups(2)))

    return execute


def _limit_plain(command: Command) -> None:
    rows, columns = np.indices((command.rows, command.columns))
    first, step = int(command.values[4]), int(command.values[5])
    a = command.read(1, command.rows, command.columns)
    command.write(np.where(columns < first + rows * step, a, command.constant))


PLAIN: dict[str, Callable[[Command], None]] = {
    "vadd": of_a_and_b(lambda a, b: a + b),
    "vsub": of_a_and_b(lambda a, b: a - b),
    "vmul": of_a_and_b(lambda a, b: a * b),
    "vdiv": of_a_and_b(lambda a, b: a / b),
    "vmax": of_a_and_b(larger_plain),
    "vmin": of_a_and_b(smaller_plain),
    "vselect": lambda command: of_a_and_b(lambda a, b: np.where(b != 0, a, command.constant))(command),
    "vlimit": _limit_plain,
    "vsubg": _by_groups(lambda a, b: a - b),
    "vmulg": _by_groups(lambda a, b: a * b),
    "vless": of_a_and_b(lambda a, b: (a < b).astype(np.float32)),
    "vequal": of_a_and_b(lambda a, b: (a == b).astype(np.float32)),
    "vspread": lambda command: command.write(command.read_spread(1)),
    "vfloor": of_a(np.floor),
    "vround": of_a(np.rint),
    "vadds": of_a_and_constant(lambda a, constant: a + constant),
    "vmuls": of_a_and_constant(lambda a, constant: a * constant),
    "vmaxs": of_a_and_constant(larger_plain),
    "vmins": of_a_and_constant(smaller_plain),
    "vcast": of_a(lambda a: a),
    "vabs": of_a(np.abs),
}
