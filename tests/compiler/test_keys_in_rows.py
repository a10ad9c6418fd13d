"""Attention that reads the keys of a run where they are made: the bits of one that reads caches, which are filled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compiler.attention_choice import choose_tile
from compiler.attention_mapping import AttentionTile, Depths
from compiler.emit import emit
from compiler.graph import AttentionAttributes, Graph, Operation, RopeAttributes, SliceAttributes, Value
from compiler.keys_in_rows import read_keys_in_rows
from compiler.launch_merging import merge_launches
from compiler.legalize import legalize
from compiler.mapping import map_graph
from compiler.placement import place
from isa.affine import Affine, Dim
from isa.machine import Machine
from isa.program import Program
from simulator import Simulator
from tests.compiler.graphs import Array, GraphWriter, compile_graph, small_machine
from tests.simulator.kernels import poison_local_memories

BATCH, HEADS, KV_HEADS = 2, 8, 2
CASES: tuple[tuple[str, int, int, str], ...] = (
    # machine, tokens, head_dim, ways of the tile: as it is chosen if none is given
    ("mtia-2i", 37, 32, ""),
    ("mtia-v1", 165, 64, "narrow"),
    ("mtia-2i", 165, 64, "shared"),
    ("mtia-2i", 165, 32, "shared narrow"),
    ("mtia-300", 70, 64, ""),
    ("hbm-concept", 130, 64, ""),
)


def _graph(tokens: int, head_dim: int, past: Dim = 0, apart: bool = False) -> Graph:
    """Queries, keys and values that are columns of one input, the first two of them rotated; or inputs of their own."""
    writer, rng = GraphWriter(), np.random.default_rng(0)
    columns = {"q": HEADS * head_dim, "k": KV_HEADS * head_dim, "v": KV_HEADS * head_dim}
    for name in ("cosines", "sines"):
        writer.constant(name, rng.standard_normal((256, head_dim // 2)).astype(np.float32))
    if not apart:
        writer.input("x", (BATCH, tokens, sum(columns.values())))
    first = 0
    for name, size in columns.items():
        if apart:
            writer.input(name, (BATCH, tokens, size))
        else:
            writer.add("slice", ("x",), name, (BATCH, tokens, size), SliceAttributes(2, first, size))
        first += size
    for name, heads in (("q", HEADS), ("k", KV_HEADS)):
        attributes = RopeAttributes(heads, head_dim, interleaved=False, start=past)
        writer.add("rope", (name, None, "cosines", "sines"), f"{name}r", (BATCH, tokens, columns[name]), attributes)
    cached = (BATCH, KV_HEADS, past + tokens, head_dim)
    pasts = ()
    if past != 0:
        pasts = tuple(writer.input(f"past_{name}", (BATCH, KV_HEADS, past, head_dim)) for name in "kv")
    for name, shape in (("y", (BATCH, tokens, columns["q"])), ("new_k", cached), ("new_v", cached)):
        writer.values[name] = Value(name, shape, "float16")
    shape = AttentionAttributes(HEADS, KV_HEADS, head_dim, head_dim**-0.5, causal=True, past=past)
    writer.operations.append(Operation("attention", "a", ("qr", "kr", "v", *pasts), ("y", "new_k", "new_v"), shape))
    return writer.graph("y", "new_k", "new_v", symbols={"past": (0, 64)} if isinstance(past, Affine) else None)


def _of_rows(graph: Graph, machine: Machine) -> Program:
    return emit(place(map_graph(read_keys_in_rows(legalize(graph), machine, "fp16"), machine, "fp16")))


@pytest.mark.parametrize("apart", [False, True], ids=["columns", "apart"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(item) for item in case))
def test_the_bits_are_those_of_caches(
    case: tuple[str, int, int, str], apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results and caches, with garbage in local memories, at random delays, and in merged launches."""
    name, tokens, head_dim, ways = case
    machine, graph = small_machine(name), _graph(tokens, head_dim, apart=apart)
    chosen: list[AttentionTile] = []

    def choose(*arguments: Any) -> AttentionTile:
        tile = choose_tile(*arguments)
        if ways:
            changes = {f"is_{way}": way in ways for way in ("shared", "narrow")}
            plain = replace(tile, tokens=32, token_blocks=1, heads=2, keys=64, depths=Depths(1, 1, 1, 1, 1, 1, 2))
            tile = replace(plain, is_carried="narrow" in ways, **changes)
        elif chosen:  # a tile may be another one where keys are nearer
            tile = replace(chosen[0], shape=tile.shape)
        chosen.append(tile)
        return tile

    monkeypatch.setattr("compiler.kernels.attention.choose_tile", choose)
    cached, of_rows = compile_graph(graph, machine), _of_rows(graph, machine)
    assert [tile.shape.reads_rows for tile in chosen] == [False, True]
    rng = np.random.default_rng(tokens)
    arrays: dict[str, Array] = {
        port.name: rng.standard_normal([int(dim) for dim in port.shape]).astype(np.float16)  # type: ignore[arg-type]
        for port in cached.entries[0].inputs
    }
    expected = Simulator(cached).run(arrays).outputs
    assert all(np.isfinite(array).all() for array in expected.values())
    for program in (of_rows, merge_launches(of_rows)):
        simulator = Simulator(program)
        with pytest.MonkeyPatch.context() as context:
            poison_local_memories(context)
            results = [simulator.run(arrays).outputs]
        results += [simulator.run(arrays, jitter_cycles=2000, jitter_seed=seed).outputs for seed in range(2)]
        for outputs in results:
            for output, array in expected.items():
                np.testing.assert_array_equal(outputs[output], array)


def _kinds(graph: Graph, machine: Machine) -> list[str]:
    return [op.kind for op in read_keys_in_rows(legalize(graph), machine, "fp16").operations if op.kind != "move"]


def test_what_attention_reads() -> None:
    """Rows of many tokens without a past, whose heads need no padding; else the caches."""
    machine = small_machine("mtia-2i")
    assert _kinds(_graph(40, 64), machine) == ["rope", "cache_fill", "attention"]
    assert _kinds(_graph(40, 64, apart=True), machine) == ["rope", "rope", "cache_fill", "attention"]
    of_caches = ["rope", "cache_append", "rope", "attention"]
    assert _kinds(_graph(8, 64), machine) == of_caches
    assert _kinds(_graph(40, 64, past=Affine.symbol("past")), machine) == of_caches
    assert _kinds(_graph(40, 48), small_machine("mtia-300")) == of_caches
