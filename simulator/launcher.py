"""Runs the launches of an entry one by one on the sequencer, and recognises launches that must take equal time.

Launch boundaries are canonical (nothing is in flight, `state.reset`), so a launch's time depends on its kernel, its
rectangle, its argument values, and, for addresses, on what the memory interleave, the rows of DRAM and the cache see of
them. When nothing is executed, launches that agree in all of these are simulated once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from isa import columns
from isa.affine import evaluate
from isa.columns import decode_columns
from isa.errors import SimulationError
from isa.kernel import Kernel, buffer_bases
from isa.machine import Machine
from isa.memory_map import BASES, Space, interleave_period_bytes
from isa.network import routes
from isa.program import Argument, Launch, Program
from isa.reuse import Kept
from isa.table import BY_NAME
from simulator import codes, deadlock, dram, sequencer, traits
from simulator import hardware as hw
from simulator import state as st
from simulator.device import Device
from simulator.index_distribution import SEED, IndexDistribution
from simulator.meaning.codes import SENTENCES as MEANING_SENTENCES
from simulator.meaning.tables import Tables, make_tables
from simulator.parts import TimedPart, parts_of, sum_up

_LINKS = 4
_LOAD_WORD = BY_NAME["lw"].opcode
UNIFORM = IndexDistribution()


@dataclass(frozen=True)
class Timed:
    """What one launch took: duration in ticks, counters, and those of its parts in order.

    It was `reused` if an equal launch was simulated before.
    """

    ticks: int
    stats: st.Stats
    parts: tuple[TimedPart, ...]
    reused: bool


class Timings(Kept[tuple[Timed, ...]]):
    """What the launches of the last so many profiles took, for machines in whose time nothing differs."""


class Launcher:
    """The sequencer bound to a program, a machine and, for execution, a device's memory."""

    def __init__(self, program: Program, machine: Machine, device: Device | None, *, reuse: bool = True,
                 ahead: bool = True, traced: bool = True, jitter_cycles: int = 0, jitter_seed: int = 0,
                 indices: IndexDistribution = UNIFORM) -> None:  # fmt: skip
        self._program, self._machine = program, machine
        self._hardware = hw.hardware_of(
            machine, jitter_cycles, jitter_seed, machine.cache_bytes(program.bytes_of("sram"))
        )
        self._hardware.numbers[hw.INDEX_SEED], self._hardware.numbers[hw.INDEX_MILLI] = SEED, indices.power_milli
        self._state = st.new_state(
            self._hardware,
            max((len(kernel.operation_parts) for kernel in program.kernels), default=1),
            max((len(kernel.buffers) for kernel in program.kernels), default=1),
        )
        self._tables = _tables(machine, device)
        self._memory = _memory(machine, device)
        self._used_bytes = 0
        self._functional = device is not None
        self._run = sequencer.compiled_for(self._functional)
        if device is not None:
            self._hardware.numbers[hw.SRAM_BYTES] = len(device.sram)
            self._hardware.numbers[hw.DRAM_BYTES] = len(device.dram)
        elif program.capacity_ignored:
            self._hardware.numbers[hw.DRAM_BYTES] = max(machine.dram.bytes, program.bytes_of("dram"))
        self._periods: dict[Space, int] = {
            "sram": interleave_period_bytes(machine.sram.slices, machine.sram.interleave_bytes),
            "dram": machine.dram_period_bytes,
        }
        self._codes: dict[int, tuple[npt.NDArray[np.int64], ...]] = {}
        self._known: dict[tuple[object, ...], Timed] = {}
        self._reuse = reuse and device is None
        self._ahead, self._traced = ahead and device is None and jitter_cycles == 0, traced

    def forget(self) -> None:
        """Zero what launches may have left in local memories, banks and links, so that no run depends on another."""
        self._memory.local[:, : self._used_bytes].fill(0)
        self._memory.banks.fill(0)
        self._memory.links.fill(0)
        self._used_bytes = 0

    def run(self, launch: Launch, bindings: Mapping[str, int]) -> Timed:
        """Run a launch; SimulationError says what went wrong, with PE, core and instruction."""
        key = self._key(launch, bindings)
        if self._reuse and key in self._known:
            known = self._known[key]
            return replace(known, reused=True)
        code = self._code(launch, bindings)
        parts = len(self._program.kernels[launch.kernel].operation_parts)
        ticks, stats = self._simulate(code, parts)
        if ticks < 0:
            raise self._error(launch, code)
        stats.server_busy[st.CHANNELS, : len(self._state.dram)] = self._state.dram[:, dram.BUSY]
        sum_up(stats)
        timed = Timed(ticks, stats, tuple(parts_of(stats, ticks)), reused=False)
        self._known[key] = timed
        return timed

    def _simulate(self, code: st.Code, parts: int) -> tuple[int, st.Stats]:
        ahead = self._ahead and self._may_run_ahead(code)
        traced = ahead and self._traced and _may_trace(code)
        # In turn errors are found where they come first, and events may come that PEs ahead of each other cannot have.
        for is_traced, is_ahead in dict.fromkeys([(traced, ahead), (False, ahead), (False, False)]):
            stats = st.new_stats(self._hardware, parts)
            st.reset(self._hardware, self._state, len(code.buffers))
            arguments = code, self._hardware, self._state, stats, self._memory, self._tables
            ticks = self._run(*arguments, ahead=is_ahead, traced=is_traced)
            if ticks >= 0:
                break
        return ticks, stats

    def _may_run_ahead(self, code: st.Code) -> bool:
        """Tell whether PEs meet only where `simulator.ahead` expects it: not by links, nor twice at one time."""
        roles = code.traits[code.instructions[..., columns.OPCODE], traits.LINK_ROLE]
        return self._machine.dma.issue_cycles > 0 and bool((roles == traits.LINK_UNUSED).all())

    def _value(self, argument: Argument, bindings: Mapping[str, int]) -> int:
        value = evaluate(argument.expression, bindings)
        return value + self._program.storage_by_name[argument.storage].address if argument.storage else value

    def _key(self, launch: Launch, bindings: Mapping[str, int]) -> tuple[object, ...]:
        arguments: list[object] = []
        numbers: dict[str, int] = {}
        is_indexed, is_cached = self._is_indexed(launch.kernel), self._hardware.numbers[hw.CACHE_SETS] > 0
        for argument in launch.arguments:
            value = self._value(argument, bindings)
            if argument.storage:
                storage = self._program.storage_by_name[argument.storage]
                space = storage.space
                behind = storage.address + storage.bytes - value if is_indexed else 0
                # Lines of the cache are known by their place in the storage.
                before = value - storage.address if space == "dram" and is_cached else 0
                number = numbers.setdefault(argument.storage, len(numbers))
                arguments.append((space, number, (value - BASES[space]) % self._periods[space], before, behind))
            else:
                arguments.append(value)
        return launch.kernel, launch.row, launch.column, launch.rows, launch.columns, tuple(arguments)

    def _is_indexed(self, kernel: int) -> bool:
        """Tell whether data choose rows in a kernel: its time then depends on how many rows its tables have."""
        instructions, *_ = self._decoded(kernel)
        opcodes = instructions[..., columns.OPCODE]
        return bool(self._tables.traits[opcodes, traits.INDEXED].any() or (opcodes == _LOAD_WORD).any())

    def _decoded(self, kernel: int) -> tuple[npt.NDArray[np.int64], ...]:
        if kernel not in self._codes:
            self._codes[kernel] = _decoded(self._program.kernels[kernel])
        return self._codes[kernel]

    def _code(self, launch: Launch, bindings: Mapping[str, int]) -> st.Code:
        instructions, lengths, buffers = self._decoded(launch.kernel)
        self._used_bytes = max(self._used_bytes, int((buffers[:, 0] + buffers[:, 1] * buffers[:, 2]).max(initial=0)))
        values = [self._value(argument, bindings) for argument in launch.arguments]
        header = np.array([launch.rows, launch.columns, *lengths, *values], dtype=np.int64)
        names = dict.fromkeys(argument.storage for argument in launch.arguments if argument.storage)
        storages = [self._program.storage_by_name[name] for name in names]
        tables = np.array([(one.address, one.address + one.bytes) for one in storages], np.int64).reshape(-1, 2)
        found = routes(self._machine, launch.row, launch.column, launch.rows, launch.columns)
        return st.Code(instructions, buffers, header, self._tables.traits, tables, found.table, found.links)

    def _error(self, launch: Launch, code: st.Code) -> SimulationError:
        error = self._state.scratch
        kernel = self._program.kernels[launch.kernel]
        if error[st.ERROR_CODE] == codes.DEADLOCK:
            report = deadlock.describe(kernel, code, self._state)
            return SimulationError(f"deadlock: nobody can go on\n{report}", where=f"launch {launch.name}")
        core, pc = int(error[st.ERROR_CORE]), int(error[st.ERROR_PC])
        pe, columns = int(error[st.ERROR_PE]), launch.columns
        sentence = codes.SENTENCES[int(error[st.ERROR_CODE])]
        if error[st.ERROR_CODE] == codes.MEANING:
            sentence = MEANING_SENTENCES[int(error[st.ERROR_DETAIL])]
        from isa.assembly import print_instruction

        words = kernel.core_b if core else kernel.core_a
        text = print_instruction(kernel, words, pc) if 0 <= pc < len(words) else "end of code"
        detail: int | str = int(error[st.ERROR_DETAIL])
        if "buffer {detail}" in sentence and int(detail) < len(kernel.buffers):
            detail = f"'{kernel.buffers[int(detail)].name}'"
        what = sentence.format(detail=detail, extra=int(error[st.ERROR_EXTRA]))
        place = f"PE ({pe // columns}, {pe % columns}) core {'AB'[core]} instruction {pc}: {text}"
        where = f"launch {launch.name}, kernel {kernel.name}, {place}"
        if len(launch.parts) > 1 and 0 <= pc < len(words):
            where += f", of operation {launch.parts[int(code.instructions[core, pc, st.PART])].operation}"
        return SimulationError(what, where=where)


