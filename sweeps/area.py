"""Area of a machine's silicon, block by block, from its fields and its process.

Logic is counted in gates, memories in bits, PHYs in mm2 (`process_areas.toml`); `docs/area_and_cost.md` says what the
sum is worth: totals of the published dies within 10 %, a single block within about 40 %. Timing and energy are not
computed here, and no area shapes them (`sweeps/scaling.py` carries a change of size into the energy figures).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from isa.errors import MachineError
from isa.machine import Machine
from sweeps.area_figures import area_figures
from sweeps.sourced_figures import Confidence, Figure, worst

Counted = tuple[float, Figure]
"""So many of a resource, each of a figure's size."""
_DRAM_FAMILIES = ("lpddr", "gddr", "ddr", "hbm")
_BYTES = {"int8": 1, "fp8": 1, "fp16": 2, "bf16": 2, "fp32": 4}
_ACCUMULATOR_BITS = 32
_BLOCKS_KEPT = 4
"""Operand blocks in a tile: both operands of one block and of the next."""


@dataclass(frozen=True, slots=True)
class AreaBlock:
    """Silicon of one kind of block, all copies together, in mm2.

    `mega_gates` is the logic in it in 10^6 gates; `in_tiles`: it lies in the PEs' tiles; `is_repairable`: it is a large
    memory with spare rows.
    """

    name: str
    mm2: float
    source: str
    confidence: Confidence
    mega_gates: float = 0.0
    in_tiles: bool = False
    is_repairable: bool = False


@dataclass(frozen=True, slots=True)
class _Resources:
    """What a block is made of; `copies` of it are on the chip."""

    name: str
    copies: int = 1
    in_tiles: bool = False
    at_clock: bool = True
    is_repairable: bool = False
    kilo_gates: Sequence[Counted] = ()
    stored: Sequence[tuple[float, Figure]] = ()
    analog: Sequence[Counted] = ()
    also: Sequence[Figure] = ()


@functools.lru_cache(maxsize=1024)
def area_of(machine: Machine) -> tuple[AreaBlock, ...]:
    """Return the blocks of a machine; they sum up to `die_mm2`.

    A block is copies x (gates x area of a gate + bits x area of a bit / efficiency + analog). The top level takes its
    share of the whole: (sum of blocks) x share / (1 - share). A package of more than one die adds links between them.
    MachineError for a process or a kind of DRAM that has no figures.
    """
    figures = area_figures()
    blocks = [_block(machine, resources) for resources in _resources(machine)]
    share = figures.floorplan.top_level_share
    used = sum(block.mm2 for block in blocks)
    blocks.append(_shared("top level", used * share.value / (1 - share.value), share))
    links = figures.floorplan.die_to_die_share
    silicon = used / (1 - share.value)
    if silicon > figures.floorplan.reticle.value:
        blocks.append(_shared("links between dies", silicon * links.value / (1 - links.value), links))
    return tuple(blocks)


def die_mm2(machine: Machine) -> float:
    """Return the silicon of a machine in mm2, all its compute dies together; errors as `area_of`."""
    return math.fsum(block.mm2 for block in area_of(machine))


def die_count(machine: Machine) -> int:
    """Return the equal dies that the silicon takes: as few as the reticle allows; errors as `area_of`."""
    return math.ceil(die_mm2(machine) / area_figures().floorplan.reticle.value)


def mega_gates(machine: Machine) -> float:
    """Return the logic of a machine in 10^6 gates; errors as `area_of`."""
    return math.fsum(block.mega_gates for block in area_of(machine))


def tile_mm2(machine: Machine) -> float:
    """Return the area of a PE with its router and its part of the top level in mm2; errors as `area_of`."""
    tiles = math.fsum(block.mm2 for block in area_of(machine) if block.in_tiles)
    return tiles / (1 - area_figures().floorplan.top_level_share.value) / machine.pe_count


def dram_family(machine: Machine) -> str:
    """Return lpddr, ddr, gddr or hbm by `dram.kind`; MachineError for another kind."""
    kind = machine.dram.kind.lower()
    for family in _DRAM_FAMILIES:
        if re.match(family, kind):
            return family
    known = ", ".join(name.upper() for name in _DRAM_FAMILIES)
    raise MachineError(
        f"no areas are known for DRAM of kind '{machine.dram.kind}'",
        where="dram.kind",
        help=f"it begins with one of {known}, e.g. LPDDR5-6400",
    )


