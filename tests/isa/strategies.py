"""Random instructions and kernels, derived from the instruction table."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from hypothesis import strategies as st

from isa.encoding import encode, words_of
from isa.kernel import Buffer, Kernel, KernelPart
from isa.table import INSTRUCTIONS, SLOTS, Instruction, Kind, Operand

_INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
_FIRST, _REST = string.ascii_letters + "_", string.ascii_letters + string.digits + "_."
NAMES = st.builds(str.__add__, st.sampled_from(_FIRST), st.text(_REST, max_size=8))


def values_of(operand: Operand, buffers: int, lowest_label: int, highest_label: int) -> st.SearchStrategy[Any]:
    """Values of one operand; buffer operands are below `buffers`, labels within a range."""
    if operand.kind in (Kind.DTYPE, Kind.CHOICE):
        return st.sampled_from(words_of(operand))
    if operand.kind is Kind.INTEGER:
        return _INT32
    if operand.kind is Kind.FLOAT:
        return st.floats(width=32)
    if operand.kind is Kind.LABEL:
        return st.integers(lowest_label, highest_label)
    if operand.kind in (Kind.READ, Kind.WRITE, Kind.PRODUCE, Kind.CONSUME):
        return st.integers(0, buffers - 1)
    return st.integers(0, (1 << SLOTS[operand.slot][1]) - 1)


def operands_of(
    instruction: Instruction, buffers: int = 64, labels: tuple[int, int] = (-9, 9)
) -> st.SearchStrategy[Any]:
    """All operands of an instruction by name."""
    return st.fixed_dictionaries({one.name: values_of(one, buffers, *labels) for one in instruction.operands})


@st.composite
def instructions(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """An instruction and legal operands."""
    instruction = draw(st.sampled_from(INSTRUCTIONS))
    return instruction.name, draw(operands_of(instruction))


@st.composite
def codes(draw: st.DrawFn, buffers: int) -> np.ndarray:
    """Code whose targets lie inside it (the place after its end included)."""
    known = [one for one in INSTRUCTIONS if buffers or not {"c0", "c1", "c2"} & {op.slot for op in one.operands}]
    rows = draw(st.lists(st.sampled_from(known), min_size=1, max_size=12))
    words = []
    for pc, row in enumerate(rows):
        labels = (-pc - 1, len(rows) - pc - 1)
        words.append(encode(row.name, draw(operands_of(row, max(buffers, 1), labels))))
    return np.array(words, dtype=np.uint64)


@st.composite
def kernels(draw: st.DrawFn) -> Kernel:
    """A kernel that can be printed; not one that makes sense."""
    arguments = tuple(draw(st.lists(NAMES, max_size=4, unique=True)))
    names = draw(st.lists(NAMES, max_size=4, unique=True))
    bases = st.none() | st.integers(0, 99).map(lambda units: 64 * units)
    buffers = tuple(Buffer(name, 32 * draw(st.integers(1, 99)), draw(st.integers(1, 9)), draw(bases)) for name in names)
    core_a, core_b = draw(codes(len(names))), draw(codes(len(names)))
    part_names = draw(st.lists(NAMES, max_size=3))
    starts = [
        sorted(draw(st.lists(st.integers(0, len(core) - 1), min_size=len(part_names), max_size=len(part_names))))
        for core in (core_a, core_b)
    ]
    parts = tuple(KernelPart(*part) for part in zip(part_names, *starts, strict=True))
    return Kernel(draw(NAMES), arguments, buffers, core_a, core_b, parts)
