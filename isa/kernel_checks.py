"""Checks of a kernel against a machine; `isa.kernel.verify` is the entrance.

Every check yields sentences. What only a run can tell (values in registers, which unit binds a buffer) is left to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from isa import columns, dtypes
from isa.encoding import check_words
from isa.errors import AssemblyError
from isa.kernel import (
    BASE_ALIGNMENT_BYTES,
    MAX_SLOTS,
    NAME_PATTERN,
    SLOT_ALIGNMENT_BYTES,
    Kernel,
    KernelPart,
    Words,
    local_bytes,
)  # fmt: skip
from isa.problems import duplicates
from isa.reuse import Kept
from isa.table import BY_NAME, BY_OPCODE, INSTRUCTIONS, Instruction, Kind, Operand, Timing

if TYPE_CHECKING:
    from isa.machine import Machine

SEMAPHORES = 16
MAX_LOOP_DEPTH = 8

_FEATURES = {
    "dma_gather": ("dma.indexed", "indexed transfers"),
    "dma_scatter": ("dma.indexed", "indexed transfers"),
    "dma_copy": ("dma.memory_to_memory", "transfers between memories"),
    "mml_sparse": ("matrix.sparsity_2_4", "2:4 weight sparsity"),
    "acc_send": ("accumulator.reduction_network", "reduction network"),
    "acc_add": ("accumulator.reduction_network", "reduction network"),
}
_LIMITED = ("dma_in", "arg", "push", "pop", "signal", "wait")
"""Instructions whose mode or immediate is limited, by the machine, the kernel or the ISA."""
_REGISTERS = (Kind.REGISTER, Kind.RESULT)
_BUFFERS = (Kind.READ, Kind.WRITE, Kind.PRODUCE, Kind.CONSUME)
_BANKS = (Kind.BANK_READ, Kind.BANK_WRITE)
_NUMBERS = np.array([columns.places_of(kinds) for kinds in (_REGISTERS, _BUFFERS, _BANKS)])
"""By opcode the slots that hold numbers of registers, of buffers and of banks."""
_LOOP = BY_NAME["loop"].opcode
_HALT, _JUMP = BY_NAME["halt"].opcode, BY_NAME["jump"].opcode
_HAS_RULES, _HAS_LABEL = np.zeros((2, 256), dtype=np.bool_)
"""By opcode whether `_instruction_problems` asks for more than numbers of registers, buffers and banks; and whether
there is a target."""
for _row in INSTRUCTIONS:
    _HAS_RULES[_row.opcode] = _row.timing is Timing.MATRIX or _row.name in (*_FEATURES, *_LIMITED)
    _HAS_LABEL[_row.opcode] = "target" in _row.by_name
_RULED = (columns.OPCODE, columns.MODE, columns.D1, columns.IMMEDIATE)
"""What `_instruction_problems` looks at."""


def problems_of(kernel: Kernel, machine: Machine) -> tuple[str, ...]:
    """Return a sentence for every rule the kernel breaks on the machine; a compilation asks several times."""
    known = _KNOWN.result(kernel, machine, lambda view: tuple(_problems(kernel, view)))
    return (*known, *_memory_problems(kernel, machine))


_KNOWN = Kept[tuple[str, ...]](256)


def _memory_problems(kernel: Kernel, machine: Machine) -> Iterator[str]:
    """Yield what is known without a look at the code, but differs between many machines."""
    if local_bytes(kernel) > machine.pe.local_memory_bytes:
        yield f"the buffers take {local_bytes(kernel)} bytes, local memory has {machine.pe.local_memory_bytes}"


def _problems(kernel: Kernel, machine: Machine) -> Iterator[str]:
    parts, buffers = (part.name for part in kernel.parts), (buffer.name for buffer in kernel.buffers)
    for name in (kernel.name, *kernel.arguments, *buffers, *parts):
        if not NAME_PATTERN.fullmatch(name):
            yield f"'{name}' is no name: letters, digits, '_' and '.'"
    yield from _buffer_problems(kernel, machine)
    yield from duplicates("argument", kernel.arguments)
    yield from _part_problems(kernel)
    for core, words in (("core A", kernel.core_a), ("core B", kernel.core_b)):
        for problem in _code_problems(kernel, machine, words):
            yield f"{core}, {problem}"


def _buffer_problems(kernel: Kernel, machine: Machine) -> Iterator[str]:
    yield from duplicates("buffer", (buffer.name for buffer in kernel.buffers))
    if len(kernel.buffers) > machine.pe.circular_buffers:
        yield f"{len(kernel.buffers)} buffers, the machine has {machine.pe.circular_buffers}"
    for buffer in kernel.buffers:
        if buffer.slot_bytes <= 0 or buffer.slot_bytes % SLOT_ALIGNMENT_BYTES:
            size = f"a slot of {buffer.slot_bytes} bytes"
            yield f"buffer '{buffer.name}': {size} is not a positive multiple of {SLOT_ALIGNMENT_BYTES}"
        if buffer.slots < 1:
            yield f"buffer '{buffer.name}' has {buffer.slots} slots"
        if buffer.slots > MAX_SLOTS:
            yield f"buffer '{buffer.name}' has {buffer.slots} slots, at most {MAX_SLOTS} are possible"
        base = buffer.base_bytes
        if base is not None and (base < 0 or base % BASE_ALIGNMENT_BYTES):
            yield f"buffer '{buffer.name}' begins at {base}, which is no multiple of {BASE_ALIGNMENT_BYTES}"


def _part_problems(kernel: Kernel) -> Iterator[str]:
    before = KernelPart("", 0, 0)
    for part in kernel.parts:
        if part is kernel.parts[0] and (part.core_a or part.core_b):
            yield f"part '{part.name}' is the first one and does not begin with the code"
        for core, first, least, words in (
            ("A", part.core_a, before.core_a, kernel.core_a),
            ("B", part.core_b, before.core_b, kernel.core_b),
        ):
            if not least <= first < max(len(words), 1):
                place = f"begins at instruction {first} of core {core}"
                yield f"part '{part.name}' {place}, not in {least}..{len(words) - 1}"
        before = part


def _code_problems(kernel: Kernel, machine: Machine, words: Words) -> Iterator[str]:
    if not len(words):
        yield "there is no code, not even a halt"
        return
    try:
        rows = check_words(words)
    except AssemblyError as error:
        yield f"{error.where}: {error.what}"
        return
    has_large_number = _has_large_number(kernel, machine, rows)
    selected = np.flatnonzero(has_large_number | _HAS_RULES[rows[:, columns.OPCODE]])
    known: dict[tuple[int, ...], tuple[str, ...]] = {}
    for pc, ruled in zip(selected.tolist(), map(tuple, rows[selected][:, _RULED].tolist()), strict=True):
        instruction = BY_OPCODE[ruled[0]]
        if has_large_number[pc]:
            for operand in instruction.operands:
                for problem in _operand_problems(kernel, machine, operand, int(rows[pc, columns.INDEX[operand.slot]])):
                    yield f"instruction {pc} ({instruction.name}): {problem}"
        if ruled not in known:
            known[ruled] = tuple(_instruction_problems(kernel, machine, instruction, *ruled[1:]))
        for problem in known[ruled]:
            yield f"instruction {pc} ({instruction.name}): {problem}"
    yield from _flow_problems(rows)


def _has_large_number(kernel: Kernel, machine: Machine, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell of each instruction whether it names a register, buffer or bank that is not there."""
    opcodes = rows[:, columns.OPCODE]
    limits = np.full((len(_NUMBERS), 1, 1), machine.pe.registers)
    limits[1:, 0, 0] = len(kernel.buffers), machine.accumulator.banks
    return np.asarray((_NUMBERS[:, opcodes] & (rows >= limits)).any(axis=(0, 2)))