def _decoded(kernel: Kernel) -> tuple[npt.NDArray[np.int64], ...]:
    parts = (decode_columns(kernel.core_a), decode_columns(kernel.core_b))
    instructions = np.zeros((2, max(len(part) for part in parts), st.PART + 1), dtype=np.int64)
    for number, part in enumerate(parts):
        instructions[number, : len(part), : st.PART] = part
    for index, begin in enumerate(kernel.operation_parts):
        instructions[0, begin.core_a :, st.PART] = instructions[1, begin.core_b :, st.PART] = index
    buffers = np.zeros((len(kernel.buffers), 3), dtype=np.int64)
    for index, (base, buffer) in enumerate(zip(buffer_bases(kernel), kernel.buffers, strict=True)):
        buffers[index] = base, buffer.slot_bytes, buffer.slots
    return instructions, np.array([len(part) for part in parts], dtype=np.int64), buffers


def _may_trace(code: st.Code) -> bool:
    """Tell whether what cores do can be told without time: words are at most waited for."""
    loads = code.instructions[..., columns.OPCODE] == _LOAD_WORD
    return not code.instructions[loads, columns.R0].any()


def _tables(machine: Machine, device: Device | None) -> Tables:
    """Return tables with scratch space for a machine, without any where nothing is executed."""
    if device is None:
        return _tables_without_scratch()
    accumulator = machine.accumulator
    sizes = (accumulator.rows, accumulator.columns, machine.pe.local_memory_bytes)
    return make_tables(machine.matrix.block_k_bytes, *sizes)


@functools.cache
def _tables_without_scratch() -> Tables:
    return make_tables(block_k_bytes=1, bank_rows=1, bank_columns=1, local_bytes=1)


def _memory(machine: Machine, device: Device | None) -> st.Memory:
    accumulator, pes = machine.accumulator, machine.pe_count
    if device is None:
        nothing, tile = np.zeros(1, dtype=np.uint8), (1, 1)
        return st.Memory(
            np.zeros((1, 1), dtype=np.uint8), nothing, nothing, np.zeros((1, 1, *tile), dtype=np.float32),
            np.zeros((1, _LINKS, *tile), dtype=np.float32),
        )  # fmt: skip
    tile = (accumulator.rows, accumulator.columns)
    return st.Memory(
        np.zeros((pes, machine.pe.local_memory_bytes), dtype=np.uint8), device.sram, device.dram,
        np.zeros((pes, accumulator.banks, *tile), dtype=np.float32),
        np.zeros((pes, _LINKS, *tile), dtype=np.float32),
    )  # fmt: skip
