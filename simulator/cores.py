"""The scalar cores: they run ahead in their own time until a queue is full, data is missing, or the code ends."""

from __future__ import annotations

from isa import columns as col
from isa.table import BY_NAME, Timing, Unit
from simulator import codes, commands, operands, queues, words
from simulator import hardware as hw
from simulator import state as st
from simulator import traits as tr
from simulator.commands import jitter
from simulator.events import schedule
from simulator.hardware import Hardware
from simulator.jit import inlined_kernel, inner_kernel
from simulator.state import Code, Integers, Memory, Scalar, State, Stats

_CORE = int(Unit.CORE)
_HALT, _LI, _ADD, _SLT = (BY_NAME[name].opcode for name in ("halt", "li", "add", "slt"))
_ADDI, _MULI, _BEQ, _JUMP = (BY_NAME[name].opcode for name in ("addi", "muli", "beq", "jump"))
_LOOP, _ARG, _COORD, _LW = (BY_NAME[name].opcode for name in ("loop", "arg", "coord", "lw"))
_PUSH, _POP, _SIGNAL, _WAIT = (BY_NAME[name].opcode for name in ("push", "pop", "signal", "wait"))
_BARRIER, _FENCE = BY_NAME["barrier"].opcode, BY_NAME["fence"].opcode
_SUB, _MUL, _DIV, _REM, _MIN, _MAX = (BY_NAME[name].opcode for name in ("sub", "mul", "div", "rem", "min", "max"))
_AND, _OR, _XOR, _SLL, _SRA = (BY_NAME[name].opcode for name in ("and", "or", "xor", "sll", "sra"))
_BNE, _BLT = BY_NAME["bne"].opcode, BY_NAME["blt"].opcode
_UNITS = st.UNITS
_MATRIX, _VECTOR_MATRIX = int(Timing.MATRIX), int(Timing.VECTOR_MATRIX)
_BLOCKS_SLOT, _ROWS_SLOT, _COLUMNS_SLOT = 0, 6, 7
_MAX_SIZE = (1 << 31) - 1
NEXT, STOP = -1, -2


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
def _compare(opcode: Scalar, left: Scalar, right: Scalar) -> Scalar:
    if opcode == _BEQ:
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
def _follow_loops(state: State, core: Scalar, pc: Scalar, jumped: Scalar) -> Scalar:
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


@inlined_kernel
def _claim(state: State, pe: Scalar, buffer: Scalar, side: Scalar, stream: Scalar) -> Scalar:
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
        if not _claim(state, pe, buffer, side, stream):
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
def _enqueue(
    code: Code,
    hardware: Hardware,
    state: State,
    stats: Stats,
    core: Scalar,
    pc: Scalar,
    stream: Scalar,
    fields: Integers,
) -> None:
    """Put a command with its register values into a queue that has room."""
    depth, position = queues.queue_depth(state), state.stream[stream, st.HEAD] + state.stream[stream, st.COUNT]
    position -= depth if position >= depth else 0
    (entry,) = queues.queue_entry(state, stream, position)
    entry[st.Q_PC] = pc
    arrival = state.core[core, st.TIME] + jitter(hardware, state)
    entry[st.Q_ARRIVAL] = arrival
    for slot in range(8):
        entry[st.Q_VALUES + slot] = state.core[core, st.REGISTER + fields[col.R0 + slot]]
    if state.core[core, st.FOLLOWS_WORDS]:
        words.draw_addresses(code, hardware, state, stats, core, stream, fields, entry[st.Q_VALUES :])
    operands.measure(hardware, code.traits, fields, entry[st.Q_VALUES :], entry[st.Q_EXTENTS :])
    entry[st.Q_READY] = st.UNKNOWN
    pe, bank = core // st.CORES, fields[col.BANK]
    if code.traits[fields[col.OPCODE], tr.USES_BANK]:
        entry[st.Q_SNAPSHOT] = state.bank[pe, bank, st.BANK_ISSUED]
        state.bank[pe, bank, st.BANK_ISSUED] += 1
    state.stream[stream, st.COUNT] += 1
    if state.stream[stream, st.STREAM_STATUS] == st.IDLE:
        state.stream[stream, st.STREAM_STATUS] = st.SCHEDULED
        schedule(state, arrival, stream)


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
    pe = core // st.CORES
    state.core[core, st.TIME] += hardware.numbers[hw.ISSUE_TICKS + fields[col.OPCODE]]
    stats.parts[fields[st.PART], st.COMMANDS] += 1
    if fields[col.OPCODE] != _PUSH and fields[col.OPCODE] != _POP:
        values = state.scratch[st.VALUES :]
        for slot in range(8):
            values[slot] = state.core[core, st.REGISTER + fields[col.R0 + slot]]
        error = _claim_operands(code, state, pe, stream, fields)
        if not error:
            error = _check_sizes(state, code.traits[fields[col.OPCODE]], values)
        if not error:
            error = _check_unit_limits(code, hardware, state, pe, fields, values)
        if error:
            return error, STOP
    _enqueue(code, hardware, state, stats, core, pc, stream, fields)
    return codes.OK, NEXT


