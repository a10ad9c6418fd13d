"""The meaning of each composite operation, in plain NumPy at fp32 or better: the oracle of the tests.

Obvious rather than fast. `run_reference` takes the sizes of symbols from the shapes of the inputs and checks what the
graph requires of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from compiler.graph import (
    AttentionAttributes,
    AxisAttributes,
    EmbeddingBagAttributes,
    Graph,
    InteractionAttributes,
    LinearAttributes,
    MoveAttributes,
    Operation,
    PointwiseAttributes,
    QuantizeAttributes,
    RequantizeAttributes,
    RmsNormAttributes,
    RopeAttributes,
    ShapeAttributes,
    SliceAttributes,
    WeightFormat,
)  # fmt: skip
from compiler.recipe_meaning import evaluate_steps
from compiler.reference_quantized import dequantized_weight, quantized_rows, requantized
from isa.affine import Affine, evaluate
from isa.errors import ModelError


@dataclass(frozen=True, slots=True)
class Arguments:
    """One operation with the arrays of its inputs and the values of the symbols."""

    operation: Operation
    arrays: tuple[np.ndarray | None, ...]
    bindings: Mapping[str, int]

    def __getitem__(self, index: int) -> np.ndarray:
        array = self.arrays[index]
        assert array is not None
        return array


def run_reference(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of a fused graph; raises ModelError if the inputs do not fit it."""
    bindings = bind_inputs(graph, inputs)
    arrays: dict[str, np.ndarray] = {name: _widened(np.asarray(inputs[name])) for name in graph.inputs}
    for operation in graph.operations:
        read = tuple(_read(graph, arrays, name) for name in operation.inputs)
        results = MEANINGS[operation.kind](Arguments(operation, read, bindings))
        for name, result in zip(operation.outputs, results, strict=False):
            if name is not None:
                arrays[name] = result
    return {name: arrays[name] for name in graph.outputs}


