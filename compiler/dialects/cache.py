"""How keys and values get into a cache: by Concat behind what is there, or scattered to places in a static cache.

A cache is a value [batch, kv head, position, head_dim] with its axes in any order, as it comes into the graph; what is
written is a projection [batch, sequence, kv_heads * head_dim]. Both are followed through reshapes and transposes by
their forms; where a scatter writes is told by `scatter`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

from compiler.dialects import layout
from compiler.dialects.forms import Forms
from compiler.dialects.layout import Dims
from compiler.dialects.rewrite import Rewriter, integer, is_onnx
from compiler.dialects.scatter import SCATTERS, Scatters
from compiler.dialects.subgraph import Subgraph
from compiler.graph import Operation
from isa.affine import Affine, Dim

Axes = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class CacheWrite:
    """New keys or values on their way into a cache.

    `axes` tells how the operation arranges the cache (its axis k is axis axes[k] of [batch, kv head, position,
    head_dim]), `past_axes` how the graph input does. `places` is None for a Concat.
    """

    operation: Operation
    projection: str
    past: str
    past_axes: Axes
    axes: Axes
    places: str | None
    kv_head_count: int

    def arranged(self, shape: tuple[Dim, ...]) -> Dims:
        """Return the written cache, of this shape, as [batch, kv head, position, head_dim]."""
        dims = layout.source_dims(shape)
        batch, head, position, element = (dims[self.axes.index(axis)] for axis in range(4))
        return batch, head, position, element


def heads_first(source: tuple[Dim, ...], heads: int, head_dim: int) -> Dims:
    """Return the dims of a projection [B, S, H*D] arranged as [B, H, S, D]."""
    form = layout.reshaped(layout.whole("", source), (source[0], source[1], heads, head_dim))
    assert form is not None
    return layout.transposed(form, (0, 2, 1, 3)).dims


class CacheWrites:
    """Finds the writes of a graph; scatters that share their indices are evaluated once."""

    def __init__(self, rewriter: Rewriter, forms: Forms, subgraph: Subgraph) -> None:
        self._rewriter, self._forms = rewriter, forms
        self._graph = rewriter.graph
        self._scatters = Scatters(rewriter.graph, subgraph)

    def find(self, value: str, batch: int, sequence: int, head_dim: int) -> CacheWrite | None:
        """Return the write that makes a four-dimensional value, if it is one."""
        operation = self._rewriter.producer(value, "Concat", *SCATTERS)
        if operation is None or len(operation.inputs) < 2:
            return None
        if is_onnx(operation, "Concat"):
            axis, places, batch_axis = integer(operation, "axis", 0) % 4, None, None
            new = operation.inputs[1]
            if len(operation.inputs) != 2:
                return None
        else:
            scatter = self._scatters.places(operation)
            if scatter is None:
                return None
            places, axis, batch_axis = scatter
            new = operation.inputs[1 if is_onnx(operation, "TensorScatter") else 2]
        form = self._forms[new or ""]
        source = self._graph.value(form.source).shape
        if form.scale != 1.0 or len(source) != 3 or source[:2] != (batch, sequence) or len(form.dims) != 4:
            return None
        columns = source[2]
        if isinstance(columns, Affine) or columns % head_dim:
            return None
        kv_heads = columns // head_dim
        known = {axis: 2} if batch_axis is None else {axis: 2, batch_axis: 0}
        axes = _axes(form.dims, heads_first(source, kv_heads, head_dim), known)
        past = self._past(operation.inputs[0] or "", axes) if axes is not None else None
        if axes is None or past is None:
            return None
        return CacheWrite(operation, form.source, past[0], past[1], axes, places, kv_heads)

    def _past(self, name: str, axes: Axes) -> tuple[str, Axes] | None:
        """Return the cache before and its axes; it may have been transposed on its way from the graph's input."""
        form = self._forms[name]
        source = self._graph.value(form.source).shape
        if form.scale != 1.0 or len(source) != 4:
            return None
        dims = layout.source_dims(source)
        for order in permutations(range(4)):
            if tuple(dims[axis] for axis in order) == form.dims:
                by_source = [axes[order.index(axis)] for axis in range(4)]
                return form.source, (by_source[0], by_source[1], by_source[2], by_source[3])
        return None


def _axes(dims: Dims, arranged: Dims, known: dict[int, int]) -> Axes | None:
    """Return which axis of [batch, head, position, head_dim] each dim is, given those of some."""
    for order in permutations(range(4)):
        if all(order[k] == axis for k, axis in known.items()) and all(
            dims[k] == arranged[axis] for k, axis in enumerate(order)
        ):
            return order  # type: ignore[return-value]
    return None
