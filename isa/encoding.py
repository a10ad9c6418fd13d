"""Instructions to 128-bit words and back, derived from `isa.table`.

An operand value is a register, buffer or bank number (int), a dtype or choice word (str), an integer, or a float.
Words with an unknown opcode, bits outside the operands of their instruction, or codes without meaning are refused.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from isa import columns, dtypes
from isa.errors import AssemblyError, did_you_mean
from isa.table import BY_NAME, BY_OPCODE, INSTRUCTIONS, SLOTS, Instruction, Kind, Operand

Value = int | float | str
CANONICAL_NAN = 0x7FC00000
"""The only NaN a float immediate may be."""

_LOW = (1 << 64) - 1
_NUMBERED = {Kind.REGISTER, Kind.RESULT, Kind.READ, Kind.WRITE, Kind.PRODUCE, Kind.CONSUME}
_NUMBERED |= {Kind.BANK_READ, Kind.BANK_WRITE}
_WORDS = {Kind.DTYPE, Kind.CHOICE}
_DTYPE_NAMES = tuple(dtype.name for dtype in dtypes.DTYPES)
_KEYS = frozenset((int, str))
"""Types of values that are equal only if they encode alike; 0.0 and -0.0 do not."""


def operand_list(instruction: Instruction) -> str:
    """Return the instruction as it is written, e.g. `jump target`."""
    return " ".join([instruction.name, ", ".join(operand.name for operand in instruction.operands)]).strip()


def words_of(operand: Operand) -> tuple[str, ...]:
    """Return the words a dtype or choice operand can be, in the order of their codes."""
    return _DTYPE_NAMES if operand.kind is Kind.DTYPE else operand.choices


def instruction_named(name: str) -> Instruction:
    """Return the table row; AssemblyError with the nearest name if there is none."""
    instruction = BY_NAME.get(name)
    if instruction is None:
        help = did_you_mean(name, BY_NAME) or "docs/isa.md lists every instruction"
        raise AssemblyError(f"unknown instruction '{name}'", help=help)
    return instruction


def encode(name: str, operands: Mapping[str, Value]) -> tuple[int, int]:
    """Return the (low, high) 64-bit halves of an instruction; `operands` has exactly the operands of its row.

    Raises AssemblyError for an unknown name, a missing or foreign operand, or a value that does not fit.
    """
    instruction = instruction_named(name)
    if operands.keys() != instruction.by_name.keys():
        raise _wrong_operands(instruction, operands)
    return encode_values(name, tuple(map(operands.__getitem__, instruction.by_name)))


def encode_values(name: str, values: tuple[Value, ...]) -> tuple[int, int]:
    """Return `encode` of a known instruction with the values of its operands in the order of its row."""
    is_plain = _KEYS.issuperset(map(type, values))
    return _known_encoding(name, values) if is_plain else _encoding(name, values)


def _encoding(name: str, values: tuple[Value, ...]) -> tuple[int, int]:
    instruction = BY_NAME[name]
    word = instruction.opcode << SLOTS["opcode"][0]
    for operand, value in zip(instruction.operands, values, strict=True):
        word |= encode_operand(operand, value) << SLOTS[operand.slot][0]
    return word & _LOW, word >> 64


_known_encoding = functools.lru_cache(maxsize=1 << 12)(_encoding)
"""`_encoding`, kept: kernels repeat most of their instructions."""


def _wrong_operands(instruction: Instruction, operands: Mapping[str, Value]) -> AssemblyError:
    missing = [name for name in instruction.by_name if name not in operands]
    foreign = sorted(name for name in operands if name not in instruction.by_name)
    parts = [f"has no operand '{name}'" for name in foreign] + [f"needs the operand '{name}'" for name in missing]
    return AssemblyError(f"{instruction.name} {', '.join(parts)}", help=f"write: {operand_list(instruction)}")


def encode_operand(operand: Operand, value: Value) -> int:
    """Return the bits of one operand value (not shifted); AssemblyError if it does not fit the operand."""
    if operand.kind in _WORDS:
        return _encode_word(operand, value)
    if operand.kind is Kind.FLOAT:
        return _encode_float(operand, value)
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise AssemblyError(f"{operand.name} must be an integer, not {value!r}")
    number, width = int(value), SLOTS[operand.slot][1]
    lowest, end = (0, 1 << width) if operand.kind in _NUMBERED else (-(1 << (width - 1)), 1 << (width - 1))
    if not lowest <= number < end:
        raise AssemblyError(f"{operand.name} = {number} is outside {lowest}..{end - 1}")
    return number & ((1 << width) - 1)


def _encode_word(operand: Operand, value: Value) -> int:
    words = words_of(operand)
    if value not in words:
        help = f"{did_you_mean(str(value), words)} one of: {', '.join(words)}".strip()
        raise AssemblyError(f"{operand.name} cannot be {value!r}", help=help)
    return words.index(str(value))


def _encode_float(operand: Operand, value: Value) -> int:
    if isinstance(value, (str, bool)):
        raise AssemblyError(f"{operand.name} must be a number, not {value!r}")
    if math.isnan(value):
        return CANONICAL_NAN
    try:
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    except (OverflowError, struct.error) as error:
        raise AssemblyError(f"{operand.name} = {value} does not fit a 32-bit float") from error


def decode(low: int, high: int) -> tuple[Instruction, dict[str, Value]]:
    """Return the table row and operand values of one instruction; AssemblyError if the word has no meaning."""
    words = np.array([[low, high]], dtype=np.uint64)
    return decode_all(words)[0]


def decode_all(words: npt.NDArray[np.uint64]) -> list[tuple[Instruction, dict[str, Value]]]:
    """Return `decode` of each row of uint64[n, 2]; AssemblyError as `check_words`."""
    rows = check_words(words)
    instructions = [BY_OPCODE[int(opcode)] for opcode in rows[:, columns.OPCODE]]
    return [
        (instruction, {operand.name: _decode_operand(operand, row) for operand in instruction.operands})
        for instruction, row in zip(instructions, rows.tolist(), strict=True)
    ]


def _decode_operand(operand: Operand, row: Sequence[int]) -> Value:
    code = row[columns.INDEX[operand.slot]]
    if operand.kind in _WORDS:
        return words_of(operand)[code]
    if operand.kind is Kind.FLOAT:
        return float(struct.unpack("<f", struct.pack("<i", code))[0])
    return code


def check_words(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return uint64[n, 2] words as columns; AssemblyError for the first that no instruction encodes to."""
    rows = columns.decode_columns(words)
    limits = _LIMITS[rows[:, columns.OPCODE]]
    outside = (rows >= limits) & (limits >= 0)
    reserved_bit, reserved_width = SLOTS["reserved"]
    reserved = (words[:, 1] >> np.uint64(reserved_bit - 64)) & np.uint64((1 << reserved_width) - 1)
    outside[:, columns.IMMEDIATE] |= (limits[:, columns.IMMEDIATE] == 1) & (rows[:, columns.IMMEDIATE] < 0)
    is_float = _HAS_FLOAT[rows[:, columns.OPCODE]]
    bad_nan = is_float & ((rows[:, columns.IMMEDIATE] & 0x7FFFFFFF) > 0x7F800000)
    bad_nan &= rows[:, columns.IMMEDIATE] != CANONICAL_NAN
    bad = outside.any(axis=1) | (reserved != 0) | bad_nan
    if bad.any():
        index = int(np.argmax(bad))
        what = _what_is_wrong(rows[index], outside[index], int(reserved[index]))
        raise AssemblyError(what, where=f"instruction {index}")
    return rows


