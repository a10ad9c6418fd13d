"""Routes of every topology: connected, as short as they can be, and shared by what a broadcast reaches."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isa.machine import preset
from isa.network import (
    EAST,
    END,
    HOPS,
    NORTH,
    SOUTH,
    WEST,
    Link,
    Network,
    Pattern,
    Rectangle,
    group_indices,
    link_cycles,
    routes,
)

Route = tuple[list[Link], int]
NETWORKS = st.builds(
    Network, topology=st.sampled_from(["crossbar", "mesh"]), rows=st.integers(1, 7), columns=st.integers(1, 6)
)


def ends(link: Link) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the routers (row, column) that a link leads from and to; ports lie at -1 and behind the last one."""
    first, second = link.place - 1, link.place
    places = ((first, link.line), (second, link.line)) if link.is_column else ((link.line, first), (link.line, second))
    return (places[1], places[0]) if link.is_backward else places


def rectangle(data: st.DataObject, network: Network) -> Rectangle:
    rows = sorted(data.draw(st.tuples(*[st.integers(0, network.rows - 1)] * 2)))
    columns = sorted(data.draw(st.tuples(*[st.integers(0, network.columns - 1)] * 2)))
    return Rectangle(*rows, *columns)


def by_port(table: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64], network: Network) -> list[Route]:
    """Return the links and hops of each row of a group's table."""
    return [([network.links[number] for number in numbers[first:end]], hops) for first, end, hops in table.tolist()]


def route(network: Network, port: int, target: Rectangle, is_write: bool = False) -> Route:
    """Return the links between a port and one target, and the hops."""
    (table,), numbers = network.routes(np.array([target]), is_write=is_write)
    assert len(table) == network.ports and table[-1, END] == len(numbers)
    return by_port(table, numbers, network)[port]


def is_at_port(network: Network, port: int, place: tuple[int, int]) -> bool:
    row, column = place
    if network.topology == "mesh":
        return row == port // 2 and column == (-1 if port % 2 == WEST else network.columns)
    return {WEST: column == -1, EAST: column == network.columns, NORTH: row == -1, SOUTH: row == network.rows}[port]


@given(NETWORKS, st.data())
def test_a_read_is_a_tree_from_its_port(network: Network, data: st.DataObject) -> None:
    """Each link starts where the data are already, no link is used twice, and all routers of the target are reached."""
    port, target = data.draw(st.integers(0, network.ports - 1)), rectangle(data, network)
    links, hops = route(network, port, target)
    assert len(set(links)) == len(links)
    starts = [ends(links[0])[0]]
    assert is_at_port(network, port, starts[0])
    distance = {starts[0]: 0}
    for link in links:
        start, end = ends(link)
        assert start in distance and end not in distance
        distance[end] = distance[start] + 1
    reached = itertools.product(
        range(target.first_row, target.last_row + 1), range(target.first_column, target.last_column + 1)
    )
    assert max(distance[router] for router in reached) == hops


@given(NETWORKS, st.data())
def test_a_write_is_a_path_to_its_port(network: Network, data: st.DataObject) -> None:
    """A write goes from its router to the port without a detour; a mesh goes along the row first."""
    port = data.draw(st.integers(0, network.ports - 1))
    row, column = data.draw(st.integers(0, network.rows - 1)), data.draw(st.integers(0, network.columns - 1))
    links, hops = route(network, port, Rectangle(row, row, column, column), is_write=True)
    place = (row, column)
    ordered = sorted(links, key=lambda link: (abs(ends(link)[0][0] - row), abs(ends(link)[0][1] - column)))
    for link in ordered:
        assert ends(link)[0] == place
        place = ends(link)[1]
    assert is_at_port(network, port, place) and hops == len(links)
    assert [link.is_column for link in ordered] == sorted(link.is_column for link in ordered)


@given(NETWORKS)
def test_links_are_those_of_all_routes(network: Network) -> None:
    """Rows come first, and every link is on a route."""
    places = itertools.product(range(network.rows), range(network.columns))
    routers = np.array([Rectangle(row, row, column, column) for row, column in places])
    numbers = [network.routes(routers, is_write=is_write).links for is_write in (False, True)]
    used = {network.links[number] for number in np.concatenate(numbers).tolist()}
    assert network.links == tuple(sorted(used))


@given(NETWORKS, st.data())
def test_routes_of_a_launch_are_those_of_its_groups(network: Network, data: st.DataObject) -> None:
    """Every PE, row and column of a rectangle of PEs, and all of it, is a group that reaches its own routers."""
    cluster = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    changes = {
        "noc.topology": network.topology, "noc.cluster_rows": cluster[0], "noc.cluster_columns": cluster[1],
        "grid.rows": network.rows * cluster[0], "grid.columns": network.columns * cluster[1],
    }  # fmt: skip
    machine = preset("mtia-2i").with_changes(changes)
    spans = [
        sorted(data.draw(st.tuples(*[st.integers(0, size - 1)] * 2)))
        for size in (changes["grid.rows"], changes["grid.columns"])
    ]
    (top, bottom), (left, right) = spans
    table, numbers = routes(machine, top, left, bottom - top + 1, right - left + 1)
    rows, columns = (
        [(place // size, place // size) for place in range(first, last + 1)]
        for (first, last), size in zip(spans, cluster, strict=True)
    )
    whole = ((rows[0][0], rows[-1][1]), (columns[0][0], columns[-1][1]))
    reached = (
        [*itertools.product(rows, columns)] * 2
        + [(row, whole[1]) for row in rows]
        + [(whole[0], column) for column in columns]
        + [whole]
    )
    assert len(table) == len(reached)
    for group, (row, column) in enumerate(reached):
        is_write = len(rows) * len(columns) <= group < 2 * len(rows) * len(columns)
        (alone,), links = network.routes(np.array([Rectangle(*row, *column)]), is_write=is_write)
        assert by_port(table[group], numbers, network) == by_port(alone, links, network)


@pytest.mark.parametrize(
    "changes",
    [{}, {"noc.topology": "mesh"}, {"noc.topology": "mesh", "noc.cluster_rows": 2, "noc.cluster_columns": 4}],
)
def test_mean_hops_are_those_of_the_routes(changes: dict[str, object]) -> None:
    """The closed form of `Machine.mean_hops` is the mean over all PEs and ports."""
    machine = preset("mtia-2i").with_changes(changes)
    table = routes(machine, 0, 0, 8, 8).table
    assert table[: machine.pe_count, :, HOPS].mean() == pytest.approx(machine.mean_hops)


def test_loads_of_the_busiest_link() -> None:
    """8 x 8 PEs that read a byte each: a line brings 8 quarters; one broadcast per row or column: three quarters."""
    machine = preset("mtia-2i").with_changes({"noc.row_link_bytes_per_cycle": 1, "noc.column_link_bytes_per_cycle": 1})
    expected = {"none": 2.0, "write": 2.0, "row": 0.75, "column": 0.75}
    for mode, cycles in expected.items():
        assert max(link_cycles(machine, Pattern(8, 8, mode, units=8))) == cycles
    assert max(link_cycles(machine, Pattern(8, 8, "none", units=8, unit=5))) == 8.0
    assert max(link_cycles(machine, Pattern(8, 8, "none", units=2))) == 4.0
    assert [len(group_indices(mode, 8, 4)) for mode in ("none", "row", "column", "all")] == [32, 8, 4, 1]
