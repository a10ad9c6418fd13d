"""Rotary embedding, one token at a time per PE: `(x1 cos - x2 sin, x2 cos + x1 sin)` for every head, in fp32.

Core A loads ahead of core B, but where no PE has two tokens: then core B loads, and core A has nothing to wait for.
Halves of a head are reached by offset and pitch; interleaved pairs are pulled apart and put together by two transposes.
The rotated heads go to a dense activation, or straight into the key cache.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from compiler.graph import Operation, RopeAttributes
from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, Register, round_up
from compiler.kernels.dealing import INDEX_BYTES, OnePerPe, dealt_items, fetch_row, one_item, one_per_pe
from compiler.kernels.rope_blocks import RopeBlocks
from compiler.kernels.rope_blocks import build as build_blocks
from compiler.kernels.token_blocks import Store, TokenBlocks, choose_blocks
from compiler.lowering import ArgumentValue, Lowering
from compiler.mapped import CacheRegion, Region
from compiler.packing import padded_row_bytes
from isa.affine import Dim
from isa.dtypes import FP32, Dtype
from isa.errors import UnsupportedError
from isa.kernel import BASE_ALIGNMENT_BYTES, Kernel
from isa.machine import Machine

ARGUMENTS = (
    "x", "x_pitch", "cosines", "sines", "start", "positions", "position_count", "tokens", "sequence", "places",
    "place_count", "out", "out_batch_pitch", "out_token_pitch", "out_head_pitch",
)  # fmt: skip
"""Token `i` of a sequence has position `start + i`, or `positions[token % position_count]` if the kernel reads them.

Likewise its result goes to row `i` of a sequence, or to `places[token % place_count]`.
"""
PLACES_INPUT = 4
"""Index among the inputs of rope, of one that writes a static cache."""


@dataclass(frozen=True, slots=True)
class RopeShape:
    """Heads, the elements of a head in x and in the result, and how the result is stored (per head or as one row)."""

    heads: int
    head_dim: int
    out_head_dim: int
    interleaved: bool
    position_bytes: int
    place_bytes: int
    into_cache: bool
    dtype: Dtype
    places: OnePerPe | None = None
    """Where no PE has two tokens, which have one. Core B loads x, core A the constants."""

    @property
    def half(self) -> int:
        """Pairs of a head."""
        return self.head_dim // 2

    @property
    def x_bytes(self) -> int:
        """Bytes of a token's row of x with padding."""
        return padded_row_bytes(self.heads * self.head_dim, self.dtype)

    @property
    def out_bytes(self) -> int:
        """Bytes of a token's result in local memory."""
        if self.into_cache:
            return self.heads * self.out_head_dim * self.dtype.bytes
        return self.x_bytes

    @property
    def table_bytes(self) -> int:
        """Bytes of a row of a table."""
        return padded_row_bytes(self.half, FP32)


@dataclass(frozen=True, slots=True)
class _Buffers:
    x: BufferHandle
    cosines: BufferHandle
    sines: BufferHandle
    products: BufferHandle
    out: BufferHandle


def build(machine: Machine, shape: RopeShape) -> Kernel:
    """Return the kernel."""
    store = ("places" if shape.place_bytes else "cache") if shape.into_cache else "rows"
    builder = KernelBuilder(f"rope_{shape.heads}x{shape.head_dim}_{store}", machine, ARGUMENTS)
    sizes = {
        "x": shape.x_bytes, "cosines": shape.table_bytes, "sines": shape.table_bytes,
        "products": 2 * shape.heads * shape.half * 4, "out": shape.out_bytes,
    }  # fmt: skip
    indices = round_up(shape.position_bytes, BASE_ALIGNMENT_BYTES) + round_up(shape.place_bytes, BASE_ALIGNMENT_BYTES)
    room = machine.pe.local_memory_bytes - indices
    has_room = 2 * sum(round_up(size, BASE_ALIGNMENT_BYTES) for size in sizes.values()) <= room
    slots = 2 if shape.places is None and has_room else 1
    buffers = _Buffers(**{name: builder.buffer(name, size, slots, shared=True) for name, size in sizes.items()})
    loader = builder.core_b if shape.places is not None else builder.core_a
    _load(builder, loader, buffers, shape)
    places = load_indices(builder, loader, "places", shape.place_bytes) if shape.place_bytes else None
    if shape.places is not None:
        builder.core_a.await_inputs()
    if shape.interleaved:
        _rotate_interleaved(builder, buffers, shape, places)
    else:
        _rotate_halves(builder, buffers, shape, places)
    return builder.build()