@inner_kernel
def _move_pointer(code: Code, state: State, core: Scalar, fields: Integers) -> tuple[Scalar, Scalar, Scalar]:
    """Return (error, NEXT or STOP, stream to issue a push or pop to); -1: it is the core's own pop, done at once."""
    pe = core // st.CORES
    is_push = fields[col.OPCODE] == _PUSH
    buffer = fields[col.C0] if is_push else fields[col.C1]
    state.scratch[st.ERROR_DETAIL] = buffer
    if buffer >= code.buffers.shape[0]:
        return codes.BAD_BUFFER, STOP, -1
    if fields[col.IMMEDIATE] > code.buffers[buffer, 2] or fields[col.IMMEDIATE] < 0:
        return (codes.PUSH_TOO_MANY if is_push else codes.POP_TOO_MANY), STOP, -1
    owner = state.buffer[pe, buffer, st.PRODUCER if is_push else st.CONSUMER]
    if owner < 0:
        return codes.BAD_BUFFER, STOP, -1
    if owner // _UNITS != core:
        return (codes.TWO_PRODUCERS if is_push else codes.TWO_CONSUMERS), STOP, -1
    if owner % _UNITS == _CORE:
        if not queues.pop_slots(code, state, pe, buffer, fields[col.IMMEDIATE], state.core[core, st.TIME]):
            state.core[core, st.STATUS] = st.ON_DATA
            state.core[core, st.WAITING_FOR] = buffer
            return codes.OK, STOP, -1
        queues.wake_stream(state, state.buffer[pe, buffer, st.PRODUCER], state.core[core, st.TIME], st.ON_SPACE)
        return codes.OK, NEXT, -1
    return codes.OK, NEXT, owner


@inner_kernel
def _load_word(
    code: Code, state: State, stats: Stats, memories: Memory, core: Scalar, fields: Integers, functional: Scalar
) -> tuple[Scalar, Scalar]:
    """Load an int32 from a buffer, waiting for it; without data (a profile) it is 0, and `words` follows it."""
    pe, buffer = core // st.CORES, fields[col.C1]
    state.scratch[st.ERROR_DETAIL] = buffer
    if buffer >= code.buffers.shape[0]:
        return codes.BAD_BUFFER, STOP
    if not _claim(state, pe, buffer, st.CONSUMER, core * _UNITS + _CORE):
        return codes.TWO_CONSUMERS, STOP
    values, extents = state.scratch[st.VALUES :], state.scratch[st.EXTENTS :]
    extents[2 * operands.A], extents[2 * operands.A + 1] = 1, 4
    values[2] = state.core[core, st.REGISTER + fields[col.R2]]
    error, address, ready = operands.place(code, state, pe, fields, values, extents, operands.A)
    if error:
        return error, STOP
    if ready < 0:
        state.core[core, st.STATUS] = st.ON_DATA
        state.core[core, st.WAITING_FOR] = buffer
        return codes.OK, STOP
    state.core[core, st.TIME] = max(state.core[core, st.TIME], ready)
    word = 0
    if functional:
        for byte in range(4):
            word |= int(memories.local[pe, address + byte]) << (8 * byte)
    else:
        words.note_load(state, stats, core, fields)
    if fields[col.R0] != 0:
        state.core[core, st.REGISTER + fields[col.R0]] = word - (1 << 32) if word >= 1 << 31 else word
    return codes.OK, NEXT


