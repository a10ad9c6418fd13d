"""One kernel of assembly text as a program with one launch, to be timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isa.assembly import parse_assembly
from isa.kernel import verify
from isa.machine import Machine
from isa.memory_map import BASES, Space
from isa.program import Argument, Entry, Launch, LaunchPart, Program, Storage
from simulator import Report, Simulator


def profile_kernel(
    text: str,
    arguments: Sequence[int | Argument],
    machine: Machine,
    rows: int,
    columns: int,
    sizes: Mapping[Space, int],
) -> Report:
    """Return the profile of a kernel on rows x columns PEs; `sizes` are the bytes it uses of each memory.

    There is a storage of that size with the name of the memory, which arguments may refer to.
    """
    (kernel,) = parse_assembly(text)
    verify(kernel, machine)
    storages = tuple(Storage(space, space, BASES[space], size, "state") for space, size in sizes.items())
    values = tuple(Argument(value) if isinstance(value, int) else value for value in arguments)
    launch = Launch(kernel.name, 0, 0, 0, rows, columns, values, (), 0, (LaunchPart(kernel.name),))
    program = Program(machine, (kernel,), storages, (), (Entry("main", {}, (), (), (launch,)),))
    return Simulator(program).profile()
