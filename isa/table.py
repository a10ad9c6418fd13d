"""The instruction table: the only place that says which instructions exist.

Each row gives name, opcode, unit, timing class, operands and meaning. Encoder, decoder, assembler, printer, hazard
columns, kernel arrays and the manual (`docs/isa.md`) are derived from it. An instruction's fast form and its plain
NumPy twin stand side by side in `simulator/meaning/`.

All instructions share one 128-bit format. An operand sits in a *slot*; slots have fixed roles for commands, so the
simulator reads every command the same way:

    r0, r1   offset (or address) and row pitch of the output        c0, d0   its buffer and element type
    r2, r3   offset (or address) and row pitch of operand a         c1, d1   its buffer and element type
    r4, r5   offset (or address) and row pitch of operand b         c2, d2   its buffer and element type
    r6, r7   rows and columns (or bytes per row)                    mode, bank, immediate

Offsets and pitches are in bytes. A buffer operand addresses `slot pointer + offset`; a row never leaves its slot.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

SLOTS: dict[str, tuple[int, int]] = {
    "opcode": (0, 8),
    **{f"r{index}": (8 + 5 * index, 5) for index in range(8)},
    "c0": (48, 6), "c1": (54, 6), "mode": (60, 4),
    "c2": (64, 6), "d0": (70, 4), "d1": (74, 4), "d2": (78, 4), "bank": (82, 6), "reserved": (88, 8),
    "immediate": (96, 32),
}  # fmt: skip
"""Slot name -> (lowest bit, width) in the 128-bit word; `reserved` must be zero."""


class Unit(enum.IntEnum):
    """Who executes an instruction."""

    CORE = 0
    FI = 1
    MLU = 2
    DPE = 3
    RE = 4
    SE = 5


class Timing(enum.IntEnum):
    """Which cost formula applies; the machine gives the coefficients (`docs/timing.md`)."""

    SCALAR = 0
    BRANCH = 1
    SYNC = 2
    TRANSFER = 3
    LAYOUT = 4
    MATRIX = 5
    ACCUMULATOR = 6
    LINK = 7
    SIMD = 8
    LUT = 9
    REDUCTION = 10
    VECTOR_MATRIX = 11


class Kind(enum.Enum):
    """What an operand is, and in which direction it is used."""

    REGISTER = "reads a register"
    RESULT = "writes a register"
    READ = "reads a circular buffer"
    WRITE = "writes a circular buffer"
    PRODUCE = "moves the write pointer of a buffer"
    CONSUME = "moves the read pointer of a buffer"
    BANK_READ = "reads an accumulator bank"
    BANK_WRITE = "writes an accumulator bank"
    DTYPE = "element type"
    CHOICE = "one of a few words"
    INTEGER = "32-bit signed integer"
    FLOAT = "32-bit float"
    LABEL = "a place in the code, relative to the next instruction"


_READS = frozenset({Kind.REGISTER, Kind.READ, Kind.CONSUME, Kind.BANK_READ})
_WRITES = frozenset({Kind.RESULT, Kind.WRITE, Kind.PRODUCE, Kind.BANK_WRITE})


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand: its name in text and errors, its slot, kind, and the words of a choice."""

    name: str
    slot: str
    kind: Kind
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Instruction:
    """One row of the table; `formula` is the meaning in one line of NumPy-like text."""

    name: str
    opcode: int
    unit: Unit
    timing: Timing
    operands: tuple[Operand, ...]
    formula: str
    doc: str
    by_name: dict[str, Operand] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {operand.name: operand for operand in self.operands})

    @property
    def reads(self) -> frozenset[str]:
        """Names of the operands whose register, buffer or bank this instruction reads."""
        return frozenset(operand.name for operand in self.operands if operand.kind in _READS)

    @property
    def writes(self) -> frozenset[str]:
        """Names of the operands whose register, buffer or bank this instruction writes."""
        return frozenset(operand.name for operand in self.operands if operand.kind in _WRITES)

    @property
    def is_command(self) -> bool:
        """True if a unit other than the scalar core executes it."""
        return self.unit is not Unit.CORE


