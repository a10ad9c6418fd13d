"""Rewrites of the fused graph that give every operation a kernel: graph -> graph.

* A linear of bytes with bias and residual becomes a linear with bias, then an addition: one is added to scaled sums.
* A product with a transposed second operand takes it as it lies, if it is spread like a linear.
* A slice becomes a move, sums and gates become recipes: those have views and kernels for any place, rank and machine.
* Ids and positions that something else makes or reads too become one row, as embedding and rope read them.
* Pooled embeddings of equal size become one operation: their tables are read in one launch.
* Keys and values of attention are written into the cache: by their rope if it feeds nothing else, else by a
  `cache_append` operation. Either gets the places in a static cache, which attention itself does not read, and comes
  as soon as it can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from compiler.fold import remove_dead
from compiler.graph import (
    AttentionAttributes,
    EmbeddingBagAttributes,
    Graph,
    LinearAttributes,
    MoveAttributes,
    Operation,
    PointwiseAttributes,
    ProductAttributes,
    ShapeAttributes,
    SliceAttributes,
    Step,
    Value,
)  # fmt: skip
from compiler.kinds import INDEX_INPUTS
from compiler.mapped import BIAS, ROW_SCALES
from compiler.products import is_spread
from compiler.shape_inference import int_shape
from compiler.shaping import RESIDUAL, input_at
from isa.affine import Affine
from isa.errors import UnsupportedError

RECIPES = {
    "add": (Step("vadd", (0, 1)),),
    "swiglu": (Step("vsilu", (0,)), Step("vmul", (2, 1))),
}
"""Kinds of two inputs that are computed element by element."""
PLACES_INPUT = 7
"""Index of the places in a static cache among the inputs of attention."""


def legalize(graph: Graph) -> Graph:
    """Return the graph with the rewrites above; the order of operations stays topological."""
    graph = _append_to_caches(_split_double_epilogues(_join_bags(_take_operands_as_they_lie(graph))))
    return _write_recipes(_flatten_indices(_move_slices(graph)))


def _take_operands_as_they_lie(graph: Graph) -> Graph:
    """Multiply by [K, N] where a move makes [N, K] of it, and by what moves swap to and fro as it was."""
    producers, operations = graph.producers(), list[Operation]()
    for op in graph.operations:
        moves = _swaps_before(graph, producers, op.inputs[1] or "") if op.kind == "matmul" else []
        if len(moves) % 2 and not is_spread(graph, op):
            moves.pop()
        if moves:
            attributes = ProductAttributes(rows_are_outputs=len(moves) % 2 == 0)
            op = replace(op, inputs=(op.inputs[0], moves[-1].inputs[0]), attributes=attributes)
        operations.append(op)
    return remove_dead(replace(graph, operations=tuple(operations)))


def _swaps_before(graph: Graph, producers: Mapping[str, Operation], name: str) -> list[Operation]:
    """Return the moves, the last one first, that did nothing but swap the rows and columns of a value."""
    moves: list[Operation] = []
    while (move := producers.get(name)) is not None and _swaps_rows_and_columns(graph, move):
        moves.append(move)
        name = move.inputs[0] or ""
    return moves


def _swaps_rows_and_columns(graph: Graph, op: Operation) -> bool:
    """Tell whether an operation moves the last two axes of something computed into each other's place."""
    if not isinstance(op.attributes, MoveAttributes):
        return False
    shape, axes = int_shape(graph.value(op.inputs[0] or "").shape), op.attributes.axes
    *outer, rows, columns = range(len(shape))
    is_whole = not any(op.attributes.starts) and set(op.attributes.steps) <= {1} and None not in axes
    return is_whole and axes == (*outer, columns, rows) and sorted(op.attributes.sizes) == sorted(shape)


def _move_slices(graph: Graph) -> Graph:
    operations = (_moved_slice(graph, op) if op.kind == "slice" else op for op in graph.operations)
    return replace(graph, operations=tuple(operations))


def _write_recipes(graph: Graph) -> Graph:
    return replace(graph, operations=tuple(_with_recipe(op) for op in graph.operations))


def _with_recipe(op: Operation) -> Operation:
    recipe = RECIPES.get(op.kind)
    return op if recipe is None else replace(op, kind="pointwise", attributes=PointwiseAttributes(recipe))


def _moved_slice(graph: Graph, op: Operation) -> Operation:
    attributes, shape = op.attributes, graph.value(op.outputs[0] or "").shape
    assert isinstance(attributes, SliceAttributes)
    if any(isinstance(dim, Affine) for dim in (*shape, attributes.start)):
        help = "bind the dims of activations; only the length of the past may stay open"
        raise UnsupportedError("a slice of a size that is not known when compiling", where=op.name, help=help)
    starts = [0] * len(shape)
    starts[attributes.axis] = int(attributes.start)  # type: ignore[arg-type]
    place = MoveAttributes(int_shape(shape), tuple(range(len(shape))), tuple(starts), (1,) * len(shape))
    return replace(op, kind="move", attributes=place)


