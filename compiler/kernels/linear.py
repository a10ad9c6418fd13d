"""`x @ W.T (+ bias | + residual)`: core A streams chunks of x and the packed weight, core B multiplies and stores.

The packed weight is [output tile][K chunk][tile_outputs][chunk]; a chunk of a tile is one contiguous block.
Accumulators start from the bias, the residual or zeros, so that all products add. Rows of x are padded with zeros up
to a block of K. Addresses, rounds and chunks are launch arguments: one kernel serves all layers and every shape with
the same tiles.

Integer weights with floating-point x are expanded chunk by chunk in local memory; weights in int8 or e4m3 with x of
the same type are multiplied as they are, and their sums scaled by row and column before bias or residual are added. A
resident x may be rounded to that type by the kernel itself.

With a gate it is `gate(x @ W.T) * (x @ U.T)`. A block of the weight has the rows of both, so that one transfer brings
them, and a tile has accumulators for both. They meet in fp32; only their product is rounded.

With a multiplier it is `activation(x @ W.T + bias) * multiplier + residual`: sums of a block of rows pass one step
after the other in fp32, and are rounded in the last one. So they do where there is a residual beside a bias.
"""

from __future__ import annotations

from dataclasses import replace

from compiler.graph import Operation
from compiler.kernel_builder import EARLY, KernelBuilder
from compiler.kernels.linear_compute import Multiplier
from compiler.kernels.linear_computed import ComputedMultiplier
from compiler.kernels.linear_computed_load import ComputedLoader
from compiler.kernels.linear_load import Loader
from compiler.kernels.linear_rounded import emit_rounded
from compiler.kernels.linear_scaled import ScaledLoader, ScaledMultiplier, scaling_buffers
from compiler.kernels.linear_stream import word_bytes
from compiler.kernels.linear_walk import RESULT_ARGUMENTS, Buffers, arguments_of
from compiler.linear_macs import issued_macs, useful_macs
from compiler.linear_mapping import EXPANDED_SLOTS, TURNED_SLOTS, LinearMapping
from compiler.lowering import ArgumentValue, Lowering
from compiler.mapped import BIAS, ROW_SCALES, SCALES, ZERO_POINTS
from compiler.shaping import MULTIPLIER, RESIDUAL
from isa.kernel import Kernel
from isa.machine import Machine
from isa.machine_sections import dtype_family


def build(machine: Machine, mapping: LinearMapping) -> Kernel:
    """Return the kernel of a mapping."""
    shape = mapping.shape
    builder = KernelBuilder(_name(mapping), machine, arguments_of(shape))
    tile = mapping.tile_rows * mapping.tile_outputs
    initial_bytes, initial_slots = mapping.initial_row_bytes, 1
    if shape.start == "bias":
        initial_bytes, initial_slots = mapping.tile_columns * 4, 2
    if shape.start == "residual":
        initial_bytes, initial_slots = tile * shape.out_dtype.bytes, 2
    weight = builder.buffer(
        "weight", mapping.weight_chunk_bytes, mapping.weight_slots, shared=True, streamed=mapping.shares_slots
    )
    buffers = Buffers(
        builder.buffer("x", mapping.x_slot_bytes, mapping.x_slots, shared=True),
        weight,
        builder.buffer("initial", initial_bytes, initial_slots, shared=shape.start is not None),
        builder.buffer(
            "out", mapping.stored_rows * mapping.stored_outputs * shape.out_dtype.bytes, mapping.out_slots, shared=True
        ),
        weight,
        tuple(
            builder.buffer(f"activation{step}", size, slots, shared=True)
            for step, (size, slots) in enumerate(zip(mapping.activation_bytes, mapping.activation_slots, strict=True))
        ),
        results_like={
            step: builder.buffer(step, tile * shape.out_dtype.bytes, mapping.finish_slots, shared=True)
            for step in shape.results_like
        },
    )
    if shape.packed:
        buffers = _with_expansion(builder, mapping, buffers)
    if mapping.turned_chunk_bytes:
        size, slots = mapping.turned_slot_bytes, TURNED_SLOTS * len(mapping.column_blocks)
        buffers = replace(buffers, factor=builder.buffer("turned", size, slots, shared=True))
    if mapping.turned_result_bytes:
        size, slots = mapping.turned_result_bytes, mapping.turned_result_slots
        buffers = replace(buffers, turned_result=builder.buffer("turned_result", size, slots, shared=True))
    if mapping.early_chunks:
        buffers = replace(buffers, begun=builder.buffer("begun", word_bytes(machine), 1, shared=True))
    if mapping.starts_apart:
        buffers = replace(buffers, zeros=builder.buffer("zeros", mapping.initial_row_bytes, 1, shared=True))
    if mapping.turned_residual_bytes:
        buffers = replace(
            buffers, turned_residual=builder.buffer("turned_residual", mapping.turned_residual_bytes, 2, shared=True)
        )
    if shape.is_computed:
        ComputedLoader(mapping, machine, builder.core_a, buffers).emit()
        ComputedMultiplier(mapping, machine, builder.core_b, buffers).emit()
    elif shape.is_scaled:
        scaling = scaling_buffers(builder, mapping, machine, buffers.initial)
        if shape.rounded_from:
            emit_rounded(builder, mapping, machine, buffers, scaling)
        else:
            ScaledLoader(mapping, machine, builder.core_a, buffers, scaling).emit()
            ScaledMultiplier(mapping, machine, builder.core_b, buffers, scaling).emit()
    else:
        Loader(mapping, machine, builder.core_a, buffers).emit()
        Multiplier(mapping, machine, builder.core_b, buffers).emit()
    return builder.build()


