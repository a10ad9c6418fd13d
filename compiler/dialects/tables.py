"""Rotary tables: what cos and sin factors of a graph are as a function of the position.

A factor is evaluated, in fp32, instead of being recognised: when it depends on an integer input [batch, sequence],
that input is the positions and is run through 0, 1, 2, ...; when it depends on sizes only, row `past + i` of the
table is what token `i` gets at each length `past` of the range. The result is checked to be a function of the
position alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from compiler.dialects.rewrite import is_onnx
from compiler.dialects.scatter import SCATTERS, Scatters
from compiler.dialects.subgraph import Subgraph
from compiler.evaluate import FLOAT_DTYPES
from compiler.graph import Graph
from compiler.shape_inference import int_shape
from compiler.symbols import Undecided, interval
from isa.affine import Affine, Dim
from isa.errors import ModelError, UnsupportedError


@dataclass(frozen=True, slots=True)
class Column:
    """Elements of a factor that make one table: whether it has a batch axis, and the indices along its last axis."""

    value: str
    by_batch: bool
    indices: tuple[int, ...]
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows by position, [positions, head_dim / 2] float32, and where the positions come from."""

    rows: np.ndarray
    positions: str | None
    start: Dim | None


def static_lengths(graph: Graph, subgraph: Subgraph) -> dict[str, int]:
    """Map each input that says where in a static cache tokens go to the number of positions there are."""
    scatters, lengths = Scatters(graph, subgraph), dict[str, int]()
    for operation in graph.operations:
        place = scatters.places(operation) if is_onnx(operation, *SCATTERS) else None
        if place is not None:
            (length,) = int_shape((graph.value(operation.inputs[0] or "").shape[place.axis],))
            lengths[place.name] = min(length, lengths.get(place.name, length))
    return lengths


def longest_sequence(graph: Graph, sequence: int) -> int:
    """Return the highest number of tokens a sequence can have: the longest cache plus the new tokens."""
    caches = [graph.values[name] for name in graph.inputs if graph.values[name].dtype in FLOAT_DTYPES]
    lengths = [interval(value.shape[2], graph.symbols)[1] for value in caches if len(value.shape) == 4]
    return sequence + max(lengths, default=0)


class TableBuilder:
    """Builds the tables of a graph; equal columns are evaluated once."""

    def __init__(self, graph: Graph, subgraph: Subgraph) -> None:
        self._graph, self._subgraph = graph, subgraph
        self._lengths = static_lengths(graph, subgraph)
        self._tables: dict[tuple[Column, int, int], Table] = {}

    def can_build(self, name: str) -> bool:
        """Tell whether a factor follows from sizes, constants and integer inputs."""
        return self._subgraph.is_evaluable(name)

    def table(self, column: Column, batch: int, sequence: int, node: str) -> Table:
        """Return the table of a column; raises UnsupportedError if it is no function of one position per token."""
        key = (column, batch, sequence)
        if key not in self._tables:
            try:
                self._tables[key] = self._build(column, batch, sequence, node)
            except (ValueError, IndexError, Undecided) as error:
                longest = max([longest_sequence(self._graph, sequence), *self._lengths.values()])
                what = f"the rotary table of {node!r} cannot be evaluated for {longest} positions: {error}"
                help = "bind a shorter sequence, or export with a longer table"
                raise ModelError(what, where=self._graph.name, help=help) from None
        return self._tables[key]

    def _build(self, column: Column, batch: int, sequence: int, node: str) -> Table:
        inputs = sorted(self._subgraph.inputs_of(column.value))
        if not inputs:
            return self._from_sizes(column, batch, sequence, node)
        rows = rows_of_positions(self._graph.values[inputs[0]].shape, batch, sequence)
        if len(inputs) > 1 or rows is None:
            what = f"the rotary positions depend on {', '.join(inputs)}, which is no [batch, sequence] of positions"
            raise UnsupportedError(what, where=f"node {node!r}", help="export with a position_ids input")
        return self._from_positions(column, inputs[0], rows, sequence, node)

    def _from_positions(self, column: Column, name: str, batch: int, sequence: int, node: str) -> Table:
        count = self._lengths.get(name) or longest_sequence(self._graph, sequence)
        rank = len(self._graph.values[name].shape)
        shortest, longest = ({symbol: ends[end] for symbol, ends in self._graph.symbols.items()} for end in (0, 1))

        def rows_of(positions: np.ndarray, bindings: Mapping[str, int] = shortest) -> np.ndarray:
            given = positions if rank == 2 else positions.reshape((-1,) if rank else ())
            array = self._subgraph.run(column.value, bindings, {name: given})
            return _rows(array, column, positions.shape).reshape(positions.size, -1)

        rows = all_rows(rows_of, count, batch, sequence)
        shuffled = np.random.default_rng(0).integers(0, count, (batch, sequence))
        for bindings in (shortest, longest):
            if not np.array_equal(rows_of(shuffled, bindings), rows[shuffled.reshape(-1)]):
                raise _no_function(node)
        return Table(rows, name, None)

    def _from_sizes(self, column: Column, batch: int, sequence: int, node: str) -> Table:
        symbols = sorted(self._subgraph.symbols_of(column.value))
        if len(symbols) > 1:
            what = f"the rotary positions depend on several symbols: {', '.join(symbols)}"
            raise UnsupportedError(what, where=f"node {node!r}", help="bind all but one of them")
        if not symbols:
            return Table(self._rows_at({}, column, batch, sequence, node), None, 0)
        symbol = symbols[0]
        low, high = self._graph.symbols[symbol]
        rows = self._rows_of_a_range(column, symbol, batch, sequence, node)
        for past in _samples(low, high):
            found = self._rows_at({symbol: past}, column, batch, sequence, node)
            if not np.array_equal(rows[past - low : past - low + sequence], found):
                raise _no_function(node)
        return Table(rows, None, Affine.symbol(symbol) - low)

    def _rows_of_a_range(self, column: Column, symbol: str, batch: int, sequence: int, node: str) -> np.ndarray:
        """Return the rows of all lengths: at once through the positions if the graph allows it, else one by one."""
        low, high = self._graph.symbols[symbol]
        roots = self._subgraph.integer_roots_of(column.value)
        if len(roots) == 1:
            first = self._subgraph.run(roots[0], {symbol: low}, {})
            positions = int(first.min()) + np.arange(high - low + sequence)
            for axis in [axis for axis, size in enumerate(first.shape) if size == sequence]:
                shape = (*first.shape[:axis], positions.size, *first.shape[axis + 1 :])
                try:
                    given = {roots[0]: positions.reshape(shape)}
                    array = self._subgraph.run(column.value, {symbol: low}, given)
                    return np.asarray(_rows(array, column, (1, positions.size))[0])
                except (ValueError, IndexError, Undecided):
                    continue
        rows = np.zeros((high - low + sequence, len(column.indices)), np.float32)
        for past in (*range(low, high + 1, sequence), high):
            rows[past - low : past - low + sequence] = self._rows_at({symbol: past}, column, batch, sequence, node)
        return rows

    def _rows_at(self, bindings: Mapping[str, int], column: Column, batch: int, sequence: int, node: str) -> np.ndarray:
        rows = _rows(self._subgraph.run(column.value, bindings, {}), column, (batch, sequence))
        if not (rows == rows[:1]).all():
            raise _no_function(node)
        return np.asarray(rows[0])