def _load(builder: KernelBuilder, core: CoreBuilder, buffers: _Buffers, shape: RopeShape) -> None:
    if shape.places is not None and not shape.position_bytes:
        with _tokens(builder.core_a, shape) as token:
            _load_angles(builder, builder.core_a, buffers, shape, token, None)
        with _tokens(core, shape) as token:
            _load_x(core, buffers, shape, token)
        return
    positions = load_indices(builder, core, "positions", shape.position_bytes) if shape.position_bytes else None
    with _tokens(core, shape) as token:
        _load_x(core, buffers, shape, token)
        _load_angles(builder, core, buffers, shape, token, positions)


def _tokens(core: CoreBuilder, shape: RopeShape) -> AbstractContextManager[Register]:
    tokens = core.argument("tokens")
    return dealt_items(core, tokens) if shape.places is None else one_item(core, tokens, shape.places)


def _load_x(core: CoreBuilder, buffers: _Buffers, shape: RopeShape, token: Register) -> None:
    with core.scratch() as address, core.scratch() as number:
        core.multiply(token, core.load_argument("x_pitch", number), address)
        core.increase(address, core.load_argument("x", number))
        core.emit("dma_in", out=buffers.x, address=address, rows=1, row_bytes=core.copy(shape.x_bytes, number))
        core.push(buffers.x)


def _load_angles(
    builder: KernelBuilder,
    core: CoreBuilder,
    buffers: _Buffers,
    shape: RopeShape,
    token: Register,
    positions: BufferHandle | None,
) -> None:
    """Load the cosines and sines of a token's position."""
    with core.scratch() as address, core.scratch() as position, core.scratch() as row_bytes:
        if positions is None:
            core.compute("rem", token, core.load_argument("sequence", position), position)
            core.increase(position, core.load_argument("start", address))
            core.multiply(position, shape.table_bytes, position)
        else:
            core.compute("rem", token, core.load_argument("position_count", position), position)
        core.copy(shape.table_bytes, row_bytes)
        for name, buffer in (("cosines", buffers.cosines), ("sines", buffers.sines)):
            core.load_argument(name, address)
            if positions is None:
                core.increase(address, position)
                core.emit("dma_in", out=buffer, address=address, rows=1, row_bytes=row_bytes)
                core.push(buffer)
            else:
                fetch_row(
                    core, builder.machine, out=buffer, indices=positions, index=position, table=address,
                    pitch=row_bytes, row_bytes=row_bytes,
                )  # fmt: skip


def load_indices(builder: KernelBuilder, core: CoreBuilder, argument: str, row_bytes: int) -> BufferHandle:
    """Let a core load a row of int32 once, for good, from the address in a launch argument; return its buffer."""
    indices = builder.buffer(argument, row_bytes, 1)
    with core.scratch() as address:
        core.emit(
            "dma_in", out=indices, address=core.load_argument(argument, address), rows=1, row_bytes=row_bytes,
            broadcast="all" if builder.machine.dma.broadcast_reads else "none",
        )  # fmt: skip
    core.push(indices)
    return indices


