"""Chooses the tile of an attention: how many rows, heads and keys a processing element works on at a time."""

from __future__ import annotations

from compiler.attention_mapping import AttentionShape, AttentionTile, Bias, Depths, fits
from compiler.graph import AttentionAttributes
from compiler.mapped import CacheRegion
from isa.errors import UnsupportedError
from isa.machine import Machine
from compiler.attention_mapping import key_step


def choose_tile(
    cache: CacheRegion, attributes: AttentionAttributes, has_mask: bool, bias: Bias, machine: Machine
) -> AttentionTile:
    shape = AttentionShape(
        cache.batch, cache.sequence, cache.heads, attributes.head_count // cache.heads, cache.head_dim,
        cache.padded_head_dim, cache.capacity, attributes.scale, attributes.causal, has_mask, bias, cache.dtype,
        machine.matrix_instruction(cache.dtype.name), machine.matrix.block_rows, key_step(machine, cache.dtype),
    )  # fmt: skip
    import os
    tokens = 1
    while tokens < min(shape.sequence, shape.block_rows):
        tokens *= 2
    tokens = min(tokens, shape.block_rows)
    if 'T' in os.environ:
        heads,tb,keys=map(int,os.environ['T'].split(','))
        d=tuple(map(int,os.environ.get('D','1,1,2,1').split(',')))
        tile = AttentionTile(shape, tokens, tb, heads, keys*shape.key_step, 1, Depths(*d))
        assert fits(tile,machine)
        return tile
    while tokens:
        for keys in (4,2,1):
            for d in ((1,1,2,2),(1,1,2,1),(1,1,1,1)):
                tile = AttentionTile(shape, tokens, 1, shape.group, keys*shape.key_step, 1, Depths(*d))
                if fits(tile,machine): return tile
        tokens//=2
    raise UnsupportedError(
        f"attention with {attributes.head_count} heads of {cache.head_dim} does not fit in local memory",
        where="attention", help="use a machine with a larger pe.local_memory_bytes",
    )  # fmt: skip