def _samples(low: int, high: int) -> list[int]:
    """Return the ends of a range, their neighbours and some lengths between."""
    between = np.linspace(low, high, 9).astype(int).tolist()
    return sorted({low, min(low + 1, high), max(high - 1, low), high, *between})


def _no_function(node: str) -> UnsupportedError:
    what = "the rotary factors are no function of the position of each token"
    return UnsupportedError(
        what, where=f"node {node!r}", help="supported: positions 0, 1, 2, ... or a position_ids input"
    )


def rows_of_positions(shape: tuple[Dim, ...], batch: int, sequence: int) -> int | None:
    """Return how many sequences an input gives positions for: all, or one for all; None if it is no such input."""
    by_shape: dict[tuple[Dim, ...], int] = {(sequence,): 1, (1, sequence): 1, (batch, sequence): batch}
    if sequence == 1:
        by_shape |= {(): 1, (batch,): batch}
    return by_shape.get(shape)


def all_rows(rows_of: Callable[[np.ndarray], np.ndarray], count: int, batch: int, sequence: int) -> np.ndarray:
    """Return the rows of all positions: at once if the graph allows another sequence length, else in its own."""
    width = -(-count // batch)
    try:
        return rows_of(np.arange(width * batch).reshape(batch, width))[:count]
    except (ValueError, IndexError, Undecided):
        chunks = []
        for start in range(0, count, batch * sequence):
            positions = np.minimum(np.arange(start, start + batch * sequence), count - 1)
            chunks.append(rows_of(positions.reshape(batch, sequence)))
        return np.concatenate(chunks)[:count]


def _rows(array: np.ndarray, column: Column, shape: tuple[int, ...]) -> np.ndarray:
    """Return the column as [batch, sequence, head_dim / 2]; raises ValueError if the factor has other axes."""
    sizes = [size for size in array.shape[:-1] if size != 1]
    if sizes == [size for size in shape if size != 1]:
        target = shape
    elif sizes in ([], [shape[1]]) and not column.by_batch:
        target = (1, *(sizes or [1]))
    else:
        raise ValueError(f"a factor of shape {list(array.shape)} for positions of shape {list(shape)}")
    rows = array.reshape(*target, array.shape[-1])[..., list(column.indices)].astype(np.float32)
    return np.broadcast_to(rows * np.float32(column.scale), (*shape, len(column.indices)))
