"""Heads of new tokens into a cache [batch, head, position, head_dim]: core A loads rows, core B stores heads.

Where no PE has two tokens core B does both, and core A has nothing to wait for.
Token i of a sequence goes to position i behind the start, or to the position that an int32 input says.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from compiler.graph import Operation
from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, Register
from compiler.kernels.dealing import OnePerPe, dealt_items, one_item, one_per_pe, row_address
from compiler.kernels.rope import cache_target, load_indices, token_address
from compiler.kernels.token_blocks import ARGUMENTS as BLOCK_ARGUMENTS
from compiler.kernels.token_blocks import Store, TokenBlocks, choose_blocks, dealt_blocks, load_item, store_item
from compiler.lowering import ArgumentValue, Lowering
from compiler.packing import padded_row_bytes
from isa.dtypes import Dtype
from isa.kernel import Kernel
from isa.machine import Machine

ARGUMENTS = (
    "x", "x_pitch", "tokens", "sequence", "places", "place_count", "out", "out_batch_pitch", "out_token_pitch",
    "out_head_pitch",
)  # fmt: skip
"""Token `i` is written to position `i % sequence`, or `places[i % place_count]` if the kernel reads them."""

BLOCK_SLOTS = 2
PLACES_INPUT = 1
"""Index among the inputs of cache_append, of one that writes a static cache."""


@dataclass(frozen=True, slots=True)
class AppendShape:
    """Heads of a token and their elements, without and with the padding of the cache.

    Where no PE has two tokens, it says which have one.
    """

    heads: int
    head_dim: int
    padded_head_dim: int
    place_bytes: int
    dtype: Dtype
    one_each: OnePerPe | None = None


def build(machine: Machine, shape: AppendShape) -> Kernel:
    """Return the kernel."""
    suffix = "_places" if shape.place_bytes else ""
    builder = KernelBuilder(f"cache_append_{shape.heads}x{shape.head_dim}{suffix}", machine, ARGUMENTS)
    row_bytes = padded_row_bytes(shape.heads * shape.head_dim, shape.dtype)
    head_bytes = shape.padded_head_dim * shape.dtype.bytes
    slots = 2 if shape.one_each is None else 1
    x = builder.buffer("x", row_bytes, slots, shared=True)
    padded = shape.head_dim != shape.padded_head_dim
    out = builder.buffer("out", shape.heads * head_bytes, slots, shared=True) if padded else x
    b = builder.core_b
    a = builder.core_a if shape.one_each is None else b
    places = load_indices(builder, a, "places", shape.place_bytes) if shape.place_bytes else None
    with _tokens(a, shape) as token, a.scratch() as address:
        row_address(a, "x", "x_pitch", token, address)
        a.emit("dma_in", out=x, address=address, rows=1, row_bytes=row_bytes)
        a.push(x)
    with _tokens(b, shape) as token, b.scratch() as address:
        if padded:
            _pad(b, shape, x, out)
        token_address(b, token, address, places)
        b.emit(
            "dma_out", address=address, address_pitch=b.argument("out_head_pitch"), a=out, a_pitch=head_bytes,
            rows=shape.heads, row_bytes=head_bytes,
        )  # fmt: skip
        b.pop(out)
    return builder.build()


def build_blocks(machine: Machine, plan: TokenBlocks, head_bytes: int, store: Store) -> Kernel:
    """Return the kernel for blocks of tokens of heads without padding."""
    name = f"cache_append_{plan.all_heads}x{head_bytes}_{store}_{plan.tokens}x{plan.heads}"
    builder = KernelBuilder(name, machine, BLOCK_ARGUMENTS)
    x = builder.buffer("x", plan.tokens * plan.heads * head_bytes, BLOCK_SLOTS, shared=True)
    with dealt_blocks(builder.core_a, plan) as item:
        load_item(builder.core_a, plan, x, item, head_bytes)
    with dealt_blocks(builder.core_b, plan) as item:
        store_item(builder.core_b, plan, x, item, head_bytes, store)
        builder.core_b.pop(x)
    return builder.build()


def _tokens(core: CoreBuilder, shape: AppendShape) -> AbstractContextManager[Register]:
    tokens = core.argument("tokens")
    return dealt_items(core, tokens) if shape.one_each is None else one_item(core, tokens, shape.one_each)


def _pad(core: CoreBuilder, shape: AppendShape, x: BufferHandle, out: BufferHandle) -> None:
    """Copy heads apart, zeros between them."""
    size = shape.dtype.bytes
    core.emit(
        "fill", out=out, rows=1, columns=shape.heads * shape.padded_head_dim, out_dtype=shape.dtype.name, value=0.0
    )
    core.emit(
        "copy", out=out, out_pitch=shape.padded_head_dim * size, a=x, a_pitch=shape.head_dim * size, rows=shape.heads,
        row_bytes=shape.head_dim * size,
    )  # fmt: skip
    core.push(out)
    core.pop(x)


def lower(context: Lowering, op: Operation) -> None:
    """Launch the copy of all new tokens; tokens are dealt over the PEs."""
    x, cache = context.region(op.inputs[0]), context.cache(op.outputs[0])
    places = context.region(op.inputs[PLACES_INPUT]) if len(op.inputs) > PLACES_INPUT else None
    place_bytes = places.row_bytes if places else 0
    shape = AppendShape(
        cache.heads, cache.head_dim, cache.padded_head_dim, place_bytes, cache.dtype, one_per_pe(context, x.rows, 2)
    )
    target = cache_target(context, cache, places)
    head_bytes, batch = cache.padded_head_dim * cache.dtype.bytes, x.rows // cache.sequence
    room = context.machine.pe.local_memory_bytes // (BLOCK_SLOTS * head_bytes)
    plan = choose_blocks(
        cache.heads, batch, cache.sequence, context.machine.pe_count, lambda plan: plan.tokens * plan.heads <= room
    )
    is_plain = places is None and cache.head_dim == cache.padded_head_dim
    if plan is not None and is_plain and head_bytes % context.machine.dma.alignment_bytes == 0:
        store: Store = "pieces" if cache.token_bytes == head_bytes else "heads"
        items = batch * plan.blocks(cache.sequence) * plan.groups
        kernel = context.kernel(build_blocks, plan, head_bytes, store)
        arguments: dict[str, ArgumentValue] = {
            "x": context.address(x), "x_pitch": x.pitch_bytes, "sequence": cache.sequence,
            "blocks": plan.blocks(cache.sequence), "items": items,
            **{name: value for name, value in target.items() if not name.startswith("place")},
        }  # fmt: skip
        context.launch(op, kernel, context.rectangle(items), arguments)
        return
    kernel = context.kernel(build, shape)
    arguments = {
        "x": context.address(x),
        "x_pitch": x.pitch_bytes,
        "tokens": x.rows,
        "sequence": cache.sequence,
        **target,
    }
    rectangle = shape.one_each.rectangle(context, x.rows) if shape.one_each else context.rectangle(x.rows)
    context.launch(op, kernel, rectangle, arguments)
