"""Shapes of the results of operators that are a whole attention."""

from __future__ import annotations

from compiler.shape_call import Call, Typed
from compiler.symbols import Product, Undecided
from isa.affine import Dim


def attention(call: Call) -> list[Typed]:
    """Attention of ai.onnx: result, keys and values after, scores."""
    query, key, value = (call.fact(index) for index in range(3))
    if len(query.shape) == 4:
        outputs: list[Typed] = [((*query.shape[:3], value.shape[3]), query.dtype)]
        heads, key_size, value_size, length = key.shape[1], key.shape[3], value.shape[3], key.shape[2]
    else:
        query_heads, heads = call.integer("q_num_heads", 0), call.integer("kv_num_heads", 0)
        key_size = Product.of([key.shape[2]]).divided_by(Product.of([heads]))
        value_size = Product.of([value.shape[2]]).divided_by(Product.of([heads]))
        length = key.shape[1]
        outputs = [((*query.shape[:2], query_heads * value_size), query.dtype)]
    if call.has(4):
        length = length + call.fact(4).shape[2]
    if call.has(3) and len(call.fact(3).shape) >= 2 and not _is_shorter(call.fact(3).shape[-1], length):
        call.equal(call.fact(3).shape[-1], length)
    present = [((query.shape[0], heads, length, size), query.dtype) for size in (key_size, value_size)]
    scores: Typed = ((*query.shape[:3], length), query.dtype)
    if len(query.shape) == 3:
        scores = ((query.shape[0], call.integer("q_num_heads", 0), query.shape[1], length), query.dtype)
    return [*outputs, *present, scores][: call.output_count]


def _is_shorter(mask: Dim, keys: Dim) -> bool:
    """Tell whether a mask ends before the keys do: those behind its end are hidden. A length of 1 serves all."""
    return mask == 1 or (isinstance(mask, int) and isinstance(keys, int) and mask < keys)


def multi_head_attention(call: Call) -> list[Typed]:
    """MultiHeadAttention of com.microsoft on flat operands."""
    query, key, value = (call.fact(index) for index in range(3))
    if any(len(fact.shape) != 3 for fact in (query, key, value)):
        raise Undecided("MultiHeadAttention of packed or four-dimensional operands")
    call.equal(key.shape[1], value.shape[1])
    call.equal(query.shape[2], key.shape[2])
    length, heads = key.shape[1], call.integer("num_heads", 1)
    if call.has(6):
        length = length + call.fact(6).shape[2]
    if call.has(5):
        call.equal(call.fact(5).shape[-1], length)
    columns = [Product.of([fact.shape[2]]).divided_by(Product.of([heads])) for fact in (key, value)]
    present = [((query.shape[0], heads, length, size), query.dtype) for size in columns]
    return [((*query.shape[:2], value.shape[2]), query.dtype), *present][: call.output_count]


def group_query_sizes(call: Call) -> tuple[Dim, Dim, Dim]:
    """Return (batch, sequence, head_dim) of a GroupQueryAttention."""
    query = call.fact(0)
    heads, kv_heads = call.integer("num_heads", 0), call.integer("kv_num_heads", 0)
    columns = heads if call.has(1) else heads + 2 * kv_heads
    return query.shape[0], query.shape[1], Product.of([query.shape[2]]).divided_by(Product.of([columns]))


def group_query_attention(call: Call) -> list[Typed]:
    """GroupQueryAttention of com.microsoft, with packed operands or not."""
    batch, sequence, head_dim = group_query_sizes(call)
    kv_heads, dtype = call.integer("kv_num_heads", 0), call.fact(0).dtype
    past = call.fact(3).shape[2] if call.has(3) else 0
    for index in (3, 4):
        if call.has(index):
            expected = (batch, kv_heads, past, head_dim)
            for found, size in zip(call.fact(index).shape, expected, strict=True):
                call.equal(found, size)
    present = ((batch, kv_heads, past + sequence, head_dim), dtype)
    return [((batch, sequence, call.integer("num_heads", 0) * head_dim), dtype), present, present][: call.output_count]
