"""The arrays of one launch: code (immutable), mutable state, and counters.

`new_state` is the only place that allocates; `reset` brings a state back to the start of a launch, which is always the
same (idle units, empty buffers, closed traffic), so equal launches take equal time. Kernels never allocate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simulator import hardware as hw
from simulator.hardware import Hardware

Integers = npt.NDArray[np.int64]
CORES, UNITS, SEMAPHORES, MAX_SLOTS, LOOP_DEPTH, REGISTERS = 2, 6, 16, 64, 8, 32

# Columns of `State.core`.
PC, TIME, STATUS, WAITING_FOR, LOOPS, EXECUTED = range(6)
# Status of a core.
RUNNING, ON_QUEUE, ON_FENCE, ON_BARRIER, ON_SEMAPHORE, ON_DATA, HALTED = range(7)
# Columns of `State.stream`.
HEAD, COUNT, STREAM_STATUS, CLOCK, FINISH, READY, STARTED, DETAIL = range(8)
# Status of a stream (the head of a command queue).
IDLE, ON_INPUT, ON_SPACE, ON_BANK, ON_GROUP, ON_LINK, SCHEDULED = range(7)
# Columns of `State.queue`.
Q_PC, Q_ARRIVAL, Q_SNAPSHOT, Q_VALUES = 0, 1, 2, 3
# Columns of `State.buffer`.
PUSHED, POPPED, PRODUCER, CONSUMER = range(4)
# Columns of `State.bank`.
DPE_ISSUED, DPE_DONE, DPE_TIME, RE_ISSUED, RE_DONE, RE_TIME = range(6)
# Columns of `State.group` (one broadcast that is being gathered).
G_ARRIVED, G_TIME, G_ADDRESS, G_ROWS, G_BYTES, G_PITCH = range(6)
# Columns of `State.error`.
ERROR_CODE, ERROR_PE, ERROR_CORE, ERROR_PC, ERROR_DETAIL, ERROR_EXTRA = range(6)
# Rows of `Stats.macs`: all the array does, and those on rows that hold data (for energy).
ISSUED_MACS, ACTIVE_MACS = range(2)
# Columns of `Stats.counters`.
(
    DRAM_READ, DRAM_WRITTEN, SRAM_READ, SRAM_WRITTEN, LOCAL_READ, LOCAL_WRITTEN, NOC_BYTES, DRAM_ROWS,
    SCALAR_INSTRUCTIONS, COMMANDS, SIMD_ELEMENTS, LUT_ELEMENTS, ACCUMULATOR_ELEMENTS,
) = range(13)  # fmt: skip
COUNTER_COUNT = 13


class Code(NamedTuple):
    """A launch: instructions int64[2, n, 18], buffers int64[n, 3] (base, slot bytes, slots), arguments, rectangle."""

    instructions: Integers
    lengths: Integers
    buffers: Integers
    arguments: Integers
    rectangle: Integers
    traits: Integers


class State(NamedTuple):
    """Everything that changes during a launch, except memory contents."""

    core: Integers
    registers: Integers
    loops: Integers
    stream: Integers
    queue: Integers
    in_flight: Integers
    buffer: Integers
    push_time: Integers
    pop_time: Integers
    bank: Integers
    unit_free: Integers
    local_free: Integers
    link_free: Integers
    channel_free: Integers
    slice_free: Integers
    group: Integers
    semaphore: Integers
    semaphore_time: Integers
    barrier: Integers
    neighbour: Integers
    heap: Integers
    heap_size: Integers
    error: Integers
    random: Integers
    values: Integers
    extents: Integers


class Stats(NamedTuple):
    """Counters of a launch; times in ticks."""

    opcode_count: Integers
    busy: Integers
    local_busy: Integers
    link_busy: Integers
    channel_busy: Integers
    slice_busy: Integers
    macs: Integers
    counters: Integers


class Memory(NamedTuple):
    """Simulated contents; arrays of size 1 where nothing is executed."""

    local: npt.NDArray[np.uint8]
    sram: npt.NDArray[np.uint8]
    dram: npt.NDArray[np.uint8]
    banks: npt.NDArray[np.float32]
    links: npt.NDArray[np.float32]


def new_state(hardware: Hardware) -> State:
    """Allocate the state for launches of any size up to the whole grid."""
    numbers = hardware.numbers
    rows, columns = int(numbers[hw.ROWS]), int(numbers[hw.COLUMNS])
    pes, depth = rows * columns, int(numbers[hw.QUEUE_DEPTH])
    streams, cores, banks = pes * CORES * UNITS, pes * CORES, int(numbers[hw.BANKS])

    def zeros(*shape: int) -> Integers:
        return np.zeros(shape, dtype=np.int64)

    return State(
        core=zeros(cores, 6), registers=zeros(cores, REGISTERS), loops=zeros(cores, LOOP_DEPTH, 3),
        stream=zeros(streams, 8), queue=zeros(streams, depth, 3 + 8),
        in_flight=zeros(streams, int(numbers[hw.OUTSTANDING])), buffer=zeros(pes, 64, 4),
        push_time=zeros(pes, 64, MAX_SLOTS), pop_time=zeros(pes, 64, MAX_SLOTS), bank=zeros(pes, banks, 6),
        unit_free=zeros(pes, UNITS), local_free=zeros(pes), link_free=zeros(rows, 2),
        channel_free=zeros(int(numbers[hw.DRAM_CHANNELS])), slice_free=zeros(int(numbers[hw.SRAM_SLICES])),
        group=zeros(CORES, rows + columns + 1, 6), semaphore=zeros(pes, SEMAPHORES, 2),
        semaphore_time=zeros(pes, SEMAPHORES, MAX_SLOTS), barrier=zeros(CORES, 2), neighbour=zeros(pes, 4, 2),
        heap=zeros(streams + cores + 1, 2), heap_size=zeros(1), error=zeros(6), random=zeros(1), values=zeros(8),
        extents=zeros(3, 2),
    )  # fmt: skip


def new_stats(hardware: Hardware) -> Stats:
    """Allocate counters, all zero."""
    numbers = hardware.numbers
    pes = int(numbers[hw.ROWS] * numbers[hw.COLUMNS])

    def zeros(*shape: int) -> Integers:
        return np.zeros(shape, dtype=np.int64)

    return Stats(
        opcode_count=zeros(256), busy=zeros(pes, UNITS), local_busy=zeros(pes),
        link_busy=zeros(int(numbers[hw.ROWS]), 2), channel_busy=zeros(int(numbers[hw.DRAM_CHANNELS])),
        slice_busy=zeros(int(numbers[hw.SRAM_SLICES])), macs=zeros(2, 16), counters=zeros(COUNTER_COUNT),
    )  # fmt: skip


def reset(state: State, seed: int) -> None:
    """Bring a state to the start of a launch."""
    for array in state:
        array.fill(0)
    state.buffer[:, :, PRODUCER:] = -1
    state.random[0] = seed
