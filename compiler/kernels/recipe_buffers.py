"""Which buffer each step of a recipe reads and writes: temporaries are shared by live range.

A temporary is a buffer of one slot: it is written, pushed, read, and popped after its last use, so a step never writes
the buffer that it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from compiler.graph import Step

FP32_BYTES = 4
COMMUTATIVE = ("vadd", "vmul", "vmax", "vmin", "vequal")

Source = tuple[Literal["input", "temporary", "number", "out"], int]
"""A buffer: an input, a temporary, a place among the numbers, or the output (index: that of its tensor)."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """The buffers of one step, and those that nobody reads after it."""

    sources: tuple[Source, ...]
    target: Source
    released: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class RecipePlan:
    """Steps that are instructions, their buffers, for each temporary whether it is one column, and the numbers."""

    steps: tuple[Step, ...]
    assigned: tuple[Assigned, ...]
    temporaries: tuple[bool, ...]
    numbers: tuple[float, ...]


def plan_recipe(steps: Sequence[Step], is_narrow: Sequence[bool], needs_zero: bool) -> RecipePlan:
    """Plan a recipe; `is_narrow` tells of each input, and last of the output, whether it has one column for many.

    The last step writes the output. Operands that are one column come second, or are spread by a step of their own.
    """
    *inputs, out_is_narrow = is_narrow
    explicit, narrow = _with_spreads(steps, inputs, out_is_narrow)
    numbers = sorted({float(step.constant or 0.0) for step in explicit if step.instruction == "number"})
    if needs_zero and 0.0 not in numbers:
        numbers.append(0.0)
    return _assign(explicit, narrow, len(inputs), tuple(numbers))


def _with_spreads(steps: Sequence[Step], inputs: Sequence[bool], out_is_narrow: bool) -> tuple[list[Step], list[bool]]:
    """Return the steps with one-column operands in second place, and of every value whether it is one column."""
    narrow, result, place = list(inputs), list[Step](), list(range(len(inputs)))

    def append(step: Step, is_narrow: bool) -> int:
        result.append(step)
        narrow.append(is_narrow)
        return len(narrow) - 1

    for step in steps:
        operands = [place[operand] for operand in step.operands]
        is_wide = any(not narrow[operand] for operand in operands)
        if len(operands) == 2 and is_wide and narrow[operands[0]]:
            if step.instruction in COMMUTATIVE:
                operands.reverse()
            else:
                operands[0] = append(Step("vspread", (operands[0],)), False)
        wide_result = is_wide and not step.instruction.startswith("row")
        place.append(append(Step(step.instruction, tuple(operands), step.constant), not wide_result))
    last = result[-1]
    if narrow[-1] and not out_is_narrow:
        append(Step("vspread", (len(narrow) - 1,)), False)
    elif last.instruction == "number":
        append(Step("vcast", (len(narrow) - 1,)), out_is_narrow)
    return result, narrow


def _assign(steps: list[Step], narrow: list[bool], input_count: int, numbers: tuple[float, ...]) -> RecipePlan:
    last_use = {operand: index for index, step in enumerate(steps) for operand in step.operands}
    where: dict[int, Source] = {index: ("input", index) for index in range(input_count)}
    temporaries: list[bool] = []
    free: list[int] = []
    kept: list[Step] = []
    assigned: list[Assigned] = []
    for index, step in enumerate(steps):
        value = input_count + index
        if step.instruction == "number":
            where[value] = ("number", numbers.index(float(step.constant or 0.0)))
            continue
        target: Source = ("out", input_count)
        if index < len(steps) - 1:
            place = next((item for item in free if temporaries[item] == narrow[value]), None)
            if place is None:
                place = len(temporaries)
                temporaries.append(narrow[value])
            else:
                free.remove(place)
            target = ("temporary", place)
        where[value] = target
        done = [where[operand] for operand in dict.fromkeys(step.operands) if last_use[operand] == index]
        released = tuple(source for source in done if source[0] != "number")
        free += [place for kind, place in released if kind == "temporary"]
        kept.append(step)
        assigned.append(Assigned(tuple(where[operand] for operand in step.operands), target, released))
    return RecipePlan(tuple(kept), tuple(assigned), tuple(temporaries), numbers)
