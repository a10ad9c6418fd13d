"""Several kernels as one: every PE runs their bodies in order, and all meet where a body needs what another one made.

A body keeps its instructions; buffers and arguments get new numbers (`buffer_sharing.py`). Where PEs meet, core B
drains and waits for the cores B of all PEs, then lets its core A go on: results are stored by core B, operands are
loaded by core A. A core A that stores results meets the others as well. What a kernel does before `inputs_at` uses
constants only, so it comes before its core A waits, and a core A that uses nothing else does not wait at all: weights
are on their way while what they are multiplied with is still being made. The first ones of the next such kernel even
come before a core A waits for something else (`kernel_bodies.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import numpy as np

from compiler.buffer_sharing import Allocation
from compiler.kernel_bodies import (
    BROADCASTS,
    BUFFERS,
    CAN_BROADCAST,
    CORE_A,
    CORE_B,
    Body,
    Code,
    Rectangle,
    code_of,
    joint_rectangle,
    opcodes,
    passed_bodies,
    waits_by_body,
)
from compiler.kernel_builder import BuiltKernel
from isa import columns
from isa.encoding import Value, encode_values, words_of
from isa.kernel import Kernel, KernelPart
from isa.table import BY_NAME, Kind, Timing

B_IS_DONE, A_IS_DONE = 0, 1
"""Semaphores: core B, or core A, of all PEs is done with what comes before."""
_AT_START = (1, 2)
"""Registers that are free where a body starts: it sets all it reads."""
_NOTHING = np.zeros((0, len(columns.NAMES)), np.int64)
"""No instructions."""
_REGISTERS = columns.places_of([Kind.REGISTER, Kind.RESULT])
"""By opcode the columns with numbers of registers."""
_STORES = opcodes(lambda row: row.name in ("dma_out", "dma_scatter", "dma_copy"))
_SETS_REGISTERS = opcodes(lambda row: row.timing is Timing.SCALAR and row.name not in ("halt", "loop", "lw"))
_USES_BANKS = opcodes(lambda row: "bank" in row.by_name)
_ARG, _COORD, _LI = (BY_NAME[name].opcode for name in ("arg", "coord", "li"))
_COORDINATES = words_of(BY_NAME["coord"].by_name["which"])


def join_kernels(bodies: Sequence[Body], allocation: Allocation, registers: int) -> Kernel:
    """Return the kernel of bodies that `can_join` with these buffers, for cores with so many registers."""
    kernels = [body.kernel for body in bodies]
    codes_a, codes_b = _core_a(bodies, allocation, registers), [*_core_b(bodies, allocation, registers)]
    starts = zip(_starts(codes_a), _starts(codes_b), strict=True)
    return Kernel(
        name=".".join(kernel.name for kernel in kernels),
        arguments=tuple(f"{name}.{index}" for index, kernel in enumerate(kernels) for name in kernel.arguments),
        buffers=allocation.buffers,
        core_a=columns.encode_columns(np.concatenate([*codes_a, _line("halt")])),
        core_b=columns.encode_columns(np.concatenate([*codes_b, _line("halt")])),
        parts=tuple(KernelPart(kernel.name, *start) for kernel, start in zip(kernels, starts, strict=True)),
    )


def _starts(codes: Sequence[Code]) -> list[int]:
    """Return where the code of each body begins."""
    return [0, *accumulate(len(code) for code in codes[:-1])]


def _line(name: str, *values: Value) -> Code:
    """Return one instruction with the values of its operands in the order of its row."""
    return columns.decode_columns(np.array([encode_values(name, values)], np.uint64))


def _core_a(bodies: Sequence[Body], allocation: Allocation, registers: int) -> list[Code]:
    """Return the code of each body; from one that others begin before, jumps lead to what they do there and back."""
    whole, has_stored = joint_rectangle(bodies), False
    waits, passed = waits_by_body(bodies), passed_bodies(bodies)
    begun_before = {others[0]: index for index, others in passed.items()}
    codes: list[Code] = []
    left_at: dict[int, tuple[int, int]] = {}
    for index, body in enumerate(bodies):
        code = _renumbered(bodies, index, CORE_A, allocation)
        pieces: list[Code] = []
        early = 0
        free: tuple[int, int] | None = _AT_START
        if index in passed:
            first, end = body.ahead
            ahead = _one([*_on_own_pes(code[:end], body.rectangle, whole)])
            pieces += [_line("jump", len(ahead) + 1), ahead, _line("jump", 0)]
            code = _one([code[:first], code[end:]])
        if body.meets and has_stored:
            pieces += [_line("barrier"), _line("signal", A_IS_DONE)]
        has_stored = has_stored and not body.meets
        if index in begun_before:
            left_at[begun_before[index]] = index, sum(map(len, pieces))
            pieces.append(_line("jump", 0))
        if index in waits:
            free = _free_registers(code, registers)
            can_be_left = body.rectangle == whole or body.inputs_at >= len(code) or free is not None
            early = _scalars_from(body, code, body.inputs_at) if can_be_left else 0
            pieces += _on_own_pes(code[:early], body.rectangle, whole, free)
            pieces += [_line("wait", B_IS_DONE)] * waits[index]
        codes.append(_one([*pieces, *_on_own_pes(code[early:], body.rectangle, whole, free)]))
        has_stored = has_stored or _stores(body.kernel)
    _connect(codes, left_at)
    return codes


def _connect(codes: Sequence[Code], left_at: Mapping[int, tuple[int, int]]) -> None:
    """Set the targets of jumps to what a body does ahead, by its number from which body and where, and back."""
    starts = _starts(codes)
    for number, (index, place) in left_at.items():
        ahead, back = 1, int(codes[number][0, columns.IMMEDIATE])
        distance = starts[number] - starts[index]
        codes[index][place, columns.IMMEDIATE] = distance + ahead - (place + 1)
        codes[number][back, columns.IMMEDIATE] = place + 1 - (distance + back + 1)


def _one(pieces: Sequence[Code]) -> Code:
    return np.concatenate([_NOTHING, *pieces])


def _core_b(bodies: Sequence[Body], allocation: Allocation, registers: int) -> Iterator[Code]:
    """Yield the code of each body."""
    whole, has_stored = joint_rectangle(bodies), False
    for index, body in enumerate(bodies):
        code, pieces = _renumbered(bodies, index, CORE_B, allocation), list[Code]()
        first, free = 0, _free_registers(code, registers)
        if body.meets:
            first = _scalars_from(body, code, 0) if body.rectangle == whole or free is not None else 0
            pieces += [code[:first], _line("barrier"), _line("signal", B_IS_DONE)]
            if has_stored:
                pieces.append(_line("wait", A_IS_DONE))
            has_stored = False
        yield _one([*pieces, *_on_own_pes(code[first:], body.rectangle, whole, free if first else _AT_START)])
        has_stored = has_stored or _stores(body.kernel)


def _scalars_from(body: Body, code: Code, first: int) -> int:
    """Return where the instructions from `first` on end that only set registers: they need not wait for any meeting."""
    if not isinstance(body.kernel, BuiltKernel):
        return first
    others = np.flatnonzero(~_SETS_REGISTERS[code[first:, columns.OPCODE]])
    return first + int(others[0]) if len(others) else len(code)


def uses_banks_early(kernel: Kernel) -> bool:
    """Tell whether core A of a kernel uses accumulators: it must not come to them while core B of another one does."""
    return bool(_USES_BANKS[code_of(kernel)[CORE_A][:, columns.OPCODE]].any())


def uses_banks(body: Body) -> bool:
    """Tell whether a core of a body uses accumulators."""
    return any(bool(_USES_BANKS[code[:, columns.OPCODE]].any()) for code in code_of(body.kernel))


def _stores(kernel: Kernel) -> bool:
    """Tell whether core A of a kernel stores results."""
    return bool(_STORES[code_of(kernel)[CORE_A][:, columns.OPCODE]].any())


def _free_registers(code: Code, registers: int) -> tuple[int, int] | None:
    """Return two registers that a body does not use, so that it can be left and come back to."""
    used = set(code[_REGISTERS[code[:, columns.OPCODE]]].tolist())
    free = [number for number in range(1, registers) if number not in used]
    return (free[0], free[1]) if len(free) > 1 else None


def _on_own_pes(
    code: Code, own: Rectangle, whole: Rectangle, free: tuple[int, int] | None = _AT_START
) -> Iterator[Code]:
    """Yield the code behind branches that lead the other PEs past it; these write two free registers."""
    if not len(code):
        return
    scratch, limit = free or _AT_START
    sizes = {name: own[axis] for name, axis in (("row", 0), ("column", 1)) if own[axis] < whole[axis]}
    left = len(code) + 3 * len(sizes)
    for name, size in sizes.items():
        left -= 3
        yield _line("coord", scratch, name)
        yield _line("li", limit, size)
        yield _line("bge", scratch, limit, left)
    yield code


def _renumbered(bodies: Sequence[Body], index: int, core: int, allocation: Allocation) -> Code:
    """Return the code of a body but its halt, which is the last, with the whole's numbers."""
    code = code_of(bodies[index].kernel)[core][:-1].copy()
    codes = code[:, columns.OPCODE].copy()
    has_buffer = BUFFERS[codes]
    code[has_buffer] = np.array(allocation.numbers[index], np.int64)[code[has_buffer]]
    if bodies[index].rectangle != joint_rectangle(bodies):
        is_to_all = CAN_BROADCAST[codes] & (code[:, columns.MODE] == BROADCASTS.index("all"))
        code[is_to_all, columns.MODE] = BROADCASTS.index("none")
    code[codes == _ARG, columns.IMMEDIATE] += sum(len(body.kernel.arguments) for body in bodies[:index])
    for name, extent in zip(("rows", "columns"), bodies[index].rectangle, strict=True):
        asks = (codes == _COORD) & (code[:, columns.MODE] == _COORDINATES.index(name))
        code[np.ix_(asks, (columns.OPCODE, columns.MODE, columns.IMMEDIATE))] = (_LI, 0, extent)
    return code