def _rotate_halves(builder: KernelBuilder, buffers: _Buffers, shape: RopeShape, places: BufferHandle | None) -> None:
    core, size = builder.core_b, shape.dtype.bytes
    place = _padding(shape)
    zeros = _zeros(builder) if place[2] else None
    with _tokens(core, shape) as token:
        _rotate(
            core, buffers, shape, x=buffers.x, out=buffers.out, x_second=shape.half * size,
            x_pitch=shape.head_dim * size, out_second=shape.half * size, out_pitch=shape.out_head_dim * size,
        )  # fmt: skip
        if zeros is not None:
            _fill_padding(core, shape, zeros, buffers.out, place)
        core.push(buffers.out)
        core.pop(buffers.x)
        _store(core, shape, buffers.out, token, places)


def _zeros(builder: KernelBuilder) -> BufferHandle:
    """Return a buffer with a vector of zeros, visible from the start and never given back."""
    elements = 64
    zeros = builder.buffer("zeros", elements * 4, 1)
    builder.core_b.emit("fill", out=zeros, rows=1, columns=elements, out_dtype="fp32", value=0.0)
    builder.core_b.push(zeros)
    return zeros


def _padding(shape: RopeShape) -> tuple[int, int, int]:
    """Return rows, first column and columns of what must be zero: after each head in the cache, or after the last."""
    if shape.into_cache:
        return shape.heads, shape.head_dim, shape.out_head_dim - shape.head_dim
    start = shape.heads * shape.head_dim
    return 1, start, shape.out_bytes // shape.dtype.bytes - start


def _fill_padding(
    core: CoreBuilder, shape: RopeShape, zeros: BufferHandle, out: BufferHandle, place: tuple[int, int, int]
) -> None:
    """Write zeros at a place of a token's result."""
    rows, start, columns = place
    core.emit(
        "vcast", out=out, out_offset=start * shape.dtype.bytes, out_pitch=shape.out_head_dim * shape.dtype.bytes,
        a=zeros, rows=rows, columns=columns, out_dtype=shape.dtype.name, a_dtype="fp32",
    )  # fmt: skip


def _rotate(
    core: CoreBuilder,
    buffers: _Buffers,
    shape: RopeShape,
    *,
    x: BufferHandle,
    out: BufferHandle,
    x_second: int,
    x_pitch: int,
    out_second: int,
    out_pitch: int,
) -> None:
    """Rotate all heads of a token; first elements of pairs lie at offset 0, second ones at `x_second`, `out_second`."""
    name, products, second = shape.dtype.name, buffers.products, shape.heads * shape.half * 4
    terms = (("vsub", 0, x_second, 0), ("vadd", x_second, 0, out_second))
    for combine, with_cosine, with_sine, target in terms:
        both = ((0, with_cosine, buffers.cosines), (second, with_sine, buffers.sines))
        for out_offset, offset, table in both:
            core.emit(
                "vmul", out=products, out_offset=out_offset, out_pitch=shape.half * 4, a=x, a_offset=offset,
                a_pitch=x_pitch, b=table, rows=shape.heads, columns=shape.half, out_dtype="fp32", a_dtype=name,
                b_dtype="fp32", spread="row",
            )  # fmt: skip
        core.push(products)
        core.emit(
            combine, out=out, out_offset=target, out_pitch=out_pitch, a=products, a_pitch=shape.half * 4, b=products,
            b_offset=second, b_pitch=shape.half * 4, rows=shape.heads, columns=shape.half, out_dtype=name,
            a_dtype="fp32", b_dtype="fp32",
        )  # fmt: skip
        core.pop(products)
    core.pop(buffers.cosines)
    core.pop(buffers.sines)


