"""What a mapping of a `linear` costs: an estimate of its cycles, by which `linear_search` chooses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from compiler.kernel_builder import round_up
from compiler.linear_mapping import EXPANDED_SLOTS, LinearMapping
from isa.dtypes import Dtype
from isa.machine import Machine
from isa.network import Pattern, busiest_links

ROUNDING_PASSES, ROUNDING_COMMANDS = 3, 7
"""How often rows are read to round them, and the commands one behind the other."""
LOADING_INSTRUCTIONS = 22
"""Scalar instructions between the commands of core A for a chunk of two computed operands."""
TRIP_CYCLES, COMPUTED_TRIP_CYCLES = 8, 10
"""What a chunk costs besides its work (an estimate, so that small chunks do not win ties), and one of an operand in
SRAM, which comes in rows."""


PIECE_CONFLICTS, IDLE_BANKS = 17, 0.3
"""How often pieces that share no row meet in a bank of DRAM, per piece that a channel's queue holds (fitted), and how
busy banks are that keep up with the bus all the same."""
CLEARLY = 0.75
"""Share of the time for loading that other work may take beside it, so that there is time to catch up."""
LeastCycles = Callable[[npt.NDArray[np.int64], float], npt.NDArray[np.float64]]
"""What `cycles` is at least, by the bytes of a chunk's rows, several at once, and the share of conflicts."""


def cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return an estimate of the launch's cycles: the busiest of memory, links, ports, engines and slots, and edges.

    The edges are what the first and the last chunk spend where the busiest is not yet or no more at work.
    """
    if mapping.is_single:
        return _cycles_of_single_tile(mapping, machine)
    tiles_per_pe = mapping.row_rounds * mapping.output_rounds
    chunk_trips = tiles_per_pe * mapping.chunks
    products = matrix_cycles(mapping, machine)
    expansion = chunk_trips * (_expansion_cycles(mapping, machine) + _turning_cycles(mapping, machine))
    late = tiles_per_pe * _late_expansion_cycles(mapping, machine, products / tiles_per_pe)
    matrix = products + (expansion if mapping.instruction == "vmml" else late)
    part_trips = chunk_trips * mapping.expansions
    issue = part_trips * _commands_per_part(mapping, machine) * (machine.issue_cycles(mapping.instruction) + 3)
    memory, inside = _transfer_cycles(mapping, machine)
    inside += _finish_cycles(mapping, machine)
    transfer = max(memory * share_of_conflicts(mapping, machine), inside)
    latency = chunk_trips * _latency_cycles(machine, mapping.shape.is_computed)
    loading = transfer + latency + chunk_trips * _refresh_cycles(mapping, machine)
    apart = memory * share_of_conflicts(mapping, machine) + latency + chunk_trips * _refresh_cycles(mapping, machine)
    turnaround = _turnaround_cycles(mapping, apart if mapping.streams_constants else loading, expansion, products)
    edges = _edge_cycles((transfer, latency, expansion, products), chunk_trips, part_trips)
    edges += part_trips * (COMPUTED_TRIP_CYCLES if mapping.shape.is_computed else TRIP_CYCLES)
    edges += _last_store_cycles(mapping, machine) if mapping.shape.is_computed else 0.0
    ahead = mapping.weight_slots * (transfer + latency) / chunk_trips
    waiting = max(0.0, _rounding_cycles(mapping, machine) - ahead)
    reduction = _reduction_cycles(mapping, machine)
    return max(matrix, transfer, issue, turnaround, expansion) + edges + waiting + reduction


def _cycles_of_single_tile(mapping: LinearMapping, machine: Machine) -> float:
    """Return an estimate of the cycles of a single tile of computed operands.

    Products begin when x can be asked for and a block of columns is turned; they end with the last chunk, which is
    there when all are loaded, or with its last block of columns, which is there when all are turned. Accumulators are
    drained and stored one by one, as soon as each is complete with its last command, but no sooner than SRAM takes
    those of all PEs.
    """
    k_bytes = mapping.pe_k_bytes
    products, turning = matrix_cycles(mapping, machine), mapping.chunks * _turning_cycles(mapping, machine)
    padding = mapping.chunks * mapping.chunk_bytes / k_bytes
    loading, turning = _transfer_cycles(mapping, machine)[1] / padding, turning / padding
    rest_bytes = k_bytes - (mapping.chunks - 1) * mapping.chunk_bytes
    first, last = mapping.chunk_bytes / k_bytes, rest_bytes / k_bytes
    if mapping.first_chunk_bytes:
        first, last = last, first
    x_share = mapping.tile_rows / (mapping.tile_rows + mapping.tile_outputs)
    columns = len(mapping.column_blocks) if mapping.stores_banks else 1
    multiplied = max(
        products + first * max(loading * (1 - x_share), turning / columns), loading,
        loading * (1 - last * x_share / 2) + products * last, turning + products * last / columns,
    )  # fmt: skip
    banks = _banks(mapping, machine)
    stored_bytes = mapping.pe_count * mapping.tile_rows * mapping.tile_outputs * mapping.shape.out_dtype.bytes
    store = stored_bytes / banks / machine.sram.bytes_per_cycle
    at_once = min(last, machine.matrix.max_repeat_blocks * machine.matrix.block_k_bytes / k_bytes)
    behind = (banks - 1) * max(0.0, max(_drain_cycles(mapping), store) - products * at_once / banks) + store
    edges = behind + _latency_cycles(machine, True) + _last_store_cycles(mapping, machine)
    edges += mapping.chunks * TRIP_CYCLES + _reduction_cycles(mapping, machine)
    return max(multiplied, mapping.chunks * _loading_issue_cycles(mapping, machine)) + edges


def _drain_cycles(mapping: LinearMapping) -> float:
    """Return how long an accumulator of a tile takes to be drained, on average."""
    held = mapping.tile_outputs if mapping.is_swapped else mapping.tile_rows
    return held / -(-held // mapping.block_rows)


def _last_store_cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return how long the last accumulator takes from its last product to memory."""
    latencies = machine.matrix.fill_cycles + machine.accumulator.latency_cycles
    return latencies + _drain_cycles(mapping) + _latency_cycles(machine, True)