def _block(machine: Machine, resources: _Resources) -> AreaBlock:
    figures = area_figures()
    gates = resources.copies * math.fsum(count * figure.value for count, figure in resources.kilo_gates) / 1e3
    gates *= figures.gates.test_and_control.value * (_clock_factor(machine) if resources.at_clock else 1)
    memory = math.fsum(figures.sram_mm2(size, machine.process_nm, how) for size, how in resources.stored)
    analog = math.fsum(count * figure.value for count, figure in resources.analog)
    mm2 = gates * figures.million_gates_mm2(machine.process_nm) + resources.copies * (memory + analog)
    counted = (*resources.kilo_gates, *resources.stored, *resources.analog)
    used = (*(figure for count, figure in counted if count), *resources.also)
    source = "; ".join(dict.fromkeys(figure.source for figure in used))
    return AreaBlock(resources.name, mm2, source, worst(used), gates, resources.in_tiles, resources.is_repairable)


def _clock_factor(machine: Machine) -> float:
    """Growth of logic with the highest clock that the chip is made for: (clock / 1 GHz) ^ clock_exponent."""
    highest_mhz = max(machine.frequency_mhz, *machine.dvfs.frequencies_mhz)
    return float((highest_mhz / 1000) ** area_figures().gates.clock_exponent.value)


def _shared(name: str, mm2: float, figure: Figure) -> AreaBlock:
    return AreaBlock(name, mm2, figure.source, figure.confidence)


def _resources(machine: Machine) -> Iterator[_Resources]:
    yield from _engines(machine)
    yield from _pe_control(machine)
    yield from _network(machine)
    yield from _shared_sram(machine)
    yield from _edge(machine)


def _engines(machine: Machine) -> Iterator[_Resources]:
    gates, in_pe = area_figures().gates, functools.partial(_Resources, copies=machine.pe_count, in_tiles=True)
    matrix, accumulator, simd = machine.matrix, machine.accumulator, machine.simd
    kept = _BLOCKS_KEPT * matrix.tiles * matrix.block_rows * matrix.block_k_bytes
    fill = matrix.operand_fill_bytes_per_cycle
    yield in_pe(
        "matrix engines",
        kilo_gates=[*_macs(machine), (kept, gates.operand_buffer_byte), (fill, gates.operand_fill_byte)],
        also=[gates.sparse_selection] if matrix.sparsity_2_4 else [],
    )
    bits = _ACCUMULATOR_BITS * accumulator.banks * accumulator.rows * accumulator.columns
    drained = accumulator.drain_elements_per_cycle
    to_neighbour = drained if accumulator.reduction_network else 0
    yield in_pe(
        "accumulators",
        kilo_gates=[
            (bits, gates.accumulator_bit),
            (drained, gates.drain_element),
            (to_neighbour, gates.reduction_element),
        ],
    )
    lanes = simd.elements_per_cycle * max(simd.rate_by_dtype[dtype] * size / 4 for dtype, size in _BYTES.items())
    yield in_pe(
        "SIMD engines",
        kilo_gates=[
            (lanes, gates.simd_lane),
            (simd.multiply_adds_per_cycle, gates.simd_multiply_add),
            (simd.lut_elements_per_cycle, gates.simd_table),
        ],
    )
    yield in_pe("layout units", kilo_gates=[(machine.layout.bytes_per_cycle, gates.layout_byte)])


