"""One tile of a matrix product, 16 columns by 16 elements of K, as explicit vector code for kernels.

Each sum adds in ascending k, so a vector must hold columns; but memory has the elements of K side by side. Rows of 16
elements are therefore read as they lie, widened to fp32 and transposed in registers, which compilers do not find in
loops. Works on whole tiles, and checks neither sizes nor ranges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import llvmlite.ir
import numba.extending

from isa import dtypes

ir: Any = llvmlite.ir
binding: Any = llvmlite.binding
extending: Any = numba.extending
types: Any = numba.types
"""Their annotations cover less than is used here."""
Value = Any
EDGE = 16
_FLOAT, _HALF, _SHORT, _WORD, _LONG = ir.FloatType(), ir.HalfType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_WIDENS_HALVES = bool(binding.get_host_cpu_features().get("f16c")) or "aarch64" in binding.get_process_triple()
"""Otherwise there is no instruction for it, and calls of a library that need not be there would take its place."""
DTYPES = (dtypes.BF16.code, dtypes.FP32.code) + (dtypes.FP16.code,) * _WIDENS_HALVES


def _vector(element: Any) -> Any:
    return ir.VectorType(element, EDGE)


def _indices(numbers: list[int]) -> Value:
    return ir.Constant(_vector(_WORD), numbers)


def _load(builder: Any, pointer: Value, element: Any, alignment: int) -> Value:
    return builder.load(builder.bitcast(pointer, _vector(element).as_pointer()), align=alignment)


def _load_fp32(builder: Any, pointer: Value) -> Value:
    return _load(builder, pointer, _FLOAT, 4)


def _load_fp16(builder: Any, pointer: Value) -> Value:
    return builder.fpext(_load(builder, pointer, _HALF, 2), _vector(_FLOAT))


def _load_bf16(builder: Any, pointer: Value) -> Value:
    words = builder.zext(_load(builder, pointer, _SHORT, 2), _vector(_WORD))
    return builder.bitcast(builder.shl(words, _indices([16] * EDGE)), _vector(_FLOAT))


def _transpose(builder: Any, rows: list[Value]) -> list[Value]:
    """Return the columns: shuffling a pack of cards perfectly, as often as it can be halved, transposes it."""
    half = EDGE // 2
    masks = [_indices([start + place // 2 + place % 2 * EDGE for place in range(EDGE)]) for start in (0, half)]
    for _ in range(EDGE.bit_length() - 1):
        pairs = zip(rows[:half], rows[half:], strict=True)
        rows = [builder.shuffle_vector(*pair, mask) for pair in pairs for mask in masks]
    return rows


def _add_products(builder: Any, total: Value, factors: Value, columns: list[Value]) -> Value:
    """Add factors[k] * columns[k] in ascending k, each product and each sum rounded once."""
    nothing = ir.Constant(_vector(_FLOAT), ir.Undefined)
    for k, column in enumerate(columns):
        factor = builder.load(builder.gep(factors, [_LONG(k)]))
        lanes = builder.shuffle_vector(builder.insert_element(nothing, factor, _WORD(0)), nothing, _indices([0] * EDGE))
        total = builder.fadd(total, builder.fmul(lanes, column))
    return total


def _tile_product(load: Callable[[Any, Value], Value]) -> Callable[..., None]:
    """Make a function for kernels.

    sums[s + j] += a[x + k] * b[j, k] for EDGE j and k; `sums` and `a` are fp32, and row j of b lies in `memory` at byte
    `address` + j * `pitch`. Indices are uint64.
    """

    @extending.intrinsic  # type: ignore[untyped-decorator]
    def add_tile(_: Any, sums: Any, s: Any, a: Any, x: Any, memory: Any, address: Any, pitch: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Value:
            def place(array: int) -> Value:
                made = context.make_array(signature.args[array])(context, builder, arguments[array])
                return builder.gep(made.data, [arguments[array + 1]])

            first = place(4)
            starts = [builder.gep(first, [builder.mul(arguments[6], _LONG(row))]) for row in range(EDGE)]
            columns = _transpose(builder, [load(builder, start) for start in starts])
            total = _add_products(builder, _load_fp32(builder, place(0)), place(2), columns)
            builder.store(total, builder.bitcast(place(0), _vector(_FLOAT).as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(sums, s, a, x, memory, address, pitch), build

    return add_tile  # type: ignore[no-any-return]


add_fp32, add_fp16, add_bf16 = _tile_product(_load_fp32), _tile_product(_load_fp16), _tile_product(_load_bf16)