def _loading_issue_cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return how long core A takes for the commands of a chunk: two loads, and turns of its blocks of columns."""
    turns = len(mapping.column_blocks) if mapping.turned_chunk_bytes else 0
    commands = 4 + (2 * turns + 1 if turns else 0)
    return commands * machine.issue_cycles("dma_in") + LOADING_INSTRUCTIONS * machine.pe.scalar_cycles_per_instruction


def _transfer_cycles(mapping: LinearMapping, machine: Machine) -> tuple[float, float]:
    """Return how long x and the weight take to come from DRAM without conflicts, and into PEs.

    The latter is the busiest of SRAM, links and ports.
    """
    tiles_per_pe = mapping.row_rounds * mapping.output_rounds
    x_bytes = mapping.x_slot_bytes * (1 if mapping.resident else tiles_per_pe * mapping.chunks)
    x_bytes = mapping.tile_rows * mapping.raw_row_bytes or x_bytes
    all_weight_bytes, shape = mapping.weight_bytes, mapping.shape
    parts = 1 if shape.is_computed else mapping.k_parts
    weight_port_bytes = tiles_per_pe * all_weight_bytes / mapping.output_tiles / parts
    port = (x_bytes + weight_port_bytes) / machine.dma.bytes_per_cycle
    is_shared = mapping.resident or (machine.dma.broadcast_reads and mapping.k_parts == 1)
    copies = mapping.row_shares if is_shared else mapping.row_groups
    copies = copies if machine.sram.has_cache else copies * mapping.bands
    weight_bytes = all_weight_bytes * mapping.row_rounds * copies
    is_alone = mapping.resident or mapping.row_shares > 1 or not machine.dma.broadcast_reads
    streams = mapping.output_parts * mapping.row_shares if is_alone else 1
    if mapping.is_flat:
        streams = mapping.grid_rows // mapping.bands
    link = _link_cycles(mapping, machine, x_bytes, weight_port_bytes)
    sram_bytes = x_bytes * mapping.row_groups * streams + (weight_bytes if shape.is_computed else 0)
    sram_bytes += all_weight_bytes * mapping.row_rounds * (mapping.bands - 1 if machine.sram.has_cache else 0)
    sram = sram_bytes / machine.sram.bytes_per_cycle
    memory = 0.0 if shape.is_computed else weight_bytes / machine.dram_bytes_per_cycle
    return memory, max(port, link, sram)


def _finish_cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return how long what results meet takes from SRAM into PEs, each of which reads it for its tiles alone."""
    tile_bytes = mapping.tile_rows * mapping.tile_outputs * mapping.shape.out_dtype.bytes
    loaded_bytes = len(mapping.shape.results_like) * mapping.row_rounds * mapping.output_rounds * tile_bytes
    return loaded_bytes * max(1 / machine.dma.bytes_per_cycle, mapping.pe_count / machine.sram.bytes_per_cycle)


