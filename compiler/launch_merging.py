"""Program -> program: launches that follow one another become one, where starting them would show.

To start a job takes as long as thousands of commands, and between two launches nothing is loaded. Launches are merged
while their buffers fit in local memory together; PEs meet only where one launch uses what another one wrote. A launch
that takes `LONG` times its start alone stays apart, so that reports tell operations apart where it costs nothing. No
launch has more than a layer of a model, so that layers share kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from compiler.kernel_joining import Body, Rectangle, allocate, can_join, join_kernels, joint_rectangle, uses_banks_early
from compiler.symbols import interval
from isa.kernel import Kernel
from isa.machine import Machine
from isa.machine_sections import PerDtype
from isa.program import Entry, Launch, Program, Touch

SHORTEST_LAYER = 4
"""Launches that must come once more to count as a layer."""
LONG = 50
"""A start that is less than a fiftieth of a launch does not matter."""


def merge_launches(program: Program) -> Program:
    """Return the program with fewer launches; kernels that are no longer used are gone."""
    merger = _Merger(program)
    entries = tuple(merger.entry(entry) for entry in program.entries)
    return replace(program, kernels=tuple(merger.kernels), entries=entries)


@dataclass(frozen=True, slots=True)
class _Group:
    """Launches that become one; `bodies` are their kernels."""

    launches: tuple[Launch, ...]
    bodies: tuple[Body, ...]


class _Merger:
    """Collects the kernels that are left."""

    def __init__(self, program: Program) -> None:
        self.program, self.machine = program, program.machine
        self.kernels: list[Kernel] = []
        self._index_by_bodies: dict[tuple[tuple[int, Rectangle, bool], ...], int] = {}
        self._ranges = {item.name: (item.address, item.address + item.bytes) for item in program.storages}

    def entry(self, entry: Entry) -> Entry:
        """Return the entry with merged launches, each of which waits for the one before."""
        launches = [self._merged(group, index) for index, group in enumerate(self._groups(entry))]
        return replace(entry, launches=tuple(launches))

    def _groups(self, entry: Entry) -> Iterator[_Group]:
        group, repeats = _Group((), ()), _repeats(entry.launches)
        for index, launch in enumerate(entry.launches):
            longer = self._extended(group, launch)
            is_layer = index in repeats and len(group.launches) >= repeats[index]
            if group.launches and self._starts_anew(group, launch, entry):
                yield group
                longer = self._extended(_Group((), ()), launch)
            elif group.launches and (is_layer or not self._fits(longer)):
                kept, longer = self._parted(group, launch)
                yield kept
            group = longer
        if group.launches:
            yield group

    def _parted(self, group: _Group, launch: Launch) -> tuple[_Group, _Group]:
        """Return a group that ends before a launch, and the next one, which begins with it.

        What multiplies nothing and comes just before is better done while the next one loads its first weights.
        """
        last, alone = group.launches[-1], self._extended(_Group((), ()), launch)
        if len(group.launches) > 1 and not last.useful_macs and launch.useful_macs and alone.bodies[0].inputs_at:
            both = self._extended(self._extended(_Group((), ()), last), launch)
            if self._fits(both):
                return _Group(group.launches[:-1], group.bodies[:-1]), both
        return group, alone

    def _extended(self, group: _Group, launch: Launch) -> _Group:
        kernel = self.program.kernels[launch.kernel]
        needs_order = bool(group.bodies) and uses_banks_early(kernel)
        meets = needs_order or any(self._conflict(launch, before) for before in self._since_meeting(group))
        body = Body(kernel, (launch.rows, launch.columns), meets)
        return _Group((*group.launches, launch), (*group.bodies, body))

    def _since_meeting(self, group: _Group) -> Sequence[Launch]:
        """Return the launches that have not been waited for."""
        met = max((index for index, body in enumerate(group.bodies) if body.meets), default=0)
        return group.launches[met:]

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
        if any((launch.row, launch.column) != (0, 0) for launch in group.launches) or not can_join(group.bodies):
            return False
        allocation = allocate(group.bodies, self.machine.pe.local_memory_bytes)
        has_numbers = len(allocation.buffers) <= self.machine.pe.circular_buffers
        return has_numbers and allocation.bytes <= self.machine.pe.local_memory_bytes

    def _starts_anew(self, group: _Group, launch: Launch, entry: Entry) -> bool:
        """Tell whether neither what is collected nor the launch is so short that the start between them shows."""
        start_seconds = self.machine.launch_ns(self.machine.pe_count, replaces=True) * 1e-9
        collected = sum(_least_seconds(one, self.program, entry) for one in group.launches)
        return min(collected, _least_seconds(launch, self.program, entry)) > LONG * start_seconds

    def _merged(self, group: _Group, index: int) -> Launch:
        launches, (rows, columns) = group.launches, joint_rectangle(group.bodies)
        return Launch(
            name=f"{index}:{'+'.join(launch.operation for launch in launches)}",
            operation="+".join(launch.operation for launch in launches),
            kernel=self._kernel(group), row=launches[0].row, column=launches[0].column, rows=rows, columns=columns,
            arguments=tuple(argument for launch in launches for argument in launch.arguments),
            waits=(index - 1,) if index else (), signals=index,
            useful_macs=sum((launch.useful_macs for launch in launches), start=0),
            issued_macs=sum((launch.issued_macs for launch in launches), start=0),
            rounded_macs=tuple(part for launch in launches for part in launch.rounded_macs),
            touches=tuple(touch for launch in launches for touch in launch.touches),
        )  # fmt: skip

    def _kernel(self, group: _Group) -> int:
        key = tuple(
            (launch.kernel, body.rectangle, body.meets)
            for launch, body in zip(group.launches, group.bodies, strict=True)
        )
        if len(key) == 1:
            key = ((key[0][0], (0, 0), False),)
        if key not in self._index_by_bodies:
            kernel = group.bodies[0].kernel if len(group.bodies) == 1 else join_kernels(group.bodies, self.machine)
            self._index_by_bodies[key] = len(self.kernels)
            self.kernels.append(self._renamed(kernel))
        return self._index_by_bodies[key]

    def _renamed(self, kernel: Kernel) -> Kernel:
        """Number a kernel whose name is taken by another one."""
        names = {known.name for known in self.kernels}
        number = next(number for number in range(1, len(names) + 2) if _numbered(kernel.name, number) not in names)
        return replace(kernel, name=_numbered(kernel.name, number))


def _repeats(launches: Sequence[Launch]) -> dict[int, int]:
    """Return by place how many launches before it are the next ones too: a layer of a model, and the one after it."""
    keys = [(launch.kernel, launch.rows, launch.columns) for launch in launches]
    found = dict[int, int]()
    for place in range(SHORTEST_LAYER, len(keys)):
        spans = range(SHORTEST_LAYER, min(place, len(keys) - place) + 1)
        span = next((span for span in spans if keys[place - span : place] == keys[place : place + span]), None)
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
