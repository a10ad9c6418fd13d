"""What an attention mask means, found by running it.

Exporters spell masks in dozens of ways, so none is matched. The subgraph of the mask, which depends on sizes and on
at most one input of flags per key, is evaluated on several lengths of the cache (its bounds and the lengths next to
them) and on all-ones, left-padded, right-padded and random flags, and compared with the four hypotheses causal,
causal and keep, none, keep. One that agrees everywhere is the meaning; if none does, the model is refused and never
guessed at. Rows in which the hypothesis hides every key are not compared: their outputs carry no meaning (exporters
differ in them).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compiler.dialects.subgraph import Subgraph
from compiler.evaluate import FLOAT_DTYPES
from compiler.graph import Graph
from compiler.symbols import Undecided, interval
from isa.affine import Dim, evaluate, symbols_of
from isa.errors import UnsupportedError

# What is added to a score to hide a key is at most this (fp16 masks use -65504).
HIDDEN_BELOW = -1e4
# Masks of more elements are not evaluated.
LARGEST_GRID = 1 << 27
# In grids larger than this fewer lengths and flags are tried.
LARGE_GRID = 1 << 22


@dataclass(frozen=True, slots=True)
class MaskPart:
    """A value that hides keys: added to the scores (`additive`), or true where keys are kept or hidden.

    In the mode `keys` it is [batch, keys], true where a key is kept; else it broadcasts to the scores.
    """

    value: str
    mode: str  # "additive", "keep", "hide" or "keys"


@dataclass(frozen=True, slots=True)
class Meaning:
    """The meaning of a mask; `keep` is the input of flags [batch, keys], if it matters."""

    causal: bool
    keep: str | None


@dataclass(frozen=True, slots=True)
class Grid:
    """The scores that a mask applies to: [batch, heads, sequence, past + sequence]."""

    batch: int
    sequence: int
    past: Dim


# In the order of preference where several agree (with one query, causal hides nothing).
_HYPOTHESES = ((True, False), (True, True), (False, False), (False, True))


class MaskClassifier:
    """Classifies the masks of a graph; layers that share a mask have it evaluated once."""

    def __init__(self, graph: Graph, subgraph: Subgraph) -> None:
        self._graph, self._subgraph = graph, subgraph
        self._known: dict[tuple[tuple[MaskPart, ...], Grid], Meaning] = {}

    def classify(self, parts: Sequence[MaskPart], grid: Grid, node: str) -> Meaning:
        """Return what the parts together mean; raises UnsupportedError, naming `node`, if it is none of the known."""
        key = (tuple(parts), grid)
        if key not in self._known:
            self._known[key] = self._classify(parts, grid, node) if parts else Meaning(False, None)
        return self._known[key]

    def _classify(self, parts: Sequence[MaskPart], grid: Grid, node: str) -> Meaning:
        self._check_size(parts, grid, node)
        flags = self._flags_input(parts, grid, node)
        remaining = [meaning for meaning in _HYPOTHESES if flags is not None or not meaning[1]]
        for bindings, keep in self._trials(grid, flags, node):
            inputs = {flags: keep.astype(np.int64)} if flags else {}
            try:
                found = self._allowed(parts, grid, bindings, inputs)
            except (ValueError, IndexError, Undecided) as error:
                raise _unknown(node, f"it cannot be evaluated: {error}") from None
            if found is None:
                raise _unknown(node, "it adds numbers other than 0 and minus infinity")
            past = evaluate(grid.past, bindings)
            remaining = [meaning for meaning in remaining if _agrees(found, meaning, keep, past)]
        if not remaining:
            raise _unknown(node, "it is neither causal nor a padding mask nor both")
        causal, uses_flags = remaining[0]
        return Meaning(causal, flags if uses_flags else None)

    def _flags_input(self, parts: Sequence[MaskPart], grid: Grid, node: str) -> str | None:
        names = sorted(frozenset().union(*(self._subgraph.inputs_of(part.value) for part in parts)))
        if not names:
            return None
        value = self._graph.values[names[0]]
        if len(names) > 1 or value.shape != (grid.batch, grid.past + grid.sequence) or value.dtype in FLOAT_DTYPES:
            raise _unknown(node, f"it depends on {', '.join(names)}, which is no [batch, past + sequence] of flags")
        return names[0]

    def _trials(self, grid: Grid, flags: str | None, node: str) -> Iterator[tuple[Mapping[str, int], np.ndarray]]:
        """Yield symbol values and flags [batch, keys] to try."""
        random = np.random.default_rng(0)
        for bindings in self._bindings(grid, node):
            keys = evaluate(grid.past, bindings) + grid.sequence
            keep = np.ones((grid.batch, keys), bool)
            yield bindings, keep
            if flags is None:
                continue
            places = np.arange(keys)
            yield bindings, places >= random.integers(0, keys, (grid.batch, 1))
            yield bindings, places < random.integers(1, keys + 1, (grid.batch, 1))
            yield bindings, random.random((grid.batch, keys)) < 0.7

    def _bindings(self, grid: Grid, node: str) -> Iterator[Mapping[str, int]]:
        symbols = sorted(symbols_of(grid.past))
        if any(name not in symbols for name in self._graph.symbols) or len(symbols) > 1:
            raise _unknown(node, "the cache length depends on several symbols")
        if not symbols:
            yield {}
            return
        low, high = self._graph.symbols[symbols[0]]
        longest = interval(grid.past, self._graph.symbols)[1]
        chosen = {low, min(low + 1, high), (low + high) // 2, high}
        if grid.batch * grid.sequence * (longest + grid.sequence) <= LARGE_GRID:
            chosen |= {min(low + 2, high), min(low + 7, high), max(high - 1, low)}
        for past in sorted(chosen):
            yield {symbols[0]: past}

    def _check_size(self, parts: Sequence[MaskPart], grid: Grid, node: str) -> None:
        """Refuse masks that would take too much memory to evaluate at their largest."""
        keys = grid.past + grid.sequence
        for shape in ((grid.batch, grid.sequence, keys), *(self._graph.value(part.value).shape for part in parts)):
            if math.prod(interval(dim, self._graph.symbols)[1] for dim in shape) > LARGEST_GRID:
                raise _unknown(node, "it is too large to be checked; bind a shorter sequence or cache")

    def _allowed(
        self, parts: Sequence[MaskPart], grid: Grid, bindings: Mapping[str, int], inputs: Mapping[str, np.ndarray]
    ) -> np.ndarray | None:
        """Return which keys the mask leaves visible, [batch, heads or 1, sequence, keys]; None if it is no mask."""
        keys = evaluate(grid.past, bindings) + grid.sequence
        result = np.ones((1, 1, 1, 1), bool)
        for part in parts:
            array = self._subgraph.run(part.value, bindings, inputs)
            if part.mode == "additive":
                hidden = array <= HIDDEN_BELOW
                if not (hidden | (array == 0)).all():
                    return None
                result = result & ~hidden
            elif part.mode == "keys":
                result = result & array.astype(bool)[:, None, None, :]
            else:
                result = result & (array.astype(bool) if part.mode == "keep" else ~array.astype(bool))
        heads = result.shape[-3] if result.ndim >= 3 else 1
        return np.broadcast_to(result, (grid.batch, heads, grid.sequence, keys))


def _agrees(found: np.ndarray, meaning: tuple[bool, bool], keep: np.ndarray, past: int) -> bool:
    causal, uses_flags = meaning
    sequence, keys = found.shape[2:]
    visible = np.ones((1, sequence, keys), bool)
    if causal:
        visible = (np.arange(keys) <= past + np.arange(sequence)[:, None])[None]
    if uses_flags:
        visible = visible & keep[:, None, :]
    compared = np.asarray(visible.any(-1, keepdims=True))[:, None]
    return bool(((found == visible[:, None]) | ~compared).all())


def _unknown(node: str, why: str) -> UnsupportedError:
    help = "supported masks: causal, padding by an attention_mask [batch, past + sequence], both, or none"
    return UnsupportedError(f"the attention mask is not understood: {why}", where=f"node {node!r}", help=help)
