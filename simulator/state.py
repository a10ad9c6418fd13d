"""The arrays of one launch: code (immutable), mutable state, and counters.

`new_state` is the only place that allocates; `reset` brings a state back to the start of a launch, which is always the
same (idle units, empty buffers, closed traffic), so equal launches take equal time. Kernels never allocate.
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from isa import columns
from isa.kernel import MAX_SLOTS
from simulator import cache, dram
from simulator import hardware as hw
from simulator.hardware import Hardware
from simulator.meaning.tables import Tables

_OWN_PAGES_BYTES = 1 << 18
"""Arrays that large have pages of their own."""
Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Scalar = Any
"""What a kernel holds as int64 or bool; elements of arrays have no better type for the checker."""
Meaning = Callable[..., int]
"""The signature of `simulator.meaning.dispatch.execute`."""
CORES, UNITS, SEMAPHORES, PENDING_SIGNALS, LOOP_DEPTH, REGISTERS = 2, 6, 16, 64, 8, 32
MAX_BUFFERS, MAX_OUTSTANDING = 64, 64

# Columns of `State.core`: `CURSOR` and `END` are the next record of its trace and the one behind the last, 0 for a
# core that interprets its code; `AFTER` is what its instruction adds to its time when it is done, `ON_BANKS` how many
# of its streams wait for a bank. Then the registers, (first, end, trips) of each hardware loop, and the factors by
# which a profile's registers hold loaded words; while a trace is made, these tell whether PEs have different values.
PC, TIME, STATUS, WAITING_FOR, LOOPS, EXECUTED, FOLLOWS_WORDS, CURSOR, END, AFTER, ON_BANKS = range(11)
REGISTER = 11
LOOP = REGISTER + REGISTERS
FACTOR = LOOP + 3 * LOOP_DEPTH
CORE_COLUMNS = FACTOR + REGISTERS
# Status of a core.
RUNNING, ON_QUEUE, ON_FENCE, ON_BARRIER, ON_SEMAPHORE, ON_DATA, HALTED = range(7)
# Columns of `State.stream`: then the entries of the queue, then the ends of transfers in flight.
HEAD, COUNT, STREAM_STATUS, CLOCK, FINISH, STARTED, DETAIL = range(7)
QUEUE = 7
# Status of a stream (the head of a command queue).
IDLE, ON_INPUT, ON_SPACE, ON_BANK, ON_GROUP, ON_LINK, SCHEDULED = range(7)
# Columns of a queue entry.
Q_ARRIVAL, Q_READY, Q_RECORD, Q_SNAPSHOT = range(4)
ENTRY = 4
UNKNOWN = -1
"""`Q_READY` of a command that has not been found ready yet."""
# Columns of `State.records`, which has a row for each entry of each queue, then those of traces. `R_POINTER` tells push
# and pop, whose buffer and slots are those of the first operand; `R_OPERANDS` are (buffer, slot) of out, a and b, or
# (FAULTY, error); `R_BANK` is -1 for none. From `R_PC` on come those that only transfers, errors and execution read:
# slots of the addresses read and written, -1 for none, and where in `State.addresses` the one of each PE stands, -1 if
# it is among the values; then bytes of each operand behind the start of its slot, (rows, bytes per row) of each, and
# the register values r0..r7.
(
    R_UNIT, R_POINTER, R_OPERANDS, R_BANK, R_OCCUPANCY, R_LATENCY, R_LOCAL_TICKS, R_ISSUE, R_AFTER, R_LINK,
) = (0, 1, 2, *range(8, 15))  # fmt: skip
R_PC, R_BROADCAST, R_INDEXED, R_READ, R_READ_PLACES, R_WRITE, R_WRITE_PLACES, R_PART = range(15, 23)
R_INNER = 23
R_EXTENTS = R_INNER + 3
R_VALUES = R_EXTENTS + 6
RECORD = R_VALUES + 8
ABSENT, FAULTY = -1, -2
NO_POINTER, PUSHES, POPS = range(3)
TRACED_RECORDS, TRACED_ADDRESSES, TRACED_INSTRUCTIONS = 1 << 17, 1 << 20, 1 << 22
"""Room for traces, 50 MB: launches that need more are interpreted on each PE."""
QUEUED_RECORDS = 1 << 15
"""Room for queues, 10 MB, that is there at once; there is more for grids and queues that need it."""
# Rows of `State.lanes`: the registers of each PE that a trace follows, then whether it does.
MEMBER = REGISTERS
PENDING, FOLLOWING, TRACED = range(3)
# Columns of `State.buffer`: then for each slot when it was pushed, and when it was popped.
PUSHED, POPPED, PRODUCER, CONSUMER = range(4)
PUSH_TIME, POP_TIME = 4, 5
BUFFER_COLUMNS = PUSH_TIME + 2 * MAX_SLOTS
# Columns of `State.bank`: then when the last command of each unit on it ends.
BANK_ISSUED, BANK_STARTED = range(2)
BANK_TIME = 2
# Columns of `State.pe`: when each unit and the local memory are free, then (full, time) of the four incoming links.
LOCAL = UNITS
INCOMING = LOCAL + 1
# Rows of `State.servers` and `Stats.server_busy`: channels (busy only), banks of slices, links of the network.
CHANNELS, SRAM_BANKS, LINKS = range(3)
# Columns of `State.semaphore`: then the times of signals.
SIGNALLED, TAKEN = range(2)
SIGNAL_TIME = 2
# Columns of `State.agenda`: the time of the next event of each stream and core of a PE, then time and id of the last
# event that was handled, and 1 + the actor that waits for its turn.
AGENDA_CLOCK = UNITS * CORES + CORES
AGENDA_ID, AGENDA_WAITING = AGENDA_CLOCK + 1, AGENDA_CLOCK + 2
AGENDA_COLUMNS = AGENDA_CLOCK + 3
NEVER = (1 << 63) - 1
# Places in `State.meetings` of a PE, for each core: the broadcast (its mode) and the barrier it waits for, 0 for none.
IN_BROADCAST, AT_BARRIER = range(2)
BARRIER_OF_ALL = 4
# Columns of `State.group` (one broadcast that is being gathered): how many PEs have come, what they ask for, then when
# the last one comes, the id of its event, and which PE it is. Its last row counts arrivals at the barrier.
G_ARRIVED, G_ADDRESS, G_ROWS, G_BYTES, G_PITCH, G_TIME, G_ID, G_LAST = range(8)
# Places in `State.scratch`: then how many interleave units of each slice a transfer touches.
(
    ERROR_CODE,
    ERROR_PE,
    ERROR_CORE,
    ERROR_PC,
    ERROR_DETAIL,
    ERROR_EXTRA,
    RANDOM,
    CURRENT_PE,
    IS_EARLY,
    SHARES_BANKS,
    PRESENT_TIME,
    PRESENT_ID,
    TOUCHED,
) = range(13)
# Places in `Stats.counts`: commands by opcode, issued MACs by element type, MACs on rows that hold data, counters, and
# how many ticks the units and local memories of all PEs were busy.
ISSUED_MACS = 256
ACTIVE_MACS = ISSUED_MACS + 16
(
    DRAM_READ, DRAM_WRITTEN, SRAM_READ, SRAM_WRITTEN, CACHE_HIT, CACHE_FILLED, NOC_BYTES, BYTE_HOPS, DRAM_ROWS,
    LOCAL_READ, LOCAL_WRITTEN, SIMD_ELEMENTS, LUT_ELEMENTS, ACCUMULATOR_ELEMENTS, SCALAR_INSTRUCTIONS, COMMANDS,
    WORDS_ASSUMED, ROWS_DRAWN,
) = range(ACTIVE_MACS + 16, ACTIVE_MACS + 34)  # fmt: skip
BUSY = ROWS_DRAWN + 1
COUNTERS = BUSY + LOCAL + 1
PART_END = COUNTERS
"""Column of `Stats.parts` behind the counters: when the last command of the part was complete."""
PART = len(columns.NAMES)
"""Column of `Code.instructions` behind those of `isa.columns`: the part of the kernel that an instruction is in."""
# Places in `Code.header`: the rectangle, the lengths of the code, then the arguments.
ROWS, COLUMNS, LENGTH = range(3)
ARGUMENTS = LENGTH + CORES


class Code(NamedTuple):
    """A launch: instructions int64[2, n, PART + 1], buffers int64[n, 3] (base, slot bytes, slots), header, traits.

    `tables` int64[n, 2] has the first address and the end of each storage that the arguments name; `routes` and `links`
    are those of `isa.network.routes`.
    """

    instructions: Integers
    buffers: Integers
    header: Integers
    traits: Integers
    tables: Integers
    routes: Integers
    links: Integers


class State(NamedTuple):
    """Everything that changes during a launch, except memory contents; few arrays, because each costs compile time."""

    core: Integers
    stream: Integers
    buffer: Integers
    bank: Integers
    pe: Integers
    servers: Integers
    ports: Integers
    cache: Integers
    dram: Integers
    group: Integers
    semaphore: Integers
    meetings: Integers
    agenda: Integers
    turns: Integers
    records: Integers
    lanes: Integers
    addresses: Integers
    counted: Integers
    scratch: Integers


class Stats(NamedTuple):
    """Counters of a launch; times in ticks. `server_busy` is as `State.servers`.

    `parts` has a row for each part of the kernel: the counters of what its code does. While a launch runs, `counts` has
    what is not on a part yet, or on none; see `simulator.parts`.
    """

    counts: Integers
    server_busy: Integers
    parts: Integers


class Memory(NamedTuple):
    """Simulated contents; arrays of size 1 where nothing is executed."""

    local: npt.NDArray[np.uint8]
    sram: npt.NDArray[np.uint8]
    dram: npt.NDArray[np.uint8]
    banks: npt.NDArray[np.float32]
    links: npt.NDArray[np.float32]


class Chip(NamedTuple):
    """All that a launch works on; `meaning` is what executes commands."""

    code: Code
    hardware: Hardware
    state: State
    stats: Stats
    memories: Memory
    tables: Tables
    meaning: Meaning


def _zeros(*shape: int) -> Integers:
    """Return zeros; many of them in pages of their own, which the system gets back whatever lies behind them by then.

    In C's heap small things that live longer than a state would keep the room of one after the other from it.
    """
    size = 8 * math.prod(shape)
    if size < _OWN_PAGES_BYTES:
        return np.zeros(shape, dtype=np.int64)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype=np.int64).reshape(shape)


class _Spaces(threading.local):
    """What all states of a thread share, because it holds nothing between launches and is dear to get: its pages.

    They are taken at once, so that memory does not grow with the longest trace that a sweep comes to.
    """

    records: Integers = _zeros(0, RECORD)
    addresses: Integers = _zeros(0)


_spaces = _Spaces()


def _records(queued: int) -> Integers:
    """Return room for the records of queues and traces."""
    needed = max(queued, QUEUED_RECORDS) + TRACED_RECORDS
    if len(_spaces.records) < needed:
        _spaces.records = np.full((needed, RECORD), 0, np.int64)
    return _spaces.records


def _addresses() -> Integers:
    """Return room for the addresses of traces."""
    if not len(_spaces.addresses):
        _spaces.addresses = np.full(TRACED_ADDRESSES, 0, np.int64)
    return _spaces.addresses


def _server_shape(hardware: Hardware) -> tuple[int, int]:
    numbers = hardware.numbers
    banks = numbers[hw.SRAM_SLICES] * numbers[hw.SRAM_BANKS]
    return 3, int(max(numbers[hw.DRAM_CHANNELS], banks, numbers[hw.LINKS]))


def new_state(hardware: Hardware, parts: int = 1, buffers: int = MAX_BUFFERS) -> State:
    """Allocate the state for launches of any size up to the whole grid, and kernels of so many parts and buffers."""
    numbers = hardware.numbers
    rows, columns = int(numbers[hw.ROWS]), int(numbers[hw.COLUMNS])
    pes, depth = rows * columns, int(numbers[hw.QUEUE_DEPTH])
    streams, cores = pes * CORES * UNITS, pes * CORES
    return State(
        core=_zeros(cores, CORE_COLUMNS), stream=_zeros(streams, QUEUE + depth * ENTRY + MAX_OUTSTANDING),
        buffer=_zeros(pes, buffers, BUFFER_COLUMNS),
        bank=_zeros(pes, int(numbers[hw.BANKS]), BANK_TIME + UNITS),
        pe=_zeros(pes, INCOMING + 8), servers=_zeros(*_server_shape(hardware)), ports=_zeros(int(numbers[hw.PORTS])),
        cache=_zeros(int(numbers[hw.CACHE_SETS]) + 1, 2 * int(numbers[hw.CACHE_WAYS]) + 1),
        dram=_zeros(int(numbers[hw.DRAM_CHANNELS]), dram.columns(numbers)),
        group=_zeros(CORES, rows + columns + 2, G_LAST + 1), meetings=_zeros(pes, 2 * CORES),
        semaphore=_zeros(pes, SEMAPHORES, SIGNAL_TIME + PENDING_SIGNALS), agenda=_zeros(pes, AGENDA_COLUMNS),
        turns=_zeros(2 << (pes - 1).bit_length(), 2), records=_records(streams * depth),
        lanes=_zeros(MEMBER + 1, pes), addresses=_addresses(),
        scratch=_zeros(TOUCHED + int(numbers[hw.SRAM_SLICES])), counted=_zeros(parts, COUNTERS),
    )  # fmt: skip


def new_stats(hardware: Hardware, parts: int = 1) -> Stats:
    """Allocate counters of a launch of so many parts, all zero."""
    return Stats(_zeros(COUNTERS), _zeros(*_server_shape(hardware)), _zeros(parts, PART_END + 1))


def reset(hardware: Hardware, state: State, buffers: int) -> None:
    """Bring a state to the start of a launch of a kernel with so many buffers."""
    kept = (state.cache, state.records, state.addresses, state.buffer)
    for array in state:
        if not any(array is one for one in kept):
            array.fill(0)
    cache.start_launch(state.cache)
    state.buffer[:, :buffers] = 0
    state.buffer[:, :buffers, PRODUCER : CONSUMER + 1] = -1
    state.agenda[:, :AGENDA_CLOCK] = NEVER
    state.turns[:, 0] = NEVER
    state.scratch[CURRENT_PE] = -1
    state.scratch[RANDOM] = hardware.numbers[hw.JITTER_SEED]
    state.core[:, AFTER] = hardware.numbers[hw.SCALAR_TICKS]
    dram.start(hardware.numbers, state.dram)
