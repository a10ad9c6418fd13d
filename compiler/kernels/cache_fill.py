"""Keys and values of many tokens into their caches, both at once, beside an attention that reads them elsewhere.

A transfer of a core is complete when those before it are. So both are loaded before either is stored: what goes to DRAM
takes its latency once. Where no PE has two items core B does all, and core A is free for the attention.
"""

from __future__ import annotations

from compiler.graph import Operation
from compiler.kernel_builder import KernelBuilder
from compiler.kernels.rope import cache_target
from compiler.kernels.token_blocks import (
    ARGUMENTS,
    BLOCK_TOKENS,
    Store,
    TokenBlocks,
    choose_blocks,
    dealt_blocks,
    load_item,
    store_item,
)
from compiler.lowering import ArgumentValue, Lowering
from isa.kernel import Kernel
from isa.machine import Machine

LEAST_TOKENS = BLOCK_TOKENS[-1]
"""Tokens of a sequence that are filled in at once, at least."""
_SOURCES, _TARGETS = ("x", "values"), ("out", "values_out")
_ITEM_SLOTS = 2
"""Slots of an item: its keys and its values."""


def build(machine: Machine, plan: TokenBlocks, head_bytes: int, store: Store, is_one_each: bool) -> Kernel:
    """Return the kernel for heads of so many bytes; `is_one_each` if no PE has two items."""
    name = f"cache_fill_{plan.all_heads}x{head_bytes}_{store}_{plan.tokens}x{plan.heads}"
    builder = KernelBuilder(name, machine, (*ARGUMENTS, "values", "values_pitch", "values_out"))
    slots = _ITEM_SLOTS if is_one_each else 2 * _ITEM_SLOTS
    x = builder.buffer("x", plan.tokens * plan.heads * head_bytes, slots, shared=True)
    loader, core = builder.core_b if is_one_each else builder.core_a, builder.core_b
    if not is_one_each:
        with dealt_blocks(loader, plan) as item:
            for source in _SOURCES:
                load_item(loader, plan, x, item, head_bytes, source)
    with dealt_blocks(core, plan) as item:
        if is_one_each:
            for source in _SOURCES:
                load_item(core, plan, x, item, head_bytes, source)
        for target in _TARGETS:
            store_item(core, plan, x, item, head_bytes, store, target)
            core.pop(x)
    return builder.build()


def lower(context: Lowering, op: Operation) -> None:
    """Launch the copies; blocks of tokens are dealt over the PEs."""
    keys, values = map(context.region, op.inputs)
    cache, values_cache = map(context.cache, op.outputs)
    machine, head_bytes, batch = context.machine, cache.padded_head_dim * cache.dtype.bytes, keys.rows // cache.sequence
    room = machine.pe.local_memory_bytes // (2 * _ITEM_SLOTS * head_bytes)
    plan = choose_blocks(
        cache.heads, batch, cache.sequence, machine.pe_count, lambda plan: plan.tokens * plan.heads <= room
    )
    assert plan is not None and cache.head_dim == cache.padded_head_dim and values_cache.head_bytes == cache.head_bytes
    store: Store = "pieces" if cache.token_bytes == head_bytes else "heads"
    items = batch * plan.blocks(cache.sequence) * plan.groups
    kernel = context.kernel(build, plan, head_bytes, store, items <= machine.pe_count)
    target = cache_target(context, cache, None)
    arguments: dict[str, ArgumentValue] = {
        "x": context.address(keys), "x_pitch": keys.pitch_bytes, "values": context.address(values),
        "values_pitch": values.pitch_bytes, "sequence": cache.sequence, "blocks": plan.blocks(cache.sequence),
        "items": items, "values_out": cache_target(context, values_cache, None)["out"],
        **{name: value for name, value in target.items() if not name.startswith("place")},
    }  # fmt: skip
    context.launch(op, kernel, context.rectangle(items), arguments)
