"""Matrix multiplication into an accumulator bank.

bank[i, j] (+)= sum over ascending k of a[i, k] * b[j, k]: one fp32 rounding per product (none is needed for the 8- and
16-bit types, unless their product is subnormal or too large) and one per addition; int8 in wrapping int32. Where b is
compressed 2:4 (`isa.sparsity`), the sum is over the k that it keeps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isa import columns as col
from isa import dtypes, sparsity
from isa.table import BY_NAME
from simulator.jit import inner_kernel
from simulator.meaning import codes, tiles
from simulator.meaning.convert import load_block
from simulator.meaning.plain import Command, MeaningError
from simulator.meaning.tables import K_CHUNK, Array, Bytes, Floats, Integers, Scalar, Tables

_MML, _VMML, _SPARSE = (BY_NAME[name].opcode for name in ("mml", "vmml", "mml_sparse"))
_SET = 0
_TILED_ROWS, _FEW_ROWS = 12, 2
"""Up to so many rows of a, transposing b once costs more than doing so for each row in registers, or scalar code."""
_INT8, _INT32, _BF16, _FP32 = (dtype.code for dtype in (dtypes.INT8, dtypes.INT32, dtypes.BF16, dtypes.FP32))
_TILED, _EDGE = tiles.DTYPES, tiles.EDGE
_add_fp32, _add_bf16, _add_fp16 = tiles.add_fp32, tiles.add_bf16, tiles.add_fp16


@inner_kernel
def run(
    fields: Integers, values: Integers, depth: Scalar, banks: Floats, local: Bytes, b_address: Scalar, tables: Tables
) -> Scalar:
    """Execute a product of tables.a (rows x depth) and of b (columns x depth), which is still in local memory."""
    opcode, dtype = fields[col.OPCODE], fields[col.D1]
    if opcode not in (_MML, _VMML, _SPARSE):
        return codes.NO_MEANING
    if opcode != _VMML and dtype == _INT32:
        return codes.UNSUPPORTED_DTYPE
    rows, columns, pitch, bank = values[6], values[7], values[5], banks[fields[col.BANK]]
    places = b_address + depth // 2 * tables.element_bytes[dtype]
    if opcode == _SPARSE and not _places_ascend(local, places, pitch, columns, depth):
        return codes.NOT_ASCENDING
    if fields[col.MODE] == _SET:
        _clear(bank, rows, columns)
    if opcode == _SPARSE:
        load_block(local, b_address, pitch, columns, depth // 2, 0, dtype, tables.bytes_as_float, tables.b)
        _transpose(tables.a, 0, depth, rows, depth, tables.out)
        _multiply_sparse(dtype, local, places, pitch, bank, rows, columns, depth, tables)
        return codes.OK
    if rows <= _TILED_ROWS and dtype in _TILED and columns % _EDGE == 0 and depth % _EDGE == 0:
        _multiply_tiles(tables.a, local, b_address, pitch, dtype, bank, rows, columns, depth)
        return codes.OK
    load_block(local, b_address, pitch, columns, depth, 0, dtype, tables.bytes_as_float, tables.b)
    if opcode == _MML and dtype == _INT8:
        _multiply_integers(tables.a, tables.b, bank.view(np.int32), rows, columns, depth)
    elif rows <= _FEW_ROWS:
        _multiply_few(tables.a, tables.b, bank, rows, columns, depth)
    else:
        _multiply_many(bank, rows, columns, depth, tables)
    return codes.OK


@inner_kernel
def _multiply_many(bank: Array, rows: Scalar, columns: Scalar, depth: Scalar, tables: Tables) -> None:
    """Multiply tables.a and tables.b, K_CHUNK elements of K at a time with K outermost."""
    for start in range(0, depth, K_CHUNK):
        count = min(K_CHUNK, depth - start)
        _transpose(tables.a, start, depth, rows, count, tables.block_a)
        _transpose(tables.b, start, depth, columns, count, tables.block_b)
        _multiply(tables.block_a, tables.block_b, bank, rows, columns, count)


@inner_kernel
def _multiply_tiles(
    a: Floats,
    local: Bytes,
    address: Scalar,
    pitch: Scalar,
    dtype: Scalar,
    bank: Array,
    rows: Scalar,
    columns: Scalar,
    depth: Scalar,
) -> None:
    """As `_multiply_few`, of b as it lies in local memory: to widen it elsewhere costs as much as to multiply it."""
    size = 4 if dtype == _FP32 else 2
    for row in range(rows):
        sums = bank[row]
        for k in range(0, depth, _EDGE):
            x = np.uint64(row * depth + k)
            for column in range(0, columns, _EDGE):
                first = np.uint64(address + column * pitch + k * size)
                if dtype == _FP32:
                    _add_fp32(sums, np.uint64(column), a, x, local, first, np.uint64(pitch))
                elif dtype == _BF16:
                    _add_bf16(sums, np.uint64(column), a, x, local, first, np.uint64(pitch))
                else:
                    _add_fp16(sums, np.uint64(column), a, x, local, first, np.uint64(pitch))


@inner_kernel
def _clear(bank: Array, rows: Scalar, columns: Scalar) -> None:
    for row in range(rows):
        for column in range(columns):
            bank[row, column] = 0.0


@inner_kernel
def _transpose(source: Floats, start: Scalar, depth: Scalar, rows: Scalar, count: Scalar, out: Floats) -> None:
    """out[k][row] = source[row][start + k] for count k: vector code runs over rows."""
    for row in range(rows):
        for k in range(count):
            out[np.uint64(k * rows + row)] = source[np.uint64(row * depth + start + k)]


@inner_kernel
def _multiply_few(a: Floats, b: Floats, bank: Array, rows: Scalar, columns: Scalar, depth: Scalar) -> None:
    """As `_multiply`, of operands as they lie in memory: eight sums at a time hide the latency of each addition."""
    length = np.uint64(depth)
    for row in range(rows):
        x = np.uint64(row * depth)
        for column in range(0, columns - 7, 8):
            first = np.uint64(column * depth)
            s0, s1, s2, s3 = bank[row, column], bank[row, column + 1], bank[row, column + 2], bank[row, column + 3]
            s4, s5, s6, s7 = bank[row, column + 4], bank[row, column + 5], bank[row, column + 6], bank[row, column + 7]
            for k in range(length):
                factor, y = a[x + k], first + k
                s0 += factor * b[y]
                s1 += factor * b[y + length]
                s2 += factor * b[y + np.uint64(2) * length]
                s3 += factor * b[y + np.uint64(3) * length]
                s4 += factor * b[y + np.uint64(4) * length]
                s5 += factor * b[y + np.uint64(5) * length]
                s6 += factor * b[y + np.uint64(6) * length]
                s7 += factor * b[y + np.uint64(7) * length]
            bank[row, column], bank[row, column + 1], bank[row, column + 2], bank[row, column + 3] = s0, s1, s2, s3
            bank[row, column + 4], bank[row, column + 5], bank[row, column + 6], bank[row, column + 7] = s4, s5, s6, s7
        for column in range(columns - columns % 8, columns):
            first, total = np.uint64(column * depth), bank[row, column]
            for k in range(length):
                total += a[x + k] * b[first + k]
            bank[row, column] = total


@inner_kernel
def _multiply_integers(a: Floats, b: Floats, bank: Array, rows: Scalar, columns: Scalar, depth: Scalar) -> None:
    """As `_multiply_few`, of whole numbers: sums that wrap are the same in any order, so vector code may run over k."""
    length = np.uint64(depth)
    for row in range(rows):
        x = np.uint64(row * depth)
        for column in range(columns):
            y, total = np.uint64(column * depth), bank[row, column]
            for k in range(length):
                total = np.int32(total + np.int32(np.int32(a[x + k]) * np.int32(b[y + k])))
            bank[row, column] = total


@inner_kernel
def _multiply(a: Floats, b: Floats, bank: Array, rows: Scalar, columns: Scalar, depth: Scalar) -> None:
    for k in range(depth):
        for row in range(rows):
            factor = a[k * rows + row]
            for column in range(columns):
                bank[row, column] += factor * b[np.uint64(k * columns + column)]


@inner_kernel
def _places_ascend(local: Bytes, places: Scalar, pitch: Scalar, columns: Scalar, depth: Scalar) -> Scalar:
    """Return whether the two places of each group of a compressed b ascend; column 0's begin at byte `places`."""
    for column in range(columns):
        for group in range(depth // 4):
            code = local[np.uint64(places + column * pitch + (group >> 1))] >> (group & 1) * 4
            if code & 3 >= code >> 2 & 3:
                return False
    return True


@inner_kernel
def _multiply_sparse(
    dtype: Scalar,
    local: Bytes,
    places: Scalar,
    pitch: Scalar,
    bank: Array,
    rows: Scalar,
    columns: Scalar,
    depth: Scalar,
    tables: Tables,
) -> None:
    """Multiply a, in tables.out with K outermost, and the kept elements of b in tables.b."""
    a, b, sums = tables.out, tables.b, tables.block_a
    for column in range(columns):
        start, kept = places + column * pitch, column * (depth // 2)
        if dtype == _INT8:
            _add_kept_integers(
                a, b, local, start, kept, bank.view(np.int32)[:, column], sums.view(np.int32), rows, depth
            )
        else:
            _add_kept(a, b, local, start, kept, bank[:, column], sums, rows, depth)


@inner_kernel
def _kept_index(local: Bytes, start: Scalar, index: Scalar) -> Scalar:
    """Return which element of a dense row its kept element `index` is; places begin at byte `start`."""
    return (index >> 1) * 4 + (local[np.uint64(start + (index >> 2))] >> (index & 3) * 2 & 3)


@inner_kernel
def _add_kept(
    a: Floats,
    b: Floats,
    local: Bytes,
    start: Scalar,
    kept: Scalar,
    column: Array,
    sums: Array,
    rows: Scalar,
    depth: Scalar,
) -> None:
    """Add the products of one row of b to a column of the bank; vector code runs over rows of a."""
    for row in range(rows):
        sums[np.uint64(row)] = column[row]
    for index in range(depth // 2):
        first, factor = _kept_index(local, start, index) * rows, b[np.uint64(kept + index)]
        for row in range(rows):
            sums[np.uint64(row)] += a[np.uint64(first + row)] * factor
    for row in range(rows):
        column[row] = sums[np.uint64(row)]


@inner_kernel
def _add_kept_integers(
    a: Floats,
    b: Floats,
    local: Bytes,
    start: Scalar,
    kept: Scalar,
    column: Array,
    sums: Array,
    rows: Scalar,
    depth: Scalar,
) -> None:
    """As `_add_kept`, of whole numbers."""
    for row in range(rows):
        sums[np.uint64(row)] = column[row]
    for index in range(depth // 2):
        first, factor = _kept_index(local, start, index) * rows, np.int32(b[np.uint64(kept + index)])
        for row in range(rows):
            product = np.int32(np.int32(a[np.uint64(first + row)]) * factor)
            sums[np.uint64(row)] = np.int32(sums[np.uint64(row)] + product)
    for row in range(rows):
        column[row] = sums[np.uint64(row)]


def _mml(command: Command) -> None:
    _add_products(command, _typed_bank(command))


def _typed_bank(command: Command) -> Array:
    """Return the bank as the matrix engine sees it for the command's element type."""
    if command.dtype(1) == _INT32:
        raise MeaningError(codes.UNSUPPORTED_DTYPE)
    return command.bank.view(np.int32) if command.dtype(1) == _INT8 else command.bank


def _mml_sparse(command: Command) -> None:
    bank, dtype = _typed_bank(command), dtypes.BY_CODE[command.dtype(1)]
    depth = int(command.values[0]) * command.block_k_bytes // dtype.bytes
    rows = command.view(2, command.columns, sparsity.compressed_row_bytes(depth, dtype))
    indices = sparsity.kept_indices(rows, dtype, depth)
    if (indices[:, ::2] >= indices[:, 1::2]).any():
        raise MeaningError(codes.NOT_ASCENDING)
    a, b = command.read(1, command.rows, depth), command.read_like(2, dtype.code, command.columns, depth // 2)
    total = bank.copy() if command.word == "add" else np.zeros_like(bank)
    for index in range(depth // 2):
        total += (a[:, indices[:, index]] * b[:, index]).astype(total.dtype)
    bank[...] = total


def _add_products(command: Command, bank: Array) -> None:
    code = command.dtype(1)
    depth = int(command.values[0]) * command.block_k_bytes // dtypes.BY_CODE[code].bytes
    a = command.read(1, command.rows, depth)
    b = command.read_like(2, code, command.columns, depth)
    total = bank.copy() if command.word == "add" else np.zeros_like(bank)
    for k in range(depth):
        total += (a[:, k, None] * b[None, :, k]).astype(total.dtype)
    bank[...] = total


PLAIN: dict[str, Callable[[Command], None]] = {
    "mml": _mml,
    "mml_sparse": _mml_sparse,
    "vmml": lambda command: _add_products(command, command.bank),
}
