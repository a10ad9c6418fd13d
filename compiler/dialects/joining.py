"""Concat of computed rows along the last axis -> `join`: each part is written where it stands in the whole."""

from __future__ import annotations

from compiler.dialects.rewrite import Rewriter, integer, is_onnx
from compiler.evaluate import FLOAT_DTYPES
from compiler.graph import Graph, Operation

COLUMN_STEP = 32
"""Parts have a multiple of this many columns, so that in every element type they start where rows may start."""
WRITERS = ("linear", "embedding_bag", "interaction", "add")
"""Kinds whose kernels write rows at any pitch."""


def fuse_joins(graph: Graph) -> Graph:
    """Turn Concats of rows that have no other place yet into `join`."""
    rewriter, placed = Rewriter(graph), set[str]()
    for operation in graph.operations:
        if not is_onnx(operation, "Concat"):
            continue
        parts = [name or "" for name in operation.inputs]
        rank = len(graph.value(operation.outputs[0] or "").shape)
        can_be_placed = len(set(parts)) == len(parts) and placed.isdisjoint(parts)
        if (
            can_be_placed
            and integer(operation, "axis", 0) % rank == rank - 1
            and all(_is_written_in_rows(rewriter, name) for name in parts)
        ):
            placed.update(parts)
            rewriter.replace(operation, [Operation("join", operation.name, operation.inputs, operation.outputs)])
    return rewriter.build()


def _is_written_in_rows(rewriter: Rewriter, name: str) -> bool:
    value, producer = rewriter.graph.value(name), rewriter.producers.get(name)
    columns = value.shape[-1]
    return (
        producer is not None
        and producer.kind in WRITERS
        and value.dtype in FLOAT_DTYPES
        and isinstance(columns, int)
        and columns % COLUMN_STEP == 0
    )
