"""Gather of rows of a constant float table by integer ids -> `embedding`."""

from __future__ import annotations

from compiler.dialects.rewrite import Rewriter, integer, is_onnx
from compiler.evaluate import FLOAT_DTYPES
from compiler.graph import Graph, Operation

_MIXES_TOKENS = ("MatMul", "Attention", "GroupQueryAttention", "MultiHeadAttention")


def fuse_embeddings(graph: Graph) -> Graph:
    """Turn Gather(table[V, H], ids[B, S]) into `embedding`, where the ids are a graph input."""
    rewriter = Rewriter(graph)
    for operation in graph.operations:
        if not is_onnx(operation, "Gather") or integer(operation, "axis", 0) != 0:
            continue
        table, ids = operation.inputs[0] or "", _uncast(rewriter, operation.inputs[1] or "")
        if table not in graph.constants or ids not in graph.inputs:
            continue
        value = graph.value(table)
        if (
            value.dtype in FLOAT_DTYPES
            and graph.value(ids).dtype in ("int32", "int64")
            and len(value.shape) == 2
            and _feeds_activations(rewriter, operation)
        ):
            rewriter.replace(operation, [Operation("embedding", operation.name, (ids, table), operation.outputs)])
    return rewriter.build()


def _uncast(rewriter: Rewriter, name: str) -> str:
    """Return the ids before a change of integer type."""
    cast = rewriter.producer(name, "Cast")
    return cast.inputs[0] or "" if cast is not None else name


def _feeds_activations(rewriter: Rewriter, gather: Operation) -> bool:
    """Tell rows of a vocabulary from rows of a rotary table: only the former reach a projection before an attention."""
    pending, seen = [gather], {id(gather)}
    while pending:
        for name in pending.pop().outputs:
            for reader in rewriter.consumers.get(name or "", []):
                if reader.kind == "linear":
                    return True
                if id(reader) not in seen and not is_onnx(reader, *_MIXES_TOKENS):
                    seen.add(id(reader))
                    pending.append(reader)
    return False