@inner_kernel
def _meet(code: Code, hardware: Hardware, state: State, core: Scalar) -> None:
    """Arrive at the barrier of this core's number; the last one lets all go on."""
    number = core % st.CORES
    barrier = state.group[number, state.group.shape[1] - 1]
    barrier[0] += 1
    barrier[1] = max(barrier[1], state.core[core, st.TIME])
    state.core[core, st.STATUS] = st.ON_BARRIER
    members = code.header[st.ROWS] * code.header[st.COLUMNS]
    if barrier[0] < members:
        return
    time = barrier[1] + hardware.numbers[hw.BARRIER_TICKS]
    barrier[0], barrier[1] = 0, 0
    for pe in range(members):
        other = pe * st.CORES + number
        if state.core[other, st.STATUS] == st.ON_BARRIER:
            # This core's own instruction is counted when it is finished; that of the others has been.
            counted = 0 if other == core else hardware.numbers[hw.SCALAR_TICKS]
            queues.wake_core(state, other, time + counted)


@inner_kernel
def _synchronize(
    code: Code, hardware: Hardware, state: State, core: Scalar, opcode: Scalar, fields: Integers, has_turn: Scalar
) -> tuple[Scalar, Scalar, Scalar]:
    """Run signal, wait, barrier or fence; return (error or NEEDS_TURN, NEXT or STOP, whether it is finished)."""
    pe, number = core // st.CORES, fields[col.IMMEDIATE]
    if opcode in (_WAIT, _SIGNAL):
        state.scratch[st.ERROR_DETAIL] = number
        if number < 0 or number >= st.SEMAPHORES:
            return codes.BAD_SEMAPHORE, STOP, False
    if opcode == _WAIT:
        semaphore = state.semaphore[pe, number]
        if semaphore[st.SIGNALLED] == semaphore[st.TAKEN]:
            state.core[core, st.STATUS] = st.ON_SEMAPHORE
            state.core[core, st.WAITING_FOR] = number
            return codes.OK, STOP, False
        posted = semaphore[st.SIGNAL_TIME + semaphore[st.TAKEN] % st.PENDING_SIGNALS]
        semaphore[st.TAKEN] += 1
        state.core[core, st.TIME] = max(state.core[core, st.TIME], posted)
        return codes.OK, NEXT, True
    time = queues.drained_time(state, core)
    if time < 0:
        state.core[core, st.STATUS] = st.ON_FENCE
        return codes.OK, STOP, False
    state.core[core, st.TIME] = max(state.core[core, st.TIME], time)
    if opcode == _BARRIER:
        if not has_turn:
            return codes.NEEDS_TURN, STOP, False
        _meet(code, hardware, state, core)
        return codes.OK, STOP, True
    if opcode == _SIGNAL:
        semaphore = state.semaphore[pe, number]
        if semaphore[st.SIGNALLED] - semaphore[st.TAKEN] >= st.PENDING_SIGNALS:
            return codes.SEMAPHORE_FULL, STOP, False
        semaphore[st.SIGNAL_TIME + semaphore[st.SIGNALLED] % st.PENDING_SIGNALS] = state.core[core, st.TIME]
        semaphore[st.SIGNALLED] += 1
        other = core ^ 1
        for waiting in (core, other):
            if state.core[waiting, st.STATUS] == st.ON_SEMAPHORE and state.core[waiting, st.WAITING_FOR] == number:
                queues.wake_core(state, waiting, state.core[core, st.TIME])
    return codes.OK, NEXT, True


@inner_kernel
def _coordinate(code: Code, core: Scalar, which: Scalar) -> Scalar:
    pe, columns = core // st.CORES, code.header[st.COLUMNS]
    if which == 0:
        return pe // columns
    if which == 1:
        return pe % columns
    return code.header[st.ROWS] if which == 2 else columns