def _rotate_interleaved(
    builder: KernelBuilder, buffers: _Buffers, shape: RopeShape, places: BufferHandle | None
) -> None:
    """As halves, between two transposes: [pairs, 2] -> [2, pairs] and back, all heads at once."""
    core, size, name = builder.core_b, shape.dtype.bytes, shape.dtype.name
    pairs = shape.heads * shape.half
    apart = builder.buffer("apart", 2 * pairs * size, 2)
    rotated = builder.buffer("rotated", 2 * pairs * size, 2)
    with _tokens(core, shape) as token:
        core.emit(
            "transpose",
            out=apart,
            out_pitch=pairs * size,
            a=buffers.x,
            a_pitch=2 * size,
            rows=pairs,
            columns=2,
            a_dtype=name,
        )
        core.push(apart)
        core.pop(buffers.x)
        _rotate(
            core, buffers, shape, x=apart, out=rotated, x_second=pairs * size, x_pitch=shape.half * size,
            out_second=pairs * size, out_pitch=shape.half * size,
        )  # fmt: skip
        core.push(rotated)
        core.pop(apart)
        core.emit(
            "transpose", out=buffers.out, out_pitch=2 * size, a=rotated, a_pitch=pairs * size, rows=2, columns=pairs,
            a_dtype=name,
        )  # fmt: skip
        padding = shape.out_bytes // size - 2 * pairs
        if padding:
            core.emit(
                "fill", out=buffers.out, out_offset=2 * pairs * size, rows=1, columns=padding, out_dtype=name, value=0.0
            )
        core.push(buffers.out)
        core.pop(rotated)
        _store(core, shape, buffers.out, token, places)


def _store(
    core: CoreBuilder, shape: RopeShape, out: BufferHandle, token: Register, places: BufferHandle | None
) -> None:
    rows, row_bytes = (
        (shape.heads, shape.out_head_dim * shape.dtype.bytes) if shape.into_cache else (1, shape.out_bytes)
    )
    with core.scratch() as address:
        token_address(core, token, address, places)
        core.emit(
            "dma_out", address=address, address_pitch=core.argument("out_head_pitch"), a=out,
            a_pitch=shape.out_head_dim * shape.dtype.bytes, rows=rows, row_bytes=row_bytes,
        )  # fmt: skip
    core.pop(out)


def token_address(core: CoreBuilder, token: Register, into: Register, places: BufferHandle | None) -> None:
    """Emit `into = out + (token // sequence) * out_batch_pitch + row * out_token_pitch`.

    The row is `token % sequence`, or the element of `places` for the token.
    """
    with core.scratch() as index:
        core.compute("div", token, core.argument("sequence"), into)
        core.multiply(into, core.argument("out_batch_pitch"), into)
        if places is None:
            core.compute("rem", token, core.argument("sequence"), index)
        else:
            core.compute("rem", token, core.argument("place_count"), index)
            core.multiply(index, INDEX_BYTES, index)
            core.emit("lw", destination=index, a=places, a_offset=index)
        core.multiply(index, core.argument("out_token_pitch"), index)
        core.increase(into, index)
        core.increase(into, core.argument("out"))


