"""The NumPy meaning of the ONNX operators that compute sizes, masks, positions and tables.

Used to fold constants, and to run a mask or table subgraph on chosen sizes and inputs in order to learn what it
means. Floating point is never narrower than fp32 here: tables must not suffer from the fp16 of the file.
Sizes that depend on symbols are arrays of dtype `object` with `Affine` elements; questions that their bounds do not
decide raise `Undecided`. Unknown operators raise `KeyError` from `MEANINGS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from compiler.graph import OnnxAttributes, dtype_of
from compiler.symbols import Bounds, Undecided, floor_divide, is_equal, is_less, larger, smaller
from isa.affine import Affine, Dim

Arrays = Sequence["np.ndarray | None"]
Meaning = Callable[[OnnxAttributes, Arrays, Bounds], "tuple[np.ndarray, ...]"]

# What NumPy raises for arguments that do not fit an operator.
BAD_ARGUMENTS = (ValueError, IndexError, KeyError, TypeError, OverflowError, ArithmeticError, RuntimeError)

# TensorProto.DataType numbers of the ONNX specification.
ONNX_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16", 17: "float8_e4m3fn", 19: "float8_e5m2",
    18: "float8_e4m3fnuz", 20: "float8_e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4_e2m1fn",
}  # fmt: skip
FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")
NARROW_FLOAT_DTYPES = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn")
"""Floats that casts round to; on the chip they are held in the program's element type, which holds all of them."""


def evaluate(attributes: OnnxAttributes, arrays: Arrays, bounds: Bounds) -> tuple[np.ndarray, ...]:
    """Apply one operator; raises KeyError (no meaning here), Undecided, or one of BAD_ARGUMENTS."""
    widened = [_widen(array) if array is not None else None for array in arrays]
    with np.errstate(all="ignore"):
        results = MEANINGS[attributes.op_type](attributes, widened, bounds)
    return tuple(_settle(result) for result in results)


def axes_of(attributes: OnnxAttributes, arrays: Arrays, position: int = 1) -> tuple[int, ...] | None:
    """Return the axes of an operator that takes them as an input (new opsets) or as an attribute (old ones)."""
    if len(arrays) > position and arrays[position] is not None:
        return tuple(int(axis) for axis in np.atleast_1d(arrays[position]))  # type: ignore[arg-type]
    return attributes.integers("axes")


