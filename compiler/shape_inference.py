"""Binding of dims, and one ordered sweep that finds the shape of every value and the elements of every size tensor.

Dims that the user did not give are unknowns: equal sizes that the operators demand are collected by a `Solver`, and
the sweep is repeated with what was learnt until nothing is left. The length of a padding mask is no shape constraint
(masks are gathered by index), so it is demanded: an integer input that masks keys has one element per key.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping

import numpy as np

from compiler.argument_counts import check_arguments
from compiler.evaluate import BAD_ARGUMENTS, FLOAT_DTYPES, MEANINGS, evaluate
from compiler.graph import (
    Constant,
    Equality,
    FileReference,
    Graph,
    OnnxAttributes,
    Operation,
    SizesAttributes,
    Value,
    dtype_of,
)  # fmt: skip
from compiler.onnx_schema import has_schema, inferred_types, reference_outputs
from compiler.shape_call import Call, Fact, Typed
from compiler.shape_rules import SHAPE_RULES, shape_content, size_content, solved_shape
from compiler.symbols import Contradiction, Solver, Undecided
from isa.affine import Affine, Dim, substitute, symbols_of
from isa.errors import ModelError, ToolError, UnsupportedError, did_you_mean

# Constants up to this size take part in folding, and nothing larger is made by it.
FOLDED_INPUT_BYTES = 16 << 20
FOLDED_OUTPUT_BYTES = 64 << 20
LARGEST_SIZE = 1 << 24
"""Of a dim that a user gives: tables and masks are made for every position up to the end of a range."""


def bind_dims(graph: Graph, dims: Mapping[str, int | tuple[int, int]]) -> Graph:
    """Give the named dims of the inputs their sizes; a range stays a symbol. Raises ModelError on unknown names."""
    names = sorted({name for value in _inputs(graph) for dim in value.shape for name in symbols_of(dim)})
    for name in dims:
        if name not in names:
            known = f"the model has {', '.join(names)}" if names else "the model has fixed shapes"
            help = f"{did_you_mean(name, names)} {known}".strip()
            raise ModelError(f"the model has no dim {name!r}", where=f"--dim {name}", help=help)
    bounds = {name: _bounds(name, size) for name, size in dims.items()}
    fixed: dict[str, Dim] = {name: low for name, (low, high) in bounds.items() if low == high}
    ranges = {name: size for name, size in bounds.items() if name not in fixed}
    bound = dataclasses.replace(_with_input_dims(graph, fixed), symbols={**graph.symbols, **ranges})
    _check_not_empty(graph, bound)
    return bound


def _check_not_empty(graph: Graph, bound: Graph) -> None:
    """Refuse index inputs (token ids, positions, masks) that a dim leaves empty: only caches may be."""
    for value in _inputs(bound):
        dim = graph.value(value.name).shape[value.shape.index(0)] if 0 in value.shape else 0
        if value.dtype in ("int64", "int32") and dim != 0:
            help = "give a size of at least 1; only the length of the past may be 0"
            raise ModelError(f"the input is empty: {dim} is 0", where=value.name, help=help)


def _bounds(name: str, size: object) -> tuple[int, int]:
    """Return the lowest and highest size; ModelError unless it is a whole number or a pair of them in order."""
    try:
        low, high = map(operator.index, size if isinstance(size, (tuple, list)) else (size, size))
    except (TypeError, ValueError):
        low, high = -1, -1
    if high > LARGEST_SIZE:
        help = f"sizes go up to {LARGEST_SIZE:,}"
        raise ModelError(f"{high:,} is too large for a dim", where=f"--dim {name}", help=help)
    if not 0 <= low <= high:
        what = f"{size[0]}..{size[1]}" if isinstance(size, (tuple, list)) and len(size) == 2 else repr(size)
        help = "give a size like 16 or a range like 0..4096, in Python (0, 4096)"
        raise ModelError(f"{what} is no size or range of sizes", where=f"--dim {name}", help=help)
    return low, high


def infer_shapes(graph: Graph) -> Graph:
    """Give every value its shape and dtype; raises ModelError if sizes contradict each other or stay unknown."""
    equalities = list(graph.equalities)
    while True:
        solver = Solver(graph.symbols)
        facts = analyse(graph, solver)
        if not solver.solved:
            _solve_mask_lengths(graph, facts, solver)
        if not solver.solved:
            break
        for name, dim in sorted(solver.solved.items()):
            equalities.append(Equality(Affine.symbol(name), dim, solver.origins[name]))
        graph = _with_input_dims(graph, solver.solved)
    _check_resolved(graph)
    values = {name: Value(name, fact.shape, fact.dtype) for name, fact in facts.items() if name not in graph.constants}
    values |= {name: _as_declared(values[name], graph.values[name]) for name in graph.outputs if name in values}
    resolved = tuple(
        Equality(equality.left, substitute(equality.right, _chain(equalities)), equality.origin)
        for equality in equalities
    )
    return dataclasses.replace(graph, values=values, equalities=resolved)


def _as_declared(output: Value, declared: Value) -> Value:
    """Give an output the float type that the file declares for it, which need not be that of the value behind it."""
    is_float = output.dtype in FLOAT_DTYPES and declared.dtype in FLOAT_DTYPES
    return dataclasses.replace(output, dtype=declared.dtype) if is_float else output


def _chain(equalities: list[Equality]) -> dict[str, Dim]:
    """Return what each solved symbol is in terms of symbols that are left."""
    result: dict[str, Dim] = {}
    for equality in reversed(equalities):
        (name,) = symbols_of(equality.left)
        result[name] = substitute(equality.right, result)
    return result


def facts_so_far(graph: Graph) -> dict[str, Fact]:
    """Return what is known of the values that do not depend on unknown operators, or on sizes that do not fit."""
    return analyse(graph, skips_errors=True)


def analyse(graph: Graph, solver: Solver | None = None, *, skips_errors: bool = False) -> dict[str, Fact]:
    """Return what is known of every value and constant, in one sweep; of what cannot be known, nothing if asked for."""
    solver = solver or Solver(graph.symbols)
    facts = {name: _fact_of_constant(constant) for name, constant in graph.constants.items()}
    facts |= {value.name: Fact(value.shape, value.dtype) for value in _inputs(graph)}
    for operation in graph.operations:
        if skips_errors and any(name and name not in facts for name in operation.inputs):
            continue
        try:
            results = _facts_of(graph, operation, facts, solver)
        except ToolError:
            if not skips_errors:
                raise
            continue
        facts |= {name: fact for name, fact in zip(operation.outputs, results, strict=False) if name}
    return facts


def _facts_of(graph: Graph, operation: Operation, facts: Mapping[str, Fact], solver: Solver) -> list[Fact]:
    attributes = operation.attributes
    if not isinstance(attributes, OnnxAttributes):
        return [_known_fact(graph, name, attributes) for name in operation.outputs]
    inputs = [facts[name] if name else None for name in operation.inputs]
    call = Call(attributes, inputs, len(operation.outputs), solver, operation.name, graph.opset)
    return _results(call, operation)


def _known_fact(graph: Graph, name: str | None, attributes: object) -> Fact:
    value = graph.values[name or ""]
    if not isinstance(attributes, SizesAttributes):
        return Fact(value.shape, value.dtype)
    elements = np.array(attributes.elements, dtype=object).reshape(value.shape)  # type: ignore[arg-type]
    return Fact(value.shape, value.dtype, elements)


def _results(call: Call, operation: Operation) -> list[Fact]:
    try:
        check_arguments(call)
        folded = _folded_by_reference(call) if call.attributes.op_type not in SHAPE_RULES else None
        if folded is not None:
            return [Fact(array.shape, str(array.dtype), array) for array in folded]
        typed = [(solved_shape(shape, call.solver), dtype) for shape, dtype in _typed(call)]
        contents = _contents(call, typed)
    except Undecided as error:
        raise _undecided(call, operation, str(error)) from None
    except (Contradiction, *BAD_ARGUMENTS) as error:
        raise _misfit(call, operation, error) from None
    return [Fact(shape, dtype, content) for (shape, dtype), content in zip(typed, contents, strict=False)]


def _typed(call: Call) -> list[Typed]:
    """Return (shape, dtype) of the outputs by our rule, else by the onnx package if all sizes are numbers."""
    rule = SHAPE_RULES.get(call.attributes.op_type)
    if rule is None:
        return _typed_by_schema(call)
    try:
        return rule(call)
    except Undecided as undecided:
        if any(isinstance(dim, Affine) for fact in call.inputs if fact for dim in fact.shape):
            raise
        try:
            return _typed_by_schema(call)
        except Undecided:
            raise undecided from None


def _typed_by_schema(call: Call) -> list[Typed]:
    if call.attributes.domain or not has_schema(call.attributes.op_type, call.opset):
        raise Undecided(f"there is no shape rule for {call.attributes.op_type}")
    shapes = [(fact.shape, fact.dtype) if fact else None for fact in call.inputs]
    contents = [fact.content if fact else None for fact in call.inputs]
    return inferred_types(call.attributes, call.opset, shapes, contents, call.output_count)


def _folded_by_reference(call: Call) -> list[np.ndarray] | None:
    """Return the outputs of an operator on constants by the onnx package, None if it cannot or must not."""
    arrays = [fact.content if fact else None for fact in call.inputs]
    absent = any(fact is not None and fact.content is None for fact in call.inputs)
    symbolic = any(array is not None and array.dtype == object for array in arrays)
    if not arrays or absent or symbolic or not is_deterministic(call.attributes, call.opset):
        return None
    try:
        results = reference_outputs(call.attributes, call.opset, arrays, call.output_count)
    except Undecided:
        return None
    return results if sum(array.nbytes for array in results) <= FOLDED_OUTPUT_BYTES else None


def is_deterministic(attributes: OnnxAttributes, opset: int) -> bool:
    """Tell whether the onnx package can compute an operator of constants: a standard one without chance."""
    is_random = attributes.op_type.startswith("Random") or attributes.op_type in ("Bernoulli", "Multinomial", "Dropout")
    return not is_random and not attributes.domain and has_schema(attributes.op_type, opset)


def _undecided(call: Call, operation: Operation, reason: str) -> ToolError:
    unknowns = sorted(
        {name for fact in call.inputs if fact for dim in fact.shape for name in call.solver.unknowns_of(dim)}
    )
    if unknowns:
        help = " ".join(f"--dim {name}=VALUE" for name in unknowns)
        what = f"the shape of {operation.name!r} ({call.attributes.op_type}) needs the size of {', '.join(unknowns)}"
        return ModelError(what, where=call.origin, help=f"give {help}")
    what = f"the output shape of {call.attributes.op_type} is not known when compiling: {reason}"
    return UnsupportedError(
        what, where=f"node {operation.name!r}", help="export the model with shapes that depend on sizes only"
    )


def _misfit(call: Call, operation: Operation, error: Exception) -> ModelError:
    shapes = ", ".join(f"[{', '.join(map(str, fact.shape))}]" if fact else "none" for fact in call.inputs)
    reason = f"sizes that differ: {error}" if isinstance(error, Contradiction) else f"bad arguments ({error})"
    what = f"{call.attributes.op_type} of {shapes} has {reason}"
    return ModelError(
        what, where=f"node {operation.name!r}", help="check the --dim values against each other and the model"
    )


def _contents(call: Call, typed: list[tuple[tuple[Dim, ...], str]]) -> list[np.ndarray | None]:
    """Return the elements of the outputs where constants and sizes determine them, within the byte budget."""
    nothing: list[np.ndarray | None] = [None] * len(typed)
    op_type = call.attributes.op_type
    if op_type == "Shape":
        return [_plain(shape_content(call))]
    if op_type == "Size":
        return [_size(call)]
    if any(fact is not None and fact.content is None for fact in call.inputs) or op_type not in MEANINGS:
        return nothing
    if any(isinstance(dim, Affine) for shape, _ in typed for dim in shape):
        return nothing
    elements = sum(math.prod(int_shape(shape)) for shape, _ in typed)
    is_weight_view = op_type == "Transpose" and typed[0][1] in FLOAT_DTYPES and len(typed[0][0]) == 2
    if elements * 8 > FOLDED_OUTPUT_BYTES or is_weight_view:
        return nothing
    try:
        return list(
            evaluate(call.attributes, [fact.content if fact else None for fact in call.inputs], call.solver.bounds)
        )
    except Undecided:
        return list(_folded_by_reference(call) or nothing)


def _size(call: Call) -> np.ndarray | None:
    try:
        content = size_content(call)
    except Undecided:
        return None
    return content if isinstance(content.item(), Affine) else content.astype(np.int64)


def int_shape(shape: tuple[Dim, ...]) -> tuple[int, ...]:
    """Return a shape without symbols as ints; raises ValueError if it has any."""
    if any(isinstance(dim, Affine) for dim in shape):
        raise ValueError(f"a symbolic shape: {shape}")
    return tuple(int(dim) for dim in shape)  # type: ignore[arg-type]


def _plain(array: np.ndarray) -> np.ndarray:
    return array if any(isinstance(element, Affine) for element in array) else array.astype(np.int64)


def _fact_of_constant(constant: Constant) -> Fact:
    value, source = constant.value, constant.source
    item_bytes = dtype_of(value.dtype).itemsize
    small = math.prod(int_shape(value.shape)) * item_bytes <= FOLDED_INPUT_BYTES
    is_weight = isinstance(source, FileReference) and len(value.shape) == 2 and value.dtype in FLOAT_DTYPES
    if source is None or not small or is_weight:
        return Fact(value.shape, value.dtype)
    return Fact(value.shape, value.dtype, np.asarray(constant.load()))


def _inputs(graph: Graph) -> list[Value]:
    return [graph.values[name] for name in graph.inputs]


def _with_input_dims(graph: Graph, bindings: Mapping[str, Dim]) -> Graph:
    """Replace symbols in the shapes of the inputs; other shapes follow from those."""
    values = dict(graph.values)
    for value in _inputs(graph):
        shape = tuple(substitute(dim, bindings) for dim in value.shape)
        values[value.name] = dataclasses.replace(value, shape=shape)
    return dataclasses.replace(graph, values=values)


# What a product depends on (tokens, positions) is no mask of its result, and a shape depends on no flags.
_NO_MASK_PASSES = ("MatMul", "Shape", "Size")


def _solve_mask_lengths(graph: Graph, facts: Mapping[str, Fact], solver: Solver) -> None:
    """Demand that an integer input that masks the keys of a softmax or attention has one element per key."""
    masks = [value for value in _inputs(graph) if value.dtype not in FLOAT_DTYPES and len(value.shape) == 2]
    for mask in masks:
        reached = {mask.name}
        for operation in graph.operations:
            attributes = operation.attributes
            if not isinstance(attributes, OnnxAttributes) or attributes.op_type in _NO_MASK_PASSES:
                continue
            read = _mask_inputs(operation, attributes.op_type)
            if not any(name in reached for name in read):
                continue
            reached.update(name for name in operation.outputs if name)
            length = _key_length(operation, facts)
            if length is not None:
                _demand_length(mask, length, operation, solver)


def _demand_length(mask: Value, length: Dim, operation: Operation, solver: Solver) -> None:
    origin = f"{mask.name} has one element per key of {operation.name}"
    try:
        solver.require_equal(mask.shape[-1], length, origin)
    except Contradiction as error:
        help = "give dims that agree, or leave out the ones that follow from the others"
        raise ModelError(f"sizes contradict each other: {error} ({origin})", where=mask.name, help=help) from None


# Earlier inputs of these are activations and rotary factors.
_FIRST_MASK_INPUT = {"Attention": 3, "GroupQueryAttention": 5, "MultiHeadAttention": 4, "RotaryEmbedding": 4}


def _mask_inputs(operation: Operation, op_type: str) -> tuple[str | None, ...]:
    """The inputs of an operation that can carry a mask on to the scores; what chooses rows is no mask of them."""
    if op_type in ("Gather", "GatherElements", "GatherND"):
        return operation.inputs[:1]
    first = _FIRST_MASK_INPUT.get(op_type, 0)
    return operation.inputs[first:]


def _key_length(operation: Operation, facts: Mapping[str, Fact]) -> Dim | None:
    """Return how many keys an operation attends to, None if it is no softmax or attention."""
    attributes = operation.attributes
    assert isinstance(attributes, OnnxAttributes)
    if attributes.op_type == "Softmax":
        return facts[operation.inputs[0] or ""].shape[attributes.integer("axis", -1)]
    if attributes.op_type == "GroupQueryAttention":
        query, past = facts[operation.inputs[0] or ""], operation.inputs[3]
        return query.shape[1] + (facts[past].shape[2] if past else 0)
    if attributes.op_type == "MultiHeadAttention":
        past = operation.inputs[6] if len(operation.inputs) > 6 else None
        return facts[operation.inputs[1] or ""].shape[1] + (facts[past].shape[2] if past else 0)
    if attributes.op_type == "Attention":
        query, key = facts[operation.inputs[0] or ""], facts[operation.inputs[1] or ""]
        past = operation.inputs[4] if len(operation.inputs) > 4 else None
        return key.shape[2 if len(query.shape) == 4 else 1] + (facts[past].shape[2] if past else 0)
    return None


def _check_resolved(graph: Graph) -> None:
    for value in _inputs(graph):
        for dim in value.shape:
            for name in sorted(symbols_of(dim)):
                if name not in graph.symbols:
                    what = f"the dim {name!r} of input {value.name!r} has no size and does not follow from others"
                    raise ModelError(what, where=graph.name, help=f"give --dim {name}=VALUE")
