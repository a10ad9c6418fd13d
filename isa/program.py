"""A program: everything a chip needs to run a model, as frozen values.

Addresses are absolute device addresses (`isa.memory_map`), sizes and strides are bytes, storages are named.
`isa.container` puts a program into one file, `isa.program_checks` verifies it, `isa.packing` makes constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from isa.affine import Dim, evaluate
from isa.errors import ProgramError, did_you_mean
from isa.kernel import Kernel
from isa.machine import Machine
from isa.memory_map import BASES, Space
from isa.packing_steps import Cast, GroupScales, PackStep, Pad, Quantize, Reshape, Shift, Take, Transpose

__all__ = [
    "Absent", "Argument", "Cast", "Constant", "Entry", "Equality", "GroupScales", "Inline", "Interleave", "Joined",
    "Launch", "LaunchPart",
    "PackStep", "Pad", "Port", "Program", "Quantize", "Reference", "Requirement", "Reshape", "Role", "RoundedMacs",
    "Shift", "Source", "Storage", "Take", "Touch", "Transpose",
]  # fmt: skip

Role = Literal["input", "output", "state", "constant", "scratch"]


@dataclass(frozen=True, slots=True)
class Storage:
    """A named range of device memory; `address` is absolute. Scratch may share memory with other scratch."""

    name: str
    space: Space
    address: int
    bytes: int
    role: Role


@dataclass(frozen=True, eq=False)
class Inline:
    """Source bytes that travel with the program: any array; it is kept as a flat read-only uint8 view."""

    array: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        flat = np.ascontiguousarray(self.array).reshape(-1).view(np.uint8)
        flat.flags.writeable = False
        object.__setattr__(self, "array", flat)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Inline) and np.array_equal(self.array, other.array)

    def __hash__(self) -> int:
        return hash(self.array.tobytes())


@dataclass(frozen=True, slots=True)
class Reference:
    """Source bytes `offset .. offset + length` of another file; the file is opened when the data is needed."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Absent:
    """No data: the program can be timed, not executed."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Arrays of one type that are one array together, behind one another along `axis`: the lengths, and the bytes."""

    axis: int
    sizes: tuple[int, ...]
    sources: tuple[Inline | Reference, ...]

    def shapes(self, whole: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the shape of each array, where all together have the shape `whole`."""
        return [(*whole[: self.axis], size, *whole[self.axis + 1 :]) for size in self.sizes]


Source = Inline | Reference | Joined | Absent


class Interleave(NamedTuple):
    """`parts` constants fill one storage, a block of `block_bytes` of each in turn; this one is number `part`."""

    part: int
    parts: int
    block_bytes: int


@dataclass(frozen=True, slots=True)
class Constant:
    """How the bytes at a storage's address are made: source elements in C order, then the steps.

    `source_dtype` is a NumPy or ml_dtypes name; 4-bit sources are packed two per byte, low nibble first. Without an
    `interleave` the storage is this constant's alone.
    """

    storage: str
    source: Source
    source_shape: tuple[int, ...]
    source_dtype: str
    steps: tuple[PackStep, ...] = ()
    interleave: Interleave | None = None


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: a host array of `shape` and `host_dtype`, and its strided place in a storage."""

    name: str
    storage: str
    offset_bytes: int
    shape: tuple[Dim, ...]
    strides_bytes: tuple[int, ...]
    device_dtype: str
    host_dtype: str


@dataclass(frozen=True, slots=True)
class Argument:
    """A launch argument: `expression` evaluated, plus the address of a storage if one is given."""

    expression: Dim
    storage: str | None = None


class RoundedMacs(NamedTuple):
    """`factor * size` MACs, with `size` rounded up to a multiple: what whole blocks of a runtime size cost."""

    factor: int
    size: Dim
    multiple: int

    def evaluate(self, bindings: Mapping[str, int]) -> int:
        """Return the number under the values of the symbols."""
        return self.factor * -(-evaluate(self.size, bindings) // self.multiple) * self.multiple


class Touch(NamedTuple):
    """A storage that an operation reads or writes, and how many of its bytes at least, however it is mapped."""

    storage: str
    bytes: Dim
    is_written: bool


@dataclass(frozen=True, slots=True)
class LaunchPart:
    """What one operation of the model does in a launch, for reports; `touches` has every storage that it uses.

    Useful MACs are what the model asks for; issued ones and `rounded_macs` what the engines are said to do.
    """

    operation: str
    useful_macs: Dim = 0
    issued_macs: Dim = 0
    rounded_macs: tuple[RoundedMacs, ...] = ()
    touches: tuple[Touch, ...] = ()

    def stated_macs(self, bindings: Mapping[str, int]) -> int:
        """Return the MACs that the compiler says the matrix engines will do: useful ones and padding."""
        return evaluate(self.issued_macs, bindings) + sum(part.evaluate(bindings) for part in self.rounded_macs)


@dataclass(frozen=True, slots=True)
class Launch:
    """One run of a kernel on the PEs `row .. row + rows`, `column .. column + columns` of the grid.

    It starts when all events in `waits` have happened; when it ends, the event `signals` has. `parts` are the
    operations it does, one for each of the kernel's `operation_parts`.
    """

    name: str
    kernel: int
    row: int
    column: int
    rows: int
    columns: int
    arguments: tuple[Argument, ...]
    waits: tuple[int, ...]
    signals: int
    parts: tuple[LaunchPart, ...]

    @property
    def operation(self) -> str:
        """The names of its operations."""
        return "+".join(part.operation for part in self.parts)

    @property
    def useful_macs(self) -> Dim:
        """Useful MACs of all parts."""
        return sum((part.useful_macs for part in self.parts), start=0)

    @property
    def touches(self) -> tuple[Touch, ...]:
        """What its parts touch, once for each."""
        return tuple(touch for part in self.parts for touch in part.touches)


class Equality(NamedTuple):
    """Two sizes that must be equal at run time, and what says so."""

    left: Dim
    right: Dim
    origin: str


class Requirement(NamedTuple):
    """An integer input whose elements must all lie in `low..high`, and why: the compiler relies on it.

    `part` = (first, step, count, width) limits it to the `width` elements from `first + i * step` on, i < count, of the
    input in C order; an empty one means all. If it `falls`, no element is larger than the one before it along the last
    axis: flags of keys in front of padding.
    """

    input: str
    low: int
    high: int
    reason: str
    part: tuple[int, ...] = ()
    falls: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One way to run the model: its ports, the ranges (low, high) of its symbols, and its launches."""

    name: str
    symbols: Mapping[str, tuple[int, int]]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    launches: tuple[Launch, ...]
    equalities: tuple[Equality, ...] = ()
    requirements: tuple[Requirement, ...] = ()


@dataclass(frozen=True)
class Program:
    """The machine it was compiled for, kernels, storages, constants and entries."""

    machine: Machine
    kernels: tuple[Kernel, ...]
    storages: tuple[Storage, ...]
    constants: tuple[Constant, ...]
    entries: tuple[Entry, ...]
    capacity_ignored: bool = False

    @cached_property
    def storage_by_name(self) -> dict[str, Storage]:
        """The storages by name."""
        return {storage.name: storage for storage in self.storages}

    @cached_property
    def constant_by_storage(self) -> dict[str, Constant]:
        """The constants by the name of the storage they fill, one of those that fill it together."""
        return {constant.storage: constant for constant in self.constants}

    def bytes_of(self, space: Space) -> int:
        """Return where the last storage of a memory ends, counted from the memory's first byte."""
        ends = (item.address + item.bytes - BASES[space] for item in self.storages if item.space == space)
        return max(ends, default=0)

    def entry(self, name: str) -> Entry:
        """Return the entry of that name; ProgramError with the known names if there is none."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        names = [entry.name for entry in self.entries]
        hint = did_you_mean(name, names)
        raise ProgramError(f"no entry '{name}'", help=f"{hint} entries: {', '.join(names)}".strip())
