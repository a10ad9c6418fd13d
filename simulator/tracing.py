"""Traces: what a core does, worked out once for all PEs on which it does the same.

Without data nothing that a core computes depends on time, so its commands can be told before the launch runs. One PE
leads: its code is interpreted, and registers of all PEs are followed beside it (`State.lanes`) from where coordinates
make them different. PEs that would branch differently, or give a command other sizes, leave the trace and are led by
one of their own later; only addresses of transfers may differ, and are kept for each PE. Of a word that is loaded only
the wait is kept, so no register may take it. A launch that fails here, or is too long, is interpreted on each PE
instead, and gives the same figures or tells the error.
"""

from __future__ import annotations

from isa import columns as col
from isa.table import Unit
from simulator import codes, operands, queues, records
from simulator import hardware as hw
from simulator import state as st
from simulator import traits as tr
from simulator.cores import HALT
from simulator.hardware import Hardware
from simulator.jit import inlined_kernel, inner_kernel
from simulator.scalar import (
    ADDI,
    ARG,
    BEQ,
    COORD,
    JUMP,
    LI,
    LOOP,
    MULI,
    arithmetic,
    compare,
    coordinate,
    follow_loops,
    scalar,
)
from simulator.state import Code, Integers, Scalar, State, Stats
from simulator.synchronizing import FENCE, SIGNAL

_CORE, _UNITS = int(Unit.CORE), st.UNITS
_SIZES_SLOT = 6
"""Slots before it are offset and pitch of out, a and b."""


@inlined_kernel
def _lane(state: State, core: Scalar, register: Scalar, pe: Scalar) -> Scalar:
    """Return the register of a PE; that of the leader if all have the same."""
    return (
        state.lanes[register, pe]
        if state.core[core, st.FACTOR + register]
        else state.core[core, st.REGISTER + register]
    )


@inlined_kernel
def _leave(state: State, pe: Scalar) -> None:
    """Let a PE leave the trace, if it follows it."""
    if state.lanes[st.MEMBER, pe] == st.FOLLOWING:
        state.lanes[st.MEMBER, pe] = st.PENDING


@inner_kernel
def _decide(state: State, core: Scalar, opcode: Scalar, fields: Integers) -> None:
    """Let PEs leave that branch or loop otherwise than the leader."""
    leader, left, right = core // st.CORES, fields[col.R1], fields[col.R2]
    for pe in range(leader + 1, state.lanes.shape[1]):
        own, led = _lane(state, core, left, pe), _lane(state, core, left, leader)
        if opcode == LOOP:
            same = max(own, 0) == max(led, 0)
        else:
            other, led_other = _lane(state, core, right, pe), _lane(state, core, right, leader)
            same = compare(opcode, own, other) == compare(opcode, led, led_other)
        if not same:
            _leave(state, pe)