def _reg(name: str, slot: str) -> Operand:
    return Operand(name, slot, Kind.REGISTER)


def _choice(name: str, *words: str) -> Operand:
    return Operand(name, "mode", Kind.CHOICE, words)


DESTINATION = Operand("destination", "r0", Kind.RESULT)
LEFT, RIGHT = _reg("left", "r1"), _reg("right", "r2")
INTEGER = Operand("value", "immediate", Kind.INTEGER)
FLOAT = Operand("value", "immediate", Kind.FLOAT)
GROUP = Operand("group", "immediate", Kind.INTEGER)
TARGET = Operand("target", "immediate", Kind.LABEL)

OUT = (Operand("out", "c0", Kind.WRITE), _reg("out_offset", "r0"), _reg("out_pitch", "r1"))
A = (Operand("a", "c1", Kind.READ), _reg("a_offset", "r2"), _reg("a_pitch", "r3"))
B = (Operand("b", "c2", Kind.READ), _reg("b_offset", "r4"), _reg("b_pitch", "r5"))
TO_MEMORY = (_reg("address", "r0"), _reg("address_pitch", "r1"))
FROM_MEMORY = (_reg("address", "r2"), _reg("address_pitch", "r3"))
TABLE = (_reg("address", "r4"), _reg("address_pitch", "r5"))
ROWS, COLUMNS, ROW_BYTES = _reg("rows", "r6"), _reg("columns", "r7"), _reg("row_bytes", "r7")
OUT_DTYPE = Operand("out_dtype", "d0", Kind.DTYPE)
A_DTYPE = Operand("a_dtype", "d1", Kind.DTYPE)
B_DTYPE = Operand("b_dtype", "d2", Kind.DTYPE)
BANK_IN, BANK_OUT = Operand("bank", "bank", Kind.BANK_READ), Operand("bank", "bank", Kind.BANK_WRITE)
SPREAD = _choice("spread", "full", "row", "column")
DIRECTION = _choice("direction", "north", "east", "south", "west")
BROADCAST = _choice("broadcast", "none", "row", "column", "all")


def _scalar(name: str, opcode: int, symbol: str) -> Instruction:
    formula = f"destination = left {symbol} right"
    doc = "64-bit integer operation; shifts use the low 6 bits; division floors, by zero it gives 0."
    return Instruction(name, opcode, Unit.CORE, Timing.SCALAR, (DESTINATION, LEFT, RIGHT), formula, doc)


def _branch(name: str, opcode: int, symbol: str) -> Instruction:
    doc = "Continues at the target when the comparison of the two signed registers holds."
    return Instruction(
        name, opcode, Unit.CORE, Timing.BRANCH, (LEFT, RIGHT, TARGET), f"if left {symbol} right: goto", doc
    )


def _core(name: str, opcode: int, operands: tuple[Operand, ...], formula: str, doc: str) -> Instruction:
    timing = Timing.SYNC if 0x28 <= opcode <= 0x2F else Timing.SCALAR
    return Instruction(name, opcode, Unit.CORE, timing, operands, formula, doc)


def _binary(name: str, opcode: int, formula: str) -> Instruction:
    operands = (*OUT, *A, *B, ROWS, COLUMNS, OUT_DTYPE, A_DTYPE, B_DTYPE, SPREAD)
    doc = "Element-wise in fp32. b is full size, one row for all rows, or one column for all columns."
    return Instruction(name, opcode, Unit.SE, Timing.SIMD, operands, formula, doc)


def _function_of_two(name: str, opcode: int, formula: str, doc: str) -> Instruction:
    operands = (*OUT, *A, *B, ROWS, COLUMNS, OUT_DTYPE, A_DTYPE, B_DTYPE, SPREAD)
    return Instruction(name, opcode, Unit.SE, Timing.LUT, operands, formula, doc)


def _by_constant(name: str, opcode: int, formula: str) -> Instruction:
    operands = (*OUT, *A, ROWS, COLUMNS, OUT_DTYPE, A_DTYPE, FLOAT)
    return Instruction(name, opcode, Unit.SE, Timing.SIMD, operands, formula, "Element-wise in fp32 with one constant.")


