"""Rotary position embedding in all spellings -> `rope` on the projection layout [batch, sequence, heads * head_dim].

Decomposed rotations are found by their form (see `layout`): two joined pieces `x0*c - x1*s` and `x1*c + x0*s`, where
x0 and x1 are picked from the halves of each head or from its pairs. RotaryEmbedding (opset 23 and com.microsoft) is
taken directly. Where the factors come from is left to `tables`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from compiler.dialects import layout
from compiler.dialects.forms import Forms
from compiler.dialects.layout import JOIN, Atom, Form, Term
from compiler.dialects.rewrite import Rewriter, integer, is_onnx, onnx_attributes
from compiler.dialects.subgraph import Subgraph
from compiler.dialects.tables import Column, Table, TableBuilder
from compiler.graph import Graph, OnnxAttributes, Operation, RopeAttributes
from compiler.shape_inference import int_shape
from isa.affine import Dim
from isa.errors import UnsupportedError

# Tables of two places in a head may differ by rounding of equal computations only.
TABLE_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Heads:
    """How a value arranges the heads of a projection [batch, sequence, heads * head_dim]."""

    batch: int
    sequence: int
    head_count: int
    head_dim: int
    order: tuple[int, ...]


def heads_of(form: Form, dims: layout.Dims, source: tuple[Dim, ...], shape: tuple[Dim, ...]) -> Heads | None:
    """Return the arrangement if a value is [B, H, S, D] or [B, S, H, D] of a projection [B, S, H*D]."""
    if len(source) != 3 or any(not isinstance(dim, int) for dim in (*source, *shape)):
        return None
    batch, sequence, columns = (int(dim) for dim in source)  # type: ignore[arg-type]
    head_dim = int(shape[-1])  # type: ignore[arg-type]
    if len(shape) == 3 and shape == source and dims == layout.source_dims(source):
        return Heads(batch, sequence, 0, 0, (0, 1, 2))
    if len(shape) != 4 or head_dim == 0 or columns % head_dim:
        return None
    split = (batch, sequence, columns // head_dim, head_dim)
    for order in ((0, 2, 1, 3), (0, 1, 2, 3)):
        whole = layout.reshaped(layout.whole(form.source, source), split)
        in_order = tuple(split[axis] for axis in order)
        if whole is not None and shape == in_order and dims == layout.transposed(whole, order).dims:
            return Heads(*split, order)
    return None


def split_heads(rewriter: Rewriter, source: str, output: str, heads: Heads, name: str) -> list[Operation]:
    """Return the operations that arrange a projection as `output` (the inverse of what `heads_of` found)."""
    graph = rewriter.graph
    split = (heads.batch, heads.sequence, heads.head_count, heads.head_dim)
    target = rewriter.constant(f"{output}/heads", np.array(split, np.int64))
    dtype = graph.value(output).dtype
    view = rewriter.fresh(f"{output}/view", split, dtype)
    reshape = Operation("onnx", f"{name}/reshape", (source, target), (view,), OnnxAttributes("", "Reshape"))
    attributes = OnnxAttributes("", "Transpose", (("perm", heads.order),))
    return [reshape, Operation("onnx", f"{name}/transpose", (view,), (output,), attributes)]


def fuse_rotary(graph: Graph) -> Graph:
    """Turn rotations of linear results into `rope`; raises UnsupportedError if the positions are not understood."""
    rewriter, subgraph = Rewriter(graph), Subgraph(graph)
    forms, builder = Forms(rewriter, subgraph), TableBuilder(graph, subgraph)
    emitter = _Emitter(rewriter, builder)
    for operation in graph.operations:
        if is_onnx(operation, "RotaryEmbedding"):
            _fuse_direct(emitter, forms, operation)
        elif operation.kind == "onnx":
            for name in operation.outputs:
                if name:
                    _fuse_rotation(emitter, forms, operation, name)
    return rewriter.build()


class _Emitter:
    """Writes `rope` operations; equal tables become one pair of constants."""

    def __init__(self, rewriter: Rewriter, builder: TableBuilder) -> None:
        self.rewriter, self.builder = rewriter, builder
        self._constants: dict[tuple[Column, Column], tuple[str, str]] = {}
        self._rotated: set[str] = set()

    def follows_rope(self, operation: Operation, name: str) -> bool:
        """Tell whether a value only arranges or scales what a rope has been written for already."""
        if self._rotated.isdisjoint(argument for argument in operation.inputs if argument):
            return False
        self._rotated.add(name)
        return True

    def emit(
        self,
        operation: Operation,
        output: str,
        source: str,
        heads: Heads,
        columns: tuple[Column, Column],
        interleaved: bool,
    ) -> None:
        """Replace `operation`, which makes `output`, by a rope of `source`."""
        cos, sin = (self.builder.table(c, heads.batch, heads.sequence, operation.name) for c in columns)
        if columns not in self._constants:
            names = (self.rewriter.constant("rotary_cos", cos.rows), self.rewriter.constant("rotary_sin", sin.rows))
            self._constants[columns] = names
        self.emit_with(operation, output, source, heads, self._constants[columns], cos, interleaved)

    def emit_with(
        self,
        operation: Operation,
        output: str,
        source: str,
        heads: Heads,
        tables: tuple[str, str],
        table: Table,
        interleaved: bool,
    ) -> None:
        """Replace `operation` by a rope with tables that are constants already."""
        self._rotated.add(output)
        value = self.rewriter.graph.value(source)
        attributes = RopeAttributes(heads.head_count, heads.head_dim, interleaved, table.start)
        is_flat = len(heads.order) == 3
        rotated = output if is_flat else self.rewriter.fresh(f"{output}/rope", value.shape, value.dtype)
        rope = Operation("rope", f"{operation.name}/rope", (source, table.positions, *tables), (rotated,), attributes)
        split = [] if is_flat else split_heads(self.rewriter, rotated, output, heads, operation.name)
        self.rewriter.replace(operation, [rope, *split])


# --- decomposed rotations ------------------------------------------------------------------------------------------


def _fuse_rotation(emitter: _Emitter, forms: Forms, operation: Operation, name: str) -> None:
    form = forms[name]
    atom = layout.picked_atom(form)
    if len(form.pieces) != 2 or any(len(terms) != 2 for terms in form.pieces) or atom is None or atom.size != 2:
        return
    graph = emitter.rewriter.graph
    source = graph.value(form.source).shape
    if emitter.follows_rope(operation, name):
        return
    heads = heads_of(form, layout.without_join(form, atom), source, graph.value(name).shape)
    if heads is None or len(heads.order) == 3:
        return
    half = heads.head_dim // 2
    if atom.axis != 2 or atom.stride not in (1, half) or half < 2:
        return
    terms = _ordered_terms(form)
    if terms is None:
        return
    pairs = [[_column(emitter, form, term, atom, half, piece) for term in terms[piece]] for piece in (0, 1)]
    if any(column is None for columns in pairs for column in columns):
        return
    (cos, minus_sin), (sin, other_cos) = pairs
    assert cos is not None and minus_sin is not None and sin is not None and other_cos is not None
    _check_equal(emitter, heads, operation, cos, other_cos, 1.0)
    _check_equal(emitter, heads, operation, sin, minus_sin, -1.0)
    emitter.emit(operation, name, form.source, heads, (cos, sin), atom.stride == 1)


def _ordered_terms(form: Form) -> list[list[Term]] | None:
    """Return the terms of each piece ordered by the part of the pair they read, None if they do not read both."""
    result = []
    for terms in form.pieces:
        ordered = sorted(terms, key=lambda term: term.picks[-1][1] if term.picks else -1)
        if [len(term.picks) for term in ordered] != [1, 1] or [term.picks[0][1] for term in ordered] != [0, 1]:
            return None
        result.append(ordered)
    return result


def _column(emitter: _Emitter, form: Form, term: Term, atom: Atom, half: int, piece: int) -> Column | None:
    """Return which elements of a term's factor multiply the pairs of a head."""
    factor = term.factor
    if factor is None:
        return None
    shape = emitter.rewriter.graph.value(factor.value).shape
    place = term.picks[0][1]
    pairs = np.arange(half)
    channels = place * atom.stride + pairs * (2 if atom.stride == 1 else 1)
    index = np.zeros(half, np.int64)
    for part in factor.dims[-1]:
        digit = np.full(half, piece) if part.axis == JOIN else channels // part.stride % int(part.size)  # type: ignore[arg-type]
        if part.axis not in (JOIN, 2):
            return None
        index = index * int(part.size) + digit  # type: ignore[arg-type]
    if shape[-1] == 1:
        index = np.zeros(half, np.int64)
    by_batch = _varies_by_batch(factor.dims, shape)
    return None if by_batch is None else Column(factor.value, by_batch, tuple(index.tolist()), term.scale)


