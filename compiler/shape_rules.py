"""Shape and element type of the outputs of each ONNX operator, over symbolic sizes.

A rule gets the operator's attributes, what is known of its inputs (`Fact`), and the `Solver` to which it reports
sizes that must be equal. It returns (shape, dtype) per output. It raises `Undecided` if a shape depends on data, and
`Contradiction` if the inputs do not fit together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from compiler.attention_shapes import attention, group_query_attention, multi_head_attention
from compiler.evaluate import ONNX_DTYPES, axes_of, checked_axis, python_slice, slice_arguments
from compiler.shape_call import Call, Rule, Shape, Typed
from compiler.symbols import Bounds, Contradiction, Product, Solver, Undecided, is_less, larger, smaller
from isa.affine import Affine, Dim, substitute


def broadcast(call: Call, shapes: Sequence[Shape]) -> Shape:
    """Return the NumPy broadcast of shapes."""
    rank = max(len(shape) for shape in shapes)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for axis, dim in enumerate(shape, rank - len(shape)):
            if result[axis] == 1:
                result[axis] = dim
            elif dim != 1:
                call.equal(result[axis], dim)
    return tuple(result)


def sizes(array: np.ndarray) -> Shape:
    """Return the elements of a shape tensor."""
    return tuple(element if isinstance(element, Affine) else int(element) for element in array.reshape(-1))


def _same(call: Call) -> list[Typed]:
    fact = call.fact(0)
    return [(fact.shape, fact.dtype)] * call.output_count


def _elementwise(dtype: str | None = None, dtype_from: int = 0) -> Rule:
    def rule(call: Call) -> list[Typed]:
        shape = broadcast(call, [fact.shape for fact in call.inputs if fact is not None])
        return [(shape, dtype or call.fact(dtype_from).dtype)]

    return rule


def _cast(call: Call) -> list[Typed]:
    return [(call.fact(0).shape, ONNX_DTYPES[call.integer("to", 1)])]


def _matmul(call: Call) -> list[Typed]:
    left, right = call.fact(0), call.fact(1)
    if len(left.shape) < 2 or len(right.shape) < 2:
        raise Undecided("a product with a vector")
    call.equal(left.shape[-1], right.shape[-2])
    batch = broadcast(call, [left.shape[:-2], right.shape[:-2]]) if len(left.shape) + len(right.shape) > 4 else ()
    return [((*batch, left.shape[-2], right.shape[-1]), left.dtype)]


def _shape(call: Call) -> list[Typed]:
    rank = len(call.fact(0).shape)
    first, last = (_clamped(call.integer(key, default), rank) for key, default in (("start", 0), ("end", rank)))
    return [((max(last - first, 0),), "int64")]


def _clamped(axis: int, rank: int) -> int:
    return min(max(axis + rank if axis < 0 else axis, 0), rank)


def shape_content(call: Call) -> np.ndarray:
    """Return what a Shape operator gives."""
    shape = call.fact(0).shape
    rank = len(shape)
    first, last = (_clamped(call.integer(key, default), rank) for key, default in (("start", 0), ("end", rank)))
    return np.array(shape[first:last], dtype=object)


def _reshape(call: Call) -> list[Typed]:
    fact, target = call.fact(0), list(sizes(call.content(1)))
    if not call.integer("allowzero", 0):
        target = [fact.shape[axis] if dim == 0 else dim for axis, dim in enumerate(target)]
    if -1 in target:
        others = [dim for dim in target if dim != -1]
        target[target.index(-1)] = Product.of(fact.shape).divided_by(Product.of(others))
    elif Product.of(fact.shape) != Product.of(target):
        _equal_products(call, fact.shape, tuple(target))
    return [(tuple(target), fact.dtype)]


def _equal_products(call: Call, left: Shape, right: Shape) -> None:
    """Learn from `a * c == b * c` that a == b when one size differs; otherwise the sizes contradict each other."""
    rest_left, rest_right = list(left), list(right)
    for dim in left:
        if dim in rest_right:
            rest_right.remove(dim)
            rest_left.remove(dim)
    numbers = [math.prod(int(dim) for dim in rest if not isinstance(dim, Affine)) for rest in (rest_left, rest_right)]
    symbols = [[dim for dim in rest if isinstance(dim, Affine)] for rest in (rest_left, rest_right)]
    if max(len(found) for found in symbols) > 1:
        raise Undecided("a Reshape of several symbolic sizes")
    products = [number * (found[0] if found else 1) for number, found in zip(numbers, symbols, strict=True)]
    call.equal(products[0], products[1])


def _transpose(call: Call) -> list[Typed]:
    fact = call.fact(0)
    order = call.attributes.integers("perm") or tuple(reversed(range(len(fact.shape))))
    if sorted(order) != list(range(len(fact.shape))):
        raise ValueError(f"perm {list(order)} of {len(fact.shape)} axes")
    return [(tuple(fact.shape[axis] for axis in order), fact.dtype)]


def _unsqueeze(call: Call) -> list[Typed]:
    fact = call.fact(0)
    arrays = [None, call.content(1)] if call.has(1) else [None]
    axes = axes_of(call.attributes, arrays) or ()
    rank = len(fact.shape) + len(axes)
    rest = iter(fact.shape)
    inserted = {checked_axis(axis, rank) for axis in axes}
    if len(inserted) != len(axes):
        raise Contradiction(f"axes {axes} and axes that differ")
    return [(tuple(1 if axis in inserted else next(rest) for axis in range(rank)), fact.dtype)]


def _squeeze(call: Call) -> list[Typed]:
    fact = call.fact(0)
    axes = call.axes(len(fact.shape))
    removed = axes if axes is not None else [axis for axis, dim in enumerate(fact.shape) if dim == 1]
    return [(tuple(dim for axis, dim in enumerate(fact.shape) if axis not in removed), fact.dtype)]


def _expand(call: Call) -> list[Typed]:
    fact = call.fact(0)
    return [(broadcast(call, [fact.shape, sizes(call.content(1))]), fact.dtype)]


def _concat(call: Call) -> list[Typed]:
    facts = [fact for fact in call.inputs if fact is not None]
    axis = call.integer("axis", 0) % len(facts[0].shape)
    shape = list(facts[0].shape)
    for fact in facts[1:]:
        for other, dim in enumerate(fact.shape):
            if other == axis:
                shape[axis] = shape[axis] + dim
            else:
                call.equal(shape[other], dim)
    return [(tuple(shape), facts[0].dtype)]


def slice_ranges(call: Call) -> list[tuple[int, Dim, Dim]]:
    """Return (axis, first element, element count) of each axis that a Slice with step 1 or -1 cuts."""
    shape, bounds = call.fact(0).shape, call.solver.bounds
    arrays = [None, *(call.content(index) if call.has(index) else None for index in range(1, len(call.inputs)))]
    ranges = []
    for axis, start, end, step in slice_arguments(arrays, len(shape)):
        if step != 1:
            raise Undecided("a Slice with a step")
        first, last = (_clamped_dim(place, shape[axis], bounds) for place in (start, end))
        ranges.append((axis, first, larger(last - first, 0, bounds)))
    return ranges


def _gemm(call: Call) -> list[Typed]:
    (rows, inner), (depth, columns) = (
        call.fact(index).shape[:: -1 if call.integer(name, 0) else 1] for index, name in enumerate(("transA", "transB"))
    )
    call.equal(inner, depth)
    if call.has(2):
        broadcast(call, [(rows, columns), call.fact(2).shape])
    return [((rows, columns), call.fact(0).dtype)]


def _clamped_dim(place: Dim, size: Dim, bounds: Bounds) -> Dim:
    place = place + size if is_less(place, 0, bounds) else place
    return smaller(larger(place, 0, bounds), size, bounds)


def _slice(call: Call) -> list[Typed]:
    fact = call.fact(0)
    shape = list(fact.shape)
    arrays = [None, *(call.content(index) if call.has(index) else None for index in range(1, len(call.inputs)))]
    steps = [step for _, _, _, step in slice_arguments(arrays, len(shape))]
    if any(step != 1 for step in steps):
        return [(_stepped(fact.shape, arrays), fact.dtype)]
    for axis, _, count in slice_ranges(call):
        shape[axis] = count
    return [(tuple(shape), fact.dtype)]


def _stepped(shape: tuple[Dim, ...], arrays: list[np.ndarray | None]) -> tuple[Dim, ...]:
    """Return the shape of a Slice with steps, of known sizes only."""
    sizes = list(shape)
    for axis, start, end, step in slice_arguments(arrays, len(shape)):
        size = shape[axis]
        if isinstance(size, Affine) or isinstance(start, Affine) or isinstance(end, Affine):
            raise Undecided("a Slice with a step of a symbolic size")
        sizes[axis] = len(range(*python_slice(start, end, step, size).indices(size)))
    return tuple(sizes)


def _split(call: Call) -> list[Typed]:
    fact = call.fact(0)
    axis = call.integer("axis", 0) % len(fact.shape)
    size, count = fact.shape[axis], call.output_count
    if call.has(1):
        parts = sizes(call.content(1))
    elif isinstance(size, int) and size % count:
        largest = -(-size // count)  # the last part is smaller
        parts = (*(largest,) * (count - 1), size - largest * (count - 1))
    else:
        parts = (Product.of([size]).divided_by(Product.of([count])),) * count
    return [((*fact.shape[:axis], part, *fact.shape[axis + 1 :]), fact.dtype) for part in parts]


def _gather(call: Call) -> list[Typed]:
    fact, indices = call.fact(0), call.fact(1)
    axis = call.integer("axis", 0) % len(fact.shape)
    return [((*fact.shape[:axis], *indices.shape, *fact.shape[axis + 1 :]), fact.dtype)]


def _gather_nd(call: Call) -> list[Typed]:
    fact, indices = call.fact(0), call.fact(1)
    depth = indices.shape[-1]
    if isinstance(depth, Affine) or call.integer("batch_dims", 0):
        raise Undecided("GatherND with batch_dims or a symbolic depth")
    return [((*indices.shape[:-1], *fact.shape[depth:]), fact.dtype)]


def _gather_elements(call: Call) -> list[Typed]:
    return [(call.fact(1).shape, call.fact(0).dtype)]


def _range(call: Call) -> list[Typed]:
    start, limit, step = (sizes(call.content(index))[0] for index in range(3))
    if step != 1:
        if any(isinstance(dim, Affine) for dim in (start, limit, step)) or step == 0:
            raise Undecided("a Range of symbolic length with a step")
        return [((max(0, -((start - limit) // step)),), call.fact(0).dtype)]  # type: ignore[operator]
    return [((larger(limit - start, 0, call.solver.bounds),), call.fact(0).dtype)]


def _constant_of_shape(call: Call) -> list[Typed]:
    value = np.asarray(call.attributes.get("value", np.zeros(1, np.float32)))
    return [(sizes(call.content(0)), str(value.dtype))]


def _tile(call: Call) -> list[Typed]:
    fact = call.fact(0)
    return [(tuple(dim * times for dim, times in zip(fact.shape, sizes(call.content(1)), strict=True)), fact.dtype)]


def _flatten(call: Call) -> list[Typed]:
    fact = call.fact(0)
    axis = _clamped(call.integer("axis", 1), len(fact.shape))
    one = Product(1, ())
    parts = (Product.of(fact.shape[:axis]).divided_by(one), Product.of(fact.shape[axis:]).divided_by(one))
    return [(parts, fact.dtype)]


def _reduce(call: Call) -> list[Typed]:
    fact = call.fact(0)
    axes = call.axes(len(fact.shape))
    if not axes:
        axes = () if call.integer("noop_with_empty_axes", 0) else tuple(range(len(fact.shape)))
    keep = call.integer("keepdims", 1)
    shape = tuple(1 if axis in axes else dim for axis, dim in enumerate(fact.shape) if keep or axis not in axes)
    return [(shape, fact.dtype)]


def _size(call: Call) -> list[Typed]:
    return [((), "int64")]


def size_content(call: Call) -> np.ndarray:
    """Return what a Size operator gives; raises Undecided if that is no multiple of one symbol."""
    return np.array(Product.of(call.fact(0).shape).divided_by(Product.of([])))


def _skip_norm(call: Call) -> list[Typed]:
    fact = call.fact(0)
    for left, right in zip(fact.shape, call.fact(1).shape, strict=True):
        call.equal(left, right)
    return [(fact.shape, fact.dtype)] * call.output_count


def _packed_product(call: Call) -> list[Typed]:
    fact = call.fact(0)
    call.equal(fact.shape[-1], call.integer("K", 0))
    return [((*fact.shape[:-1], call.integer("N", 0)), fact.dtype)]


def _packed_gather(call: Call) -> list[Typed]:
    table, ids, scales = (call.fact(index) for index in range(3))
    elements = 8 // call.integer("bits", 4) if table.dtype == "uint8" else 1
    return [((*ids.shape, table.shape[-1] * elements), scales.dtype)]


def _quantize(call: Call) -> list[Typed]:
    declared = call.integer("output_dtype", 0)
    dtype = call.fact(2).dtype if call.has(2) else ONNX_DTYPES[declared or 2]
    return [(call.fact(0).shape, dtype)]


def _dropout(call: Call) -> list[Typed]:
    fact = call.fact(0)
    return [(fact.shape, fact.dtype), (fact.shape, "bool")][: call.output_count]


def _dequantize(call: Call) -> list[Typed]:
    return [(call.fact(0).shape, call.fact(1).dtype)]


def _dynamic_quantize(call: Call) -> list[Typed]:
    return [(call.fact(0).shape, "uint8"), ((), "float32"), ((), "uint8")]


def _integer_product(dtype: str) -> Rule:
    return lambda call: [(shape, dtype) for shape, _ in _matmul(call)]


BOOLEAN = ("And", "Or", "Xor", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "IsNaN", "IsInf")
ARITHMETIC = (
    "Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Pow", "BitwiseAnd", "BitwiseOr",
)  # fmt: skip
UNARY = (
    "Abs", "Ceil", "Clip", "Cos", "CumSum", "Exp", "Floor", "Identity", "Log", "Neg", "QuickGelu", "Reciprocal",
    "Relu", "Round", "Sigmoid", "Sin", "Softmax", "Sqrt", "Tanh", "Trilu", "Swish", "RotaryEmbedding",
    "RMSNormalization", "SimplifiedLayerNormalization", "GroupNormalization",
)  # fmt: skip

SHAPE_RULES: dict[str, Rule] = {
    **{name: _elementwise("bool") for name in BOOLEAN},
    **{name: _elementwise() for name in ARITHMETIC},
    **dict.fromkeys(UNARY, _same),
    **{f"Reduce{name}": _reduce for name in ("Max", "Mean", "Min", "Prod", "Sum")},
    "Attention": attention,
    "Cast": _cast,
    "CastLike": lambda call: [(call.fact(0).shape, call.fact(1).dtype)],
    "Concat": _concat,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "DynamicQuantizeMatMul": _integer_product("float32"),
    "ConstantOfShape": _constant_of_shape,
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherBlockQuantized": _packed_gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "GroupQueryAttention": group_query_attention,
    "MatMul": _matmul,
    "MatMulInteger": _integer_product("int32"),
    "MatMulIntegerToFloat": _integer_product("float32"),
    "MatMulNBits": _packed_product,
    "MultiHeadAttention": multi_head_attention,
    "QuantizeLinear": _quantize,
    "Range": _range,
    "ScatterElements": _same,
    "ScatterND": _same,
    "TensorScatter": _same,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "SkipSimplifiedLayerNormalization": _skip_norm,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(dtype_from=1),
}


def solved_shape(shape: Shape, solver: Solver) -> Shape:
    """Replace the sizes that the solver knows by now."""
    return tuple(substitute(dim, solver.solved) for dim in shape)
