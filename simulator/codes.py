"""Error codes that leave the kernels as integers, and the sentences they become."""

from __future__ import annotations

OK, NEEDS_TURN, OUT_OF_ORDER = 0, -3, -4
(
    DEADLOCK, TWO_PRODUCERS, TWO_CONSUMERS, LEAVES_SLOT, OUTSIDE_BUFFER, OUTSIDE_SRAM, OUTSIDE_DRAM, NO_ADDRESS,
    BAD_ARGUMENT, UNKNOWN_OPCODE, TOO_LONG, UNEQUAL_BROADCAST, SEMAPHORE_FULL, NO_NEIGHBOUR,
    UNSUPPORTED_DTYPE, BANK_RANGE, LOOP_TOO_DEEP, PUSH_TOO_MANY, POP_TOO_MANY, ENDS_WITHOUT_HALT, BAD_BUFFER,
    NEGATIVE_PITCH, BAD_SEMAPHORE, MEANING, BAD_SIZE,
) = range(1, 26)  # fmt: skip

SENTENCES = {
    TWO_PRODUCERS: "buffer {detail} is written by two units or cores in one launch",
    TWO_CONSUMERS: "buffer {detail} is read by two units or cores in one launch",
    LEAVES_SLOT: "the block at offset {extra} of buffer {detail} leaves its slot",
    OUTSIDE_BUFFER: "offset {extra} lies outside buffer {detail}",
    OUTSIDE_SRAM: "address {detail:#x} with {extra} bytes lies outside the shared SRAM",
    OUTSIDE_DRAM: "address {detail:#x} with {extra} bytes lies outside the DRAM",
    NO_ADDRESS: "{detail:#x} is no device address",
    BAD_ARGUMENT: "launch argument {detail} does not exist",
    UNKNOWN_OPCODE: "unknown opcode {detail:#x}",
    TOO_LONG: "more than {detail} scalar instructions in one launch: an endless loop?",
    UNEQUAL_BROADCAST: "PEs of one broadcast give different addresses or shapes",
    SEMAPHORE_FULL: "semaphore {detail} was signalled 64 times more than it was taken",
    NO_NEIGHBOUR: "there is no neighbour in that direction inside the launch",
    UNSUPPORTED_DTYPE: "the matrix engine of this machine does not support element type code {detail}",
    BANK_RANGE: "bank {detail} does not exist, or the block of {extra} elements does not fit it",
    LOOP_TOO_DEEP: "more than 8 hardware loops nest",
    PUSH_TOO_MANY: "push of more slots than buffer {detail} has",
    POP_TOO_MANY: "pop of more slots than buffer {detail} has",
    ENDS_WITHOUT_HALT: "the code ends without halt",
    BAD_BUFFER: "buffer {detail} is not declared, or is pushed or popped before any command used it",
    NEGATIVE_PITCH: "negative pitch {detail}",
    BAD_SIZE: "{detail} rows, columns or blocks of K: a command takes 0..2147483647",
    BAD_SEMAPHORE: "semaphore {detail} does not exist (0..15)",
    MEANING: "the command failed on its data (code {detail})",
}