def _varies_by_batch(dims: layout.Dims, shape: tuple[Dim, ...]) -> bool | None:
    """Tell whether a factor has a batch axis; None if it has an axis other than batch and sequence, in this order."""
    found = []
    for axis in range(-min(len(dims), len(shape)), -1):
        if shape[axis] != 1:
            found.append([atom.axis for atom in dims[axis]])
    return [0] in found if found in ([], [[0]], [[1]], [[0], [1]]) else None


def _check_equal(
    emitter: _Emitter, heads: Heads, operation: Operation, left: Column, right: Column, sign: float
) -> None:
    tables = [emitter.builder.table(column, heads.batch, heads.sequence, operation.name) for column in (left, right)]
    if not np.allclose(tables[0].rows, sign * tables[1].rows, rtol=0, atol=TABLE_TOLERANCE, equal_nan=True):
        help = "supported: x0*cos - x1*sin, x1*cos + x0*sin over halves or neighbouring pairs of each head"
        raise UnsupportedError(
            "the two parts of each pair are rotated differently", where=f"node {operation.name!r}", help=help
        )


# --- RotaryEmbedding -----------------------------------------------------------------------------------------------


def _fuse_direct(emitter: _Emitter, forms: Forms, operation: Operation) -> None:
    """RotaryEmbedding: (X, cos, sin, positions) of opset 23, (X, positions, cos, sin) of com.microsoft."""
    graph = emitter.rewriter.graph
    if integer(operation, "rotary_embedding_dim", 0) != 0:
        return
    if onnx_attributes(operation).domain == "":
        cos, sin, positions = (*operation.inputs[1:3], operation.inputs[3] if len(operation.inputs) > 3 else None)
    else:
        positions, cos, sin = operation.inputs[1:4]
    if cos is None or sin is None:
        return
    shape = graph.value(cos).shape
    heads = _direct_heads(emitter, forms, operation, shape[-1]) if shape and shape == graph.value(sin).shape else None
    if heads is None or shape[-1] != heads.head_dim // 2:
        return
    source = forms[operation.inputs[0] or ""].source
    interleaved = bool(integer(operation, "interleaved", 0))
    output = operation.outputs[0] or ""
    if positions is None:
        if any(len(graph.value(name).shape) != 3 or not emitter.builder.can_build(name) for name in (cos, sin)):
            return
        half = tuple(range(heads.head_dim // 2))
        columns = [Column(name, graph.value(name).shape[0] != 1, half, 1.0) for name in (cos, sin)]
        emitter.emit(operation, output, source, heads, (columns[0], columns[1]), interleaved)
    elif positions in graph.inputs and graph.value(positions).shape == (heads.batch, heads.sequence):
        if any(name not in graph.constants or len(graph.value(name).shape) != 2 for name in (cos, sin)):
            return
        tables = (float_table(emitter.rewriter, cos), float_table(emitter.rewriter, sin))
        table = Table(np.zeros((0, 0), np.float32), positions, None)
        emitter.emit_with(operation, output, source, heads, tables, table, interleaved)


def _direct_heads(emitter: _Emitter, forms: Forms, operation: Operation, half: Dim) -> Heads | None:
    """Return how the input arranges its heads; without a head count, the width of the table tells their size."""
    graph = emitter.rewriter.graph
    form = forms[operation.inputs[0] or ""]
    shape, source = graph.value(operation.inputs[0] or "").shape, graph.value(form.source).shape
    if form.scale != 1.0:
        return None
    heads = heads_of(form, form.dims, source, shape)
    if heads is None or len(heads.order) == 4:
        return heads if heads is None or heads.order == (0, 2, 1, 3) else None
    (columns,) = int_shape(shape[2:])
    count = integer(operation, "num_heads", 0) or columns // max(2 * int_shape((half,))[0], 1)
    if count == 0 or columns % count:
        return None
    return Heads(heads.batch, heads.sequence, count, columns // count, (0, 1, 2))


def float_table(rewriter: Rewriter, name: str) -> str:
    """Return a constant table as float32 (its data may be absent)."""
    constant = rewriter.constants[name]
    if constant.value.dtype == "float32":
        return name
    fresh = f"{name}/float32"
    if fresh not in rewriter.constants:
        source = None if constant.source is None else np.asarray(constant.load()).astype(np.float32)
        value = dataclasses.replace(constant.value, name=fresh, dtype="float32")
        rewriter.constants[fresh] = dataclasses.replace(constant, value=value, source=source)
    return fresh
