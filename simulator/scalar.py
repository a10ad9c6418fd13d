"""Register, branch and loop instructions of the scalar cores."""

from __future__ import annotations

from isa import columns as col
from isa.table import BY_NAME
from simulator import codes
from simulator import hardware as hw
from simulator import state as st
from simulator.hardware import Hardware
from simulator.jit import inlined_kernel, inner_kernel
from simulator.state import Code, Integers, Scalar, State

LI, ADDI, MULI, BEQ, JUMP = (BY_NAME[name].opcode for name in ("li", "addi", "muli", "beq", "jump"))
LOOP, ARG, COORD = (BY_NAME[name].opcode for name in ("loop", "arg", "coord"))
_ADD, _SUB, _MUL, _DIV, _REM, _MIN, _MAX = (
    BY_NAME[name].opcode for name in ("add", "sub", "mul", "div", "rem", "min", "max")
)
_AND, _OR, _XOR, _SLL, _SRA = (BY_NAME[name].opcode for name in ("and", "or", "xor", "sll", "sra"))
_BNE, _BLT = BY_NAME["bne"].opcode, BY_NAME["blt"].opcode


@inlined_kernel
def arithmetic(opcode: Scalar, left: Scalar, right: Scalar) -> Scalar:
    """Return the 64-bit wrapping result of a register operation; division floors and is 0 by zero."""
    if opcode == _ADD:
        return left + right
    if opcode == _SUB:
        return left - right
    if opcode == _MUL:
        return left * right
    if opcode == _DIV:
        return left // right if right != 0 else 0
    if opcode == _REM:
        return left % right if right != 0 else 0
    if opcode == _MIN:
        return min(left, right)
    if opcode == _MAX:
        return max(left, right)
    if opcode == _AND:
        return left & right
    if opcode == _OR:
        return left | right
    if opcode == _XOR:
        return left ^ right
    if opcode == _SLL:
        return left << (right & 63)
    if opcode == _SRA:
        return left >> (right & 63)
    return 1 if left < right else 0


@inlined_kernel
def compare(opcode: Scalar, left: Scalar, right: Scalar) -> Scalar:
    if opcode == BEQ:
        return left == right
    if opcode == _BNE:
        return left != right
    if opcode == _BLT:
        return left < right
    return left >= right


@inlined_kernel
def loop_columns(depth: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """Return the columns of `State.core` that hold first instruction, end and trips left of a hardware loop."""
    column = st.LOOP + 3 * depth
    return column, column + 1, column + 2


@inlined_kernel
def follow_loops(state: State, core: Scalar, pc: Scalar, jumped: Scalar) -> Scalar:
    """Return the next pc after the ends of hardware loops; a jump out of a loop leaves it."""
    while state.core[core, st.LOOPS] > 0:
        top = state.core[core, st.LOOPS] - 1
        first, end, trips = loop_columns(top)
        if jumped and (pc < state.core[core, first] or pc > state.core[core, end]):
            state.core[core, st.LOOPS] = top
            continue
        if pc != state.core[core, end]:
            return pc
        state.core[core, trips] -= 1
        if state.core[core, trips] > 0:
            return state.core[core, first]
        state.core[core, st.LOOPS] = top
    return pc


@inner_kernel
def coordinate(code: Code, core: Scalar, which: Scalar) -> Scalar:
    pe, columns = core // st.CORES, code.header[st.COLUMNS]
    if which == 0:
        return pe // columns
    if which == 1:
        return pe % columns
    return code.header[st.ROWS] if which == 2 else columns


@inlined_kernel
def scalar(
    code: Code, hardware: Hardware, state: State, core: Scalar, pc: Scalar, opcode: Scalar, fields: Integers
) -> tuple[Scalar, Scalar]:
    """Run a register, branch or loop instruction; return (error, next pc)."""
    registers = state.core[core, st.REGISTER : st.LOOP]
    left, right = registers[fields[col.R1]], registers[fields[col.R2]]
    target = pc + 1 + fields[col.IMMEDIATE]
    if opcode == JUMP or (BEQ <= opcode < JUMP and compare(opcode, left, right)):
        state.core[core, st.TIME] += hardware.numbers[hw.BRANCH_TICKS]
        return codes.OK, follow_loops(state, core, target, True)
    if BEQ <= opcode < JUMP:
        return codes.OK, follow_loops(state, core, pc + 1, False)
    if opcode == LOOP:
        if left <= 0:
            return codes.OK, follow_loops(state, core, target, False)
        depth = state.core[core, st.LOOPS]
        if depth == st.LOOP_DEPTH:
            return codes.LOOP_TOO_DEEP, 0
        first, end, trips = loop_columns(depth)
        state.core[core, first], state.core[core, end], state.core[core, trips] = pc + 1, target, left
        state.core[core, st.LOOPS] = depth + 1
        return codes.OK, pc + 1
    if opcode == LI:
        value = fields[col.IMMEDIATE]
    elif opcode == ADDI:
        value = left + fields[col.IMMEDIATE]
    elif opcode == MULI:
        value = left * fields[col.IMMEDIATE]
    elif opcode == ARG:
        index = fields[col.IMMEDIATE]
        if index < 0 or index >= code.header.shape[0] - st.ARGUMENTS:
            state.scratch[st.ERROR_DETAIL] = index
            return codes.BAD_ARGUMENT, 0
        value = code.header[st.ARGUMENTS + index]
    elif opcode == COORD:
        value = coordinate(code, core, fields[col.MODE])
    else:
        value = arithmetic(opcode, left, right)
    if fields[col.R0] != 0:
        registers[fields[col.R0]] = value
    return codes.OK, follow_loops(state, core, pc + 1, False)