def _reduction_cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return how long the busiest PE sends, adds and drains accumulators of parts of K, while it multiplies nothing.

    Of three parts or more those in the middle add and send on nearly all; of two each sends a half and adds the other.
    """
    if mapping.k_parts == 1:
        return 0.0
    accumulator, banks = machine.accumulator, _banks(mapping, machine)
    first, second = min(mapping.block_rows, mapping.tile_rows), min(mapping.block_rows, mapping.tile_outputs)
    rows, columns = (second, first) if mapping.is_swapped else (first, second)
    bank_cycles = rows * -(-columns // accumulator.drain_elements_per_cycle)
    owned = -(-len(mapping.owners) // mapping.k_parts) / len(mapping.owners)
    commands = banks * ((1 if mapping.k_parts == 2 else 2) + owned)
    way = (mapping.k_parts + 1) // 2 * (bank_cycles + accumulator.link_latency_cycles)
    return mapping.row_rounds * mapping.output_rounds * (commands * bank_cycles + way)


def least_cycles_by_chunks(
    tiling: LinearMapping, machine: Machine, least_products: float, most_expansions: int
) -> LeastCycles:
    """Return a function of the bytes of a chunk's rows and the share of conflicts: what `cycles` is at least.

    A mapping of the tiling has products of at least so many cycles, and at most so many parts of a chunk. K in one
    chunk takes least to load and to expand; what chunks add to it is loaded too. Edges are counted as if every stage
    ended with a part.
    """
    k_bytes, tiles_per_pe = tiling.pe_k_bytes, tiling.row_rounds * tiling.output_rounds
    whole = replace(tiling, chunks=1, chunk_bytes=k_bytes)
    memory, inside = _transfer_cycles(whole, machine)
    expansion = tiles_per_pe * (_expansion_cycles(whole, machine) + _turning_cycles(whole, machine))
    latency = _latency_cycles(machine, tiling.shape.is_computed)
    trip = COMPUTED_TRIP_CYCLES if tiling.shape.is_computed else TRIP_CYCLES

    def least(chunk_bytes: npt.NDArray[np.int64], share_of_conflicts: float) -> npt.NDArray[np.float64]:
        chunks = -(-k_bytes // chunk_bytes)
        if tiling.is_single:  # its chunks are not padded
            return np.asarray(chunks * TRIP_CYCLES + max(inside, expansion, least_products), np.float64)
        padded = 1.0 if tiling.shape.packed else chunks * chunk_bytes / k_bytes
        transfer = np.maximum(memory * share_of_conflicts * padded, inside if tiling.resident else inside * padded)
        stages = (transfer, expansion, least_products)
        longest, trips = np.maximum(transfer, max(expansion, least_products)), tiles_per_pe * chunks
        others = (sum(stages) - longest) / (trips * most_expansions)
        return longest + others + np.minimum(latency, longest / (trips * most_expansions)) + trips * trip

    return least


_PRODUCTS = 3
"""Place of products among the stages of `_edge_cycles`."""


def _edge_cycles(stages: tuple[float, float, float, float], chunk_trips: int, part_trips: int) -> float:
    """Return what the first and last trip spend in stages that are not the longest.

    These are transfer, its latency, expansion and products. Products of a part begin when it is expanded, but it is
    loaded with all of its chunk.
    """
    longest = max(range(len(stages)), key=stages.__getitem__)
    trips = (chunk_trips, chunk_trips, part_trips if longest == _PRODUCTS else chunk_trips, part_trips)
    return sum(
        cycles / count
        for stage, (cycles, count) in enumerate(zip(stages, trips, strict=True)) if stage != longest
    )  # fmt: skip


def share_of_conflicts(mapping: LinearMapping, machine: Machine) -> float:
    """Return how much longer DRAM takes for the weight because of what is no whole turn of all channels.

    Then the queue of a channel holds pieces of many transfers, each in a row of its own, that meet in its banks.
    """
    dram, timing = machine.dram, machine.dram_timing
    turn = dram.channels * dram.interleave_bytes
    sizes = (mapping.weight_chunk_bytes, mapping.scale_chunk_bytes, mapping.zero_point_chunk_bytes)
    in_turns = sum(max(0, size + math.gcd(size, turn) - turn) // turn * turn for size in sizes)
    seconds_of_piece = dram.interleave_bytes * dram.channels / dram.bytes_per_second
    busy_banks = timing.row_cycle_ns / 1e9 / seconds_of_piece / timing.banks
    pieces = timing.queue_entries * timing.burst_bytes / dram.interleave_bytes
    conflicts = PIECE_CONFLICTS * max(0.0, busy_banks - IDLE_BANKS) / (pieces * math.sqrt(pieces))
    return 1 + (1 - in_turns / sum(sizes)) * conflicts


def _link_cycles(mapping: LinearMapping, machine: Machine, x_bytes: float, weight_bytes: float) -> float:
    """Return how long the busiest links take to bring each PE so many bytes of x and of the weight."""
    x_mode, weight_mode = mapping.x_receivers, mapping.weight_receivers
    if not machine.dma.broadcast_reads:
        x_mode = weight_mode = "none"
    rows, columns = mapping.grid_rows, mapping.grid_columns
    units = machine.sram.slices if mapping.shape.is_computed else machine.dram.channels
    x = Pattern(rows, columns, x_mode, machine.sram.slices)
    loads = busiest_links(machine, x, Pattern(rows, columns, weight_mode, units))
    return max(x_bytes * of_x + weight_bytes * of_weight for of_x, of_weight in loads)


def _latency_cycles(machine: Machine, is_in_sram: bool) -> float:
    """Return how long the way of a transfer takes that nobody else is on; waiting for others is in the rates."""
    latency_ns = machine.noc.request_latency_ns + (machine.sram.latency_ns if is_in_sram else machine.dram.latency_ns)
    return latency_ns / machine.cycle_ns + machine.mean_hops * machine.noc.hop_latency_cycles


def _refresh_cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return how long a chunk of the weight is expected to wait for a channel of DRAM that is being refreshed.

    PEs that receive x together, in order with the weight, go from chunk to chunk together: each waits for the channels
    of all.
    """
    if mapping.shape.is_computed:
        return 0.0
    dram, timing = machine.dram, machine.dram_timing
    in_step = {"none": 1, "row": mapping.grid_columns, "column": mapping.grid_rows, "all": mapping.pe_count}
    chunks = 1 if mapping.resident or mapping.streams_constants else in_step[mapping.x_receivers]
    pieces = min(chunks * math.ceil(mapping.weight_chunk_bytes / dram.interleave_bytes), dram.channels)
    return (1 - timing.refresh_efficiency**pieces) * timing.refresh_block_ns / machine.cycle_ns