def bind_inputs(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return the symbols' values that the shapes of the inputs imply; checks shapes and requirements."""
    bindings: dict[str, int] = {}
    for name in graph.inputs:
        for dim, size in zip(graph.values[name].shape, np.shape(inputs[name]), strict=True):
            if isinstance(dim, Affine) and len(dim.terms) == 1:
                ((symbol, factor),) = dim.terms
                bindings.setdefault(symbol, (size - dim.constant) // factor)
    for name in graph.inputs:
        expected = tuple(evaluate(dim, bindings) for dim in graph.values[name].shape)
        if expected != np.shape(inputs[name]):
            what = f"has the shape {list(np.shape(inputs[name]))}, not {list(expected)}"
            raise ModelError(what, where=f"input {name!r}", help="give inputs that fit the dims of the model")
    for symbol, (low, high) in graph.symbols.items():
        if not low <= bindings.get(symbol, low) <= high:
            what = f"{symbol} = {bindings[symbol]} is outside {low}..{high}"
            raise ModelError(what, where=graph.name, help="compile for a wider range")
    for requirement in graph.requirements:
        array = np.asarray(inputs[requirement.input_name])
        if array.size and not requirement.lowest <= array.min() <= array.max() <= requirement.highest:
            what = f"must be in {requirement.lowest}..{requirement.highest}: {requirement.reason}"
            raise ModelError(what, where=f"input {requirement.input_name!r}", help="give elements in this range")
    return bindings


def _read(graph: Graph, arrays: dict[str, np.ndarray], name: str | None) -> np.ndarray | None:
    if name is None:
        return None
    if name not in arrays:
        arrays[name] = _widened(np.asarray(graph.constants[name].load()))
    return arrays[name]


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if str(array.dtype) in ("float16", "bfloat16") else array


def _embedding(arguments: Arguments) -> list[np.ndarray]:
    attributes = arguments.operation.attributes
    if isinstance(attributes, WeightFormat):
        return [dequantized_weight(arguments[1], arguments[2], arguments.arrays[3], attributes)[arguments[0]]]
    return [arguments[1][arguments[0]]]


def _embedding_bag(arguments: Arguments) -> list[np.ndarray]:
    attributes = arguments.operation.attributes
    assert isinstance(attributes, EmbeddingBagAttributes)
    bag, results = np.arange(attributes.count)[:, None], []
    for table, place in enumerate(attributes.tables):
        source, rows = arguments[2 * table], arguments[2 * table + 1]
        columns = place.first_column + bag * place.column_step + np.arange(place.hot)
        chosen = source.reshape(-1, source.shape[-1])[place.first_row + bag * place.row_step, columns]
        total = rows[chosen].sum(axis=1)
        results.append(total / np.float32(place.hot) if place.mean else total)
    return results


def _interaction(arguments: Arguments) -> list[np.ndarray]:
    attributes = arguments.operation.attributes
    assert isinstance(attributes, InteractionAttributes)
    batch, dim = arguments[0].shape[0], arguments[0].shape[-1]
    x = np.concatenate([arguments[index].reshape(batch, -1, dim) for index in range(len(attributes.counts))], axis=1)
    products = x @ x.swapaxes(1, 2)
    parts = [products[:, run.row, run.first : run.first + run.count] for run in attributes.runs]
    if attributes.prefix is not None:
        parts.insert(0, x[:, attributes.prefix])
    return [np.concatenate(parts, axis=1)]


def _join(arguments: Arguments) -> list[np.ndarray]:
    attributes, parts = arguments.operation.attributes, [arguments[index] for index in range(len(arguments.arrays))]
    if isinstance(attributes, ShapeAttributes):
        return [np.concatenate(parts, axis=0).reshape(attributes.shape)]
    return [np.concatenate(parts, axis=-1)]


def _rms_norm(arguments: Arguments) -> list[np.ndarray]:
    attributes = arguments.operation.attributes
    assert isinstance(attributes, RmsNormAttributes)
    mean_square = np.mean(np.square(arguments[0]), axis=-1, keepdims=True)
    return [arguments[0] / np.sqrt(mean_square + np.float32(attributes.epsilon)) * arguments[1]]


def _linear(arguments: Arguments) -> list[np.ndarray]:
    attributes = arguments.operation.attributes
    assert isinstance(attributes, LinearAttributes)
    x, weight, bias, residual, scales, zero_points, row_scales, up, up_bias, up_scales, up_zero_points, multiplier = (
        *arguments.arrays, *(None,) * 8,
    )[:12]  # fmt: skip
    assert x is not None
    if attributes.x_rounding:
        x, row_scales = quantized_rows(x, attributes.x_rounding)
    x = x if row_scales is None else x.astype(np.float32) * row_scales
    result = _product(x, attributes, weight, scales, zero_points)
    for extra in (bias, residual if multiplier is None else None):
        result = result if extra is None else result + extra
    if attributes.gate is not None:
        factor = _product(x, attributes, up, up_scales, up_zero_points)
        return [_ACTIVATIONS[attributes.gate](result) * (factor if up_bias is None else factor + up_bias)]
    result = result if attributes.activation is None else _ACTIVATIONS[attributes.activation](result)
    if multiplier is not None:
        result = result * multiplier if residual is None else result * multiplier + residual
    return [result]


def _product(x: np.ndarray, attributes: LinearAttributes, *given: np.ndarray | None) -> np.ndarray:
    """Return x times a weight, which comes with its scales and zero points."""
    weight, scales, zero_points = (
        array.T if array is not None and not attributes.weight_rows_are_outputs else array for array in given
    )
    assert weight is not None
    if attributes.weight_format is not None:
        weight = dequantized_weight(weight, scales, zero_points, attributes.weight_format)
    return np.asarray(x @ weight[:, : x.shape[-1]].T)


_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda array: np.maximum(array, 0),
    "sigmoid": lambda array: 1 / (1 + np.exp(-array)),
    "tanh": np.tanh,
    "silu": lambda array: array / (1 + np.exp(-array)),
}


def _by_token(positions: np.ndarray, batch: int, sequence: int) -> np.ndarray:
    """Return positions of each token, [batch, sequence], that may be given once for all sequences."""
    return np.broadcast_to(positions.reshape(-1, sequence), (batch, sequence))


def _rope(arguments: Arguments) -> list[np.ndarray]:
    attributes = arguments.operation.attributes
    assert isinstance(attributes, RopeAttributes)
    batch, sequence, columns = arguments[0].shape
    positions = arguments.arrays[1]
    if positions is None:
        assert attributes.start is not None
        positions = np.arange(sequence) + evaluate(attributes.start, arguments.bindings)
    positions = _by_token(positions, batch, sequence)
    cos, sin = (arguments[index][positions][:, :, None, :] for index in (2, 3))
    heads = arguments[0].reshape(batch, sequence, attributes.head_count, attributes.head_dim)
    if attributes.interleaved:
        first, second = heads[..., 0::2], heads[..., 1::2]
    else:
        first, second = np.split(heads, 2, axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    joined = np.stack(rotated, axis=-1) if attributes.interleaved else np.concatenate(rotated, axis=-1)
    return [joined.reshape(batch, sequence, columns)]


def _attention(arguments: Arguments) -> list[np.ndarray]:
    attributes = arguments.operation.attributes
    assert isinstance(attributes, AttentionAttributes)
    batch, sequence, columns = arguments[0].shape

    def heads_first(array: np.ndarray, heads: int) -> np.ndarray:
        return array.reshape(batch, sequence, heads, attributes.head_dim).transpose(0, 2, 1, 3)

    query = heads_first(arguments[0], attributes.head_count)
    present = [heads_first(arguments[index], attributes.kv_head_count) for index in (1, 2)]
    if arguments.arrays[3] is not None:
        present = [_appended(arguments, attributes, index + 3, new) for index, new in enumerate(present)]
    repeats = attributes.head_count // attributes.kv_head_count
    key, value = (np.repeat(array, repeats, axis=1) for array in present)
    visible = _visible(arguments, attributes, batch, sequence, key.shape[2])
    bias = np.zeros((1, 1), np.float32) if len(arguments.arrays) < 7 or arguments.arrays[6] is None else arguments[6]
    bias = bias[:, None] if bias.ndim == 3 else bias
    scores = np.where(visible, query @ key.swapaxes(2, 3) * np.float32(attributes.scale) + bias, -np.inf)
    highest = np.max(scores, axis=-1, keepdims=True)
    powers = np.exp(scores - np.where(np.isfinite(highest), highest, 0))
    total = powers.sum(-1, keepdims=True)
    weights = powers / np.where(total == 0, 1, total)  # a row that sees nothing gives zeros
    result = (weights @ value).transpose(0, 2, 1, 3).reshape(batch, sequence, columns)
    return [result, *(array.transpose(attributes.cache_axes) for array in present)]


def _appended(arguments: Arguments, attributes: AttentionAttributes, index: int, new: np.ndarray) -> np.ndarray:
    """Return a cache [batch, kv head, position, head_dim] with the new keys or values behind it or in their places."""
    past = arguments[index].transpose(np.argsort(attributes.cache_axes))
    places = arguments.arrays[7] if len(arguments.arrays) > 7 else None
    if places is None:
        return np.concatenate((past, new), axis=2)
    missing = evaluate(attributes.past, arguments.bindings) + new.shape[2] - past.shape[2]
    result = np.pad(past, ((0, 0), (0, 0), (0, missing), (0, 0)))
    for batch, row in enumerate(_by_token(places, new.shape[0], new.shape[2])):
        result[batch][:, row] = new[batch]
    return result


def _visible(arguments: Arguments, attributes: AttentionAttributes, batch: int, sequence: int, keys: int) -> np.ndarray:
    """Return which keys each query sees, [batch, 1, sequence, keys]."""
    visible = np.ones((batch, 1, sequence, keys), bool)
    if attributes.causal:
        past = evaluate(attributes.past, arguments.bindings)
        visible &= np.arange(keys) <= past + np.arange(sequence)[:, None]
    if arguments.arrays[5] is not None:
        visible &= arguments[5].astype(bool)[:, None, None, :]
    return visible


def _swiglu(arguments: Arguments) -> list[np.ndarray]:
    gate, up = arguments[0], arguments[1]
    return [gate / (1 + np.exp(-gate)) * up]


def _add(arguments: Arguments) -> list[np.ndarray]:
    return [arguments[0] + arguments[1]]


def _slice(arguments: Arguments) -> list[np.ndarray]:
    attributes = arguments.operation.attributes
    assert isinstance(attributes, SliceAttributes)
    start, size = (evaluate(dim, arguments.bindings) for dim in (attributes.start, attributes.size))
    return [np.take(arguments[0], np.arange(start, start + size), axis=attributes.axis)]


def _quantize(arguments: Arguments) -> list[np.ndarray]:
    attributes = arguments.operation.attributes
    assert isinstance(attributes, QuantizeAttributes)
    return list(quantized_rows(arguments[0], attributes.dtype))


def _requantize(arguments: Arguments) -> list[np.ndarray]:
    attributes = arguments.operation.attributes
    assert isinstance(attributes, RequantizeAttributes)
    return [requantized(arguments[0], attributes)]


def _move(arguments: Arguments) -> list[np.ndarray]:
    attributes = arguments.operation.attributes
    assert isinstance(attributes, MoveAttributes)
    places: list[np.ndarray | int] = list(attributes.starts)
    for axis, source in enumerate(attributes.axes):
        if source is not None:
            steps = np.arange(attributes.sizes[axis]) * attributes.steps[source] + attributes.starts[source]
            places[source] = steps.reshape([-1 if axis == other else 1 for other in range(len(attributes.axes))])
    return [np.broadcast_to(arguments[0][tuple(places)], attributes.sizes)]


def _reshape(arguments: Arguments) -> list[np.ndarray]:
    attributes = arguments.operation.attributes
    assert isinstance(attributes, ShapeAttributes)
    return [arguments[0].reshape(attributes.shape)]


def _concat(arguments: Arguments) -> list[np.ndarray]:
    attributes = arguments.operation.attributes
    assert isinstance(attributes, AxisAttributes)
    return [np.concatenate([array for array in arguments.arrays if array is not None], attributes.axis)]


def _pointwise(arguments: Arguments) -> list[np.ndarray]:
    attributes = arguments.operation.attributes
    assert isinstance(attributes, PointwiseAttributes)
    return [evaluate_steps(attributes.steps, [arguments[index] for index in range(len(arguments.arrays))])]


MEANINGS: dict[str, Callable[[Arguments], list[np.ndarray]]] = {
    "embedding": _embedding,
    "embedding_bag": _embedding_bag,
    "interaction": _interaction,
    "join": _join,
    "rms_norm": _rms_norm,
    "linear": _linear,
    "rope": _rope,
    "attention": _attention,
    "swiglu": _swiglu,
    "add": _add,
    "slice": _slice,
    "quantize": _quantize,
    "requantize": _requantize,
    "move": _move,
    "reshape": _reshape,
    "concat": _concat,
    "pointwise": _pointwise,
    "take": lambda arguments: [arguments[1][arguments[0].reshape(-1)]],
    "count_keys": lambda arguments: [arguments[0].sum(-1)[None] - 1],
    "matmul": lambda arguments: [arguments[0] @ arguments[1].swapaxes(-1, -2)],
}
