"""Commands as units see them: all that does not depend on time is worked out when a command is issued, or traced.

A record holds the register values of a command, where its operands lie, and how long it occupies what. What a launch
does is counted here too: every command that is issued is also done when a launch ends.
"""

from __future__ import annotations

from isa import columns as col
from isa.table import BY_NAME, Timing, Unit
from simulator import codes, commands, operands, queues
from simulator import hardware as hw
from simulator import state as st
from simulator import traits as tr
from simulator.hardware import Hardware
from simulator.jit import inlined_kernel, inner_kernel
from simulator.state import Code, Integers, Scalar, State
from simulator.synchronizing import NEXT, STOP

PUSH, POP, LOAD_WORD = (BY_NAME[name].opcode for name in ("push", "pop", "lw"))
_CORE, _UNITS = int(Unit.CORE), st.UNITS
_MATRIX, _VECTOR_MATRIX = int(Timing.MATRIX), int(Timing.VECTOR_MATRIX)
_BLOCKS_SLOT, _ROWS_SLOT, _COLUMNS_SLOT = 0, 6, 7
_BROADCAST_SLOT = 2
"""Slot of the address of `dma_in`, the one command with a broadcast."""
_MAX_SIZE = (1 << 31) - 1


@inlined_kernel
def claim(state: State, pe: Scalar, buffer: Scalar, side: Scalar, stream: Scalar) -> Scalar:
    """Bind a buffer's producer or consumer at its first use; return False if another one has it."""
    state.scratch[st.ERROR_DETAIL] = buffer
    if state.buffer[pe, buffer, side] < 0:
        state.buffer[pe, buffer, side] = stream
    return state.buffer[pe, buffer, side] == stream


@inlined_kernel
def _claim_operands(code: Code, state: State, pe: Scalar, stream: Scalar, fields: Integers) -> Scalar:
    """Bind all buffers of a command; return an error code."""
    row = code.traits[fields[col.OPCODE]]
    for operand in range(3):
        if row[tr.OUT_ROWS + 3 * operand] == tr.NONE:
            continue
        buffer = fields[col.C0 + operand]
        state.scratch[st.ERROR_DETAIL] = buffer
        if buffer >= code.buffers.shape[0]:
            return codes.BAD_BUFFER
        side = st.PRODUCER if operand == 0 else st.CONSUMER
        if not claim(state, pe, buffer, side, stream):
            return codes.TWO_PRODUCERS if operand == 0 else codes.TWO_CONSUMERS
    return codes.OK


@inlined_kernel
def _check_sizes(state: State, row: Integers, values: Integers) -> Scalar:
    """Check that sizes are not negative, and so small that no product of them with a size in memory overflows."""
    for slot in (_ROWS_SLOT, _COLUMNS_SLOT, _BLOCKS_SLOT):
        if slot != _BLOCKS_SLOT or row[tr.TIMING] in (_MATRIX, _VECTOR_MATRIX):
            state.scratch[st.ERROR_DETAIL] = values[slot]
            if values[slot] < 0 or values[slot] > _MAX_SIZE:
                return codes.BAD_SIZE
    return codes.OK


@inlined_kernel
def _check_unit_limits(
    code: Code, hardware: Hardware, state: State, pe: Scalar, fields: Integers, values: Integers
) -> Scalar:
    """Check bank, block and element type of matrix and accumulator commands, and that a neighbour exists."""
    row = code.traits[fields[col.OPCODE]]
    if row[tr.USES_BANK]:
        limit = hardware.numbers[hw.BLOCK_ROWS]
        state.scratch[st.ERROR_DETAIL], state.scratch[st.ERROR_EXTRA] = fields[col.BANK], values[6] * values[7]
        if fields[col.BANK] >= hardware.numbers[hw.BANKS] or values[6] > limit or values[7] > limit:
            return codes.BANK_RANGE
    if row[tr.TIMING] == _MATRIX and hardware.numbers[hw.MATRIX_TICKS + fields[col.D1]] == 0:
        state.scratch[st.ERROR_DETAIL] = fields[col.D1]
        return codes.UNSUPPORTED_DTYPE
    if row[tr.LINK_ROLE] != tr.LINK_UNUSED and commands.link_target(code, pe, fields[col.MODE]) < 0:
        return codes.NO_NEIGHBOUR
    return codes.OK


@inlined_kernel
def check(
    code: Code, hardware: Hardware, state: State, pe: Scalar, stream: Scalar, fields: Integers, values: Integers
) -> Scalar:
    """Check a command against its buffers and units; return an error code."""
    error = _claim_operands(code, state, pe, stream, fields)
    if not error:
        error = _check_sizes(state, code.traits[fields[col.OPCODE]], values)
    if not error:
        error = _check_unit_limits(code, hardware, state, pe, fields, values)
    return error


@inlined_kernel
def note_pointer(state: State, row: Scalar, pc: Scalar, unit: Scalar, fields: Integers) -> None:
    """Write the record of a push or pop."""
    is_push, record = fields[col.OPCODE] == PUSH, state.records[row]
    record[st.R_UNIT], record[st.R_PC] = unit, pc
    record[st.R_POINTER] = st.PUSHES if is_push else st.POPS
    record[st.R_OPERANDS] = fields[col.C0] if is_push else fields[col.C1]
    record[st.R_OPERANDS + 1] = fields[col.IMMEDIATE]


