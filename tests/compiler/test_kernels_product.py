"""Products of two computed matrices that are spread like linears: [N, K] as it lies, [K, N] turned on the way in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from compiler.graph import Graph, MoveAttributes, ProductAttributes
from compiler.legalize import legalize
from compiler.linear_mapping import LinearMapping
from compiler.linear_search import choose_linear
from compiler.linear_shape import LinearShape
from isa.dtypes import BY_NAME
from isa.machine import Machine
from simulator import Simulator
from tests.compiler.graphs import Array, GraphWriter, check_padding, compile_graph, run_graph, small_machine

MACHINES = ("mtia-2i", "mtia-v1")
TOLERANCES = {"fp16": 1e-3, "fp32": 2e-6}


@dataclass(frozen=True)
class Case:
    """`a @ b` of shapes [..., rows, inputs] and [..., inputs, outputs], b in this order or as rows of outputs."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    is_turned: bool = True
    dtype: str = "fp16"

    def graph(self) -> tuple[Graph, dict[str, Array], Array]:
        """Return the graph, its inputs and the exact result; a move turns b before the product reads it."""
        random, host = np.random.default_rng(5), np.float16 if self.dtype == "fp16" else np.float32
        inputs = {name: random.standard_normal(shape).astype(host) for name, shape in (("a", self.a), ("b", self.b))}
        exact = inputs["a"].astype(np.float64) @ inputs["b"].astype(np.float64)
        writer = GraphWriter(np.dtype(host).name)
        if not self.is_turned:
            inputs["b"] = inputs["b"].swapaxes(-1, -2).copy()
        for name, array in inputs.items():
            writer.input(name, array.shape)
        b = "b"
        if self.is_turned:
            rank = len(self.b)
            sizes, axes = (*self.b[:-2], self.b[-1], self.b[-2]), (*range(rank - 2), rank - 1, rank - 2)
            b = writer.add("move", ("b",), "turned", sizes, MoveAttributes(sizes, axes, (0,) * rank, (1,) * rank))
        writer.add("matmul", ("a", b), "y", exact.shape)
        return writer.graph("y"), inputs, exact


def check(case: Case, machine: Machine) -> None:
    """Compare every element, whatever the delays; rows end with zeros."""
    graph, inputs, exact = case.graph()
    found = run_graph(graph, machine, inputs, case.dtype)["y"]
    np.testing.assert_allclose(found, exact, rtol=0, atol=TOLERANCES[case.dtype] * np.abs(exact).max())
    check_padding(graph, machine, inputs, case.dtype)


def mapping_of(case: Case, machine: Machine) -> LinearMapping:
    """Return the mapping that is chosen for a case."""
    dtype = BY_NAME[case.dtype]
    factor = "columns" if case.is_turned else "rows"
    return choose_linear(
        LinearShape(case.a[-2], case.a[-1], case.b[-1], dtype, dtype, False, False, factor=factor), machine
    )


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("is_turned", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 5, 300), (7, 172, 333), (33, 64, 1), (70, 500, 96)])
def test_odd_sizes(machine: str, dtype: str, is_turned: bool, rows: int, inputs: int, outputs: int) -> None:
    """Sizes that fill no block of any axis; one kernel, and no launch that turns the operand before."""
    case = Case((rows, inputs), (inputs, outputs), is_turned, dtype)
    check(case, small_machine(machine))
    assert len(compile_graph(case.graph()[0], small_machine(machine), dtype).entries[0].launches) == 1


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("is_turned", [True, False])
@pytest.mark.parametrize("outputs", [1000, 1024])
def test_loops(machine: str, dtype: str, is_turned: bool, outputs: int) -> None:
    """At least three trips over chunks, output tiles and row tiles, with ragged last ones and tiles of padding."""
    case = Case((1101, 500), (500, outputs), is_turned, dtype)
    changes = {"pe.local_memory_bytes": 98304, "accumulator.banks": 4, "simd.multiply_adds_per_cycle": 16}
    chip = small_machine(machine, **changes)
    mapping = mapping_of(case, chip)
    assert not mapping.resident and mapping.pe_count == 6
    assert min(mapping.chunks, mapping.output_rounds, mapping.row_rounds) >= 3
    check(case, chip)


@pytest.mark.parametrize("is_turned", [True, False])
def test_few_rows_stay_in_local_memory(is_turned: bool) -> None:
    """A resident product makes at least three trips over chunks and over output tiles."""
    case, chip = Case((3, 7000), (7000, 6000), is_turned), small_machine()
    mapping = mapping_of(case, chip)
    assert mapping.resident and min(mapping.chunks, mapping.output_rounds) >= 3
    check(case, chip)


@pytest.mark.parametrize("changes", [{"dma.broadcast_reads": False}, {"matrix.max_repeat_blocks": 3}])
@pytest.mark.parametrize("is_turned", [True, False])
def test_machine_features_are_asked(changes: dict[str, object], is_turned: bool) -> None:
    """Without broadcasts, or with a short repeat, other commands give the same product."""
    check(Case((381, 172), (172, 333), is_turned), small_machine(**changes))