def _by_group(name: str, opcode: int, formula: str) -> Instruction:
    operands = (*OUT, *A, *B, ROWS, COLUMNS, OUT_DTYPE, A_DTYPE, B_DTYPE, GROUP)
    doc = (
        "Element-wise in fp32. Each element of a row of b serves `group` columns (at least 1), the last one maybe "
        "fewer: scales and zero points of block-wise quantized weights."
    )
    return Instruction(name, opcode, Unit.SE, Timing.SIMD, operands, formula, doc)


def _unary(name: str, opcode: int, timing: Timing, formula: str, doc: str) -> Instruction:
    operands = (*OUT, *A, ROWS, COLUMNS, OUT_DTYPE, A_DTYPE)
    return Instruction(name, opcode, Unit.SE, timing, operands, formula, doc)


SCALAR = (
    _core("halt", 0x01, (), "stop", "Ends this core's stream; the launch ends when all streams and commands have."),
    _core("li", 0x02, (DESTINATION, INTEGER), "destination = value", "Loads a constant."),
    _scalar("add", 0x03, "+"), _scalar("sub", 0x04, "-"), _scalar("mul", 0x05, "*"), _scalar("div", 0x06, "//"),
    _scalar("rem", 0x07, "%"), _scalar("min", 0x08, "min"), _scalar("max", 0x09, "max"), _scalar("and", 0x0A, "&"),
    _scalar("or", 0x0B, "|"), _scalar("xor", 0x0C, "^"), _scalar("sll", 0x0D, "<<"), _scalar("sra", 0x0E, ">>"),
    _scalar("slt", 0x0F, "<"),
    _core("addi", 0x10, (DESTINATION, LEFT, INTEGER), "destination = left + value", "Adds a constant."),
    _core("muli", 0x11, (DESTINATION, LEFT, INTEGER), "destination = left * value", "Multiplies by a constant."),
    _branch("beq", 0x18, "=="), _branch("bne", 0x19, "!="), _branch("blt", 0x1A, "<"), _branch("bge", 0x1B, ">="),
    Instruction("jump", 0x1C, Unit.CORE, Timing.BRANCH, (TARGET,), "goto target", "Continues at the target."),
    _core("loop", 0x1D, (LEFT, TARGET), "repeat body left times",
          "Zero-overhead loop: runs the code up to the target `left` times (not at all if left <= 0); 8 levels nest."),
    _core("arg", 0x1E, (DESTINATION, INTEGER), "destination = arguments[value]", "Reads a launch argument."),
    _core("coord", 0x1F, (DESTINATION, _choice("which", "row", "column", "rows", "columns")), "destination = which",
          "Reads this PE's place in the launch rectangle, or the rectangle's size."),
    _core("lw", 0x20, (DESTINATION, A[0], A[1]), "destination = a[a_offset]",
          "Waits for an int32 in a buffer and loads it; the core is then that buffer's consumer."),
)  # fmt: skip

SYNCHRONIZATION = (
    _core("push", 0x28, (Operand("buffer", "c0", Kind.PRODUCE), INTEGER), "written += value slots",
          "Makes `value` slots visible to the consumer when the producing unit's earlier commands are complete."),
    _core("pop", 0x29, (Operand("buffer", "c1", Kind.CONSUME), INTEGER), "read += value slots",
          "Gives `value` slots back to the producer when the consuming unit's earlier commands are complete."),
    _core("signal", 0x2A, (INTEGER,), "semaphore[value] += 1",
          "Adds one to a semaphore of this PE (0..15) once all earlier commands of this core are complete."),
    _core("wait", 0x2B, (INTEGER,), "semaphore[value] -= 1", "Waits for the semaphore to exceed zero, then takes one."),
    _core("barrier", 0x2C, (), "meet", "Waits for this core's commands, then for this core of all PEs of the launch."),
    _core("fence", 0x2D, (), "drain", "Waits until all earlier commands of this core are complete."),
)  # fmt: skip

