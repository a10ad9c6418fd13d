"""Work on some rows after others: the same bits as all at once, from SRAM, and only where that has no room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from compiler.emit import emit
from compiler.gates import fuse_gates
from compiler.graph import Graph, LinearAttributes, RmsNormAttributes, RopeAttributes
from compiler.legalize import legalize
from compiler.mapped import MappedGraph
from compiler.mapping import map_graph
from compiler.placement import addressed_bytes, place
from compiler.quantize import Quantization, quantize_weights
from compiler.reference import run_reference
from compiler.row_chunks import chunk_rows
from compiler.shaping import MULTIPLIER, RESIDUAL
from compiler.verify import verify
from isa.machine import Machine
from isa.program_checks import verify_program
from simulator import Simulator
from tests.compiler.graphs import Array, GraphWriter, small_machine

HIDDEN, FEED_FORWARD = 96, 160


@dataclass(frozen=True)
class Case:
    """A layer's feed-forward network on [batch, sequence] rows, and how it is spelled."""

    batch: int
    sequence: int
    residual: bool = True
    bias: bool = False
    gated: bool = True
    scheme: Quantization | None = None
    sram_bytes: int = 256 * 1024
    is_output: bool = False


def problem(case: Case) -> tuple[Graph, dict[str, Array]]:
    """Return two layers: x + r, twice a norm and a network, each added to what it read unless told otherwise."""
    rng = np.random.default_rng(case.sequence)
    writer, shape, wide = GraphWriter(), (case.batch, case.sequence, HIDDEN), (case.batch, case.sequence, FEED_FORWARD)
    inputs: dict[str, Array] = {name: rng.standard_normal(shape).astype(np.float16) for name in ("x", "r")}
    for name in inputs:
        writer.input(name, shape)
    stream = writer.add("add", ("x", "r"), "sum", shape)

    def linear(source: str, name: str, sizes: tuple[int, int], residual: str | None = None) -> str:
        weight = rng.standard_normal(sizes) / np.sqrt(sizes[0])
        writer.constant(f"{name}.w", weight.astype(np.float16))
        row = rng.standard_normal(sizes[1]).astype(np.float16)
        bias = writer.constant(f"{name}.b", row) if case.bias else None
        operands = (source, f"{name}.w", bias, residual)
        return writer.add("linear", operands, name, (*shape[:2], sizes[1]), LinearAttributes(False))

    for layer in range(2):
        norm, gated = f"norm{layer}", f"gated{layer}"
        writer.constant(f"{norm}.w", rng.uniform(0.5, 1.5, HIDDEN).astype(np.float16))
        writer.add("rms_norm", (stream, f"{norm}.w"), norm, shape, RmsNormAttributes(1e-5))
        gate = linear(norm, f"gate{layer}", (HIDDEN, FEED_FORWARD))
        up = linear(norm, f"up{layer}", (HIDDEN, FEED_FORWARD))
        writer.add("swiglu", (gate, up), gated, wide)
        stream = linear(gated, f"down{layer}", (FEED_FORWARD, HIDDEN), stream if case.residual else None)
    return writer.graph(stream, *(["gated0"] if case.is_output else [])), inputs


def legal(case: Case, machine: Machine) -> tuple[Graph, Graph, dict[str, Array]]:
    """Return the graph as written and as it is before it is mapped, and inputs."""
    graph, inputs = problem(case)
    graph = quantize_weights(graph, case.scheme)
    return graph, legalize(fuse_gates(graph, machine, "fp16", only_faster=False) if case.gated else graph), inputs


def chunks_of(graph: Graph) -> int:
    """Return the most parts that any value has."""
    return max((len(op.inputs) for op in graph.operations if op.kind == "join"), default=1)


def mapped_of(graph: Graph, machine: Machine) -> MappedGraph:
    """Return a graph with addresses."""
    verify(graph)
    mapped = place(map_graph(graph, machine, "fp16"))
    verify(mapped)
    return mapped


def outputs_of(mapped: MappedGraph, inputs: dict[str, Array]) -> dict[str, Array]:
    """Run; with random delays the outputs must be the same bits."""
    program = emit(mapped)
    verify_program(program)
    simulator = Simulator(program)
    outputs = simulator.run(inputs).outputs
    delayed = simulator.run(inputs, jitter_cycles=200, jitter_seed=7).outputs
    for name, array in outputs.items():
        np.testing.assert_array_equal(array, delayed[name])
    return dict(outputs)


