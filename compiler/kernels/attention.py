"""`softmax(scale * q k^T + mask) v`, one pass over keys and values with running maximum and sum (FlashAttention).

A bias is a tensor that is added to the scores: a mask that is no plain padding, or a position bias. Its part for a
chunk is loaded like the mask, for all rows of the item.

A work item is some query heads of one kv head and some query tokens of one sequence, in blocks of rows; all share the
keys and values that the item loads. Core A loads q, then chunk by chunk k, v (transposed on the way by the layout unit)
and the mask, and multiplies q with k; core B does the softmax, multiplies its weights with v, keeps the running state
of each block in circular buffers, and stores the result. With one token per sequence the heads of a group are the rows
of a single block, and items left when every PE has had as many are cut into parts along the keys
(`attention_parts.py`). Chunks beyond the last visible key are skipped.
"""

from __future__ import annotations

from dataclasses import fields

from compiler.attention_choice import choose_tile
from compiler.attention_mapping import (
    BIAS_INPUT,
    ROWS_INPUTS,
    AttentionTile,
    Bias,
    buffer_sizes,
    issued_macs,
    split_items,
    useful_macs,
)
from compiler.graph import AttentionAttributes, Operation
from compiler.kernel_builder import KernelBuilder
from compiler.kernels import cache_append, rope
from compiler.kernels.attention_compute import Attender
from compiler.kernels.attention_load import Loader
from compiler.kernels.attention_walk import AttentionBuffers, PartBuffers
from compiler.lowering import ArgumentValue, Lowering
from compiler.packing import padded_row_bytes
from isa.kernel import Kernel
from isa.machine import Machine

ARGUMENTS = (
    "q", "q_pitch", "k", "v", "mask", "mask_pitch", "bias", "bias_batch_pitch", "bias_head_pitch", "bias_token_pitch",
    "bias_row_bytes", "out", "out_pitch", "past", "items", "whole", "parts",
)  # fmt: skip
ROWS_ARGUMENTS = ("k_pitch", "v_pitch")
"""Distance between tokens, if keys and values are read from rows."""


def build(machine: Machine, tile: AttentionTile) -> Kernel:
    """Return the kernel of a tile."""
    shape = tile.shape
    kind = "decode" if shape.is_stacked else "prefill"
    mask = ("_causal" if shape.causal else "") + ("_masked" if shape.has_mask else "")
    mask += "" if shape.bias == "none" else f"_bias_{shape.bias.replace(' ', '_')}"
    size = f"{tile.blocks}x{tile.rows}x{tile.keys}" + ("_of_rows" if shape.reads_rows else "")
    names = (*ARGUMENTS, *(ROWS_ARGUMENTS if shape.reads_rows else ()))
    builder = KernelBuilder(f"attention_{kind}{mask}_{size}", machine, names)
    lasting = {"maximum", "carried", *(field.name for field in fields(PartBuffers))}
    # Those are read across slots, or kept; narrow tiles do so with most of theirs.
    handles = {
        name: builder.buffer(
            name,
            *sizes,
            shared=name not in lasting and not tile.is_narrow,
            sized=name == "maximum" and not tile.is_narrow and tile.parts == 1,
        )
        for name, sizes in buffer_sizes(tile, machine).items()
    }
    of_parts = {field.name: handles.pop(field.name) for field in fields(PartBuffers) if field.name in handles}
    buffers = AttentionBuffers(**handles, parts=PartBuffers(**of_parts) if of_parts else None)
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
    bias, bias_arguments = _bias(context, op, attributes)
    rows = [context.region(op.inputs[index]) for index in ROWS_INPUTS if index < len(op.inputs)]
    tile = choose_tile(
        keys, attributes, mask is not None, bias, context.machine, _past_is_kept(context, op), bool(rows)
    )
    kernel = context.kernel(build, tile)
    whole, parts = split_items(tile, context.machine)
    arguments: dict[str, ArgumentValue] = {
        "q": context.address(q), "q_pitch": q.pitch_bytes, "k": context.cache_address(keys),
        "v": context.cache_address(values), "mask": context.address(mask) if mask else 0,
        "mask_pitch": mask.pitch_bytes if mask else 0, "out": context.address(out), "out_pitch": out.pitch_bytes,
        "past": attributes.past, "items": tile.items, "whole": whole, "parts": parts, **bias_arguments,
    }  # fmt: skip
    for name, place in zip("kv", rows, strict=False):
        arguments |= {name: context.address(place), f"{name}_pitch": place.pitch_bytes}
    useful = useful_macs(tile.shape, attributes.past)
    grid = context.machine.grid
    rectangle = (grid.rows, grid.columns) if tile.is_shared else context.rectangle(tile.items * parts)
    context.launch(
        op, kernel, rectangle, arguments, useful_macs=useful,
        rounded_macs=issued_macs(tile, attributes.past),
    )  # fmt: skip


def _past_is_kept(context: Lowering, op: Operation) -> bool:
    """Tell whether caches come from before the run, and new tokens go behind what is in them, not to any places."""
    graph = context.mapped.graph
    pasts = op.inputs[3:5]
    if len(pasts) < 2 or not all(past in graph.inputs for past in pasts):
        return False
    writers = [context.producers[name] for name in op.inputs[1:3] if name and name in context.producers]
    places = {"rope": rope.PLACES_INPUT, "cache_append": cache_append.PLACES_INPUT}
    return all(len(writer.inputs) <= places.get(writer.kind, 0) for writer in writers)


def _bias(context: Lowering, op: Operation, attributes: AttentionAttributes) -> tuple[Bias, dict[str, ArgumentValue]]:
    """Return the kind of bias, and the launch arguments that tell where it lies; axes of size 1 have no pitch."""
    name = op.inputs[BIAS_INPUT] if len(op.inputs) > BIAS_INPUT else None
    if name is None:
        return "none", dict.fromkeys((name for name in ARGUMENTS if name.startswith("bias")), 0)
    shape = context.mapped.graph.value(name).shape
    known = [dim if isinstance(dim, int) else 0 for dim in shape]
    sizes = [known[0], 1, *known[1:]] if len(known) == 3 else [1] * (4 - len(known)) + known
    region = context.mapped.regions.get(name)
    row_bytes = region.row_bytes if region else padded_row_bytes(sizes[3], context.dtype)
    pitch = region.pitch_bytes if region else row_bytes
    rows = (sizes[1] * sizes[2], sizes[2], 1)
    batch, head, token = (step * pitch if size > 1 else 0 for size, step in zip(sizes, rows, strict=False))
    arguments: dict[str, ArgumentValue] = {
        "bias": context.address(region) if region else context.packed(op, BIAS_INPUT), "bias_batch_pitch": batch,
        "bias_head_pitch": head, "bias_token_pitch": token, "bias_row_bytes": row_bytes,
    }  # fmt: skip
    return "per head" if head else "shared", arguments
