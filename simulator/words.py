"""Words that a core loads, in a profile: unknown, followed through registers until they make the address of a transfer.

Each register has a factor: it holds what it would with words of 0, plus the factor times a word. Sums with numbers and
products with them keep that form; anything else takes the word as 0, and counts it. A transfer whose address has a
factor touches one of the rows, as far apart as the factor, that its table has: `gathering` draws which one, as for
`dma_gather`. Nothing of this runs when commands are executed: words are then known.
"""

from __future__ import annotations

from isa import columns as col
from isa.memory_map import SRAM_BASE
from isa.table import BY_NAME
from simulator import gathering
from simulator import state as st
from simulator import traits as tr
from simulator.hardware import Hardware
from simulator.jit import inner_kernel
from simulator.state import Code, Integers, Scalar, State, Stats

_LI, _ARG, _COORD = (BY_NAME[name].opcode for name in ("li", "arg", "coord"))
_ADD, _SUB, _MUL, _SLL = (BY_NAME[name].opcode for name in ("add", "sub", "mul", "sll"))
_ADDI, _MULI = (BY_NAME[name].opcode for name in ("addi", "muli"))


@inner_kernel
def note_load(state: State, stats: Stats, core: Scalar, fields: Integers) -> None:
    """Note that the register which `lw` has set to 0 stands for a word."""
    state.core[core, st.FOLLOWS_WORDS] = 1
    if state.core[core, st.FACTOR + fields[col.R2]] != 0:
        stats.counts[st.WORDS_ASSUMED] += 1
    if fields[col.R0] != 0:
        state.core[core, st.FACTOR + fields[col.R0]] = 1


@inner_kernel
def follow(state: State, stats: Stats, core: Scalar, opcode: Scalar, fields: Integers) -> None:
    """Set the factor of what a register or branch instruction is about to compute."""
    factors, registers = state.core[core, st.FACTOR :], state.core[core, st.REGISTER : st.LOOP]
    left, right = fields[col.R1], fields[col.R2]
    factor = 0
    if opcode in (_LI, _ARG, _COORD):
        pass
    elif opcode == _ADDI:
        factor = factors[left]
    elif opcode == _MULI:
        factor = factors[left] * fields[col.IMMEDIATE]
    elif factors[left] != 0 and factors[right] != 0:
        stats.counts[st.WORDS_ASSUMED] += 2
    elif opcode == _ADD:
        factor = factors[left] + factors[right]
    elif opcode == _SUB:
        factor = factors[left] - factors[right]
    elif opcode == _MUL:
        factor = factors[left] * registers[right] + factors[right] * registers[left]
    elif opcode == _SLL and factors[right] == 0:
        factor = factors[left] << (registers[right] & 63)
    elif factors[left] != 0 or factors[right] != 0:
        stats.counts[st.WORDS_ASSUMED] += 1
    if fields[col.R0] != 0:
        factors[fields[col.R0]] = factor


@inner_kernel
def draw_addresses(
    code: Code, hardware: Hardware, state: State, stats: Stats, core: Scalar, stream: Scalar, fields: Integers,
    values: Integers,
) -> None:  # fmt: skip
    """Put drawn rows in place of the words in the register values of a command that is being issued."""
    row = code.traits[fields[col.OPCODE]]
    for slot in range(8):
        factor = state.core[core, st.FACTOR + fields[col.R0 + slot]]
        if factor == 0:
            continue
        behind = table = 0
        # The PEs of a broadcast give the same address, so no PE may draw one of its own.
        if slot in (row[tr.MEMORY_READ], row[tr.MEMORY_WRITE]) and fields[col.MODE] == 0:
            size = (values[6] - 1) * min(values[slot + 1], SRAM_BASE) + values[7]
            table, behind = gathering.rows_behind(code, values[slot], factor, size)
        if behind > 0:
            number = state.core[core, st.EXECUTED]
            values[slot] += factor * gathering.drawn_row(hardware, stream, number, 0, table, behind)
            stats.counts[st.ROWS_DRAWN] += 1
        else:
            stats.counts[st.WORDS_ASSUMED] += 1