def tiny(case: Case) -> Machine:
    """Return a machine whose blocks are small beside the case, and whose SRAM forces chunks."""
    return small_machine(**{"sram.bytes": case.sram_bytes, "sram.cache_step_bytes": case.sram_bytes // 4})


CASES = [
    Case(1, 700), Case(1, 701, bias=True), Case(3, 301), Case(1, 997, sram_bytes=512 * 1024),
    Case(1, 640, residual=False),
    Case(2, 350, gated=False), Case(1, 700, scheme=Quantization("int8")), Case(1, 511, scheme=Quantization("int4", 32)),
    Case(1, 1200, bias=True, gated=False, scheme=Quantization("int8"), sram_bytes=1 << 20),
    Case(1, 700, is_output=True),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_chunks_give_the_same_bits(case: Case) -> None:
    """Odd counts of rows, batches, biases, no residual, integers: as all rows at once, and as the reference."""
    machine = tiny(case)
    graph, whole, inputs = legal(case, machine)
    chunked = chunk_rows(whole, machine, "fp16")
    assert chunks_of(whole) == 1 and chunks_of(chunked) >= 2
    results = outputs_of(mapped_of(chunked, machine), inputs)
    apart = Simulator(emit(mapped_of(whole, machine))).run(inputs).outputs
    expected = run_reference(graph, inputs)
    for name in graph.outputs:
        np.testing.assert_array_equal(results[name], apart[name])
        error = np.abs(results[name].astype(np.float32) - expected[name])
        # Rounding x to int8 turns the last bit of fp16 into a step of an integer here and there: small in the mean.
        assert error.mean() < 0.02 * np.abs(expected[name]).std()
        assert case.scheme == Quantization("int8") or error.max() < 0.02
        np.testing.assert_allclose(run_reference(chunked, inputs)[name], expected[name], rtol=0.02, atol=0.02)


def test_chunks_of_multiplied_rows() -> None:
    """What results meet is read in the same rows: layers of x0 * (x U V) + x."""
    machine = small_machine(**{"sram.bytes": 1 << 19, "sram.cache_step_bytes": 1 << 16})
    rng, writer, shape = np.random.default_rng(6), GraphWriter(), (1000, HIDDEN)
    inputs: dict[str, Array] = {name: rng.standard_normal(shape).astype(np.float16) for name in ("x0", "s0")}
    for name in inputs:
        writer.input(name, shape)
    for layer in range(2):
        for name, sizes in ((f"v{layer}", (HIDDEN, FEED_FORWARD)), (f"u{layer}", (FEED_FORWARD, HIDDEN))):
            writer.constant(f"{name}.w", (rng.standard_normal(sizes) / np.sqrt(sizes[0])).astype(np.float16))
        down = (f"s{layer}", f"v{layer}.w", None, None)
        writer.add("linear", down, f"v{layer}", (1000, FEED_FORWARD), LinearAttributes(False))
        up = (f"v{layer}", f"u{layer}.w", None, f"s{layer}", *(None,) * (MULTIPLIER - RESIDUAL - 1), "x0")
        writer.add("linear", up, f"s{layer + 1}", shape, LinearAttributes(False))
    whole = legalize(writer.graph("s2"))
    chunked = chunk_rows(whole, machine, "fp16")
    assert chunks_of(whole) == 1 and chunks_of(chunked) >= 2
    results = outputs_of(mapped_of(chunked, machine), inputs)["s2"]
    np.testing.assert_array_equal(results, outputs_of(mapped_of(whole, machine), inputs)["s2"])
    np.testing.assert_allclose(results, run_reference(whole, inputs)["s2"], rtol=0.02, atol=0.02)


def test_what_is_handed_on_stays_in_sram() -> None:
    """With chunks nothing but what is too large for it lies outside SRAM, and a step of cache is left."""
    case = Case(1, 1000, sram_bytes=1 << 20)
    machine = tiny(case)
    _, whole, _ = legal(case, machine)
    spilled = []
    for graph in (whole, chunk_rows(whole, machine, "fp16")):
        mapped = mapped_of(graph, machine)
        storages = [item for item in mapped.storages.values() if item.role in ("scratch", "output")]
        spilled.append([item.name for item in storages if item.space == "dram"])
        used = emit(mapped).bytes_of("sram")
        assert used <= addressed_bytes(machine) and machine.cache_bytes(used) >= machine.sram.cache_step_bytes
    assert spilled[0] and not spilled[1]


def test_the_stream_has_one_place() -> None:
    """A result lies where the residual lay that it was added to, in chunks and without."""
    for sram_bytes in (1 << 18, 1 << 24):
        case = Case(1, 700, sram_bytes=sram_bytes)
        machine = tiny(case)
        _, whole, _ = legal(case, machine)
        storages = mapped_of(chunk_rows(whole, machine, "fp16"), machine).storages
        assert len({storages[name].address for name in ("sum", "down0", "down1")}) == 1


def test_a_value_that_is_read_later_is_not_overwritten() -> None:
    """The residual has a place of its own if something else reads it afterwards."""
    machine = small_machine()
    writer, rng = GraphWriter(), np.random.default_rng(3)
    inputs = {name: rng.standard_normal((1, 70, 64)).astype(np.float16) for name in ("x", "r")}
    for name in inputs:
        writer.input(name, (1, 70, 64))
    writer.constant("w", np.eye(64, dtype=np.float16))
    writer.add("add", ("x", "r"), "s", (1, 70, 64))
    writer.add("linear", ("x", "w", None, "s"), "a", (1, 70, 64), LinearAttributes(False))
    writer.add("linear", ("s", "w", None, "s"), "b", (1, 70, 64), LinearAttributes(False))
    writer.add("linear", ("a", "w", None, "b"), "c", (1, 70, 64), LinearAttributes(False))
    graph = legalize(writer.graph("c"))
    mapped = mapped_of(graph, machine)
    places = {name: mapped.storages[name].address for name in ("s", "a", "b", "c")}
    assert places["c"] == places["b"] != places["s"] != places["a"]
    expected = run_reference(graph, inputs)["c"]
    np.testing.assert_allclose(outputs_of(mapped, inputs)["c"], expected, rtol=5e-3, atol=5e-3)


def test_norm_and_rope_take_the_place_of_what_they_read() -> None:
    """Three trips per PE over rows, with random delays, give the reference where nobody reads the input again."""
    machine, rows, heads, head_dim = small_machine(), 41, 3, 32
    writer, rng, shape = GraphWriter(), np.random.default_rng(4), (1, 41, 96)
    inputs: dict[str, Array] = {name: rng.standard_normal(shape).astype(np.float16) for name in ("x", "r")}
    for name in inputs:
        writer.input(name, shape)
    writer.constant("w", rng.uniform(0.5, 1.5, heads * head_dim).astype(np.float16))
    angles = np.outer(np.arange(rows), 0.1 ** np.arange(head_dim // 2))
    tables = [writer.constant(name, table) for name, table in (("cos", np.cos(angles)), ("sin", np.sin(angles)))]
    writer.add("add", ("x", "r"), "s", shape)
    writer.add("rms_norm", ("s", "w"), "n", shape, RmsNormAttributes(1e-5))
    writer.add("rope", ("n", None, *tables), "t", shape, RopeAttributes(heads, head_dim, False, 0))
    writer.constant("one", np.eye(96, dtype=np.float16))
    writer.add("linear", ("t", "one", None, None), "y", shape, LinearAttributes(False))
    mapped = mapped_of(legalize(writer.graph("y")), machine)
    assert len({mapped.storages[name].address for name in ("s", "n", "t")}) == 1
    expected = run_reference(writer.graph("y"), inputs)["y"]
    np.testing.assert_allclose(outputs_of(mapped, inputs)["y"], expected, rtol=5e-3, atol=5e-3)


def test_nothing_changes_where_all_fits() -> None:
    """Chunks cost reading the weights again."""
    case = Case(1, 700, sram_bytes=1 << 24)
    machine = tiny(case)
    _, whole, _ = legal(case, machine)
    assert chunk_rows(whole, machine, "fp16") == whole


def test_chunks_are_as_large_as_fits() -> None:
    """Twice the room takes about half the chunks; none is smaller than a row of blocks."""
    counts = []
    for sram_bytes in (1 << 18, 1 << 19, 1 << 20):
        case = Case(1, 2000, sram_bytes=sram_bytes)
        machine = tiny(case)
        graph = chunk_rows(legal(case, machine)[1], machine, "fp16")
        counts.append(chunks_of(graph))
        rows = [graph.value(op.outputs[0] or "").shape[0] for op in graph.operations if ".chunk0" in op.name]
        assert all(isinstance(count, int) and count % 96 == 0 for count in rows)
    assert counts[0] >= counts[1] >= counts[2] and counts[0] >= 1.5 * counts[2]
