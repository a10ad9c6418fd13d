"""Program -> program: launches that follow one another become one, where starting them would show.

To start a job takes as long as thousands of commands, and between two launches nothing is loaded. Launches are merged
while their buffers fit in local memory together; PEs meet only where one launch uses what another one wrote. Between
two that take `LONG` times the start of the second one it does not show: they stay apart, with all of local memory for
each. A launch has a layer of a model, so that layers share kernels, or several if they are short.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from compiler.buffer_sharing import Allocation, allocate, deepened
from compiler.kernel_bodies import Body, Rectangle, can_join, joint_rectangle
from compiler.kernel_builder import EARLY, BuiltKernel
from compiler.kernel_joining import join_kernels, uses_banks, uses_banks_early
from compiler.symbols import interval
from isa.kernel import Kernel
from isa.machine import Machine
from isa.machine_sections import PerDtype
from isa.program import Argument, Entry, Launch, Program, Touch

SHORTEST_LAYER = 4
"""Launches that must come once more to count as a layer."""
IDLE_STARTS = 2
"""What it takes, in starts, until the first weights are used or the last results are stored, with nothing beside it."""
MOST_LAYERS, LAYERS_LONG = 8, 800
"""Layers of a launch at most, as code grows with them. Where a start is less than an 800th of one layer, or of several,
these are a launch, which others share."""
LONG = 50
"""A start that is less than a fiftieth of a launch does not matter."""


def merge_launches(program: Program) -> Program:
    """Return the program with fewer launches; kernels that are no longer used are gone."""
    merger = _Merger(program)
    entries = tuple(merger.entry(entry) for entry in program.entries)
    return replace(program, kernels=tuple(merger.kernels), entries=entries)


_Key = tuple[tuple[int, Rectangle, bool, bool], ...]


@dataclass(frozen=True, slots=True)
class _Group:
    """Launches that become one; `bodies` are their kernels."""

    launches: tuple[Launch, ...]
    bodies: tuple[Body, ...]

    @property
    def key(self) -> _Key:
        """What groups have in common whose launches run the same code."""
        return tuple(
            (launch.kernel, body.rectangle, body.meets, body.passes)
            for launch, body in zip(self.launches, self.bodies, strict=True)
        )

    @property
    def in_order(self) -> _Group:
        """The same, but nothing comes ahead of others unless its buffers take what memory is left."""
        return replace(self, bodies=tuple(replace(body, passes=bool(body.streamed)) for body in self.bodies))


class _Merger:
    """Collects the kernels that are left."""

    def __init__(self, program: Program) -> None:
        self.program, self.machine = program, program.machine
        self.kernels: list[Kernel] = []
        self._index_by_bodies: dict[_Key, int] = {}
        self._known_to_fit: dict[_Key, bool] = {}
        self._allocations: dict[_Key, Allocation] = {}
        self._ranges = {item.name: (item.address, item.address + item.bytes) for item in program.storages}

    def entry(self, entry: Entry) -> Entry:
        """Return the entry with merged launches, each of which waits for the one before."""
        launches = [self._merged(group, index) for index, group in enumerate(self._groups(entry))]
        return replace(entry, launches=tuple(launches))

    def _groups(self, entry: Entry) -> Iterator[_Group]:
        """Yield the groups that lose least: the best way to a launch is the best to where its group begins, and this.

        What is lost is the start, and what comes before the first weights of a group are used, and behind the last
        ones: nothing is loaded beside it. As much is loaded ahead as local memories hold, so that nothing is lost
        beside a launch that loads more.
        """
        launches, repeats = entry.launches, _repeats(entry.launches)
        seconds = [_least_seconds(launch, self.program, entry) for launch in launches]
        ways = [(0.0, _Group((), ()))] + [(math.inf, _Group((), ()))] * len(launches)
        for begin in range(len(launches)):
            group = _Group((), ())
            for end in range(begin, len(launches)):
                collected = sum(seconds[begin:end])
                if end in repeats and self._has_layers(begin, end, repeats, collected):
                    break
                if end > begin and self._starts_anew(collected, seconds[end]):
                    break
                group = self._extended(group, launches[end])
                lost = ways[begin][0] + self._start_seconds + self._idle_seconds(group, seconds[begin], seconds[end])
                if lost >= ways[end + 1][0]:
                    continue
                if end > begin and not self._fits(group):
                    group = group.in_order
                    if not self._fits(group):
                        break
                ways[end + 1] = lost, group
        groups = []
        end = len(launches)
        while end:
            groups.append(ways[end][1])
            end -= len(groups[-1].launches)
        yield from reversed(groups)

    def _extended(self, group: _Group, launch: Launch) -> _Group:
        kernel = self.program.kernels[launch.kernel]
        needs_order = uses_banks_early(kernel) and any(map(uses_banks, self._bodies_since_meeting(group)))
        meets = needs_order or any(self._conflict(launch, before) for before in self._since_meeting(group))
        body = Body(kernel, (launch.rows, launch.columns), meets)
        return _Group((*group.launches, launch), (*group.bodies, body))

    def _since_meeting(self, group: _Group) -> Sequence[Launch]:
        """Return the launches that have not been waited for."""
        return group.launches[len(group.launches) - len(self._bodies_since_meeting(group)) :]

    @staticmethod
    def _bodies_since_meeting(group: _Group) -> Sequence[Body]:
        met = max((index for index, body in enumerate(group.bodies) if body.meets), default=0)
        return group.bodies[met:]

    def _conflict(self, later: Launch, earlier: Launch) -> bool:
        """Tell whether the order of two launches matters: one writes what the other one uses."""
        return any(
            (left.is_written or right.is_written) and self._overlap(left, right)
            for left in later.touches for right in earlier.touches
        )  # fmt: skip

    def _overlap(self, left: Touch, right: Touch) -> bool:
        (first, end), (other_first, other_end) = self._ranges[left.storage], self._ranges[right.storage]
        return first < other_end and other_first < end

    def _fits(self, group: _Group) -> bool:
        key = group.key
        if key not in self._known_to_fit:
            self._known_to_fit[key] = self._has_room(group)
        return self._known_to_fit[key]

    def _has_room(self, group: _Group) -> bool:
        if any((launch.row, launch.column) != (0, 0) for launch in group.launches) or not can_join(group.bodies):
            return False
        allocation = allocate(group.bodies, self.machine.pe)
        has_numbers = len(allocation.buffers) <= self.machine.pe.circular_buffers
        return has_numbers and allocation.bytes <= self.machine.pe.local_memory_bytes

    def _idle_seconds(self, group: _Group, first_seconds: float, last_seconds: float) -> float:
        """Return what is lost at the edges of a group; if nothing is loaded ahead, half a start behind no product."""
        if self._loads_ahead:
            edges = (max(0.0, 1 - seconds / self._ahead_seconds) for seconds in (first_seconds, last_seconds))
            return IDLE_STARTS * self._start_seconds * sum(edges)
        return 0.0 if self._multiplies(group.launches[-1]) else self._start_seconds / 2

    @cached_property
    def _loads_ahead(self) -> bool:
        """Tell whether any kernel of the program does."""
        return any(isinstance(kernel, BuiltKernel) and kernel.streamed for kernel in self.program.kernels)

    @staticmethod
    def _multiplies(launch: Launch) -> bool:
        return any(part.useful_macs for part in launch.parts)

    @cached_property
    def _start_seconds(self) -> float:
        return self.machine.launch_ns(self.machine.pe_count, replaces=True) * 1e-9

    @cached_property
    def _ahead_seconds(self) -> float:
        """How long DRAM takes to fill half of the local memories."""
        half = self.machine.pe_count * self.machine.pe.local_memory_bytes / 2
        return half / self.machine.dram_deliverable_bytes_per_second

    def _has_layers(self, begin: int, end: int, repeats: Mapping[int, int], collected_seconds: float) -> bool:
        """Tell whether the launches up to `end` are as many layers as one launch should have.

        What comes before the first layer, once, does not count beside several short ones.
        """
        layer = repeats[end]
        if collected_seconds > LAYERS_LONG * self._start_seconds:
            return end - begin >= layer
        first = min(place - span for place, span in repeats.items())
        return end - max(begin, first) >= layer * MOST_LAYERS

    def _starts_anew(self, collected_seconds: float, seconds: float) -> bool:
        """Tell whether neither what is collected nor the launch is so short that the start between them shows."""
        return min(collected_seconds, seconds) > LONG * self._start_seconds

    def _merged(self, group: _Group, index: int) -> Launch:
        launches, (rows, columns) = group.launches, joint_rectangle(group.bodies)
        return Launch(
            name=f"{index}:{'..'.join(dict.fromkeys((launches[0].operation, launches[-1].operation)))}",
            kernel=self._kernel(group), row=launches[0].row, column=launches[0].column, rows=rows, columns=columns,
            arguments=tuple(self._arguments(group)),
            waits=(index - 1,) if index else (), signals=index,
            parts=tuple(part for launch in launches for part in launch.parts),
        )  # fmt: skip

    def _arguments(self, group: _Group) -> Iterator[Argument]:
        """Yield the arguments of all launches; what is streamed is loaded as far ahead as its buffers have slots."""
        allocation = self._deepened(group) if len(group.bodies) > 1 else None
        for index, (launch, body) in enumerate(zip(group.launches, group.bodies, strict=True)):
            for name, argument in zip(body.kernel.arguments, launch.arguments, strict=True):
                if allocation and body.streamed and name == EARLY:
                    slots = min(allocation.buffers[allocation.numbers[index][own]].slots for own in body.streamed)
                    yield Argument(slots - 1)
                else:
                    yield argument

    def _deepened(self, group: _Group) -> Allocation:
        """Return where the buffers of a group are, with all of local memory in use."""
        key = group.key
        if key not in self._allocations:
            self._allocations[key] = deepened(group.bodies, self.machine.pe)
        return self._allocations[key]

    def _kernel(self, group: _Group) -> int:
        key = group.key
        if len(key) == 1:
            key = ((key[0][0], (0, 0), False, True),)
        if key not in self._index_by_bodies:
            kernel = (
                group.bodies[0].kernel
                if len(group.bodies) == 1
                else join_kernels(group.bodies, self._deepened(group), self.machine.pe.registers)
            )
            self._index_by_bodies[key] = len(self.kernels)
            self.kernels.append(self._renamed(kernel))
        return self._index_by_bodies[key]

    def _renamed(self, kernel: Kernel) -> Kernel:
        """Number a kernel whose name is taken by another one."""
        names = {known.name for known in self.kernels}
        number = next(number for number in range(1, len(names) + 2) if _numbered(kernel.name, number) not in names)
        return replace(kernel, name=_numbered(kernel.name, number))


def _repeats(launches: Sequence[Launch]) -> dict[int, int]:
    """Return by place how many launches before it are a layer of a model: they come again next, or came just before.

    The last layer is followed by less than one.
    """
    keys = [(launch.kernel, launch.rows, launch.columns) for launch in launches]

    def is_layer(place: int, span: int) -> bool:
        layer = keys[place - span : place]
        return layer in (keys[place : place + span], keys[max(place - 2 * span, 0) : place - span])

    found = dict[int, int]()
    for place in range(SHORTEST_LAYER, len(keys)):
        span = next((span for span in range(SHORTEST_LAYER, place + 1) if is_layer(place, span)), None)
        if span is not None:
            found[place] = span
    return found


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}.{number}"


def _least_seconds(launch: Launch, program: Program, entry: Entry) -> float:
    """Return how long a launch takes at least with the largest sizes: DRAM and products, the latter in any type."""
    machine = program.machine
    in_dram = sum(
        interval(touch.bytes, entry.symbols)[1]
        for touch in launch.touches if program.storage_by_name[touch.storage].space == "dram"
    )  # fmt: skip
    macs = interval(launch.useful_macs, entry.symbols)[1]
    return max(in_dram / machine.dram_deliverable_bytes_per_second, macs / _fastest_macs_per_second(machine))


def _fastest_macs_per_second(machine: Machine) -> float:
    rates = [machine.peak_macs_per_second(name) for name in PerDtype.model_fields if machine.matrix.rate_by_dtype[name]]
    return max(rates)
