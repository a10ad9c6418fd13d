"""Several kernels as one: every PE runs their bodies in order, and all meet where a body needs what another one made.

A body keeps its instructions; buffers and arguments get new numbers, some buffers the same in several bodies. Where PEs
meet, core B drains and waits for the cores B of all PEs, then lets its core A go on: results are stored by core B,
operands are loaded by core A. A core A that stores results meets the others as well. What a kernel does before
`inputs_at` uses constants only, so it comes before its core A waits, and a core A that uses nothing else does not wait
at all: weights are on their way while what they are multiplied with is still being made. The first ones of the next
such kernel even come before a core A waits for something else. Local memory that is left gives the buffers of such
weights more slots.

Where local memory has no room for all buffers at once, those of bodies that a meeting parts lie over one another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from compiler.buffer_overlay import overlaid
from compiler.kernel_builder import BuiltKernel
from isa import columns
from isa.encoding import Value, encode_values, words_of
from isa.kernel import MAX_SLOTS, Buffer, Kernel, KernelPart, bytes_of
from isa.table import BROADCAST, BY_NAME, BY_OPCODE, Instruction, Kind, Unit

B_IS_DONE, A_IS_DONE = 0, 1
"""Semaphores: core B, or core A, of all PEs is done with what comes before."""
MOST_OWED = 32
"""Meetings that a core A may go on without: half as many as a semaphore counts."""
KEPT_KERNELS = 64
"""Kernels of which facts are kept: more than a program has, and few enough for a sweep over machines."""
_AT_START = (1, 2)
"""Registers that are free where a body starts: it sets all it reads."""
Code = npt.NDArray[np.int64]
"""Instructions of a core as `isa.columns` has them."""
_NOTHING = np.zeros((0, len(columns.NAMES)), np.int64)
"""No instructions."""
CORE_A, CORE_B = 0, 1
Rectangle = tuple[int, int]
Stream = tuple[int, int]
Streams = tuple[Stream, ...]
"""Core and unit that write a buffer, and those that read it."""
NOBODY = ()
"""Of a buffer that is declared and not used."""
_READS, _WRITES = columns.places_of([Kind.READ]), columns.places_of([Kind.WRITE])
_BUFFERS = _READS | _WRITES | columns.places_of([Kind.PRODUCE, Kind.CONSUME])
_REGISTERS = columns.places_of([Kind.REGISTER, Kind.RESULT])
"""By opcode the columns with numbers of buffers, and of registers."""
_BROADCASTS = words_of(BROADCAST)


def _opcodes(condition: Callable[[Instruction], bool]) -> npt.NDArray[np.bool_]:
    """Tell by opcode whether it is that of such an instruction."""
    return np.array([code in BY_OPCODE and condition(BY_OPCODE[code]) for code in range(256)])


_SYNCHRONIZES = _opcodes(lambda row: row.name in ("signal", "wait", "barrier"))
_STORES = _opcodes(lambda row: row.name in ("dma_out", "dma_scatter", "dma_copy"))
_USES_LINKS = _opcodes(lambda row: "direction" in row.by_name)
_USES_BANKS = _opcodes(lambda row: "bank" in row.by_name)
_CAN_BROADCAST = _opcodes(lambda row: "broadcast" in row.by_name)
_UNITS = np.array([BY_OPCODE[code].unit if code in BY_OPCODE else Unit.CORE for code in range(256)])
_ARG, _COORD, _LI, _LOOP = (BY_NAME[name].opcode for name in ("arg", "coord", "li", "loop"))
_COORDINATES = words_of(BY_NAME["coord"].by_name["which"])


@dataclass(frozen=True, slots=True)
class Body:
    """A kernel on rows x columns PEs from the corner of the whole; `meets` if it uses what a body before it wrote."""

    kernel: Kernel
    rectangle: Rectangle
    meets: bool

    @property
    def inputs_at(self) -> int:
        """Instructions of core A that may come before the PEs have met."""
        return self.kernel.inputs_at if isinstance(self.kernel, BuiltKernel) else 0

    @property
    def uses_constants(self) -> bool:
        """True if core A uses nothing else."""
        return self.inputs_at >= len(self.kernel.core_a) - 1

    @property
    def ahead(self) -> tuple[int, int]:
        """Instructions of core A that may run long before the others, if those use constants only."""
        return self.kernel.ahead if isinstance(self.kernel, BuiltKernel) and self.uses_constants else (0, 0)

    @property
    def streamed(self) -> frozenset[int]:
        """Its buffers of constants that are loaded ahead."""
        return self.kernel.streamed if isinstance(self.kernel, BuiltKernel) else frozenset()


def joint_rectangle(bodies: Sequence[Body]) -> Rectangle:
    """Return the PEs that run all bodies."""
    return max(body.rectangle[0] for body in bodies), max(body.rectangle[1] for body in bodies)


def can_join(bodies: Sequence[Body]) -> bool:
    """Tell whether bodies do not use what joining needs, and broadcast along rows and columns of the whole only.

    What a body broadcasts to all its PEs once is small, like a row of x: where others run the whole too, each reads it.
    """
    whole = joint_rectangle(bodies)
    return all(_can_run_on(body, whole) for body in bodies)


def _can_run_on(body: Body, whole: Rectangle) -> bool:
    synchronizes, uses_links, broadcasts = _habits(body.kernel)
    if synchronizes or (uses_links and body.rectangle != whole):
        return False
    if "all" in broadcasts and body.rectangle != whole:
        return False
    if "row" in broadcasts and body.rectangle[1] != whole[1]:
        return False
    return "column" not in broadcasts or body.rectangle[0] == whole[0]


def passed_bodies(bodies: Sequence[Body]) -> dict[int, range]:
    """Return by number of a body that begins ahead of others which ones it passes: from the first that waits on."""
    passed: dict[int, range] = {}
    for index in waits_by_body(bodies):
        if any(index < other for other in passed):
            continue
        following = (other for other in range(index + 1, len(bodies)) if bodies[other].streamed)
        other = next(following, len(bodies))
        if other < len(bodies) and bodies[other].ahead != (0, 0) and not bodies[index].streamed:
            passed[other] = range(index, other)
    return passed


def waits_by_body(bodies: Sequence[Body]) -> dict[int, int]:
    """Return by number of a body whose core A waits for how many meetings it does: all since the last time."""
    waits: dict[int, int] = {}
    owed = 0
    for index, body in enumerate(bodies):
        owed += body.meets
        if owed and (not body.uses_constants or owed == MOST_OWED):
            waits[index], owed = owed, 0
    return waits


@lru_cache(maxsize=KEPT_KERNELS)
def _code(kernel: Kernel) -> tuple[Code, Code]:
    """Return the code of both cores."""
    return columns.decode_columns(kernel.core_a), columns.decode_columns(kernel.core_b)


@lru_cache(maxsize=KEPT_KERNELS)
def _habits(kernel: Kernel) -> tuple[bool, bool, frozenset[str]]:
    """Return whether a kernel synchronizes by itself, whether it uses links between PEs, and how it broadcasts.

    Of broadcasts to all only those in a loop count.
    """
    opcodes = np.concatenate(_code(kernel))[:, columns.OPCODE]
    broadcasts = frozenset(mode for core in _code(kernel) for mode in _broadcasts(core))
    return bool(_SYNCHRONIZES[opcodes].any()), bool(_USES_LINKS[opcodes].any()), broadcasts


def _broadcasts(code: Code) -> Iterator[str]:
    places, opcodes = np.arange(len(code)), code[:, columns.OPCODE]
    ends = np.where(opcodes == _LOOP, places + 1 + code[:, columns.IMMEDIATE], 0)
    is_in_loop = places < np.maximum.accumulate(ends)
    modes = code[:, columns.MODE]
    counts = _CAN_BROADCAST[opcodes] & (is_in_loop | (modes != _BROADCASTS.index("all")))
    return (_BROADCASTS[mode] for mode in set(modes[counts].tolist()))


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
    early = _code(kernel)[CORE_A][: kernel.inputs_at]
    return frozenset(early[_BUFFERS[early[:, columns.OPCODE]]].tolist())


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
    for core, code in enumerate(_code(kernel)):
        opcodes = code[:, columns.OPCODE]
        for places, found in ((_WRITES, writers), (_READS, readers)):
            lines, slots = np.nonzero(places[opcodes])
            for buffer, unit in set(zip(code[lines, slots].tolist(), _UNITS[opcodes[lines]].tolist(), strict=True)):
                found[buffer].add((core, unit))
    return tuple(
        (*left, *right) if len(left) == len(right) == 1 or not left | right else None
        for left, right in zip(writers, readers, strict=True)
    )


def join_kernels(bodies: Sequence[Body], allocation: Allocation, registers: int) -> Kernel:
    """Return the kernel of bodies that `can_join` with these buffers, for cores with so many registers."""
    kernels = [body.kernel for body in bodies]
    codes_a, codes_b = _core_a(bodies, allocation, registers), [*_core_b(bodies, allocation)]
    starts = zip(_starts(codes_a), _starts(codes_b), strict=True)
    return Kernel(
        name=".".join(kernel.name for kernel in kernels),
        arguments=tuple(f"{name}.{index}" for index, kernel in enumerate(kernels) for name in kernel.arguments),
        buffers=allocation.buffers,
        core_a=columns.encode_columns(np.concatenate([*codes_a, _line("halt")])),
        core_b=columns.encode_columns(np.concatenate([*codes_b, _line("halt")])),
        parts=tuple(KernelPart(kernel.name, *start) for kernel, start in zip(kernels, starts, strict=True)),
    )


def _starts(codes: Sequence[Code]) -> list[int]:
    """Return where the code of each body begins."""
    return [0, *accumulate(len(code) for code in codes[:-1])]


def _line(name: str, *values: Value) -> Code:
    """Return one instruction with the values of its operands in the order of its row."""
    return columns.decode_columns(np.array([encode_values(name, values)], np.uint64))


def _core_a(bodies: Sequence[Body], allocation: Allocation, registers: int) -> list[Code]:
    """Return the code of each body; from one that others begin before, jumps lead to what they do there and back."""
    whole, has_stored = joint_rectangle(bodies), False
    waits, passed = waits_by_body(bodies), passed_bodies(bodies)
    begun_before = {others[0]: index for index, others in passed.items()}
    codes: list[Code] = []
    left_at: dict[int, tuple[int, int]] = {}
    for index, body in enumerate(bodies):
        code = _renumbered(bodies, index, CORE_A, allocation)
        pieces: list[Code] = []
        early = 0
        free: tuple[int, int] | None = _AT_START
        if index in passed:
            first, end = body.ahead
            ahead = _one([*_on_own_pes(code[:end], body.rectangle, whole)])
            pieces += [_line("jump", len(ahead) + 1), ahead, _line("jump", 0)]
            code = _one([code[:first], code[end:]])
        if body.meets and has_stored:
            pieces += [_line("barrier"), _line("signal", A_IS_DONE)]
        has_stored = has_stored and not body.meets
        if index in begun_before:
            left_at[begun_before[index]] = index, sum(map(len, pieces))
            pieces.append(_line("jump", 0))
        if index in waits:
            free = _free_registers(code, registers)
            can_be_left = body.rectangle == whole or body.inputs_at >= len(code) or free is not None
            early = body.inputs_at if can_be_left else 0
            pieces += _on_own_pes(code[:early], body.rectangle, whole, free)
            pieces += [_line("wait", B_IS_DONE)] * waits[index]
        codes.append(_one([*pieces, *_on_own_pes(code[early:], body.rectangle, whole, free)]))
        has_stored = has_stored or _stores(body.kernel)
    _connect(codes, left_at)
    return codes


def _connect(codes: Sequence[Code], left_at: Mapping[int, tuple[int, int]]) -> None:
    """Set the targets of jumps to what a body does ahead, by its number from which body and where, and back."""
    starts = _starts(codes)
    for number, (index, place) in left_at.items():
        ahead, back = 1, int(codes[number][0, columns.IMMEDIATE])
        distance = starts[number] - starts[index]
        codes[index][place, columns.IMMEDIATE] = distance + ahead - (place + 1)
        codes[number][back, columns.IMMEDIATE] = place + 1 - (distance + back + 1)


def _one(pieces: Sequence[Code]) -> Code:
    return np.concatenate([_NOTHING, *pieces])


def _core_b(bodies: Sequence[Body], allocation: Allocation) -> Iterator[Code]:
    """Yield the code of each body."""
    whole, has_stored = joint_rectangle(bodies), False
    for index, body in enumerate(bodies):
        pieces: list[Code] = []
        if body.meets:
            pieces += [_line("barrier"), _line("signal", B_IS_DONE)]
            if has_stored:
                pieces.append(_line("wait", A_IS_DONE))
            has_stored = False
        yield _one([*pieces, *_on_own_pes(_renumbered(bodies, index, CORE_B, allocation), body.rectangle, whole)])
        has_stored = has_stored or _stores(body.kernel)


def uses_banks_early(kernel: Kernel) -> bool:
    """Tell whether core A of a kernel uses accumulators: it must not come to them while core B of another one does."""
    return bool(_USES_BANKS[_code(kernel)[CORE_A][:, columns.OPCODE]].any())


def _stores(kernel: Kernel) -> bool:
    """Tell whether core A of a kernel stores results."""
    return bool(_STORES[_code(kernel)[CORE_A][:, columns.OPCODE]].any())


def _free_registers(code: Code, registers: int) -> tuple[int, int] | None:
    """Return two registers that a body does not use, so that it can be left and come back to."""
    used = set(code[_REGISTERS[code[:, columns.OPCODE]]].tolist())
    free = [number for number in range(1, registers) if number not in used]
    return (free[0], free[1]) if len(free) > 1 else None


def _on_own_pes(
    code: Code, own: Rectangle, whole: Rectangle, free: tuple[int, int] | None = _AT_START
) -> Iterator[Code]:
    """Yield the code behind branches that lead the other PEs past it; these write two free registers."""
    if not len(code):
        return
    scratch, limit = free or _AT_START
    sizes = {name: own[axis] for name, axis in (("row", 0), ("column", 1)) if own[axis] < whole[axis]}
    left = len(code) + 3 * len(sizes)
    for name, size in sizes.items():
        left -= 3
        yield _line("coord", scratch, name)
        yield _line("li", limit, size)
        yield _line("bge", scratch, limit, left)
    yield code


def _renumbered(bodies: Sequence[Body], index: int, core: int, allocation: Allocation) -> Code:
    """Return the code of a body but its halt, which is the last, with the whole's numbers."""
    code = _code(bodies[index].kernel)[core][:-1].copy()
    opcodes = code[:, columns.OPCODE].copy()
    has_buffer = _BUFFERS[opcodes]
    code[has_buffer] = np.array(allocation.numbers[index], np.int64)[code[has_buffer]]
    if bodies[index].rectangle != joint_rectangle(bodies):
        is_to_all = _CAN_BROADCAST[opcodes] & (code[:, columns.MODE] == _BROADCASTS.index("all"))
        code[is_to_all, columns.MODE] = _BROADCASTS.index("none")
    code[opcodes == _ARG, columns.IMMEDIATE] += sum(len(body.kernel.arguments) for body in bodies[:index])
    for name, extent in zip(("rows", "columns"), bodies[index].rectangle, strict=True):
        asks = (opcodes == _COORD) & (code[:, columns.MODE] == _COORDINATES.index(name))
        code[np.ix_(asks, (columns.OPCODE, columns.MODE, columns.IMMEDIATE))] = (_LI, 0, extent)
    return code