@inner_kernel
def _compute(code: Code, state: State, core: Scalar, opcode: Scalar, fields: Integers) -> None:
    """Do a register instruction for all PEs."""
    for pe in range(core // st.CORES, state.lanes.shape[1]):
        left = _lane(state, core, fields[col.R1], pe)
        if opcode == COORD:
            value = coordinate(code, pe * st.CORES, fields[col.MODE])
        elif opcode == ADDI:
            value = left + fields[col.IMMEDIATE]
        elif opcode == MULI:
            value = left * fields[col.IMMEDIATE]
        else:
            value = arithmetic(opcode, left, _lane(state, core, fields[col.R2], pe))
        state.lanes[fields[col.R0], pe] = value


@inlined_kernel
def _follow(code: Code, state: State, core: Scalar, opcode: Scalar, fields: Integers) -> None:
    """Follow the registers of all PEs through an instruction that the leader is about to run."""
    differs = state.core[core, st.FACTOR :]
    is_different = differs[fields[col.R1]] != 0
    if opcode != ADDI and opcode != MULI and opcode != LOOP:
        is_different = is_different or differs[fields[col.R2]] != 0
    if BEQ <= opcode <= JUMP or opcode == LOOP:
        if is_different and opcode != JUMP:
            _decide(state, core, opcode, fields)
        return
    if opcode in (LI, ARG):
        is_different = False
    is_different = is_different or opcode == COORD
    if is_different:
        _compute(code, state, core, opcode, fields)
    if fields[col.R0] != 0:
        differs[fields[col.R0]] = 1 if is_different else 0


@inlined_kernel
def _is_alike(code: Code, state: State, fields: Integers, record: Integers, slot: Scalar, value: Scalar) -> Scalar:
    """Tell whether a command takes the same time with another value: the same, or another place in the same slot."""
    if value == record[st.R_VALUES + slot]:
        return True
    if slot % 2 == 1 or slot >= _SIZES_SLOT or record[st.R_OPERANDS + slot] < 0:
        return False
    rows, size = record[st.R_EXTENTS + slot], record[st.R_EXTENTS + slot + 1]
    pitch = record[st.R_VALUES + slot + 1] if rows > 1 else 0
    error, place, _ = operands.locate(code, state, fields[col.C0 + slot // 2], value, rows, size, pitch)
    return error == codes.OK and place == record[st.R_OPERANDS + slot + 1]


@inlined_kernel
def _keep_addresses(
    code: Code, state: State, core: Scalar, fields: Integers, row: Scalar, places: Scalar
) -> tuple[Scalar, Scalar]:
    """Keep the addresses of each PE, and let those leave that give other values; return (error, first free place)."""
    traits, record = code.traits[fields[col.OPCODE]], state.records[row]
    pes = state.lanes.shape[1]
    for slot in range(8):
        register = fields[col.R0 + slot]
        if state.core[core, st.FACTOR + register] == 0:
            continue
        if slot == traits[tr.MEMORY_READ] or slot == traits[tr.MEMORY_WRITE]:
            if places + pes > state.addresses.shape[0]:
                return codes.TOO_LONG, places
            for pe in range(pes):
                state.addresses[places + pe] = state.lanes[register, pe]
            record[st.R_READ_PLACES if slot == traits[tr.MEMORY_READ] else st.R_WRITE_PLACES] = places
            places += pes
            continue
        for pe in range(core // st.CORES, pes):
            if not _is_alike(code, state, fields, record, slot, state.lanes[register, pe]):
                _leave(state, pe)
    return codes.OK, places


@inlined_kernel
def _note(
    code: Code, hardware: Hardware, state: State, core: Scalar, pc: Scalar, row: Scalar,
    places: Scalar,
) -> tuple[Scalar, Scalar, Scalar]:  # fmt: skip
    """Write the record of an instruction that is no scalar one; return (error, first free place, ticks to issue it)."""
    fields, pe = code.instructions[core % st.CORES, pc], core // st.CORES
    opcode, error, counts = fields[col.OPCODE], codes.OK, state.counted[fields[st.PART]]
    unit = code.traits[opcode, tr.UNIT]
    if opcode == records.PUSH or opcode == records.POP:
        error, stream = records.check_pointer(code, state, core, fields)
        records.note_pointer(state, row, pc, stream % _UNITS, fields)
        if not error and stream % _UNITS == _CORE:
            return codes.OK, places, 0
    elif opcode == records.LOAD_WORD:
        error = records.note_word(code, state, core, row, pc, fields)
        if state.core[core, st.FACTOR + fields[col.R2]] or fields[col.R0] != 0:
            error = codes.BAD_ARGUMENT
        return error, places, 0
    elif unit == _CORE:
        state.records[row, st.R_UNIT], state.records[row, st.R_PC] = _CORE, pc
        return codes.OK, places, 0
    else:
        values = state.records[row, st.R_VALUES :]
        for slot in range(8):
            values[slot] = state.core[core, st.REGISTER + fields[col.R0 + slot]]
        error = records.check(code, hardware, state, pe, core * _UNITS + unit, fields, values)
        if not error:
            records.note_command(code, hardware, state, counts, pe, row, pc, fields)
            error, places = _keep_addresses(code, state, core, fields, row, places)
            for operand in range(3):
                if state.records[row, st.R_OPERANDS + 2 * operand] == st.FAULTY:
                    error = codes.LEAVES_SLOT
    counts[st.COMMANDS] += 1
    return error, places, hardware.numbers[hw.ISSUE_TICKS + opcode]


@inner_kernel
def _lead(
    code: Code, hardware: Hardware, state: State, core: Scalar, first: Scalar, places: Scalar
) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """Interpret a core without waiting for anything; return (error, end of its records, first free place, start)."""
    number, row, own = core % st.CORES, first, state.core[core]
    started = ticks = executed = 0
    while True:
        pc = own[st.PC]
        if pc < 0 or pc >= code.header[st.LENGTH + number]:
            return codes.ENDS_WITHOUT_HALT, row, places, 0
        fields = code.instructions[number, pc]
        opcode = fields[col.OPCODE]
        if code.traits[opcode, tr.KNOWN] == 0:
            return codes.UNKNOWN_OPCODE, row, places, 0
        is_noted = code.traits[opcode, tr.UNIT] != _CORE or opcode == records.PUSH or opcode == records.POP
        is_noted = is_noted or SIGNAL <= opcode <= FENCE or opcode == records.LOAD_WORD
        if is_noted or opcode == HALT:
            # Ticks since the record before belong to it, those before the first one to the start.
            if row > first:
                state.records[row - 1, st.R_AFTER] = own[st.TIME] - ticks
            else:
                started = own[st.TIME]
        if opcode == HALT:
            return codes.OK, row, places, started
        if is_noted:
            if row >= state.records.shape[0]:
                return codes.TOO_LONG, row, places, 0
            error, places, issue = _note(code, hardware, state, core, pc, row, places)
            if error:
                return error, row, places, 0
            own[st.TIME] += issue
            state.records[row, st.R_ISSUE], ticks = issue, own[st.TIME]
            row += 1
            following = follow_loops(state, core, pc + 1, False)
        else:
            _follow(code, state, core, opcode, fields)
            error, following = scalar(code, hardware, state, core, pc, opcode, fields)
            if error:
                return error, row, places, 0
        own[st.PC] = following
        own[st.TIME] += hardware.numbers[hw.SCALAR_TICKS]
        executed += 1
        state.counted[fields[st.PART], st.SCALAR_INSTRUCTIONS] += 1
        if executed > hardware.numbers[hw.INSTRUCTION_LIMIT] or executed >= st.TRACED_INSTRUCTIONS:
            return codes.TOO_LONG, row, places, 0


@inlined_kernel
def _claim_as(state: State, buffers: Scalar, leader: Scalar, core: Scalar) -> Scalar:
    """Bind the buffers that a leading core has bound to the same streams of another PE's core; return an error code."""
    pe = core // st.CORES
    for buffer in range(buffers):
        for side in (st.PRODUCER, st.CONSUMER):
            stream = state.buffer[leader // st.CORES, buffer, side]
            is_own = stream >= 0 and stream // _UNITS == leader
            if is_own and not records.claim(state, pe, buffer, side, core * _UNITS + stream % _UNITS):
                return codes.TWO_PRODUCERS
    return codes.OK


@inner_kernel
def _trace_from(
    code: Code, hardware: Hardware, state: State, stats: Stats, core: Scalar, first: Scalar, places: Scalar
) -> tuple[Scalar, Scalar, Scalar]:
    """Trace a core for all PEs that have no trace yet and do the same; return (error, first free record and place)."""
    leader, number, pes = core // st.CORES, core % st.CORES, code.header[st.ROWS] * code.header[st.COLUMNS]
    state.counted[:, :] = 0
    for pe in range(leader, pes):
        if state.lanes[st.MEMBER, pe] == st.PENDING:
            state.lanes[st.MEMBER, pe] = st.FOLLOWING
    error, end, places, started = _lead(code, hardware, state, core, first, places)
    state.core[core, :] = 0
    if error:
        return error, end, places
    members = 0
    for pe in range(leader, pes):
        if state.lanes[st.MEMBER, pe] != st.FOLLOWING:
            continue
        state.lanes[st.MEMBER, pe] = st.TRACED
        members += 1
        own = pe * st.CORES + number
        row = state.core[own]
        row[st.TIME], row[st.CURSOR], row[st.END] = started, first, end
        if _claim_as(state, code.buffers.shape[0], core, own):
            return codes.TWO_PRODUCERS, end, places
    for part in range(stats.parts.shape[0]):
        for counter in range(st.COUNTERS):
            stats.parts[part, counter] += members * state.counted[part, counter]
    return codes.OK, end, places


@inner_kernel
def _shares_banks(state: State, first: Scalar, middle: Scalar, end: Scalar) -> Scalar:
    """Tell whether records from `middle` on use a bank that those before use too."""
    used = 0
    for row in range(first, end):
        if state.records[row, st.R_UNIT] != _CORE and state.records[row, st.R_POINTER] == st.NO_POINTER:
            bank = state.records[row, st.R_BANK]
            if bank >= 0 and row < middle:
                used |= 1 << bank
            elif bank >= 0 and used >> bank & 1:
                return True
    return False


@inner_kernel
def trace(code: Code, hardware: Hardware, state: State, stats: Stats) -> Scalar:
    """Give each core a trace; return an error code, with which the launch must be run without."""
    first = middle = state.stream.shape[0] * queues.queue_depth(state)
    row, places = first, 0
    for number in range(st.CORES):
        state.lanes[st.MEMBER, :] = st.PENDING
        middle = row
        for pe in range(code.header[st.ROWS] * code.header[st.COLUMNS]):
            if state.lanes[st.MEMBER, pe] == st.PENDING:
                error, row, places = _trace_from(code, hardware, state, stats, pe * st.CORES + number, row, places)
                if error:
                    return error
    state.scratch[st.SHARES_BANKS] = 1 if _shares_banks(state, first, middle, row) else 0
    return codes.OK
