"""Every way to spread a linear, with the matrix engine's operands in either order, against the reference."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest

import compiler.linear_search
import compiler.mapping
from compiler.gates import fuse_gates
from compiler.graph import Activation, Graph, LinearAttributes, WeightFormat
from compiler.linear_cost import cycles
from compiler.linear_mapping import LinearMapping
from compiler.linear_search import candidates
from compiler.linear_shape import LinearShape
from compiler.mapped import ROW_SCALES
from compiler.quantize import quantization, quantize_weights
from compiler.reference import run_reference
from compiler.shaping import MULTIPLIER, RESIDUAL
from isa.machine import Machine
from simulator import Simulator
from tests.compiler.graphs import Array, GraphWriter, check_padding, compile_graph, run_graph, small_machine

WAYS = ("resident", "streamed", "turned", "flat", "banded")
CHANGES = {"pe.local_memory_bytes": 98304, "accumulator.banks": 4}


def _graph(
    rows: int,
    inputs: int,
    outputs: int,
    start: str | None,
    activation: Activation | None,
    scheme: str | None,
    finish: tuple[str, ...] = (),
) -> tuple[Graph, dict[str, Array]]:
    rng, writer = np.random.default_rng(rows + outputs), GraphWriter()
    given: dict[str, Array] = {"x": rng.standard_normal((1, rows, inputs)).astype(np.float16)}
    writer.input("x", given["x"].shape)
    writer.constant("w", (rng.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float16))
    bias = residual = None
    if start == "bias":
        bias = writer.constant("bias", rng.standard_normal(outputs).astype(np.float32))
    if start == "residual":
        given["r"] = rng.standard_normal((1, rows, outputs)).astype(np.float16)
        residual = writer.input("r", given["r"].shape)
    for name in finish:
        given[name] = rng.standard_normal((1, rows, outputs)).astype(np.float16)
        writer.input(name, given[name].shape)
    residual = "residual" if "residual" in finish else residual
    attributes = LinearAttributes(True, activation)
    beside = (None,) * (MULTIPLIER - RESIDUAL - 1)
    inputs_of = ("x", "w", bias, residual, *((*beside, "multiplier") if "multiplier" in finish else ()))
    writer.add("linear", inputs_of, "y", (1, rows, outputs), attributes)
    return quantize_weights(writer.graph("y"), quantization(scheme)), given


def _choose(
    monkeypatch: pytest.MonkeyPatch, way: str, is_swapped: bool, trips: int = 3, width: int | None = None
) -> list[LinearMapping]:
    """Let the cheapest mapping of a way be chosen that makes that many trips in its loops; return those chosen.

    Only tiles of a `width` are, if it is given.
    """
    chosen: list[LinearMapping] = []

    def fits(mapping: LinearMapping) -> bool:
        has_rounds = mapping.way not in ("resident", "banded")
        loops = [mapping.chunks, mapping.output_rounds, *([mapping.row_rounds] if has_rounds else [])]
        is_wanted = (mapping.way, mapping.is_swapped) == (way, is_swapped) and width in (None, mapping.tile_outputs)
        return is_wanted and min(loops) >= trips

    def choose(shape: LinearShape, machine: Machine) -> LinearMapping:
        found: Iterator[LinearMapping] = (mapping for mapping in candidates(shape, machine) if fits(mapping))
        chosen.append(min(found, key=lambda mapping: cycles(mapping, machine)))
        return chosen[-1]

    monkeypatch.setattr(compiler.mapping, "choose_linear", choose)
    monkeypatch.setattr(compiler.linear_search, "multiplies_long", lambda mapping, machine: True)
    return chosen


def _choose_in_parts(monkeypatch: pytest.MonkeyPatch, expansions: int, is_swapped: bool) -> list[LinearMapping]:
    """Let the cheapest mapping be chosen that expands chunks in so many parts and makes three trips in its loops."""
    chosen: list[LinearMapping] = []

    def choose(shape: LinearShape, machine: Machine) -> LinearMapping:
        found = [
            mapping for mapping in candidates(shape, machine)
            if (mapping.expansions, mapping.is_swapped) == (expansions, is_swapped)
            and min(mapping.chunks, mapping.output_rounds) >= 3
        ]  # fmt: skip
        chosen.append(min(found, key=lambda mapping: cycles(mapping, machine)))
        return chosen[-1]

    monkeypatch.setattr(compiler.mapping, "choose_linear", choose)
    monkeypatch.setattr(compiler.linear_search, "multiplies_long", lambda mapping, machine: True)
    return chosen


def _check(graph: Graph, given: dict[str, Array], machine: Machine, tolerance: float = 4e-3) -> None:
    expected = run_reference(graph, given)["y"].astype(np.float64)
    found = run_graph(graph, machine, given)["y"]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    check_padding(graph, machine, given)


def _rows(way: str) -> int:
    return {"resident": 7, "flat": 101, "banded": 123}.get(way, 601)


@pytest.mark.parametrize("start", [None, "bias", "residual"])
@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_every_way(
    way: str, is_swapped: bool, activation: Activation | None, start: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three trips in every loop, ragged last tiles, every start of the accumulators, activations on the way out."""
    graph, given = _graph(_rows(way), 500, 700, start, activation, None)
    chosen = _choose(monkeypatch, way, is_swapped)
    _check(graph, given, small_machine(**CHANGES))
    assert chosen


