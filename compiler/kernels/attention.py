"""`softmax(scale * q k^T + mask) v`, one pass over keys and values with running maximum and sum (FlashAttention).

A work item is one kv head of one sequence and a tile of query tokens; all query heads of the group share the keys and
values that the item loads. Core A loads q, then chunk by chunk k, v (transposed on the way by the layout unit) and the
mask; core B multiplies, keeps the running state of each query head in circular buffers, and stores the result. With one
token per sequence the heads of a group are the rows of a single block. Chunks beyond the last visible key are skipped.
"""

from __future__ import annotations

from compiler.attention_mapping import (
    AttentionTile,
    buffer_sizes,
    choose_tile,
    issued_macs,
    useful_macs,
)
from compiler.graph import AttentionAttributes, Operation
from compiler.kernel_builder import KernelBuilder
from compiler.kernels.attention_compute import Attender
from compiler.kernels.attention_load import Loader
from compiler.kernels.attention_walk import AttentionBuffers
from compiler.lowering import ArgumentValue, Lowering
from isa.kernel import Kernel
from isa.machine import Machine

ARGUMENTS = ("q", "q_pitch", "k", "v", "mask", "mask_pitch", "out", "out_pitch", "past", "items")


def build(tile: AttentionTile, machine: Machine) -> Kernel:
    """Return the kernel of a tile."""
    kind = "decode" if tile.is_stacked else "prefill"
    mask = ("_causal" if tile.causal else "") + ("_masked" if tile.has_mask else "")
    builder = KernelBuilder(f"attention_{kind}{mask}_{tile.block_row_count}x{tile.keys}", machine, ARGUMENTS)
    buffers = AttentionBuffers(**{name: builder.buffer(name, *size) for name, size in buffer_sizes(tile).items()})
    Loader(tile, machine, builder.core_a, buffers).emit()
    Attender(tile, machine, builder.core_b, buffers).emit()
    return builder.build()


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
