"""Error codes of a command's data, as kernels return them, and their sentences."""

from __future__ import annotations

OK, NO_MEANING, UNSUPPORTED_DTYPE, MISALIGNED, ROW_OUTSIDE_MEMORY, NOT_ASCENDING, TOO_LARGE = range(7)

SENTENCES = {
    NO_MEANING: "the instruction has no meaning in the simulator",
    UNSUPPORTED_DTYPE: "the instruction does not work on this element type",
    MISALIGNED: "an operand's place or pitch in local memory is not a multiple of its element size",
    ROW_OUTSIDE_MEMORY: "an index chooses a row outside the memory",
    TOO_LARGE: "its operands have more elements than local memory has bytes (rows that lie over each other count)",
    NOT_ASCENDING: "operand b is not compressed 2:4: the two places of a group do not ascend",
}
