"""Masks that are neither causal nor padding: a tensor that attention adds to its scores.

Three sources: an input or another value of the graph that is added as it is; a mask that follows from sizes alone,
which becomes a constant (sliding windows, position biases); and, with a static cache, a mask that follows from the
positions of the new tokens. The last is evaluated once for each position; the chip then picks the rows of this table
that belong to its tokens, as it does for rotary tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compiler.dialects.mask import HIDDEN_BELOW, LARGEST_GRID, Grid, MaskPart, Meaning
from compiler.dialects.rewrite import Rewriter
from compiler.dialects.subgraph import Subgraph
from compiler.dialects.tables import all_rows, rows_of_positions
from compiler.evaluate import FLOAT_DTYPES
from compiler.graph import Operation
from compiler.symbols import Undecided
from isa.affine import Affine


@dataclass(frozen=True, slots=True)
class Bias:
    """What is added to the scores, the mask beside it, and the operations that make it."""

    value: str | None
    meaning: Meaning
    operations: tuple[Operation, ...] = ()


class BiasBuilder:
    """Makes biases; layers that share a mask share its bias."""

    def __init__(self, rewriter: Rewriter, subgraph: Subgraph) -> None:
        self._rewriter, self._subgraph, self._graph = rewriter, subgraph, rewriter.graph
        self._known: dict[object, Bias | None] = {}

    def build(self, parts: Sequence[MaskPart], grid: Grid, places: str | None, node: str) -> Bias | None:
        """Return the bias that parts which are evaluable amount to, None if they are no function of the above."""
        key = (tuple(parts), grid, places)
        if key in self._known:
            known = self._known[key]
            return known and Bias(known.value, known.meaning)
        names = sorted(frozenset().union(*(self._subgraph.inputs_of(part.value) for part in parts)))
        keys = grid.past + grid.sequence
        found = None
        if isinstance(keys, int) and grid.sequence * keys <= LARGEST_GRID:
            try:
                if not names:
                    found = self._constant(parts, keys, node)
                elif places in names and keys * keys <= LARGEST_GRID:
                    found = self._by_places(parts, grid, keys, places or "", [n for n in names if n != places], node)
            except (ValueError, IndexError, Undecided):
                found = None
        self._known[key] = found
        return found

    def _constant(self, parts: Sequence[MaskPart], keys: int, node: str) -> Bias:
        array = _widened(self._sum(parts, {}), keys)
        return Bias(self._rewriter.constant(f"{node}/bias", array), Meaning(False, None))

    def _sum(self, parts: Sequence[MaskPart], inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return what all parts together add to the scores, float32."""
        total = np.zeros((1, 1, 1, 1), np.float32)
        for part in parts:
            array = self._subgraph.run(part.value, {}, inputs)
            if part.mode != "additive":
                keep = array.astype(bool) == (part.mode == "keep")
                array = np.where(keep, np.float32(0), np.float32(-np.inf))
            total = total + array.astype(np.float32)
        return total

    def _by_places(
        self, parts: Sequence[MaskPart], grid: Grid, keys: int, places: str, others: list[str], node: str
    ) -> Bias | None:
        """Return the rows of a table by position; flags of keys that are hidden besides stay a keep mask."""
        shape = self._graph.values[places].shape
        batch = rows_of_positions(shape, grid.batch, grid.sequence)
        if batch is None or len(others) > 1 or any(not self._is_flags(name, grid, keys) for name in others):
            return None

        def rows_of(positions: np.ndarray, flags: np.ndarray | None = None) -> np.ndarray:
            given = {places: positions if len(shape) == 2 else positions.reshape((-1,) if shape else ())}
            for name in others:
                given[name] = np.ones((grid.batch, keys), np.int64) if flags is None else flags
            array = self._sum(parts, given)
            if array.shape[1] != 1 or array.shape[0] not in (1, grid.batch):
                raise Undecided("a mask that differs between heads")
            sizes = (array.shape[0], positions.shape[1], keys)
            return np.broadcast_to(array[:, 0], sizes).reshape(-1, keys)[: max(positions.size, sizes[0] * sizes[1])]

        table = all_rows(lambda positions: rows_of(positions)[: positions.size], keys, batch, grid.sequence)
        if not self._is_function(rows_of, table, grid, batch, keys, bool(others)):
            return None
        value = self._picked(table, places, (grid.batch if batch > 1 else 1, grid.sequence), node)
        return Bias(value[0], Meaning(False, others[0] if others else None), (value[1],))

    def _is_flags(self, name: str, grid: Grid, keys: int) -> bool:
        value = self._graph.values[name]
        return value.shape == (grid.batch, keys) and value.dtype not in FLOAT_DTYPES

    def _is_function(
        self, rows_of: object, table: np.ndarray, grid: Grid, batch: int, keys: int, has_flags: bool
    ) -> bool:
        """Tell whether rows depend on nothing but their own position, and flags hide just the keys they belong to."""
        assert callable(rows_of)
        random = np.random.default_rng(0)
        for _ in range(3):
            positions = random.integers(0, keys, (batch, grid.sequence))
            flags = random.random((grid.batch, keys)) < 0.7 if has_flags else np.ones((grid.batch, keys), bool)
            found = rows_of(positions, flags.astype(np.int64)).reshape(-1, grid.sequence, keys)
            expected = np.broadcast_to(table[positions], (max(batch, len(found)), grid.sequence, keys))
            keep = np.broadcast_to(flags[: len(expected) if has_flags else 1, None, :], expected.shape)
            found = np.broadcast_to(found, expected.shape)
            hidden = (expected <= HIDDEN_BELOW) | ~keep
            sees = ~hidden.all(-1, keepdims=True)
            agrees = np.where(hidden, found <= HIDDEN_BELOW, found == expected)
            if not (agrees | ~sees).all():
                return False
        return True

    def _picked(self, table: np.ndarray, places: str, shape: tuple[int, int], node: str) -> tuple[str, Operation]:
        """Return the value that holds the rows of the tokens, and the look-up that makes it."""
        name = self._rewriter.constant(f"{node}/mask_by_position", np.asarray(table, np.float32))
        sizes = (shape[0], 1, shape[1], table.shape[1])
        value = self._rewriter.fresh(f"{node}/mask_rows", sizes, "float32")
        return value, Operation("embedding", f"{node}/mask_rows", (places, name), (value,))

    def given(self, part: MaskPart, grid: Grid, heads: int) -> str | None:
        """Return the value of a part that is added as it is: [batch, heads, sequence, keys], or 1 for each but keys."""
        value = self._graph.value(part.value)
        shape = (*[1] * (4 - len(value.shape)), *value.shape)
        full = (grid.batch, heads, grid.sequence, grid.past + grid.sequence)
        fits = len(shape) == 4 and all(size in (1, whole) for size, whole in zip(shape[:3], full, strict=False))
        is_plain = part.mode == "additive" and value.dtype in FLOAT_DTYPES
        return part.value if fits and is_plain and shape[3] == full[3] and not isinstance(shape[0], Affine) else None


def _widened(array: np.ndarray, keys: int) -> np.ndarray:
    """Return an array [.., keys or 1] with all keys."""
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:-1], keys)))
