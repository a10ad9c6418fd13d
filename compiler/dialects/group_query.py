"""com.microsoft GroupQueryAttention -> `rope` and `attention`.

Positions and lengths of this operator come from `seqlens_k` (keys - 1, per sequence) and `total_sequence_length`.
Both are evaluated: with an attention mask of ones they must be what the shapes say, so that token `i` is at position
`past + i`. The operator counts ones, so padding is on the right, whatever the mask looks like; if `seqlens_k` is that
count, these masks are ones first, then zeros:

* without a past, padding changes nothing: no token sees what is behind it;
* a single token of each of several sequences goes to the position that the count says, and the mask hides the rest.

In all other cases the graph requires a mask of ones.
"""

from __future__ import annotations

import numpy as np

from compiler.dialects.rewrite import Rewriter, integer, is_onnx, number
from compiler.dialects.rotary import float_table
from compiler.dialects.subgraph import Subgraph
from compiler.graph import (
    AttentionAttributes,
    Graph,
    InputRange,
    Operation,
    RopeAttributes,
    SliceAttributes,
    Value,
)  # fmt: skip
from compiler.shape_inference import int_shape
from compiler.symbols import Undecided, interval
from isa.affine import Dim, evaluate
from isa.errors import ModelError, UnsupportedError

_REASON = "GroupQueryAttention counts its keys with it; padded sequences are not supported"
_FALLING = "GroupQueryAttention counts its keys with it; padding is on the right, behind the ones"


def fuse_group_query(graph: Graph) -> Graph:
    """Turn each GroupQueryAttention into slices of a packed projection, two `rope`s and an `attention`."""
    rewriter, subgraph = Rewriter(graph), Subgraph(graph)
    positions: dict[str, str] = {}
    for operation in graph.operations:
        if not is_onnx(operation, "GroupQueryAttention") or not _is_plain(graph, operation):
            continue
        flags = _checked_lengths(graph, subgraph, operation)
        mask = flags[0] if len(flags) == 1 and _counts_ones(graph, subgraph, operation, flags[0]) else None
        batch, sequence = graph.value(operation.inputs[0] or "").shape[:2]
        past, before = _past(graph, operation), list[Operation]()
        is_ragged = mask is not None and past != 0 and batch != 1 and sequence == 1
        if mask and is_ragged and mask not in positions:
            positions[mask] = rewriter.fresh(f"{mask}/positions", (1, batch), "int64")
            before = [Operation("count_keys", f"{operation.name}/positions", (mask,), (positions[mask],))]
        for name in flags:
            is_padded = name == mask and (past == 0 or is_ragged)
            requirement = InputRange(name, 0, 1, _FALLING, True) if is_padded else InputRange(name, 1, 1, _REASON)
            if requirement not in rewriter.requirements:
                rewriter.requirements.append(requirement)
        ragged = (mask, positions[mask]) if mask and is_ragged else (None, None)
        rewriter.replace(operation, [*before, *_composites(rewriter, operation, *ragged)])
    return rewriter.build()


def _counts_ones(graph: Graph, subgraph: Subgraph, operation: Operation, mask: str) -> bool:
    """Tell whether the lengths are the ones in each row of a mask less one, for any lengths of the sequences."""
    random = np.random.default_rng(0)
    for bindings in _bindings(graph):
        batch, keys = _shape_at(graph, mask, bindings)
        counts = random.integers(1, keys + 1, (batch, 1))
        flags = (np.arange(keys) < counts).astype(np.int64)
        found = subgraph.run(operation.inputs[5] or "", bindings, {mask: flags})
        if found.reshape(-1).tolist() != (counts - 1).reshape(-1).tolist():
            return False
    return True


def _is_plain(graph: Graph, operation: Operation) -> bool:
    """Tell whether only features with a composite meaning are used."""
    inputs = (*operation.inputs, *[None] * 12)
    off = integer(operation, "local_window_size", -1) == -1 and number(operation, "softcap", 0.0) == 0
    off = off and integer(operation, "smooth_softmax", 0) == 0 and integer(operation, "qk_output", 0) == 0
    packed_or_not = (inputs[1] is None) == (inputs[2] is None)
    tables = not integer(operation, "do_rotary", 0) or all(_is_table(graph, name) for name in inputs[7:9])
    return off and packed_or_not and tables and not any(inputs[9:]) and (inputs[3] is None) == (inputs[4] is None)


def _is_table(graph: Graph, name: str | None) -> bool:
    return name in graph.constants and len(graph.value(name or "").shape) == 2


def _checked_lengths(graph: Graph, subgraph: Subgraph, operation: Operation) -> list[str]:
    """Return the flag inputs that the lengths depend on; raises UnsupportedError if they differ from the shapes."""
    past = _past(graph, operation)
    keys = past + graph.value(operation.inputs[0] or "").shape[1]
    flags: set[str] = set()
    for index, difference in ((5, 1), (6, 0)):
        name = operation.inputs[index] or ""
        if not subgraph.is_evaluable(name):
            raise _unknown_length(operation, index, "it depends on activations")
        flags |= subgraph.inputs_of(name)
        for bindings in _bindings(graph):
            inputs = {flag: np.ones(_shape_at(graph, flag, bindings), np.int64) for flag in subgraph.inputs_of(name)}
            try:
                found = subgraph.run(name, bindings, inputs)
            except Undecided as error:
                raise _unknown_length(operation, index, str(error)) from None
            if not (found == evaluate(keys, bindings) - difference).all():
                raise _unknown_length(
                    operation, index, f"it is {found.reshape(-1)[0]} for {evaluate(keys, bindings)} keys"
                )
    return sorted(flags)


