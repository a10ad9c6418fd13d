"""Matrix multiplication into an accumulator bank.

bank[i, j] (+)= sum over ascending k of a[i, k] * b[j, k]: one fp32 rounding per product (none is needed for the 8- and
16-bit types, unless their product is subnormal or too large) and one per addition; int8 in wrapping int32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isa import columns as col
from isa import dtypes
from isa.table import BY_NAME
from simulator.jit import kernel
from simulator.meaning import codes
from simulator.meaning.convert import load
from simulator.meaning.plain import Command, MeaningError
from simulator.meaning.tables import K_CHUNK

_MML = BY_NAME["mml"].opcode
_INT8, _INT32 = dtypes.INT8.code, dtypes.INT32.code


@kernel
def run(fields, values, a_address, b_address, local, banks, tables):
    """Execute `mml`; operands are widened K_CHUNK elements of K at a time, laid out [k][row] for vector code."""
    if fields[col.OPCODE] != _MML:
        return codes.NO_MEANING
    dtype, rows, columns = fields[col.D1], values[6], values[7]
    if dtype == _INT32:
        return codes.UNSUPPORTED_DTYPE
    size = tables.element_bytes[dtype]
    depth = values[0] * tables.block_k_bytes[0] // size
    a, b, out = tables.block_a, tables.block_b, tables.block_out
    bank, is_integer = banks[fields[col.BANK]], dtype == _INT8
    _take(bank, rows, columns, fields[col.MODE] == 1, out)
    for start in range(0, depth, K_CHUNK):
        count = min(K_CHUNK, depth - start)
        _widen(local, a_address + start * size, values[3], dtype, rows, count, tables, a)
        _widen(local, b_address + start * size, values[5], dtype, columns, count, tables, b)
        if is_integer:
            _multiply_integers(a, b, out.view(np.int32), rows, columns, count)
        else:
            _multiply(a, b, out, rows, columns, count)
    for row in range(rows):
        for column in range(columns):
            bank[row, column] = out[row * columns + column]
    return codes.OK


@kernel
def _take(bank, rows, columns, is_added, out):
    """Start from the bank (add) or from zero (set); fp32 zero and int32 zero have the same bits."""
    for row in range(rows):
        for column in range(columns):
            out[row * columns + column] = bank[row, column] if is_added else np.float32(0.0)


@kernel
def _widen(local, address, pitch, dtype, rows, count, tables, out):
    """out[k * rows + row] = element k of a row."""
    line = tables.row[0]
    for row in range(rows):
        load(local, address + row * pitch, dtype, count, tables, line)
        for k in range(count):
            out[k * rows + row] = line[k]


@kernel
def _multiply(a, b, out, rows, columns, depth):
    for k in range(depth):
        for row in range(rows):
            factor = a[k * rows + row]
            for column in range(columns):
                out[row * columns + column] += factor * b[k * columns + column]


@kernel
def _multiply_integers(a, b, out, rows, columns, depth):
    """As `_multiply`; `a` and `b` hold whole numbers as fp32, `out` int32."""
    for k in range(depth):
        for row in range(rows):
            factor = np.int32(a[k * rows + row])
            for column in range(columns):
                out[row * columns + column] += np.int32(factor * np.int32(b[k * columns + column]))


def _mml(command: Command) -> None:
    code = command.dtype(1)
    if code == _INT32:
        raise MeaningError(codes.UNSUPPORTED_DTYPE)
    depth = int(command.values[0]) * command.block_k_bytes // dtypes.BY_CODE[code].bytes
    a = command.read(1, command.rows, depth)
    b = command.read_like(2, code, command.columns, depth)
    bank = command.bank.view(np.int32) if code == _INT8 else command.bank
    total = bank.copy() if command.word == "add" else np.zeros_like(bank)
    for k in range(depth):
        total += (a[:, k, None] * b[None, :, k]).astype(total.dtype)
    bank[...] = total


PLAIN: dict[str, Callable[[Command], None]] = {"mml": _mml}