TRANSFERS = (
    Instruction("dma_in", 0x30, Unit.FI, Timing.TRANSFER, (*OUT, *FROM_MEMORY, ROWS, ROW_BYTES, BROADCAST),
                "out[rows, row_bytes] = memory[address]",
                "Copies rows from SRAM or DRAM into a buffer. With `broadcast` all PEs of the row, the column or the "
                "launch issue the same command; the memory is read once and every PE receives it."),
    Instruction("dma_out", 0x31, Unit.FI, Timing.TRANSFER, (*TO_MEMORY, *A, ROWS, ROW_BYTES),
                "memory[address] = a[rows, row_bytes]", "Copies rows from a buffer to SRAM or DRAM."),
    Instruction("dma_gather", 0x32, Unit.FI, Timing.TRANSFER,
                (*OUT, A[0], A[1], *TABLE, ROWS, ROW_BYTES),
                "out[i] = memory[address + a[i] * address_pitch]", "Copies the rows that int32 indices in `a` choose."),
    Instruction("dma_scatter", 0x33, Unit.FI, Timing.TRANSFER,
                (*TO_MEMORY, *A, B[0], B[1], ROWS, ROW_BYTES),
                "memory[address + b[i] * address_pitch] = a[i]", "Copies rows to where int32 indices in `b` say."),
    Instruction("dma_copy", 0x34, Unit.FI, Timing.TRANSFER,
                (*TO_MEMORY, _reg("source", "r2"), _reg("source_pitch", "r3"), ROWS, ROW_BYTES),
                "memory[address] = memory[source]", "Copies rows between SRAM and DRAM (prefetch, write-back)."),
)  # fmt: skip

LAYOUT = (
    Instruction("transpose", 0x40, Unit.MLU, Timing.LAYOUT, (*OUT, *A, ROWS, COLUMNS, A_DTYPE),
                "out[columns, rows] = a[rows, columns].T", "Transposes elements; rows and columns are those of a."),
    Instruction("copy", 0x41, Unit.MLU, Timing.LAYOUT, (*OUT, *A, ROWS, ROW_BYTES),
                "out[rows, row_bytes] = a", "Copies rows between buffers (concat and slice by offset and pitch)."),
    Instruction("fill", 0x42, Unit.MLU, Timing.LAYOUT, (*OUT, ROWS, COLUMNS, OUT_DTYPE, FLOAT),
                "out[rows, columns] = value", "Writes one value everywhere."),
)  # fmt: skip

_MATRIX_OPERANDS = (
    BANK_OUT, *A, *B, ROWS, COLUMNS, _reg("k_blocks", "r0"), A_DTYPE, _choice("accumulate", "set", "add")
)  # fmt: skip
MATRIX = (
    Instruction("mml", 0x50, Unit.DPE, Timing.MATRIX, _MATRIX_OPERANDS,
                "bank[rows, columns] (+)= a[rows, k] @ b[columns, k].T",
                "Multiplies rows of a (held) with rows of b (streamed) over k_blocks blocks of K. Products are exact, "
                "added in ascending k with one fp32 rounding each (int32, wrapping, for int8)."),
    Instruction("vmml", 0x51, Unit.SE, Timing.VECTOR_MATRIX, _MATRIX_OPERANDS,
                "bank[rows, columns] (+)= a[rows, k] @ b[columns, k].T",
                "As mml on the SIMD engine's fp32 lanes, for types that the matrix engine lacks: elements are widened "
                "to fp32, each product and each sum in ascending k is rounded to fp32."),
    Instruction("mml_sparse", 0x52, Unit.DPE, Timing.MATRIX, _MATRIX_OPERANDS,
                "bank[rows, columns] (+)= a[rows, k] @ expand(b)[columns, k].T",
                "As mml, with rows of b compressed 2:4: of every 4 elements of K, b holds 2 and where they were. First "
                "the kept elements, half of the dense row; then 4 bits per group of 4 elements, the low nibble first: "
                "first place + 4 * second place, with first < second; then up to a whole number of elements. What is "
                "not kept is not multiplied; a kept zero is."),
)  # fmt: skip

