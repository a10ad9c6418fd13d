"""Launches of single kernels on byte images of SRAM and DRAM, on the fast sequencer and on the plain interpreter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from isa.affine import evaluate
from isa.kernel import Kernel, verify
from isa.machine import Machine
from isa.memory_map import BASES, DRAM_BASE, Space
from isa.program import Argument, Entry, Launch, LaunchPart, Port, Program, Storage
from isa.table import Instruction
from simulator import Report, Simulator, launcher
from simulator import state as st
from simulator.device import Device
from tests import naive
from tests.naive_parts import Command, Element, Integers

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Images:
    """Contents of both shared memories."""

    sram: Bytes
    dram: Bytes

    def copy(self) -> Images:
        """Return images that can be changed."""
        return Images(self.sram.copy(), self.dram.copy())

    def equals(self, other: Images) -> bool:
        """True if all bytes are the same."""
        return np.array_equal(self.sram, other.sram) and np.array_equal(self.dram, other.dram)


def zeros(sram_bytes: int = 1 << 16, dram_bytes: int = 1 << 16) -> Images:
    """Return empty memories."""
    return Images(np.zeros(sram_bytes, dtype=np.uint8), np.zeros(dram_bytes, dtype=np.uint8))


@dataclass(frozen=True)
class Job:
    """A kernel on rows x columns PEs, with the values of its launch arguments."""

    kernel: Kernel
    machine: Machine
    arguments: tuple[int, ...] = ()
    rows: int = 1
    columns: int = 1

    def program(self, images: Images) -> Program:
        """Return a program whose ports are the whole memories."""
        verify(self.kernel, self.machine)
        sizes: dict[Space, int] = {"sram": images.sram.size, "dram": images.dram.size}
        storages = tuple(Storage(space, space, BASES[space], size, "state") for space, size in sizes.items())
        ports = tuple(Port(space, space, 0, (size,), (1,), "int8", "int8") for space, size in sizes.items())
        arguments = tuple(Argument(value) for value in self.arguments)
        launch = Launch(
            self.kernel.name, 0, 0, 0, self.rows, self.columns, arguments, waits=(), signals=0,
            parts=tuple(LaunchPart(part.name) for part in self.kernel.operation_parts),
        )  # fmt: skip
        return Program(self.machine, (self.kernel,), storages, (), (Entry("launch", {}, ports, ports, (launch,)),))

    def run(self, images: Images, jitter_cycles: int = 0, jitter_seed: int = 0) -> tuple[Images, Report]:
        """Run on the sequencer."""
        simulator = Simulator(self.program(images))
        inputs = {"sram": images.sram.view(np.int8), "dram": images.dram.view(np.int8)}
        result = simulator.run(inputs, jitter_cycles=jitter_cycles, jitter_seed=jitter_seed)
        after = {name: np.asarray(array).view(np.uint8) for name, array in result.outputs.items()}
        return Images(after["sram"], after["dram"]), result.report

    def profile(self, machine: Machine | None = None) -> Report:
        """Time it on its machine, or on one that differs in rates only."""
        return Simulator(self.program(zeros(1 << 20, 1 << 28)), machine).profile()

    def cycles(self, machine: Machine | None = None) -> int:
        """Return the cycles of the launch alone."""
        return self.profile(machine).operations[0].cycles

    def run_naively(self, images: Images, seed: int | None = None) -> tuple[Images, Traffic]:
        """Run on the plain interpreter, actors in turn or in an order drawn from a seed."""
        after = images.copy()
        launch = CountingLaunch(
            self.kernel, self.rows, self.columns, self.arguments, after.sram, after.dram, self.machine
        )
        launch.run(seed)
        return after, launch.traffic


@dataclass
class Traffic:
    """What was executed and what commands moved between local and shared memories, counted one by one.

    `issued` are the places (core, pc) whose command, push or pop was issued by some PE; `touched` the device addresses
    of each transfer's rows by direction, where indices choose them only that of the table. `by_part` has the
    same once more for each part of the kernel.
    """

    commands: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    instructions: int = 0
    by_part: dict[int, Traffic] = field(default_factory=dict)
    issued: set[tuple[int, int]] = field(default_factory=set)
    touched: dict[str, set[int]] = field(default_factory=lambda: {"read": set(), "written": set()})

    def must_follow(self, earlier: Traffic) -> bool:
        """True if it reads or writes what an earlier launch wrote, or writes what that read."""
        read, written = self.touched["read"], self.touched["written"]
        return bool(earlier.touched["written"] & (read | written) or earlier.touched["read"] & written)

    def part(self, number: int) -> Traffic:
        """Return the counts of a part of the kernel."""
        return self.by_part.setdefault(number, Traffic())

    def add(self, other: Traffic) -> None:
        """Add another launch's counts."""
        self.commands.update(other.commands)
        self.bytes.update(other.bytes)


