"""Straight-line recipes over tensors of any rank, with broadcasting: core A loads tiles, core B computes and stores.

A recipe may reduce rows (`rowsum`, ...): then rows are not cut into pieces. Numbers are fp32 from load to store.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compiler.graph import Operation, PointwiseAttributes, Step
from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, Register, round_up
from compiler.kernels.recipe_buffers import FP32_BYTES, RecipePlan, Source, plan_recipe
from compiler.kernels.tiling import (
    PIECE_STEP,
    TILE_ELEMENTS,
    Axis,
    Tensor,
    Tile,
    Tiling,
    collapsed,
    dealt_tiles,
    load_tile,
    row_end_bytes,
    row_strides,
    tile_address,
    tile_bytes,
    tiled_arguments,
)
from compiler.lowering import Lowering
from compiler.packing import ROW_ALIGNMENT_BYTES
from compiler.shape_inference import int_shape
from isa.errors import UnsupportedError
from isa.kernel import SLOT_ALIGNMENT_BYTES, Kernel
from isa.machine import Machine


@dataclass(frozen=True, slots=True)
class _Shape:
    """Everything that shapes the code: recipe, tiles, slots of buffers, whether rows of the output have padding.

    And the signs of the recipe's constants, since 0.0 and -0.0 are equal, but kernels with them are not.
    """

    plan: RecipePlan
    tiling: Tiling
    slots: int
    pads: bool
    signs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Buffers:
    inputs: tuple[BufferHandle, ...]
    temporaries: tuple[BufferHandle, ...]
    numbers: BufferHandle
    out: BufferHandle


def build(machine: Machine, shape: _Shape) -> Kernel:
    """Return the kernel."""
    tiling, plan = shape.tiling, shape.plan
    builder = KernelBuilder(f"pointwise_{plan.steps[-1].instruction}", machine, tiling.arguments)
    *inputs, out = tiling.tensors
    buffers = _Buffers(
        inputs=tuple(
            builder.buffer(
                f"input_{index}",
                (tiling.block if tensor.has_rows else 1) * tensor.pitch_bytes(tiling.piece),
                shape.slots,
            )
            for index, tensor in enumerate(inputs)
        ),
        temporaries=tuple(
            builder.buffer(f"temporary_{index}", tiling.block * _pitch(is_narrow, tiling), 1)
            for index, is_narrow in enumerate(plan.temporaries)
        ),
        numbers=builder.buffer("numbers", max(len(plan.numbers), 1) * FP32_BYTES, 1),
        out=builder.buffer("out", tiling.block * out.pitch_bytes(tiling.piece), shape.slots),
    )
    with dealt_tiles(builder.core_a, tiling) as tile:
        for index in range(len(inputs)):
            load_tile(builder.core_a, tiling, index, tile, buffers.inputs[index])
    _compute(builder.core_b, shape, buffers)
    return builder.build()


def _pitch(is_narrow: bool, tiling: Tiling) -> int:
    return FP32_BYTES if is_narrow else round_up(tiling.piece * FP32_BYTES, SLOT_ALIGNMENT_BYTES)


def _compute(core: CoreBuilder, shape: _Shape, buffers: _Buffers) -> None:
    for index, number in enumerate(shape.plan.numbers):
        core.emit(
            "fill", out=buffers.numbers, out_offset=index * FP32_BYTES, rows=1, columns=1, out_dtype="fp32",
            value=number,
        )  # fmt: skip
    if shape.plan.numbers:
        core.push(buffers.numbers)
    with dealt_tiles(core, shape.tiling) as tile:
        if shape.pads:
            _clear_padding(core, shape, buffers, tile)
        for index, step in enumerate(shape.plan.steps):
            _emit_step(core, shape, buffers, tile, index, step)
        _store(core, shape, buffers, tile)


def _clear_padding(core: CoreBuilder, shape: _Shape, buffers: _Buffers, tile: Tile) -> None:
    """Write zeros where rows of the output end, before its columns are written."""
    out = shape.tiling.tensors[-1]
    with core.scratch() as offset:
        row_end_bytes(core, out, tile, offset)
        core.emit(
            "vspread", out=buffers.out, out_offset=offset, out_pitch=out.pitch_bytes(shape.tiling.piece),
            a=buffers.numbers, a_offset=shape.plan.numbers.index(0.0) * FP32_BYTES, rows=tile.rows,
            columns=ROW_ALIGNMENT_BYTES // out.dtype.bytes, out_dtype=out.dtype.name, a_dtype="fp32", spread="column",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an operand lies: buffer, byte offset, pitch of its rows, element type, whether it is one column."""

    buffer: BufferHandle
    offset: int
    pitch: int
    dtype: str
    is_narrow: bool


