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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from isa.machine import Machine

Topology = Literal["crossbar", "mesh"]
Mode = Literal["none", "row", "column", "all", "write"]
Pair = tuple[int, int]
"""Of rows and columns."""
_MODES: tuple[Mode, ...] = ("none", "write", "row", "column", "all")
"""In the order of the groups of `Routes`."""
WEST, EAST, NORTH, SOUTH = range(4)
KEPT_NETWORKS = 16
"""Grids, and rectangles of PEs, of which what was found is kept: more than a program has, few for a sweep."""
FIRST, END, HOPS = range(3)
"""Columns of `Routes.table`."""
Places = npt.NDArray[np.int64]


class Link(NamedTuple):
    """One direction of a wire: along a row or column of routers, `place` counted from west or north."""

    is_column: bool
    line: int
    place: int
    is_backward: bool


class Rectangle(NamedTuple):
    """Rows and columns of routers, last ones included."""

    first_row: int
    last_row: int
    first_column: int
    last_column: int


class Routes(NamedTuple):
    """Routes between ports and groups of PEs: `table` int64[group, port, 3] = (first, end) in `links`, and hops.

    Those of a launch have these groups: each PE that reads, each PE that writes, then broadcasts to each row, to each
    column, and to all.
    """

    table: Places
    links: Places


