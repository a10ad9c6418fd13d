"""What each number of `process_areas.toml` means, and how numbers of a process lie between those of its neighbours."""

from __future__ import annotations

import functools
from typing import Literal

from sweeps.sourced_figures import Figure, Figures, between_processes, meaning, read_toml

_KGATES, _MM2 = "1000 gates", "mm2"
_TRANSISTORS_PER_GATE = 4
"""A gate is a NAND of two inputs."""


class ProcessFigures(Figures):
    """One silicon process."""

    logic_density: Figure = meaning("transistors of a block of dense logic cells", "million/mm2")
    sram_bit: Figure = meaning("high-density SRAM cell", "um2")


class Gates(Figures):
    """Logic per unit of a resource, in gates (NAND of two inputs), the same in every process."""

    int8_mac: Figure = meaning("multiply-accumulate of int8 per cycle", _KGATES)
    fp8_mac: Figure = meaning("multiply-accumulate of fp8 per cycle", _KGATES)
    fp16_mac: Figure = meaning("multiply-accumulate of fp16 per cycle", _KGATES)
    bf16_mac: Figure = meaning("multiply-accumulate of bf16 per cycle", _KGATES)
    fp32_mac: Figure = meaning("multiply-accumulate of fp32 per cycle", _KGATES)
    sparse_selection: Figure = meaning("part that 2:4 sparsity adds to the multipliers")
    operand_buffer_byte: Figure = meaning("byte of a block kept in a tile", _KGATES)
    operand_fill_byte: Figure = meaning("byte per cycle from local memory to the tiles", _KGATES)
    accumulator_bit: Figure = meaning("bit of an accumulator", _KGATES)
    drain_element: Figure = meaning("accumulator read or written per cycle", _KGATES)
    reduction_element: Figure = meaning("element per cycle to a neighbour", _KGATES)
    simd_lane: Figure = meaning("32 bits of elements per cycle", _KGATES)
    simd_multiply_add: Figure = meaning("fp32 multiply-add per cycle", _KGATES)
    simd_table: Figure = meaning("table function per cycle", _KGATES)
    layout_byte: Figure = meaning("byte per cycle of the layout unit", _KGATES)
    dma_byte: Figure = meaning("byte per cycle of a PE's port", _KGATES)
    dma_transfer: Figure = meaning("transfer in flight", _KGATES)
    dma_gather: Figure = meaning("gather and scatter in hardware", _KGATES)
    local_memory_byte: Figure = meaning("byte per cycle of a local memory", _KGATES)
    cores: Figure = meaning("the two cores of a PE, one with vectors of 64 bytes", _KGATES)
    core_register: Figure = meaning("integer register of both", _KGATES)
    command_processor: Figure = meaning("command processor of a PE", _KGATES)
    circular_buffer: Figure = meaning("circular buffer", _KGATES)
    queued_command: Figure = meaning("place in the command queues", _KGATES)
    router_byte: Figure = meaning("byte per cycle of a router's link, one direction", _KGATES)
    edge_byte: Figure = meaning("byte per cycle of a line that leaves the grid", _KGATES)
    sram_slice: Figure = meaning("slice of the shared SRAM", _KGATES)
    sram_bank: Figure = meaning("bank of a slice", _KGATES)
    sram_byte: Figure = meaning("byte per cycle of the shared SRAM", _KGATES)
    cache_way: Figure = meaning("way of a slice that caches", _KGATES)
    lpddr_channel: Figure = meaning("controller of a channel of 16 bits, without its queue", _KGATES)
    ddr_channel: Figure = meaning("controller of a channel of 64 bits, without its queue", _KGATES)
    gddr_channel: Figure = meaning("controller of a channel of 16 bits, without its queue", _KGATES)
    hbm_channel: Figure = meaning("controller of a channel of 64 bits, without its queue", _KGATES)
    dram_queue_entry: Figure = meaning("burst that a controller reorders", _KGATES)
    host_gigabyte_per_second: Figure = meaning("controller of the host link, per GB/s of one direction", _KGATES)
    control_processor: Figure = meaning("control core and what is beside it, once", _KGATES)

    test_and_control: Figure = meaning("factor on all logic for what serves no single resource")
    clock_exponent: Figure = meaning("logic that runs at the clock of the PEs grows with (clock / 1 GHz) to this power")

    def of_mac(self, dtype: str) -> Figure:
        """Return the gates of a multiply-accumulate of a dtype of `PerDtype`."""
        figure = getattr(self, f"{dtype}_mac")
        assert isinstance(figure, Figure)
        return figure


