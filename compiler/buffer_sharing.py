"""The buffers of several kernels that become one: which of them are the same, and where they lie in local memory.

A buffer is a queue between two streams of commands, so bodies take turns with one that they may share. Where local
memory has no room for all buffers at once, those of bodies that a meeting parts lie over one another. What is left
gives the buffers of weights more slots.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import numpy as np

from compiler.buffer_overlay import overlaid
from compiler.kernel_bodies import KEPT_KERNELS, Body, buffers_of, code_of, passed_bodies, waits_by_body
from compiler.kernel_builder import BuiltKernel
from isa import columns
from isa.kernel import MAX_SLOTS, Buffer, Kernel, bytes_of
from isa.machine_sections import ProcessingElement
from isa.table import BY_OPCODE, Kind, Unit

Stream = tuple[int, int]
Streams = tuple[Stream, ...]
"""Core and unit that write a buffer, and those that read it; then bytes and number of slots if these must agree."""
NOBODY = ()
"""Of a buffer that is declared and not used."""
_READS, _WRITES = columns.places_of([Kind.READ]), columns.places_of([Kind.WRITE])
_UNITS = np.array([BY_OPCODE[code].unit if code in BY_OPCODE else Unit.CORE for code in range(256)])


@dataclass(frozen=True, slots=True)
class Allocation:
    """The buffers of the whole, and by body the number there of each of its buffers."""

    buffers: tuple[Buffer, ...]
    numbers: tuple[tuple[int, ...], ...]

    @property
    def bytes(self) -> int:
        """Bytes of local memory, gaps included."""
        return bytes_of(self.buffers)


@dataclass(frozen=True, slots=True)
class _Numbered:
    """Buffers of the whole, the stretches between meetings in which each is used, and numbers by body."""

    buffers: tuple[Buffer, ...]
    stretches: tuple[frozenset[int], ...]
    numbers: tuple[tuple[int, ...], ...]
    streams: tuple[Streams | None, ...]
    early: frozenset[int]
    """Numbers of buffers that are filled ahead of others."""

    def fewer(self, most: int) -> _Numbered | None:
        """Return so many buffers at most: more of them shared, those first that take little more memory for longer."""
        found = self
        while len(found.buffers) > most:
            pair = min(found._alike(), key=found._growth, default=None)
            if pair is None:
                return None
            found = found._joined(*pair)
        return found

    def _alike(self) -> Iterator[tuple[int, int]]:
        """Yield pairs of buffers between the same streams that no body has both of."""
        together = [set(numbers) for numbers in self.numbers]
        by_streams: dict[Streams, list[int]] = {}
        for number, streams in enumerate(self.streams):
            if streams is not None and number not in self.early:
                by_streams.setdefault(streams, []).append(number)
        for numbers in by_streams.values():
            for left, right in combinations(numbers, 2):
                if not any({left, right} <= those for those in together):
                    yield left, right

    def _growth(self, pair: tuple[int, int]) -> int:
        """Return how many bytes more are taken, summed up over stretches, if two buffers are one."""
        left, right = pair
        stretches = self.stretches[left] | self.stretches[right]
        both = _covering_bytes(self.buffers[left], self.buffers[right]) * len(stretches)
        return both - sum(self.buffers[number].bytes * len(self.stretches[number]) for number in pair)

    def _joined(self, left: int, right: int) -> _Numbered:
        """Return the same with one buffer for two, the first of which has the lower number."""
        buffers, stretches, streams = list(self.buffers), list(self.stretches), list(self.streams)
        buffers[left] = _covering(buffers[left], buffers[right])
        stretches[left] |= stretches[right]
        for those in (buffers, stretches, streams):
            del those[right]

        def moved(number: int) -> int:
            return left if number == right else number - (number > right)

        numbers = tuple(tuple(map(moved, those)) for those in self.numbers)
        return _Numbered(tuple(buffers), tuple(stretches), numbers, tuple(streams), frozenset(map(moved, self.early)))

    def placed(self, buffers: Sequence[Buffer], local_memory_bytes: int) -> Allocation:
        """Return the allocation with these buffers, over one another if they do not fit one behind the other."""
        fits = bytes_of(buffers) <= local_memory_bytes
        return Allocation(tuple(buffers) if fits else overlaid(buffers, self.stretches), self.numbers)


def allocate(bodies: Sequence[Body], pe: ProcessingElement) -> Allocation:
    """Give each buffer of each body a number, and a place if not all have one behind each other.

    A buffer is a queue between two streams of commands. Where both are the same in another body, that body's data just
    come next: nothing is waited for, and its first data may be on their way while the last ones are being used. So
    bodies take turns with buffers that they may share. Where some come ahead of other bodies, these do not use them.
    The result may not fit.
    """
    numbered = _numbered(bodies, pe)
    return numbered.placed(numbered.buffers, pe.local_memory_bytes)


def deepened(bodies: Sequence[Body], pe: ProcessingElement) -> Allocation:
    """Return the allocation whose streamed buffers have the same number of slots more, as many as fit."""
    numbered = _numbered(bodies, pe)
    streamed = {numbered.numbers[index][own] for index, body in enumerate(bodies) for own in body.streamed}
    most = MAX_SLOTS - max((numbered.buffers[number].slots for number in streamed), default=MAX_SLOTS)
    for more in range(most, 0, -1):
        deeper = [
            replace(buffer, slots=buffer.slots + more) if number in streamed else buffer
            for number, buffer in enumerate(numbered.buffers)
        ]
        found = numbered.placed(deeper, pe.local_memory_bytes)
        if found.bytes <= pe.local_memory_bytes:
            return found
    return numbered.placed(numbered.buffers, pe.local_memory_bytes)


def _numbered(bodies: Sequence[Body], pe: ProcessingElement) -> _Numbered:
    """Return the way to share buffers that fits: of any name, or else of the same one, if there are numbers for that.

    Buffers of one name are about as large, and used alike. Where they lie over one another, one that serves large data
    in one stretch and lasting ones in another would take the room of the former for as long as the latter.
    """
    any_name = _shared(bodies, of_a_name=False)
    if any_name.placed(any_name.buffers, pe.local_memory_bytes).bytes <= pe.local_memory_bytes:
        return any_name
    return _shared(bodies, of_a_name=True).fewer(pe.circular_buffers) or any_name


@dataclass(frozen=True, slots=True)
class _Own:
    """A buffer of a kernel, its streams, whether it may be shared, and whether constants fill it early, or ahead.

    Early is before the PEs have met, ahead even before other bodies.
    """

    buffer: Buffer
    streams: Streams | None
    may_share: bool
    is_early: bool
    is_ahead: bool


def _owns(body: Body) -> tuple[_Own, ...]:
    """Return the buffers of a body in the order of their numbers."""
    kernel, none = body.kernel, frozenset[int]()
    if isinstance(kernel, BuiltKernel):
        return _owns_of(kernel, kernel.shared, kernel.sized, buffers_of(kernel, 0, kernel.inputs_at), body.early)
    return _owns_of(kernel, none, none, none, none)


@lru_cache(maxsize=KEPT_KERNELS)
def _owns_of(
    kernel: Kernel, shared: frozenset[int], sized: frozenset[int], early: frozenset[int], ahead: frozenset[int]
) -> tuple[_Own, ...]:
    owns = []
    for number, (buffer, streams) in enumerate(zip(kernel.buffers, _streams(kernel), strict=True)):
        if streams and number in sized:
            streams = (*streams, (buffer.slot_bytes, buffer.slots))
        may_share = streams is not None and number in shared | sized
        owns.append(_Own(buffer, streams, may_share, number in early, number in ahead))
    return tuple(owns)


def _shared(bodies: Sequence[Body], *, of_a_name: bool) -> _Numbered:
    """Let buffers of bodies be the same where they may: all of one name, or any between the same streams."""
    sharing, numbers, used = _Sharing(), list[tuple[int, ...]](), list[set[int]]()
    passed, begins = passed_bodies(bodies), _begins(bodies)
    passed_ones = {index for others in passed.values() for index in others}
    whole = range(sum(body.meets for body in bodies) + 1)
    stretch = 0
    for index, body in enumerate(bodies):
        stretch += body.meets
        avoided = {number for other in passed.get(index, ()) for number in used[other]}
        used.append(set())
        taken: list[int] = []
        owns = _owns(body)
        for own in owns:
            if own.streams == NOBODY:
                taken.append(0)
                continue
            kept = sharing.ahead if index in passed_ones else avoided if own.is_ahead else frozenset[int]()
            number = sharing.number(own, index, {*taken, *kept}, of_a_name=of_a_name or own.is_ahead)
            first = begins[index] if own.is_early else stretch
            sharing.stretches[number].update(range(first, stretch + 1) if own.may_share else whole)
            taken.append(number)
            used[-1].add(number)
        numbers.append(tuple(taken))
        sharing.ahead.update(number for number, own in zip(taken, owns, strict=True) if own.is_ahead)
    return _Numbered(
        tuple(sharing.buffers), tuple(map(frozenset, sharing.stretches)), tuple(numbers), tuple(sharing.streams),
        frozenset(sharing.ahead),
    )  # fmt: skip


class _Sharing:
    """The buffers so far: their streams if they may be shared, when they are used, which are loaded ahead."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.streams: list[Streams | None] = []
        self.stretches: list[set[int]] = []
        self.ahead: set[int] = set()
        self._names: list[str] = []
        self._by_streams: dict[Streams, list[int]] = {}

    def number(self, own: _Own, body: int, avoided: Collection[int], *, of_a_name: bool) -> int:
        """Return the number of the buffer that serves as one of a body: a known one that may, or a new one."""
        number = self._alike(own, avoided, of_a_name=of_a_name)
        if number is not None:
            self.buffers[number] = _covering(self.buffers[number], own.buffer)
            return number
        number = len(self.buffers)
        self.buffers.append(replace(own.buffer, name=f"{own.buffer.name}.{body}"))
        self.streams.append(own.streams if own.may_share else None)
        self.stretches.append(set())
        self._names.append(own.buffer.name)
        if own.may_share and own.streams is not None:
            self._by_streams.setdefault(own.streams, []).append(number)
        return number

    def _alike(self, own: _Own, avoided: Collection[int], *, of_a_name: bool) -> int | None:
        """Return the number of a known buffer between the same streams that grows least, if sharing saves memory.

        Of those that grow alike it is one of the same name: weights are on their way longer than what they meet.
        """
        if not own.may_share or own.streams is None:
            return None
        name, size = own.buffer.name, own.buffer.bytes
        growths = [
            (_covering_bytes(self.buffers[number], own.buffer) - self.buffers[number].bytes,
             self._names[number] != name, number)
            for number in self._by_streams.get(own.streams, ())
            if number not in avoided and (not of_a_name or self._names[number] == name)
        ]  # fmt: skip
        growth, _, number = min(growths, default=(size + 1, False, 0))
        return number if growth <= size else None


