"""`softmax(scale * q k^T + mask) v`, one pass over keys and values with running maximum and sum (FlashAttention).

A work item is one kv head of one sequence and a tile of query tokens; all query heads of the group share the keys and
values that the item loads. Core A loads q, then chunk by chunk k, v (transposed on the way by the layout unit) and the
mask; core B multiplies, keeps the running state of each query head in circular buffers, and stores the result. With one
token per sequence the heads of a group are the rows of a single block. Chunks beyond the last visible key are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from compiler.graph import AttentionAttributes, Operation
from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, KernelBuilder, Register, round_up
from compiler.kernels.dealing import dealt_items
from compiler.lowering import ArgumentValue, Lowering
from compiler.mapped import CacheRegion
from isa.affine import Dim
from isa.dtypes import Dtype
from isa.errors import UnsupportedError
from isa.kernel import Kernel
from isa.machine import Machine
from isa.program import RoundedMacs

ARGUMENTS = ("q", "q_pitch", "k", "v", "mask", "mask_pitch", "out", "out_pitch", "past", "items")
HIDDEN = -1e30
"""Score of a key that may not be seen: finite, so that a row that sees nothing stays free of NaN."""
FP32_BYTES = 4
MASK_BYTES = 4


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """Everything that shapes the kernel. `tokens` query tokens of `sequence` and `keys` keys are worked on at a time."""

    batch: int
    sequence: int
    kv_heads: int
    group: int
    head_dim: int
    padded_head_dim: int
    capacity: int
    scale: float
    causal: bool
    has_mask: bool
    dtype: Dtype
    block_rows: int
    tokens: int
    keys: int

    @property
    def is_stacked(self) -> bool:
        """True if the rows of a block are the heads of the group, for one token."""
        return self.sequence == 1 and self.group <= self.block_rows

    @property
    def blocks(self) -> int:
        """Blocks of query rows per item."""
        return 1 if self.is_stacked else self.group

    @property
    def block_row_count(self) -> int:
        """Rows of a full block."""
        return self.group if self.is_stacked else self.tokens

    @property
    def tiles(self) -> int:
        """Token tiles per sequence."""
        return -(-self.sequence // self.tokens)

    @property
    def items(self) -> int:
        """Work items."""
        return self.batch * self.kv_heads * self.tiles

    @property
    def row_bytes(self) -> int:
        """Bytes of a padded head of one token."""
        return self.padded_head_dim * self.dtype.bytes

    def visible(self, tile: int, past: Dim) -> Dim:
        """Return how many keys the last token of a tile sees."""
        return past + (min((tile + 1) * self.tokens, self.sequence) if self.causal else self.sequence)


@dataclass(frozen=True, slots=True)
class _Buffers:
    q: BufferHandle
    k: BufferHandle
    v: BufferHandle
    v_transposed: BufferHandle
    mask: BufferHandle
    scores: BufferHandle
    masked: BufferHandle
    exponent: BufferHandle
    weights: BufferHandle
    probabilities: BufferHandle
    column: BufferHandle
    current: BufferHandle
    rescale: BufferHandle
    running: BufferHandle
    """Maximum and sum of weights of each row, per block."""
    product: BufferHandle
    scaled: BufferHandle
    output: BufferHandle
    out: BufferHandle


def _sizes(tile: AttentionTile) -> dict[str, tuple[int, int]]:
    """Return (slot bytes, slots) of each buffer."""
    rows, size, blocks = tile.block_row_count, tile.dtype.bytes, tile.blocks
    scores, column, result = rows * tile.keys * FP32_BYTES, rows * FP32_BYTES, rows * tile.padded_head_dim * FP32_BYTES
    keys = tile.keys * tile.row_bytes
    return {
        "q": (blocks * rows * tile.row_bytes, 1), "k": (keys, 2), "v": (keys, 2), "v_transposed": (keys, 2),
        "mask": (tile.keys * MASK_BYTES, 2), "scores": (scores, 2), "masked": (scores, 2), "exponent": (scores, 1),
        "weights": (rows * tile.keys * size, 1), "probabilities": (rows * tile.keys * size, 2), "column": (column, 2),
        "current": (column, 1), "rescale": (column, 1), "running": (2 * column, blocks + 1),
        "product": (result, 2), "scaled": (result, 1), "output": (result, blocks),
        "out": (rows * tile.row_bytes, 2),
    }  # fmt: skip


def _fits(tile: AttentionTile, machine: Machine) -> bool:
    sizes = _sizes(tile).values()
    return sum(round_up(slot, 32) * slots + 64 for slot, slots in sizes) <= machine.pe.local_memory_bytes


def choose_tile(cache: CacheRegion, attributes: AttentionAttributes, has_mask: bool, machine: Machine) -> AttentionTile:
    """Return the tile with the most query tokens, then the most keys, that fits in local memory."""
    block = machine.matrix.block_rows
    tokens = 1
    while tokens < min(cache.sequence, block):
        tokens *= 2
    while tokens:
        for keys in (4 * block, 2 * block, block):
            tile = AttentionTile(
                cache.batch, cache.sequence, cache.heads, attributes.head_count // cache.heads, cache.head_dim,
                cache.padded_head_dim, cache.capacity, attributes.scale, attributes.causal, has_mask, cache.dtype, block,
                tokens, keys,
            )  # fmt: skip
            if _fits(tile, machine):
                return tile
        tokens //= 2
    raise UnsupportedError(
        f"attention with {attributes.head_count} heads of {cache.head_dim} does not fit in local memory",
        where="attention", help="use a machine with a larger pe.local_memory_bytes",
    )  # fmt: skip


def build(tile: AttentionTile, machine: Machine) -> Kernel:
    """Return the kernel of a tile."""
    kind = "decode" if tile.is_stacked else "prefill"
    mask = ("_causal" if tile.causal else "") + ("_masked" if tile.has_mask else "")
    builder = KernelBuilder(f"attention_{kind}{mask}_{tile.block_row_count}x{tile.keys}", machine, ARGUMENTS)
    buffers = _Buffers(**{name: builder.buffer(name, *size) for name, size in _sizes(tile).items()})
    _Loader(tile, machine, builder.core_a, buffers).emit()
    _Attender(tile, machine, builder.core_b, buffers).emit()
    return builder.build()


@contextmanager
def _loaded(core: CoreBuilder, *values: int) -> Iterator[tuple[Register, ...]]:
    """Lend registers that hold constants; kernels need more of them than would fit for good."""
    with ExitStack() as stack:
        yield tuple(_load(core, value, stack) for value in values)


def _load(core: CoreBuilder, value: int, stack: ExitStack) -> Register:
    return core.copy(value, stack.enter_context(core.scratch())) if value else ZERO


class _Walk:
    """What both cores share: the loops over items and chunks, and where an item's data starts."""

    def __init__(self, tile: AttentionTile, machine: Machine, core: CoreBuilder, buffers: _Buffers) -> None:
        self.tile, self.machine, self.core, self.buffers = tile, machine, core, buffers
        self.token, self.rows, self.visible = core.register(), core.register(), core.register()
        self.batch, self.head = core.register(), core.register()
        self.chunk_rows, self.first_key = core.register(), core.register()
        """Rows of k and v in this chunk, a multiple of the block."""

    def emit(self) -> None:
        """Emit the code of the core."""
        with dealt_items(self.core, self.core.argument("items")) as item:
            self._split(item)
            self.item()

    def item(self) -> None:
        """Emit the work on one item."""
        raise NotImplementedError

    def _split(self, item: Register) -> None:
        """Items count sequences and heads first, then token tiles, so that neighbours differ in work."""
        core, tile = self.core, self.tile
        with _loaded(core, tile.kv_heads, tile.batch) as (heads, batch):
            core.compute("rem", item, heads, self.head)
            core.compute("div", item, heads, self.batch)
            core.compute("div", self.batch, batch, self.token)
            core.compute("rem", self.batch, batch, self.batch)
        core.multiply(self.token, tile.tokens, self.token)
        with _loaded(core, tile.sequence, tile.tokens) as (sequence, tokens):
            core.subtract(sequence, self.token, self.rows)
            core.minimum(self.rows, tokens, self.rows)
        if tile.causal:
            core.add(self.token, self.rows, self.visible)
            core.increase(self.visible, core.argument("past"))
        else:
            core.add(core.argument("past"), tile.sequence, self.visible)

    @contextmanager
    def chunks(self, skip_first: bool) -> Iterator[None]:
        """Repeat the block for each chunk of keys, or for all but the first."""
        core, tile = self.core, self.tile
        with core.scratch() as trips:
            core.add(self.visible, tile.keys - 1, trips)
            with _loaded(core, tile.keys) as (keys,):
                core.compute("div", trips, keys, trips)
            core.copy(tile.keys if skip_first else 0, self.first_key)
            if skip_first:
                core.increase(trips, -1)
            with core.loop(trips):
                self.measure_chunk()
                yield
                core.increase(self.first_key, tile.keys)

    def measure_chunk(self) -> None:
        """Leave the rows of the chunk at `first_key` in `chunk_rows`."""
        core, tile = self.core, self.tile
        with _loaded(core, tile.block_rows, tile.keys) as (block, keys):
            core.subtract(self.visible, self.first_key, self.chunk_rows)
            core.increase(self.chunk_rows, tile.block_rows - 1)
            core.compute("div", self.chunk_rows, block, self.chunk_rows)
            core.multiply(self.chunk_rows, block, self.chunk_rows)
            core.minimum(self.chunk_rows, keys, self.chunk_rows)


