"""Several kernels as one: every PE runs their bodies in order, and all meet where a body needs what another one made.

A body keeps its instructions; buffers and arguments get new numbers. Where PEs meet, core B drains and waits for the
cores B of all PEs, then lets its core A go on: results are stored by core B, operands are loaded by core A. A core A
that stores results meets the others as well. What a kernel does before `inputs_at` uses constants only, so it comes
before its core A waits: weights are on their way while what they are multiplied with is still being made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from compiler.kernel_builder import BuiltKernel
from isa.encoding import Value, decode_all, encode
from isa.kernel import Kernel, Words
from isa.table import Kind

B_IS_DONE, A_IS_DONE = 0, 1
"""Semaphores: core B, or core A, of all PEs is done with what comes before."""
_BUFFERS = (Kind.READ, Kind.WRITE, Kind.PRODUCE, Kind.CONSUME)
_SYNCHRONIZING = ("signal", "wait", "barrier")
_STORES = ("dma_out", "dma_scatter", "dma_copy")
_EXTENT = ("rows", "columns")
_SCRATCH, _LIMIT = 1, 2
"""Registers that are free where a body starts: it sets all it reads."""
Line = tuple[str, Mapping[str, Value]]
Rectangle = tuple[int, int]


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

    What a body broadcasts to all its PEs is small, like a row of x: where others run the whole too, each reads it.
    """
    whole = joint_rectangle(bodies)
    return all(_can_run_on(body, whole) for body in bodies)


def _can_run_on(body: Body, whole: Rectangle) -> bool:
    synchronizes, uses_links, broadcasts = _habits(body.kernel)
    if synchronizes or (uses_links and body.rectangle != whole):
        return False
    if "row" in broadcasts and body.rectangle[1] != whole[1]:
        return False
    return "column" not in broadcasts or body.rectangle[0] == whole[0]


@lru_cache(maxsize=1024)
def _habits(kernel: Kernel) -> tuple[bool, bool, frozenset[str]]:
    """Return whether a kernel synchronizes by itself, whether it uses links between PEs, and how it broadcasts."""
    instructions = [*decode_all(kernel.core_a), *decode_all(kernel.core_b)]
    names = {instruction.name for instruction, _ in instructions}
    broadcasts = frozenset(str(operands["broadcast"]) for _, operands in instructions if "broadcast" in operands)
    uses_links = any("direction" in instruction.by_name for instruction, _ in instructions)
    return not names.isdisjoint(_SYNCHRONIZING), uses_links, broadcasts


def join_kernels(bodies: Sequence[Body]) -> Kernel:
    """Return the kernel that runs the bodies in order; they must be such that `can_join`."""
    kernels = [body.kernel for body in bodies]
    return Kernel(
        name=".".join(kernel.name for kernel in kernels),
        arguments=tuple(f"{name}.{index}" for index, kernel in enumerate(kernels) for name in kernel.arguments),
        buffers=tuple(
            replace(buffer, name=f"{buffer.name}.{index}")
            for index, kernel in enumerate(kernels) for buffer in kernel.buffers
        ),
        core_a=_encoded(_core_a(bodies)),
        core_b=_encoded(_core_b(bodies)),
    )  # fmt: skip


def _encoded(lines: Iterator[Line]) -> Words:
    return np.array([encode(name, operands) for name, operands in lines], dtype=np.uint64)


def _core_a(bodies: Sequence[Body]) -> Iterator[Line]:
    whole, has_stored = joint_rectangle(bodies), False
    for index, body in enumerate(bodies):
        lines = _renumbered(bodies, index, body.kernel.core_a)
        early = 0
        if body.meets:
            if has_stored:
                yield "barrier", {}
                yield "signal", {"value": A_IS_DONE}
            early = body.inputs_at if body.rectangle == whole else 0
            yield from lines[:early]
            yield "wait", {"value": B_IS_DONE}
            has_stored = False
        yield from _on_own_pes(lines[early:], body.rectangle, whole)
        has_stored = has_stored or _stores(body.kernel.core_a)
    yield "halt", {}


def _core_b(bodies: Sequence[Body]) -> Iterator[Line]:
    whole, has_stored = joint_rectangle(bodies), False
    for index, body in enumerate(bodies):
        if body.meets:
            yield "barrier", {}
            yield "signal", {"value": B_IS_DONE}
            if has_stored:
                yield "wait", {"value": A_IS_DONE}
            has_stored = False
        yield from _on_own_pes(_renumbered(bodies, index, body.kernel.core_b), body.rectangle, whole)
        has_stored = has_stored or _stores(body.kernel.core_a)
    yield "halt", {}


def _stores(words: Words) -> bool:
    return any(instruction.name in _STORES for instruction, _ in decode_all(words))


def _on_own_pes(lines: Sequence[Line], own: Rectangle, whole: Rectangle) -> Iterator[Line]:
    """Yield the lines behind branches that lead the other PEs past them."""
    sizes = {name: own[axis] for name, axis in (("row", 0), ("column", 1)) if own[axis] < whole[axis]}
    left = len(lines) + 3 * len(sizes)
    for name, size in sizes.items():
        left -= 3
        yield "coord", {"destination": _SCRATCH, "which": name}
        yield "li", {"destination": _LIMIT, "value": size}
        yield "bge", {"left": _SCRATCH, "right": _LIMIT, "target": left}
    yield from lines


def _renumbered(bodies: Sequence[Body], index: int, words: Words) -> list[Line]:
    """Return the lines of a body but its halt, which is the last, with the whole's numbers."""
    first_buffer = sum(len(body.kernel.buffers) for body in bodies[:index])
    first_argument = sum(len(body.kernel.arguments) for body in bodies[:index])
    extent = dict(zip(_EXTENT, bodies[index].rectangle, strict=True))
    lines: list[Line] = []
    for instruction, operands in decode_all(words)[:-1]:
        values = {
            name: int(value) + first_buffer if instruction.by_name[name].kind in _BUFFERS else value
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