def _instruction_problems(
    kernel: Kernel, machine: Machine, instruction: Instruction, mode: int, dtype_code: int, immediate: int
) -> Iterator[str]:
    """Yield what is wrong with an instruction of `_HAS_RULES`."""
    path, feature = _FEATURES.get(instruction.name, ("", ""))
    if path and not machine.value(path):
        yield f"the machine has no {feature} ({path})"
    if instruction.name == "dma_in" and mode and not machine.dma.broadcast_reads:
        yield "the machine has no broadcast reads (dma.broadcast_reads)"
    if instruction.name == "arg" and not 0 <= immediate < len(kernel.arguments):
        yield f"argument {immediate} of {len(kernel.arguments)}"
    if instruction.name in ("push", "pop") and immediate < 0:
        yield f"{immediate} slots"
    if instruction.name in ("signal", "wait") and not 0 <= immediate < SEMAPHORES:
        yield f"semaphore {immediate} is outside 0..{SEMAPHORES - 1}"
    if instruction.timing is Timing.MATRIX and not _matrix_rate(machine, dtype_code):
        yield f"the matrix engine has no rate for {dtypes.BY_CODE[dtype_code].name} (matrix.rate_by_dtype)"


def _operand_problems(kernel: Kernel, machine: Machine, operand: Operand, number: int) -> Iterator[str]:
    if operand.kind in _REGISTERS and number >= machine.pe.registers:
        yield f"{operand.name} is r{number}, the machine has {machine.pe.registers} registers"
    if operand.kind in _BUFFERS and number >= len(kernel.buffers):
        yield f"{operand.name} is buffer {number}, the kernel has {len(kernel.buffers)}"
    if operand.kind in _BANKS and number >= machine.accumulator.banks:
        yield f"{operand.name} is bank {number}, the machine has {machine.accumulator.banks}"