class _Loader(_Walk):
    """Core A: loads q once per item and k, v and the mask chunk by chunk."""

    def item(self) -> None:
        """Load everything that one item reads."""
        self._load_q()
        core, tile = self.core, self.tile
        with core.scratch() as cache:
            core.multiply(self.batch, tile.kv_heads, cache)
            core.increase(cache, self.head)
            core.multiply(cache, tile.capacity * tile.row_bytes, cache)
            with self.chunks(skip_first=False):
                self._load_keys("k", self.buffers.k, cache)
                self._load_keys("v", self.buffers.v, cache)
                self._transpose_values()
                if tile.has_mask:
                    self._load_mask()

    def _load_q(self) -> None:
        core, tile, q = self.core, self.tile, self.buffers.q
        head_bytes = tile.head_dim * tile.dtype.bytes
        with core.scratch() as address, core.scratch() as offset:
            core.multiply(self.batch, tile.sequence, address)
            core.increase(address, self.token)
            core.multiply(address, core.argument("q_pitch"), address)
            core.increase(address, core.argument("q"))
            core.multiply(self.head, tile.group * head_bytes, offset)
            core.increase(address, offset)
            core.copy(0, offset)
            with _loaded(core, tile.row_bytes, head_bytes, tile.group) as (row_bytes, next_head, group):
                common = {"out": q, "out_offset": offset, "out_pitch": row_bytes, "row_bytes": row_bytes}
                if tile.is_stacked:
                    core.emit("dma_in", **common, address=address, address_pitch=next_head, rows=group)
                else:
                    with core.loop(group):
                        pitch = core.argument("q_pitch")
                        core.emit("dma_in", **common, address=address, address_pitch=pitch, rows=self.rows)
                        core.increase(address, next_head)
                        core.increase(offset, tile.tokens * tile.row_bytes)
        core.push(q)

    def _load_keys(self, argument: str, buffer: BufferHandle, cache: Register) -> None:
        """Load a chunk of k or v; its rows lie one after the other, so it is one long row."""
        core, tile = self.core, self.tile
        with core.scratch() as address, core.scratch() as size, _loaded(core, tile.row_bytes) as (row_bytes,):
            core.multiply(self.first_key, row_bytes, address)
            core.increase(address, cache)
            core.increase(address, core.argument(argument))
            core.multiply(self.chunk_rows, row_bytes, size)
            core.emit("dma_in", out=buffer, address=address, rows=1, row_bytes=size)
        core.push(buffer)

    def _transpose_values(self) -> None:
        core, tile, buffers = self.core, self.tile, self.buffers
        with _loaded(core, tile.keys * tile.dtype.bytes, tile.row_bytes, tile.padded_head_dim) as (pitch, row, columns):
            core.emit(
                "transpose", out=buffers.v_transposed, out_pitch=pitch, a=buffers.v, a_pitch=row, rows=self.chunk_rows,
                columns=columns, a_dtype=tile.dtype.name,
            )  # fmt: skip
        core.push(buffers.v_transposed)
        core.pop(buffers.v)

    def _load_mask(self) -> None:
        """Load the part of the mask's row that exists; what lies beyond is hidden by its position."""
        core, pitch = self.core, self.core.argument("mask_pitch")
        with core.scratch() as address, core.scratch() as size, core.scratch() as offset:
            core.multiply(self.first_key, MASK_BYTES, offset)
            core.subtract(pitch, offset, size)
            with _loaded(core, self.tile.keys * MASK_BYTES) as (largest,):
                core.minimum(size, largest, size)
            core.multiply(self.batch, pitch, address)
            core.increase(address, offset)
            core.increase(address, core.argument("mask"))
            core.emit("dma_in", out=self.buffers.mask, address=address, rows=1, row_bytes=size)
        core.push(self.buffers.mask)


