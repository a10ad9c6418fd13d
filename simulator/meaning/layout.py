"""Layout: transpose, copy and fill in local memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isa import columns as col
from isa.dtypes import BY_CODE
from isa.table import BY_NAME
from simulator.jit import inner_kernel
from simulator.meaning import codes
from simulator.meaning.plain import Command
from simulator.meaning.tables import Bytes, Integers, Scalar
from simulator.meaning.transfer import copy_rows

_TRANSPOSE, _COPY, FILL = (BY_NAME[name].opcode for name in ("transpose", "copy", "fill"))


@inner_kernel
def run(
    fields: Integers, values: Integers, out_address: Scalar, a_address: Scalar, local: Bytes, element_bytes: Integers
) -> Scalar:
    """Execute a layout command."""
    opcode, rows, columns = fields[col.OPCODE], values[6], values[7]
    if opcode == _COPY:
        copy_rows(local, out_address, values[1], local, a_address, values[3], rows, columns)
    elif opcode == _TRANSPOSE:
        size = element_bytes[fields[col.D1]]
        _transpose(local, out_address, values[1], a_address, values[3], rows, columns, size)
    else:
        return codes.NO_MEANING
    return codes.OK


@inner_kernel
def _transpose(
    local: Bytes,
    out_address: Scalar,
    out_pitch: Scalar,
    a_address: Scalar,
    a_pitch: Scalar,
    rows: Scalar,
    columns: Scalar,
    size: Scalar,
) -> None:
    """out[column, row] = a[row, column] for elements of `size` bytes."""
    for column in range(columns):
        for row in range(rows):
            source = a_address + row * a_pitch + column * size
            target = out_address + column * out_pitch + row * size
            for byte in range(size):
                local[np.uint64(target + byte)] = local[np.uint64(source + byte)]


def _transpose_plain(command: Command) -> None:
    rows, columns, size = command.rows, command.columns, BY_CODE[command.dtype(1)].bytes
    a = command.view(1, rows, columns * size).reshape(rows, columns, size)
    command.view(0, columns, rows * size)[...] = a.transpose(1, 0, 2).reshape(columns, rows * size)


def _copy_plain(command: Command) -> None:
    command.view(0, command.rows, command.columns)[...] = command.view(1, command.rows, command.columns)


def _fill_plain(command: Command) -> None:
    command.write(np.full((command.rows, command.columns), command.constant))


PLAIN: dict[str, Callable[[Command], None]] = {
    "transpose": _transpose_plain,
    "copy": _copy_plain,
    "fill": _fill_plain,
}