def _place(shape: _Shape, buffers: _Buffers, source: Source) -> _Place:
    kind, index = source
    if kind == "number":
        return _Place(buffers.numbers, index * FP32_BYTES, 0, "fp32", True)
    if kind == "temporary":
        is_narrow = shape.plan.temporaries[index]
        return _Place(buffers.temporaries[index], 0, _pitch(is_narrow, shape.tiling), "fp32", is_narrow)
    tensor = shape.tiling.tensors[index]
    handle = buffers.inputs[index] if kind == "input" else buffers.out
    pitch = tensor.pitch_bytes(shape.tiling.piece) if kind == "out" or tensor.has_rows else 0
    return _Place(handle, 0, pitch, tensor.dtype.name, tensor.is_narrow)


def _emit_step(core: CoreBuilder, shape: _Shape, buffers: _Buffers, tile: Tile, index: int, step: Step) -> None:
    """Emit one instruction, the push of its result and the pops of what nobody reads any more."""
    assigned = shape.plan.assigned[index]
    out = _place(shape, buffers, assigned.target)
    read = [_place(shape, buffers, source) for source in assigned.sources]
    reduces = step.instruction.startswith("row")
    is_column = read[0].is_narrow if reduces else out.is_narrow
    operands: dict[str, BufferHandle | Register | int | float | str] = {
        "out": out.buffer, "out_pitch": out.pitch, "out_dtype": out.dtype, "rows": tile.rows,
        "columns": 1 if is_column else tile.columns,
    }  # fmt: skip
    for name, place in zip("ab", read, strict=False):
        operands |= {
            name: place.buffer, f"{name}_offset": place.offset, f"{name}_pitch": place.pitch,
            f"{name}_dtype": place.dtype,
        }  # fmt: skip
    spread = "full" if out.is_narrow or not read[-1].is_narrow else "column"
    if len(read) == 2 or step.instruction == "vspread":
        operands["spread"] = spread
    if step.constant is not None:
        operands["value"] = step.constant
    core.emit(step.instruction, **operands)
    if assigned.target[0] == "temporary":
        core.push(out.buffer)
    for source in assigned.released:
        core.pop(_place(shape, buffers, source).buffer)


def _store(core: CoreBuilder, shape: _Shape, buffers: _Buffers, tile: Tile) -> None:
    tiling, index = shape.tiling, len(shape.tiling.tensors) - 1
    out = tiling.tensors[index]
    core.push(buffers.out)
    with core.scratch() as address, core.scratch() as size, core.scratch() as pitch:
        tile_address(core, tiling, index, tile, address)
        row_end_bytes(core, out, tile, size)
        core.increase(size, ROW_ALIGNMENT_BYTES)
        if out.has_rows:
            core.load_argument(f"stride_{index}_{tiling.loops}", pitch)
        core.emit(
            "dma_out", address=address, address_pitch=pitch if out.has_rows else 0, a=buffers.out,
            a_pitch=out.pitch_bytes(tiling.piece), rows=tile.rows, row_bytes=size,
        )  # fmt: skip
    core.pop(buffers.out)


