"""A quantized matrix in any exporter's form -> its integers, scales and zero points as one kind of constants.

Nothing is read but scalars: a constant under another shape or type keeps its bytes, in a side file too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from compiler.dialects.rewrite import Rewriter, integer
from compiler.graph import NIBBLES, Constant, Operation, Value, WeightFormat, dtype_of, unpack_nibbles
from compiler.shape_inference import int_shape
from isa.errors import ModelError, UnsupportedError

BITS = {"int4": 4, "uint4": 4, "int8": 8, "uint8": 8}
"""Element types of weights."""


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """Names of constants: integers [a, b], scales with one element per block of K, zero points alike or None."""

    integers: str
    scales: str
    zero_points: str | None
    format: WeightFormat


def from_blocks(rewriter: Rewriter, operation: Operation, names: tuple[str, str, str | None]) -> QuantizedWeight:
    """Return the weight [N, K] of an operation with attributes bits and block_size: bytes, scales, zero points."""
    integers, scales, zero_points = names
    bits, block = integer(operation, "bits", 4), integer(operation, "block_size", 0)
    if bits not in (4, 8) or block < 1:
        what = f"{bits}-bit weights in blocks of {block}"
        raise UnsupportedError(what, where=f"node {operation.name!r}", help="quantize to 4 or 8 bits in blocks")
    _check_constants(rewriter, operation, names)
    rows = int_shape(rewriter.constants[integers].value.shape)[0]
    codes = "uint4" if bits == 4 else "uint8"
    blocks = math.prod(int_shape(rewriter.constants[scales].value.shape)) // rows
    _check_finite(rewriter, operation, scales)
    return QuantizedWeight(
        _as_codes(rewriter, integers, codes, rows),
        _reshaped(rewriter, scales, (rows, blocks)),
        _as_codes(rewriter, zero_points, codes, rows) if zero_points else None,
        WeightFormat(bits, block),
    )


def from_parts(
    rewriter: Rewriter, operation: Operation, names: tuple[str, str, str | None], k_axis: int
) -> QuantizedWeight:
    """Return the matrix of a DequantizeLinear or the like, whose axis `k_axis` is K (of a table: a row)."""
    integers, scales, zero_points = names
    _check_constants(rewriter, operation, names)
    value = rewriter.constants[integers].value
    if value.dtype not in BITS or len(value.shape) != 2:
        what = f"a weight {value.dtype}[{', '.join(map(str, value.shape))}]"
        help = f"quantize matrices to {', '.join(sorted(BITS))}"
        raise UnsupportedError(what, where=f"node {operation.name!r}", help=help)
    _check_finite(rewriter, operation, scales)
    shape = _scales_shape(rewriter, operation, scales, int_shape(value.shape), k_axis)
    block = integer(operation, "block_size", 0) if shape[k_axis] > 1 else None
    return QuantizedWeight(
        integers,
        _reshaped(rewriter, scales, shape),
        _zero_points(rewriter, zero_points, value.dtype, shape),
        WeightFormat(BITS[value.dtype], block),
    )


def _check_constants(rewriter: Rewriter, operation: Operation, names: tuple[str | None, ...]) -> None:
    computed = [name for name in names if name and name not in rewriter.constants]
    if computed:
        what = f"{computed[0]!r} of a quantized weight is computed"
        raise UnsupportedError(what, where=f"node {operation.name!r}", help="keep integers and scales in the file")


def _check_finite(rewriter: Rewriter, operation: Operation, scales: str) -> None:
    source = rewriter.constants[scales].source
    if isinstance(source, np.ndarray) and not np.isfinite(source.astype(np.float32)).all():
        what = f"the scale {scales!r} is infinite or no number"
        help = "quantize again; a mask with -inf must not be quantized"
        raise ModelError(what, where=f"node {operation.name!r}", help=help)


def _scales_shape(
    rewriter: Rewriter, operation: Operation, scales: str, matrix: tuple[int, ...], k_axis: int
) -> tuple[int, int]:
    """Return the shape of the scales with as many axes as the matrix; one scale for all is refused nowhere."""
    shape = int_shape(rewriter.constants[scales].value.shape)
    axis = integer(operation, "axis", 1) % 2
    per_output = (1, matrix[1]) if k_axis == 0 else (matrix[0], 1)
    if math.prod(shape) == 1 or (len(shape) == 1 and axis != k_axis):
        return per_output
    if len(shape) == 2 and (axis == k_axis or shape == per_output):
        return shape[0], shape[1]
    what = f"scales {list(shape)} along axis {axis} for a weight {list(matrix)}"
    help = "use a scale per tensor, per output, or per block of K"
    raise UnsupportedError(what, where=f"node {operation.name!r}", help=help)


def _zero_points(rewriter: Rewriter, name: str | None, dtype: str, shape: tuple[int, int]) -> str | None:
    """Return the constant of zero points, None if all are in the middle of the codes."""
    middle = 1 << (BITS[dtype] - 1) if dtype.startswith("u") else 0
    if name is None:
        return None if middle == 0 else rewriter.constant("zero_points", np.zeros(shape, dtype_of(dtype)))
    array = rewriter.array(name)
    if array is not None and (array.astype(np.int64) == middle).all():
        return None
    return _reshaped(rewriter, name, shape)


def _reshaped(rewriter: Rewriter, name: str, shape: tuple[int, int]) -> str:
    """Return a constant with the same bytes under another shape; a single element is repeated."""
    constant = rewriter.constants[name]
    if constant.value.shape == shape:
        return name
    array = rewriter.array(name)
    if math.prod(int_shape(constant.value.shape)) != math.prod(shape) and array is not None:
        return rewriter.constant(f"{name}.repeated", np.full(shape, array.reshape(-1)[0]))
    source = constant.source.reshape(shape) if isinstance(constant.source, np.ndarray) else constant.source
    return _added(
        rewriter, f"{name}.as_{shape[0]}x{shape[1]}", Constant(Value("", shape, constant.value.dtype), source)
    )


def _as_codes(rewriter: Rewriter, name: str, dtype: str, rows: int) -> str:
    """Return bytes as rows of unsigned codes, two per byte if they have 4 bits."""
    constant = rewriter.constants[name]
    source = constant.source
    if constant.value.dtype not in ("uint8", dtype):
        what = f"{name!r} has the element type {constant.value.dtype}"
        raise UnsupportedError(what, where="weight", help="zero points and codes must be unsigned integers")
    count = math.prod(int_shape(constant.value.shape))
    if dtype in NIBBLES and constant.value.dtype == "uint8":
        count *= 2
        source = unpack_nibbles(source.reshape(-1), dtype) if isinstance(source, np.ndarray) else source
    shape = (rows, count // rows)
    source = source.reshape(shape) if isinstance(source, np.ndarray) else source
    return _added(rewriter, f"{name}.codes", Constant(Value("", shape, dtype), source))


def _added(rewriter: Rewriter, name: str, constant: Constant) -> str:
    """Add a constant under a name that says how it was derived, so that equal ones are one."""
    known = rewriter.constants.get(name)
    if known is None:
        rewriter.constants[name] = Constant(Value(name, constant.value.shape, constant.value.dtype), constant.source)
    return name


def dequantized(rewriter: Rewriter, operation: Operation) -> np.ndarray | None:
    """Return the floats of a DequantizeLinear of constants that are in memory or small; None otherwise."""
    arrays = [_loaded(rewriter, name) if name else None for name in operation.inputs]
    integers, scale = arrays[0], arrays[1]
    zero = arrays[2] if len(arrays) > 2 else np.zeros((), np.float32)
    if integers is None or scale is None or zero is None:
        return None
    _check_finite(rewriter, operation, operation.inputs[1] or "")
    axis, block = integer(operation, "axis", 1), integer(operation, "block_size", 0)

    def spread(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float32)
        if block:
            return np.repeat(array, block, axis).take(np.arange(integers.shape[axis]), axis)
        if array.size == 1 or array.ndim != 1:
            return array.reshape(()) if array.size == 1 else array
        return array.reshape([-1 if place == axis % integers.ndim else 1 for place in range(integers.ndim)])

    floats: np.ndarray = (integers.astype(np.float32) - spread(zero)) * spread(scale)
    return floats


def _loaded(rewriter: Rewriter, name: str) -> np.ndarray | None:
    constant = rewriter.constants.get(name)
    if constant is None or constant.source is None:
        return None
    return constant.source if isinstance(constant.source, np.ndarray) else rewriter.array(name)