class CountingLaunch(naive.Launch):
    """The plain interpreter with a log; a broadcast reads memory once, at the first PE of its group."""

    traffic: Traffic

    def run(self, seed: int | None) -> None:
        self.traffic = Traffic()
        super().run(seed)

    def step_core(self, element: Element, number: int) -> bool:
        core = element.cores[number]
        part, was_halted = core.part, core.halted
        is_done = super().step_core(element, number)
        if is_done and core.halted == was_halted:  # a halt is not counted
            for traffic in (self.traffic, self.traffic.part(part)):
                traffic.instructions += 1
        return is_done

    def issue(self, element: Element, number: int, instruction: Instruction, fields: Integers) -> bool:
        self.traffic.issued.add((number, element.cores[number].pc))
        return super().issue(element, number, instruction, fields)

    def issue_pointer(self, element: Element, number: int, instruction: Instruction, fields: Integers) -> bool:
        self.traffic.issued.add((number, element.cores[number].pc))
        return super().issue_pointer(element, number, instruction, fields)

    def execute(self, element: Element, command: Command, addresses: tuple[int, ...]) -> None:
        super().execute(element, command, addresses)
        for traffic in (self.traffic, self.traffic.part(command.part)):
            self.count(traffic, element, command)

    @staticmethod
    def count(traffic: Traffic, element: Element, command: Command) -> None:
        """Count a command that was executed."""
        name, size = command.instruction.name, int(command.values[6] * command.values[7])
        traffic.commands[name] += 1
        word = command.word("broadcast") if "broadcast" in command.instruction.by_name else "none"
        others = {"none": 0, "row": element.column, "column": element.row, "all": element.row + element.column}
        if others[word]:
            return
        for operand in command.instruction.operands:
            if operand.name in ("address", "source"):
                space = "dram" if command.values[int(operand.slot[1:])] >= DRAM_BASE else "sram"
                direction = "written" if operand.slot == "r0" else "read"
                traffic.bytes[f"{space} {direction}"] += size
                slot = int(operand.slot[1:])
                start, pitch = (int(command.values[place]) for place in (slot, slot + 1))
                for row in range(int(command.values[6])):
                    first = start + row * pitch
                    traffic.touched[direction].update(range(first, first + int(command.values[7])))


def run_program_naively(
    program: Program, inputs: Mapping[str, Array], bindings: Mapping[str, int], seed: int | None = None
) -> tuple[dict[str, Array], list[Traffic]]:
    """Run a program's first entry launch by launch on the plain interpreter; return outputs and traffic by launch."""
    device, entry = Device(program), program.entries[0]
    device.write_inputs(entry, inputs, bindings)
    traffic = []
    for launch in entry.launches:
        arguments = [
            evaluate(item.expression, bindings) + (program.storage_by_name[item.storage].address if item.storage else 0)
            for item in launch.arguments
        ]
        kernel = program.kernels[launch.kernel]
        run = CountingLaunch(kernel, launch.rows, launch.columns, arguments, device.sram, device.dram, program.machine)
        run.run(seed)
        traffic.append(run.traffic)
    return device.read_outputs(entry, bindings)[0], traffic


def poison_local_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let launches start with NaN in every byte of local memory, bank and link, instead of zeros."""
    make = launcher._memory

    def poisoned(machine: Machine, device: Device | None) -> st.Memory:
        memory = make(machine, device)
        memory.local.fill(0xFF)
        memory.banks.fill(np.nan)
        memory.links.fill(np.nan)
        return memory

    monkeypatch.setattr(launcher, "_memory", poisoned)
