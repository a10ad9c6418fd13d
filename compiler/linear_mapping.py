"""How a `linear` is spread over the grid: what a choice is, and what it costs. `linear_search` finds the best one.

Two ways, both output-stationary (accumulators stay until K is done):

* resident: the few rows of x fit in local memory of every PE; weight tiles are dealt over all PEs and streamed once.
* streamed: rows of PEs split the rows of x, columns of PEs split the outputs. A chunk of x is read once per row of PEs
  and a chunk of the weight once per column of PEs; every PE makes the same number of trips, because broadcasts are
  collective, and only the store of tiles beyond the edge is left out. On a grid that is not square it may be the other
  way round (`is_turned`): 16 blocks of rows leave a third of 12 rows of PEs idle, but a ninth of 6 columns. Or all PEs
  split the outputs (`is_flat`) and every chunk of x is read once for all: then no weight passes two PEs' ports.

In either the matrix engine may hold rows of the weight and stream those of x (`is_swapped`): it takes the time of
a whole block of held rows, but only that of the streamed ones that are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from compiler.kernel_builder import round_up
from compiler.linear_shape import LinearShape
from isa.dtypes import FP32, Dtype
from isa.machine import Machine
from isa.network import Mode, Pattern, link_cycles

EXPANDED_SLOTS = 2
"""Chunks of a packed weight that are expanded at the same time."""
TURNED_SLOTS = 2
"""Chunks of a computed [K, N] that are turned at the same time."""
ROUNDING_PASSES, ROUNDING_COMMANDS = 3, 7
"""How often rows are read to round them, and the commands one behind the other."""
TRIP_CYCLES = 8
"""What a chunk costs besides its work (an estimate, so that small chunks do not win ties)."""


PIECE_CONFLICTS = 2.8
"""How often pieces that share no row meet in a bank of DRAM, per piece that a channel's queue holds (fitted)."""
AUXILIARY_ALIGNMENT_BYTES = 32
"""Scales and zero points of a chunk take a multiple of this, so that every machine can reach those of the next."""


