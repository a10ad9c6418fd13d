"""Core A of the attention kernel: loads, and scores behind them.

It loads q once per item; k, v and the mask chunk by chunk, v transposed on the way. Loads of the next chunk are asked
for before the scores of this one. Keys of the past are there before the launch: where every PE has a part of one item
at most, the first chunks of them come before the PEs meet.
"""

from __future__ import annotations

from contextlib import ExitStack

from compiler.attention_mapping import MASK_BYTES, PUSHED_TOGETHER, AttentionTile
from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, OperandValue, Register
from compiler.kernels.attention_scores import Scorer
from compiler.kernels.attention_walk import AttentionBuffers, loaded
from isa.machine import Machine


class Loader(Scorer):
    """Core A: loads q once per item and k, v and the mask chunk by chunk, and asks for scores."""

    def __init__(self, tile: AttentionTile, machine: Machine, core: CoreBuilder, buffers: AttentionBuffers) -> None:
        super().__init__(tile, machine, core, buffers)
        self.first_key, self.chunk_rows = core.register(), core.register()
        pieces_wait = tile.is_narrow and 2 * tile.key_pieces + 2 <= machine.pe.command_queue_depth
        self.loads_ahead = self.scores_on_core_a and (tile.depths.k > 1 or pieces_wait)
        """Only with room for a chunk beside the one in use, or for its loads in the queue: the core must not stop there
        when they wait for scores that it has not yet asked for."""
        self.early = core.register() if tile.loads_past_early and self.loads_ahead else None
        """Chunks that were loaded early and not counted yet."""

    def emit(self) -> None:
        """Emit the code of the core; what lies behind each head of q is zero for all items."""
        tile, ones = self.tile, self.buffers.ones
        if ones is not None:
            with loaded(self.core, 1, tile.keys) as (one, columns):
                self.core.emit("fill", out=ones, rows=one, columns=columns, out_dtype=self.shape.dtype.name, value=1.0)
            self.core.push(ones)
        if self.buffers.heads is not None:
            with loaded(self.core, tile.blocks * tile.rows * self.shape.padded_head_dim) as (columns,):
                for slot in range(tile.depths.q):
                    with loaded(self.core, slot * self.buffers.q.slot_bytes) as (offset,):
                        self.core.emit(
                            "fill", out=self.buffers.q, out_offset=offset, rows=1, columns=columns,
                            out_dtype=self.shape.dtype.name, value=0.0,
                        )  # fmt: skip
        if self.early is not None:
            self._load_early(self.early)
        super().emit()

    def _load_early(self, early: Register) -> None:
        """Load the first chunks of this PE's part that are all past, if there are only parts, and count them."""
        core, tile = self.core, self.tile
        core.copy(0, early)
        with ExitStack() as first:
            with core.scratch() as number:
                first.enter_context(core.when_equal(core.load_argument("whole", number), ZERO))
                self.find_chain(number, first)
            self.start_part(first)
            cache, last, chunks = (first.enter_context(core.scratch()) for _ in range(3))
            self._find_cache(cache)
            core.copy(self.begin, self.first_key)
            core.load_argument("past", last)
            core.minimum(last, self.end, last)
            core.increase(last, -tile.keys)
            core.copy(min(tile.depths.k, tile.depths.transposed), chunks)
            with core.loop(chunks):
                with core.when_at_least(last, self.first_key):
                    self._load_keys_and_values(cache)
                    core.increase(early, 1)
                core.increase(self.first_key, tile.keys)
        core.await_inputs()

    def _find_cache(self, cache: Register) -> None:
        """Set the offset of the item's kv head in the caches, or in rows."""
        core, shape = self.core, self.shape
        if shape.reads_rows:
            core.copy(self.query_head, cache)
        else:
            core.multiply(self.batch, shape.kv_heads * shape.group, cache)
            core.increase(cache, self.query_head)
        with loaded(core, shape.group) as (group,):
            core.compute("div", cache, group, cache)
        core.multiply(cache, shape.row_bytes if shape.reads_rows else shape.capacity * shape.row_bytes, cache)

    def item(self, is_part: bool) -> None:
        """Load everything that one item reads; a part without keys reads nothing."""
        core = self.core
        with ExitStack() as stack:
            if is_part:
                stack.enter_context(core.when_less(self.begin, self.end))
            self._load_q()
            cache, trips = stack.enter_context(core.scratch()), stack.enter_context(core.scratch())
            self._find_cache(cache)
            core.copy(self.begin, self.first_key)
            if self.scores_on_core_a:
                core.copy(self.begin, self.score_key)
            self._load_chunk(cache)
            if self.tile.is_narrow:
                self._transpose_pieces()
            self.load_chunk_count(trips, self.loaded_end)
            with core.loop(trips):
                if self.loads_ahead:
                    self._load_next_chunk(cache)
                if self.scores_on_core_a:
                    self.score_chunk()
                if not self.loads_ahead:
                    self._load_next_chunk(cache)
                if self.tile.is_narrow:
                    with core.when_less(self.score_key, self.loaded_end):
                        self._transpose_pieces()
            if self.scores_on_core_a:
                core.pop(self.buffers.q)

    def _load_next_chunk(self, cache: Register) -> None:
        with self.core.when_less(self.first_key, self.loaded_end):
            self._load_chunk(cache)

    def _load_chunk(self, cache: Register) -> None:
        """Load the chunk at `first_key` if it was not loaded early, and go on to the next one."""
        core = self.core
        if self.early is None:
            self._load_keys_and_values(cache)
        else:
            with core.when_less(self.early, 1):
                self._load_keys_and_values(cache)
            core.increase(self.early, -1)
            core.maximum(self.early, ZERO, self.early)
        if self.shape.has_mask:
            self._load_mask()
        if self.buffers.bias is not None:
            self._load_bias(self.buffers.bias)
        core.increase(self.first_key, self.tile.keys)

    def _load_keys_and_values(self, cache: Register) -> None:
        """Load the chunk at `first_key`, and transpose its values."""
        self.load_chunk_rows(self.first_key, self.chunk_rows, self.loaded_end)
        self._load_keys("k", self.buffers.k, cache, self.tile.key_pieces)
        self._load_keys("v", self.buffers.v, cache)
        if self.tile.is_shared and not self.tile.is_narrow:
            self._transpose_what_is_visible()
        elif not self.tile.is_narrow:
            self._transpose_values()

    def _load_q(self) -> None:
        core, tile, shape, q = self.core, self.tile, self.shape, self.buffers.heads or self.buffers.q
        head_bytes = shape.head_dim * shape.dtype.bytes
        with core.scratch() as address, core.scratch() as offset:
            core.multiply(self.batch, shape.sequence, address)
            core.increase(address, self.token)
            core.multiply(address, core.load_argument("q_pitch", offset), address)
            core.increase(address, core.load_argument("q", offset))
            core.multiply(self.query_head, head_bytes, offset)
            core.increase(address, offset)
            core.copy(0, offset)
            with loaded(core, shape.row_bytes, head_bytes, tile.heads) as (row_bytes, next_head, heads):
                common: dict[str, OperandValue] = {
                    "out": q,
                    "out_offset": offset,
                    "out_pitch": row_bytes,
                    "row_bytes": next_head,
                }
                if shape.is_stacked:
                    core.emit("dma_in", **common, address=address, address_pitch=next_head, rows=heads)
                else:
                    self._load_token_blocks(common, address, offset)
        core.push(q)
        if self.buffers.heads is not None:
            self._pad_q(self.buffers.heads)

    def _load_token_blocks(self, common: dict[str, OperandValue], address: Register, offset: Register) -> None:
        """Load block after block, the heads of a block of tokens first."""
        core, tile, shape = self.core, self.tile, self.shape
        with core.scratch() as left, core.scratch() as rows, core.scratch() as trips, core.scratch() as pitch:
            core.load_argument("q_pitch", pitch)
            core.copy(shape.sequence, left)
            core.subtract(left, self.token, left)
            with loaded(core, tile.heads) as (heads,):
                core.compute("div", self.blocks, heads, trips)
            with core.loop(trips):
                core.minimum(left, core.copy(tile.tokens, rows), rows)
                with core.scratch() as head_address:
                    core.copy(address, head_address)
                    with loaded(core, tile.heads) as (heads,), core.loop(heads):
                        common["address"] = head_address
                        core.emit("dma_in", **common, address_pitch=pitch, rows=rows)
                        core.increase(head_address, shape.head_dim * shape.dtype.bytes)
                        core.increase(offset, tile.block_bytes)
                core.increase(left, -tile.tokens)
                with core.scratch() as step:
                    core.increase(address, core.multiply(pitch, tile.tokens, step))

    def _pad_q(self, heads: BufferHandle) -> None:
        """Copy heads to where zeros follow them; behind them in memory lies what may be NaN, or nothing at all."""
        core, tile, shape = self.core, self.tile, self.shape
        sizes = (shape.row_bytes, shape.head_dim * shape.dtype.bytes, tile.blocks * tile.rows)
        with loaded(core, *sizes) as (pitch, head_bytes, rows):
            core.emit(
                "copy", out=self.buffers.q, out_pitch=pitch, a=heads, a_pitch=pitch, rows=rows, row_bytes=head_bytes
            )
        core.push(self.buffers.q)
        core.pop(heads)

    def _load_keys(self, argument: str, buffer: BufferHandle, cache: Register, pieces: int = 1) -> None:
        """Load a chunk of k or v, or its pieces; rows of a cache lie one after the other, so each is one long row."""
        if self.shape.reads_rows:
            self._load_rows(argument, buffer, cache, pieces)
            return
        core, shape = self.core, self.shape
        with core.scratch() as address, core.scratch() as size, loaded(core, shape.row_bytes) as (row_bytes,):
            core.multiply(self.first_key, row_bytes, address)
            core.increase(address, cache)
            core.increase(address, core.load_argument(argument, size))
            core.multiply(self.chunk_rows, row_bytes, size)
            broadcast = "row" if self.tile.is_shared else "none"
            with ExitStack() as stack:
                if pieces > 1:
                    count = stack.enter_context(core.scratch())
                    core.copy(shape.key_step * shape.row_bytes, count)
                    core.compute("div", size, count, count)
                    core.copy(shape.key_step * shape.row_bytes, size)
                    stack.enter_context(core.loop(count))
                core.emit("dma_in", out=buffer, address=address, rows=1, row_bytes=size, broadcast=broadcast)
                core.push(buffer)
                if pieces > 1:
                    core.increase(address, size)

    def _load_rows(self, argument: str, buffer: BufferHandle, head: Register, pieces: int) -> None:
        """Load a chunk of k or v, or its pieces, from rows that hold a token of all heads each."""
        core, shape = self.core, self.shape
        with ExitStack() as lent:
            first, address, pitch, rows = (lent.enter_context(core.scratch()) for _ in range(4))
            core.load_argument(f"{argument}_pitch", pitch)
            core.multiply(self.batch, shape.sequence, first)
            core.multiply(first, pitch, first)
            core.increase(first, head)
            core.increase(first, core.load_argument(argument, address))
            core.multiply(self.first_key, pitch, address)
            core.increase(address, first)
            core.copy(self.chunk_rows, rows)
            if pieces > 1:
                count = lent.enter_context(core.scratch())
                core.compute("div", rows, core.copy(shape.key_step, count), count)
                core.copy(shape.key_step, rows)
                lent.enter_context(core.loop(count))
            self._load_tokens(buffer, (first, address, pitch), rows)
            core.push(buffer)
            if pieces > 1:
                with core.scratch() as step:
                    core.increase(address, core.multiply(pitch, rows, step))

    def _load_tokens(self, buffer: BufferHandle, places: tuple[Register, Register, Register], rows: Register) -> None:
        """Load rows of a chunk from an address on; behind the last token the first ones, for what nobody sees.

        Weights of those are zero, but zero times what lies in memory there might be no number.
        """
        core, sequence = self.core, self.shape.sequence
        first, address, pitch = places

        def load(address: Register, count: Register, offset: Register) -> None:
            with loaded(core, self.shape.row_bytes) as (row_bytes,):
                core.emit(
                    "dma_in", out=buffer, out_offset=offset, out_pitch=row_bytes, address=address, address_pitch=pitch,
                    rows=count, row_bytes=row_bytes, broadcast="row" if self.tile.is_shared else "none",
                )  # fmt: skip

        if sequence % self.shape.key_step == 0:
            load(address, rows, ZERO)
            return
        with core.scratch() as there:
            core.subtract(address, first, there)
            core.compute("div", there, pitch, there)
            with loaded(core, sequence) as (all_tokens,):
                core.subtract(all_tokens, there, there)
            core.minimum(there, rows, there)
            load(address, there, ZERO)
            with core.when_less(there, rows), core.scratch() as missing, core.scratch() as offset:
                core.subtract(rows, there, missing)
                load(first, missing, core.multiply(there, self.shape.row_bytes, offset))

    def _transpose_what_is_visible(self) -> None:
        """Transpose the values of a chunk if this PE's item sees any; others of the row may see more."""
        core = self.core
        with core.when_less(self.first_key, self.end):
            self.load_chunk_rows(self.first_key, self.chunk_rows)
            self._transpose_values()
        with core.when_at_least(self.first_key, self.end):
            core.pop(self.buffers.v)

    def _transpose_values(self) -> None:
        """Transpose the values, and put ones below them."""
        core, tile, shape, buffers = self.core, self.tile, self.shape, self.buffers
        row = tile.keys * shape.dtype.bytes
        with loaded(core, row, shape.row_bytes, shape.padded_head_dim) as (pitch, value_bytes, columns):
            core.emit(
                "transpose", out=buffers.v_transposed, out_pitch=pitch, a=buffers.v, a_pitch=value_bytes,
                rows=self.chunk_rows, columns=columns, a_dtype=shape.dtype.name,
            )  # fmt: skip
        with loaded(core, row * shape.padded_head_dim, 1) as (offset, one):
            core.emit(
                "fill", out=buffers.v_transposed, out_offset=offset, rows=one, columns=self.chunk_rows,
                out_dtype=shape.dtype.name, value=1.0,
            )  # fmt: skip
        core.push(buffers.v_transposed)
        core.pop(buffers.v)

    def _transpose_pieces(self) -> None:
        """Transpose the values of the chunk at `score_key` if this item sees any, in pieces of their columns.

        They wait for the products with the values before, and those for scores: so it comes behind the scores.
        """
        core, tile, shape, buffers = self.core, self.tile, self.shape, self.buffers
        width, size = shape.block_rows, shape.dtype.bytes
        with core.scratch() as rows, core.when_less(self.score_key, self.end):
            self.load_chunk_rows(self.score_key, rows)
            with loaded(core, tile.keys * size, shape.row_bytes) as (pitch, value_bytes):
                starts = range(0, shape.padded_head_dim, width)
                for index, first in enumerate(starts):
                    columns, ahead = min(width, shape.padded_head_dim - first), index % PUSHED_TOGETHER
                    place = ahead * buffers.v_transposed.slot_bytes
                    with loaded(core, place, first * size, columns) as (out_offset, offset, count):
                        core.emit(
                            "transpose", out=buffers.v_transposed, out_offset=out_offset, out_pitch=pitch, a=buffers.v,
                            a_offset=offset, a_pitch=value_bytes, rows=rows, columns=count, a_dtype=shape.dtype.name,
                        )  # fmt: skip
                    if ahead == PUSHED_TOGETHER - 1 or first == starts[-1]:
                        core.push(buffers.v_transposed, ahead + 1)
        core.pop(buffers.v)

    def _load_mask(self) -> None:
        """Load the part of the mask's row that exists; what lies beyond is hidden by its position."""
        core = self.core
        with core.scratch() as address, core.scratch() as size, core.scratch() as offset, core.scratch() as pitch:
            core.load_argument("mask_pitch", pitch)
            core.multiply(self.first_key, MASK_BYTES, offset)
            core.subtract(pitch, offset, size)
            with loaded(core, self.tile.keys * MASK_BYTES) as (largest,):
                core.minimum(size, largest, size)
            core.multiply(self.batch, pitch, address)
            core.increase(address, offset)
            core.increase(address, core.load_argument("mask", offset))
            core.emit("dma_in", out=self.buffers.mask, address=address, rows=1, row_bytes=size)
        core.push(self.buffers.mask)

    def _load_bias(self, buffer: BufferHandle) -> None:
        """Load the part of the bias that exists, of all rows; what lies beyond is hidden by its position."""
        core, tile, shape = self.core, self.tile, self.shape
        element = shape.dtype.bytes
        with core.scratch() as address, core.scratch() as size, core.scratch() as pitch:
            core.multiply(self.first_key, element, address)
            core.subtract(core.load_argument("bias_row_bytes", size), address, size)
            with loaded(core, tile.keys * element) as (largest,):
                core.minimum(size, largest, size)
            core.increase(address, core.load_argument("bias", pitch))
            core.multiply(self.batch, core.load_argument("bias_batch_pitch", pitch), pitch)
            core.increase(address, pitch)
            core.multiply(self.token, core.load_argument("bias_token_pitch", pitch), pitch)
            core.increase(address, pitch)
            if shape.bias == "per head":
                with core.scratch() as head_pitch:
                    core.multiply(self.query_head, core.load_argument("bias_head_pitch", head_pitch), pitch)
                core.increase(address, pitch)
            self._load_bias_rows(buffer, address, size)
        core.push(buffer)

    def _load_bias_rows(self, buffer: BufferHandle, address: Register, size: Register) -> None:
        """Load rows of `size` bytes from `address`: those of the heads, those of the tokens, or both."""
        core, tile = self.core, self.tile
        local = tile.keys * self.shape.dtype.bytes
        with core.scratch() as pitch, core.scratch() as offset, loaded(core, local) as (local_pitch,):
            common: dict[str, OperandValue] = {
                "out": buffer, "out_pitch": local_pitch, "address": address, "address_pitch": pitch, "row_bytes": size,
            }  # fmt: skip
            if self.shape.is_stacked:
                core.load_argument("bias_head_pitch", pitch)
                core.emit("dma_in", **common, rows=tile.bias_rows)
                return
            core.load_argument("bias_token_pitch", pitch)
            core.copy(0, offset)
            heads = tile.bias_rows // tile.item_tokens
            with core.scratch() as rows, loaded(core, heads, tile.item_tokens) as (count, most):
                core.copy(self.shape.sequence, rows)
                core.subtract(rows, self.token, rows)
                core.minimum(rows, most, rows)
                with core.scratch() as head_pitch, core.loop(count):
                    core.emit("dma_in", **common, out_offset=offset, rows=rows)
                    core.increase(address, core.load_argument("bias_head_pitch", head_pitch))
                    core.increase(offset, tile.item_tokens * local)
