"""The parts of the plain interpreter in `tests/naive.py`: buffers, queues, cores, PEs, and what commands span."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from isa import columns as col
from isa.dtypes import BY_CODE
from isa.sparsity import compressed_row_bytes
from isa.table import Instruction, Timing, Unit

Integers = npt.NDArray[np.int64]
NAMES = ("out", "a", "b")


class ContractViolationError(Exception):
    """The program breaks a rule of the machine model."""


class DeadlockError(Exception):
    """Nobody can take a step, and not everybody is done."""


def wrap(number: int) -> int:
    """Return a Python integer as 64 wrapping bits."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": lambda left, right: left // right if right else 0,
    "rem": lambda left, right: left % right if right else 0,
    "min": min,
    "max": max,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "sll": lambda left, right: left << (right & 63),
    "sra": lambda left, right: left >> (right & 63),
    "slt": lambda left, right: int(left < right),
}
BRANCHES = {"beq": operator.eq, "bne": operator.ne, "blt": operator.lt, "bge": operator.ge}


@dataclass
class Circular:
    """A circular buffer of one PE; owners are (core, unit)."""

    base: int
    slot_bytes: int
    slots: int
    written: int = 0
    read: int = 0
    producer: tuple[int, Unit] | None = None
    consumer: tuple[int, Unit] | None = None


@dataclass
class Command:
    """An entry of a command queue: the decoded row, the registers at issue, and the part of the kernel it is in."""

    instruction: Instruction
    fields: Integers
    values: Integers
    order: int
    part: int

    def word(self, name: str) -> str:
        """Return the word of a choice operand."""
        return self.instruction.by_name[name].choices[self.fields[col.MODE]]

    @property
    def bank(self) -> int | None:
        """Return the bank it uses, if any."""
        return int(self.fields[col.BANK]) if "bank" in self.instruction.by_name else None


@dataclass
class Core:
    """A scalar core and its command queues; `starts` are the instructions at which parts of the kernel begin."""

    code: Integers
    starts: list[int]
    pc: int = 0
    registers: list[int] = field(default_factory=lambda: [0] * 32)
    loops: list[list[int]] = field(default_factory=list)
    queues: dict[Unit, deque[Command]] = field(default_factory=lambda: {unit: deque() for unit in Unit})
    issued: int = 0
    halted: bool = False
    at_barrier: bool = False

    @property
    def part(self) -> int:
        """The part of the kernel that the next instruction is in."""
        return sum(start <= self.pc for start in self.starts) - 1

    @property
    def drained(self) -> bool:
        """True if every command it issued is complete."""
        return not any(self.queues.values())


@dataclass
class Element:
    """A PE."""

    row: int
    column: int
    local: npt.NDArray[np.uint8]
    banks: npt.NDArray[np.float32]
    buffers: list[Circular]
    cores: tuple[Core, Core]
    messages: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    semaphores: list[int] = field(default_factory=lambda: [0] * 16)
    bank_core: dict[int, int] = field(default_factory=dict)


def operand_extent(command: Command, operand: int, block_k_bytes: int) -> tuple[int, int]:
    """Return (rows, bytes per row) that out (0), a (1) or b (2) spans in its buffer."""
    row, fields, values = command.instruction, command.fields, command.values
    name, rows, columns = NAMES[operand], int(values[6]), int(values[7])
    if name != "out" and f"{name}_pitch" not in row.by_name:
        return 1, 4 * rows
    if "row_bytes" in row.by_name:
        return rows, columns
    if row.name == "mml_sparse" and name == "b":
        dtype = BY_CODE[int(fields[col.D1])]
        return columns, compressed_row_bytes(int(values[0]) * block_k_bytes // dtype.bytes, dtype)
    if row.name in ("mml", "vmml", "mml_sparse"):
        return (rows if name == "a" else columns), int(values[0]) * block_k_bytes
    if row.name == "acc_range":
        return rows, 8
    slots = [each.slot for each in row.operands if each.slot in ("d0", "d1", "d2")]
    dtype = BY_CODE[int(fields[col.INDEX[f"d{operand}" if f"d{operand}" in slots else "d1"]])]
    if name == "out" and row.name == "transpose":
        rows, columns = columns, rows
    if name == "out" and row.timing is Timing.REDUCTION:
        rows, columns = (1, columns) if row.name == "colsum" else (rows, 1)
    if "spread" in row.by_name and name == ("b" if "b" in row.by_name else "a"):
        rows = 1 if command.word("spread") == "row" else rows
        columns = 1 if command.word("spread") == "column" else columns
    if "group" in row.by_name and name == "b":
        columns = -(-columns // max(int(fields[col.IMMEDIATE]), 1))
    return rows, dtype.row_bytes(columns)


def bind(buffer: Circular, side: str, owner: tuple[int, Unit]) -> None:
    """Note the first user of a side of a buffer; a violation if it has another one."""
    if getattr(buffer, side) is None:
        setattr(buffer, side, owner)
    elif getattr(buffer, side) != owner:
        raise ContractViolationError(f"a buffer has two {side}s")


def move_pointer(buffer: Circular, name: str, slots: int) -> bool:
    """Push or pop slots; False if there is no room, or nothing there, yet."""
    if slots > buffer.slots:
        raise ContractViolationError(f"{name} of more slots than the buffer has")
    if name == "push" and buffer.written + slots <= buffer.read + buffer.slots:
        buffer.written += slots
    elif name == "pop" and buffer.read + slots <= buffer.written:
        buffer.read += slots
    else:
        return False
    return True
