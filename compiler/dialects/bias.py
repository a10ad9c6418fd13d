"""Masks that are neither causal nor padding: a tensor that attention adds to its scores.

Three sources: an input or another value of the graph that is added as it is; a mask that follows from sizes alone,
which becomes a constant (sliding windows, position biases); and, with a static cache, a mask that follows from the
positions of the new tokens. The last is evaluated once for each position; the chip then picks the rows of this table
that belong to its tokens, as it does for rotary tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True, slots=True)
class _Source:
    """What a mask is made of: parts, and the inputs of positions and of flags per key that they read."""

    parts: Sequence[MaskPart]
    grid: Grid
    keys: int
    places: str | None
    flags: str | None

    def random_flags(self) -> Iterator[np.ndarray]:
        """Yield flags [batch, keys] to try; only ones if nothing reads them."""
        random = np.random.default_rng(0)
        for _ in range(3):
            draw = random.random((self.grid.batch, self.keys))
            yield draw < (0.7 if self.flags else 2.0)


class BiasBuilder:
    """Makes biases; layers that share a mask share its bias."""

    def __init__(self, rewriter: Rewriter, subgraph: Subgraph) -> None:
        self._rewriter, self._subgraph, self._graph = rewriter, subgraph, rewriter.graph
        self._known: dict[object, Bias | None] = {}

    def build(self, parts: Sequence[MaskPart], grid: Grid, places: str | None, node: str) -> Bias | None:
        """Return the bias that evaluable parts amount to, None if they are no function of the above and key flags."""
        key = (tuple(parts), grid, places)
        if key in self._known:
            known = self._known[key]
            return known and Bias(known.value, known.meaning)
        names = frozenset().union(*(self._subgraph.inputs_of(part.value) for part in parts))
        others = sorted(names - {places or ""})
        keys = grid.past + grid.sequence
        found = None
        if isinstance(keys, int) and all(self._is_flags(name, grid, keys) for name in others) and len(others) < 2:
            source = _Source(parts, grid, keys, places if places in names else None, others[0] if others else None)
            if (keys if source.places else grid.sequence) * keys <= LARGEST_GRID:
                try:
                    found = self._by_places(source, node) if source.places else self._constant(source, node)
                except (ValueError, IndexError, Undecided):
                    found = None
        self._known[key] = found
        return found

    def _is_flags(self, name: str, grid: Grid, keys: int) -> bool:
        value = self._graph.values[name]
        return value.shape == (grid.batch, keys) and value.dtype not in FLOAT_DTYPES

    def _constant(self, source: _Source, node: str) -> Bias | None:
        """Return a mask that follows from sizes as a constant; keys that flags hide besides stay a keep mask."""
        array = self._sum(source, {}, np.ones((source.grid.batch, source.keys), bool))
        for flags in source.random_flags():
            if not _differ_by_flags(self._sum(source, {}, flags), array, flags):
                return None
        return Bias(self._rewriter.constant(f"{node}/bias", array), Meaning(False, source.flags))

    def _sum(self, source: _Source, inputs: dict[str, np.ndarray], flags: np.ndarray) -> np.ndarray:
        """Return what all parts together add to the scores, float32 [1 or batch, 1 or heads, 1 or sequence, keys]."""
        total = np.zeros((1, 1, 1, source.keys), np.float32)
        given = {**inputs, **({source.flags: flags.astype(np.int64)} if source.flags else {})}
        for part in source.parts:
            array = self._subgraph.run(part.value, {}, given)
            if part.mode != "additive":
                keep = array.astype(bool) == (part.mode != "hide")
                keep = keep[:, None, None, :] if part.mode == "keys" else keep
                array = np.where(keep, np.float32(0), np.float32(-np.inf))
            total = total + array.astype(np.float32)
        return np.ascontiguousarray(total)

    def _by_places(self, source: _Source, node: str) -> Bias | None:
        """Return the rows of a table by position, if rows depend on nothing but their own position and key flags."""
        grid, keys, shape = source.grid, source.keys, self._graph.values[source.places or ""].shape
        batch = rows_of_positions(shape, grid.batch, grid.sequence)
        if batch is None:
            return None

        def masks_at(positions: np.ndarray, flags: np.ndarray) -> np.ndarray:
            given = positions if len(shape) == 2 else positions.reshape((-1,) if shape else ())
            return self._sum(source, {source.places or "": given}, flags)

        def rows_of(positions: np.ndarray) -> np.ndarray:
            array = masks_at(positions, np.ones((grid.batch, keys), bool))
            if array.shape[1] != 1:
                raise Undecided("a mask that differs between heads")
            return np.broadcast_to(array, (array.shape[0], 1, positions.shape[1], keys)).reshape(-1, keys)[
                : positions.size
            ]

        table = all_rows(rows_of, keys, batch, grid.sequence)
        random = np.random.default_rng(0)
        for flags in source.random_flags():
            positions = random.integers(0, keys, (batch, grid.sequence))
            if not _differ_by_flags(masks_at(positions, flags), table[positions][:, None], flags):
                return None
        value, operation = self._picked(table, source.places or "", (batch, grid.sequence), node)
        return Bias(value, Meaning(False, source.flags), (operation,))

    def _picked(self, table: np.ndarray, places: str, shape: tuple[int, int], node: str) -> tuple[str, Operation]:
        """Return the value that holds the rows of the tokens, and the look-up that makes it."""
        name = self._rewriter.constant(f"{node}/mask_by_position", np.asarray(table, np.float32))
        sizes = (*shape, table.shape[1])
        value = self._rewriter.fresh(f"{node}/mask_rows", sizes, "float32")
        return value, Operation("embedding", f"{node}/mask_rows", (places, name), (value,))

    def given(self, part: MaskPart, grid: Grid, heads: int) -> str | None:
        """Return the value of a part that is added as it is: [batch, heads, sequence, keys], or 1 for each but keys."""
        value = self._graph.value(part.value)
        shape = (*[1] * (4 - len(value.shape)), *value.shape)
        full = (grid.batch, heads, grid.sequence, grid.past + grid.sequence)
        is_known = len(value.shape) != 3 or value.shape[0] == 1  # else ONNX means heads, not sequences
        fits = len(shape) == 4 and all(size in (1, whole) for size, whole in zip(shape[:3], full, strict=False))
        is_plain = part.mode == "additive" and value.dtype in FLOAT_DTYPES
        return (
            part.value
            if fits and is_known and is_plain and shape[3] == full[3] and not isinstance(shape[0], Affine)
            else None
        )


def _differ_by_flags(found: np.ndarray, expected: np.ndarray, flags: np.ndarray) -> bool:
    """Tell whether a mask is the expected one with keys hidden where flags are 0; rows that see nothing may differ."""
    keep = flags[:, None, None, :]
    found, expected, keep = np.broadcast_arrays(found, expected, keep)
    hidden = (expected <= HIDDEN_BELOW) | ~keep
    agrees = np.where(hidden, found <= HIDDEN_BELOW, found == expected)
    return bool((agrees | hidden.all(-1, keepdims=True)).all())
