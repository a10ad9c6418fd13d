"""Writes kernels in Python: one method call per instruction, registers by name, constants on demand.

    builder = KernelBuilder("double", machine, arguments=("source", "target", "rows"))
    tile = builder.buffer("tile", slot_bytes=1024, slots=2)
    a, b = builder.core_a, builder.core_b
    with a.loop(a.argument("rows")):
        a.emit("dma_in", out=tile, out_offset=0, ...)
        a.push(tile)
    kernel = builder.build()

An operand that the instruction table calls a register takes a `Register` or an int; an int becomes a constant that is
loaded once, before the code. Arguments and coordinates are loaded there too. Names, operands and ranges are checked by
`isa.encoding`; `Lowering.kernel` checks the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from isa.encoding import Value, encode_values, instruction_named
from isa.errors import UnsupportedError
from isa.kernel import SLOT_ALIGNMENT_BYTES, Buffer, Kernel
from isa.machine import Machine
from isa.table import BY_NAME, Kind

_INTEGER_LIMIT = 1 << 31
EARLY = "early"
"""The launch argument that says how many slots of its streamed buffers a kernel may fill ahead."""


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


@dataclass(frozen=True, slots=True)
class Register:
    """An integer register of one core."""

    number: int


@dataclass(frozen=True, slots=True)
class BufferHandle:
    """A declared circular buffer; `index` is what instructions name."""

    index: int
    slot_bytes: int
    slots: int


Scalar = Register | int
OperandValue = Register | BufferHandle | int | float | str
Coordinate = Literal["row", "column", "rows", "columns"]
ZERO = Register(0)


class _Branch(NamedTuple):
    """A branch to a place that is not known yet; `place` is its index in the core's list of places."""

    name: str
    registers: tuple[int, ...]
    place: int


_Word = tuple[int, int]
_DEFAULTS: Mapping[str, tuple[tuple[str, bool, Value | None], ...]] = {
    name: tuple(
        (
            operand.name,
            operand.kind is Kind.REGISTER,
            0 if operand.kind is Kind.REGISTER else operand.choices[0] if operand.kind is Kind.CHOICE else None,
        )
        for operand in row.operands
    )
    for name, row in BY_NAME.items()
}
"""By instruction its operands: the name, whether it is a register that is read, and what it is if it is left out."""


