"""A program as plain data plus binary sections, described once for writing and reading."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from isa.codec import (
    BOOLEAN,
    DIM,
    INTEGER,
    PLAIN_TABLE,
    TEXT,
    Codec,
    choice,
    many,
    optional,
    record,
    table,
    union,
    wrong,
)
from isa.errors import MachineError, ProgramError
from isa.kernel import Buffer, Kernel, KernelPart
from isa.machine import Machine
from isa.packing_steps import Cast, GroupScales, Pad, Quantize, Reshape, Shift, Take, Transpose
from isa.program import (
    Absent,
    Argument,
    Constant,
    Entry,
    Equality,
    Inline,
    Interleave,
    Joined,
    Launch,
    LaunchPart,
    Port,
    Program,
    Reference,
    Requirement,
    RoundedMacs,
    Storage,
    Touch,
)

Bytes = npt.NDArray[np.uint8]
_WORD_BYTES = 16


class Sections:
    """The binary parts of a program file: writing appends them, reading takes each exactly once."""

    def __init__(self, parts: list[Bytes] | None = None) -> None:
        self.parts: list[Bytes] = parts or []
        self._untaken = set(range(len(self.parts)))

    def add(self, part: npt.NDArray[Any]) -> int:
        """Append an array's bytes; return the section's number."""
        self.parts.append(part.reshape(-1).view(np.uint8))
        return len(self.parts) - 1

    def take(self, data: Any, where: str) -> Bytes:
        """Return the section a number refers to; ProgramError if there is none or it was taken before."""
        number = INTEGER.read(data, where)
        if number not in self._untaken:
            raise ProgramError(f"section {number} does not exist or is used twice", where=where)
        self._untaken.remove(number)
        return self.parts[number]

    def finish(self) -> None:
        """Raise ProgramError if a section was not taken."""
        if self._untaken:
            raise ProgramError(f"nothing uses section {min(self._untaken)}")


def program_codec(sections: Sections, folder: str) -> Codec[Program]:
    """Return the codec of a program whose file lies in `folder` and whose binary parts are `sections`."""
    return record(
        Program,
        machine=Codec(_write_machine, _read_machine),
        kernels=many(_kernel(sections)),
        storages=many(_STORAGE),
        constants=many(_constant(sections, folder)),
        entries=many(_ENTRY),
        capacity_ignored=BOOLEAN,
    )


def _write_machine(machine: Machine) -> dict[str, Any]:
    return {
        "fields": machine.to_dict(),
        "code_digest": machine.code_digest,
        "timing_digest": machine.timing_digest,
    }


def _read_machine(data: Any, where: str) -> Machine:
    parts = _MACHINE_PARTS.read(data, where)
    try:
        machine = Machine.from_dict(parts["fields"], where)
    except MachineError as error:
        raise ProgramError(error.what, where=error.where, help=error.help) from error
    for name in ("code_digest", "timing_digest"):
        if parts[name] != getattr(machine, name):
            raise ProgramError("does not belong to the fields of this machine", where=f"{where}.{name}")
    return machine


_MACHINE_PARTS: Codec[dict[str, Any]] = record(dict, fields=PLAIN_TABLE, code_digest=TEXT, timing_digest=TEXT)
_BUFFER = record(Buffer, name=TEXT, slot_bytes=INTEGER, slots=INTEGER, base_bytes=optional(INTEGER))
_KERNEL_PART = record(KernelPart, name=TEXT, core_a=INTEGER, core_b=INTEGER)


def _kernel(sections: Sections) -> Codec[Kernel]:
    def read_code(data: Any, where: str) -> npt.NDArray[np.uint64]:
        part = sections.take(data, where)
        if len(part) % _WORD_BYTES:
            raise ProgramError(f"code of {len(part)} bytes is not whole instructions", where=where)
        return part.view("<u8").reshape(-1, 2)

    code = Codec(sections.add, read_code)
    return record(
        Kernel, name=TEXT, arguments=many(TEXT), buffers=many(_BUFFER), core_a=code, core_b=code,
        parts=many(_KERNEL_PART),
    )  # fmt: skip


_STORAGE = record(
    Storage,
    name=TEXT,
    space=choice("sram", "dram"),
    address=INTEGER,
    bytes=INTEGER,
    role=choice("input", "output", "state", "constant", "scratch"),
)


def _constant(sections: Sections, folder: str) -> Codec[Constant]:
    path = Codec(
        _relative_to(folder), lambda data, where: os.path.normpath(os.path.join(folder, TEXT.read(data, where)))
    )
    inline = (Inline, record(Inline, array=Codec(sections.add, sections.take)))
    reference = (Reference, record(Reference, path=path, offset=INTEGER, length=INTEGER))
    parts = many(union(inline=inline, reference=reference))
    joined = (Joined, record(Joined, axis=INTEGER, sizes=many(INTEGER), sources=parts))
    source = union(inline=inline, reference=reference, joined=joined, absent=(Absent, record(Absent)))
    return record(
        Constant,
        storage=TEXT,
        source=source,
        source_shape=many(INTEGER),
        source_dtype=TEXT,
        steps=many(_STEP),
        interleave=optional(record(Interleave, part=INTEGER, parts=INTEGER, block_bytes=INTEGER)),
    )


def _relative_to(folder: str) -> Callable[[str], str]:
    """Return how a path is written: relative to the program's folder, absolute only from another drive.

    Links in the folders are resolved, a link that is the file itself is kept.
    """

    def write(path: str) -> str:
        place, name = os.path.split(os.path.abspath(path))
        resolved = os.path.join(os.path.realpath(place), name)
        try:
            return os.path.relpath(resolved, folder).replace(os.sep, "/")
        except ValueError:
            return resolved

    return write


def _write_indices(indices: range | tuple[int, ...]) -> Any:
    if isinstance(indices, range):
        return {"start": indices.start, "stop": indices.stop, "step": indices.step}
    return list(indices)


def _read_indices(data: Any, where: str) -> range | tuple[int, ...]:
    if type(data) is list:
        return many(INTEGER).read(data, where)
    parts = _RANGE.read(data, where)
    if parts["step"] == 0:
        raise wrong(f"{where}.step", "a step other than 0", 0)
    return range(parts["start"], parts["stop"], parts["step"])


_RANGE: Codec[dict[str, int]] = record(dict, start=INTEGER, stop=INTEGER, step=INTEGER)
_STEP = union(
    transpose=(Transpose, record(Transpose, axes=many(INTEGER))),
    reshape=(Reshape, record(Reshape, shape=many(INTEGER))),
    pad=(Pad, record(Pad, shape=many(INTEGER))),
    cast=(Cast, record(Cast, dtype=TEXT)),
    shift=(Shift, record(Shift, value=INTEGER, dtype=TEXT)),
    quantize=(Quantize, record(Quantize, dtype=TEXT, group=INTEGER)),
    group_scales=(GroupScales, record(GroupScales, dtype=TEXT, group=INTEGER)),
    take=(Take, record(Take, axis=INTEGER, indices=Codec(_write_indices, _read_indices))),
)
_PORT = record(
    Port,
    name=TEXT,
    storage=TEXT,
    offset_bytes=INTEGER,
    shape=many(DIM),
    strides_bytes=many(INTEGER),
    device_dtype=TEXT,
    host_dtype=TEXT,
)
_LAUNCH_PART = record(
    LaunchPart,
    operation=TEXT,
    useful_macs=DIM,
    issued_macs=DIM,
    rounded_macs=many(record(RoundedMacs, factor=INTEGER, size=DIM, multiple=INTEGER)),
    touches=many(record(Touch, storage=TEXT, bytes=DIM, is_written=BOOLEAN)),
)
_LAUNCH = record(
    Launch,
    name=TEXT,
    kernel=INTEGER,
    row=INTEGER,
    column=INTEGER,
    rows=INTEGER,
    columns=INTEGER,
    arguments=many(record(Argument, expression=DIM, storage=optional(TEXT))),
    waits=many(INTEGER),
    signals=INTEGER,
    parts=many(_LAUNCH_PART),
)


def _read_range(data: Any, where: str) -> tuple[int, int]:
    ends = many(INTEGER).read(data, where)
    if len(ends) != 2:
        raise wrong(where, "a range [low, high]", data)
    return ends[0], ends[1]


_ENTRY = record(
    Entry,
    name=TEXT,
    symbols=table(Codec(list, _read_range)),
    inputs=many(_PORT),
    outputs=many(_PORT),
    launches=many(_LAUNCH),
    equalities=many(record(Equality, left=DIM, right=DIM, origin=TEXT)),
    requirements=many(
        record(Requirement, input=TEXT, low=INTEGER, high=INTEGER, reason=TEXT, part=many(INTEGER), falls=BOOLEAN)
    ),
)