class _Stretch(NamedTuple):
    """By route some links of a row or column of routers, from one router to another; or the ways back."""

    is_column: npt.NDArray[np.bool_]
    line: Places
    start: Places
    end: Places
    is_back: bool = False

    @property
    def hops(self) -> Places:
        """How many links they are."""
        return abs(self.end - self.start)


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

    @property
    def row_links(self) -> int:
        """How many links lie along rows: the first ones of `links`."""
        return 2 * self.rows * (self.columns + 1)

    def routes(self, targets: Places, *, is_write: bool = False) -> Routes:
        """Return the routes from every port to each target, a `Rectangle` of int64[target, 4]; of writes to the port.

        A read has its links in the order of travel. A write comes from one router.
        """
        is_mesh = self.topology == "mesh"
        port = np.tile(np.arange(self.ports), len(targets))
        top, bottom, left, right = np.repeat(targets, self.ports, axis=0).T
        by_row, is_first = (port < NORTH) | is_mesh, port % 2 == WEST
        across, last_across = np.where(by_row, top, left), np.where(by_row, bottom, right)
        along, last_along = np.where(by_row, left, top), np.where(by_row, right, bottom)
        # A crossbar chooses the line: that of the target, or, where a broadcast has several, another one per group.
        # What a mesh writes leaves by the row of its PE.
        line = across + along % (last_across - across + 1)
        if is_mesh and not is_write:
            line = port // 2
        side = np.where(is_first, -1, np.where(by_row, self.columns, self.rows))
        stretches = [_Stretch(~by_row, line, side, np.where(is_first, last_along, along), is_back=is_write)]
        if is_write and is_mesh:
            stretches.append(_Stretch(np.full(len(port), True), side, top, port // 2))
        hops = np.asarray(sum(stretch.hops for stretch in stretches))
        if not is_write:
            hops += np.maximum(0, np.maximum(last_across - line, line - across))
            for step in range(int((last_along - along).max()) + 1):
                place = np.minimum(along + step, last_along)
                is_there = along + step <= last_along
                for end in (np.maximum(line, last_across), np.minimum(line, across)):
                    stretches.append(_Stretch(by_row, place, line, np.where(is_there, end, line)))
        return self._joined(stretches, hops.reshape(-1, self.ports))

    def _joined(self, stretches: Sequence[_Stretch], hops: Places) -> Routes:
        """Return the routes that have the links of all stretches, one stretch behind the other."""
        is_column, line, start, end = (
            np.stack(each, axis=1) for each in zip(*(one[:4] for one in stretches), strict=True)
        )
        lengths, is_backward = abs(end - start), end < start
        is_named_backward = is_backward ^ [one.is_back for one in stretches]
        first = self._numbers(is_column, line, start + ~is_backward) + is_named_backward
        counts = lengths.ravel()
        place = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        links = np.repeat(first.ravel(), counts) + np.repeat(np.where(is_backward, -2, 2).ravel(), counts) * place
        ends = lengths.sum(axis=1).cumsum().reshape(hops.shape)
        begins = np.concatenate([[0], ends.ravel()[:-1]]).reshape(hops.shape)
        return Routes(np.stack([begins, ends, hops], axis=-1), links)

    def _numbers(self, is_column: npt.NDArray[np.bool_], line: Places, place: Places) -> Places:
        """Return the numbers of links in `links`, of those that lead forward."""
        on_row = line * (self.columns + 1)
        if self.topology == "mesh":
            on_column = (line + 1) * (self.rows - 1) - 1
        else:
            on_column = line * (self.rows + 1)
        return 2 * place + np.where(is_column, self.row_links + 2 * on_column, 2 * on_row)


@functools.lru_cache(maxsize=KEPT_NETWORKS)
def network_of(topology: Topology, rows: int, columns: int) -> Network:
    """Return the network of a grid of routers; equal ones are made once."""
    return Network(topology, rows, columns)


@functools.lru_cache(maxsize=KEPT_NETWORKS)
def _routes(network: Network, cluster: Pair, first: Pair, size: Pair) -> Routes:
    """Return the routes of a rectangle of PEs at a row and column."""
    found = [network.routes(_targets(mode, cluster, first, size), is_write=mode == "write") for mode in _MODES]
    begins = itertools.accumulate((len(one.links) for one in found), initial=0)
    tables = [one.table + [begin, begin, 0] for one, begin in zip(found, begins, strict=False)]
    return Routes(np.concatenate(tables), np.concatenate([one.links for one in found]))


def _targets(mode: Mode, cluster: Pair, first: Pair, size: Pair) -> Places:
    """Return what each group of a launch reaches: a `Rectangle` of int64[group, 4]."""
    rows, columns = ((first[axis] + np.arange(size[axis])) // cluster[axis] for axis in (0, 1))
    spans = [np.stack([places, places], axis=1) for places in (rows, columns)]
    if mode in ("column", "all"):
        spans[0] = rows[[[0, -1]]]
    if mode in ("row", "all"):
        spans[1] = columns[[[0, -1]]]
    return np.hstack([spans[0].repeat(len(spans[1]), axis=0), np.tile(spans[1], (len(spans[0]), 1))])


def routes(machine: Machine, row: int, column: int, rows: int, columns: int) -> Routes:
    """Return the routes of a launch on a rectangle of PEs."""
    cluster = machine.noc.cluster_rows, machine.noc.cluster_columns
    return _routes(machine.network, cluster, (row, column), (rows, columns))


def group_indices(mode: Mode, rows: int, columns: int) -> range:
    """Return the groups of `Routes.table` that read with a mode of broadcast, or those that write."""
    pes = rows * columns
    first = {"none": 0, "write": pes, "row": 2 * pes, "column": 2 * pes + rows, "all": 2 * pes + rows + columns}[mode]
    return range(first, first + {"none": pes, "write": pes, "row": rows, "column": columns, "all": 1}[mode])


class Pattern(NamedTuple):
    """Each group of a rectangle of PEs at the first corner moves one byte, spread over memory units or at one."""

    rows: int
    columns: int
    mode: Mode
    units: int
    unit: int | None = None

    def port_shares(self, ports: int) -> tuple[float, ...]:
        """Return the part of the byte that each port passes."""
        if self.unit is not None:
            return tuple(float(port == self.unit % ports) for port in range(ports))
        return tuple(len(range(port, self.units, ports)) / self.units for port in range(ports))


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
    network: Network, cluster: Pair, widths: Pair, first: Pattern, second: Pattern
) -> tuple[tuple[float, float], ...]:
    loads = (_link_cycles(network, cluster, widths, pattern) for pattern in (first, second))
    kept: list[tuple[float, float]] = []
    for load in sorted(set(zip(*loads, strict=True)), reverse=True):
        if not kept or load[1] > kept[-1][1]:
            kept.append(load)
    return tuple(kept)


def _link_cycles(network: Network, cluster: Pair, widths: Pair, pattern: Pattern) -> tuple[float, ...]:
    size = (pattern.rows, pattern.columns)
    return _cycles_by_shares(network, cluster, widths, pattern.mode, size, pattern.port_shares(network.ports))


@functools.lru_cache(maxsize=4 * KEPT_NETWORKS)
def _cycles_by_shares(
    network: Network, cluster: Pair, widths: Pair, mode: Mode, size: Pair, shares: tuple[float, ...]
) -> tuple[float, ...]:
    """Return the cycles that each link is busy where each port passes its share; most patterns share evenly."""
    targets = _targets(mode, cluster, (0, 0), size)
    table, links = network.routes(targets, is_write=mode == "write")
    lengths = (table[:, :, END] - table[:, :, FIRST]).ravel()
    loads = np.bincount(links, np.tile(shares, len(targets)).repeat(lengths), len(network.links))
    of_link = np.repeat(widths, [network.row_links, len(network.links) - network.row_links])
    return tuple((loads / of_link).tolist())