class CoreBuilder:
    """The code of one core: instructions in order, after a prologue of constants, arguments and coordinates."""

    def __init__(self, arguments: tuple[str, ...], registers: int) -> None:
        self._arguments = arguments
        self._fresh = list(range(registers - 1, 0, -1))
        self._returned: list[Register] = []
        self._prologue: list[_Word] = []
        self._cached: dict[tuple[str, object], Register] = {}
        self._lines: list[_Word | _Branch] = []
        self._places: list[int] = []
        self._inputs_at: int | None = None
        self._ahead: tuple[int, int] | None = None

    # --- registers ---------------------------------------------------------------------------------------------

    def register(self) -> Register:
        """Take a register for good: one that nothing else writes. Raises UnsupportedError when none is left."""
        if not self._fresh:
            what = "a kernel needs more registers than a scalar core has"
            raise UnsupportedError(what, where="kernel builder", help="use a machine with 32 in pe.registers")
        return Register(self._fresh.pop())

    @contextmanager
    def scratch(self) -> Iterator[Register]:
        """Lend a register for the block; later blocks get it again, values that stay never do."""
        register = self._returned.pop() if self._returned else self.register()
        yield register
        self._returned.append(register)

    def constant(self, value: int) -> Register:
        """Return a register that holds `value` (32-bit signed) throughout."""
        if value == 0:
            return ZERO
        if not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
            raise ValueError(f"constant {value} does not fit 32 bits")
        return self._once("li", value)

    def argument(self, name: str) -> Register:
        """Return a register that holds a launch argument throughout; do not write it."""
        return self._once("arg", self._arguments.index(name))

    def load_argument(self, name: str, into: Register) -> Register:
        """Emit `into = argument`, for one that is needed rarely."""
        self.emit("arg", destination=into, value=self._arguments.index(name))
        return into

    def coordinate(self, which: Coordinate) -> Register:
        """Return a register that holds this PE's row or column, or the launch's rows or columns."""
        return self._once("coord", which)

    def load_coordinate(self, which: Coordinate, into: Register) -> Register:
        """Emit `into = coordinate`, for one that is needed rarely."""
        self.emit("coord", destination=into, which=which)
        return into

    def _once(self, instruction: str, value: int | str) -> Register:
        key = (instruction, value)
        if key not in self._cached:
            register = self.register()
            self._prologue.append(encode_values(instruction, (register.number, value)))
            self._cached[key] = register
        return self._cached[key]

    # --- arithmetic --------------------------------------------------------------------------------------------

    def compute(self, operation: str, left: Scalar, right: Scalar, into: Register | None = None) -> Register:
        """Emit `into = left operation right` (a scalar instruction's name); takes a new register without `into`."""
        result = self.register() if into is None else into
        if operation in ("add", "mul") and isinstance(right, int) and -_INTEGER_LIMIT <= right < _INTEGER_LIMIT:
            name = "addi" if operation == "add" else "muli"
            self.emit(name, destination=result, left=left, value=right)
        elif operation == "sub" and isinstance(right, int):
            self.emit("addi", destination=result, left=left, value=-right)
        else:
            self.emit(operation, destination=result, left=left, right=right)
        return result

    def copy(self, source: Scalar, into: Register | None = None) -> Register:
        """Emit `into = source`."""
        if isinstance(source, int):
            result = self.register() if into is None else into
            self.emit("li", destination=result, value=source)
            return result
        return self.compute("add", source, 0, into)

    def add(self, left: Scalar, right: Scalar, into: Register | None = None) -> Register:
        """Emit `into = left + right`."""
        return self.compute("add", left, right, into)

    def subtract(self, left: Scalar, right: Scalar, into: Register | None = None) -> Register:
        """Emit `into = left - right`."""
        return self.compute("sub", left, right, into)

    def multiply(self, left: Scalar, right: Scalar, into: Register | None = None) -> Register:
        """Emit `into = left * right`."""
        return self.compute("mul", left, right, into)

    def minimum(self, left: Scalar, right: Scalar, into: Register | None = None) -> Register:
        """Emit `into = min(left, right)`."""
        return self.compute("min", left, right, into)

    def maximum(self, left: Scalar, right: Scalar, into: Register | None = None) -> Register:
        """Emit `into = max(left, right)`."""
        return self.compute("max", left, right, into)

    def increase(self, register: Register, step: Scalar) -> None:
        """Emit `register += step`."""
        self.compute("add", register, step, register)

    # --- control -----------------------------------------------------------------------------------------------

    @contextmanager
    def loop(self, count: Scalar) -> Iterator[None]:
        """Repeat the block `count` times, not at all if it is not positive."""
        yield from self._until_end("loop", count)

    @contextmanager
    def when_less(self, left: Scalar, right: Scalar) -> Iterator[None]:
        """Run the block only if `left < right`."""
        yield from self._until_end("bge", left, right)

    @contextmanager
    def when_at_least(self, left: Scalar, right: Scalar) -> Iterator[None]:
        """Run the block only if `left >= right`."""
        yield from self._until_end("blt", left, right)

    @contextmanager
    def when_equal(self, left: Scalar, right: Scalar) -> Iterator[None]:
        """Run the block only if `left == right`."""
        yield from self._until_end("bne", left, right)

    def _until_end(self, name: str, *operands: Scalar) -> Iterator[None]:
        place = len(self._places)
        self._places.append(-1)
        self._lines.append(_Branch(name, tuple(map(self._read, operands)), place))
        yield
        self._places[place] = len(self._lines)

    def pause(self, cycles: int) -> None:
        """Emit a loop that takes about so many cycles, of one instruction each."""
        with self.scratch() as left, self.loop(self.copy(cycles, left)):
            self.increase(left, 0)

    # --- instructions ------------------------------------------------------------------------------------------

    def emit(self, name: str, **operands: OperandValue) -> None:
        """Emit an instruction with the operands of its row in `isa.table`; registers and choices left out are 0."""
        values: list[Value] = []
        lent: list[Register] = []
        for operand, is_read, default in _DEFAULTS[instruction_named(name).name]:
            value = operands.pop(operand, default)
            if value is None:
                raise ValueError(f"{name} needs the operand '{operand}'")
            values.append(self._read(value, lent) if is_read else _plain(value))
        if operands:
            raise ValueError(f"{name} has no operand {', '.join(sorted(operands))}")
        self._lines.append(encode_values(name, tuple(values)))
        self._returned += lent

    def push(self, buffer: BufferHandle, slots: int = 1) -> None:
        """Emit `push`: make written slots visible."""
        self.emit("push", buffer=buffer, value=slots)

    def pop(self, buffer: BufferHandle, slots: int = 1) -> None:
        """Emit `pop`: give read slots back."""
        self.emit("pop", buffer=buffer, value=slots)

    def _read(self, value: OperandValue, lent: list[Register] | None = None) -> int:
        """Return the number of the register to read; one that was lent before for a constant that can have no other."""
        if isinstance(value, Register):
            return value.number
        if isinstance(value, int):
            has_one = value == 0 or ("li", value) in self._cached or bool(self._fresh)
            if lent is not None and not has_one and self._returned:
                lent.append(self._returned.pop())
                return self.copy(value, lent[-1]).number
            return self.constant(value).number
        raise TypeError(f"{value!r} is no register and no integer")

    def await_inputs(self) -> None:
        """Note that the code up to here uses constants only (see `BuiltKernel`); not inside a loop or branch."""
        if any(place == -1 for place in self._places):
            raise ValueError("await_inputs stands inside a loop or branch")
        self._inputs_at = len(self._lines)

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Note that the block may run long before the rest (see `BuiltKernel`); not inside a loop or branch."""
        if any(place == -1 for place in self._places):
            raise ValueError("what may run ahead stands inside a loop or branch")
        start = len(self._lines)
        yield
        self._ahead = start, len(self._lines)

    @property
    def inputs_at(self) -> int:
        """Instructions before the noted place, 0 if none is."""
        return 0 if self._inputs_at is None else len(self._prologue) + self._inputs_at

    @property
    def runs_ahead(self) -> tuple[int, int]:
        """First instruction of the noted block, and the one behind it; (0, 0) if there is none."""
        start, end = self._ahead or (-len(self._prologue),) * 2
        return len(self._prologue) + start, len(self._prologue) + end

    def words(self) -> np.ndarray:
        """Return the code as uint64[n, 2], ending with halt."""
        words = [*self._prologue]
        for index, line in enumerate(self._lines):
            if isinstance(line, _Branch):
                line = encode_values(line.name, (*line.registers, self._places[line.place] - index - 1))
            words.append(line)
        words.append(encode_values("halt", ()))
        return np.array(words, dtype=np.uint64)


def _plain(value: OperandValue) -> Value:
    if isinstance(value, Register):
        return value.number
    return value.index if isinstance(value, BufferHandle) else value


@dataclass(frozen=True, eq=False)
class BuiltKernel(Kernel):
    """A kernel of which it is known what may run before its launch's inputs are there.

    The first `inputs_at` instructions of core A touch no memory but constants, and wait only for room in buffers; no
    loop or branch leads across that place. Those of them that `ahead` tells, from the first to the one behind the last,
    may run long before: what stands in front of them only sets registers, and may run again to set them for the rest;
    they push no more slots than the argument `EARLY` says.

    Of `shared` buffers (by number) all slots that are pushed are popped, and no command reaches over the end of a slot,
    so that other kernels may use them before and after, with larger slots and more of them. Some of them are
    `streamed`: with more slots constants are loaded further ahead. Of others commands reach other slots by their size
    (`sized`): those may be shared with buffers whose slots are the same.
    """

    inputs_at: int = 0
    ahead: tuple[int, int] = (0, 0)
    shared: frozenset[int] = frozenset()
    streamed: frozenset[int] = frozenset()
    sized: frozenset[int] = frozenset()


class KernelBuilder:
    """Declares arguments and buffers and holds the code of both cores."""

    def __init__(self, name: str, machine: Machine, arguments: tuple[str, ...]) -> None:
        self.name, self.machine, self.arguments = name, machine, arguments
        self._buffers: list[Buffer] = []
        self._shared: set[int] = set()
        self._streamed: set[int] = set()
        self._sized: set[int] = set()
        self.core_a = CoreBuilder(arguments, machine.pe.registers)
        self.core_b = CoreBuilder(arguments, machine.pe.registers)

    def buffer(
        self, name: str, slot_bytes: int, slots: int, *, shared: bool = False, streamed: bool = False,
        sized: bool = False,
    ) -> BufferHandle:  # fmt: skip
        """Declare a circular buffer; the bytes of a slot are rounded up to what the chip allows.

        It is `shared` if it may be, and `streamed` besides, or else `sized` (see `BuiltKernel`).
        """
        buffer = Buffer(name, round_up(slot_bytes, SLOT_ALIGNMENT_BYTES), slots)
        if shared:
            self._shared.add(len(self._buffers))
        if streamed:
            self._streamed.add(len(self._buffers))
        if sized:
            self._sized.add(len(self._buffers))
        self._buffers.append(buffer)
        return BufferHandle(len(self._buffers) - 1, buffer.slot_bytes, slots)

    def build(self) -> Kernel:
        """Return the kernel."""
        return BuiltKernel(
            self.name, self.arguments, tuple(self._buffers), self.core_a.words(), self.core_b.words(),
            inputs_at=self.core_a.inputs_at, ahead=self.core_a.runs_ahead, shared=frozenset(self._shared),
            streamed=frozenset(self._streamed), sized=frozenset(self._sized),
        )  # fmt: skip
