"""Machine code as a table of integers: one row per instruction, one column per slot.

This is the form in which executors, verifiers and the decoder read code; `isa.table.SLOTS` gives the bits.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from isa.table import INSTRUCTIONS, SLOTS, Kind

NAMES = (
    "opcode", "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7",
    "c0", "c1", "c2", "mode", "bank", "d0", "d1", "d2", "immediate",
)  # fmt: skip
"""The slot of each column."""

OPCODE, R0, R1, R2, R3, R4, R5, R6, R7, C0, C1, C2, MODE, BANK, D0, D1, D2, IMMEDIATE = range(len(NAMES))
INDEX = {name: index for index, name in enumerate(NAMES)}
_WORD_BITS = 64
_WORDS = [SLOTS[name][0] // _WORD_BITS for name in NAMES]
_SHIFTS = np.array([SLOTS[name][0] % _WORD_BITS for name in NAMES], dtype=np.uint64)
_MASKS = np.array([(1 << SLOTS[name][1]) - 1 for name in NAMES], dtype=np.uint64)


def decode_columns(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return int64[n, 18] for uint64[n, 2] (low, high) words.

    The immediate is the sign-extended 32-bit pattern, also where an operand is a float. Nothing is checked.
    """
    columns = ((words[:, _WORDS] >> _SHIFTS) & _MASKS).view(np.int64)
    columns[:, IMMEDIATE] = columns[:, IMMEDIATE].astype(np.uint32).view(np.int32)
    return columns


def encode_columns(columns: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return the uint64[n, 2] words whose `decode_columns` are these; reserved bits are 0."""
    shifted = (columns.view(np.uint64) & _MASKS) << _SHIFTS
    words = [np.bitwise_or.reduce(shifted[:, np.equal(_WORDS, word)], axis=1) for word in (0, 1)]
    return np.stack(words, axis=1)


def places_of(kinds: Collection[Kind]) -> npt.NDArray[np.bool_]:
    """Return bool[256, 18]: by opcode the columns that hold an operand of these kinds."""
    places = np.zeros((256, len(NAMES)), np.bool_)
    for instruction in INSTRUCTIONS:
        for operand in instruction.operands:
            places[instruction.opcode, INDEX[operand.slot]] |= operand.kind in kinds
    return places
