"""Softmax attention, decomposed or as the opset-23 operator, with its key/value cache -> `attention`.

From each softmax the scores are followed up to their product, past scales and masks, and down past the guard against
NaN to the product with the values. Heads, their repetition and their transposes are read off the forms (see `layout`)
of the three operands; `cache` tells how new keys and values join those of a cache.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from compiler.dialects import layout
from compiler.dialects.attention_match import Match, match_attention, match_multi_head
from compiler.dialects.bias import Bias, BiasBuilder
from compiler.dialects.cache import Axes, CacheWrite, CacheWrites, heads_first
from compiler.dialects.forms import Forms
from compiler.dialects.layout import BROADCAST, Atom, Dims, Form
from compiler.dialects.mask import Grid, MaskClassifier, MaskPart
from compiler.dialects.rewrite import Rewriter, integer, is_onnx, operands
from compiler.dialects.rotary import Heads, split_heads
from compiler.dialects.subgraph import Subgraph
from compiler.graph import AttentionAttributes, Graph, Operation
from isa.affine import Affine, Dim
from isa.errors import UnsupportedError

# Inputs of an attention that has neither bias nor places.
SHORTEST_INPUTS = 6


@dataclass(frozen=True, slots=True)
class Operand:
    """Keys or values: the projection [B, S, KV*D], the cache before, and the name of the cache after (if asked for)."""

    projection: str
    past: str | None
    present: str | None
    write: CacheWrite | None
    kv_head_count: int
    scale: float

    @property
    def cache_axes(self) -> Axes:
        """How the graph arranges the cache."""
        return self.write.past_axes if self.write is not None else (0, 1, 2, 3)

    @property
    def places(self) -> str | None:
        """The input that says where in a static cache new tokens go."""
        return self.write.places if self.write is not None else None


def fuse_attention(graph: Graph) -> Graph:
    """Turn attentions into `attention`; raises UnsupportedError if a mask is not understood and a size is open.

    If all sizes are known, what does not fuse runs by its definition.
    """
    rewriter, subgraph = Rewriter(graph), Subgraph(graph)
    fuser = _Fuser(rewriter, Forms(rewriter, subgraph), MaskClassifier(graph, subgraph), subgraph)
    for operation in graph.operations:
        match = None
        if is_onnx(operation, "Softmax"):
            match = fuser.decomposed(operation)
        elif is_onnx(operation, "Attention"):
            match = match_attention(rewriter, subgraph, operation)
        elif is_onnx(operation, "MultiHeadAttention"):
            match = match_multi_head(rewriter, operation)
        if match is None:
            continue
        try:
            fuser.emit(match)
        except UnsupportedError:
            if graph.symbols:
                raise
    return rewriter.build()


class _Fuser:
    def __init__(self, rewriter: Rewriter, forms: Forms, masks: MaskClassifier, subgraph: Subgraph) -> None:
        self.rewriter, self.forms, self.masks, self.subgraph = rewriter, forms, masks, subgraph
        self.graph = rewriter.graph
        self.biases = BiasBuilder(rewriter, subgraph)
        self.writes = CacheWrites(rewriter, forms, subgraph)

    # --- matching ---------------------------------------------------------------------------------------------------

    def decomposed(self, softmax: Operation) -> Match | None:
        """Match Softmax(scale * Q K^T + mask) V around a softmax over the last axis."""
        shape = self._shape(softmax.inputs[0])
        if len(shape) != 4 or integer(softmax, "axis", -1) % 4 != 3:
            return None
        found = self._scores(softmax.inputs[0] or "")
        product = self._value_product(softmax.outputs[0] or "")
        if found is None or product is None:
            return None
        scores, scale, masks = found
        query, key = (name or "" for name in scores.inputs)
        return Match(softmax.name, query, key, True, product.inputs[1] or "", scale, masks, False, product)

    def _scores(self, name: str) -> tuple[Operation, float, tuple[MaskPart, ...]] | None:
        """Return the product Q K^T under a value, and the scale and masks on the way."""
        scale = 1.0
        masks: list[MaskPart] = []
        while True:
            operation = self.rewriter.producers.get(name)
            if operation is None or operation.kind != "onnx":
                return None
            if is_onnx(operation, "MatMul"):
                return operation, scale, tuple(masks)
            step = self._step(operation)
            if step is None:
                return None
            name, factor, part = step
            scale *= factor
            masks.extend([part] if part else [])

    def _step(self, operation: Operation) -> tuple[str, float, MaskPart | None] | None:
        """Return (the scores below, the factor, the mask) of one operation between product and softmax."""
        if is_onnx(operation, "Add"):
            for scores, mask in operands(operation):
                if self.subgraph.is_evaluable(mask) and not self.subgraph.is_evaluable(scores):
                    return scores, 1.0, MaskPart(mask, "additive")
            left, right = (self._scores(name or "") for name in operation.inputs)
            if (left is None) != (right is None):
                scores, mask = (name or "" for name in (operation.inputs if right is None else operation.inputs[::-1]))
                return scores, 1.0, MaskPart(mask, "additive")
        if is_onnx(operation, "Mul", "Div"):
            factor = self.rewriter.scalar(operation.inputs[1])
            name = operation.inputs[0] or ""
            if factor is None and is_onnx(operation, "Mul"):
                factor, name = self.rewriter.scalar(operation.inputs[0]), operation.inputs[1] or ""
            if factor is not None and factor > 0:
                return name, factor if is_onnx(operation, "Mul") else 1.0 / factor, None
        if is_onnx(operation, "Where") and self.subgraph.is_evaluable(operation.inputs[0] or ""):
            condition, kept, other = (name or "" for name in operation.inputs)
            for scores, hidden, mode in ((kept, other, "keep"), (other, kept, "hide")):
                number_added = self.rewriter.scalar(hidden)
                if number_added is not None and number_added <= -1e4:
                    return scores, 1.0, MaskPart(condition, mode)
        return None

    def _value_product(self, weights: str) -> Operation | None:
        """Return the product of the softmax with the values, past a guard that turns NaN into 0.

        None if the weights are an output of the model: then they are computed, and the product after them.
        """
        readers, names = self.rewriter.consumers.get(weights, []), {weights}
        guards = [reader for reader in readers if is_onnx(reader, "Where") and reader.inputs[2] == weights]
        if len(guards) == 1:
            is_nan = self.rewriter.producer(guards[0].inputs[0], "IsNaN")
            if is_nan is None or is_nan.inputs[0] != weights or self.rewriter.scalar(guards[0].inputs[1]) != 0.0:
                return None
            others = [reader for reader in readers if reader is not guards[0] and reader is not is_nan]
            weights = guards[0].outputs[0] or ""
            names.add(weights)
            readers = [*others, *self.rewriter.consumers.get(weights, [])]
        if not names.isdisjoint(self.graph.outputs):
            return None
        if len(readers) == 1 and is_onnx(readers[0], "MatMul") and readers[0].inputs[0] == weights:
            return readers[0]
        return None

    # --- operands ---------------------------------------------------------------------------------------------------

    def _shape(self, name: str | None) -> tuple[Dim, ...]:
        return self.graph.value(name or "").shape

    def _query(self, match: Match) -> tuple[Form, tuple[int, int, int, int]] | None:
        """Return the form of the queries and (batch, heads, sequence, head_dim)."""
        form, shape = self.forms[match.query], self._shape(match.query)
        if match.flat_head_count is not None:
            return self._flat_query(form, shape, match.flat_head_count)
        if len(shape) != 4 or any(isinstance(dim, Affine) for dim in shape) or form.scale is None:
            return None
        batch, heads, sequence, head_dim = (int(dim) for dim in shape)  # type: ignore[arg-type]
        source = self._shape(form.source)
        if source != (batch, sequence, heads * head_dim) or form.dims != heads_first(source, heads, head_dim):
            return None
        return form, (batch, heads, sequence, head_dim)

    def _flat_query(
        self, form: Form, shape: tuple[Dim, ...], heads: int
    ) -> tuple[Form, tuple[int, int, int, int]] | None:
        """Return the form of queries that are arranged as their projection."""
        if any(isinstance(dim, Affine) for dim in shape) or form.scale is None:
            return None
        batch, sequence, columns = (int(dim) for dim in shape)  # type: ignore[arg-type]
        if self._shape(form.source) != shape or form.dims != layout.source_dims(shape):
            return None
        return form, (batch, heads, sequence, columns // heads)

    def _operand(self, name: str, order: str, sizes: tuple[int, int, int, int]) -> Operand | None:
        """Return the keys or values, given a value [B, H, T, D].

        In the order "columns" it is [B, H, D, T], in the order "flat" [B, T, H*D].
        """
        batch, heads, sequence, head_dim = sizes
        form, scale = self.forms[name], self.forms[name].scale
        source = self._shape(form.source)
        if scale is None:
            return None
        if len(source) == 4:
            write = self.writes.find(form.source, batch, sequence, head_dim)
            if write is None:
                return None
            kv_heads = write.kv_head_count
            if form.dims not in _repeated(write.arranged(source), kv_heads, heads, order):
                return None
            return Operand(write.projection, write.past, self._present(write), write, kv_heads, scale)
        if len(source) != 3 or source[:2] != (batch, sequence) or isinstance(source[2], Affine) or source[2] % head_dim:
            return None
        kv_heads = source[2] // head_dim
        arranged = heads_first(source, kv_heads, head_dim)
        if form.dims not in _repeated(arranged, kv_heads, heads, order):
            return None
        return Operand(form.source, None, self._exposed(form.source, arranged, sizes, kv_heads), None, kv_heads, scale)

    def _with_own_cache(self, match: Match, index: int, operand: Operand | None) -> Operand | None:
        """Give keys (0) or values (1) the cache that the attention operator itself takes and gives."""
        own = match.own_cache
        if own is None or operand is None:
            return operand
        present = own.present[index] if own.present[index] in self.graph.outputs else None
        is_new = operand.write is None and not self.rewriter.consumers.get(own.present[index] or "")
        return dataclasses.replace(operand, past=own.past[index], present=present) if is_new else None

    def _present(self, write: CacheWrite) -> str | None:
        """Return the graph output that holds the cache after, arranged as the cache before."""
        made = write.operation.outputs[0] or ""
        batch, head, position, element = write.arranged(self._shape(made))
        canonical = (batch, head, position, element)
        for output in self.graph.outputs:
            form = self.forms[output]
            is_same = form.source == made and form.scale == 1.0
            is_same = is_same and form.dims == tuple(canonical[axis] for axis in write.past_axes)
            if is_same and not self.rewriter.is_replaced(self.rewriter.producers[output]):
                return output
        return None

    def _exposed(self, source: str, arranged: Dims, sizes: tuple[int, int, int, int], kv_heads: int) -> str | None:
        """Return the graph output that holds a projection arranged as a cache."""
        batch, _, sequence, head_dim = sizes
        for output in self.graph.outputs:
            form = self.forms[output]
            is_cache = self._shape(output) == (batch, kv_heads, sequence, head_dim)
            is_same = form.source == source and form.dims == arranged and form.scale == 1.0
            if is_cache and is_same and not self.rewriter.is_replaced(self.rewriter.producers[output]):
                return output
        return None

    # --- writing ----------------------------------------------------------------------------------------------------

    def emit(self, match: Match) -> None:
        """Replace a match; leaves the graph as it is if an operand has another arrangement."""
        found = self._query(match)
        if found is None:
            return
        form, sizes = found
        order = "flat" if match.flat_head_count is not None else "keys"
        key = self._operand(match.key, "columns" if match.key_is_transposed else order, sizes)
        value = self._operand(match.value, order, sizes)
        key, value = (self._with_own_cache(match, index, operand) for index, operand in enumerate((key, value)))
        if key is None or value is None or key.kv_head_count != value.kv_head_count or value.scale != 1.0:
            return
        past = self._past(key, value, match)
        if past is None:
            return
        batch, heads, sequence, head_dim = sizes
        mask = self._mask(match, Grid(batch, sequence, past), heads, key.places)
        causal = self._own_causal(match, past) or mask.meaning.causal
        scale = match.scale * key.scale * (form.scale or 0.0)
        attributes = AttentionAttributes(heads, key.kv_head_count, head_dim, scale, causal, past, key.cache_axes)
        self._replace(match, form.source, key, value, mask, attributes, sizes)

    def _mask(self, match: Match, grid: Grid, heads: int, places: str | None) -> Bias:
        """Return what the masks of a match mean; raises UnsupportedError if that is not understood."""
        evaluable = [part for part in match.masks if self.subgraph.is_evaluable(part.value)]
        given = [self.biases.given(part, grid, heads) for part in match.masks if part not in evaluable]
        if len(given) > 1 or None in given:
            raise self._unknown_mask(match, [part for part in match.masks if part not in evaluable])
        try:
            meaning = self.masks.classify(evaluable, grid, match.name)
        except UnsupportedError:
            bias = None if given else self.biases.build(evaluable, grid, places, match.name)
            if bias is None:
                raise
            return bias
        return Bias(given[0] if given else None, meaning)

    def _unknown_mask(self, match: Match, parts: list[MaskPart]) -> UnsupportedError:
        shapes = ", ".join(f"{part.value} [{', '.join(map(str, self._shape(part.value)))}]" for part in parts)
        what = f"the attention mask is computed from activations: {shapes}"
        help = "give one additive mask as an input, [batch, heads, sequence, keys] or 1 for each of the first three"
        return UnsupportedError(what, where=f"node {match.name!r}", help=help)

    def _past(self, key: Operand, value: Operand, match: Match) -> Dim | None:
        """Return the length of the cache; None if keys and values differ in it."""
        are_alike = (key.cache_axes, key.places, key.past is None) == (
            value.cache_axes,
            value.places,
            value.past is None,
        )
        lengths = [
            self._shape(operand.past)[operand.cache_axes.index(2)] if operand.past else 0 for operand in (key, value)
        ]
        if not are_alike or lengths[0] != lengths[1]:
            return None
        return lengths[0] if key.places is None else lengths[0] - self._sequence(match)

    def _sequence(self, match: Match) -> Dim:
        """Return the number of new tokens."""
        return self._shape(match.query)[1 if match.flat_head_count is not None else 2]

    def _own_causal(self, match: Match, past: Dim) -> bool:
        if match.causal and past != 0 and match.own_cache is None:
            what = "is_causal with keys from a cache aligns queries with the first keys"
            raise UnsupportedError(what, where=f"node {match.name!r}", help="give the mask as an input")
        return match.causal

    def _replace(
        self, match: Match, query: str, key: Operand, value: Operand, mask: Bias,
        attributes: AttentionAttributes, sizes: tuple[int, int, int, int],
    ) -> None:  # fmt: skip
        batch, heads, sequence, head_dim = sizes
        end = match.end.outputs[0] or ""
        dtype = self.graph.value(end).dtype
        is_flat = match.flat_head_count is not None
        merged = end if is_flat else self.rewriter.fresh(f"{end}/attention", (batch, sequence, heads * head_dim), dtype)
        inputs: tuple[str | None, ...] = (
            query, key.projection, value.projection, key.past, value.past, mask.meaning.keep, mask.value, key.places,
        )  # fmt: skip
        while inputs[-1] is None and len(inputs) > SHORTEST_INPUTS:
            inputs = inputs[:-1]
        attention = Operation("attention", match.name, inputs, (merged, key.present, value.present), attributes)
        arrangement = Heads(batch, sequence, heads, head_dim, (0, 2, 1, 3))
        split = [] if is_flat else split_heads(self.rewriter, merged, end, arrangement, match.name)
        self.rewriter.replace(match.end, [*mask.operations, attention, *split])
        for operand in (key, value):
            if operand.present is not None and operand.present not in match.end.outputs:
                self.rewriter.replace(self.rewriter.producers[operand.present], [])


def _repeated(dims: Dims, kv_heads: int, heads: int, order: str) -> tuple[Dims, ...]:
    """Return the arrangements that keys or values [B, KV, T, D] can have: as they are, or each head repeated."""
    batch, head, keys, elements = dims
    repeated = (*head, Atom(BROADCAST, 1, heads // max(kv_heads, 1)))
    can_repeat = kv_heads != 0 and heads % kv_heads == 0 and heads != kv_heads
    found: list[Dims] = []
    for each in (repeated, head) if can_repeat else (head,):
        if order == "flat":
            found.append(layout.merged((batch, keys, (*each, *elements))))
        else:
            found.append((batch, each, elements, keys) if order == "columns" else (batch, each, keys, elements))
    return tuple(found)