def _with_expansion(builder: KernelBuilder, mapping: LinearMapping, buffers: Buffers) -> Buffers:
    slots, streamed = mapping.weight_slots, mapping.shares_slots
    has_zero_points = mapping.zero_point_chunk_bytes > 0
    return replace(
        buffers,
        factor=builder.buffer("expanded", mapping.expanded_part_bytes, EXPANDED_SLOTS, shared=True),
        scales=builder.buffer("scales", mapping.scale_chunk_bytes, slots, shared=True, streamed=streamed),
        zero_points=builder.buffer("zero_points", mapping.zero_point_chunk_bytes, slots, shared=True, streamed=streamed)
        if has_zero_points
        else None,
        shifted=builder.buffer("shifted", mapping.expanded_part_bytes, 1, shared=True) if has_zero_points else None,
    )


def _name(mapping: LinearMapping) -> str:
    shape = mapping.shape
    start = f"_{shape.start}" if shape.start else ""
    start += "".join(f"_{step}" for step in shape.finish or (shape.activation,) if step)
    start += f"_gated_{shape.gate}" if shape.gate else ""
    kind = f"{mapping.way}_kept" if mapping.keeps_weight else mapping.way
    rounded = "_rounded" if shape.rounded_from else ""
    scaled = f"_{dtype_family(shape.dtype.name)}x8{rounded}" if shape.is_scaled else ""
    operands = f"_int{shape.packed.dtype.bits}" if shape.packed else scaled
    operands += f"_by_{mapping.expansions}" if mapping.expansions > 1 else ""
    operands += "_swapped" if mapping.is_swapped else ""
    operands += f"_by_{shape.factor}" if shape.is_computed else ""
    operands += f"_by_{mapping.k_parts}_parts" if mapping.k_parts > 1 else ""
    operands += "_by_banks" if mapping.stores_banks else ""
    operands += f"_from_{mapping.first_chunk_bytes // shape.dtype.bytes}" if mapping.first_chunk_bytes else ""
    operands += f"_shared_by_{mapping.row_shares}" if mapping.row_shares > 1 else ""
    outputs = "_then_".join(str(width) for width in dict.fromkeys(mapping.rounds_outputs))
    return f"linear{operands}_{kind}{start}_{mapping.tile_rows}x{outputs}x{mapping.chunk_inputs}"


def _ordered(context: Lowering, op: Operation, mapping: LinearMapping) -> LinearMapping:
    """Return the mapping with the order of tiles that brings less from DRAM.

    Either order reads x for every tile and the weight for every tile of rows. What of it comes from DRAM should be what
    was read just before, so that it may lie in the cache: the weight, unless it is x that has no place in SRAM.
    """
    place = context.mapped.storages[context.region(op.inputs[0]).storage]
    return replace(mapping, keeps_weight=not mapping.resident and place.space == "sram")


def lower(context: Lowering, op: Operation) -> None:
    """Launch `x @ W.T` with bias or residual."""
    mapping = _ordered(context, op, context.mapped.linears[op.name])
    x, out = context.region(op.inputs[0]), context.region(op.outputs[0])
    initial: ArgumentValue = 0
    initial_pitch = 0
    if mapping.shape.start == "bias":
        initial = context.packed(op, BIAS)
    if mapping.shape.start == "residual":
        residual = context.region(op.inputs[RESIDUAL])
        initial, initial_pitch = context.address(residual), residual.pitch_bytes
    arguments: dict[str, ArgumentValue] = {
        "x": context.address(x), "x_pitch": x.pitch_bytes, "weight": context.packed(op, 1),
        "out": context.address(out), "out_pitch": out.pitch_bytes, "rows": x.rows, "k_bytes": mapping.k_bytes,
        "out_bytes": out.row_bytes, "chunks": mapping.chunks, "row_rounds": mapping.row_rounds,
        "output_tiles": mapping.output_tiles, "initial": initial, "initial_pitch": initial_pitch,
    }  # fmt: skip
    if mapping.loads_early:
        arguments[EARLY] = mapping.weight_slots - 1
    for step in mapping.shape.results_like:
        like_result = context.region(op.inputs[RESIDUAL if step == "residual" else MULTIPLIER])
        values = (context.address(like_result), like_result.pitch_bytes)
        arguments |= dict(zip(RESULT_ARGUMENTS[step], values, strict=True))
    if "outputs" in arguments_of(mapping.shape):
        arguments["outputs"] = mapping.shape.outputs
    for index, name in ((SCALES, "scales"), (ZERO_POINTS, "zero_points")):
        if name in arguments_of(mapping.shape):
            is_packed = (op.name, index) in context.mapped.packed
            arguments[name] = context.packed(op, index) if is_packed else 0
    if "row_scales" in arguments_of(mapping.shape):
        row_scales = context.region(op.inputs[ROW_SCALES])
        arguments |= {"row_scales": context.address(row_scales), "row_scales_pitch": row_scales.pitch_bytes}
    kernel = context.kernel(build, mapping)
    grid = (mapping.grid_rows, mapping.grid_columns)
    context.launch(op, kernel, grid, arguments, useful_macs(mapping.shape), issued_macs(mapping))
