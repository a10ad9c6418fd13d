"""An obvious, slow interpreter of a launch without time: what a program's values must be, whoever runs first.

Every core and every command queue is an actor that takes one step if it can. Actors step in turn, or in an order drawn
from a seed: values must not depend on it. It shares with the simulator only the plain meanings and the tables of `isa`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from isa import columns as col
from isa.columns import decode_columns
from isa.kernel import Kernel, buffer_bases
from isa.machine import Machine
from isa.memory_map import DRAM_BASE, SRAM_BASE
from isa.table import BY_OPCODE, Instruction, Timing, Unit
from simulator.meaning.codes import SENTENCES
from simulator.meaning.dispatch import execute_plain
from simulator.meaning.tables import make_tables
from tests.naive_parts import (
    ARITHMETIC,
    BRANCHES,
    NAMES,
    Circular,
    Command,
    ContractViolationError,
    Core,
    DeadlockError,
    Element,
    Integers,
    bind,
    move_pointer,
    operand_extent,
    wrap,
)

STEPS = {"north": (-1, 0), "east": (0, 1), "south": (1, 0), "west": (0, -1)}
OPPOSITE = {"north": "south", "east": "west", "south": "north", "west": "east"}


class Launch:
    """One launch on a rectangle of PEs."""

    def __init__(
        self, kernel: Kernel, rows: int, columns: int, arguments: Sequence[int], sram: npt.NDArray[np.uint8],
        dram: npt.NDArray[np.uint8], machine: Machine,
    ) -> None:  # fmt: skip
        self.rows, self.columns, self.arguments = rows, columns, arguments
        self.sram, self.dram, self.machine = sram, dram, machine
        accumulator, self.block_k_bytes = machine.accumulator, machine.matrix.block_k_bytes
        self.bank_shape = (accumulator.rows, accumulator.columns)
        self.tables = make_tables(self.block_k_bytes, *self.bank_shape, 4)
        code = decode_columns(kernel.core_a), decode_columns(kernel.core_b)
        starts = [0, *(part.core_a for part in kernel.parts[1:])], [0, *(part.core_b for part in kernel.parts[1:])]
        self.elements = {
            (row, column): Element(
                row,
                column,
                np.zeros(machine.pe.local_memory_bytes, dtype=np.uint8),
                np.zeros((accumulator.banks, *self.bank_shape), dtype=np.float32),
                [
                    Circular(base, each.slot_bytes, each.slots)
                    for base, each in zip(buffer_bases(kernel), kernel.buffers, strict=True)
                ],
                (Core(code[0], starts[0]), Core(code[1], starts[1])),
            )
            for row in range(rows)
            for column in range(columns)
        }

    def run(self, seed: int | None) -> None:
        """Let all actors step until all are done."""
        choose = random.Random(seed)
        actors: list[Callable[[], bool]] = []
        for element in self.elements.values():
            for number in range(2):
                actors.append(lambda element=element, number=number: self.step_core(element, number))
                actors += [
                    lambda element=element, number=number, unit=unit: self.step_queue(element, number, unit)
                    for unit in Unit
                    if unit is not Unit.CORE
                ]
        while not self.is_done():
            if seed is not None:
                choose.shuffle(actors)
            steps = [actor() for actor in actors for _ in range(choose.randint(1, 4) if seed is not None else 1)]
            if not any(steps):
                raise DeadlockError(self.state())

    def is_done(self) -> bool:
        """True if every core has halted and every queue is empty."""
        return all(core.halted and core.drained for element in self.elements.values() for core in element.cores)

    def state(self) -> str:
        """Return who waits where, for error texts."""
        lines = []
        for place, element in self.elements.items():
            for number, core in enumerate(element.cores):
                heads = {unit.name: queue[0].instruction.name for unit, queue in core.queues.items() if queue}
                lines.append(f"PE {place} core {'AB'[number]} pc {core.pc} halted {core.halted} heads {heads}")
        return "\n".join(lines)

    # Scalar cores

    def step_core(self, element: Element, number: int) -> bool:
        """Execute one instruction if it need not wait."""
        core = element.cores[number]
        if core.halted or core.at_barrier:
            return False
        if core.pc >= len(core.code):
            raise ContractViolationError("the code ends without halt")
        fields = core.code[core.pc]
        instruction = BY_OPCODE[int(fields[col.OPCODE])]
        if instruction.is_command:
            return self.issue(element, number, instruction, fields)
        if instruction.timing is Timing.SYNC:
            return self.synchronize(element, number, instruction, fields)
        if instruction.name == "lw" and not self.load_word(element, number, fields):
            return False
        self.scalar(element, core, instruction.name, fields)
        return True

    def advance(self, core: Core, target: int | None = None) -> None:
        """Go to a target of a jump, or to the next instruction, and round the ends of loops."""
        pc = core.pc + 1 if target is None else target
        while core.loops:
            start, end, _ = core.loops[-1]
            if target is not None and not start <= pc <= end:
                core.loops.pop()
                continue
            if pc != end:
                break
            core.loops[-1][2] -= 1
            if core.loops[-1][2] > 0:
                pc = start
                break
            core.loops.pop()
        core.pc = pc

    def scalar(self, element: Element, core: Core, name: str, fields: Integers) -> None:
        """Execute a register, branch or loop instruction (`lw` has set its register already)."""
        left, right = (core.registers[fields[slot]] for slot in (col.R1, col.R2))
        number, target = int(fields[col.IMMEDIATE]), core.pc + 1 + int(fields[col.IMMEDIATE])
        if name == "halt":
            core.halted = True
        elif name == "jump" or (name in BRANCHES and BRANCHES[name](left, right)):
            self.advance(core, target)
        elif name == "loop" and left > 0:
            core.loops.append([core.pc + 1, target, left])
            core.pc += 1
        elif name == "loop":
            core.pc = target - 1
            self.advance(core)
        elif name in BRANCHES or name == "lw":
            self.advance(core)
        else:
            place = (element.row, element.column, self.rows, self.columns)
            results: dict[str, Callable[[], int]] = {
                "li": lambda: number,
                "addi": lambda: left + number,
                "muli": lambda: left * number,
                "arg": lambda: int(self.arguments[number]),
                "coord": lambda: place[fields[col.MODE]],
            }
            result = results[name]() if name in results else ARITHMETIC[name](left, right)
            self.set_register(core, int(fields[col.R0]), result)
            self.advance(core)

    @staticmethod
    def set_register(core: Core, index: int, value: int) -> None:
        """Write a register; r0 stays zero."""
        if index:
            core.registers[index] = wrap(value)

    def load_word(self, element: Element, number: int, fields: Integers) -> bool:
        """Set the register of `lw`; False if the word is not there yet."""
        core = element.cores[number]
        buffer = element.buffers[fields[col.C1]]
        bind(buffer, "consumer", (number, Unit.CORE))
        place = self.locate(buffer, core.registers[fields[col.R2]], 0, 1, 4, is_write=False)
        if place is None:
            return False
        self.set_register(core, int(fields[col.R0]), int(element.local[place : place + 4].copy().view(np.int32)[0]))
        return True

    def synchronize(self, element: Element, number: int, instruction: Instruction, fields: Integers) -> bool:
        """Execute an instruction that may wait for others."""
        core, value = element.cores[number], int(fields[col.IMMEDIATE])
        if instruction.name in ("push", "pop"):
            return self.issue_pointer(element, number, instruction, fields)
        if instruction.name == "wait":
            if not element.semaphores[value]:
                return False
            element.semaphores[value] -= 1
        elif not core.drained:
            return False
        elif instruction.name == "signal":
            element.semaphores[value] += 1
        elif instruction.name == "barrier":
            core.at_barrier = True
            peers = [other.cores[number] for other in self.elements.values()]
            if all(peer.at_barrier for peer in peers):
                for peer in peers:
                    peer.at_barrier = False
                    self.advance(peer)
            return True
        self.advance(core)
        return True

    # Issuing commands

    def issue(self, element: Element, number: int, instruction: Instruction, fields: Integers) -> bool:
        """Put a command into its unit's queue; False if the queue is full."""
        owner = (number, instruction.unit)
        for operand, side in enumerate(("producer", "consumer", "consumer")):
            if NAMES[operand] in instruction.by_name:
                bind(element.buffers[fields[col.C0 + operand]], side, owner)
        if "bank" in instruction.by_name:
            self.take_bank(element, number, int(fields[col.BANK]))
        return self.enqueue(element.cores[number], instruction.unit, instruction, fields)

    def take_bank(self, element: Element, number: int, bank: int) -> None:
        """Let a core use a bank; it passes from one to the other when that has no command on it any more."""
        owner = element.cores[element.bank_core.get(bank, number)]
        if owner is not element.cores[number] and any(
            command.bank == bank for queue in owner.queues.values() for command in queue
        ):
            raise ContractViolationError("a bank is used by both cores")
        element.bank_core[bank] = number

    def issue_pointer(self, element: Element, number: int, instruction: Instruction, fields: Integers) -> bool:
        """Queue a push or pop behind the unit that owns that side of the buffer; a core's own pop acts at once."""
        side = "producer" if instruction.name == "push" else "consumer"
        buffer = element.buffers[fields[col.C0 if side == "producer" else col.C1]]
        owner = getattr(buffer, side)
        if owner is None or owner[0] != number:
            raise ContractViolationError(f"{instruction.name} on a buffer that is not this core's")
        core = element.cores[number]
        if owner[1] is not Unit.CORE:
            return self.enqueue(core, owner[1], instruction, fields)
        if not move_pointer(buffer, instruction.name, int(fields[col.IMMEDIATE])):
            return False
        self.advance(core)
        return True

    def enqueue(self, core: Core, unit: Unit, instruction: Instruction, fields: Integers) -> bool:
        """Add a command with the present register values; False if there is no room."""
        if len(core.queues[unit]) == self.machine.pe.command_queue_depth:
            return False
        values = np.array([core.registers[fields[col.R0 + slot]] for slot in range(8)], dtype=np.int64)
        core.queues[unit].append(Command(instruction, fields, values, core.issued, core.part))
        core.issued += 1
        self.advance(core)
        return True

    # Executing commands

    def step_queue(self, element: Element, number: int, unit: Unit) -> bool:
        """Execute the head of a queue if it need not wait."""
        core = element.cores[number]
        if not core.queues[unit]:
            return False
        command = core.queues[unit][0]
        name, fields = command.instruction.name, command.fields
        if name in ("push", "pop"):
            buffer = element.buffers[fields[col.C0 if name == "push" else col.C1]]
            if not move_pointer(buffer, name, int(fields[col.IMMEDIATE])):
                return False
            core.queues[unit].popleft()
            return True
        members = self.members(element, command)
        ready = [self.addresses(member, number, unit, command) for member in members]
        if any(addresses is None for addresses in ready):
            return False
        for member, addresses in zip(members, ready, strict=True):
            assert addresses is not None
            self.execute(member, member.cores[number].queues[unit].popleft(), addresses)
        return True

    def members(self, element: Element, command: Command) -> list[Element]:
        """Return the PEs that a command runs on together: more than its own only for a broadcast."""
        word = command.word("broadcast") if "broadcast" in command.instruction.by_name else "none"
        return [
            other
            for other in self.elements.values()
            if (word in ("row", "none") and other.row == element.row and (word == "row" or other is element))
            or (word == "column" and other.column == element.column)
            or word == "all"
        ]

    def addresses(self, element: Element, number: int, unit: Unit, first: Command) -> tuple[int, ...] | None:
        """Return the places of out, a, b for the head of a PE's queue, or None if it must wait."""
        core = element.cores[number]
        if not core.queues[unit]:
            return None
        command = core.queues[unit][0]
        is_same = command.instruction is first.instruction and command.fields[col.MODE] == first.fields[col.MODE]
        if not is_same:
            return None
        if command is not first and list(command.values[[2, 3, 6, 7]]) != list(first.values[[2, 3, 6, 7]]):
            raise ContractViolationError("PEs of one broadcast give different addresses or shapes")
        rivals = (rival for queue in core.queues.values() for rival in queue) if command.bank is not None else ()
        if any(rival.bank == command.bank and rival.order < command.order for rival in rivals):
            return None
        if not self.link_is_ready(element, command):
            return None
        places = []
        for operand, operand_name in enumerate(NAMES):
            if operand_name not in command.instruction.by_name:
                places.append(-1)
                continue
            rows, row_bytes = operand_extent(command, operand, self.block_k_bytes)
            offset, pitch = int(command.values[2 * operand]), int(command.values[2 * operand + 1])
            buffer = element.buffers[command.fields[col.C0 + operand]]
            place = self.locate(buffer, offset, pitch, rows, row_bytes, is_write=operand == 0)
            if place is None:
                return None
            places.append(place)
        return tuple(places)

    @staticmethod
    def locate(buffer: Circular, offset: int, pitch: int, rows: int, row_bytes: int, *, is_write: bool) -> int | None:
        """Return where a block lies in local memory, or None if its slot is not free (or not there) yet."""
        slot, inner = divmod(offset, buffer.slot_bytes)
        end = inner + (rows - 1) * (pitch if rows > 1 else 0) + row_bytes
        if offset < 0 or slot >= buffer.slots or (pitch < 0 and rows > 1) or end > buffer.slot_bytes:
            raise ContractViolationError("a row leaves its slot")
        index = (buffer.written if is_write else buffer.read) + slot
        if (index >= buffer.read + buffer.slots) if is_write else (index >= buffer.written):
            return None
        return buffer.base + index % buffer.slots * buffer.slot_bytes + inner

    def link_is_ready(self, element: Element, command: Command) -> bool:
        """True unless the command sends into a full link, or adds from an empty one."""
        if "direction" not in command.instruction.by_name:
            return True
        direction = command.word("direction")
        neighbour = self.neighbour(element, direction)
        if command.instruction.name == "acc_send":
            return OPPOSITE[direction] not in neighbour.messages
        return direction in element.messages

    def neighbour(self, element: Element, direction: str) -> Element:
        """Return the PE next door; a violation if there is none in the launch."""
        place = element.row + STEPS[direction][0], element.column + STEPS[direction][1]
        if place not in self.elements:
            raise ContractViolationError("there is no neighbour in that direction inside the launch")
        return self.elements[place]

    def execute(self, element: Element, command: Command, addresses: tuple[int, ...]) -> None:
        """Execute a command that is ready."""
        self.check_memory(command)
        link = np.zeros(self.bank_shape, dtype=np.float32)
        if command.instruction.name == "acc_add":
            link = element.messages.pop(command.word("direction"))
        out, a, b = addresses
        code = execute_plain(
            command.fields,
            command.values,
            out,
            a,
            b,
            element.local,
            self.sram,
            self.dram,
            element.banks,
            link,
            self.tables,
        )
        if code:
            raise ContractViolationError(SENTENCES[code])
        if command.instruction.name == "acc_send":
            direction = command.word("direction")
            self.neighbour(element, direction).messages[OPPOSITE[direction]] = link

    def check_memory(self, command: Command) -> None:
        """Raise unless rows in shared memory lie inside it (rows that indices choose are checked with the data)."""
        values = [int(value) for value in command.values]
        for name in ("address", "source"):
            if name not in command.instruction.by_name:
                continue
            slot = int(command.instruction.by_name[name].slot[1:])
            is_indexed = command.instruction.name in ("dma_gather", "dma_scatter")
            end = values[slot] + (0 if is_indexed else (values[6] - 1) * values[slot + 1] + values[7])
            base, memory = (DRAM_BASE, self.dram) if values[slot] >= DRAM_BASE else (SRAM_BASE, self.sram)
            if values[slot] < base or end > base + memory.size:
                raise ContractViolationError(f"{values[slot]:#x} lies outside the memories")


def run_launch(
    kernel: Kernel, rows: int, columns: int, arguments: Sequence[int], sram: npt.NDArray[np.uint8],
    dram: npt.NDArray[np.uint8], machine: Machine, seed: int | None = None,
) -> None:  # fmt: skip
    """Run a launch and change `sram` and `dram` (uint8[n]); raises DeadlockError or ContractViolationError."""
    Launch(kernel, rows, columns, arguments, sram, dram, machine).run(seed)
