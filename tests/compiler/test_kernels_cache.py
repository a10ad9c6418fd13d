"""Writing keys and values into the cache: by rope, or by a copy; attention itself is left out here."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import compiler.emit
from compiler.graph import AttentionAttributes, Graph, Operation, RopeAttributes, Value
from isa.affine import Affine
from tests.compiler.graphs import Array, GraphWriter, run_graph, small_machine
from tests.compiler.test_kernels_tokens import rotated

BATCH, SEQUENCE, HEADS = 2, 5, 2


@pytest.fixture(autouse=True)
def _without_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    real = compiler.emit.kernel_module

    def module(op: Operation) -> ModuleType | SimpleNamespace:
        return SimpleNamespace(lower=lambda context, op: None) if op.kind == "attention" else real(op)

    monkeypatch.setattr(compiler.emit, "kernel_module", module)


def _graph(head_dim: int, interleaved: bool, tables: tuple[Array, Array], host: str, sequence: int) -> Graph:
    """Keys through rope, values as they come, appended behind `past` positions."""
    past = Affine.symbol("past")
    writer = GraphWriter(host)
    shape = (BATCH, sequence, HEADS * head_dim)
    for name in ("q", "k", "v"):
        writer.input(name, shape)
    for name in ("past_key", "past_value"):
        writer.input(name, (BATCH, HEADS, past, head_dim))
    for name, table in zip(("cosines", "sines"), tables, strict=True):
        writer.constant(name, table)
    rope = RopeAttributes(HEADS, head_dim, interleaved, past)
    writer.add("rope", ("k", None, "cosines", "sines"), "rotated", shape, rope)
    for name in ("out", "key", "value"):
        present = (BATCH, HEADS, past + sequence, head_dim)
        writer.values[name] = Value(name, shape if name == "out" else present, host)
    attributes = AttentionAttributes(HEADS, HEADS, head_dim, 1.0, True, past)
    inputs = ("q", "rotated", "v", "past_key", "past_value", None)
    writer.operations.append(Operation("attention", "attention", inputs, ("out", "key", "value"), attributes))
    return writer.graph("key", "value", symbols={"past": (0, 40)})


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
@pytest.mark.parametrize(("head_dim", "interleaved"), [(16, False), (16, True), (32, False)])
@pytest.mark.parametrize("past", [0, 1, 40])
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_append(machine: str, head_dim: int, interleaved: bool, past: int, dtype: str) -> None:
    """One program writes behind any number of past positions, and leaves those as they were."""
    check(small_machine(machine), head_dim, interleaved, past, dtype)


def test_append_of_narrow_heads() -> None:
    """Heads that are no multiple of 16 elements are padded in the cache."""
    check(small_machine(), 8, False, 3)


@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1", "mtia-300"])
@pytest.mark.parametrize("head_dim", [16, 64, 8])
@pytest.mark.parametrize("sequence", [16, 75])
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_append_of_many_tokens(machine: str, head_dim: int, sequence: int, dtype: str) -> None:
    """Blocks of tokens of a head, the last one shorter; heads that are padded come token by token."""
    check(small_machine(machine), head_dim, False, 3, dtype, sequence)


def check(
    machine: object, head_dim: int, interleaved: bool, past: int, dtype: str = "fp16", sequence: int = SEQUENCE
) -> None:
    """Run the graph; compare present keys and values."""
    rng, host = np.random.default_rng(head_dim + past), np.dtype(np.float32 if dtype == "fp32" else np.float16)
    angles = np.arange(80)[:, None] * rng.random(head_dim // 2)[None]
    tables = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    graph = _graph(head_dim, interleaved, tables, host.name, sequence)
    shape = (BATCH, sequence, HEADS * head_dim)
    inputs = {name: rng.standard_normal(shape).astype(host) for name in ("q", "k", "v")}
    for name in ("past_key", "past_value"):
        inputs[name] = rng.standard_normal((BATCH, HEADS, past, head_dim)).astype(host)
    results = run_graph(graph, machine, inputs, dtype)  # type: ignore[arg-type]

    def heads_first(array: Array) -> Array:
        return array.reshape(BATCH, sequence, HEADS, head_dim).transpose(0, 2, 1, 3)

    places = np.broadcast_to(np.arange(sequence) + past, (BATCH, sequence))
    new_keys = rotated(inputs["k"].astype(np.float64), angles[places][:, :, None], HEADS, interleaved)
    keys = np.concatenate([inputs["past_key"], heads_first(new_keys)], axis=2)
    values = np.concatenate([inputs["past_value"], heads_first(inputs["v"])], axis=2)
    np.testing.assert_allclose(
        results["key"], keys, **(dict.fromkeys(("rtol", "atol"), 2**-20 if dtype == "fp32" else 2**-10))
    )
    np.testing.assert_array_equal(results["value"], values)