def lower(context: Lowering, op: Operation) -> None:
    """Launch a recipe; tiles are dealt over the PEs. Nothing is launched for a result without elements."""
    assert isinstance(op.attributes, PointwiseAttributes)
    graph = context.mapped.graph
    names = [str(name) for name in (*op.inputs, *op.outputs)]
    regions = [context.region(name) for name in names]
    shapes = [int_shape(graph.value(name).shape) for name in names]
    if 0 in shapes[-1]:
        return
    columns = max(region.columns for region in regions)
    rank = max(len(shape) for shape in shapes)
    outer = [max(sizes) for sizes in zip(*(_outer(shape, rank) for shape in shapes), strict=True)]
    axes = collapsed(outer, [row_strides(shape, region, rank) for shape, region in zip(shapes, regions, strict=True)])
    tensors = tuple(
        Tensor(
            region.dtype,
            region.columns == 1 and columns > 1,
            tuple(axis.strides[index] != 0 for axis in axes),
        )
        for index, region in enumerate(regions)
    )
    pads = regions[-1].columns * regions[-1].dtype.bytes % ROW_ALIGNMENT_BYTES != 0
    plan = plan_recipe(op.attributes.steps, [tensor.is_narrow for tensor in tensors], pads)
    shape = _choose(context.machine, plan, tensors, axes, columns, op, pads)
    kernel = context.kernel(build, shape)
    items, arguments = tiled_arguments(context, shape.tiling, axes, regions, columns)
    context.launch(op, kernel, context.rectangle(items), arguments)


def _outer(shape: Sequence[int], rank: int) -> list[int]:
    return ([1] * (rank - len(shape)) + list(shape))[: rank - 1] if rank else []


def _choose(
    machine: Machine,
    plan: RecipePlan,
    tensors: tuple[Tensor, ...],
    axes: Sequence[Axis],
    columns: int,
    op: Operation,
    pads: bool,
) -> _Shape:
    """Return the largest tiles that fit in local memory and leave no PE without work."""
    whole = any(step.instruction.startswith("row") for step in plan.steps)
    rows, pe_count = math.prod(axis.size for axis in axes), machine.pe_count
    wanted = max(1, pe_count // max(rows, 1))
    piece = columns if whole else min(round_up(-(-columns // wanted), PIECE_STEP), TILE_ELEMENTS, columns)
    for slots in (2, 1):
        for part in (piece,) if whole else (piece, PIECE_STEP):
            part = min(part, columns)
            block = min(axes[-1].size, max(1, TILE_ELEMENTS // part), max(1, -(-rows // pe_count)))
            while block > 1 and not _fits(machine, plan, tensors, slots, block, part):
                block = -(-block // 2)
            if _fits(machine, plan, tensors, slots, block, part):
                constants = [*plan.numbers, *(step.constant for step in plan.steps if step.constant is not None)]
                signs = tuple(math.copysign(1.0, constant) for constant in constants)
                return _Shape(plan, Tiling(tensors, block, part), slots, pads, signs)
    what = f"a row of {columns} elements does not fit in local memory"
    raise UnsupportedError(what, where=f"node {op.name!r}", help="use a machine with a larger pe.local_memory_bytes")


def _fits(machine: Machine, plan: RecipePlan, tensors: tuple[Tensor, ...], slots: int, block: int, piece: int) -> bool:
    wide = round_up(piece * FP32_BYTES, SLOT_ALIGNMENT_BYTES)
    temporaries = sum(
        round_up(block * (FP32_BYTES if is_narrow else wide), SLOT_ALIGNMENT_BYTES) for is_narrow in plan.temporaries
    )
    numbers = round_up(max(len(plan.numbers), 1) * FP32_BYTES, SLOT_ALIGNMENT_BYTES)
    return tile_bytes(tensors, slots, block, piece) + temporaries + numbers <= machine.pe.local_memory_bytes
