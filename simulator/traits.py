"""What the sequencer must know about each opcode, derived from the instruction table as plain integers.

Row = opcode, column = one of the constants below. A new instruction with the usual operands needs nothing here; only
shapes that do not follow from the operands (`_OUT_SHAPES`, `_COMPRESSED`) are listed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from isa.table import INSTRUCTIONS, SLOTS, Instruction, Timing

# Columns of the traits table.
(
    KNOWN, UNIT, TIMING, SPREAD_OPERAND, USES_BANK, MEMORY_READ, MEMORY_WRITE, INDEXED,
    OUT_ROWS, OUT_BYTES, OUT_DTYPE, A_ROWS, A_BYTES, A_DTYPE, B_ROWS, B_BYTES, B_DTYPE, LINK_ROLE,
) = range(18)  # fmt: skip
COLUMN_COUNT = 18

# Codes for rows and bytes per row of an operand.
(
    NONE, ONE, FROM_R6, FROM_R7, R6_ELEMENTS, R7_ELEMENTS, ONE_ELEMENT, K_BLOCKS, PAIR, INDICES, WORD, GROUPS,
    COMPRESSED,
) = range(13)  # fmt: skip

SPREAD_NOWHERE, SPREAD_A, SPREAD_B = range(3)
LINK_UNUSED, LINK_SENDS, LINK_RECEIVES = range(3)

_D0, _D1, _D2 = 0, 1, 2
_OUT_SHAPES = {
    "transpose": (FROM_R7, R6_ELEMENTS, _D1),
    "rowsum": (FROM_R6, ONE_ELEMENT, _D0),
    "rowmax": (FROM_R6, ONE_ELEMENT, _D0),
    "rowmin": (FROM_R6, ONE_ELEMENT, _D0),
    "rowprod": (FROM_R6, ONE_ELEMENT, _D0),
    "colsum": (ONE, R7_ELEMENTS, _D0),
    "acc_range": (FROM_R6, PAIR, _D0),
}
"""Outputs whose shape is not rows x columns: (rows code, bytes code, element type slot)."""
_COMPRESSED = ("mml_sparse",)
"""Products whose operand b is compressed 2:4."""


def _operand_shape(instruction: Instruction, name: str, dtype_slot: int) -> tuple[int, int, int]:
    """Return (rows code, bytes code, dtype slot) of a read operand."""
    if name not in instruction.by_name:
        return NONE, NONE, dtype_slot
    if instruction.timing is Timing.SCALAR:
        return ONE, WORD, dtype_slot
    if f"{name}_pitch" not in instruction.by_name:
        return ONE, INDICES, dtype_slot
    if instruction.timing in (Timing.MATRIX, Timing.VECTOR_MATRIX):
        is_compressed = name == "b" and instruction.name in _COMPRESSED
        return (FROM_R6 if name == "a" else FROM_R7), (COMPRESSED if is_compressed else K_BLOCKS), _D1
    if name == "b" and "group" in instruction.by_name:
        return FROM_R6, GROUPS, dtype_slot
    return FROM_R6, (FROM_R7 if "row_bytes" in instruction.by_name else R7_ELEMENTS), dtype_slot


def _out_shape(instruction: Instruction) -> tuple[int, int, int]:
    if "out" not in instruction.writes:
        return NONE, NONE, _D0
    usual = FROM_R7 if "row_bytes" in instruction.by_name else R7_ELEMENTS
    return _OUT_SHAPES.get(instruction.name, (FROM_R6, usual, _D0))


def _memory_slots(instruction: Instruction) -> tuple[int, int]:
    """Return the register slots of the addresses read and written, -1 for none."""
    read = write = -1
    for name in ("address", "source"):
        operand = instruction.by_name.get(name)
        if operand is not None and operand.slot == "r0":
            write = 0
        elif operand is not None:
            read = int(operand.slot[1:])
    return read, write


def _row(instruction: Instruction) -> list[int]:
    spread = SPREAD_NOWHERE
    if "spread" in instruction.by_name:
        spread = SPREAD_B if "b" in instruction.by_name else SPREAD_A
    bank = int("bank" in instruction.by_name)
    read, write = _memory_slots(instruction)
    a, b = _operand_shape(instruction, "a", _D1), _operand_shape(instruction, "b", _D2)
    indexed = int(INDICES in (a[1], b[1]))
    head = [1, int(instruction.unit), int(instruction.timing), spread, bank, read, write, indexed]
    link = LINK_UNUSED
    if instruction.timing is Timing.LINK:
        link = LINK_SENDS if "bank" in instruction.reads else LINK_RECEIVES
    return [*head, *_out_shape(instruction), *a, *b, link]


def traits_table() -> npt.NDArray[np.int64]:
    """Return int64[256, COLUMN_COUNT]; rows of unknown opcodes are zero."""
    table = np.zeros((1 << SLOTS["opcode"][1], COLUMN_COUNT), dtype=np.int64)
    for instruction in INSTRUCTIONS:
        table[instruction.opcode] = _row(instruction)
    return table