def lower(context: Lowering, op: Operation) -> None:
    """Launch a rotation; tokens are dealt over the PEs."""
    assert isinstance(op.attributes, RopeAttributes)
    attributes, x, (name,) = op.attributes, context.region(op.inputs[0]), op.outputs
    cache = context.mapped.caches.get(name or "")
    positions = context.region(op.inputs[1]) if op.inputs[1] else None
    places = context.region(op.inputs[PLACES_INPUT]) if len(op.inputs) > PLACES_INPUT else None
    shape = RopeShape(
        attributes.head_count, attributes.head_dim, cache.padded_head_dim if cache else attributes.head_dim,
        attributes.interleaved, positions.row_bytes if positions else 0,
        places.row_bytes if places else 0, cache is not None, context.dtype,
        places=one_per_pe(context, x.rows, 1 if cache else 0),
    )  # fmt: skip
    if shape.interleaved and shape.out_head_dim != shape.head_dim:
        what = f"interleaved rotary embedding of heads of {shape.head_dim} elements"
        raise UnsupportedError(what, where=op.name, help="head_dim must be a multiple of 16")
    start: Dim = attributes.start if attributes.start is not None else 0
    sequence = int(context.mapped.graph.value(op.inputs[0] or "").shape[1])  # type: ignore[arg-type]
    target = cache_target(context, cache, places) if cache else _target(context, name, sequence)
    blocks = _in_blocks(context, shape, x.rows // sequence, sequence, target)
    if blocks is not None:
        _launch_blocks(context, op, blocks, sequence, target | {"start": start})
        return
    kernel = context.kernel(build, shape)
    arguments: dict[str, ArgumentValue] = {
        "x": context.address(x), "x_pitch": x.pitch_bytes, "cosines": context.packed(op, 2),
        "sines": context.packed(op, 3), "start": start, "positions": context.address(positions) if positions else 0,
        "position_count": positions.columns if positions else 1, "tokens": x.rows, "sequence": sequence,
        **target,
    }  # fmt: skip
    rectangle = shape.places.rectangle(context, x.rows) if shape.places else context.rectangle(x.rows)
    context.launch(op, kernel, rectangle, arguments)


def _in_blocks(
    context: Lowering, shape: RopeShape, batch: int, sequence: int, target: dict[str, ArgumentValue]
) -> RopeBlocks | None:
    """Return how blocks of tokens are rotated, if there are any and nothing but the formula is asked for."""
    if shape.interleaved or shape.position_bytes or shape.place_bytes or _padding(shape)[2]:
        return None
    lies_dense = target["out_token_pitch"] == shape.head_dim * shape.dtype.bytes
    store: Store = ("pieces" if lies_dense else "heads") if shape.into_cache else "rows"

    def blocks(plan: TokenBlocks) -> RopeBlocks:
        return RopeBlocks(plan, shape.head_dim, store, shape.dtype)

    def fits(plan: TokenBlocks) -> bool:
        return blocks(plan).fits(context.machine)

    # Also small blocks save pieces of a cache; of rows there is nothing to save.
    pe_count = context.machine.pe_count
    plan = choose_blocks(shape.heads, batch, sequence, pe_count, fits if shape.into_cache else lambda plan: True)
    return blocks(plan) if plan is not None and fits(plan) else None


def _launch_blocks(
    context: Lowering, op: Operation, blocks: RopeBlocks, sequence: int, target: dict[str, ArgumentValue]
) -> None:
    x, plan = context.region(op.inputs[0]), blocks.plan
    items = x.rows // sequence * plan.blocks(sequence) * plan.groups
    if blocks.store == "rows":
        target = target | {"out_head_pitch": blocks.head_bytes}
    arguments: dict[str, ArgumentValue] = {
        "x": context.address(x), "x_pitch": x.pitch_bytes, "sequence": sequence, "blocks": plan.blocks(sequence),
        "items": items, "cosines": context.packed(op, 2), "sines": context.packed(op, 3),
        **{name: value for name, value in target.items() if not name.startswith("place")},
    }  # fmt: skip
    kernel = context.kernel(build_blocks, blocks)
    context.launch(op, kernel, context.rectangle(items), arguments)


def cache_target(context: Lowering, cache: CacheRegion, places: Region | None) -> dict[str, ArgumentValue]:
    """Return the launch arguments for writing heads behind the past of a cache, or at places in a static one."""
    return {
        "places": context.address(places) if places else 0, "place_count": places.columns if places else 1,
        "out": context.cache_address(cache, 0 if places else cache.past), "out_batch_pitch": cache.batch_bytes,
        "out_token_pitch": cache.token_bytes, "out_head_pitch": cache.head_bytes,
    }  # fmt: skip


def _target(context: Lowering, name: str | None, sequence: int) -> dict[str, ArgumentValue]:
    out = context.region(name)
    pitch = out.pitch_bytes
    return {
        "places": 0, "place_count": 1,
        "out": context.address(out), "out_batch_pitch": sequence * pitch, "out_token_pitch": pitch,
        "out_head_pitch": round_up(out.row_bytes, 64),
    }  # fmt: skip