class _Attender(_Walk):
    """Core B: scores, running softmax and weighted sum of each block of query rows."""

    def item(self) -> None:
        """Work through the chunks, then divide and store."""
        core = self.core
        if self.tile.is_stacked:
            core.copy(self.tile.group, self.rows)
        core.copy(0, self.first_key)
        self.measure_chunk()
        self._chunk(is_first=True)
        with self.chunks(skip_first=True):
            self._chunk(is_first=False)
        core.pop(self.buffers.q)
        with core.scratch() as address:
            self._out_address(address)
            with self._each_block():
                self._store(address)

    @contextmanager
    def _each_block(self) -> Iterator[Register]:
        """Repeat for each block of query rows; yields the byte offset of the block in q."""
        core, tile = self.core, self.tile
        with core.scratch() as offset:
            core.copy(0, offset)
            with _loaded(core, tile.blocks) as (blocks,), core.loop(blocks):
                yield offset
                core.increase(offset, tile.tokens * tile.row_bytes)

    def _chunk(self, is_first: bool) -> None:
        buffers = self.buffers
        with self._each_block() as q_offset:
            self._multiply_scores(q_offset)
            self._mask_scores()
            self._exponentiate(is_first)
            self._multiply_values()
            self._accumulate(is_first)
        self.core.pop(buffers.k)
        self.core.pop(buffers.v_transposed)
        if self.tile.has_mask:
            self.core.pop(buffers.mask)

    def _mml(self, bank: int, a: tuple[BufferHandle, Register, Register], b: tuple[BufferHandle, Register, Register],
             columns: Register, k_blocks: Register) -> None:  # fmt: skip
        """Emit one multiplication; a machine that repeats fewer blocks gets a loop of commands."""
        core, limit = self.core, self.machine.matrix.max_repeat_blocks
        common = {"bank": bank, "a": a[0], "a_pitch": a[2], "b": b[0], "b_pitch": b[2], "rows": self.rows,
                  "columns": columns, "a_dtype": self.tile.dtype.name}  # fmt: skip
        largest = max(self.tile.row_bytes, self.tile.keys * self.tile.dtype.bytes) // self.machine.matrix.block_k_bytes
        if largest <= limit:
            core.emit("mml", **common, a_offset=a[1], b_offset=b[1], k_blocks=k_blocks, accumulate="set")
            return
        step = self.machine.matrix.block_k_bytes
        with _loaded(core, 1) as (one,), core.scratch() as a_offset, core.scratch() as b_offset, core.scratch() as rest:
            core.copy(a[1], a_offset)
            core.copy(b[1], b_offset)
            core.emit("mml", **common, a_offset=a_offset, b_offset=b_offset, k_blocks=one, accumulate="set")
            core.add(k_blocks, -1, rest)
            with core.loop(rest):
                core.increase(a_offset, step)
                core.increase(b_offset, step)
                core.emit("mml", **common, a_offset=a_offset, b_offset=b_offset, k_blocks=one, accumulate="add")

    def _multiply_scores(self, q_offset: Register) -> None:
        core, tile, buffers = self.core, self.tile, self.buffers
        k_blocks = tile.row_bytes // self.machine.matrix.block_k_bytes
        for index in range(tile.keys // tile.block_rows):
            with _loaded(core, index * tile.block_rows) as (first,), core.when_less(first, self.chunk_rows):
                bank = index % self.machine.accumulator.banks
                offset = index * tile.block_rows * tile.row_bytes
                with _loaded(core, offset, tile.row_bytes, tile.block_rows, k_blocks) as (start, pitch, columns, blocks):
                    self._mml(bank, (buffers.q, q_offset, pitch), (buffers.k, start, pitch), columns, blocks)
                self._drain(bank, buffers.scores, index, tile.keys, tile.block_rows)
        core.push(buffers.scores)

    def _drain(self, bank: int, out: BufferHandle, index: int, row_elements: int, columns: int) -> None:
        core, width = self.core, self.tile.block_rows * FP32_BYTES
        with _loaded(core, index * width, row_elements * FP32_BYTES, columns) as (offset, pitch, count):
            core.emit(
                "acc_drain", out=out, out_offset=offset, out_pitch=pitch, bank=bank, rows=self.rows, columns=count,
                out_dtype="fp32",
            )  # fmt: skip

    def _mask_scores(self) -> None:
        """Scale, hide what lies behind the limit of each row, and what the mask hides."""
        core, tile, buffers = self.core, self.tile, self.buffers
        with core.scratch() as limit, _loaded(core, tile.keys * FP32_BYTES, tile.keys) as (pitch, columns):
            self._wide("vmuls", buffers.masked, buffers.scores, pitch, columns, value=tile.scale)
            self._move(buffers.masked, buffers.scores)
            if tile.causal and not tile.is_stacked:
                core.subtract(self.visible, self.rows, limit)
                core.increase(limit, 1)
            else:
                core.copy(self.visible, limit)
            core.subtract(limit, self.first_key, limit)
            with _loaded(core, int(tile.causal and not tile.is_stacked)) as (step,):
                self._wide(
                    "vlimit", buffers.masked, buffers.masked, pitch, columns, first=limit, step=step, value=HIDDEN
                )
            self._move(buffers.masked, buffers.masked)
            if tile.has_mask:
                self._wide(
                    "vselect", buffers.masked, buffers.masked, pitch, columns, b=buffers.mask, b_dtype="int32",
                    spread="row", value=HIDDEN,
                )  # fmt: skip
                self._move(buffers.masked, buffers.masked)

    def _wide(self, name: str, out: BufferHandle, a: BufferHandle, pitch: Register, columns: Register,
              **operands: Register | BufferHandle | float | str) -> None:  # fmt: skip
        """Emit a SIMD command on all rows of the block, fp32 to fp32 with equal pitches."""
        self.core.emit(
            name, out=out, out_pitch=pitch, a=a, a_pitch=pitch, rows=self.rows, columns=columns, out_dtype="fp32",
            a_dtype="fp32", **operands,
        )  # fmt: skip

    def _move(self, written: BufferHandle, read: BufferHandle) -> None:
        self.core.push(written)
        self.core.pop(read)

    def _column(self, name: str, out: BufferHandle, a: BufferHandle, a_offset: Register = ZERO,
                **operands: Register | BufferHandle | float | str) -> None:  # fmt: skip
        """Emit a SIMD command on one fp32 per row."""
        with _loaded(self.core, FP32_BYTES, 2 * FP32_BYTES, 1) as (dense, paired, one):
            running = self.buffers.running
            more = {"b_pitch": dense, "b_dtype": "fp32"} if "b" in operands else {}
            self.core.emit(
                name, out=out, out_pitch=paired if out is running else dense, a=a, a_offset=a_offset,
                a_pitch=paired if a is running else dense, rows=self.rows, columns=one, out_dtype="fp32", a_dtype="fp32",
                **more, **operands,
            )  # fmt: skip

    def _exponentiate(self, is_first: bool) -> None:
        """Update the maximum; leave the factor of the old state in `rescale` and the weights in `probabilities`."""
        core, tile, buffers = self.core, self.tile, self.buffers
        if is_first:
            self._reduce("rowmax", buffers.current, buffers.masked, FP32_BYTES, "fp32")
        else:
            self._reduce("rowmax", buffers.column, buffers.masked, FP32_BYTES, "fp32")
            self._column("vmax", buffers.current, buffers.running, b=buffers.column)
            self._move(buffers.current, buffers.column)
            self._column("vsub", buffers.column, buffers.running, b=buffers.current)
            core.push(buffers.column)
            self._column("vexp", buffers.rescale, buffers.column)
            self._move(buffers.rescale, buffers.column)
        self._column("vcast", buffers.running, buffers.current)
        with _loaded(core, tile.keys * FP32_BYTES, tile.keys, FP32_BYTES) as (pitch, columns, column_pitch):
            self._wide(
                "vsub", buffers.exponent, buffers.masked, pitch, columns, b=buffers.current, b_pitch=column_pitch,
                b_dtype="fp32", spread="column",
            )  # fmt: skip
        self._move(buffers.exponent, buffers.masked)
        core.pop(buffers.current)
        name = tile.dtype.name
        wide, narrow = tile.keys * FP32_BYTES, tile.keys * tile.dtype.bytes
        with _loaded(core, wide, narrow, tile.keys) as (wide_pitch, pitch, columns):
            common = {"rows": self.rows, "columns": columns, "out_pitch": pitch, "out_dtype": name}
            core.emit("vexp", out=buffers.weights, a=buffers.exponent, a_pitch=wide_pitch, a_dtype="fp32", **common)
            self._move(buffers.weights, buffers.exponent)
            core.emit("vcast", out=buffers.probabilities, a=buffers.weights, a_pitch=pitch, a_dtype=name, **common)
            core.push(buffers.probabilities)

    def _reduce(self, name: str, out: BufferHandle, a: BufferHandle, element_bytes: int, dtype: str) -> None:
        """Emit a reduction of the keys to one fp32 per row, and make it visible."""
        core, tile = self.core, self.tile
        with _loaded(core, FP32_BYTES, tile.keys * element_bytes, tile.keys) as (out_pitch, pitch, columns):
            core.emit(
                name, out=out, out_pitch=out_pitch, a=a, a_pitch=pitch, rows=self.rows, columns=columns,
                out_dtype="fp32", a_dtype=dtype,
            )  # fmt: skip
        core.push(out)

    def _multiply_values(self) -> None:
        core, tile, buffers = self.core, self.tile, self.buffers
        element = tile.dtype.bytes
        with core.scratch() as k_blocks, _loaded(core, tile.keys * element) as (pitch,):
            core.compute("div", self.chunk_rows, self.machine.matrix.block_k_bytes // element, k_blocks)
            for index, first in enumerate(range(0, tile.padded_head_dim, tile.block_rows)):
                bank = index % self.machine.accumulator.banks
                width = min(tile.block_rows, tile.padded_head_dim - first)
                with _loaded(core, first * tile.keys * element, width) as (start, columns):
                    a, b = (buffers.probabilities, ZERO, pitch), (buffers.v_transposed, start, pitch)
                    self._mml(bank, a, b, columns, k_blocks)
                self._drain(bank, buffers.product, index, tile.padded_head_dim, width)
        self._move(buffers.product, buffers.probabilities)

    def _accumulate(self, is_first: bool) -> None:
        """Update sum of weights and weighted sum of values."""
        core, tile, buffers = self.core, self.tile, self.buffers
        self._reduce("rowsum", buffers.column, buffers.weights, tile.dtype.bytes, tile.dtype.name)
        core.pop(buffers.weights)
        if not is_first:
            with _loaded(core, FP32_BYTES, buffers.column.slot_bytes) as (sum_of_weights, second):
                self._column("vmul", buffers.column, buffers.running, sum_of_weights, b=buffers.rescale)
                self._move(buffers.column, buffers.running)
                more = {"out_offset": sum_of_weights, "b_offset": second}
                self._column("vadd", buffers.running, buffers.column, b=buffers.column, **more)
            core.pop(buffers.column, 2)
        else:
            with _loaded(core, FP32_BYTES) as (sum_of_weights,):
                self._column("vcast", buffers.running, buffers.column, out_offset=sum_of_weights)
            core.pop(buffers.column)
        core.push(buffers.running)
        with _loaded(core, tile.padded_head_dim * FP32_BYTES, tile.padded_head_dim, FP32_BYTES) as (pitch, columns, one):
            if is_first:
                self._wide("vcast", buffers.output, buffers.product, pitch, columns)
            else:
                rescale = {"b": buffers.rescale, "b_pitch": one, "b_dtype": "fp32", "spread": "column"}
                self._wide("vmul", buffers.scaled, buffers.output, pitch, columns, **rescale)
                self._move(buffers.scaled, buffers.output)
                product = {"b": buffers.product, "b_pitch": pitch, "b_dtype": "fp32"}
                self._wide("vadd", buffers.output, buffers.scaled, pitch, columns, **product)
                core.pop(buffers.scaled)
                core.pop(buffers.rescale)
        self._move(buffers.output, buffers.product)

    def _out_address(self, address: Register) -> None:
        """Emit the address of the item's first head and token in the result."""
        core, tile = self.core, self.tile
        with core.scratch() as offset:
            core.multiply(self.batch, tile.sequence, address)
            core.increase(address, self.token)
            core.multiply(address, core.argument("out_pitch"), address)
            core.increase(address, core.argument("out"))
            core.multiply(self.head, tile.group * tile.head_dim * tile.dtype.bytes, offset)
            core.increase(address, offset)

    def _store(self, address: Register) -> None:
        """Divide a block by its sum of weights and store it; `address` moves to the next head."""
        core, tile, buffers = self.core, self.tile, self.buffers
        head_bytes = tile.head_dim * tile.dtype.bytes
        with _loaded(core, FP32_BYTES) as (sum_of_weights,):
            self._column("vrecip", buffers.column, buffers.running, sum_of_weights)
        self._move(buffers.column, buffers.running)
        wide = tile.padded_head_dim * FP32_BYTES
        with _loaded(core, tile.row_bytes, wide, tile.padded_head_dim, FP32_BYTES) as (narrow, pitch, columns, one):
            core.emit(
                "vmul", out=buffers.out, out_pitch=narrow, a=buffers.output, a_pitch=pitch, b=buffers.column, b_pitch=one,
                rows=self.rows, columns=columns, out_dtype=tile.dtype.name, a_dtype="fp32", b_dtype="fp32",
                spread="column",
            )  # fmt: skip
            self._move(buffers.out, buffers.output)
            core.pop(buffers.column)
            with _loaded(core, head_bytes) as (size,):
                pitch = size if tile.is_stacked else core.argument("out_pitch")
                core.emit(
                    "dma_out", address=address, address_pitch=pitch, a=buffers.out, a_pitch=narrow, rows=self.rows,
                    row_bytes=size,
                )  # fmt: skip
        core.pop(buffers.out)
        core.increase(address, head_bytes)


def useful_macs(tile: AttentionTile, past: Dim) -> Dim:
    """Return the products that causality leaves, q k^T and weights v together."""
    pairs = past * tile.sequence + (tile.sequence * (tile.sequence + 1) // 2 if tile.causal else tile.sequence**2)
    return pairs * (2 * tile.batch * tile.kv_heads * tile.group * tile.head_dim)


def issued_macs(tile: AttentionTile, past: Dim) -> tuple[RoundedMacs, ...]:
    """Return what the matrix engine does: whole blocks of rows and keys, padded heads."""
    factor = 2 * tile.batch * tile.kv_heads * tile.blocks * tile.padded_head_dim * tile.block_rows
    return tuple(RoundedMacs(factor, tile.visible(index, past), tile.block_rows) for index in range(tile.tiles))


def lower(context: Lowering, op: Operation) -> None:
    """Launch an attention; items are dealt over the PEs."""
    attributes = op.attributes
    assert isinstance(attributes, AttentionAttributes)
    q, out = context.region(op.inputs[0]), context.region(op.outputs[0])
    keys, values = context.cache(op.inputs[1]), context.cache(op.inputs[2])
    mask = context.region(op.inputs[5]) if len(op.inputs) > 5 and op.inputs[5] else None
    tile = choose_tile(keys, attributes, mask is not None, context.machine)
    kernel = context.kernel(("attention", tile), lambda: build(tile, context.machine))
    arguments: dict[str, ArgumentValue] = {
        "q": context.address(q), "q_pitch": q.pitch_bytes, "k": context.cache_address(keys),
        "v": context.cache_address(values), "mask": context.address(mask) if mask else 0,
        "mask_pitch": mask.pitch_bytes if mask else 0, "out": context.address(out), "out_pitch": out.pitch_bytes,
        "past": attributes.past, "items": tile.items,
    }  # fmt: skip
    useful = useful_macs(tile, attributes.past)
    context.launch(
        op, kernel, context.rectangle(tile.items), arguments, useful_macs=useful,
        rounded_macs=issued_macs(tile, attributes.past),
    )  # fmt: skip