ACCUMULATOR = (
    Instruction("acc_load", 0x58, Unit.RE, Timing.ACCUMULATOR, (BANK_OUT, *A, ROWS, COLUMNS, A_DTYPE, SPREAD),
                "bank[rows, columns] = a", "Preloads a bank, for example with a bias (spread = row)."),
    Instruction("acc_drain", 0x59, Unit.RE, Timing.ACCUMULATOR, (*OUT, BANK_IN, ROWS, COLUMNS, OUT_DTYPE),
                "out[rows, columns] = bank", "Writes a bank to a buffer, rounded to the element type."),
    Instruction("acc_send", 0x5A, Unit.RE, Timing.LINK, (BANK_IN, ROWS, COLUMNS, DIRECTION),
                "link(direction) = bank", "Sends a bank to the neighbour; waits while its link buffer is full."),
    Instruction("acc_add", 0x5B, Unit.RE, Timing.LINK, (BANK_OUT, ROWS, COLUMNS, DIRECTION),
                "bank += link(direction)", "Adds what the neighbour in that direction sent."),
    Instruction("acc_range", 0x5C, Unit.RE, Timing.ACCUMULATOR, (*OUT, BANK_IN, ROWS, COLUMNS),
                "out[:, 0:2] = bank.min(1), bank.max(1)", "Writes fp32 minimum and maximum of each row of a bank."),
    Instruction("acc_sub", 0x5D, Unit.RE, Timing.ACCUMULATOR, (BANK_OUT, *A, ROWS, COLUMNS, A_DTYPE, SPREAD),
                "bank[rows, columns] -= a",
                "Subtracts from what a bank holds, in fp32, for example the maxima of its rows (spread = column)."),
)  # fmt: skip

