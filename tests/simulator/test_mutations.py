"""Outputs and figures come from what the commands of the program do: whoever edits one is found out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from isa import columns as col
from isa.columns import decode_columns
from isa.encoding import encode
from isa.errors import SimulationError
from isa.kernel import Kernel, Words
from isa.program import Program
from isa.table import BY_NAME, BY_OPCODE, SLOTS, Instruction, Kind
from simulator import Simulator
from simulator.simulator import Result
from tests.simulator.kernels import Traffic, poison_local_memories, run_program_naively
from tests.simulator.llamas import inputs_for, llama

SEQUENCE, PAST, LONGEST_PAST = 3, 700, 900
CORES = ("core_a", "core_b")
OTHER = {"vadd": "vsub", "vsub": "vadd", "vmul": "vdiv", "vdiv": "vmul", "vmax": "vmin", "vmin": "vmax",
         "vadds": "vmuls", "vmuls": "vadds", "vexp": "vabs", "vsilu": "vabs", "vrecip": "vabs", "vrsqrt": "vabs",
         "rowsum": "rowmin", "rowmax": "rowmin", "acc_load": None, "vcast": "vsigmoid"}  # fmt: skip
"""Another meaning in the same format."""


@dataclass(frozen=True)
class Mutant:
    """A kernel with one edit: which, at (core, pc), of which instruction."""

    edit: str
    core: int
    pc: int
    instruction: str
    kernel: Kernel

    def __str__(self) -> str:
        return f"{self.edit} {self.instruction} at {'AB'[self.core]}:{self.pc} of {self.kernel.name}"


def program() -> Program:
    """Return a Llama whose attention makes several trips over its keys."""
    return llama("llama-tiny-odd", SEQUENCE, LONGEST_PAST, separate_launches=True)


KERNELS = range(len(program().kernels))


@cache
def unedited() -> Result:
    return Simulator(program()).run(inputs_for(program(), PAST))


@cache
def traffic() -> list[Traffic]:
    """Return what each launch does, by the plain interpreter."""
    return run_program_naively(program(), inputs_for(program(), PAST), {"past": PAST})[1]


@cache
def issued() -> dict[int, set[tuple[int, int]]]:
    """Return for each kernel the places that some PE executes."""
    places: dict[int, set[tuple[int, int]]] = {index: set() for index in KERNELS}
    for launch, counted in zip(program().entries[0].launches, traffic(), strict=True):
        places[launch.kernel] |= counted.issued
    return places


def _with_slot(words: Words, pc: int, slot: str, value: int) -> Words:
    """Return the code with one field of an instruction replaced."""
    first, width = SLOTS[slot]
    edited = words.copy()
    half, shift = divmod(first, 64)
    mask = ((1 << width) - 1) << shift
    edited[pc, half] = (int(edited[pc, half]) & ~mask) | (value << shift)
    return edited


def _dropped(words: Words, pc: int) -> Words:
    """Return the code with a scalar instruction that changes nothing in place of one."""
    edited = words.copy()
    edited[pc] = encode("addi", {"destination": 0, "left": 0, "value": 0})
    return edited


def _doubled(words: Words, pc: int) -> Words:
    """Return the code with an instruction twice; targets behind it move."""
    edited = words.copy()
    rows = decode_columns(words)
    for place, row in enumerate(rows):
        if any(operand.kind is Kind.LABEL for operand in BY_OPCODE[int(row[col.OPCODE])].operands):
            target = place + 1 + int(row[col.IMMEDIATE])
            moved = (target > pc) - (place > pc)
            edited = _with_slot(edited, place, "immediate", (int(row[col.IMMEDIATE]) + moved) & 0xFFFFFFFF)
    return np.insert(edited, pc, edited[pc], axis=0)


def _edits(words: Words, pc: int, instruction: Instruction) -> Iterator[tuple[str, Words]]:
    yield "drop", _dropped(words, pc)
    if not instruction.is_command:
        yield "double", _doubled(words, pc)
        return
    yield "empty", _with_slot(words, pc, "r6", 0)
    if OTHER.get(instruction.name):
        yield "change", _with_slot(words, pc, "opcode", BY_NAME[str(OTHER[instruction.name])].opcode)
    if instruction.name.startswith("dma_"):
        yield "double", _doubled(words, pc)


def mutants(index: int) -> Iterator[Mutant]:
    """Yield all edits of the commands, pushes and pops of a kernel that are executed."""
    kernel = program().kernels[index]
    for core, name in enumerate(CORES):
        words = getattr(kernel, name)
        for pc, row in enumerate(decode_columns(words)):
            if (core, pc) in issued()[index]:
                instruction = BY_OPCODE[int(row[col.OPCODE])]
                for edit, edited in _edits(words, pc, instruction):
                    yield Mutant(edit, core, pc, instruction.name, replace(kernel, **{name: edited}))


def seen(edited: Program) -> str:
    """Return by what an edited program is found out, or an empty string."""
    try:
        result = Simulator(edited).run(inputs_for(program(), PAST))
    except SimulationError as error:
        if "deadlock" in str(error):
            assert "waits for" in str(error)
            return "deadlock"
        return "error"
    expected = unedited()
    if any(not np.array_equal(result.outputs[name], array) for name, array in expected.outputs.items()):
        return "outputs"
    for name in (
        "dram_bytes",
        "sram_bytes",
        "cache_hit_bytes",
        "cycles",
        "commands_by_name",
        "instructions",
        "energy_joules",
    ):
        if getattr(result.report, name) != getattr(expected.report, name):
            return name
    return ""


ELSEWHERE = {"linear": {"dma_in", "mml", "transpose", "push", "pop"}, "attention": {"vcast", "push", "pop"}}
"""Instructions that have nothing to do in this run: of chunks of K behind the first, and of a PE's tiles behind the
first, since this model has one of both; of items with a single chunk of keys, since there are three."""
BY_VALUES = ("outputs", "deadlock", "error", "dram_bytes", "sram_bytes", "cache_hit_bytes")


def _instruction_at(kernel: Kernel, core: int, pc: int) -> str:
    return BY_OPCODE[int(decode_columns(getattr(kernel, CORES[core]))[pc][col.OPCODE])].name


def test_every_place_is_executed() -> None:
    """The run goes through all commands of all kernels, so that every edit can be seen.

    But for what the tests of single kernels execute, see `ELSEWHERE`.
    """
    for index, kernel in enumerate(program().kernels):
        places = {
            (core, pc)
            for core, name in enumerate(CORES)
            for pc, row in enumerate(decode_columns(getattr(kernel, name)))
            if BY_OPCODE[int(row[col.OPCODE])].is_command or BY_OPCODE[int(row[col.OPCODE])].name in ("push", "pop")
        }
        missed = {_instruction_at(kernel, *place) for place in places - issued()[index]}
        executed = {_instruction_at(kernel, *place) for place in issued()[index]}
        assert issued()[index] <= places, kernel.name
        assert missed <= executed & ELSEWHERE.get(kernel.name.split("_")[0], set()), kernel.name


@pytest.mark.parametrize("index", KERNELS)
def test_every_edit_of_an_instruction_is_found_out(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edits of commands, and missing pushes, are seen in outputs, bytes or an error; pops and more pushes at least
    in cycles, counts or energy, since a slot that nobody needs again may as well be freed never or be visible early."""
    unedited()
    poison_local_memories(monkeypatch)
    kernels = program().kernels
    for mutant in mutants(index):
        edited = tuple(mutant.kernel if place == index else kernel for place, kernel in enumerate(kernels))
        found = seen(replace(program(), kernels=edited))
        assert found, f"nobody sees: {mutant}"
        is_free = mutant.instruction == "pop" or (mutant.edit, mutant.instruction) == ("double", "push")
        assert is_free or found in BY_VALUES, f"only {found} sees: {mutant}"


def test_swapped_launches_are_found_out() -> None:
    """Two neighbours that depend on each other give other outputs in the other order; others the same figures too."""
    entry = program().entries[0]
    dependent = 0
    for place, (first, second) in enumerate(pairwise(entry.launches)):
        launches = (*entry.launches[:place], second, first, *entry.launches[place + 2 :])
        found = seen(replace(program(), entries=(replace(entry, launches=launches),)))
        assert found == ("outputs" if traffic()[place + 1].must_follow(traffic()[place]) else "")
        dependent += found == "outputs"
    assert dependent > len(entry.launches) / 2


def test_a_missing_launch_is_found_out() -> None:
    """Every launch is needed for the outputs."""
    entry = program().entries[0]
    for place in range(len(entry.launches)):
        launches = entry.launches[:place] + entry.launches[place + 1 :]
        assert seen(replace(program(), entries=(replace(entry, launches=launches),))) == "outputs"
