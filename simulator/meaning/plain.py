"""A command as the plain forms see it: named operands, rows read and written as arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from isa import columns as col
from isa.dtypes import BY_CODE
from isa.memory_map import DRAM_BASE, SRAM_BASE
from isa.table import BY_OPCODE
from simulator.meaning.convert import load_plain, store_plain
from simulator.meaning.tables import Bytes, Floats, Integers


class MeaningError(Exception):
    """A command that its data make impossible; `code` is one of `simulator.meaning.codes`."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)


@dataclass(frozen=True)
class Command:
    """What `dispatch.execute_plain` was given; see there."""

    fields: Integers
    values: Integers
    addresses: tuple[int, int, int]
    local: Bytes
    sram: Bytes
    dram: Bytes
    banks: Floats
    link: Floats
    block_k_bytes: int

    @property
    def rows(self) -> int:
        """Register slot r6."""
        return int(self.values[6])

    @property
    def columns(self) -> int:
        """Register slot r7: elements, or bytes, per row."""
        return int(self.values[7])

    @property
    def constant(self) -> np.float32:
        """The float immediate."""
        return np.int32(self.fields[col.IMMEDIATE]).view(np.float32)

    @property
    def word(self) -> str:
        """The word of the instruction's choice operand."""
        operands = BY_OPCODE[int(self.fields[col.OPCODE])].operands
        choices = next(operand.choices for operand in operands if operand.slot == "mode")
        return str(choices[self.fields[col.MODE]])

    @property
    def bank(self) -> Floats:
        """The rows x columns corner of the bank."""
        return self.banks[self.fields[col.BANK], : self.rows, : self.columns]

    def dtype(self, operand: int) -> int:
        """Code of the element type of out (0), a (1) or b (2)."""
        return int(self.fields[col.D0 + operand])

    def view(self, operand: int, rows: int, row_bytes: int) -> Bytes:
        """Return uint8[rows, row_bytes] of local memory that is out (0), a (1) or b (2)."""
        return rows_of(self.local, self.addresses[operand], int(self.values[2 * operand + 1]), rows, row_bytes)

    def memory(self, slot: int) -> tuple[Bytes, int]:
        """Return the shared memory that the address in a register slot lies in, and the byte index."""
        address = int(self.values[slot])
        return (self.dram, address - DRAM_BASE) if address >= DRAM_BASE else (self.sram, address - SRAM_BASE)

    def indices(self, operand: int) -> Integers:
        """Return the int32 indices, one per row, that a or b holds."""
        data = rows_of(self.local, self.addresses[operand], 0, 1, 4 * self.rows)
        return np.frombuffer(data.tobytes(), dtype=np.int32).astype(np.int64)

    def read_like(self, operand: int, code: int, rows: int, columns: int) -> Floats:
        """Return a (1) or b (2) as float32[rows, columns], its elements being of type `code`."""
        return load_plain(self.view(operand, rows, BY_CODE[code].row_bytes(columns)), code)[:, :columns]

    def read(self, operand: int, rows: int, columns: int) -> Floats:
        """Return a (1) or b (2) as float32[rows, columns]."""
        return self.read_like(operand, self.dtype(operand), rows, columns)

    def read_spread(self, operand: int) -> Floats:
        """Return a or b as float32[rows, columns], its one row or column repeated as the choice says."""
        rows = 1 if self.word == "row" else self.rows
        columns = 1 if self.word == "column" else self.columns
        return np.broadcast_to(self.read(operand, rows, columns), (self.rows, self.columns))

    def read_groups(self, operand: int) -> Floats:
        """Return a or b as float32[rows, columns], each element repeated for the columns of its group."""
        group = max(int(self.fields[col.IMMEDIATE]), 1)
        return np.repeat(self.read(operand, self.rows, -(-self.columns // group)), group, axis=1)[:, : self.columns]

    def write(self, values: Floats) -> None:
        """Store float32[rows, columns] in out, rounded to its type."""
        data = store_plain(values.astype(np.float32), self.dtype(0))
        self.view(0, *data.shape)[...] = data


def rows_of(memory: Bytes, start: int, pitch: int, rows: int, row_bytes: int) -> Bytes:
    """Return a writable view uint8[rows, row_bytes] of rows that lie `pitch` bytes apart."""
    end = start + max(rows - 1, 0) * pitch + row_bytes
    return np.lib.stride_tricks.as_strided(memory[start:end], (rows, row_bytes), (pitch, 1))


def of_a(function: Callable[[Floats], Floats]) -> Callable[[Command], None]:
    """Make a command's meaning from a function of a's elements."""

    def execute(command: Command) -> None:
        command.write(function(command.read(1, command.rows, command.columns)))

    return execute


def of_a_and_b(function: Callable[[Floats, Floats], Floats]) -> Callable[[Command], None]:
    """Make a command's meaning from a function of the elements of a and of b, spread to a's shape."""

    def execute(command: Command) -> None:
        command.write(function(command.read(1, command.rows, command.columns), command.read_spread(2)))

    return execute


def of_a_and_constant(function: Callable[[Floats, Floats], Floats]) -> Callable[[Command], None]:
    """Make a command's meaning from a function of a's elements and the float immediate."""

    def execute(command: Command) -> None:
        a = command.read(1, command.rows, command.columns)
        command.write(function(a, np.full_like(a, command.constant)))

    return execute
