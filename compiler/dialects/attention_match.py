"""An attention as it stands in the graph, and the operators that are one: ONNX Attention, MultiHeadAttention.

Both may carry a cache of their own: inputs with the keys and values before, outputs with all of them. Features without
a composite meaning (soft caps, lengths per sequence, scores as an output) are not matched, and so refused later.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.dialects.mask import MaskPart
from compiler.dialects.rewrite import Rewriter, integer, number
from compiler.dialects.subgraph import Subgraph
from compiler.graph import Operation
from isa.affine import Affine


@dataclass(frozen=True, slots=True)
class OwnCache:
    """Keys and values before (None: there are none) and after (None: nobody asks), [batch, heads, tokens, head_dim]."""

    past: tuple[str | None, str | None]
    present: tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class Match:
    """An attention as it stands in the graph: its operands, mask parts and where it ends.

    Operands are [batch, heads, tokens, head_dim], or [batch, tokens, heads * head_dim] if `flat_head_count` is given.
    """

    name: str
    query: str
    key: str
    key_is_transposed: bool
    value: str
    scale: float
    masks: tuple[MaskPart, ...]
    causal: bool
    end: Operation
    flat_head_count: int | None = None
    own_cache: OwnCache | None = None


def _own_cache(operation: Operation, past: tuple[str | None, ...]) -> OwnCache | None:
    outputs = (*operation.outputs, None, None)
    if not any((*past, *outputs[1:3])):
        return None
    return OwnCache((past[0], past[1]), (outputs[1], outputs[2]))


def match_attention(rewriter: Rewriter, subgraph: Subgraph, operation: Operation) -> Match | None:
    """Match the Attention operator of opset 23 and 24, on operands of three or four axes."""
    inputs = (*operation.inputs, *[None] * 6)
    plain = number(operation, "softcap", 0.0) == 0 and len(operation.outputs) <= 3 and inputs[6] is None
    if not plain or (inputs[4] is None) != (inputs[5] is None):
        return None
    masks: tuple[MaskPart, ...] = ()
    if inputs[3] is not None:
        mode = "keep" if rewriter.graph.value(inputs[3]).dtype == "bool" else "additive"
        masks = (MaskPart(inputs[3], mode),)
        if _is_short(rewriter, inputs):
            return None
        if not subgraph.is_evaluable(inputs[3]) and mode == "keep":
            return None
    shape = rewriter.graph.value(inputs[0] or "").shape
    heads = integer(operation, "q_num_heads", 0) if len(shape) == 3 else None
    columns = shape[-1]
    if isinstance(columns, Affine) or heads == 0 or columns % (heads or 1):
        return None
    scale = number(operation, "scale", (columns // (heads or 1)) ** -0.5)
    query, key, value = (name or "" for name in inputs[:3])
    return Match(
        operation.name, query, key, False, value, scale, masks, bool(integer(operation, "is_causal", 0)), operation,
        heads, _own_cache(operation, inputs[4:6]),
    )  # fmt: skip


def _is_short(rewriter: Rewriter, inputs: tuple[str | None, ...]) -> bool:
    """Tell whether a mask ends before the keys do, which hides those behind its end."""
    mask, key = (rewriter.graph.value(inputs[index] or "").shape for index in (3, 1))
    past = rewriter.graph.value(inputs[4]).shape[2] if inputs[4] else 0
    keys = key[2 if len(key) == 4 else 1] + past
    return bool(mask) and mask[-1] != 1 and isinstance(keys, int) and isinstance(mask[-1], int) and mask[-1] < keys


def match_multi_head(rewriter: Rewriter, operation: Operation) -> Match | None:
    """Match com.microsoft MultiHeadAttention on flat operands, with masks per key and added to the scores."""
    inputs = (*operation.inputs, *[None] * 10)
    heads = integer(operation, "num_heads", 0)
    if inputs[3] is not None or any(inputs[8:]) or len(operation.outputs) > 3:
        return None
    columns = rewriter.graph.value(inputs[0] or "").shape[2]
    if heads == 0 or isinstance(columns, Affine) or columns % heads or (inputs[6] is None) != (inputs[7] is None):
        return None
    masks = [MaskPart(inputs[5], "additive")] if inputs[5] is not None else []
    if inputs[4] is not None:
        if len(rewriter.graph.value(inputs[4]).shape) != 2:
            return None
        masks.append(MaskPart(inputs[4], "keys"))
    scale = number(operation, "scale", 0.0) or (columns // heads) ** -0.5
    query, key, value = (name or "" for name in inputs[:3])
    return Match(
        operation.name, query, key, False, value, scale, tuple(masks), bool(integer(operation, "unidirectional", 0)),
        operation, heads, _own_cache(operation, inputs[6:8]),
    )  # fmt: skip