def checked_axis(axis: int, rank: int) -> int:
    """Return an axis counted from the first; raises ValueError if there is none of this number."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank} axes")
    return axis % rank


def _widen(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if str(array.dtype) in ("float16", "bfloat16") else array


def _settle(array: np.ndarray) -> np.ndarray:
    """Turn an object array without symbols back into integers."""
    array = np.asarray(array)
    if array.dtype == object and not any(isinstance(element, Affine) for element in array.flat):
        return array.astype(np.int64)
    return array


def _is_symbolic(arrays: Arrays) -> bool:
    return any(array is not None and array.dtype == object for array in arrays)


def _elementwise(concrete: Callable[..., np.ndarray], symbolic: Callable[..., object] | None = None) -> Meaning:
    def meaning(_: OnnxAttributes, arrays: Arrays, bounds: Bounds) -> tuple[np.ndarray, ...]:
        if not _is_symbolic(arrays):
            return (concrete(*arrays),)
        if symbolic is None:
            raise Undecided("an operation on a symbolic size")
        operation = functools.partial(symbolic, bounds=bounds)
        result = np.frompyfunc(operation, len(arrays), 1)(
            *(array.astype(object) for array in arrays if array is not None)
        )
        return (np.asarray(result, dtype=object),)

    return meaning


def _comparison(concrete: Callable[..., np.ndarray], symbolic: Callable[..., bool]) -> Meaning:
    meaning = _elementwise(concrete, symbolic)

    def comparison(attributes: OnnxAttributes, arrays: Arrays, bounds: Bounds) -> tuple[np.ndarray, ...]:
        (result,) = meaning(attributes, arrays, bounds)
        return (np.asarray(result).astype(bool),)

    return comparison


def _variadic(concrete: Callable[..., np.ndarray], symbolic: Callable[..., object]) -> Meaning:
    pair = _elementwise(concrete, symbolic)

    def meaning(attributes: OnnxAttributes, arrays: Arrays, bounds: Bounds) -> tuple[np.ndarray, ...]:
        given = [array for array in arrays if array is not None]
        return (functools.reduce(lambda left, right: pair(attributes, (left, right), bounds)[0], given),)

    return meaning


def _movement(function: Callable[[OnnxAttributes, list[np.ndarray]], np.ndarray]) -> Meaning:
    """An operator that only moves elements or needs concrete ones; works on any dtype."""

    def meaning(attributes: OnnxAttributes, arrays: Arrays, _: Bounds) -> tuple[np.ndarray, ...]:
        return (function(attributes, list(arrays)),)  # type: ignore[arg-type]

    return meaning


def _divide(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    if np.issubdtype(left.dtype, np.integer) and np.issubdtype(right.dtype, np.integer):
        return np.asarray(np.sign(left) * np.sign(right) * (np.abs(left) // np.abs(right)), left.dtype)
    return np.asarray(left / right)


def _mod(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    return np.asarray(np.fmod(*arrays) if attributes.get("fmod", 0) else np.mod(*arrays))


def _cast(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    name = ONNX_DTYPES[attributes.integer("to", 1)]
    if arrays[0].dtype == object:
        if name in ("int64", "int32"):
            return arrays[0]
        raise Undecided("a cast of a symbolic size")
    return arrays[0].astype("float32" if name in ("float16", "bfloat16") else dtype_of(name))


def _reshape(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    target = concrete_sizes(arrays[1])
    if not attributes.get("allowzero", 0):
        target = tuple(arrays[0].shape[axis] if size == 0 else size for axis, size in enumerate(target))
    return arrays[0].reshape(target)


def concrete_sizes(array: np.ndarray) -> tuple[int, ...]:
    """Return the elements of an array of plain integers; raises Undecided if one is symbolic."""
    if array.dtype == object:
        raise Undecided("a symbolic size")
    return tuple(int(element) for element in array.reshape(-1))


def _unsqueeze(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    return np.expand_dims(arrays[0], axes_of(attributes, arrays) or ())


def _squeeze(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    axes = axes_of(attributes, arrays)
    return np.squeeze(arrays[0], axes) if axes is not None else np.squeeze(arrays[0])


def _transpose(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    return np.transpose(arrays[0], attributes.integers("perm"))


def _expand(_: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    return np.broadcast_to(arrays[0], np.broadcast_shapes(arrays[0].shape, concrete_sizes(arrays[1])))


def _concat(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays, axis=attributes.integer("axis", 0))


def slice_arguments(arrays: Arrays, rank: int) -> list[tuple[int, Dim, Dim, int]]:
    """Return (axis, start, end, step) of each sliced axis; start and end may be symbolic."""
    assert arrays[1] is not None and arrays[2] is not None
    starts, ends = np.atleast_1d(arrays[1]), np.atleast_1d(arrays[2])
    axes = np.atleast_1d(arrays[3]) if len(arrays) > 3 and arrays[3] is not None else np.arange(len(starts))
    steps = np.atleast_1d(arrays[4]) if len(arrays) > 4 and arrays[4] is not None else np.ones(len(starts), np.int64)
    plain = [[_plain(element) for element in array] for array in (starts, ends)]
    return [(checked_axis(int(a), rank), s, e, int(p)) for a, s, e, p in zip(axes, *plain, steps, strict=True)]


def python_slice(start: int, end: int, step: int, size: int) -> slice:
    """Return what Slice cuts out of an axis; walking backwards, a start before the first element means the first.

    Python has no number for the end before the first.
    """
    if step > 0:
        return slice(start, end, step)
    return slice(max(start, -size), None if end < -size else end, step)


def _plain(element: Dim) -> Dim:
    return element if isinstance(element, Affine) else int(element)


def _slice(_: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    index: list[slice] = [slice(None)] * arrays[0].ndim
    for axis, start, end, step in slice_arguments(arrays, arrays[0].ndim):
        if isinstance(start, Affine) or isinstance(end, Affine):
            raise Undecided("a slice at a symbolic place")
        index[axis] = python_slice(start, end, step, arrays[0].shape[axis])
    return arrays[0][tuple(index)]


def _gather(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    axis = attributes.integer("axis", 0)
    return np.take(arrays[0], arrays[1].astype(np.int64), axis=axis)


def _gather_nd(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    if attributes.get("batch_dims", 0):
        raise Undecided("GatherND with batch_dims")
    return np.asarray(arrays[0][tuple(np.moveaxis(arrays[1], -1, 0))])


def _gather_elements(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    return np.take_along_axis(arrays[0], arrays[1], attributes.integer("axis", 0))


def _scatter_elements(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    if str(attributes.get("reduction", "none")) != "none":
        raise Undecided("ScatterElements with a reduction")
    data, indices, updates = arrays
    if data.ndim != 1:
        raise Undecided("ScatterElements of several axes")  # only sizes are scattered
    result, axis = data.copy(), attributes.integer("axis", 0)
    places = np.where(indices < 0, indices + data.shape[axis], indices).astype(np.int64)
    np.put_along_axis(result, places, updates, axis)
    return result


def _trilu(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    offset = int(arrays[1]) if len(arrays) > 1 and arrays[1] is not None else 0
    rows, columns = np.indices(arrays[0].shape[-2:])
    kept = columns - rows >= offset if attributes.get("upper", 1) else columns - rows <= offset
    return np.where(kept, arrays[0], np.zeros((), arrays[0].dtype))  # not a product: 0 * -inf is NaN


def _range(_: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    if _is_symbolic(arrays):
        raise Undecided("a range of symbolic length")
    return np.arange(*(array.item() for array in arrays), dtype=arrays[0].dtype)


def _constant_of_shape(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    value = np.asarray(attributes.get("value", np.zeros(1, np.float32))).reshape(-1)
    return np.full(concrete_sizes(arrays[0]), value[0], value.dtype)


def _cumsum(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    if attributes.get("reverse", 0) or attributes.get("exclusive", 0):
        raise Undecided("CumSum with reverse or exclusive")
    return np.cumsum(arrays[0], axis=int(arrays[1]), dtype=arrays[0].dtype)


def _flatten(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    axis = attributes.integer("axis", 1)
    axis = axis + arrays[0].ndim if axis < 0 else axis
    return arrays[0].reshape(int(np.prod(arrays[0].shape[:axis], dtype=np.int64)), -1)


def _tile(_: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    return np.tile(arrays[0], concrete_sizes(arrays[1]))


def _split(attributes: OnnxAttributes, arrays: Arrays, _: Bounds) -> tuple[np.ndarray, ...]:
    array, axis = arrays[0], attributes.integer("axis", 0)
    assert array is not None
    if len(arrays) > 1 and arrays[1] is not None:
        return tuple(np.split(array, np.cumsum(concrete_sizes(arrays[1]))[:-1], axis))
    count = attributes.integer("num_outputs", 0)
    if not count:
        raise Undecided("Split without sizes")
    return tuple(np.array_split(array, count, axis))


def _clip(_: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    low, high = (arrays[index] if len(arrays) > index else None for index in (1, 2))
    result = arrays[0] if low is None else np.maximum(arrays[0], low)
    return result if high is None else np.minimum(result, high)


def _softmax(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    axis = attributes.integer("axis", -1)
    powers = np.exp(arrays[0] - arrays[0].max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True))


def _reduction(function: Callable[..., np.ndarray]) -> Meaning:
    def reduce(attributes: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
        axes = axes_of(attributes, arrays) or None
        if axes is None and attributes.get("noop_with_empty_axes", 0):
            return arrays[0]
        result = function(arrays[0], axis=axes, keepdims=bool(attributes.get("keepdims", 1)))
        return np.asarray(result, dtype=arrays[0].dtype)

    return _movement(reduce)


def _unary(function: Callable[[np.ndarray], np.ndarray]) -> Meaning:
    return _elementwise(function)


def _where(_: OnnxAttributes, arrays: list[np.ndarray]) -> np.ndarray:
    return np.where(*arrays)


def _add(left: object, right: object, bounds: Bounds) -> object:
    return left + right  # type: ignore[operator]


def _subtract(left: object, right: object, bounds: Bounds) -> object:
    return left - right  # type: ignore[operator]


def _multiply(left: object, right: object, bounds: Bounds) -> object:
    try:
        return left * right  # type: ignore[operator]
    except TypeError as error:
        raise Undecided(str(error)) from error


def _greater(left: int, right: int, bounds: Bounds) -> bool:
    return is_less(right, left, bounds)


def _less_or_equal(left: int, right: int, bounds: Bounds) -> bool:
    return not is_less(right, left, bounds)


def _greater_or_equal(left: int, right: int, bounds: Bounds) -> bool:
    return not is_less(left, right, bounds)


MEANINGS: dict[str, Meaning] = {
    "Abs": _unary(np.abs),
    "Add": _elementwise(np.add, _add),
    "And": _elementwise(np.logical_and),
    "BitwiseAnd": _elementwise(np.bitwise_and),
    "BitwiseOr": _elementwise(np.bitwise_or),
    "Cast": _movement(_cast),
    "CastLike": _movement(lambda _, arrays: arrays[0].astype(arrays[1].dtype)),
    "Ceil": _unary(np.ceil),
    "Clip": _movement(_clip),
    "Concat": _movement(_concat),
    "ConstantOfShape": _movement(_constant_of_shape),
    "Cos": _unary(np.cos),
    "CumSum": _movement(_cumsum),
    "Div": _elementwise(_divide, floor_divide),
    "Equal": _comparison(np.equal, is_equal),
    "Exp": _unary(np.exp),
    "Expand": _movement(_expand),
    "Flatten": _movement(_flatten),
    "Floor": _unary(np.floor),
    "Gather": _movement(_gather),
    "GatherElements": _movement(_gather_elements),
    "GatherND": _movement(_gather_nd),
    "Greater": _comparison(np.greater, _greater),
    "GreaterOrEqual": _comparison(np.greater_equal, _greater_or_equal),
    "Identity": _movement(lambda _, arrays: arrays[0]),
    "IsInf": _unary(np.isinf),
    "IsNaN": _unary(np.isnan),
    "Less": _comparison(np.less, is_less),
    "LessOrEqual": _comparison(np.less_equal, _less_or_equal),
    "Log": _unary(np.log),
    "MatMul": _elementwise(np.matmul),
    "Max": _variadic(np.maximum, larger),
    "Min": _variadic(np.minimum, smaller),
    "Mod": _movement(_mod),
    "Mul": _elementwise(np.multiply, _multiply),
    "Neg": _unary(np.negative),
    "Not": _unary(np.logical_not),
    "Or": _elementwise(np.logical_or),
    "Pow": _elementwise(lambda base, power: np.power(base, power).astype(base.dtype)),
    "Range": _movement(_range),
    "Reciprocal": _unary(lambda array: (1 / array).astype(array.dtype)),
    "ReduceMax": _reduction(np.max),
    "ReduceMean": _reduction(np.mean),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod),
    "ReduceSum": _reduction(np.sum),
    "Reshape": _movement(_reshape),
    "Round": _unary(np.round),
    "ScatterElements": _movement(_scatter_elements),
    "Sigmoid": _unary(lambda array: (1 / (1 + np.exp(-array))).astype(array.dtype)),
    "Sin": _unary(np.sin),
    "Slice": _movement(_slice),
    "Softmax": _movement(_softmax),
    "Split": _split,
    "Sqrt": _unary(np.sqrt),
    "Squeeze": _movement(_squeeze),
    "Sub": _elementwise(np.subtract, _subtract),
    "Tile": _movement(_tile),
    "Transpose": _movement(_transpose),
    "Trilu": _movement(_trilu),
    "Unsqueeze": _movement(_unsqueeze),
    "Where": _movement(_where),
    "Xor": _elementwise(np.logical_xor),
}
