"""A kernel: the code that both scalar cores of a PE run in one launch, and the buffers it carves from local memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from isa.machine import Machine

BASE_ALIGNMENT_BYTES = 64
"""Every buffer starts at a multiple of this in local memory."""
SLOT_ALIGNMENT_BYTES = 32
"""The bytes of a slot are a multiple of this."""

MAX_SLOTS = 64
"""A buffer has at most this many slots."""

NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
"""What names of kernels, arguments and buffers look like."""

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Buffer:
    """A circular buffer in local memory: `slots` slots of `slot_bytes` bytes.

    It begins at `base_bytes`, or behind the buffer that is declared before it. Buffers may lie over one another; a
    kernel then sees to it that no command is on one of them while the other holds what is still needed.
    """

    name: str
    slot_bytes: int
    slots: int
    base_bytes: int | None = None

    @property
    def bytes(self) -> int:
        """Bytes of local memory it takes."""
        return self.slot_bytes * self.slots


@dataclass(frozen=True, slots=True)
class KernelPart:
    """The code of one of several operations: where it begins in core A and in core B; it ends where the next begins."""

    name: str
    core_a: int
    core_b: int


@dataclass(frozen=True, eq=False)
class Kernel:
    """Code for one PE; code arrays are uint64[n, 2] (low, high), read-only; buffer operands index `buffers`.

    `parts` say whose code it is where it is that of several operations, in their order; empty, it is that of one.
    """

    name: str
    arguments: tuple[str, ...]
    buffers: tuple[Buffer, ...]
    core_a: Words
    core_b: Words
    parts: tuple[KernelPart, ...] = ()

    def __post_init__(self) -> None:
        for field in ("core_a", "core_b"):
            words = np.ascontiguousarray(getattr(self, field), dtype=np.uint64).reshape(-1, 2)
            if words.flags.writeable:
                words = words.copy()
                words.flags.writeable = False
            object.__setattr__(self, field, words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kernel) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return self.name, self.arguments, self.buffers, self.core_a.tobytes(), self.core_b.tobytes(), self.parts

    @property
    def operation_parts(self) -> tuple[KernelPart, ...]:
        """One part for each operation, also where there is only one."""
        return self.parts or (KernelPart(self.name, 0, 0),)


def buffer_bases(kernel: Kernel) -> tuple[int, ...]:
    """Return the byte offset of each buffer in local memory, in order, aligned to BASE_ALIGNMENT_BYTES."""
    return _bases(kernel.buffers)


def local_bytes(kernel: Kernel) -> int:
    """Return the bytes of local memory the buffers take, gaps included."""
    return bytes_of(kernel.buffers)


def bytes_of(buffers: Sequence[Buffer]) -> int:
    """Return the bytes of local memory that buffers of one kernel take, gaps included."""
    return max((base + buffer.bytes for base, buffer in zip(_bases(buffers), buffers, strict=True)), default=0)


def _bases(buffers: Sequence[Buffer]) -> tuple[int, ...]:
    bases = []
    end = 0
    for buffer in buffers:
        base = -(-end // BASE_ALIGNMENT_BYTES) * BASE_ALIGNMENT_BYTES
        if buffer.base_bytes is not None:
            base = buffer.base_bytes
        bases.append(base)
        end = base + buffer.bytes
    return tuple(bases)


def verify(kernel: Kernel, machine: Machine) -> None:
    """Raise one ProgramError with every problem: buffers, registers, banks, targets, loops, machine features used."""
    from isa.kernel_checks import problems_of
    from isa.problems import raise_problems

    raise_problems(problems_of(kernel, machine), f"kernel '{kernel.name}'")