def _flatten_indices(graph: Graph) -> Graph:
    """Reshape index operands to one row unless they are inputs that only such operations read, which lie so anyway."""
    values, operations, consumers, rows = dict(graph.values), list[Operation](), graph.consumers(), dict[str, str]()
    for op in graph.operations:
        inputs = list(op.inputs)
        for place in INDEX_INPUTS.get(op.kind, ()):
            name = inputs[place] if place < len(inputs) else None
            if name is None or len(graph.value(name).shape) < 2 or _lies_in_one_row(graph, consumers[name], name):
                continue
            if name not in rows:
                shape = (1, math.prod(int_shape(graph.value(name).shape)))
                rows[name] = row = f"{name}.{op.name}.row"
                values[row] = Value(row, shape, graph.value(name).dtype)
                reshape = Operation("reshape", f"{op.name}.row{place}", (name,), (row,), ShapeAttributes(shape))
                operations.append(reshape)
            inputs[place] = rows[name]
        operations.append(replace(op, inputs=tuple(inputs)))
    return replace(graph, values=values, operations=tuple(operations))


def _lies_in_one_row(graph: Graph, readers: list[Operation], name: str) -> bool:
    return name in graph.inputs and all(reader.kind in INDEX_INPUTS for reader in readers)


def _join_bags(graph: Graph) -> Graph:
    """Join pooled embeddings of equal size whose indices are inputs of the model, at the place of the first."""
    groups: dict[object, list[Operation]] = {}
    for op in graph.operations:
        if isinstance(op.attributes, EmbeddingBagAttributes) and all(name in graph.inputs for name in op.inputs[::2]):
            dim = graph.value(op.inputs[1] or "").shape[-1]
            groups.setdefault((op.attributes.count, dim), []).append(op)
    joined = {id(group[0]): _joined(group) for group in groups.values()}
    others = {id(op) for group in groups.values() for op in group[1:]}
    operations = tuple(joined.get(id(op), op) for op in graph.operations if id(op) not in others)
    return replace(graph, operations=operations)


def _joined(group: list[Operation]) -> Operation:
    attributes = [op.attributes for op in group if isinstance(op.attributes, EmbeddingBagAttributes)]
    return replace(
        group[0],
        inputs=tuple(name for op in group for name in op.inputs),
        outputs=tuple(name for op in group for name in op.outputs),
        attributes=replace(attributes[0], tables=tuple(table for one in attributes for table in one.tables)),
    )


def _split_double_epilogues(graph: Graph) -> Graph:
    values, operations = dict(graph.values), []
    for op in graph.operations:
        has_both = op.kind == "linear" and None not in (op.inputs[BIAS], op.inputs[RESIDUAL])
        if not has_both or not _gets_scales(op):
            operations.append(op)
            continue
        (output,) = op.outputs
        assert output is not None
        partial = f"{output}.before_residual"
        values[partial] = replace(values[output], name=partial)
        operations.append(replace(op, inputs=(*op.inputs[:3], None, *op.inputs[4:]), outputs=(partial,)))
        operations.append(Operation("add", f"{op.name}.residual", (partial, op.inputs[3]), (output,)))
    return replace(graph, values=values, operations=tuple(operations))


def _gets_scales(linear: Operation) -> bool:
    """Tell whether the sums of a linear get scales on their way out, as x has operands of a byte."""
    assert isinstance(linear.attributes, LinearAttributes)
    return linear.attributes.x_rounding is not None or input_at(linear, ROW_SCALES) is not None


def _write_soon(operations: list[Operation], cached: str | None) -> None:
    """Move what writes a cache right behind what it reads: while the way to DRAM takes long, queries are rotated."""
    place = next((index for index, op in enumerate(operations) if cached in op.outputs), None)
    if place is None or operations[place].kind not in ("rope", "cache_append"):
        return
    read = set(operations[place].inputs)
    behind = max((index for index, op in enumerate(operations[:place]) if read & set(op.outputs)), default=-1)
    operations.insert(behind + 1, operations.pop(place))


def _append_to_caches(graph: Graph) -> Graph:
    values, operations = dict(graph.values), []
    producers, consumers = graph.producers(), graph.consumers()
    for op in graph.operations:
        if op.kind != "attention":
            operations.append(op)
            continue
        assert isinstance(op.attributes, AttentionAttributes)
        inputs, places = list(op.inputs[:PLACES_INPUT]), [name for name in op.inputs[PLACES_INPUT:] if name]
        for index, part in ((1, "key"), (2, "value")):
            name = inputs[index]
            assert name is not None
            producer = producers.get(name)
            is_own_rope = producer is not None and producer.kind == "rope" and len(consumers[name]) == 1
            if index == 1 and is_own_rope and name not in graph.outputs:
                assert producer is not None
                place = operations.index(producer)
                operations[place] = replace(producer, inputs=(*producer.inputs, *places))
                continue
            cached = f"{name}.{op.name}.cached_{part}"
            values[cached] = Value(cached, graph.value(name).shape, graph.value(name).dtype)
            operations.append(Operation("cache_append", f"{op.name}.append_{part}", (name, *places), (cached,)))
            inputs[index] = cached
        for name in (inputs[2], inputs[1]):
            _write_soon(operations, name)
        operations.append(replace(op, inputs=tuple(inputs)))
    return replace(graph, values=values, operations=tuple(operations))
