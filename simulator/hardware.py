"""A machine as arrays for the kernels: the only bridge between `isa.Machine` and compiled code.

Time is counted in ticks of 1/1024 cycle, so that rates which are no whole number of cycles stay exact enough
(a 32-byte DRAM burst on `mtia-2i` is 3.9 cycles) while all sums are integers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from isa.dtypes import DTYPES
from isa.memory_map import fold_count
from isa.table import INSTRUCTIONS, Timing
from simulator.jit import inlined_kernel

if TYPE_CHECKING:
    from isa.machine import Machine

TICKS_PER_CYCLE = 1024
Integers = npt.NDArray[np.int64]

(
    ROWS, COLUMNS, LOCAL_BYTES, QUEUE_DEPTH, SCALAR_TICKS, BRANCH_TICKS, LOCAL_BYTES_PER_CYCLE, BANKS,
    BLOCK_ROWS, BLOCK_K_BYTES, FILL_BYTES_PER_CYCLE, OUTSTANDING, PORT_BYTES_PER_CYCLE, LINK_BYTES_PER_CYCLE,
    REQUEST_TICKS, SRAM_BYTES, SRAM_SLICES, SRAM_INTERLEAVE, SRAM_TICKS, DRAM_BYTES, DRAM_CHANNELS, DRAM_INTERLEAVE,
    DRAM_TICKS, DRAM_ACCESS_BYTES, BARRIER_TICKS, JITTER_TICKS, JITTER_SEED, INSTRUCTION_LIMIT, SRAM_ACCESS_BYTES,
    SRAM_PIECE_TICKS, DRAM_ROW_BYTES, INDEX_SEED, INDEX_MILLI, DRAM_GROUPS, DRAM_BANKS, DRAM_QUEUE, WRITE_BATCH,
    BURST_BYTES, BURST_TICKS, GROUP_BURST_TICKS, COMMAND_TICKS, ROW_COMMANDS, ACTIVATE_TICKS,
    ROW_CYCLE_TICKS, ACTIVATE_SPACING_TICKS, READ_CLOSE_TICKS, WRITE_CLOSE_TICKS, READ_LATENCY_TICKS, TURN_TICKS,
    REFRESH_PERIOD_TICKS, REFRESH_BLOCK_TICKS, BANK_REFRESH_TICKS, UNITS_PER_ROW, HOP_TICKS, PORTS, LINKS, ROW_LINKS,
    COLUMN_LINK_BYTES_PER_CYCLE, SRAM_BANKS, SRAM_BANK_INTERLEAVE, CACHE_SETS, CACHE_WAYS, CACHE_LINE_SHIFT, SRAM_FOLDS,
    DRAM_FOLDS,
) = range(65)  # fmt: skip
MATRIX_TICKS = 65
ELEMENT_BYTES = MATRIX_TICKS + 16
VECTOR_TICKS = ELEMENT_BYTES + 16
ISSUE_TICKS = VECTOR_TICKS + 16
SHIFTS = ISSUE_TICKS + 256
NUMBER_COUNT = SHIFTS + MATRIX_TICKS

FIXED, LANES, LATENCY = range(3)
DEFAULT_INSTRUCTION_LIMIT = 1 << 33
"""Scalar instructions a launch may execute before it is reported as endless."""


class Hardware(NamedTuple):
    """`numbers` by the constants above, and `cost[timing class]` = (fixed ticks, lanes per cycle, latency ticks).

    `numbers[MATRIX_TICKS + dtype code]` is the time per streamed row of one block, 0 if unsupported;
    `numbers[ELEMENT_BYTES + dtype code]` the size of an element, 0 if packed; `numbers[VECTOR_TICKS + dtype code]` the
    time of a SIMD vector; `numbers[ISSUE_TICKS + opcode]` the time to issue a command; `numbers[SRAM_PIECE_TICKS]` the
    time that one `SRAM_BANK_INTERLEAVE` keeps a bank busy; `numbers[SHIFTS + i]` is the logarithm of `numbers[i]`, -1
    if that is no power of two: see `quotient`.
    """

    numbers: Integers
    cost: Integers


@inlined_kernel
def quotient(numbers: Integers, value: Any, divisor: int) -> Any:
    """Return `value // numbers[divisor]` of a value that is not negative, without a division for powers of two."""
    shift = numbers[SHIFTS + divisor]
    return value >> shift if shift >= 0 else value // numbers[divisor]


@inlined_kernel
def remainder(numbers: Integers, value: Any, divisor: int) -> Any:
    """Return `value % numbers[divisor]` of a value that is not negative, without a division for powers of two."""
    return value & (numbers[divisor] - 1) if numbers[SHIFTS + divisor] >= 0 else value % numbers[divisor]


def _cost_table(machine: Machine) -> Integers:
    cost = np.ones((len(Timing), 3), dtype=np.int64)
    cycle = TICKS_PER_CYCLE
    accumulator, simd, layout = machine.accumulator, machine.simd, machine.layout
    cost[Timing.TRANSFER] = machine.dma.issue_cycles * cycle, machine.dma.bytes_per_cycle, 0
    cost[Timing.LAYOUT] = 0, layout.bytes_per_cycle, layout.latency_cycles * cycle
    cost[Timing.MATRIX] = 0, 1, machine.matrix.fill_cycles * cycle
    cost[Timing.ACCUMULATOR] = 0, accumulator.drain_elements_per_cycle, accumulator.latency_cycles * cycle
    cost[Timing.LINK] = 0, accumulator.drain_elements_per_cycle, accumulator.link_latency_cycles * cycle
    cost[Timing.SIMD] = 0, simd.elements_per_cycle, simd.latency_cycles * cycle
    cost[Timing.LUT] = 0, simd.lut_elements_per_cycle, simd.latency_cycles * cycle
    cost[Timing.VECTOR_MATRIX] = 0, simd.multiply_adds_per_cycle, simd.latency_cycles * cycle
    cost[Timing.REDUCTION] = 0, simd.elements_per_cycle, simd.latency_cycles * cycle
    return cost


def _matrix_ticks(machine: Machine) -> Integers:
    ticks = np.zeros(16, dtype=np.int64)
    for dtype in DTYPES:
        rate = machine.matrix.rate_by_dtype.get(dtype.name)
        if rate:
            ticks[dtype.code] = round(TICKS_PER_CYCLE / (rate * machine.matrix.tiles))
    return ticks


def _vector_ticks(machine: Machine) -> Integers:
    ticks = np.full(16, TICKS_PER_CYCLE, dtype=np.int64)
    rates = machine.simd.rate_by_dtype
    for dtype in DTYPES:
        ticks[dtype.code] = round(TICKS_PER_CYCLE / rates.get(dtype.name, rates.fp32))
    return ticks


def _issue_ticks(machine: Machine) -> Integers:
    """Return what a core spends on issuing each command, by opcode."""
    ticks = np.zeros(256, dtype=np.int64)
    for instruction in INSTRUCTIONS:
        ticks[instruction.opcode] = machine.issue_cycles(instruction.name) * TICKS_PER_CYCLE
    return ticks


def _ticks(machine: Machine, nanoseconds: float) -> int:
    return round(nanoseconds / machine.cycle_ns * TICKS_PER_CYCLE)


def hardware_of(machine: Machine, jitter_cycles: int = 0, jitter_seed: int = 0, cache_bytes: int = 0) -> Hardware:
    """Return the arrays of a machine; `jitter_cycles` adds a pseudo-random delay below it to every command (tests).

    `cache_bytes` of SRAM cache DRAM.
    """
    cycle, pe, dma, noc, sram, dram = TICKS_PER_CYCLE, machine.pe, machine.dma, machine.noc, machine.sram, machine.dram
    hop, network = noc.hop_latency_cycles * cycle, machine.network
    numbers = np.zeros(NUMBER_COUNT, dtype=np.int64)
    for index, value in {
        ROWS: machine.grid.rows, COLUMNS: machine.grid.columns, LOCAL_BYTES: pe.local_memory_bytes,
        QUEUE_DEPTH: pe.command_queue_depth, SCALAR_TICKS: pe.scalar_cycles_per_instruction * cycle,
        BRANCH_TICKS: pe.branch_cycles * cycle,
        LOCAL_BYTES_PER_CYCLE: pe.local_memory_bytes_per_cycle, BANKS: machine.accumulator.banks,
        BLOCK_ROWS: machine.matrix.block_rows, BLOCK_K_BYTES: machine.matrix.block_k_bytes,
        FILL_BYTES_PER_CYCLE: machine.matrix.operand_fill_bytes_per_cycle, OUTSTANDING: dma.outstanding,
        PORT_BYTES_PER_CYCLE: dma.bytes_per_cycle, LINK_BYTES_PER_CYCLE: noc.row_link_bytes_per_cycle,
        COLUMN_LINK_BYTES_PER_CYCLE: noc.column_link_bytes_per_cycle, HOP_TICKS: hop, PORTS: network.ports,
        LINKS: len(network.links), ROW_LINKS: sum(not link.is_column for link in network.links),
        REQUEST_TICKS: _ticks(machine, noc.request_latency_ns), SRAM_BYTES: sram.bytes,
        SRAM_SLICES: sram.slices, SRAM_INTERLEAVE: sram.interleave_bytes, SRAM_TICKS: _ticks(machine, sram.latency_ns),
        DRAM_BYTES: dram.bytes, DRAM_CHANNELS: dram.channels, DRAM_INTERLEAVE: dram.interleave_bytes,
        DRAM_TICKS: _ticks(machine, dram.latency_ns), DRAM_ACCESS_BYTES: dram.access_bytes,
        BARRIER_TICKS: round(machine.mean_hops * hop),
        JITTER_TICKS: jitter_cycles * cycle, JITTER_SEED: jitter_seed, INSTRUCTION_LIMIT: DEFAULT_INSTRUCTION_LIMIT,
        SRAM_ACCESS_BYTES: sram.access_bytes, SRAM_BANKS: sram.banks,
        SRAM_BANK_INTERLEAVE: sram.bank_interleave_bytes, SRAM_PIECE_TICKS: _piece_ticks(machine),
        DRAM_ROW_BYTES: dram.row_bytes, CACHE_SETS: cache_bytes // (sram.cache_line_bytes * sram.cache_ways),
        SRAM_FOLDS: fold_count(sram.slices, sram.interleave_bytes),
        DRAM_FOLDS: fold_count(dram.channels, dram.interleave_bytes), CACHE_WAYS: sram.cache_ways,
        CACHE_LINE_SHIFT: sram.cache_line_bytes.bit_length() - 1,
    }.items():  # fmt: skip
        numbers[index] = value
    numbers[MATRIX_TICKS : MATRIX_TICKS + 16] = _matrix_ticks(machine)
    numbers[VECTOR_TICKS : VECTOR_TICKS + 16] = _vector_ticks(machine)
    numbers[ISSUE_TICKS : ISSUE_TICKS + 256] = _issue_ticks(machine)
    for index, value in _dram_numbers(machine).items():
        numbers[index] = value
    for dtype in DTYPES:
        numbers[ELEMENT_BYTES + dtype.code] = dtype.bits // 8
    numbers[SHIFTS:] = [_logarithm(int(number)) for number in numbers[:MATRIX_TICKS]]
    return Hardware(numbers, _cost_table(machine))


def _logarithm(number: int) -> int:
    return number.bit_length() - 1 if number > 0 and number & (number - 1) == 0 else -1


def _piece_ticks(machine: Machine) -> int:
    """Ticks that `sram.bank_interleave_bytes` keep a bank of a slice busy, rounded up."""
    sram = machine.sram
    return math.ceil(sram.bank_interleave_bytes * TICKS_PER_CYCLE * sram.slices * sram.banks / sram.bytes_per_cycle)


def _dram_numbers(machine: Machine) -> dict[int, int]:
    """Times of a DRAM channel in ticks; check bits lengthen what is spent per burst, rounded up."""
    dram, timing = machine.dram, machine.dram_timing
    share = dram.ecc_efficiency
    burst_ns = timing.burst_bytes * dram.channels / dram.bytes_per_second * 1e9

    def up(nanoseconds: float) -> int:
        return math.ceil(nanoseconds / machine.cycle_ns * TICKS_PER_CYCLE - 1e-6)

    is_per_bank = timing.refresh == "per_bank"
    return {
        DRAM_GROUPS: timing.bank_groups, DRAM_BANKS: timing.banks, DRAM_QUEUE: timing.queue_entries,
        WRITE_BATCH: timing.write_batch, BURST_BYTES: timing.burst_bytes, BURST_TICKS: up(burst_ns / share),
        GROUP_BURST_TICKS: up(max(timing.same_group_burst_ns, burst_ns) / share),
        COMMAND_TICKS: up(timing.command_ns / share), ROW_COMMANDS: timing.row_commands,
        ACTIVATE_TICKS: up(timing.activate_to_read_ns),
        ROW_CYCLE_TICKS: up(timing.row_cycle_ns),
        ACTIVATE_SPACING_TICKS: up(max(timing.activate_spacing_ns, timing.four_activates_ns / 4)),
        READ_CLOSE_TICKS: up(timing.read_to_precharge_ns - burst_ns + timing.precharge_ns),
        WRITE_CLOSE_TICKS: up(timing.write_to_precharge_ns - burst_ns + timing.precharge_ns),
        READ_LATENCY_TICKS: up(timing.read_latency_ns),
        TURN_TICKS: up(max(timing.read_to_write_ns + timing.write_to_read_ns - 2 * burst_ns, 0.0)),
        REFRESH_PERIOD_TICKS: 0 if timing.refresh == "none" else up(timing.refresh_period_ns),
        REFRESH_BLOCK_TICKS: up(timing.refresh_block_ns),
        BANK_REFRESH_TICKS: up(timing.bank_refresh_ns) if is_per_bank else 0,
        UNITS_PER_ROW: max(1, dram.row_bytes // dram.interleave_bytes),
    }  # fmt: skip