def _matrix_rate(machine: Machine, code: int) -> float:
    return machine.matrix.rate_by_dtype.get(dtypes.BY_CODE[code].name)


def _flow_problems(rows: npt.NDArray[np.int64]) -> Iterator[str]:
    """Yield what is wrong with targets, loops and the end of the code, given int64[n, 18] columns."""
    opcodes = rows[:, columns.OPCODE].tolist()
    labelled = np.flatnonzero(_HAS_LABEL[opcodes])
    targets = dict(zip(labelled.tolist(), (labelled + 1 + rows[labelled, columns.IMMEDIATE]).tolist(), strict=True))
    outside = {pc: target for pc, target in targets.items() if not 0 <= target < len(opcodes)}
    for pc, target in outside.items():
        yield f"instruction {pc}: the target {target} is outside the code 0..{len(opcodes) - 1}"
    if outside:
        return
    loops = {pc: target for pc, target in targets.items() if opcodes[pc] == _LOOP}
    yield from _loop_problems(loops, {pc: t for pc, t in targets.items() if pc not in loops})
    if opcodes[-1] != _HALT:
        yield f"instruction {len(opcodes) - 1}: the code does not end with halt"
    elif not _reaches_halt(opcodes, targets):
        yield "no way through the code ends at a halt"


def _loop_problems(loops: dict[int, int], branches: dict[int, int]) -> Iterator[str]:
    """Bodies are not empty and nest; a branch may leave bodies (their own end: the next trip) but not enter one."""
    bodies: list[tuple[int, int]] = []
    open_ends: list[int] = []
    for pc, end in loops.items():
        while open_ends and open_ends[-1] <= pc:
            open_ends.pop()
        if end <= pc + 1:
            yield f"instruction {pc}: the loop has no body"
            continue
        if open_ends and end > open_ends[-1]:
            yield f"instruction {pc}: the loop body ends at {end}, after the body around it at {open_ends[-1]}"
            return
        open_ends.append(end)
        bodies.append((pc, end))
        if len(open_ends) > MAX_LOOP_DEPTH:
            yield f"instruction {pc}: more than {MAX_LOOP_DEPTH} loops nest"
    for pc, target in branches.items():
        if any(start < target < end and not start < pc < end for start, end in bodies):
            yield f"instruction {pc}: the branch to {target} enters a loop body"


def _reaches_halt(opcodes: list[int], targets: dict[int, int]) -> bool:
    if _JUMP not in opcodes:
        return True  # everything else may go on to the next instruction, and the last one is a halt
    reached: set[int] = set()
    pending = [0]
    while pending:
        pc = pending.pop()
        if pc in reached:
            continue
        if opcodes[pc] == _HALT:
            return True
        reached.add(pc)
        pending.extend(
            place
            for place in (targets.get(pc), None if opcodes[pc] == _JUMP else pc + 1)
            if place is not None and place < len(opcodes)
        )
    return False