@inlined_kernel
def _note_operands(code: Code, hardware: Hardware, state: State, fields: Integers, record: Integers) -> None:
    values, extents = record[st.R_VALUES :], record[st.R_EXTENTS :]
    operands.measure(hardware, code.traits, fields, values, extents)
    for operand in range(3):
        place = st.R_OPERANDS + 2 * operand
        record[place] = st.ABSENT
        if extents[2 * operand] > 0:
            error, slot, inner = operands.locate_operand(code, state, fields, record, operand)
            record[place] = st.FAULTY if error else fields[col.C0 + operand]
            record[place + 1] = error if error else slot
            record[st.R_INNER + operand] = inner


@inner_kernel
def note_word(code: Code, state: State, core: Scalar, row: Scalar, pc: Scalar, fields: Integers) -> Scalar:
    """Write the record of a load of a word, of which only the wait matters; return an error code."""
    buffer, record = fields[col.C1], state.records[row]
    if buffer >= code.buffers.shape[0]:
        return codes.BAD_BUFFER
    if not claim(state, core // st.CORES, buffer, st.CONSUMER, core * _UNITS + _CORE):
        return codes.TWO_CONSUMERS
    offset = state.core[core, st.REGISTER + fields[col.R2]]
    error, slot, _ = operands.locate(code, state, buffer, offset, 1, 4, 0)
    record[st.R_UNIT], record[st.R_PC] = _CORE, pc
    record[st.R_OPERANDS], record[st.R_OPERANDS + 1] = buffer, slot
    return error


@inner_kernel
def note_command(
    code: Code,
    hardware: Hardware,
    state: State,
    counts: Integers,
    pe: Scalar,
    row: Scalar,
    pc: Scalar,
    fields: Integers,
) -> None:
    """Write the record of a command, whose register values stand in it already; count what it does."""
    traits, record = code.traits[fields[col.OPCODE]], state.records[row]
    values, extents = record[st.R_VALUES :], record[st.R_EXTENTS :]
    _note_operands(code, hardware, state, fields, record)
    record[st.R_UNIT], record[st.R_PC], record[st.R_POINTER] = traits[tr.UNIT], pc, st.NO_POINTER
    record[st.R_PART] = fields[st.PART]
    record[st.R_LINK], record[st.R_INDEXED] = traits[tr.LINK_ROLE], traits[tr.INDEXED]
    record[st.R_READ], record[st.R_WRITE] = traits[tr.MEMORY_READ], traits[tr.MEMORY_WRITE]
    record[st.R_READ_PLACES], record[st.R_WRITE_PLACES] = -1, -1
    record[st.R_BROADCAST] = fields[col.MODE] if traits[tr.MEMORY_READ] == _BROADCAST_SLOT else 0
    record[st.R_OCCUPANCY] = commands.work_ticks(hardware, counts, fields, values, extents, traits)
    record[st.R_LATENCY] = hardware.cost[traits[tr.TIMING], hw.LATENCY]
    record[st.R_LOCAL_TICKS] = commands.local_ticks(hardware, counts, extents)
    record[st.R_BANK] = fields[col.BANK] if traits[tr.USES_BANK] else -1
    counts[fields[col.OPCODE]] += 1


@inner_kernel
def check_pointer(code: Code, state: State, core: Scalar, fields: Integers) -> tuple[Scalar, Scalar]:
    """Return (error, stream that a push or pop of a core belongs to, which may be the core itself)."""
    is_push = fields[col.OPCODE] == PUSH
    buffer = fields[col.C0] if is_push else fields[col.C1]
    state.scratch[st.ERROR_DETAIL] = buffer
    if buffer >= code.buffers.shape[0]:
        return codes.BAD_BUFFER, -1
    if fields[col.IMMEDIATE] > code.buffers[buffer, 2] or fields[col.IMMEDIATE] < 0:
        return (codes.PUSH_TOO_MANY if is_push else codes.POP_TOO_MANY), -1
    owner = state.buffer[core // st.CORES, buffer, st.PRODUCER if is_push else st.CONSUMER]
    if owner < 0:
        return codes.BAD_BUFFER, -1
    if owner // _UNITS != core:
        return (codes.TWO_PRODUCERS if is_push else codes.TWO_CONSUMERS), -1
    return codes.OK, owner


@inner_kernel
def pop_at_once(code: Code, state: State, core: Scalar, fields: Integers) -> Scalar:
    """Pop slots of a buffer that the core itself reads; return NEXT, or STOP if they are not there yet."""
    pe, buffer = core // st.CORES, fields[col.C1]
    if not queues.pop_slots(code, state, pe, buffer, fields[col.IMMEDIATE], state.core[core, st.TIME]):
        state.core[core, st.STATUS] = st.ON_DATA
        state.core[core, st.WAITING_FOR] = buffer
        return STOP
    queues.wake_stream(state, pe, state.buffer[pe, buffer, st.PRODUCER], state.core[core, st.TIME], st.ON_SPACE)
    return NEXT


@inlined_kernel
def await_word(code: Code, state: State, core: Scalar, buffer: Scalar, slot: Scalar) -> Scalar:
    """Let a core wait until a slot that it reads is there; return NEXT, or STOP if nobody has pushed it yet."""
    ready = operands.ready_time(code, state, core // st.CORES, buffer, slot, False)
    if ready < 0:
        state.core[core, st.STATUS] = st.ON_DATA
        state.core[core, st.WAITING_FOR] = buffer
        return STOP
    state.core[core, st.TIME] = max(state.core[core, st.TIME], ready)
    return NEXT