class Memories(Figures):
    """On-chip memories; efficiency is the part of a memory's area that is cells."""

    shared_efficiency: Figure = meaning("cells in the shared SRAM, its tags and the control core's memory")
    local_efficiency: Figure = meaning("cells in local memories and the caches of the PEs' cores")
    core_cache_bytes: Figure = meaning("caches of the cores of a PE", "bytes")
    tag_bytes_per_line: Figure = meaning("tag of a cache line", "bytes")
    control_bytes: Figure = meaning("memory of the control core and the host link", "bytes")


class Analog(Figures):
    """What hardly shrinks: PHYs and other analog blocks, the same in every process."""

    lpddr_channel: Figure = meaning("PHY of a channel of 16 bits, part independent of its rate", _MM2)
    lpddr_gigabyte_per_second: Figure = meaning("PHY, per GB/s", _MM2)
    ddr_channel: Figure = meaning("PHY of a channel of 64 bits, part independent of its rate", _MM2)
    ddr_gigabyte_per_second: Figure = meaning("PHY, per GB/s", _MM2)
    gddr_channel: Figure = meaning("PHY of a channel of 16 bits, part independent of its rate", _MM2)
    gddr_gigabyte_per_second: Figure = meaning("PHY, per GB/s", _MM2)
    hbm_channel: Figure = meaning("PHY of a channel of 64 bits, part independent of its rate", _MM2)
    hbm_gigabyte_per_second: Figure = meaning("PHY, per GB/s", _MM2)
    host_gigabyte_per_second: Figure = meaning("PHY of the host link, per GB/s of one direction", _MM2)
    fixed: Figure = meaning("PLLs, sensors, fuses, slow pins, once", _MM2)


class Floorplan(Figures):
    """How blocks fill a die."""

    logic_utilisation: Figure = meaning("density of a block of logic, of the process' logic_density")
    top_level_share: Figure = meaning("part of a die that no block uses")
    die_to_die_share: Figure = meaning("part of each die for links to the others, if there are others")
    reticle: Figure = meaning("largest die", _MM2)


class AreaFigures(Figures):
    """All of `process_areas.toml`."""

    processes: dict[int, ProcessFigures]
    gates: Gates
    memories: Memories
    analog: Analog
    floorplan: Floorplan

    def million_gates_mm2(self, process_nm: float) -> float:
        """Return mm2 of 10^6 gates: 4 transistors each / (logic_density x logic_utilisation); MachineError as below."""
        density = self._between(process_nm, "logic_density") * self.floorplan.logic_utilisation.value
        return _TRANSISTORS_PER_GATE / density

    def sram_mm2(self, stored_bytes: float, process_nm: float, efficiency: Figure) -> float:
        """Return mm2 of a memory: bits x sram_bit / efficiency; MachineError if the process is unknown."""
        return stored_bytes * 8 * self._between(process_nm, "sram_bit") * 1e-6 / efficiency.value

    def _between(self, process_nm: float, name: Literal["logic_density", "sram_bit"]) -> float:
        return between_processes(
            process_nm, {node: getattr(figures, name).value for node, figures in self.processes.items()}
        )


@functools.cache
def area_figures() -> AreaFigures:
    """Return the figures of `process_areas.toml`."""
    return AreaFigures.model_validate(read_toml("process_areas.toml"))