SIMD = (
    _binary("vadd", 0x60, "out = a + b"), _binary("vsub", 0x61, "out = a - b"), _binary("vmul", 0x62, "out = a * b"),
    _binary("vdiv", 0x63, "out = a / b"), _binary("vmax", 0x64, "out = max(a, b)"),
    _binary("vmin", 0x65, "out = min(a, b)"),
    Instruction("vselect", 0x66, Unit.SE, Timing.SIMD,
                (*OUT, *A, *B, ROWS, COLUMNS, OUT_DTYPE, A_DTYPE, B_DTYPE, SPREAD, FLOAT),
                "out = a where b != 0 else value", "Keeps or replaces elements by a mask."),
    Instruction("vlimit", 0x67, Unit.SE, Timing.SIMD,
                (*OUT, *A, _reg("first", "r4"), _reg("step", "r5"), ROWS, COLUMNS, OUT_DTYPE, A_DTYPE, FLOAT),
                "out[i, j] = a[i, j] where j < first + i * step else value", "Causal and tail masks by row length."),
    _by_constant("vadds", 0x68, "out = a + value"), _by_constant("vmuls", 0x69, "out = a * value"),
    _by_constant("vmaxs", 0x6A, "out = max(a, value)"), _by_constant("vmins", 0x6B, "out = min(a, value)"),
    _by_group("vsubg", 0x6E, "out = a - b[:, column // group]"),
    _by_group("vmulg", 0x6F, "out = a * b[:, column // group]"),
    _binary("vless", 0x6C, "out = 1 where a < b else 0"), _binary("vequal", 0x6D, "out = 1 where a == b else 0"),
    Instruction("vspread", 0x86, Unit.SE, Timing.SIMD, (*OUT, *A, ROWS, COLUMNS, OUT_DTYPE, A_DTYPE, SPREAD),
                "out = a", "a is full size, one row for all rows, or one column for all columns."),
    _unary("vfloor", 0x87, Timing.SIMD, "out = floor(a)", "Rounds to a whole number towards minus infinity."),
    _unary("vround", 0x85, Timing.SIMD, "out = round(a)", "Rounds to the nearest whole number, halves to even."),
    _unary("vcast", 0x70, Timing.SIMD, "out = a", "Converts the element type."),
    _unary("vabs", 0x71, Timing.SIMD, "out = |a|", "Absolute value."),
    _unary("vrecip", 0x72, Timing.LUT, "out = 1 / a", "IEEE fp32 division."),
    _unary("vsqrt", 0x73, Timing.LUT, "out = sqrt(a)", "IEEE fp32 square root."),
    _unary("vrsqrt", 0x74, Timing.LUT, "out = 1 / sqrt(a)", "Square root, then division, each rounded to fp32."),
    _unary("vexp", 0x75, Timing.LUT, "out = exp(a)", "Cody-Waite reduction and a degree-6 polynomial in fp32."),
    _unary("vsigmoid", 0x76, Timing.LUT, "out = 1 / (1 + exp(-a))", "From vexp, each step rounded to fp32."),
    _unary("vtanh", 0x77, Timing.LUT, "out = 1 - 2 / (exp(2a) + 1)", "From vexp, each step rounded to fp32."),
    _unary("vsilu", 0x78, Timing.LUT, "out = a / (1 + exp(-a))", "From vexp, each step rounded to fp32."),
    _unary("rowsum", 0x80, Timing.REDUCTION, "out[:, 0] = a.sum(1)", "fp32 sum of each row, columns ascending."),
    _unary("rowmax", 0x81, Timing.REDUCTION, "out[:, 0] = a.max(1)", "Maximum of each row; NaN if any."),
    _unary("rowmin", 0x82, Timing.REDUCTION, "out[:, 0] = a.min(1)", "Minimum of each row; NaN if any."),
    _unary("colsum", 0x83, Timing.REDUCTION, "out[0, :] = a.sum(0)", "fp32 sum of rows (pooling), rows ascending."),
    _unary("rowprod", 0x84, Timing.REDUCTION, "out[:, 0] = a.prod(1)", "fp32 product of each row, columns ascending."),
    _unary("vlog", 0x88, Timing.LUT, "out = log(a)", "Natural logarithm; 53 bits inside, rounded once."),
    _unary("vsin", 0x89, Timing.LUT, "out = sin(a)", "53 bits inside, rounded once; NaN where |a| > 2^30."),
    _unary("vcos", 0x8A, Timing.LUT, "out = cos(a)", "53 bits inside, rounded once; NaN where |a| > 2^30."),
    _unary("vatan", 0x8B, Timing.LUT, "out = atan(a)", "53 bits inside, rounded once."),
    _unary("verf", 0x8C, Timing.LUT, "out = erf(a)", "The error function; 53 bits inside, rounded once."),
    Instruction("vexpsub", 0x8E, Unit.SE, Timing.LUT,
                (*OUT, *A, *B, ROWS, COLUMNS, OUT_DTYPE, A_DTYPE, B_DTYPE, SPREAD, FLOAT),
                "out = exp((a - b) * value)",
                "The step of a softmax: difference, product and vexp, each rounded to fp32."),
    _function_of_two("vpow", 0x8D, "out = a ** b", "exp(b log |a|) with the sign of a for odd b; 53 bits inside."),
)  # fmt: skip

INSTRUCTIONS = (*SCALAR, *SYNCHRONIZATION, *TRANSFERS, *LAYOUT, *MATRIX, *ACCUMULATOR, *SIMD)
BY_NAME = {instruction.name: instruction for instruction in INSTRUCTIONS}
BY_OPCODE = {instruction.opcode: instruction for instruction in INSTRUCTIONS}


def _check() -> None:
    if len(BY_NAME) != len(INSTRUCTIONS) or len(BY_OPCODE) != len(INSTRUCTIONS):
        raise AssertionError("instruction names and opcodes must be unique")
    for instruction in INSTRUCTIONS:
        slots = [operand.slot for operand in instruction.operands]
        if len(set(slots)) != len(slots) or len(instruction.by_name) != len(slots):
            raise AssertionError(f"{instruction.name}: an operand name or slot is used twice")
        if not set(slots) < SLOTS.keys() or "opcode" in slots or "reserved" in slots:
            raise AssertionError(f"{instruction.name}: unknown slot")


_check()