def _macs(machine: Machine) -> list[Counted]:
    """Multipliers of one PE: int8 has its own, dtypes of floating point share those of the largest."""
    gates, matrix = area_figures().gates, machine.matrix
    selection = gates.sparse_selection.value if matrix.sparsity_2_4 else 0
    counted = {}
    for dtype, size in _BYTES.items():
        macs = matrix.tiles * matrix.block_rows * (matrix.block_k_bytes // size) * matrix.rate_by_dtype[dtype]
        counted[dtype] = (macs * (1 + selection), gates.of_mac(dtype))
    integer = counted.pop("int8")
    return [integer, max(counted.values(), key=lambda pair: pair[0] * pair[1].value)]


def _pe_control(machine: Machine) -> Iterator[_Resources]:
    gates, memories = area_figures().gates, area_figures().memories
    in_pe = functools.partial(_Resources, copies=machine.pe_count, in_tiles=True)
    pe, dma = machine.pe, machine.dma
    yield in_pe(
        "local memories",
        kilo_gates=[(pe.local_memory_bytes_per_cycle, gates.local_memory_byte)],
        stored=[(pe.local_memory_bytes, memories.local_efficiency)],
    )
    yield in_pe(
        "cores of the PEs",
        kilo_gates=[(1, gates.cores), (pe.registers, gates.core_register)],
        stored=[(memories.core_cache_bytes.value, memories.local_efficiency)],
        also=[memories.core_cache_bytes],
    )
    yield in_pe(
        "command processors",
        kilo_gates=[
            (1, gates.command_processor),
            (pe.circular_buffers, gates.circular_buffer),
            (pe.command_queue_depth, gates.queued_command),
        ],
    )
    yield in_pe(
        "fabric interfaces",
        kilo_gates=[
            (dma.bytes_per_cycle, gates.dma_byte),
            (dma.outstanding, gates.dma_transfer),
            (1 if dma.indexed else 0, gates.dma_gather),
        ],
    )


def _network(machine: Machine) -> Iterator[_Resources]:
    """Routers in the tiles; at the sides, the crossbars or the ports of the mesh."""
    gates, noc, routers = area_figures().gates, machine.noc, machine.network
    along_row, along_column = noc.row_link_bytes_per_cycle, noc.column_link_bytes_per_cycle
    links = 2 * (along_row + along_column)
    yield _Resources("routers", routers.rows * routers.columns, True, kilo_gates=[(links, gates.router_byte)])
    lines = 2 * routers.rows * along_row
    if noc.topology == "crossbar":
        lines += 2 * routers.columns * along_column
    yield _Resources("sides of the network", kilo_gates=[(lines, gates.edge_byte)])


def _shared_sram(machine: Machine) -> Iterator[_Resources]:
    gates, memories, sram = area_figures().gates, area_figures().memories, machine.sram
    is_cache = sram.cache_step_bytes > 0
    tags = memories.tag_bytes_per_line.value * (sram.bytes / sram.cache_line_bytes) if is_cache else 0
    yield _Resources(
        "shared SRAM",
        is_repairable=True,
        kilo_gates=[
            (sram.slices, gates.sram_slice),
            (sram.slices * sram.banks, gates.sram_bank),
            (sram.bytes_per_cycle, gates.sram_byte),
            (sram.slices * sram.cache_ways if is_cache else 0, gates.cache_way),
        ],
        stored=[(sram.bytes, memories.shared_efficiency), (tags, memories.shared_efficiency)],
        also=[memories.tag_bytes_per_line] if is_cache else [],
    )


def _edge(machine: Machine) -> Iterator[_Resources]:
    """DRAM, host link, control core, and what every chip has once."""
    figures = area_figures()
    gates, analog, memories = figures.gates, figures.analog, figures.memories
    dram, family = machine.dram, dram_family(machine)
    yield _Resources(
        "DRAM controllers",
        dram.channels,
        at_clock=False,
        kilo_gates=[
            (1, getattr(gates, f"{family}_channel")),
            (machine.dram_timing.queue_entries, gates.dram_queue_entry),
        ],
    )
    rate = dram.bytes_per_second / 1e9
    yield _Resources(
        "DRAM PHYs",
        analog=[
            (dram.channels, getattr(analog, f"{family}_channel")),
            (rate, getattr(analog, f"{family}_gigabyte_per_second")),
        ],
    )
    rate = machine.control.host_bytes_per_second / 1e9
    yield _Resources(
        "host link",
        at_clock=False,
        kilo_gates=[(rate, gates.host_gigabyte_per_second)],
        analog=[(rate, analog.host_gigabyte_per_second)],
    )
    yield _Resources(
        "control core",
        at_clock=False,
        kilo_gates=[(1, gates.control_processor)],
        stored=[(memories.control_bytes.value, memories.shared_efficiency)],
        also=[memories.control_bytes],
    )
    yield _Resources("fixed analog", analog=[(1, analog.fixed)])
