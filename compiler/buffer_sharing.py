"""The buffers of several kernels that become one: which of them are the same, and where they lie in local memory.

A buffer is a queue between two streams of commands, so bodies take turns with one that they may share. Where local
memory has no room for all buffers at once, those of bodies that a meeting parts lie over one another. What is left
gives the buffers of weights more slots.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from compiler.buffer_overlay import overlaid
from compiler.kernel_bodies import BUFFERS, CORE_A, KEPT_KERNELS, Body, code_of, passed_bodies, waits_by_body
from compiler.kernel_builder import BuiltKernel
from isa import columns
from isa.kernel import MAX_SLOTS, Buffer, Kernel, bytes_of
from isa.table import BY_OPCODE, Kind, Unit

Stream = tuple[int, int]
Streams = tuple[Stream, ...]
"""Core and unit that write a buffer, and those that read it."""
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


def allocate(bodies: Sequence[Body], local_memory_bytes: int) -> Allocation:
    """Give each buffer of each body a number, and a place if not all have one behind each other.

    A buffer is a queue between two streams of commands. Where both are the same in another body, that body's data just
    come next: nothing is waited for, and its first data may be on their way while the last ones are being used. So
    bodies take turns with buffers that they may share. Where some come ahead of other bodies, these do not use them.
    """
    return _placed(*_numbered(bodies), local_memory_bytes)


def deepened(bodies: Sequence[Body], local_memory_bytes: int) -> Allocation:
    """Return the allocation whose streamed buffers have the same number of slots more, as many as fit."""
    buffers, stretches, numbers = _numbered(bodies)
    streamed = {numbers[index][own] for index, body in enumerate(bodies) for own in body.streamed}
    most = MAX_SLOTS - max((buffers[number].slots for number in streamed), default=MAX_SLOTS)
    for more in range(most, 0, -1):
        deeper = [
            replace(buffer, slots=buffer.slots + more) if number in streamed else buffer
            for number, buffer in enumerate(buffers)
        ]
        found = _placed(deeper, stretches, numbers, local_memory_bytes)
        if found.bytes <= local_memory_bytes:
            return found
    return _placed(buffers, stretches, numbers, local_memory_bytes)


def _placed(
    buffers: Sequence[Buffer], stretches: Sequence[set[int]], numbers: Sequence[tuple[int, ...]],
    local_memory_bytes: int,
) -> Allocation:  # fmt: skip
    """Let buffers lie over one another if they do not fit one behind the other."""
    fits = bytes_of(buffers) <= local_memory_bytes
    return Allocation(tuple(buffers) if fits else overlaid(buffers, stretches), tuple(numbers))


def _numbered(bodies: Sequence[Body]) -> tuple[list[Buffer], list[set[int]], list[tuple[int, ...]]]:
    """Return the buffers of the whole, the stretches between meetings in which each is used, and numbers by body."""
    buffers: list[Buffer] = []
    streams: list[Streams | None] = []
    stretches: list[set[int]] = []
    numbers: list[tuple[int, ...]] = []
    used: list[set[int]] = []
    passed, begins = passed_bodies(bodies), _begins(bodies)
    streamed: set[int] = set()
    last = sum(body.meets for body in bodies)
    stretch = 0
    for index, body in enumerate(bodies):
        stretch += body.meets
        early = _loaded_early(body.kernel)
        taken: list[int] = []
        used.append(set())
        is_passed = any(index in others for others in passed.values())
        avoided = {number for other in passed.get(index, ()) for number in used[other]}
        for own, (buffer, ends) in enumerate(zip(body.kernel.buffers, _streams(body.kernel), strict=True)):
            if ends == NOBODY:
                taken.append(0)
                continue
            may_share = isinstance(body.kernel, BuiltKernel) and own in body.kernel.shared
            kept = set(streamed if is_passed else avoided if own in body.streamed else ())
            if own in body.streamed:
                kept |= {number for number, other in enumerate(buffers) if other.name.partition(".")[0] != buffer.name}
            number = _alike(buffer, ends, buffers, streams, {*taken, *kept}) if may_share else None
            if number is None:
                number = len(buffers)
                buffers.append(replace(buffer, name=f"{buffer.name}.{index}"))
                streams.append(ends if may_share else None)
                stretches.append(set())
            else:
                buffers[number] = _covering(buffers[number], buffer)
            first = begins[index] if own in early else stretch
            stretches[number] |= set(range(first, stretch + 1) if may_share else range(last + 1))
            taken.append(number)
            used[-1].add(number)
        numbers.append(tuple(taken))
        streamed |= {taken[own] for own in body.streamed}
    return buffers, stretches, numbers


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


@lru_cache(maxsize=KEPT_KERNELS)
def _loaded_early(kernel: Kernel) -> frozenset[int]:
    """Return the buffers that are written before the PEs have met: those of constants."""
    if not isinstance(kernel, BuiltKernel):
        return frozenset()
    early = code_of(kernel)[CORE_A][: kernel.inputs_at]
    return frozenset(early[BUFFERS[early[:, columns.OPCODE]]].tolist())


def _alike(
    buffer: Buffer,
    ends: Streams | None,
    known: Sequence[Buffer],
    streams: Sequence[Streams | None],
    taken: Collection[int],
) -> int | None:
    """Return the number of a known buffer between the same streams that grows least, if sharing saves memory.

    Of those that grow alike it is one of the same name: weights are on their way longer than what they meet.
    """
    growths = [
        (_covering(other, buffer).bytes - other.bytes, not other.name.startswith(f"{buffer.name}."), number)
        for number, other in enumerate(known)
        if ends is not None and streams[number] == ends and number not in taken
    ]
    growth, _, number = min(growths, default=(buffer.bytes + 1, False, 0))
    return number if growth <= buffer.bytes else None


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
