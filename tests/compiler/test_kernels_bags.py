"""Pooled embeddings against NumPy on the simulator."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.graph import Bags, EmbeddingBagAttributes
from isa.errors import SimulationError
from tests.compiler.graphs import Array, GraphWriter, compile_graph, run_graph, small_machine

MACHINES = ("mtia-2i", "mtia-v1")
# Shape of the indices, and per table (rows, first row, row step, first column, column step, hot, mean).
CASES: dict[str, tuple[tuple[int, ...], int, int, tuple[tuple[int, ...], ...]]] = {
    "a row per bag": ((25, 3), 25, 40, ((50, 0, 1, 0, 0, 3, 0),)),
    "tables outermost": ((3, 23, 5), 23, 64, ((50, 0, 1, 0, 0, 5, 0), (7, 23, 1, 0, 0, 5, 1), (30, 46, 1, 0, 0, 5, 0))),
    "tables in the middle": ((23, 2, 21), 23, 17, ((50, 0, 2, 0, 0, 21, 1), (90, 1, 2, 0, 0, 21, 0))),
    "one index per table": ((40, 3), 40, 128, ((9, 0, 1, 0, 0, 1, 0), (3, 0, 1, 1, 0, 1, 0), (99, 0, 1, 2, 0, 1, 0))),
    "all in one row": ((92,), 23, 24, ((50, 0, 0, 0, 4, 4, 0), (60, 0, 0, 0, 4, 3, 1))),
    "large bags": ((7, 300), 7, 40, ((500, 0, 1, 0, 0, 300, 1), (40, 0, 1, 3, 0, 77, 0))),
    "several bags per command": ((200, 5), 200, 40, ((50, 0, 1, 0, 0, 5, 0), (60, 0, 1, 2, 0, 1, 1))),
    "bags in a row": ((1, 640), 160, 40, ((70, 0, 0, 0, 4, 4, 1),)),
    "rows as they are, in groups": ((3, 700), 700, 40, ((70, 0, 0, 0, 1, 1, 1), (9, 1, 0, 0, 1, 1, 0))),
    "many tables and groups": (
        (370, 100), 370, 12,
        tuple((40 + hot, 0, 1, hot % 7, 0, hot, hot % 2) for hot in (1, 93, 3, 7, 12, 2, 1, 5)),
    ),
}  # fmt: skip


def _expected(indices: Array, tables: list[Array], attributes: EmbeddingBagAttributes) -> list[Array]:
    flat = indices.reshape(-1)
    columns = indices.shape[-1]
    results = []
    for table, place in zip(tables, attributes.tables, strict=True):
        sums = []
        for bag in range(attributes.count):
            start = (place.first_row + bag * place.row_step) * columns + place.first_column + bag * place.column_step
            rows = table.astype(np.float64)[flat[start : start + place.hot]]
            sums.append(rows.mean(0) if place.mean else rows.sum(0))
        results.append(np.array(sums))
    return results


def _written(case: str, dtype: str = "float16") -> tuple[GraphWriter, Array, list[Array], EmbeddingBagAttributes]:
    shape, count, dim, places = CASES[case]
    rng = np.random.default_rng(len(case))
    writer, indices = GraphWriter(), np.zeros(shape, np.int64)
    writer.input("indices", shape, "int64")
    tables, inputs = [], []
    for index, (size, *_) in enumerate(places):
        tables.append(rng.standard_normal((size, dim)).astype(np.float16))
        inputs += ["indices", writer.constant(f"table{index}", tables[-1])]
    attributes = EmbeddingBagAttributes(count, tuple(Bags(*place[1:6], mean=bool(place[6])) for place in places))
    for place, (size, *_) in zip(attributes.tables, places, strict=True):
        bag = np.arange(count)[:, None]
        columns = place.first_column + bag * place.column_step + np.arange(place.hot)
        indices.reshape(-1, shape[-1])[place.first_row + bag * place.row_step, columns] = rng.integers(
            0, size, (count, place.hot)
        )
    if case == "all in one row":
        indices %= 50  # both tables read the same places
    if case in ("large bags", "many tables and groups", "several bags per command"):
        indices %= 40
    names = tuple(f"y{index}" for index in range(len(places)))
    writer.add_many("embedding_bag", tuple(inputs), names, (count, dim), attributes, dtype)
    return writer, indices, tables, attributes


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("case", CASES)
def test_bags(case: str, dtype: str, machine: str) -> None:
    """Every bag gets the sum or mean of its rows, wherever its indices stand."""
    writer, indices, tables, attributes = _written(case, "float16" if dtype == "fp16" else "float32")
    outputs = tuple(writer.values)[1:]
    results = run_graph(writer.graph(*outputs), small_machine(machine), {"indices": indices}, dtype)
    for name, expected in zip(outputs, _expected(indices, tables, attributes), strict=True):
        tolerance = 2e-3 if dtype == "fp16" else 2e-6
        scale = np.sqrt(max(place.hot for place in attributes.tables))
        np.testing.assert_allclose(results[name].astype(np.float64), expected, rtol=tolerance, atol=tolerance * scale)


def test_indices_outside_of_their_own_table_are_refused() -> None:
    """Each table has its own limit, also when tables of different sizes share an input."""
    writer, indices, _, _ = _written("tables outermost")
    program = compile_graph(writer.graph(*tuple(writer.values)[1:]), small_machine())
    from simulator import Simulator

    simulator = Simulator(program)
    simulator.run({"indices": indices})
    indices[1, 22, 4] = 7
    with pytest.raises(SimulationError, match=r"holds 7, which is not in 0..6: they choose rows of the table 'table1'"):
        simulator.run({"indices": indices})