@pytest.mark.parametrize("is_turned", [True, False])
def test_rows_of_a_batch_by_one_matrix_are_one_product(is_turned: bool) -> None:
    """What the batch shares is read once."""
    case = Case((3, 50, 70), (70, 90), is_turned)
    (launch,) = compile_graph(case.graph()[0], small_machine()).entries[0].launches
    assert launch.useful_macs == 150 * 70 * 90
    check(case, small_machine())


@pytest.mark.parametrize("is_turned", [True, False])
@pytest.mark.parametrize(("a", "b"), [((3, 50, 70), (3, 70, 90)), ((2, 1, 50, 70), (3, 70, 90))])
def test_large_products_of_a_batch_are_a_launch_each(
    a: tuple[int, ...], b: tuple[int, ...], is_turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places of the outer axes, broadcast ones included; small ones are dealt over the grid in one launch."""
    case = Case(a, b, is_turned)
    expected = len(compile_graph(case.graph()[0], small_machine()).entries[0].launches)
    assert expected == 1 + is_turned
    monkeypatch.setattr("compiler.products.SMALLEST_PLACE_MACS", 1)
    places = len(compile_graph(case.graph()[0], small_machine()).entries[0].launches)
    assert places == np.prod(np.broadcast_shapes(a[:-2], b[:-2]))
    check(case, small_machine())


def test_what_else_reads_the_turned_operand_still_gets_it() -> None:
    """The move is dropped only if nothing needs it."""
    graph, inputs, exact = Case((5, 40), (40, 50)).graph()
    both = replace(graph, outputs=("y", "turned"))
    outputs = run_graph(both, small_machine(), inputs)
    np.testing.assert_array_equal(outputs["turned"], inputs["b"].T)
    np.testing.assert_allclose(outputs["y"], exact, rtol=0, atol=1e-3 * np.abs(exact).max())


def test_a_move_that_does_more_than_turn_stays() -> None:
    """A cut of the operand is made before the product."""
    writer = GraphWriter()
    random = np.random.default_rng(7)
    inputs = {"a": random.standard_normal((5, 40)).astype(np.float16)}
    inputs["b"] = random.standard_normal((48, 60)).astype(np.float16)
    for name, array in inputs.items():
        writer.input(name, array.shape)
    writer.add("move", ("b",), "turned", (60, 40), MoveAttributes((60, 40), (1, 0), (8, 0), (1, 1)))
    writer.add("matmul", ("a", "turned"), "y", (5, 60))
    graph = writer.graph("y")
    assert [op.kind for op in legalize(graph).operations] == ["move", "matmul"]
    exact = inputs["a"].astype(np.float64) @ inputs["b"][8:].astype(np.float64)
    found = run_graph(graph, small_machine(), inputs)["y"]
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-3 * np.abs(exact).max())


@pytest.mark.parametrize("is_turned", [True, False])
@pytest.mark.parametrize(("rows", "outputs"), [(70, 333), (1101, 1000), (3, 1500)])
def test_macs_are_those_of_the_commands(rows: int, outputs: int, is_turned: bool) -> None:
    """Useful MACs are M x N x K; useful plus stated padding is what the simulator counts."""
    program = compile_graph(Case((rows, 172), (172, outputs), is_turned).graph()[0], small_machine())
    report = Simulator(program).profile()
    (launch,) = program.entries[0].launches
    assert launch.useful_macs == rows * 172 * outputs
    assert report.issued_macs == launch.parts[0].issued_macs >= launch.useful_macs


def test_the_second_operand_is_taken_as_it_lies() -> None:
    """The move is gone from the graph, and the product knows how its operand lies."""
    (op,) = legalize(Case((5, 40), (40, 50)).graph()[0]).operations
    assert op.inputs == ("a", "b") and op.attributes == ProductAttributes(rows_are_outputs=False)


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("swaps", [2, 3, 4])
def test_swaps_to_and_fro_cancel(batch: tuple[int, ...], swaps: int) -> None:
    """Products of exported models swap the operand that `a @ b.T` has swapped before: nothing is moved for a pair."""
    writer, random = GraphWriter(), np.random.default_rng(7)
    shape = (*batch, 40, 50) if swaps % 2 else (*batch, 50, 40)
    inputs = {"a": random.standard_normal((*batch, 5, 40)).astype(np.float16)}
    inputs["b"] = random.standard_normal(shape).astype(np.float16)
    for name, array in inputs.items():
        writer.input(name, array.shape)
    rank, name = len(shape), "b"
    axes = (*range(rank - 2), rank - 1, rank - 2)
    for index in range(swaps):
        shape = (*shape[:-2], shape[-1], shape[-2])
        name = writer.add("move", (name,), f"m{index}", shape, MoveAttributes(shape, axes, (0,) * rank, (1,) * rank))
    writer.add("matmul", ("a", name), "y", (*batch, 5, 50))
    graph = writer.graph("y")
    moves = [op.kind for op in legalize(graph).operations].count("move")
    assert moves == (swaps % 2 if batch else 0)
    b = inputs["b"] if swaps % 2 else inputs["b"].swapaxes(-1, -2)
    exact = inputs["a"].astype(np.float64) @ b.astype(np.float64)
    found = run_graph(graph, small_machine(), inputs)["y"]
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-3 * np.abs(exact).max())