def _covering_bytes(left: Buffer, right: Buffer) -> int:
    return max(left.slot_bytes, right.slot_bytes) * max(left.slots, right.slots)


def _begins(bodies: Sequence[Body]) -> list[int]:
    """Return by body the stretch from which on its core A may write: that of the meeting it waited for last."""
    waits, passed = waits_by_body(bodies), passed_bodies(bodies)
    begins: list[int] = []
    stretch = waited = 0
    for index, body in enumerate(bodies):
        stretch += body.meets
        begins.append(begins[passed[index][0]] if index in passed else waited)
        if index in waits:
            waited = stretch
    return begins


def _covering(left: Buffer, right: Buffer) -> Buffer:
    return replace(left, slot_bytes=max(left.slot_bytes, right.slot_bytes), slots=max(left.slots, right.slots))


@lru_cache(maxsize=KEPT_KERNELS)
def _streams(kernel: Kernel) -> tuple[Streams | None, ...]:
    """Return by buffer who writes and who reads it; None unless that is one each, or nobody at all."""
    writers: list[set[Stream]] = [set() for _ in kernel.buffers]
    readers: list[set[Stream]] = [set() for _ in kernel.buffers]
    for core, code in enumerate(code_of(kernel)):
        opcodes = code[:, columns.OPCODE]
        for places, found in ((_WRITES, writers), (_READS, readers)):
            lines, slots = np.nonzero(places[opcodes])
            for buffer, unit in set(zip(code[lines, slots].tolist(), _UNITS[opcodes[lines]].tolist(), strict=True)):
                found[buffer].add((core, unit))
    return tuple(
        (*left, *right) if len(left) == len(right) == 1 or not left | right else None
        for left, right in zip(writers, readers, strict=True)
    )
