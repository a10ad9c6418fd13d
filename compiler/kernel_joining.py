"""Several kernels as one: every PE runs their bodies in order, and all meet where a body needs what another one made.

A body keeps its instructions; buffers and arguments get new numbers, some buffers the same in several bodies. Where PEs
meet, core B drains and waits for the cores B of all PEs, then lets its core A go on: results are stored by core B,
operands are loaded by core A. A core A that stores results meets the others as well. What a kernel does before
`inputs_at` uses constants only, so it comes before its core A waits: weights are on their way while what they are
multiplied with is still being made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate

import numpy as np

from compiler.kernel_builder import BuiltKernel
from isa.encoding import Value, decode_all, encode
from isa.kernel import BASE_ALIGNMENT_BYTES, Buffer, Kernel, KernelPart, Words
from isa.table import BY_NAME, Instruction, Kind, Unit

B_IS_DONE, A_IS_DONE = 0, 1
"""Semaphores: core B, or core A, of all PEs is done with what comes before."""
_BUFFERS = (Kind.READ, Kind.WRITE, Kind.PRODUCE, Kind.CONSUME)
_SYNCHRONIZING = ("signal", "wait", "barrier")
_STORES = ("dma_out", "dma_scatter", "dma_copy")
_EXTENT = ("rows", "columns")
KEPT_KERNELS = 64
"""Kernels of which facts are kept: more than a program has, and few enough for a sweep over machines."""
_AT_START = (1, 2)
"""Registers that are free where a body starts: it sets all it reads."""
Line = tuple[str, Mapping[str, Value]]
Code = tuple[tuple[Instruction, Mapping[str, Value]], ...]
"""The instructions of a core, decoded."""
CORE_A, CORE_B = 0, 1
Rectangle = tuple[int, int]
Stream = tuple[int, Unit]
Streams = tuple[Stream, ...]
"""Core and unit that write a buffer, and those that read it."""
NOBODY = ()
"""Of a buffer that is declared and not used."""


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


@lru_cache(maxsize=KEPT_KERNELS)
def _decoded(kernel: Kernel) -> tuple[Code, Code]:
    """Return the code of both cores."""
    return tuple(decode_all(kernel.core_a)), tuple(decode_all(kernel.core_b))


@lru_cache(maxsize=KEPT_KERNELS)
def _habits(kernel: Kernel) -> tuple[bool, bool, frozenset[str]]:
    """Return whether a kernel synchronizes by itself, whether it uses links between PEs, and how it broadcasts.

    Of broadcasts to all only those in a loop count.
    """
    code = _decoded(kernel)
    instructions = [*code[0], *code[1]]
    names = {instruction.name for instruction, _ in instructions}
    broadcasts = frozenset(mode for core in code for mode in _broadcasts(core))
    uses_links = any("direction" in instruction.by_name for instruction, _ in instructions)
    return not names.isdisjoint(_SYNCHRONIZING), uses_links, broadcasts


def _broadcasts(code: Code) -> Iterator[str]:
    end = 0
    for place, (instruction, operands) in enumerate(code):
        if instruction.name == "loop":
            end = max(end, place + 1 + int(operands["target"]))
        mode = str(operands.get("broadcast", "none"))
        if mode != "all" or place < end:
            yield mode


@dataclass(frozen=True, slots=True)
class Allocation:
    """The buffers of the whole, and by body the number there of each of its buffers."""

    buffers: tuple[Buffer, ...]
    numbers: tuple[tuple[int, ...], ...]

    @property
    def bytes(self) -> int:
        """Bytes of local memory, gaps included."""
        return sum(-(-buffer.bytes // BASE_ALIGNMENT_BYTES) * BASE_ALIGNMENT_BYTES for buffer in self.buffers)


def allocate(bodies: Sequence[Body]) -> Allocation:
    """Give each buffer of each body a number; bodies take turns with buffers that they may share.

    A buffer is a queue between two streams of commands. Where both are the same in another body, that body's data just
    come next: nothing is waited for, and its first data may be on their way while the last ones are being used.
    """
    buffers: list[Buffer] = []
    streams: list[Streams | None] = []
    numbers: list[tuple[int, ...]] = []
    for index, body in enumerate(bodies):
        taken: list[int] = []
        for own, (buffer, ends) in enumerate(zip(body.kernel.buffers, _streams(body.kernel), strict=True)):
            if ends == NOBODY:
                taken.append(0)
                continue
            may_share = isinstance(body.kernel, BuiltKernel) and own in body.kernel.shared
            number = _alike(buffer, ends, buffers, streams, taken) if may_share else None
            if number is None:
                number = len(buffers)
                buffers.append(replace(buffer, name=f"{buffer.name}.{index}"))
                streams.append(ends if may_share else None)
            else:
                buffers[number] = _covering(buffers[number], buffer)
            taken.append(number)
        numbers.append(tuple(taken))
    return Allocation(tuple(buffers), tuple(numbers))


def _alike(
    buffer: Buffer,
    ends: Streams | None,
    known: Sequence[Buffer],
    streams: Sequence[Streams | None],
    taken: Sequence[int],
) -> int | None:
    """Return the number of a known buffer between the same streams that grows least, if sharing saves memory."""
    growths = [
        (_covering(other, buffer).bytes - other.bytes, number)
        for number, other in enumerate(known)
        if ends is not None and streams[number] == ends and number not in taken
    ]
    growth, number = min(growths, default=(buffer.bytes + 1, 0))
    return number if growth <= buffer.bytes else None


def _covering(left: Buffer, right: Buffer) -> Buffer:
    return replace(left, slot_bytes=max(left.slot_bytes, right.slot_bytes), slots=max(left.slots, right.slots))


@lru_cache(maxsize=KEPT_KERNELS)
def _streams(kernel: Kernel) -> tuple[Streams | None, ...]:
    """Return by buffer who writes and who reads it; None unless that is one each, or nobody at all."""
    writers: list[set[Stream]] = [set() for _ in kernel.buffers]
    readers: list[set[Stream]] = [set() for _ in kernel.buffers]
    for core, code in enumerate(_decoded(kernel)):
        for instruction, operands in code:
            for operand in instruction.operands:
                if operand.kind in (Kind.READ, Kind.WRITE):
                    found = readers if operand.kind is Kind.READ else writers
                    found[int(operands[operand.name])].add((core, instruction.unit))
    return tuple(
        (*left, *right) if len(left) == len(right) == 1 or not left | right else None
        for left, right in zip(writers, readers, strict=True)
    )


def join_kernels(bodies: Sequence[Body], registers: int) -> Kernel:
    """Return the kernel of bodies that `can_join`, for cores with so many registers."""
    kernels = [body.kernel for body in bodies]
    allocation = allocate(bodies)
    codes_a, codes_b = list(_core_a(bodies, allocation, registers)), list(_core_b(bodies, allocation))
    starts = zip(_starts(codes_a), _starts(codes_b), strict=True)
    return Kernel(
        name=".".join(kernel.name for kernel in kernels),
        arguments=tuple(f"{name}.{index}" for index, kernel in enumerate(kernels) for name in kernel.arguments),
        buffers=allocation.buffers,
        core_a=_encoded(codes_a),
        core_b=_encoded(codes_b),
        parts=tuple(KernelPart(kernel.name, *start) for kernel, start in zip(kernels, starts, strict=True)),
    )


def _encoded(codes: Sequence[Sequence[Line]]) -> Words:
    lines = (*(line for code in codes for line in code), ("halt", {}))
    return np.array([encode(name, operands) for name, operands in lines], dtype=np.uint64)


def _starts(codes: Sequence[Sequence[Line]]) -> list[int]:
    """Return where the code of each body begins."""
    return [0, *accumulate(len(code) for code in codes[:-1])]


def _core_a(bodies: Sequence[Body], allocation: Allocation, registers: int) -> Iterator[list[Line]]:
    """Yield the code of each body."""
    whole, has_stored = joint_rectangle(bodies), False
    for index, body in enumerate(bodies):
        lines = _renumbered(bodies, index, CORE_A, allocation)
        code: list[Line] = []
        early = 0
        free: tuple[int, int] | None = None
        if body.meets:
            if has_stored:
                code += [("barrier", {}), ("signal", {"value": A_IS_DONE})]
            free = _free_registers(lines, registers)
            can_be_left = body.rectangle == whole or body.inputs_at >= len(lines) or free is not None
            early = body.inputs_at if can_be_left else 0
            code += _on_own_pes(lines[:early], body.rectangle, whole, free)
            code.append(("wait", {"value": B_IS_DONE}))
            has_stored = False
        code += _on_own_pes(lines[early:], body.rectangle, whole, free)
        yield code
        has_stored = has_stored or _stores(body.kernel)


def _core_b(bodies: Sequence[Body], allocation: Allocation) -> Iterator[list[Line]]:
    """Yield the code of each body."""
    whole, has_stored = joint_rectangle(bodies), False
    for index, body in enumerate(bodies):
        code: list[Line] = []
        if body.meets:
            code += [("barrier", {}), ("signal", {"value": B_IS_DONE})]
            if has_stored:
                code.append(("wait", {"value": A_IS_DONE}))
            has_stored = False
        code += _on_own_pes(_renumbered(bodies, index, CORE_B, allocation), body.rectangle, whole)
        yield code
        has_stored = has_stored or _stores(body.kernel)


@lru_cache(maxsize=KEPT_KERNELS)
def uses_banks_early(kernel: Kernel) -> bool:
    """Tell whether core A of a kernel uses accumulators: it must not come to them while core B of another one does."""
    return any("bank" in instruction.by_name for instruction, _ in _decoded(kernel)[CORE_A])


def _stores(kernel: Kernel) -> bool:
    """Tell whether core A of a kernel stores results."""
    return any(instruction.name in _STORES for instruction, _ in _decoded(kernel)[CORE_A])


def _free_registers(lines: Sequence[Line], registers: int) -> tuple[int, int] | None:
    """Return two registers that a body does not use, so that it can be left and come back to."""
    used = {
        int(value)
        for name, operands in lines for operand, value in operands.items()
        if BY_NAME[name].by_name[operand].kind in (Kind.REGISTER, Kind.RESULT)
    }  # fmt: skip
    free = [number for number in range(1, registers) if number not in used]
    return (free[0], free[1]) if len(free) > 1 else None


def _on_own_pes(
    lines: Sequence[Line], own: Rectangle, whole: Rectangle, free: tuple[int, int] | None = _AT_START
) -> Iterator[Line]:
    """Yield the lines behind branches that lead the other PEs past them; these write two free registers."""
    if not lines:
        return
    scratch, limit = free or _AT_START
    sizes = {name: own[axis] for name, axis in (("row", 0), ("column", 1)) if own[axis] < whole[axis]}
    left = len(lines) + 3 * len(sizes)
    for name, size in sizes.items():
        left -= 3
        yield "coord", {"destination": scratch, "which": name}
        yield "li", {"destination": limit, "value": size}
        yield "bge", {"left": scratch, "right": limit, "target": left}
    yield from lines


def _renumbered(bodies: Sequence[Body], index: int, core: int, allocation: Allocation) -> list[Line]:
    """Return the lines of a body but its halt, which is the last, with the whole's numbers."""
    numbers = allocation.numbers[index]
    first_argument = sum(len(body.kernel.arguments) for body in bodies[:index])
    extent = dict(zip(_EXTENT, bodies[index].rectangle, strict=True))
    lines: list[Line] = []
    for instruction, operands in _decoded(bodies[index].kernel)[core][:-1]:
        values = {
            name: numbers[int(value)] if instruction.by_name[name].kind in _BUFFERS else value
            for name, value in operands.items()
        }
        if values.get("broadcast") == "all" and bodies[index].rectangle != joint_rectangle(bodies):
            values["broadcast"] = "none"
        if instruction.name == "arg":
            values["value"] = int(values["value"]) + first_argument
        if instruction.name == "coord" and values["which"] in extent:
            lines.append(("li", {"destination": values["destination"], "value": extent[str(values["which"])]}))
        else:
            lines.append((instruction.name, values))
    return lines