def _what_is_wrong(row: npt.NDArray[np.int64], outside: npt.NDArray[np.bool_], reserved: int) -> str:
    opcode = int(row[columns.OPCODE])
    if opcode not in BY_OPCODE:
        return f"unknown opcode {opcode:#04x}"
    instruction = BY_OPCODE[opcode]
    used = {operand.slot: operand for operand in instruction.operands}
    for index in np.flatnonzero(outside):
        slot, code = columns.NAMES[int(index)], int(row[index])
        if slot in used:
            return f"{instruction.name}: {used[slot].name} has no code {code}"
        return f"{instruction.name}: the unused slot {slot} is {code}, not 0"
    if reserved:
        return f"{instruction.name}: the reserved bits are {reserved:#x}, not 0"
    return f"{instruction.name}: the float is a NaN other than {CANONICAL_NAN:#x}"


def _limits_by_opcode() -> npt.NDArray[np.int64]:
    """Return int64[256, 18]: a code must be below it; 1 where a slot is unused, 0 without opcode, -1 where any fits."""
    limits = np.zeros((256, len(columns.NAMES)), dtype=np.int64)
    for instruction in INSTRUCTIONS:
        limits[instruction.opcode] = 1
        limits[instruction.opcode, columns.OPCODE] = 256
        for operand in instruction.operands:
            limit = len(words_of(operand)) if operand.kind in _WORDS else -1
            limits[instruction.opcode, columns.INDEX[operand.slot]] = limit
    return limits


def _has_float_by_opcode() -> npt.NDArray[np.bool_]:
    has_float = np.zeros(256, dtype=np.bool_)
    for instruction in INSTRUCTIONS:
        has_float[instruction.opcode] = any(operand.kind is Kind.FLOAT for operand in instruction.operands)
    return has_float


_LIMITS = _limits_by_opcode()
_HAS_FLOAT = _has_float_by_opcode()
