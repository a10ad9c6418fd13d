"""Words that cores load are followed in a profile until they make an address, and only then are they a drawn row."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from isa import columns as col
from isa.assembly import parse_assembly
from isa.machine import Machine, preset
from isa.program import Argument, Program
from isa.table import BY_NAME
from simulator import Simulator, words
from simulator import hardware as hw
from simulator import state as st
from tests.simulator.kernels import Job, zeros

ROW_BYTES, TABLE_ROWS, LOOKUPS = 256, 64, 200
FOLLOWED = {
    "product with a register": "mul r8, r7, r6\n add r8, r2, r8",
    "product with a number": "muli r8, r7, 256\n add r8, r8, r2",
    "shift": "li r9, 8\n sll r8, r7, r9\n add r8, r8, r2",
    "difference": "sub r8, r7, r3\n muli r8, r8, 256\n addi r8, r8, 256\n add r8, r8, r2",
}
TAKEN_AS_ZERO = {
    "remainder": "rem r8, r7, r6\n mul r8, r8, r6\n add r8, r8, r2",
    "product of words": "mul r8, r7, r7\n add r8, r8, r2",
    "descending rows": "sub r8, r2, r7",
    "branch": "copy r8, r2\n bne r7, r0, next\nnext:",
}


V1 = preset("mtia-v1")


def _program(code: str, broadcast: str = "none", machine: Machine = V1) -> Program:
    """Return a program in which two PEs read a word and load a row, 200 times."""
    (kernel,) = parse_assembly(f"""
.kernel lookup
.args indices table
.buffer ids 64 1
.buffer rows {ROW_BYTES} 2
.core A
    arg r1, 0
    arg r2, 1
    li r3, 1
    li r4, 64
    li r5, {LOOKUPS}
    li r6, {ROW_BYTES}
    dma_in ids, r0, r0, r1, r0, r3, r4, none
    push ids, 1
    loop r5, end
    lw r7, ids, r0
    {code.replace("copy r8, r2", "add r8, r2, r0")}
    dma_in rows, r0, r6, r8, r6, r3, r6, {broadcast}
    push rows, 1
end:
    halt
.core B
    li r3, 1
    li r5, {LOOKUPS}
    loop r5, end
    lw r7, rows, r0
    pop rows, 1
end:
    halt
""")
    program = Job(kernel, machine, (0, 0), columns=2).program(zeros(1 << 12, TABLE_ROWS * ROW_BYTES))
    (entry,) = program.entries
    (launch,) = entry.launches
    launch = replace(launch, arguments=(Argument(0, "sram"), Argument(0, "dram")))
    return replace(program, entries=(replace(entry, launches=(launch,)),))


def _counted(program: Program, note: str) -> int:
    notes = [re.match(r"\D*(\d+)", text) for text in Simulator(program).profile().notes if note in text]
    return int(notes[0][1]) if notes and notes[0] else 0


@pytest.mark.parametrize("case", FOLLOWED)
def test_a_word_that_chooses_a_row_is_drawn(case: str) -> None:
    """Sums and products with numbers keep the word, and every row is one of the table: none lies outside of it."""
    program = _program(FOLLOWED[case])
    assert _counted(program, "were drawn") == 2 * LOOKUPS
    assert _counted(program, "taken as 0") == 0


@pytest.mark.parametrize("case", TAKEN_AS_ZERO)
def test_a_word_that_does_something_else_is_0_and_counted(case: str) -> None:
    program = _program(TAKEN_AS_ZERO[case])
    assert _counted(program, "were drawn") == 0
    assert _counted(program, "taken as 0") >= 2 * LOOKUPS


def test_pes_of_a_broadcast_do_not_draw_different_rows() -> None:
    """They must give one address."""
    program = _program(FOLLOWED["product with a number"], broadcast="row", machine=preset("mtia-2i"))
    assert _counted(program, "taken as 0") == 2 * LOOKUPS and _counted(program, "were drawn") == 0


@pytest.mark.parametrize(
    ("name", "left", "right", "value", "factor", "assumed"),
    [
        ("add", (5, 3), (9, 0), 0, 3, 0), ("add", (9, 0), (5, 3), 0, 3, 0), ("add", (9, 1), (5, 3), 0, 0, 2),
        ("sub", (5, 3), (9, 0), 0, 3, 0), ("sub", (9, 0), (5, 3), 0, -3, 0), ("mul", (5, 3), (9, 0), 0, 27, 0),
        ("mul", (9, 0), (5, 3), 0, 27, 0), ("mul", (9, 1), (5, 3), 0, 0, 2), ("sll", (5, 3), (4, 0), 0, 48, 0),
        ("sll", (4, 0), (5, 3), 0, 0, 1), ("addi", (5, 3), (0, 0), 7, 3, 0), ("muli", (5, 3), (0, 0), 7, 21, 0),
        ("min", (5, 3), (9, 0), 0, 0, 1), ("blt", (9, 0), (5, 3), 0, 0, 1), ("li", (0, 0), (0, 0), 7, 0, 0),
        ("div", (5, 0), (9, 0), 0, 0, 0),
    ],
)  # fmt: skip
def test_the_factor_of_a_result(
    name: str, left: tuple[int, int], right: tuple[int, int], value: int, factor: int, assumed: int
) -> None:
    """Operands are (value, factor); the result's factor is the derivative by the word, 0 where it is no constant."""
    hardware = hw.hardware_of(V1)
    state, stats, core, target = st.new_state(hardware), st.new_stats(hardware), 1, 6
    fields = np.zeros(len(col.NAMES), dtype=np.int64)
    if name != "blt":
        fields[col.R0] = target
    if name != "li":
        fields[col.R1], fields[col.R2] = 2, 3
    fields[col.IMMEDIATE] = value
    for register, (number, derivative) in ((2, left), (3, right)):
        state.core[core, st.REGISTER + register] = number
        state.core[core, st.FACTOR + register] = derivative
    state.core[core, st.FACTOR + target] = 99
    words.follow.py_func(state, stats, core, BY_NAME[name].opcode, fields)  # type: ignore[attr-defined]
    written = factor if fields[col.R0] else 99
    assert state.core[core, st.FACTOR + target] == written
    assert stats.counts[st.WORDS_ASSUMED] == assumed
