"""Blocks of tokens: all PEs have work where that is possible, and blocks fit in local memory."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from compiler import compile_model
from compiler.kernels.token_blocks import BLOCK_TOKENS, TokenBlocks, choose_blocks
from isa.kernel import local_bytes
from isa.machine import preset
from models import MODELS
from models.llama import build_llama


@given(st.integers(1, 64), st.integers(1, 4), st.integers(1, 600), st.integers(1, 144), st.integers(0, 3000))
def test_blocks_fit_and_spread(heads: int, batch: int, sequence: int, pes: int, room: int) -> None:
    """Of the blocks that fit those with which the PE with most items is ready first."""
    plan = choose_blocks(heads, batch, sequence, pes, lambda plan: plan.tokens * plan.heads <= room)
    assert (plan is None) == (sequence < BLOCK_TOKENS[-1] or room < BLOCK_TOKENS[-1])
    if plan is not None:
        others = [
            TokenBlocks(tokens, each, heads) for tokens in BLOCK_TOKENS for each in range(1, heads + 1)
            if tokens <= sequence and not heads % each and tokens * each <= room
        ]  # fmt: skip
        assert plan in others
        rounds = {other: -(-batch * other.blocks(sequence) * other.groups // pes) for other in others}
        assert all(rounds[plan] * plan.cost <= rounds[other] * other.cost for other in others)


def test_many_heads_of_keys_fit() -> None:
    """As many heads of keys as of queries: their blocks would not fit with all heads."""
    model = build_llama(replace(MODELS["llama-2-7b"], layers=1, vocabulary=512), "absent")
    machine = preset("mtia-2i")
    program = compile_model(model, machine, dims={"batch": 1, "sequence": 512, "past": 0})
    assert all(local_bytes(kernel) <= machine.pe.local_memory_bytes for kernel in program.kernels)
    assert any("cache_fill_32x256_pieces_32x" in kernel.name for kernel in program.kernels)
