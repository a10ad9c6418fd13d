"""What both cores of the attention kernel share: buffers, the deal of items, and the loop over chunks of keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from compiler.attention_mapping import AttentionTile
from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, Register
from isa.machine import Machine


@dataclass(frozen=True, slots=True)
class PartBuffers:
    """What the parts of an item need to join their results."""

    zeros: BufferHandle
    place: BufferHandle
    """One in the column that is this part's number, else zero."""
    spots: BufferHandle
    maxima: BufferHandle
    share: BufferHandle
    """Sums of values as they lie, then from a new row of the accumulator's width on the sums of weights."""
    total: BufferHandle


@dataclass(frozen=True, slots=True)
class AttentionBuffers:
    """The circular buffers, in the order of the data: loaded operands, scores, running state, result.

    Columns (one fp32 per row of a block) lie as one dense row, so that work on them is a single short row.
    """

    q: BufferHandle
    k: BufferHandle
    v: BufferHandle
    v_transposed: BufferHandle
    """Below the last row of the values one of ones: its product with the weights is their sum."""
    mask: BufferHandle
    scores: BufferHandle
    masked: BufferHandle
    probabilities: BufferHandle
    column: BufferHandle
    maximum: BufferHandle
    """Running maximum of each block, before the scale where that is part of the exponential."""
    rescale: BufferHandle
    weight: BufferHandle
    """Running sum of weights of each block."""
    scaled: BufferHandle
    output: BufferHandle
    out: BufferHandle
    sums: BufferHandle | None = None
    product: BufferHandle | None = None
    """Sums of weights and weighted values of one step, for the SIMD engine to add to those before."""
    carried: BufferHandle | None = None
    """Rescaled sums of weights on their way back to the accumulators; those of values are in `scaled`, in pieces."""
    peak: BufferHandle | None = None
    """The running maximum, which accumulators subtract from narrow scores."""
    ones: BufferHandle | None = None
    """What lies below the values if those come in pieces."""
    origin: BufferHandle | None = None
    """What narrow scores still have to be less by: nothing."""
    bias: BufferHandle | None = None
    heads: BufferHandle | None = None
    """Of heads that need padding: q before it has any."""
    parts: PartBuffers | None = None


@contextmanager
def loaded(core: CoreBuilder, *values: int) -> Iterator[tuple[Register, ...]]:
    """Lend registers that hold constants; kernels need more of them than would fit for good."""
    with ExitStack() as stack:
        yield tuple(_load(core, value, stack) for value in values)


def _load(core: CoreBuilder, value: int, stack: ExitStack) -> Register:
    return core.copy(value, stack.enter_context(core.scratch())) if value else ZERO


