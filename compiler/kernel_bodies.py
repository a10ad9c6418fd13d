"""Kernels that run one after the other on the same PEs: what of each must wait for the ones before.

A core A that uses constants only does not wait where PEs meet, and the first weights of a body come even before a core
A waits for something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from compiler.kernel_builder import BuiltKernel
from isa import columns
from isa.encoding import words_of
from isa.kernel import Kernel
from isa.table import BROADCAST, BY_NAME, BY_OPCODE, Instruction, Kind

MOST_OWED = 32
"""Meetings that a core A may go on without: half as many as a semaphore counts."""
KEPT_KERNELS = 64
"""Kernels of which facts are kept: more than a program has, and few enough for a sweep over machines."""
Code = npt.NDArray[np.int64]
"""Instructions of a core as `isa.columns` has them."""
CORE_A, CORE_B = 0, 1
Rectangle = tuple[int, int]
BUFFERS = columns.places_of([Kind.READ, Kind.WRITE, Kind.PRODUCE, Kind.CONSUME])
"""By opcode the columns with numbers of buffers."""
BROADCASTS = words_of(BROADCAST)


def opcodes(condition: Callable[[Instruction], bool]) -> npt.NDArray[np.bool_]:
    """Tell by opcode whether it is that of such an instruction."""
    return np.array([code in BY_OPCODE and condition(BY_OPCODE[code]) for code in range(256)])


CAN_BROADCAST = opcodes(lambda row: "broadcast" in row.by_name)
_SYNCHRONIZES = opcodes(lambda row: row.name in ("signal", "wait", "barrier"))
_USES_LINKS = opcodes(lambda row: "direction" in row.by_name)
_LOOP = BY_NAME["loop"].opcode


@dataclass(frozen=True, slots=True)
class Body:
    """A kernel on rows x columns PEs from the corner of the whole; `meets` if it uses what a body before it wrote.

    With `passes` it may load constants ahead of bodies before it, whose memory must then have room for them.
    """

    kernel: Kernel
    rectangle: Rectangle
    meets: bool
    passes: bool = True

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
        may_run = isinstance(self.kernel, BuiltKernel) and self.uses_constants and self.passes
        return self.kernel.ahead if may_run else (0, 0)  # type: ignore[attr-defined]

    @property
    def streamed(self) -> frozenset[int]:
        """Its buffers of constants of which more slots are of use."""
        return self.kernel.streamed if isinstance(self.kernel, BuiltKernel) else frozenset()

    @property
    def early(self) -> frozenset[int]:
        """Its buffers of constants that are loaded before the PEs meet: streamed ones, and what may be loaded ahead."""
        return self.streamed | buffers_of(self.kernel, *self.ahead)


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
        following = (other for other in range(index + 1, len(bodies)) if bodies[other].early)
        other = next(following, len(bodies))
        if other < len(bodies) and bodies[other].ahead != (0, 0) and not bodies[index].early:
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
def code_of(kernel: Kernel) -> tuple[Code, Code]:
    """Return the code of both cores."""
    return columns.decode_columns(kernel.core_a), columns.decode_columns(kernel.core_b)


@lru_cache(maxsize=KEPT_KERNELS)
def buffers_of(kernel: Kernel, first: int, end: int) -> frozenset[int]:
    """Return the buffers that some instructions of core A name."""
    code = code_of(kernel)[CORE_A][first:end]
    return frozenset(code[BUFFERS[code[:, columns.OPCODE]]].tolist())


@lru_cache(maxsize=KEPT_KERNELS)
def _habits(kernel: Kernel) -> tuple[bool, bool, frozenset[str]]:
    """Return whether a kernel synchronizes by itself, whether it uses links between PEs, and how it broadcasts.

    Of broadcasts to all only those in a loop count.
    """
    found = np.concatenate(code_of(kernel))[:, columns.OPCODE]
    broadcasts = frozenset(mode for core in code_of(kernel) for mode in _broadcasts(core))
    return bool(_SYNCHRONIZES[found].any()), bool(_USES_LINKS[found].any()), broadcasts


def _broadcasts(code: Code) -> Iterator[str]:
    places, found = np.arange(len(code)), code[:, columns.OPCODE]
    ends = np.where(found == _LOOP, places + 1 + code[:, columns.IMMEDIATE], 0)
    is_in_loop = places < np.maximum.accumulate(ends)
    modes = code[:, columns.MODE]
    counts = CAN_BROADCAST[found] & (is_in_loop | (modes != BROADCASTS.index("all")))
    return (BROADCASTS[mode] for mode in set(modes[counts].tolist()))
