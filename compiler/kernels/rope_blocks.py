"""Rotary embedding of many tokens, a block of tokens of some heads at a time (see `rope` for the formula).

Cosines and sines of a block are loaded twice, side by side, so that products take whole heads. They are constants, so
that those of the first item come before what is rotated is there.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, Register
from compiler.kernels.token_blocks import ARGUMENTS, Item, Store, TokenBlocks, dealt_blocks, load_item, store_item
from compiler.packing import padded_row_bytes
from isa.dtypes import FP32, Dtype
from isa.kernel import Kernel
from isa.machine import Machine

SLOTS = 2


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
    def item_row_bytes(self) -> int:
        """Bytes of a token of an item."""
        return self.plan.heads * self.head_bytes

    @property
    def wide_bytes(self) -> int:
        """Bytes of a head of a token in fp32."""
        return self.head_dim * FP32.bytes

    @property
    def table_bytes(self) -> int:
        """Bytes of a row of a table."""
        return padded_row_bytes(self.head_dim // 2, FP32)

    def fits(self, machine: Machine) -> bool:
        """Tell whether the machine reaches heads and halves of them, and has room for two items."""
        pieces = (self.head_bytes // 2, self.wide_bytes // 2)
        local = self.plan.tokens * SLOTS * (2 * self.item_row_bytes + 4 * self.wide_bytes)
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
    wide = plan.tokens * shape.wide_bytes
    buffers = _Buffers(
        x=builder.buffer("x", plan.tokens * shape.item_row_bytes, SLOTS, shared=True),
        cosines=builder.buffer("cosines", wide, SLOTS, shared=True),
        sines=builder.buffer("sines", wide, SLOTS, shared=True),
        products=builder.buffer("products", 2 * wide, 2, shared=True),
        out=builder.buffer("out", plan.tokens * shape.item_row_bytes, 2, shared=True),
    )
    _load(builder.core_a, shape, buffers)
    core = builder.core_b
    with dealt_blocks(core, plan) as item:
        with core.scratch() as offset:
            core.copy(0, offset)
            with core.loop(plan.heads):
                _rotate(core, shape, buffers, item, offset)
                core.increase(offset, shape.head_bytes)
        for buffer in (buffers.cosines, buffers.sines, buffers.x):
            core.pop(buffer)
        core.push(buffers.out)
        store_item(core, plan, buffers.out, item, shape.head_bytes, shape.store)
        core.pop(buffers.out)
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
            load_item(core, shape.plan, buffers.x, item, shape.head_bytes)


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


def _rotate(core: CoreBuilder, shape: RopeBlocks, buffers: _Buffers, item: Item, offset: Register) -> None:
    """Rotate the head at an offset: products of all of it with cosines and with sines, then differences and sums."""
    name, products = shape.dtype.name, buffers.products
    sines_at, half = shape.plan.tokens * shape.wide_bytes, shape.wide_bytes // 2
    for place, table in ((0, buffers.cosines), (sines_at, buffers.sines)):
        core.emit(
            "vmul", out=products, out_offset=place, out_pitch=shape.wide_bytes, a=buffers.x, a_offset=offset,
            a_pitch=shape.item_row_bytes, b=table, b_pitch=shape.wide_bytes, rows=item.tokens, columns=shape.head_dim,
            out_dtype=FP32.name, a_dtype=name, b_dtype=FP32.name, spread="full",
        )  # fmt: skip
    core.push(products)
    with core.scratch() as target:
        core.copy(offset, target)
        for combine, cosines, sines in (("vsub", 0, sines_at + half), ("vadd", half, sines_at)):
            core.emit(
                combine, out=buffers.out, out_offset=target, out_pitch=shape.item_row_bytes, a=products,
                a_offset=cosines, a_pitch=shape.wide_bytes, b=products, b_offset=sines, b_pitch=shape.wide_bytes,
                rows=item.tokens, columns=shape.head_dim // 2, out_dtype=name, a_dtype=FP32.name, b_dtype=FP32.name,
            )  # fmt: skip
            core.increase(target, shape.head_bytes // 2)
    core.pop(products)