class Walk:
    """What both cores share: the loop over items, and where an item's data starts.

    Items are dealt in rounds, the largest first, each round in the opposite direction to the one before: PEs get equal
    work although causal items differ. What is left of items that may be cut into parts is dealt part by part.
    """

    def __init__(self, tile: AttentionTile, machine: Machine, core: CoreBuilder, buffers: AttentionBuffers) -> None:
        self.tile, self.shape, self.machine, self.core, self.buffers = tile, tile.shape, machine, core, buffers
        self.token = ZERO if tile.shape.sequence == 1 else core.register()
        self.visible, self.batch = core.register(), core.register()
        self.query_head = core.register()
        self.blocks = core.register()
        """Blocks of this item."""
        self.begin = core.register() if tile.parts > 1 else ZERO
        self.end = core.register() if tile.parts > 1 else self.visible
        """The keys of this PE's part of the item; past `end` if there are none."""
        self.loaded_end = core.register() if tile.is_shared else self.end
        """Where the keys end that are loaded: those of the row's longest item if it reads them together."""
        if tile.parts > 1:
            self.part, self.parts = core.register(), core.register()
        self._base, self._place = core.register(), core.register()

    def emit(self) -> None:
        """Emit the code of the core."""
        core = self.core
        self._load_place()
        core.copy(0, self._base)
        with ExitStack() as body:
            with core.scratch() as stride, core.scratch() as rounds:
                self._load_stride(stride)
                self._load_rounds("whole", stride, rounds)
                body.enter_context(core.loop(rounds))
            with ExitStack() as guarded:
                self._start_item("whole", guarded)
                if self.tile.parts > 1:
                    core.copy(0, self.begin)
                    core.copy(self.visible, self.end)
                self.item(is_part=False)
            with core.scratch() as stride:
                self._load_stride(stride)
                core.increase(self._base, stride)
                core.subtract(stride, self._place, self._place)
                core.increase(self._place, -1)
        if self.tile.parts > 1:
            self._emit_parts()

    def _emit_parts(self) -> None:
        """Deal what is left, as many items at a time as there are chains of `parts` PEs that follow each other."""
        core = self.core
        with ExitStack() as body:
            with core.scratch() as chains, core.scratch() as rounds:
                self.find_chain(chains, body)
                self.prepare_parts()
                self._load_rounds("items", chains, rounds)
                body.enter_context(core.loop(rounds))
            with ExitStack() as guarded:
                self.start_part(guarded)
                self.item(is_part=True)
            with core.scratch() as chains:
                self._load_pe_count(chains)
                core.compute("div", chains, self.parts, chains)
                core.increase(self._base, chains)

    def find_chain(self, chains: Register, guarded: ExitStack) -> None:
        """Find how many chains there are, and this PE's place in its own; skip what is `guarded` if it has none."""
        core = self.core
        self._load_pe_count(chains)
        core.load_argument("parts", self.parts)
        core.minimum(self.parts, chains, self.parts)
        core.compute("div", chains, self.parts, chains)
        self.load_position(self._place)
        core.compute("rem", self._place, self.parts, self.part)
        core.compute("div", self._place, self.parts, self._place)
        core.load_argument("whole", self._base)
        guarded.enter_context(core.when_less(self._place, chains))

    def start_part(self, guarded: ExitStack) -> None:
        """Find this PE's part of an item in this round, and skip what is `guarded` if there are no more."""
        self._start_item("items", guarded)
        self._find_part()

    def _start_item(self, count: str, guarded: ExitStack) -> None:
        """Find the item of this PE in this round, and skip what is `guarded` if there are no more."""
        core = self.core
        with core.scratch() as item, core.scratch() as items:
            core.add(self._base, self._place, item)
            self._load_count(count, items)
            guarded.enter_context(core.when_less(item, items))
            if self.tile.is_shared:
                self._split_shared(item)
            else:
                self._split(item)
            self._measure()

    def item(self, is_part: bool) -> None:
        """Emit the work on one item, or on this PE's part of it."""
        raise NotImplementedError

    def prepare_parts(self) -> None:
        """Emit what the parts of items need once."""

    def load_position(self, into: Register) -> None:
        """Number the PEs of the launch like a snake: those with neighbouring numbers are neighbours."""
        core = self.core
        with core.scratch() as row, core.scratch() as columns, core.scratch() as odd, core.scratch() as turned:
            core.load_coordinate("row", row)
            core.load_coordinate("columns", columns)
            core.load_coordinate("column", into)
            core.compute("and", row, core.copy(1, odd), odd)
            core.subtract(columns, into, turned)
            core.increase(turned, -1)
            core.subtract(turned, into, turned)
            core.multiply(turned, odd, turned)
            core.increase(into, turned)
            core.multiply(row, columns, row)
            core.increase(into, row)

    def _load_place(self) -> None:
        """Emit the place of this PE, or of its row, among those that items are dealt to."""
        if self.tile.is_shared:
            self.core.load_coordinate("row", self._place)
        else:
            self.load_position(self._place)

    def _load_stride(self, into: Register) -> None:
        """Emit how many items are dealt at a time; with shared keys, how many rows of items."""
        if self.tile.is_shared:
            self.core.load_coordinate("rows", into)
        else:
            self._load_pe_count(into)

    def _load_count(self, argument: str, into: Register) -> Register:
        """Emit how many items, or rows of items, there are up to an argument."""
        self.core.load_argument(argument, into)
        if self.tile.is_shared:
            with self.core.scratch() as columns:
                self.core.compute("div", into, self.core.load_coordinate("columns", columns), into)
        return into

    def _load_pe_count(self, into: Register) -> None:
        core = self.core
        with core.scratch() as rows:
            core.multiply(core.load_coordinate("columns", into), core.load_coordinate("rows", rows), into)

    def _load_rounds(self, count: str, stride: Register, into: Register) -> None:
        """Emit how many rounds the items from the base up to an argument take."""
        core = self.core
        core.subtract(self._load_count(count, into), self._base, into)
        core.increase(into, stride)
        core.increase(into, -1)
        core.compute("div", into, stride, into)

    def _split(self, item: Register) -> None:
        """Items count heads and sequences first, then tokens, the last ones first: those see the most keys."""
        core, tile, shape = self.core, self.tile, self.shape
        with loaded(core, shape.kv_heads * tile.head_groups, shape.batch) as (heads, batch):
            core.compute("rem", item, heads, self.query_head)
            core.compute("div", item, heads, self.batch)
            if self.token != ZERO:
                core.compute("div", self.batch, batch, self.token)
            core.compute("rem", self.batch, batch, self.batch)
        core.multiply(self.query_head, tile.heads, self.query_head)
        if self.token != ZERO:
            self._place_tokens(self.token)

    def _split_shared(self, item: Register) -> None:
        """Rows of items count sequences and kv heads first, then tokens and heads of the group, the last ones first."""
        core, tile, shape = self.core, self.tile, self.shape
        with core.scratch() as first, core.scratch() as column, core.scratch() as divisor:
            core.copy(shape.kv_heads * shape.batch, divisor)
            core.compute("div", item, divisor, first)
            core.compute("rem", item, divisor, self.query_head)
            core.copy(shape.kv_heads, divisor)
            core.compute("div", self.query_head, divisor, self.batch)
            core.compute("rem", self.query_head, divisor, self.query_head)
            core.multiply(self.query_head, shape.group, self.query_head)
            core.multiply(first, core.load_coordinate("columns", column), first)
            core.copy(tile.head_groups, divisor)
            core.compute("div", first, divisor, self.token)
            self._place_tokens(self.token)
            self._load_visible(self.token, self.loaded_end)
            core.increase(first, core.load_coordinate("column", column))
            core.compute("div", first, divisor, self.token)
            self._place_tokens(self.token)
            core.compute("rem", first, divisor, first)
            core.multiply(first, tile.heads, first)
            core.increase(self.query_head, first)

    def _place_tokens(self, index: Register) -> None:
        """Turn the index of an item along the tokens, from the end, into its first token."""
        core, tile = self.core, self.tile
        with loaded(core, tile.tiles - 1) as (last,):
            core.subtract(last, index, index)
        core.multiply(index, tile.item_tokens, index)

    def _load_visible(self, token: Register, into: Register) -> None:
        """Emit how many keys the last token of the item at `token` sees."""
        core, sequence = self.core, self.shape.sequence
        core.load_argument("past", into)
        with core.scratch() as seen, loaded(core, sequence) as (most,):
            core.copy(sequence, seen)
            if self.shape.causal:
                core.add(token, self.tile.item_tokens, seen)
                core.minimum(seen, most, seen)
            core.increase(into, seen)

    def _measure(self) -> None:
        """Emit the blocks and the visible keys of the item."""
        core, tile, shape = self.core, self.tile, self.shape
        self._load_visible(self.token, self.visible)
        if self.token == ZERO:
            core.copy(tile.blocks, self.blocks)
            return
        with core.scratch() as left, loaded(core, tile.tokens, tile.token_blocks) as (tokens, most):
            core.copy(shape.sequence, left)
            core.subtract(left, self.token, left)
            core.increase(left, tile.tokens - 1)
            core.compute("div", left, tokens, left)
            core.minimum(left, most, left)
            core.multiply(left, tile.heads, self.blocks)

    def _find_part(self) -> None:
        """Cut the visible keys into parts of whole steps; the last ones may get fewer, or none."""
        core, step = self.core, self.shape.key_step
        with core.scratch() as share:
            core.multiply(self.parts, step, share)
            core.add(self.visible, share, self.end)
            core.increase(self.end, -1)
            core.compute("div", self.end, share, share)
            core.multiply(share, step, share)
            core.multiply(share, self.part, self.begin)
            core.add(self.begin, share, self.end)
            core.minimum(self.end, self.visible, self.end)

    def load_chunk_count(self, into: Register, end: Register | None = None) -> None:
        """Emit the chunks of this PE's keys, or of those up to another end, zero if it has none."""
        core, tile = self.core, self.tile
        core.subtract(end or self.end, self.begin, into)
        core.increase(into, tile.keys - 1)
        with loaded(core, tile.keys) as (keys,):
            core.compute("div", into, keys, into)

    def load_chunk_rows(self, first_key: Register, into: Register, end: Register | None = None) -> None:
        """Emit the rows of k and v of the chunk at `first_key`, of those up to `end`: whole steps."""
        core, tile, step = self.core, self.tile, self.shape.key_step
        core.subtract(end or self.end, first_key, into)
        core.increase(into, step - 1)
        with loaded(core, step, tile.keys) as (step_register, keys):
            core.compute("div", into, step_register, into)
            core.multiply(into, step_register, into)
            core.minimum(into, keys, into)
