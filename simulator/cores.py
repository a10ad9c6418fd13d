"""The scalar cores: they run ahead in their own time until a queue is full, data is missing, or the code ends."""

from __future__ import annotations

from isa import columns as col
from isa.table import BY_NAME, Unit
from simulator import codes, operands, queues, records, words
from simulator import hardware as hw
from simulator import state as st
from simulator import traits as tr
from simulator.commands import jitter
from simulator.hardware import Hardware
from simulator.jit import inlined_kernel, inner_kernel
from simulator.scalar import follow_loops, scalar
from simulator.state import Code, Integers, Memory, Scalar, State, Stats
from simulator.synchronizing import FENCE, NEXT, SIGNAL, STOP, synchronize

_CORE = int(Unit.CORE)
HALT = BY_NAME["halt"].opcode
_UNITS = st.UNITS


@inlined_kernel
def _issue(
    code: Code,
    hardware: Hardware,
    state: State,
    stats: Stats,
    core: Scalar,
    pc: Scalar,
    stream: Scalar,
    fields: Integers,
) -> tuple[Scalar, Scalar]:
    """Issue a command; return (error, NEXT or STOP when the queue is full)."""
    if state.stream[stream, st.COUNT] == queues.queue_depth(state):
        state.core[core, st.STATUS] = st.ON_QUEUE
        state.core[core, st.WAITING_FOR] = stream
        return codes.OK, STOP
    pe, row = core // st.CORES, stream * queues.queue_depth(state) + queues.free_position(state, stream)
    state.core[core, st.TIME] += hardware.numbers[hw.ISSUE_TICKS + fields[col.OPCODE]]
    stats.parts[fields[st.PART], st.COMMANDS] += 1
    if fields[col.OPCODE] == records.PUSH or fields[col.OPCODE] == records.POP:
        records.note_pointer(state, row, pc, stream % _UNITS, fields)
    else:
        values = state.records[row, st.R_VALUES :]
        for slot in range(8):
            values[slot] = state.core[core, st.REGISTER + fields[col.R0 + slot]]
        error = records.check(code, hardware, state, pe, stream, fields, values)
        if error:
            return error, STOP
        if state.core[core, st.FOLLOWS_WORDS]:
            words.draw_addresses(code, hardware, state, stats, core, stream, fields, values)
        records.note_command(code, hardware, state, stats.parts[fields[st.PART]], pe, row, pc, fields)
    queues.enqueue(state, core, stream % _UNITS, row, state.core[core, st.TIME] + jitter(hardware, state))
    return codes.OK, NEXT


@inner_kernel
def _load_word(
    code: Code, state: State, stats: Stats, memories: Memory, core: Scalar, fields: Integers, functional: Scalar
) -> tuple[Scalar, Scalar]:
    """Load an int32 from a buffer, waiting for it; without data (a profile) it is 0, and `words` follows it."""
    pe, buffer = core // st.CORES, fields[col.C1]
    state.scratch[st.ERROR_DETAIL] = buffer
    if buffer >= code.buffers.shape[0]:
        return codes.BAD_BUFFER, STOP
    if not records.claim(state, pe, buffer, st.CONSUMER, core * _UNITS + _CORE):
        return codes.TWO_CONSUMERS, STOP
    error, slot, inner = operands.locate(code, state, buffer, state.core[core, st.REGISTER + fields[col.R2]], 1, 4, 0)
    if error:
        return error, STOP
    if records.await_word(code, state, core, buffer, slot) == STOP:
        return codes.OK, STOP
    word = 0
    if functional:
        address = operands.address(code, state, pe, buffer, slot, inner, False)
        for byte in range(4):
            word |= int(memories.local[pe, address + byte]) << (8 * byte)
    else:
        words.note_load(state, stats, core, fields)
    if fields[col.R0] != 0:
        state.core[core, st.REGISTER + fields[col.R0]] = word - (1 << 32) if word >= 1 << 31 else word
    return codes.OK, NEXT


@inner_kernel
def interpret(
    code: Code,
    hardware: Hardware,
    state: State,
    stats: Stats,
    memories: Memory,
    core: Scalar,
    functional: Scalar,
    has_turn: Scalar,
) -> Scalar:
    """Run a core until it stops; return an error code, or NEEDS_TURN before it meets others without having the turn."""
    number = core % st.CORES
    while True:
        pc = state.core[core, st.PC]
        state.scratch[st.ERROR_PC] = pc
        if pc < 0 or pc >= code.header[st.LENGTH + number]:
            return codes.ENDS_WITHOUT_HALT
        fields = code.instructions[number, pc]
        opcode = fields[col.OPCODE]
        row = code.traits[opcode]
        if row[tr.KNOWN] == 0:
            state.scratch[st.ERROR_DETAIL] = opcode
            return codes.UNKNOWN_OPCODE
        error, action, finished, stream = codes.OK, NEXT, True, -1
        if opcode == HALT:
            state.core[core, st.STATUS] = st.HALTED
            return codes.OK
        if row[tr.UNIT] != _CORE:
            stream = core * _UNITS + row[tr.UNIT]
        elif opcode == records.PUSH or opcode == records.POP:
            error, stream = records.check_pointer(code, state, core, fields)
            if not error and stream % _UNITS == _CORE:
                action, stream = records.pop_at_once(code, state, core, fields), -1
                finished = action == NEXT
        elif opcode == records.LOAD_WORD:
            error, action = _load_word(code, state, stats, memories, core, fields, functional)
            finished = action == NEXT
        elif SIGNAL <= opcode <= FENCE:
            error, action, finished = synchronize(code, hardware, state, core, opcode, fields, has_turn)
        else:
            if state.core[core, st.FOLLOWS_WORDS]:
                words.follow(state, stats, core, opcode, fields)
            error, action = scalar(code, hardware, state, core, pc, opcode, fields)
        if stream >= 0:
            error, action = _issue(code, hardware, state, stats, core, pc, stream, fields)
            finished = action == NEXT
        if error:
            return error
        if finished:
            state.core[core, st.TIME] += hardware.numbers[hw.SCALAR_TICKS]
            stats.parts[fields[st.PART], st.SCALAR_INSTRUCTIONS] += 1
            state.core[core, st.EXECUTED] += 1
            state.core[core, st.PC] = action if action >= 0 else follow_loops(state, core, pc + 1, False)
        if action == STOP:
            return codes.OK
        if state.core[core, st.EXECUTED] > hardware.numbers[hw.INSTRUCTION_LIMIT]:
            state.scratch[st.ERROR_DETAIL] = hardware.numbers[hw.INSTRUCTION_LIMIT]
            return codes.TOO_LONG
