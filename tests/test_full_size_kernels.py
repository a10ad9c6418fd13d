"""Every kernel that the full-size Llama-3-8B runs use is executed here and compared with the NumPy reference.

The kernels are the very ones of the full-size programs (equal code), launched on few PEs so that every loop over work
makes at least three trips. Products keep their tiles but get fewer outputs, and streamed ones a shorter K: sizes that
reach a kernel as launch arguments. Everything else runs at its full size. Launches are separate here: merged ones are
these kernels one after another, see `tests/compiler/test_launch_merging.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import compiler.mapping
from compiler import compile_model
from compiler.emit import emit
from compiler.gates import fuse_gates
from compiler.graph import (
    AttentionAttributes,
    Graph,
    LinearAttributes,
    Operation,
    QuantizeAttributes,
    RmsNormAttributes,
    RopeAttributes,
    RowDtype,
    Value,
)
from compiler.keys_in_rows import read_keys_in_rows
from compiler.legalize import legalize
from compiler.linear_mapping import LinearMapping
from compiler.linear_search import choose_linear
from compiler.linear_shape import LinearShape, PackedWeight
from compiler.mapping import map_graph
from compiler.placement import place
from compiler.quantize import DEFAULT_GROUP_SIZE, quantization, quantize_weights
from compiler.reference import run_reference
from compiler.round_in_linears import move_into_readers
from isa.affine import Affine
from isa.dtypes import FP8E4M3, FP16, INT4, INT8, Dtype
from isa.kernel import Kernel
from isa.machine import preset
from isa.program import Program
from models import build
from simulator import Simulator
from tests.compiler.graphs import GraphWriter

MACHINE = preset("mtia-2i").with_changes({"matrix.rate_by_dtype.fp8": 1.0})
"""With all the types that weights are quantized to."""
PES = (2, 2)
TRIPS = 3
HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 4096, 14336, 32, 8, 128, 128256
PAST = 700
LONGEST_PAST = 4096
PHASES = {"prefill": (512, 0), "decode": (1, (0, LONGEST_PAST))}
Array = npt.NDArray[Any]


SCHEMES = (None, "int8", "fp8", "int4")
ROW_DTYPES: Mapping[str | None, tuple[Dtype, RowDtype]] = {
    "int8": (INT8, "int8"), "fp8": (FP8E4M3, "float8_e4m3fn"),
}  # fmt: skip


@cache
def _full_size(phase: str, scheme: str | None) -> Program:
    sequence, past = PHASES[phase]
    dims = {"batch": 1, "sequence": sequence, "past": past}
    model = build("llama-3-8b", weights="absent", dtype="float16")
    return compile_model(model, MACHINE, dims=dims, quantize=scheme, separate_launches=True)


def _reduced(mapping: LinearMapping) -> LinearMapping:
    """Keep tiles and chunks; leave fewer outputs, rows and, where K is streamed, chunks (the last one short)."""
    rows, columns = max(PES[0], mapping.bands), PES[1]
    shape, inputs, row_rounds = mapping.shape, mapping.shape.inputs, 1
    is_dealt = mapping.resident or mapping.is_flat
    outputs = (rows // mapping.bands * columns if is_dealt else columns) * TRIPS * mapping.tile_outputs - 7
    if not mapping.resident:
        inputs = TRIPS * mapping.chunk_inputs + 32 // shape.dtype.bytes
        row_rounds = 1 if mapping.streams_constants else TRIPS  # which decides how x is loaded
        missing = min(5, mapping.tile_rows - 1)
        shape = replace(
            shape, rows=(mapping.bands if mapping.is_flat else rows) * row_rounds * mapping.tile_rows - missing
        )
    k_bytes = inputs * shape.dtype.bytes
    return replace(
        mapping, shape=replace(shape, inputs=inputs, outputs=outputs), grid_rows=rows, grid_columns=columns,
        chunks=-(-k_bytes // mapping.chunk_bytes), k_bytes=k_bytes, row_rounds=row_rounds, output_rounds=TRIPS,
    )  # fmt: skip


def _linear(
    rows: int, inputs: int, outputs: int, has_residual: bool, scheme: str | None, rounds_x: bool
) -> tuple[Graph, LinearMapping]:
    """Return a graph with one linear, which may round x itself, and its mapping."""
    packed = PackedWeight(INT4, DEFAULT_GROUP_SIZE, has_zero_points=False) if scheme == "int4" else None
    dtype = ROW_DTYPES[scheme][0] if scheme in ROW_DTYPES else FP16
    full_size = LinearShape(
        rows, inputs, outputs, dtype, FP16, False, has_residual, packed=packed, rounded_from=FP16 if rounds_x else None
    )
    mapping = _reduced(choose_linear(full_size, MACHINE))
    shape, writer = mapping.shape, GraphWriter()
    writer.input("x", (1, shape.rows, shape.inputs))
    residual = writer.input("residual", (1, shape.rows, shape.outputs)) if has_residual else None
    weight = np.random.default_rng(outputs).standard_normal((shape.outputs, shape.inputs)) / np.sqrt(shape.inputs)
    writer.constant("w", weight.astype(np.float16))
    writer.add(
        "linear", ("x", "w", None, residual), "y", (1, shape.rows, shape.outputs),
        LinearAttributes(weight_rows_are_outputs=True),
    )  # fmt: skip
    graph = quantize_weights(writer.graph("y"), quantization(scheme))
    roundings = [op for op in graph.operations if op.kind == "quantize"] if rounds_x else []
    return move_into_readers(graph, roundings), mapping


def _gated(rows: int, scheme: str | None) -> tuple[Graph, LinearMapping]:
    packed = PackedWeight(INT4, DEFAULT_GROUP_SIZE, has_zero_points=False) if scheme == "int4" else None
    dtype = ROW_DTYPES[scheme][0] if scheme in ROW_DTYPES else FP16
    rounds_x = rows == 1 and scheme in ROW_DTYPES
    full_size = LinearShape(
        rows, HIDDEN, FEED_FORWARD, dtype, FP16, False, False, packed=packed,
        rounded_from=FP16 if rounds_x else None, gate="silu",
    )  # fmt: skip
    mapping = _reduced(choose_linear(full_size, MACHINE))
    shape, writer, rng = mapping.shape, GraphWriter(), np.random.default_rng(9)
    writer.input("x", (1, shape.rows, shape.inputs))
    for name in ("gate", "up"):
        weight = rng.standard_normal((shape.outputs, shape.inputs)) / np.sqrt(shape.inputs)
        writer.constant(f"{name}.w", weight.astype(np.float16))
        inputs = ("x", f"{name}.w", None, None)
        writer.add("linear", inputs, name, (1, shape.rows, shape.outputs), LinearAttributes(True))
    writer.add("swiglu", ("gate", "up"), "y", (1, shape.rows, shape.outputs))
    graph = quantize_weights(writer.graph("y"), quantization(scheme))
    graph = fuse_gates(graph, MACHINE, "fp16", only_faster=False)
    return move_into_readers(graph, [op for op in graph.operations if op.kind == "quantize" and rounds_x]), mapping


def _rounding(sequence: int, width: int, dtype: RowDtype) -> Graph:
    writer = GraphWriter()
    writer.input("x", (1, sequence, width))
    writer.values |= {"q": Value("q", (1, sequence, width), dtype), "s": Value("s", (1, sequence, 1), "float32")}
    writer.operations.append(Operation("quantize", "rounding", ("x",), ("q", "s"), QuantizeAttributes(dtype)))
    return writer.graph("q", "s")


def _rows(kind: str, sequence: int, width: int, inputs: tuple[str, ...]) -> Graph:
    writer = GraphWriter()
    for name in inputs:
        writer.input(name, (1, sequence, width))
    if kind == "rms_norm":
        writer.constant("w", np.random.default_rng(1).standard_normal(width).astype(np.float32))
        writer.add("rms_norm", (*inputs, "w"), "y", (1, sequence, width), RmsNormAttributes(1e-5))
    else:
        writer.add(kind, inputs, "y", (1, sequence, width))
    return writer.graph("y")


def _embedding(sequence: int) -> Graph:
    writer = GraphWriter()
    writer.input("ids", (1, sequence), "int64")
    writer.constant("table", np.random.default_rng(2).standard_normal((64, HIDDEN)).astype(np.float16))
    writer.add("embedding", ("ids", "table"), "y", (1, sequence, HIDDEN))
    return writer.graph("y")


def _attention(phase: str) -> Graph:
    """Rotary embedding of q and k, cache appends, and attention, with the full program's cache."""
    sequence, is_open = PHASES[phase][0], phase == "decode"
    past: int | Affine = Affine.symbol("past") if is_open else 0
    writer = GraphWriter()
    q = writer.input("q", (1, sequence, HEADS * HEAD_DIM))
    k, v = (writer.input(name, (1, sequence, KV_HEADS * HEAD_DIM)) for name in ("k", "v"))
    caches = tuple(writer.input(name, (1, KV_HEADS, past, HEAD_DIM)) for name in ("past_k", "past_v"))
    angles = np.outer(np.arange(LONGEST_PAST + 1), 5e5 ** -(np.arange(HEAD_DIM // 2) / (HEAD_DIM // 2)))
    cos, sin = (
        writer.constant("cos", np.cos(angles, dtype=np.float32)),
        writer.constant("sin", np.sin(angles, dtype=np.float32)),
    )
    for name, heads in ((q, HEADS), (k, KV_HEADS)):
        attributes = RopeAttributes(heads, HEAD_DIM, interleaved=False, start=past)
        writer.add("rope", (name, None, cos, sin), f"{name}_turned", (1, sequence, heads * HEAD_DIM), attributes)
    inputs = ("q_turned", "k_turned", v, *caches, None)
    attributes = AttentionAttributes(HEADS, KV_HEADS, HEAD_DIM, HEAD_DIM**-0.5, True, past)
    writer.add("attention", inputs, "y", (1, sequence, HEADS * HEAD_DIM), attributes)
    (*before, last) = writer.operations
    writer.operations = [*before, Operation(last.kind, last.name, last.inputs, ("y", None, None), last.attributes)]
    return writer.graph("y", symbols={"past": (0, LONGEST_PAST)} if is_open else None)


def _graphs(phase: str, scheme: str | None) -> Iterator[tuple[str, Graph, LinearMapping | None]]:
    sequence = PHASES[phase][0]
    width, kv_width = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    for inputs, outputs, has_residual in (
        (HIDDEN, width, False), (HIDDEN, kv_width, False), (width, HIDDEN, True), (HIDDEN, FEED_FORWARD, False),
        (FEED_FORWARD, HIDDEN, True), (HIDDEN, VOCABULARY, False),
    ):  # fmt: skip
        for rounds_x in (False, True) if sequence == 1 and scheme in ROW_DTYPES else (False,):
            graph, mapping = _linear(sequence, inputs, outputs, has_residual, scheme, rounds_x)
            yield f"linear {inputs} x {outputs}", graph, mapping
    yield ("linear with a gate", *_gated(sequence, scheme))
    if scheme in ROW_DTYPES:
        for inputs in (HIDDEN, FEED_FORWARD):
            yield f"rounding {inputs}", _rounding(sequence, inputs, ROW_DTYPES[scheme][1]), None
    yield "rms_norm", _rows("rms_norm", sequence, HIDDEN, ("a",)), None
    yield "swiglu", _rows("swiglu", sequence, FEED_FORWARD, ("a", "b")), None
    yield "embedding", _embedding(sequence), None
    yield "attention", _attention(phase), None


def _on_few_pes(program: Program, bands: int) -> Program:
    """Deal the work over fewer PEs where a kernel deals items by its coordinates, so that loops make more trips."""
    (entry,) = program.entries
    launches = tuple(
        replace(launch, rows=min(launch.rows, max(PES[0], bands)), columns=min(launch.columns, PES[1]))
        for launch in entry.launches
    )
    return replace(program, entries=(replace(entry, launches=launches),))


def _random_inputs(graph: Graph, bindings: Mapping[str, int]) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    arrays: dict[str, Array] = {}
    for name in graph.inputs:
        value = graph.value(name)
        shape = [dim.evaluate(bindings) if isinstance(dim, Affine) else dim for dim in value.shape]
        is_index = value.dtype == "int64"
        arrays[name] = rng.integers(0, 64, shape) if is_index else rng.standard_normal(shape).astype(np.float16)
    return arrays


def _run(graph: Graph, mapping: LinearMapping | None, monkeypatch: pytest.MonkeyPatch) -> tuple[Kernel, ...]:
    if mapping is not None:
        monkeypatch.setattr(compiler.mapping, "choose_linear", lambda shape, machine: mapping)
    graph_of_kernels = read_keys_in_rows(legalize(graph), MACHINE, "fp16")
    program = emit(place(map_graph(graph_of_kernels, MACHINE, "fp16")))
    program = _on_few_pes(program, mapping.bands if mapping else 1)
    inputs = _random_inputs(graph, {"past": PAST})
    result = Simulator(program).run(inputs)
    expected = run_reference(graph, inputs)
    for name, array in result.outputs.items():
        np.testing.assert_allclose(array, expected[name], rtol=5e-3, atol=5e-3)
    for operation in result.report.operations:
        if mapping is None or operation.issued_macs:
            assert operation.issued_macs == operation.stated_macs >= operation.useful_macs
    return program.kernels


def _unnumbered(kernel: Kernel) -> Kernel:
    """Return a kernel without the number that tells it from others of its name in a program."""
    return replace(kernel, name=re.sub(r"\.\d+$", "", kernel.name))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("phase", PHASES)
def test_every_kernel_of_a_full_size_program_gives_the_reference_values(
    phase: str, scheme: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels that run here are all the kernels of the full-size program, bit for bit."""
    executed: set[Kernel] = set()
    for name, graph, mapping in _graphs(phase, scheme):
        if scheme and not name.startswith(("linear", "rounding")):
            continue  # the kernels of the program without quantization
        executed.update(_run(graph, mapping, monkeypatch))
        monkeypatch.undo()
    others = _full_size(phase, None).kernels if scheme else ()
    tested = {_unnumbered(kernel) for kernel in (*executed, *others)}
    missing = [kernel.name for kernel in _full_size(phase, scheme).kernels if _unnumbered(kernel) not in tested]
    assert missing == []
