"""The network between PEs and shared memories: which links a transfer takes, for every topology.

Routers lie in a grid; one serves the PEs of a cluster. Memory units (SRAM slices, DRAM channels) stand behind *ports*
at the sides of the grid: unit u behind port u modulo their number. Links have one direction each.

* `crossbar` (MTIA 1 and 2i): one port per side. A crossbar on each side leads any of its units to any line, so a
  transfer goes straight along the row (west, east) or column (north, south) of its PE.
* `mesh` (MTIA 300): two ports per row of routers, west and east. Routes go along the row first, then along the column;
  the columns of ports at the edges have links of their own, since no crossbar leads to the port of another row.

A broadcast takes a tree: along the row of its entry, then up and down the columns it reaches (or the other way round
from north and south), each link once.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from isa.machine import Machine

Topology = Literal["crossbar", "mesh"]
Mode = Literal["none", "row", "column", "all", "write"]
WEST, EAST, NORTH, SOUTH = range(4)
KEPT_NETWORKS = 16
"""Grids, and rectangles of PEs, of which what was found is kept: more than a program has, few for a sweep."""
FIRST, END, HOPS = range(3)
"""Columns of `Routes.table`."""


class Link(NamedTuple):
    """One direction of a wire: along a row or column of routers, `place` counted from west or north."""

    is_column: bool
    line: int
    place: int
    is_backward: bool


class Rectangle(NamedTuple):
    """Rows and columns, last ones included."""

    first_row: int
    last_row: int
    first_column: int
    last_column: int


@dataclass(frozen=True)
class Network:
    """A grid of routers; `links` has those that a transfer can take, rows first."""

    topology: Topology
    rows: int
    columns: int

    @property
    def ports(self) -> int:
        """Ports at the sides."""
        return 4 if self.topology == "crossbar" else 2 * self.rows

    @functools.cached_property
    def links(self) -> tuple[Link, ...]:
        """All links in a fixed order: those along rows, then those along columns."""
        lines, places = range(self.columns), range(self.rows + 1)
        if self.topology == "mesh":
            lines, places = range(-1, self.columns + 1), range(1, self.rows)
        along_rows = itertools.product([False], range(self.rows), range(self.columns + 1), [False, True])
        return tuple(Link(*each) for each in (*along_rows, *itertools.product([True], lines, places, [False, True])))

    @functools.cached_property
    def numbers(self) -> dict[Link, int]:
        """The place of each link in `links`."""
        return {link: number for number, link in enumerate(self.links)}

    def route(self, port: int, target: Rectangle, is_write: bool = False) -> tuple[list[Link], int]:
        """Return the links between a port and routers, and the hops to the farthest; writes come from one router."""
        side, entry = self._entry(port, target, is_write)
        links, hops = self._read(side, entry, target)
        if not is_write:
            return links, hops
        links = [link._replace(is_backward=not link.is_backward) for link in links]
        if self.topology == "mesh":
            edge = -1 if side == WEST else self.columns
            along = list(_along(True, edge, target.first_row, port // 2))
            return links + along, hops + len(along)
        return links, hops

    def _entry(self, port: int, target: Rectangle, is_write: bool) -> tuple[int, int]:
        """Return the side of a port, and the row or column by which its data enter the grid.

        A crossbar chooses the line: that of the target, or, where a broadcast has several, another one per group. What
        a mesh writes leaves by the row of its PE.
        """
        if self.topology == "mesh":
            return port % 2, target.first_row if is_write else port // 2
        if port in (WEST, EAST):
            return port, target.first_row + target.first_column % (target.last_row - target.first_row + 1)
        return port, target.first_column + target.first_row % (target.last_column - target.first_column + 1)

    def _read(self, side: int, entry: int, target: Rectangle) -> tuple[list[Link], int]:
        """Return the tree from a side to routers, in the order of travel, and its hops."""
        top, bottom, left, right = target
        if side in (WEST, EAST):
            start, end = (-1, right) if side == WEST else (self.columns, left)
            links = [*_along(False, entry, start, end)]
            for column in range(left, right + 1):
                links += [
                    *_along(True, column, entry, max(entry, bottom)),
                    *_along(True, column, entry, min(entry, top)),
                ]
            return links, abs(end - start) + max(bottom - entry, entry - top, 0)
        start, end = (-1, bottom) if side == NORTH else (self.rows, top)
        links = [*_along(True, entry, start, end)]
        for row in range(top, bottom + 1):
            links += [*_along(False, row, entry, max(entry, right)), *_along(False, row, entry, min(entry, left))]
        return links, abs(end - start) + max(right - entry, entry - left, 0)


def _along(is_column: bool, line: int, start: int, end: int) -> Iterator[Link]:
    """Yield the links of a line from one router to another."""
    step = 1 if end > start else -1
    for place in range(start, end, step):
        yield Link(is_column, line, max(place, place + step), step < 0)


class Routes(NamedTuple):
    """The routes of a launch: `table` int64[group, port, 3] = (first, end) in `links` and hops.

    Groups: each PE that reads, each PE that writes, then broadcasts to each row, to each column, and to all.
    """

    table: npt.NDArray[np.int64]
    links: npt.NDArray[np.int64]


@functools.lru_cache(maxsize=KEPT_NETWORKS)
def network_of(topology: Topology, rows: int, columns: int) -> Network:
    """Return the network of a grid of routers; equal ones are made once."""
    return Network(topology, rows, columns)


@functools.lru_cache(maxsize=KEPT_NETWORKS)
def _routes(network: Network, cluster: tuple[int, int], first: tuple[int, int], size: tuple[int, int]) -> Routes:
    """Return the routes of a rectangle of PEs at a row and column."""
    table = np.zeros((2 * size[0] * size[1] + sum(size) + 1, network.ports, 3), np.int64)
    links: list[int] = []
    for group, (target, is_write) in enumerate(_groups(cluster, first, size)):
        for port in range(network.ports):
            route, hops = network.route(port, target, is_write)
            table[group, port] = len(links), len(links) + len(route), hops
            links += [network.numbers[link] for link in route]
    return Routes(table, np.array(links, np.int64))


def _groups(
    cluster: tuple[int, int], first: tuple[int, int], size: tuple[int, int]
) -> Iterator[tuple[Rectangle, bool]]:
    """Yield the routers that each group of a launch reaches, and whether they write."""
    rows = [(first[0] + row) // cluster[0] for row in range(size[0])]
    columns = [(first[1] + column) // cluster[1] for column in range(size[1])]
    for is_write in (False, True):
        for row in rows:
            for column in columns:
                yield Rectangle(row, row, column, column), is_write
    for row in rows:
        yield Rectangle(row, row, columns[0], columns[-1]), False
    for column in columns:
        yield Rectangle(rows[0], rows[-1], column, column), False
    yield Rectangle(rows[0], rows[-1], columns[0], columns[-1]), False


def routes(machine: Machine, row: int, column: int, rows: int, columns: int) -> Routes:
    """Return the routes of a launch on a rectangle of PEs."""
    cluster = machine.noc.cluster_rows, machine.noc.cluster_columns
    return _routes(machine.network, cluster, (row, column), (rows, columns))


def group_indices(mode: Mode, rows: int, columns: int) -> range:
    """Return the groups of `Routes.table` that read with a mode of broadcast, or those that write."""
    pes = rows * columns
    first = {"none": 0, "write": pes, "row": 2 * pes, "column": 2 * pes + rows, "all": 2 * pes + rows + columns}[mode]
    return range(first, first + {"none": pes, "write": pes, "row": rows, "column": columns, "all": 1}[mode])


@dataclass(frozen=True)
class Pattern:
    """Each group of a rectangle of PEs at the first corner moves one byte, spread over memory units or at one."""

    rows: int
    columns: int
    mode: Mode
    units: int
    unit: int | None = None

    def port_shares(self, ports: int) -> npt.NDArray[np.float64]:
        """Return the part of the byte that each port passes."""
        units = np.arange(self.units) if self.unit is None else np.array([self.unit])
        return np.bincount(units % ports, minlength=ports) / len(units)


def link_cycles(machine: Machine, pattern: Pattern) -> tuple[float, ...]:
    """Return the cycles that each link is busy with a pattern."""
    noc = machine.noc
    cluster, widths = (
        (noc.cluster_rows, noc.cluster_columns),
        (noc.row_link_bytes_per_cycle, noc.column_link_bytes_per_cycle),
    )
    return _link_cycles(machine.network, cluster, widths, pattern)


def busiest_links(machine: Machine, first: Pattern, second: Pattern) -> tuple[tuple[float, float], ...]:
    """Return the cycles of both patterns on each link, but for links that are no busier than another with either.

    However much of both patterns there is, one of these links is the busiest.
    """
    noc = machine.noc
    cluster = noc.cluster_rows, noc.cluster_columns
    widths = noc.row_link_bytes_per_cycle, noc.column_link_bytes_per_cycle
    return _busiest_links(machine.network, cluster, widths, first, second)


@functools.lru_cache(maxsize=4 * KEPT_NETWORKS)
def _busiest_links(
    network: Network, cluster: tuple[int, int], widths: tuple[int, int], first: Pattern, second: Pattern
) -> tuple[tuple[float, float], ...]:
    loads = (_link_cycles(network, cluster, widths, pattern) for pattern in (first, second))
    kept: list[tuple[float, float]] = []
    for load in sorted(set(zip(*loads, strict=True)), reverse=True):
        if not kept or load[1] > kept[-1][1]:
            kept.append(load)
    return tuple(kept)


@functools.lru_cache(maxsize=4 * KEPT_NETWORKS)
def _link_cycles(
    network: Network, cluster: tuple[int, int], widths: tuple[int, int], pattern: Pattern
) -> tuple[float, ...]:
    shares, loads = pattern.port_shares(network.ports), np.zeros(len(network.links))
    chosen = group_indices(pattern.mode, pattern.rows, pattern.columns)
    groups = _groups(cluster, (0, 0), (pattern.rows, pattern.columns))
    for target, is_write in itertools.islice(groups, chosen.start, chosen.stop):
        for port, share in enumerate(shares):
            route, _ = network.route(port, target, is_write)
            loads[np.array([network.numbers[link] for link in route], np.int64)] += share
    return tuple((loads / [widths[link.is_column] for link in network.links]).tolist())
