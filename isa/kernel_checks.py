"""Checks of a kernel against a machine; `isa.kernel.verify` is the entrance.

Every check yields sentences. What only a run can tell (values in registers, which unit binds a buffer) is left to it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from isa import columns, dtypes
from isa.encoding import check_words
from isa.errors import AssemblyError
from isa.kernel import MAX_SLOTS, NAME_PATTERN, SLOT_ALIGNMENT_BYTES, Kernel, KernelPart, Words, local_bytes
from isa.problems import duplicates
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
_LOOP = BY_NAME["loop"].opcode
_HALT, _JUMP = BY_NAME["halt"].opcode, BY_NAME["jump"].opcode
_HAS_RULES = np.zeros(256, dtype=np.bool_)
"""By opcode whether `_instruction_problems` asks for more than numbers of registers, buffers and banks."""
_NUMBERS = np.zeros((3, 256, len(columns.NAMES)), dtype=np.bool_)
"""By opcode the slots that hold numbers of registers, of buffers and of banks."""
for _row in INSTRUCTIONS:
    _HAS_RULES[_row.opcode] = _row.timing is Timing.MATRIX or _row.name in (*_FEATURES, *_LIMITED)
    for _operand in _row.operands:
        _NUMBERS[:, _row.opcode, columns.INDEX[_operand.slot]] = [
            _operand.kind in kinds for kinds in (_REGISTERS, _BUFFERS, _BANKS)
        ]


@functools.lru_cache(maxsize=64)
def problems_of(kernel: Kernel, machine: Machine) -> tuple[str, ...]:
    """Return a sentence for every rule the kernel breaks on the machine; a compilation asks several times."""
    return tuple(_problems(kernel, machine))


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
    if local_bytes(kernel) > machine.pe.local_memory_bytes:
        yield f"the buffers take {local_bytes(kernel)} bytes, local memory has {machine.pe.local_memory_bytes}"


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
    for pc in np.flatnonzero(has_large_number | _HAS_RULES[rows[:, columns.OPCODE]]).tolist():
        row = rows[pc].tolist()
        instruction = BY_OPCODE[row[columns.OPCODE]]
        if has_large_number[pc]:
            for operand in instruction.operands:
                for problem in _operand_problems(kernel, machine, operand, row[columns.INDEX[operand.slot]]):
                    yield f"instruction {pc} ({instruction.name}): {problem}"
        for problem in _instruction_problems(kernel, machine, instruction, row):
            yield f"instruction {pc} ({instruction.name}): {problem}"
    yield from _flow_problems(rows)


def _has_large_number(kernel: Kernel, machine: Machine, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell of each instruction whether it names a register, buffer or bank that is not there."""
    opcodes = rows[:, columns.OPCODE]
    limits = np.full((len(_NUMBERS), 1, 1), machine.pe.registers)
    limits[1:, 0, 0] = len(kernel.buffers), machine.accumulator.banks
    return np.asarray((_NUMBERS[:, opcodes] & (rows >= limits)).any(axis=(0, 2)))


def _instruction_problems(
    kernel: Kernel, machine: Machine, instruction: Instruction, row: Sequence[int]
) -> Iterator[str]:
    """Yield what is wrong with an instruction of `_HAS_RULES`."""
    path, feature = _FEATURES.get(instruction.name, ("", ""))
    if path and not machine.value(path):
        yield f"the machine has no {feature} ({path})"
    if instruction.name == "dma_in" and row[columns.MODE] and not machine.dma.broadcast_reads:
        yield "the machine has no broadcast reads (dma.broadcast_reads)"
    if instruction.name == "arg" and not 0 <= row[columns.IMMEDIATE] < len(kernel.arguments):
        yield f"argument {row[columns.IMMEDIATE]} of {len(kernel.arguments)}"
    if instruction.name in ("push", "pop") and row[columns.IMMEDIATE] < 0:
        yield f"{row[columns.IMMEDIATE]} slots"
    if instruction.name in ("signal", "wait") and not 0 <= row[columns.IMMEDIATE] < SEMAPHORES:
        yield f"semaphore {row[columns.IMMEDIATE]} is outside 0..{SEMAPHORES - 1}"
    if instruction.timing is Timing.MATRIX and not _matrix_rate(machine, row[columns.D1]):
        yield f"the matrix engine has no rate for {dtypes.BY_CODE[row[columns.D1]].name} (matrix.rate_by_dtype)"


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
    opcodes = [int(opcode) for opcode in rows[:, columns.OPCODE]]
    has_label = {row.opcode for row in BY_OPCODE.values() if "target" in row.by_name}
    targets = {
        pc: pc + 1 + int(rows[pc, columns.IMMEDIATE]) for pc, opcode in enumerate(opcodes) if opcode in has_label
    }
    outside = {pc: target for pc, target in targets.items() if not 0 <= target < len(opcodes)}
    for pc, target in outside.items():
        yield f"instruction {pc}: the target {target} is outside the code 0..{len(opcodes) - 1}"
    if outside:
        return
    loops = {pc: target for pc, target in targets.items() if opcodes[pc] == _LOOP}
    yield from _loop_problems(loops, {pc: t for pc, t in targets.items() if pc not in loops}, len(opcodes))
    if opcodes[-1] != _HALT:
        yield f"instruction {len(opcodes) - 1}: the code does not end with halt"
    elif not _reaches_halt(opcodes, targets):
        yield "no way through the code ends at a halt"


def _loop_problems(loops: dict[int, int], branches: dict[int, int], length: int) -> Iterator[str]:
    """Bodies are not empty and nest; a branch may leave bodies (their own end: the next trip) but not enter one."""
    bodies: list[tuple[int, ...]] = []
    open_ends: list[int] = []
    for pc in range(length):
        while open_ends and open_ends[-1] == pc:
            open_ends.pop()
        bodies.append(tuple(open_ends))
        if pc not in loops:
            continue
        end = loops[pc]
        if end <= pc + 1:
            yield f"instruction {pc}: the loop has no body"
            continue
        if open_ends and end > open_ends[-1]:
            yield f"instruction {pc}: the loop body ends at {end}, after the body around it at {open_ends[-1]}"
            return
        open_ends.append(end)
        if len(open_ends) > MAX_LOOP_DEPTH:
            yield f"instruction {pc}: more than {MAX_LOOP_DEPTH} loops nest"
    for pc, target in branches.items():
        if bodies[target] != bodies[pc][: len(bodies[target])]:
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