@inlined_kernel
def _scalar(
    code: Code, hardware: Hardware, state: State, core: Scalar, pc: Scalar, opcode: Scalar, fields: Integers
) -> tuple[Scalar, Scalar]:
    """Run a register, branch or loop instruction; return (error, next pc)."""
    registers = state.core[core, st.REGISTER : st.LOOP]
    left, right = registers[fields[col.R1]], registers[fields[col.R2]]
    target = pc + 1 + fields[col.IMMEDIATE]
    if opcode == _JUMP or (_BEQ <= opcode < _JUMP and _compare(opcode, left, right)):
        state.core[core, st.TIME] += hardware.numbers[hw.BRANCH_TICKS]
        return codes.OK, _follow_loops(state, core, target, True)
    if _BEQ <= opcode < _JUMP:
        return codes.OK, _follow_loops(state, core, pc + 1, False)
    if opcode == _LOOP:
        if left <= 0:
            return codes.OK, _follow_loops(state, core, target, False)
        depth = state.core[core, st.LOOPS]
        if depth == st.LOOP_DEPTH:
            return codes.LOOP_TOO_DEEP, 0
        first, end, trips = loop_columns(depth)
        state.core[core, first], state.core[core, end], state.core[core, trips] = pc + 1, target, left
        state.core[core, st.LOOPS] = depth + 1
        return codes.OK, pc + 1
    if opcode == _LI:
        value = fields[col.IMMEDIATE]
    elif opcode == _ADDI:
        value = left + fields[col.IMMEDIATE]
    elif opcode == _MULI:
        value = left * fields[col.IMMEDIATE]
    elif opcode == _ARG:
        index = fields[col.IMMEDIATE]
        if index < 0 or index >= code.header.shape[0] - st.ARGUMENTS:
            state.scratch[st.ERROR_DETAIL] = index
            return codes.BAD_ARGUMENT, 0
        value = code.header[st.ARGUMENTS + index]
    elif opcode == _COORD:
        value = _coordinate(code, core, fields[col.MODE])
    else:
        value = arithmetic(opcode, left, right)
    if fields[col.R0] != 0:
        registers[fields[col.R0]] = value
    return codes.OK, _follow_loops(state, core, pc + 1, False)


@inlined_kernel
def step_core(
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
        if opcode == _HALT:
            state.core[core, st.STATUS] = st.HALTED
            return codes.OK
        if row[tr.UNIT] != _CORE:
            stream = core * _UNITS + row[tr.UNIT]
        elif opcode in (_PUSH, _POP):
            error, action, stream = _move_pointer(code, state, core, fields)
            finished = action == NEXT
        elif opcode == _LW:
            error, action = _load_word(code, state, stats, memories, core, fields, functional)
            finished = action == NEXT
        elif _SIGNAL <= opcode <= _FENCE:
            error, action, finished = _synchronize(code, hardware, state, core, opcode, fields, has_turn)
        else:
            if state.core[core, st.FOLLOWS_WORDS]:
                words.follow(state, stats, core, opcode, fields)
            error, action = _scalar(code, hardware, state, core, pc, opcode, fields)
        if stream >= 0:
            error, action = _issue(code, hardware, state, stats, core, pc, stream, fields)
            finished = action == NEXT
        if error:
            return error
        if finished:
            state.core[core, st.TIME] += hardware.numbers[hw.SCALAR_TICKS]
            stats.parts[fields[st.PART], st.SCALAR_INSTRUCTIONS] += 1
            state.core[core, st.EXECUTED] += 1
            state.core[core, st.PC] = action if action >= 0 else _follow_loops(state, core, pc + 1, False)
        if action == STOP:
            return codes.OK
        if state.core[core, st.EXECUTED] > hardware.numbers[hw.INSTRUCTION_LIMIT]:
            state.scratch[st.ERROR_DETAIL] = hardware.numbers[hw.INSTRUCTION_LIMIT]
            return codes.TOO_LONG