@dataclass(frozen=True)
class LinearMapping:
    """A choice. `tile_rows` x `tile_outputs` results per PE and round; K in `chunks` of `chunk_bytes` per row.

    A tile is worked on in blocks of at most `block_rows` x `block_rows` results, each in an accumulator bank;
    `instruction` multiplies them.
    """

    shape: LinearShape
    instruction: str
    resident: bool
    grid_rows: int
    grid_columns: int
    block_rows: int
    tile_rows: int
    tile_outputs: int
    chunks: int
    chunk_bytes: int
    k_bytes: int
    row_rounds: int
    output_rounds: int
    x_slots: int
    weight_slots: int
    is_turned: bool = False
    """Columns of PEs split the rows of x, and rows of PEs the outputs."""
    keeps_weight: bool = False
    """All tiles of rows follow each other for the same outputs, so that the next one finds their weight in a cache."""
    is_flat: bool = False
    """All PEs split the outputs, none the rows of x."""
    is_swapped: bool = False
    """The matrix engine holds the weight and streams x: results are turned on their way out of the accumulators."""

    @property
    def way(self) -> str:
        """The way it is spread, in a word."""
        if self.resident:
            return "resident"
        return "flat" if self.is_flat else "turned" if self.is_turned else "streamed"

    @property
    def row_parts(self) -> int:
        """Parts of the grid that the rows of x are split over."""
        if self.is_flat:
            return 1
        return self.grid_columns if self.is_turned else self.grid_rows

    @property
    def output_parts(self) -> int:
        """Parts of the grid that the outputs are split over."""
        if self.is_flat:
            return self.pe_count
        return self.grid_rows if self.is_turned else self.grid_columns

    @property
    def x_receivers(self) -> Mode:
        """PEs that work on the same rows of x."""
        return "all" if self.resident or self.is_flat else "column" if self.is_turned else "row"

    @property
    def weight_receivers(self) -> Mode:
        """PEs that work on the same outputs."""
        return "none" if self.resident or self.is_flat else "row" if self.is_turned else "column"

    @property
    def uses_up_x(self) -> bool:
        """True if every PE has a tile, so that it can give a resident x back when it is done."""
        return self.resident and self.output_tiles >= self.pe_count

    @property
    def loads_early(self) -> bool:
        """True if the first chunks of the weight can be loaded before x is there."""
        return self.resident and not self.shape.is_computed

    @property
    def loads_constants(self) -> bool:
        """True if core A loads nothing else: core B has x, and nothing that is computed comes with a tile."""
        has_row_scales = self.shape.is_scaled and self.shape.rounded_from is None
        return self.loads_early and not self.shape.has_residual and not has_row_scales

    @property
    def output_tiles(self) -> int:
        """Tiles of the packed weight, those of padding included."""
        if self.resident:
            return -(-padded_outputs(self.shape) // self.tile_outputs)
        return self.output_parts * self.output_rounds

    @property
    def tile_columns(self) -> int:
        """Columns of a tile's accumulators, and rows of a block of the weight: those of the gate come first."""
        return self.tile_outputs * self.shape.parts

    @property
    def chunk_inputs(self) -> int:
        """Elements of K in a chunk."""
        return self.chunk_bytes // self.shape.dtype.bytes

    @property
    def weight_chunk_bytes(self) -> int:
        """Bytes of one block of the packed weight."""
        packed = self.shape.packed
        return self.tile_columns * (packed.dtype.row_bytes(self.chunk_inputs) if packed else self.chunk_bytes)

    @property
    def group(self) -> int:
        """Elements of a chunk's rows that share a scale, at most the whole chunk."""
        block = self.shape.packed.block if self.shape.packed else None
        return min(block or self.chunk_inputs, self.chunk_inputs)

    @property
    def groups(self) -> int:
        """Scales of each row of a chunk."""
        return -(-self.chunk_inputs // self.group)

    @property
    def scale_chunk_bytes(self) -> int:
        """Bytes of the scales of one block of the packed weight; they have the element type that it expands to."""
        if self.shape.packed is None:
            return 0
        return round_up(self.tile_columns * self.groups * self.shape.dtype.bytes, AUXILIARY_ALIGNMENT_BYTES)

    @property
    def zero_point_chunk_bytes(self) -> int:
        """Bytes of the int8 zero points of one block of the packed weight."""
        if self.shape.packed is None or not self.shape.packed.has_zero_points:
            return 0
        return round_up(self.tile_columns * self.groups, AUXILIARY_ALIGNMENT_BYTES)

    @property
    def expanded_chunk_bytes(self) -> int:
        """Bytes of one block of the weight as the matrix engine reads it, if that is not how it lies in memory."""
        return self.tile_columns * self.chunk_bytes if self.shape.packed else 0

    @property
    def turned_chunk_bytes(self) -> int:
        """Bytes of one block of a computed [K, N] as the matrix engine reads it."""
        return self.tile_outputs * self.chunk_bytes if self.shape.factor == "columns" else 0

    @property
    def multiplied_outputs(self) -> int:
        """Outputs that are multiplied: whole tiles, but of the last tile of a computed operand only what is there.

        Then a tile of padding multiplies a single one.
        """
        tile, needed = self.tile_outputs, self.needed_outputs
        return needed + self.output_tiles - -(-needed // tile) if needed % tile else self.output_tiles * tile

    @property
    def needed_outputs(self) -> int:
        """Outputs that the second operand has: whole tiles, its rows, or its columns with their padding."""
        if self.shape.factor == "tiles":
            return self.output_tiles * self.tile_outputs
        return self.shape.outputs if self.shape.factor == "rows" else padded_outputs(self.shape)

    @property
    def is_ragged(self) -> bool:
        """True if the last tile of a computed operand is not multiplied as a whole."""
        return self.multiplied_outputs < self.output_tiles * self.tile_outputs

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weight with its scales and zero points."""
        chunk_bytes = self.weight_chunk_bytes + self.scale_chunk_bytes + self.zero_point_chunk_bytes
        return self.output_tiles * self.chunks * chunk_bytes

    @property
    def x_slot_bytes(self) -> int:
        """Bytes of a slot for x: all of K when it is resident, else a chunk."""
        return self.tile_rows * (self.k_bytes if self.resident else self.chunk_bytes)

    @property
    def turns_results(self) -> bool:
        """True if the layout unit turns results, and the residual; those of one row lie the same either way."""
        return self.is_swapped and self.tile_rows > 1

    def turned_pitch_bytes(self, dtype: Dtype) -> int:
        """Bytes from output to output of a turned tile, or block of rows where a gate takes one at a time."""
        by_block = self.shape.gate is not None and not self.shape.is_scaled
        return round_up((min(self.tile_rows, self.block_rows) if by_block else self.tile_rows) * dtype.bytes, 32)

    @property
    def turned_result_bytes(self) -> int:
        """Bytes of a tile of results between accumulators and layout unit."""
        has_sums = self.shape.is_scaled or self.shape.activation or self.shape.gate
        dtype = FP32 if has_sums else self.shape.out_dtype
        return self.tile_columns * self.turned_pitch_bytes(dtype) if self.turns_results else 0

    @property
    def turned_residual_bytes(self) -> int:
        """Bytes of a tile of the residual as accumulators start from it; integers are scaled before it is added."""
        is_turned = self.turns_results and self.shape.has_residual and not self.shape.is_scaled
        return self.tile_outputs * self.turned_pitch_bytes(self.shape.out_dtype) if is_turned else 0

    @property
    def raw_row_bytes(self) -> int:
        """Bytes of a row of x before this launch rounds it; 0 if it does not."""
        raw = self.shape.rounded_from
        return self.k_bytes // self.shape.dtype.bytes * raw.bytes if raw else 0

    @property
    def pe_count(self) -> int:
        """PEs that take part."""
        return self.grid_rows * self.grid_columns

    @property
    def initial_row_bytes(self) -> int:
        """Bytes of the row of zeros that starts accumulators without bias or residual."""
        return self.block_rows * 4

    @property
    def local_bytes(self) -> int:
        """Local memory of the buffers."""
        tile = self.tile_rows * self.tile_outputs
        start = self.initial_row_bytes
        if self.shape.has_bias:
            start = 2 * self.tile_columns * 4
        if self.shape.has_residual:
            start = 2 * tile * self.shape.out_dtype.bytes
        shifted = self.expanded_chunk_bytes if self.zero_point_chunk_bytes else 0
        scaled = 2 * (self.tile_rows * 64 + self.tile_columns * 4) + 3 * tile * self.shape.parts * 4
        scaled += self.initial_row_bytes
        buffers = (
            self.x_slots * round_up(self.x_slot_bytes, 32), self.weight_slots * self.weight_chunk_bytes,
            2 * round_up(tile * self.shape.out_dtype.bytes, 32), start, self.weight_slots * self.scale_chunk_bytes,
            self.weight_slots * self.zero_point_chunk_bytes, EXPANDED_SLOTS * self.expanded_chunk_bytes + shifted,
            scaled if self.shape.is_scaled else 0, TURNED_SLOTS * self.turned_chunk_bytes,
            self.turned_result_bytes, 2 * self.turned_residual_bytes,
            self.tile_rows * (self.raw_row_bytes + 2 * FP32.bytes),
        )  # fmt: skip
        activation = [self.activation_slots * round_up(size, 64) for size in self.activation_bytes]
        return sum(round_up(size, 64) for size in buffers) + sum(activation)

    @property
    def activation_bytes(self) -> tuple[int, ...]:
        """Bytes of what lies in fp32 between accumulators and result: tiles, one more where zeros do not stay zeros.

        Gate and factor of a tile that is not scaled, and always the gate's function, take a block of rows at a time.
        """
        tile = self.tile_rows * self.tile_outputs * 4
        if self.shape.gate:
            block = min(self.block_rows, self.tile_rows) * self.tile_outputs * 4
            return (self.shape.parts * (tile if self.shape.is_scaled else block), block)
        return {None: (), "sigmoid": (tile, tile)}.get(self.shape.activation, (tile,))

    @property
    def activation_slots(self) -> int:
        """Slots of these: two where one is filled while the other is read."""
        return 2 if self.shape.gate and not self.shape.is_scaled and self.tile_rows > self.block_rows else 1

    @cached_property
    def issued_macs(self) -> int:
        """Multiply-accumulates that the matrix commands issue, padding included."""
        tiles = 1 if self.resident else self.row_parts * self.row_rounds
        if self.instruction == "mml" and not self.is_swapped:
            rows = tiles * round_up(self.tile_rows, self.block_rows)
        else:
            rows = sum(sum(self._valid_rows(tile)) for tile in range(tiles))
        columns = (self._held_outputs() if self.is_swapped else self.multiplied_outputs) * self.shape.parts
        return rows * columns * (self.k_bytes // self.shape.dtype.bytes)

    def _held_outputs(self) -> int:
        """Return the outputs that are multiplied, each block of them as a whole one."""
        held, tile = self.block_rows, self.tile_outputs
        whole = round_up(tile, held)
        if not self.is_ragged:
            return self.output_tiles * whole
        last = (self.needed_outputs - 1) % tile + 1
        tiles = -(-self.needed_outputs // tile)
        return (tiles - 1) * whole + round_up(last, held) + (self.output_tiles - tiles) * held

    def _valid_rows(self, tile: int) -> Iterator[int]:
        """Yield the rows of each block of a tile of rows; a block of padding has one."""
        first = min(tile * self.tile_rows, self.shape.rows - 1)
        rows = min(self.shape.rows - first, self.tile_rows)
        for start in range(0, self.tile_rows, self.block_rows):
            yield max(1, min(rows - start, self.block_rows))

    @property
    def useful_macs(self) -> int:
        """Multiply-accumulates that the operation needs."""
        return self.shape.rows * self.shape.inputs * self.shape.outputs * self.shape.parts


def padded_outputs(shape: LinearShape) -> int:
    """Return the outputs that are written: up to the padded row of the result."""
    return round_up(shape.outputs, 64 // shape.out_dtype.bytes)


def cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return an estimate of the launch's cycles: the busiest of memory, links, ports, engines and slots, and edges.

    The edges are what the first and the last chunk spend where the busiest is not yet or no more at work.
    """
    tiles_per_pe = mapping.row_rounds * mapping.output_rounds
    chunk_trips = tiles_per_pe * mapping.chunks
    products = _matrix_cycles(mapping, machine)
    expansion = chunk_trips * (_expansion_cycles(mapping, machine) + _turning_cycles(mapping, machine))
    late = tiles_per_pe * _late_expansion_cycles(mapping, machine, products / tiles_per_pe)
    matrix = products + (expansion if mapping.instruction == "vmml" else late)
    x_bytes = mapping.x_slot_bytes * (1 if mapping.resident else chunk_trips)
    x_bytes = mapping.tile_rows * mapping.raw_row_bytes or x_bytes
    weight_port_bytes = chunk_trips * mapping.weight_bytes / (mapping.output_tiles * mapping.chunks)
    port = (x_bytes + weight_port_bytes) / machine.dma.bytes_per_cycle
    copies = 1 if machine.dma.broadcast_reads or mapping.resident else mapping.row_parts
    weight_bytes = mapping.weight_bytes * mapping.row_rounds * copies
    streams = mapping.output_parts if mapping.resident or not machine.dma.broadcast_reads else 1
    link = _link_cycles(mapping, machine, x_bytes, weight_port_bytes)
    sram_bytes = x_bytes * mapping.row_parts * streams + (weight_bytes if mapping.shape.is_computed else 0)
    sram = sram_bytes / machine.sram.bytes_per_cycle
    memory = 0.0 if mapping.shape.is_computed else weight_bytes / machine.dram_bytes_per_cycle
    memory *= _share_of_conflicts(mapping, machine)
    issue = chunk_trips * _commands_per_chunk(mapping, machine) * (machine.issue_cycles(mapping.instruction) + 3)
    transfer = max(port, memory, link, sram)
    latency = chunk_trips * _latency_cycles(machine)
    turnaround = _turnaround_cycles(mapping, transfer + latency, expansion, products)
    stages = (transfer, latency, expansion, products)
    edges = (sum(stages) - max(stages)) / chunk_trips + chunk_trips * TRIP_CYCLES
    ahead = mapping.weight_slots * (transfer + latency) / chunk_trips
    waiting = max(0.0, _rounding_cycles(mapping, machine) - ahead)
    return max(matrix, transfer, issue, turnaround, expansion) + edges + waiting


def _share_of_conflicts(mapping: LinearMapping, machine: Machine) -> float:
    """Return how much longer DRAM takes for the weight where transfers are too short to occupy all channels alike.

    Then the queue of a channel holds pieces of many transfers, each in a row of its own, that meet in its banks.
    """
    dram, timing = machine.dram, machine.dram_timing
    sizes = (mapping.weight_chunk_bytes, mapping.scale_chunk_bytes, mapping.zero_point_chunk_bytes)
    short = sum(size for size in sizes if size < dram.channels * dram.interleave_bytes)
    seconds_of_piece = dram.interleave_bytes * dram.channels / dram.bytes_per_second
    busy_banks = timing.row_cycle_ns / 1e9 / seconds_of_piece / timing.banks
    pieces = timing.queue_entries * timing.burst_bytes / dram.interleave_bytes
    return 1 + short / sum(sizes) * PIECE_CONFLICTS * busy_banks / pieces


def _link_cycles(mapping: LinearMapping, machine: Machine, x_bytes: float, weight_bytes: float) -> float:
    """Return how long the busiest links take to bring each PE so many bytes of x and of the weight."""
    x_mode, weight_mode = mapping.x_receivers, mapping.weight_receivers
    if not machine.dma.broadcast_reads:
        x_mode = weight_mode = "none"
    rows, columns = mapping.grid_rows, mapping.grid_columns
    x = Pattern(rows, columns, x_mode, machine.sram.slices)
    units = machine.sram.slices if mapping.shape.is_computed else machine.dram.channels
    weight = Pattern(rows, columns, weight_mode, units)
    return x_bytes * max(link_cycles(machine, x)) + weight_bytes * max(link_cycles(machine, weight))


def _latency_cycles(machine: Machine) -> float:
    """Return how long the way of a transfer takes that nobody else is on; waiting for others is in the rates."""
    latency_ns = machine.noc.request_latency_ns + machine.dram.latency_ns
    return latency_ns / machine.cycle_ns + machine.mean_hops * machine.noc.hop_latency_cycles


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
    commands = 2 * banks + 1 + (mapping.shape.has_bias or mapping.shape.has_residual)
    drained = min(max(commands - machine.pe.command_queue_depth, 0), banks)
    hidden = tile_matrix_cycles * last_chunk_bytes / mapping.k_bytes * (banks - drained) / banks
    return max(0.0, _expansion_cycles(mapping, machine) - hidden)


def _gate_cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return how long the SIMD engine takes for the gate of a tile: its function, and the product."""
    elements, simd = mapping.tile_rows * mapping.tile_outputs, machine.simd
    return elements / simd.lut_elements_per_cycle + elements / simd.elements_per_cycle


def _matrix_cycles(mapping: LinearMapping, machine: Machine) -> float:
    """Return how long the busiest PE multiplies: whole blocks of rows, or columns in whole vectors of lanes."""
    held, width = mapping.block_rows, mapping.tile_outputs
    rows, columns = round_up(mapping.tile_rows, held), width
    if mapping.instruction == "vmml":
        lanes = machine.simd.multiply_adds_per_cycle
        rows = mapping.tile_rows
        columns = sum(round_up(min(held, width - start), lanes) for start in range(0, width, held))
    if mapping.is_swapped:
        fill = -(-held * machine.matrix.block_k_bytes // machine.matrix.operand_fill_bytes_per_cycle)
        rows = sum(max(min(held, mapping.tile_rows - start), fill) for start in range(0, mapping.tile_rows, held))
        columns = round_up(width, held)
    products = rows * columns * mapping.shape.parts * mapping.k_bytes // mapping.shape.dtype.bytes
    return mapping.row_rounds * mapping.output_rounds * products / machine.peak_macs_per_cycle(mapping.shape.dtype.name)


def multiplies_long(mapping: LinearMapping, machine: Machine) -> bool:
    """Tell whether the matrix engine takes at least half of the time in which the second operand comes from DRAM."""
    loading = 0.0 if mapping.shape.is_computed else mapping.weight_bytes * mapping.row_rounds
    return 2 * _matrix_cycles(mapping, machine) >= loading / machine.dram_bytes_per_cycle


def _commands_per_chunk(mapping: LinearMapping, machine: Machine) -> int:
    blocks = -(-mapping.chunk_bytes // machine.matrix.block_k_bytes)
    repeats = -(-blocks // machine.matrix.max_repeat_blocks)
    expansion = 10 if mapping.shape.packed else 0
    return _banks(mapping, machine) * repeats + 4 + expansion


def _banks(mapping: LinearMapping, machine: Machine) -> int:
    held = machine.matrix.block_rows
    return -(-mapping.tile_rows // held) * -(-mapping.tile_outputs // held) * mapping.shape.parts