def _bindings(graph: Graph) -> list[dict[str, int]]:
    return [{name: ends[end] for name, ends in graph.symbols.items()} for end in ((0, 1) if graph.symbols else (0,))]


def _shape_at(graph: Graph, name: str, bindings: dict[str, int]) -> tuple[int, ...]:
    return tuple(evaluate(dim, bindings) for dim in graph.values[name].shape)


def _unknown_length(operation: Operation, index: int, why: str) -> UnsupportedError:
    what = f"input {index} of GroupQueryAttention is not the number of keys: {why}"
    return UnsupportedError(what, where=f"node {operation.name!r}", help="export with lengths from the attention_mask")


def _past(graph: Graph, operation: Operation) -> Dim:
    return graph.value(operation.inputs[3]).shape[2] if operation.inputs[3] else 0


def _composites(rewriter: Rewriter, operation: Operation, keep: str | None, positions: str | None) -> list[Operation]:
    """Return slices, ropes and attention; of sequences of different lengths, with their mask and positions."""
    graph = rewriter.graph
    heads, kv_heads = integer(operation, "num_heads", 0), integer(operation, "kv_num_heads", 0)
    query_shape = graph.value(operation.inputs[0] or "").shape
    columns = int(query_shape[2])  # type: ignore[arg-type]
    head_dim = columns // (heads if operation.inputs[1] else heads + 2 * kv_heads)
    parts, operations = _projections(rewriter, operation, heads * head_dim, kv_heads * head_dim)
    past = _past(graph, operation)
    if integer(operation, "do_rotary", 0):
        for index, count in ((0, heads), (1, kv_heads)):
            rope = _rope(rewriter, operation, parts[index], count, head_dim, past, positions)
            operations.append(rope)
            parts[index] = rope.outputs[0] or ""
    scale = number(operation, "scale", 0.0) or head_dim**-0.5
    attributes = AttentionAttributes(heads, kv_heads, head_dim, scale, True, past)
    inputs = (*parts, operation.inputs[3], operation.inputs[4], keep, *((None, positions) if positions else ()))
    outputs = (*operation.outputs, None, None)[:3]
    return [*operations, Operation("attention", operation.name, inputs, outputs, attributes)]


def _projections(
    rewriter: Rewriter, operation: Operation, query_columns: int, key_columns: int
) -> tuple[list[str], list[Operation]]:
    """Return the names of q, k and v, and the slices that make them if they are packed side by side."""
    if operation.inputs[1] is not None:
        return [name or "" for name in operation.inputs[:3]], []
    packed = rewriter.graph.value(operation.inputs[0] or "")
    names, slices, start = [], [], 0
    for letter, size in (("q", query_columns), ("k", key_columns), ("v", key_columns)):
        name = rewriter.fresh(f"{operation.name}/{letter}", (*packed.shape[:2], size), packed.dtype)
        attributes = SliceAttributes(2, start, size)
        slices.append(Operation("slice", f"{operation.name}/{letter}", (packed.name,), (name,), attributes))
        names.append(name)
        start += size
    return names, slices


def _rope(
    rewriter: Rewriter,
    operation: Operation,
    source: str,
    heads: int,
    head_dim: int,
    past: Dim,
    positions: str | None,
) -> Operation:
    value = rewriter.values[source]
    tables = (float_table(rewriter, operation.inputs[7] or ""), float_table(rewriter, operation.inputs[8] or ""))
    sequence = value.shape[1]
    for table in tables:
        _check_rows(rewriter.constants[table].value, interval(past + sequence, rewriter.graph.symbols)[1], head_dim)
    start, is_interleaved = None if positions else past, bool(integer(operation, "rotary_interleaved", 0))
    attributes = RopeAttributes(heads, head_dim, is_interleaved, start)
    rotated = rewriter.fresh(f"{source}/rope", value.shape, value.dtype)
    return Operation("rope", f"{source}/rope", (source, positions, *tables), (rotated,), attributes)


def _check_rows(table: Value, longest: int, head_dim: int) -> None:
    """Check that a rotary table has a row for each position and a column for each pair."""
    rows, columns = int_shape(table.shape)
    if columns != head_dim // 2:
        what = f"the rotary table has {columns} columns for heads of {head_dim}; only whole heads can be rotated"
        raise UnsupportedError(what, where=f"constant {table.name!r}", help="export without partial rotary embedding")
    if rows < longest:
        what = f"the rotary table has {rows} rows, but sequences can have {longest} tokens"
        raise ModelError(what, where=f"constant {table.name!r}", help="bind a shorter cache length")