def _turnaround_cycles(mapping: LinearMapping, loading: float, expansion: float, products: float) -> float:
    """Return how long the slots of a launch take to go round: a slot is loaded anew only when its chunk is used up.

    A slot of x, and of a weight that is multiplied as it lies there, is held until the chunk is multiplied; that of a
    packed weight until it is expanded, and what it is expanded to until it is multiplied. Core A loads x and weight in
    turn, so that a slot of one waits for a slot of the other.
    """
    is_expanded_alone = mapping.shape.packed is not None and mapping.resident
    held = expansion if is_expanded_alone else expansion + products
    return max((loading + held) / mapping.weight_slots, (expansion + products) / EXPANDED_SLOTS)


def _rounding_cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return how long a PE rounds its rows of x; weights come in beside it until their slots are full."""
    raw = mapping.shape.rounded_from
    if raw is None:
        return 0.0
    return row_rounding_cycles(mapping.tile_rows, mapping.chunk_inputs * mapping.chunks, raw, machine)


def row_rounding_cycles(rows: int, columns: int, dtype: Dtype, machine: Machine) -> float:
    """Return how long the SIMD engine takes for the largest magnitudes of rows and their division (an estimate)."""
    vectors = rows * -(-columns // machine.simd.elements_per_cycle)
    passes = ROUNDING_PASSES * vectors / machine.simd.rate_by_dtype[dtype.name]
    return passes + ROUNDING_COMMANDS * machine.simd.latency_cycles


def _expansion_cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return how long the SIMD engine takes to expand one block of a packed weight."""
    packed = mapping.shape.packed
    if packed is None:
        return 0.0
    vectors = mapping.tile_columns * -(-mapping.chunk_inputs // machine.simd.elements_per_cycle)
    return vectors / machine.simd.rate_by_dtype[mapping.shape.dtype.name] * (2 if packed.has_zero_points else 1)


def _turning_cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return how long the layout unit takes to turn one block of a computed [K, N]."""
    return mapping.turned_chunk_bytes / machine.layout.bytes_per_cycle


def _late_expansion_cycles(mapping: LinearMapping, machine: Machine, tile_matrix_cycles: float) -> float:
    """Return how long the matrix engine waits, between two tiles, for the first block of a packed weight.

    Expansion is ahead by one block, so that this one is hidden behind the last chunk of K, which may be short. But core
    B issues it behind the drains and loads of all accumulators: those that have no place in the queue hold it up until
    as many drains have started, each behind the last product of its accumulator. With a gate nothing is hidden: the
    SIMD engine first has the last block of rows at the gate.
    """
    if mapping.shape.packed is None:
        return 0.0
    if mapping.shape.gate:
        row_blocks = -(-mapping.tile_rows // mapping.block_rows)
        return _expansion_cycles(mapping, machine) + _gate_cycles(mapping, machine) / row_blocks
    last_chunk_bytes = mapping.k_bytes - (mapping.chunks - 1) * mapping.chunk_bytes
    banks = _banks(mapping, machine)
    commands = 2 * banks + 1 + (mapping.shape.start is not None)
    drained = min(max(commands - machine.pe.command_queue_depth, 0), banks)
    hidden = tile_matrix_cycles * last_chunk_bytes / mapping.k_bytes * (banks - drained) / banks
    return max(0.0, _expansion_cycles(mapping, machine) - hidden)


def _gate_cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return how long the SIMD engine takes for the gate of a tile: its function, and the product."""
    elements, simd = mapping.tile_rows * mapping.tile_outputs, machine.simd
    return elements / simd.lut_elements_per_cycle + elements / simd.elements_per_cycle


def matrix_cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return how long the busiest PE multiplies: whole blocks of rows, or columns in whole vectors of lanes."""
    return _matrix_cycles(mapping, machine, mapping.is_swapped)


def least_matrix_cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return how long the busiest PE multiplies with the operands in the order that takes less."""
    least = _matrix_cycles(mapping, machine, False)
    return min(least, _matrix_cycles(mapping, machine, True)) if mapping.instruction == "mml" else least


def _matrix_cycles(mapping: LinearMapping, machine: Machine, is_swapped: bool) -> float:
    shape, held, rows = mapping.shape, mapping.block_rows, mapping.tile_rows
    if is_swapped:
        fill = -(-held * machine.matrix.block_k_bytes // machine.matrix.operand_fill_bytes_per_cycle)
        whole, rest = divmod(rows, held)
        rows = whole * max(held, fill) + (max(rest, fill) if rest else 0)
    elif mapping.instruction == "mml":
        rows = round_up(rows, held)
    columns = (mapping.output_rounds - 1) * _multiplied_columns(mapping.tile_outputs, mapping, machine, is_swapped)
    last = mapping.last_tile_outputs or mapping.tile_outputs
    columns += _multiplied_columns(last, mapping, machine, is_swapped)
    products = rows * columns * shape.parts * mapping.pe_k_bytes // shape.dtype.bytes
    return mapping.row_rounds * products / machine.peak_macs_per_cycle(shape.dtype.name)


def _multiplied_columns(width: int, mapping: LinearMapping, machine: Machine, is_swapped: bool) -> int:
    """Return the columns that cost time in a tile with so many outputs."""
    held = mapping.block_rows
    if mapping.instruction == "vmml":
        lanes = machine.simd.multiply_adds_per_cycle
        return width // held * round_up(held, lanes) + round_up(width % held, lanes)
    return round_up(width, held) if is_swapped else width


def multiplies_long(mapping: LinearMapping, machine: Machine) -> bool:
    """Tell whether the matrix engine takes at least half of the time in which the second operand comes from DRAM."""
    return 2 * matrix_cycles(mapping, machine) >= loading_cycles(mapping, machine)


def loading_cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return how long the second operand takes to come from DRAM once for each round of rows, if it lies there."""
    loaded_bytes = 0 if mapping.shape.is_computed else mapping.weight_bytes * mapping.row_rounds
    return loaded_bytes / machine.dram_bytes_per_cycle


def waits_for_weights(mapping: LinearMapping, machine: Machine) -> bool:
    """Tell whether DRAM takes clearly longest for a weight: then nothing is lost if it comes before what is urgent."""
    trips = mapping.row_rounds * mapping.output_rounds * mapping.chunks
    expansion = trips * _expansion_cycles(mapping, machine)
    return max(matrix_cycles(mapping, machine), expansion) <= CLEARLY * loading_cycles(mapping, machine)


def _commands_per_part(mapping: LinearMapping, machine: Machine) -> int:
    blocks = -(-mapping.part_bytes // machine.matrix.block_k_bytes)
    repeats = -(-blocks // machine.matrix.max_repeat_blocks)
    expansion = 10 if mapping.shape.packed else 0
    return _banks(mapping, machine) * repeats + 4 + expansion


def _banks(mapping: LinearMapping, machine: Machine) -> int:
    held = machine.matrix.block_rows
    return -(-mapping.tile_rows // held) * -(-mapping.tile_outputs // held) * mapping.shape.parts
