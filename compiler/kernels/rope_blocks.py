"""Rotary embedding of many tokens, a block of tokens of some heads at a time (see `rope` for the formula).

Cosines and sines of a block are loaded twice, side by side, so that products take whole heads. They are constants, so
that those of the first item come before what is rotated is there. Heads come and go one by one: the first is rotated
while others are on their way, and products of the next one are made while those of one are waited for.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, Register
from compiler.kernels.token_blocks import (
    ARGUMENTS,
    Item,
    Store,
    TokenBlocks,
    dealt_blocks,
    find_out,
    load_heads,
    store_head,
)
from compiler.packing import padded_row_bytes
from isa.dtypes import FP32, Dtype
from isa.kernel import Kernel
from isa.machine import Machine

TABLE_SLOTS, PRODUCT_SLOTS, HEAD_SLOTS = 2, 3, 6
"""Slots of tables; of products, one of which is still being added up while the next but one is made; and of heads: as
many as are on their way while one is rotated."""


@dataclass(frozen=True, slots=True)
class RopeBlocks:
    """What an item is, elements of a head, and how the result lies."""

    plan: TokenBlocks
    head_dim: int
    store: Store
    dtype: Dtype

    @property
    def head_bytes(self) -> int:
        """Bytes of a head of a token."""
        return self.head_dim * self.dtype.bytes

    @property
    def wide_bytes(self) -> int:
        """Bytes of a head of a token in fp32."""
        return self.head_dim * FP32.bytes

    @property
    def table_bytes(self) -> int:
        """Bytes of a row of a table."""
        return padded_row_bytes(self.head_dim // 2, FP32)

    def fits(self, machine: Machine) -> bool:
        """Tell whether the machine reaches heads and halves of them, and has room for some on their way."""
        pieces = (self.head_bytes // 2, self.wide_bytes // 2)
        wide_slots = 2 * (TABLE_SLOTS + PRODUCT_SLOTS)
        local = self.plan.tokens * (2 * HEAD_SLOTS * self.head_bytes + wide_slots * self.wide_bytes)
        is_reached = not any(size % machine.dma.alignment_bytes for size in pieces)
        return is_reached and local <= machine.pe.local_memory_bytes // 2


@dataclass(frozen=True, slots=True)
class _Buffers:
    x: BufferHandle
    cosines: BufferHandle
    sines: BufferHandle
    products: BufferHandle
    out: BufferHandle


def build(machine: Machine, shape: RopeBlocks) -> Kernel:
    """Return the kernel."""
    plan = shape.plan
    name = f"rope_{plan.all_heads}x{shape.head_dim}_{shape.store}_{plan.tokens}x{plan.heads}"
    builder = KernelBuilder(name, machine, (*ARGUMENTS, "cosines", "sines", "start"))
    head, wide = plan.tokens * shape.head_bytes, plan.tokens * shape.wide_bytes
    buffers = _Buffers(
        x=builder.buffer("x", head, HEAD_SLOTS, shared=True),
        cosines=builder.buffer("cosines", wide, TABLE_SLOTS, shared=True),
        sines=builder.buffer("sines", wide, TABLE_SLOTS, shared=True),
        products=builder.buffer("products", 2 * wide, PRODUCT_SLOTS, shared=True),
        out=builder.buffer("out", head, HEAD_SLOTS, shared=True),
    )
    _load(builder.core_a, shape, buffers)
    core = builder.core_b
    with dealt_blocks(core, plan) as item, core.scratch() as address:
        find_out(core, item, address)
        _multiply(core, shape, buffers, item)
        with core.scratch() as others, core.loop(core.copy(plan.heads - 1, others)):
            _multiply(core, shape, buffers, item)
            _combine(core, shape, buffers, item, address)
        for buffer in (buffers.cosines, buffers.sines):
            core.pop(buffer)
        _combine(core, shape, buffers, item, address)
    return builder.build()


def _load(core: CoreBuilder, shape: RopeBlocks, buffers: _Buffers) -> None:
    """Load x, and tables one item ahead of it."""
    with core.scratch() as is_first:
        core.copy(1, is_first)
        with dealt_blocks(core, shape.plan) as item, core.loop(is_first):
            _load_tables(core, shape, buffers, item)
            core.copy(0, is_first)
    core.await_inputs()
    with core.scratch() as is_later:
        core.copy(0, is_later)
        with dealt_blocks(core, shape.plan) as item:
            with core.loop(is_later):
                _load_tables(core, shape, buffers, item)
            core.copy(1, is_later)
            load_heads(core, shape.plan, buffers.x, item, shape.head_bytes)


def _load_tables(core: CoreBuilder, shape: RopeBlocks, buffers: _Buffers, item: Item) -> None:
    half_bytes = shape.wide_bytes // 2
    with core.scratch() as row, core.scratch() as address, core.scratch() as offset:
        core.add(item.first, core.load_argument("start", row), row)
        core.multiply(row, shape.table_bytes, row)
        for name, buffer in (("cosines", buffers.cosines), ("sines", buffers.sines)):
            core.add(row, core.load_argument(name, address), address)
            core.copy(0, offset)
            with core.loop(2):
                core.emit(
                    "dma_in", out=buffer, out_offset=offset, out_pitch=shape.wide_bytes, address=address,
                    address_pitch=shape.table_bytes, rows=item.tokens, row_bytes=half_bytes,
                )  # fmt: skip
                core.increase(offset, half_bytes)
            core.push(buffer)


def _multiply(core: CoreBuilder, shape: RopeBlocks, buffers: _Buffers, item: Item) -> None:
    """Multiply all of the next head by cosines and by sines."""
    sines_at = shape.plan.tokens * shape.wide_bytes
    for place, table in ((0, buffers.cosines), (sines_at, buffers.sines)):
        core.emit(
            "vmul", out=buffers.products, out_offset=place, out_pitch=shape.wide_bytes, a=buffers.x,
            a_pitch=shape.head_bytes, b=table, b_pitch=shape.wide_bytes, rows=item.tokens, columns=shape.head_dim,
            out_dtype=FP32.name, a_dtype=shape.dtype.name, b_dtype=FP32.name, spread="full",
        )  # fmt: skip
    core.push(buffers.products)
    core.pop(buffers.x)


def _combine(core: CoreBuilder, shape: RopeBlocks, buffers: _Buffers, item: Item, address: Register) -> None:
    """Make differences and sums of the products of a head, and store it; the address moves to the next one."""
    name, products = shape.dtype.name, buffers.products
    sines_at, half = shape.plan.tokens * shape.wide_bytes, shape.wide_bytes // 2
    terms = (("vsub", 0, sines_at + half, 0), ("vadd", half, sines_at, shape.head_bytes // 2))
    for combine, cosines, sines, target in terms:
        core.emit(
            combine, out=buffers.out, out_offset=target, out_pitch=shape.head_bytes, a=products, a_offset=cosines,
            a_pitch=shape.wide_bytes, b=products, b_offset=sines, b_pitch=shape.wide_bytes, rows=item.tokens,
            columns=shape.head_dim // 2, out_dtype=name, a_dtype=FP32.name, b_dtype=FP32.name,
        )  # fmt: skip
    core.push(buffers.out)
    core.pop(products)
    store_head(core, buffers.out, item, address, shape.head_bytes, shape.store)