@pytest.mark.parametrize(
    ("scheme", "start", "activation"),
    [(None, "residual", None), (None, "bias", "sigmoid"), ("int8", None, None), ("int4", "residual", None)],
)
@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("way", ["streamed", "turned"])
def test_rounds_share_outputs_evenly(
    way: str, is_swapped: bool, start: str | None, scheme: str | None, activation: Activation | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Tiles of odd widths, which leave no PE without work in the last of several rounds."""
    graph, given = _graph(301, 512, 700, start, activation, scheme)
    chosen = _choose(monkeypatch, way, is_swapped, trips=2, width=59)
    _check(graph, given, small_machine(**CHANGES), 2e-2 if scheme else 4e-3)
    assert chosen


FINISHES: dict[str, tuple[str | None, Activation | None, tuple[str, ...]]] = {
    "activated": ("bias", "relu", ()),
    "multiplied": (None, None, ("multiplier",)),
    "added": ("bias", None, ("residual",)),
    "all": ("bias", "sigmoid", ("multiplier", "residual")),
}
"""What accumulators start from, the activation, and what results meet."""


@pytest.mark.parametrize("finish", FINISHES)
@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_out(way: str, is_swapped: bool, finish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are turned before they meet a multiplier and a residual, which are loaded for each tile."""
    start, activation, operands = FINISHES[finish]
    graph, given = _graph(_rows(way), 500, 700, start, activation, None, operands)
    chosen = _choose(monkeypatch, way, is_swapped)
    _check(graph, given, small_machine(**CHANGES | {"pe.local_memory_bytes": 163840}))
    assert chosen and all(mapping.shape.finish for mapping in chosen)


@pytest.mark.parametrize("rows", [1, 7, 601])
@pytest.mark.parametrize("is_swapped", [False, True])
def test_expanded_weights_of_multiplied_results(rows: int, is_swapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SIMD engine has both to do."""
    graph, given = _graph(rows, 1024, 700, "bias", None, "int4", ("multiplier", "residual"))
    chosen = _choose(monkeypatch, "resident" if rows < 32 else "streamed", is_swapped, trips=2)
    _check(graph, given, small_machine(**CHANGES | {"pe.local_memory_bytes": 163840}), 2e-2)
    assert chosen and all(mapping.shape.packed and mapping.shape.finish for mapping in chosen)


@pytest.mark.parametrize("finish", ["", "all"])
def test_more_constants_than_registers(finish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting the rows of eight blocks leaves no register for each constant of an expansion with zero points."""
    _, activation, operands = FINISHES.get(finish, ("bias", None, ()))
    given: dict[str, Array] = {}
    chip = small_machine(**{"accumulator.banks": 8})
    rng, writer, rows = np.random.default_rng(3), GraphWriter(), 2 * 8 * chip.matrix.block_rows
    for name, columns in (("x", 256), ("multiplier", 200), ("residual", 200)):
        given[name] = rng.standard_normal((1, rows, columns)).astype(np.float16)
    for name in ("x", *operands):
        writer.input(name, given[name].shape)
    writer.constant("w", rng.integers(0, 16, (200, 256)).astype(ml_dtypes.uint4))
    writer.constant("s", (rng.uniform(0.5, 1.5, (200, 8)) / 64).astype(np.float32))
    writer.constant("z", rng.integers(0, 16, (200, 8)).astype(ml_dtypes.uint4))
    writer.constant("b", rng.standard_normal(200).astype(np.float32))
    beside = (*(None,) * (MULTIPLIER - ROW_SCALES), "multiplier") if operands else ()
    writer.add(
        "linear", ("x", "w", "b", "residual" if operands else None, "s", "z", *beside), "y", (1, rows, 200),
        LinearAttributes(True, activation, WeightFormat(4, 32)),
    )  # fmt: skip
    chosen: list[LinearMapping] = []

    def choose(shape: LinearShape, machine: Machine) -> LinearMapping:
        chosen.append(next(one for one in candidates(shape, machine) if one.way == "banded" and not one.is_swapped))
        return chosen[-1]

    monkeypatch.setattr(compiler.mapping, "choose_linear", choose)
    inputs = {name: given[name] for name in ("x", *operands)}
    _check(writer.graph("y"), inputs, chip, 2e-2)
    assert {mapping.tile_rows // mapping.block_rows for mapping in chosen} == {8}


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("start", [None, "bias", "residual"])
@pytest.mark.parametrize("way", WAYS)
def test_quantized_weights_are_held(way: str, start: str | None, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expanded ones, and integers whose sums are scaled by row and column after they are turned."""
    graph, given = _graph(_rows(way), 512, 700, start, None, scheme)
    chosen = _choose(monkeypatch, way, is_swapped=True)
    _check(graph, given, small_machine(**CHANGES), 2e-2)
    assert chosen


@pytest.mark.parametrize("start", [None, "bias", "residual"])
@pytest.mark.parametrize("scheme", [None, "int8", "int4"])
@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
def test_a_single_row_needs_no_turn(
    machine: str, scheme: str | None, start: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column of results is as contiguous as a row."""
    graph, given = _graph(1, 1024, 1500, start, None, scheme)
    chosen = _choose(monkeypatch, "resident", is_swapped=True)
    _check(graph, given, small_machine(machine, **CHANGES), 2e-2)
    assert not any(mapping.turns_results for mapping in chosen)


@pytest.mark.parametrize("start", [None, "bias", "residual"])
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("expansions", [2, 4])
@pytest.mark.parametrize("machine", ["mtia-2i", "mtia-v1"])
def test_chunks_expanded_in_parts(
    machine: str, expansions: int, is_swapped: bool, rows: int, start: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded in one go is expanded and multiplied part by part, one ahead of the products."""
    graph, given = _graph(rows, 1536, 700, start, None, "int4")
    chosen = _choose_in_parts(monkeypatch, expansions, is_swapped)
    _check(graph, given, small_machine(machine, **CHANGES), 2e-2)
    assert chosen


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [0, 40])
def test_macs_are_those_of_the_commands(way: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held counts as whole blocks, what is streamed as it is."""
    graph, _ = _graph(_rows(way) if way == "resident" else rows or _rows(way), 300, 523, None, None, None)
    _choose(monkeypatch, way, is_swapped=True, trips=1)
    program = compile_graph(graph, small_machine(**CHANGES))
    report = Simulator(program).profile()
    (launch,) = program.entries[0].launches
    assert report.issued_macs == launch.parts[0].issued_macs >= launch.useful_macs


@pytest.mark.parametrize("scheme", [None, "int8", "int4"])
@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_gates(way: str, is_swapped: bool, scheme: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gate and factor lie beside each other in the accumulators, whichever operand is held."""
    chip = small_machine(**CHANGES | ({"pe.local_memory_bytes": 196608} if way == "banded" else {}))
    graph, given = _gated(_rows(way), 500, scheme, chip)
    chosen = _choose(monkeypatch, way, is_swapped, trips=2)
    _check(graph, given, chip, 2e-2 if scheme else 4e-3)
    assert chosen and all(mapping.shape.gate for mapping in chosen)


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("way", ["streamed", "turned"])
def test_gates_in_tiles_of_odd_widths(way: str, is_swapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The factor begins at a column that is no whole block."""
    graph, given = _gated(301, 700, None, small_machine(**CHANGES))
    chosen = _choose(monkeypatch, way, is_swapped, trips=2, width=59)
    _check(graph, given, small_machine(**CHANGES))
    assert chosen and all(mapping.shape.gate for mapping in chosen)


def _gated(rows: int, outputs: int, scheme: str | None, chip: Machine) -> tuple[Graph, dict[str, Array]]:
    rng, writer = np.random.default_rng(4), GraphWriter()
    given: dict[str, Array] = {"x": rng.standard_normal((1, rows, 512)).astype(np.float16)}
    writer.input("x", given["x"].shape)
    for name in ("gate", "up"):
        writer.constant(f"w_{name}", (rng.standard_normal((outputs, 512)) / np.sqrt(512)).astype(np.float16))
        writer.add("linear", ("x", f"w_{name}", None, None), name, (1, rows, outputs), LinearAttributes(True))
    writer.add("swiglu", ("gate", "up"), "y", (1, rows, outputs))
    return fuse_gates(quantize_weights(writer.graph("y"), quantization(scheme)), chip, "fp16", only_faster=False), given


@pytest.mark.parametrize("inputs", [1000])
@pytest.mark.parametrize("start", [None, "residual", "all"])
@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("rows", [47, 64, 101])
@pytest.mark.parametrize("k_parts", [2, 3, 4])
def test_neighbours_split_k_of_a_constant(
    k_parts: int, rows: int, is_swapped: bool, start: str | None, inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They add their sums to what one of them starts from; the last part may be shorter, and the last tile too."""
    chip = small_machine(
        **CHANGES
        | {"grid.rows": 2 * k_parts if k_parts < 4 else 4, "accumulator.banks": 8, "pe.local_memory_bytes": 262144}
    )
    start, activation, finish = FINISHES.get(start or "", (start, None, ()))
    graph, given = _graph(rows, inputs, 150, start, activation, None, finish)
    chosen: list[LinearMapping] = []

    def choose(shape: LinearShape, machine: Machine) -> LinearMapping:
        found = [
            mapping for mapping in candidates(shape, machine)
            if (mapping.way, mapping.k_parts, mapping.is_swapped) == ("split", k_parts, is_swapped)
            and mapping.chunks >= 3
        ]  # fmt: skip
        chosen.extend(found[:1])
        return found[0]

    monkeypatch.setattr(compiler.mapping, "choose_linear", choose)
    monkeypatch.setattr(compiler.linear_search, "multiplies_long", lambda mapping, machine: True)
    if -(-rows // 32) < k_parts or (is_swapped and rows % 32 == 0):
        with pytest.raises(IndexError):
            compile_graph(graph, chip)
        return
    _check(graph, given, chip)
    assert chosen


@pytest.mark.parametrize("start", ["bias", "residual", "all"])
@pytest.mark.parametrize("way", ["streamed", "turned", "flat"])
@pytest.mark.parametrize("sram_bytes", [0, 1 << 24])
def test_either_order_of_tiles(sram_bytes: int, way: str, start: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of rows follow each other for one weight, unless x lies in DRAM: then those of outputs for one x."""
    start, activation, finish = FINISHES.get(start or "", (start, None, ()))
    graph, given = _graph(_rows(way), 500, 700, start, activation, None, finish)
    _choose(monkeypatch, way, is_swapped=False)
    chip = small_machine(**CHANGES, **({} if sram_bytes else {"sram.bytes": 65536, "sram.cache_step_bytes": 0}))
    _check(graph, given, chip)
    (kernel,) = compile_graph(graph, chip).kernels
    assert ("kept" in kernel.name) == (sram_bytes > 0)
