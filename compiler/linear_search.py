"""The search for the cheapest way to spread a linear over the grid: tiles (`linear_tilings`), chunks of K, slots."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from heapq import heapify, heappop, heappush

import numpy as np
import numpy.typing as npt

from compiler.kernel_builder import round_up
from compiler.linear_cost import (
    LeastCycles,
    cycles,
    least_cycles_by_chunks,
    least_matrix_cycles,
    loading_cycles,
    matrix_cycles,
    multiplies_long,
    share_of_conflicts,
)
from compiler.linear_mapping import AUXILIARY_ALIGNMENT_BYTES, LinearMapping, padded_outputs
from compiler.linear_shape import LinearShape
from compiler.linear_tilings import COLUMN_STEP, may_be_resident, smallest_rectangle, streamed_tilings
from isa.errors import UnsupportedError
from isa.kernel import MAX_SLOTS
from isa.machine import Machine
from isa.reuse import Kept

SMALLEST_CHUNK_BYTES, MAXIMUM_CHUNK_BYTES = 128, 2048
"""K bytes per row of a chunk as it lies in memory; the smallest one as it is multiplied."""
SMALLEST_COMPUTED_CHUNK_BYTES, MAXIMUM_PART_CHUNK_BYTES = 64, 512
"""The smallest one where both operands lie in SRAM, which serves short pieces as fast as long ones; the longest one
where neighbours split K."""
ESTIMATE_ERROR = 1 / 512
"""Estimates that differ by less say nothing."""
ROOM_ERROR, LARGEST_SHARE = 1 / 256, 2 / 3
"""The same for shorter chunks of the same tiles, if those take more of a local memory than this share: other operations
of the launch are to fit beside them, and what is urgent waits for a chunk that is on its way."""
EXPANDED_ERROR = 1 / 100
"""The same for weights that are expanded for few rows; local memory that is left to other operations counts more."""
RESIDENT_ERROR = 1 / 100
"""The same for a resident x: its PEs need not wait for each other, so that other operations are joined with it."""
PREFERRED_SLOTS = 4
"""Chunks on their way; of short ones that many that are as long as these of `SMALLEST_CHUNK_BYTES`."""
STREAMED_X_SLOTS = 3
"""Chunks of x that are multiplied, there, and on their way from SRAM, where they wait for no weight."""
LEAST_CHUNKS_BEHIND_FIRST = 3
"""Chunks behind a first one that is asked for at once: two are on their way when it is turned."""
EARLY_CHUNKS = 3
"""As many chunks of a weight as the port brings while what was made last is stored and all PEs meet."""
EXPANDED_EARLY_CYCLES = 1200
"""The same for weights that are expanded: x arrives behind what is on its way, and expansion waits for products."""
EXPANSIONS = (2, 4, 8)
"""Parts of a chunk of a packed weight that may be expanded by themselves."""
EARLY_CYCLES, LARGEST_EARLY_PART = 2000, 5
"""A resident x leaves time to load weights ahead: as much as DRAM delivers in so many cycles, at most a fifth of the
local memory, of which other operations of the same launch need the rest."""


ROUNDING = 1e-9
"""Share by which a bound may be above the least estimate, as sums are rounded."""


_Place = tuple[float, int, int, LinearMapping | None]
"""What a mapping costs at least; the number of its choice; minus the bytes of a chunk's rows, which is the order they
are tried in, 0 before K is cut; and the choice with its K cut once conflicts are counted."""


def choose_linear(shape: LinearShape, machine: Machine) -> LinearMapping:
    """Return the mapping with the lowest estimated cost; raises UnsupportedError if none fits in local memory."""
    return _CHOSEN.result(shape, machine, lambda view: _least_costly(shape, view))


_CHOSEN = Kept[LinearMapping](256)


def _least_costly(shape: LinearShape, machine: Machine) -> LinearMapping:
    """Return the mapping that `ranked_mappings` has first.

    Best first: of choices, of ways to cut their K, and of these with what conflicts in DRAM add, the one is looked at
    next that costs least at least. The search ends when that is more than a mapping that is known: none that is left
    can be the one that comes first.
    """
    choices = list(_choices(shape, machine))
    products = [_least_products(choice, machine) for choice in choices]
    loading = [loading_cycles(choice, machine) for choice in choices]
    queue: list[_Place] = [
        (max(least), place, 0, None) for place, least in enumerate(zip(products, loading, strict=True))
    ]
    heapify(queue)
    bounds: dict[int, LeastCycles] = {}
    estimates: dict[tuple[int, int], list[tuple[float, LinearMapping]]] = {}
    least, error = math.inf, 1 + (EXPANDED_ERROR if shape.packed else ROOM_ERROR) + ROUNDING
    error *= 1 + (RESIDENT_ERROR if may_be_resident(shape, machine) else 0)
    while queue and queue[0][0] <= least * error:
        _, place, order, chunked = heappop(queue)
        choice = choices[place]
        if not order:
            expansions = max(EXPANSIONS) if shape.packed else 1
            bounds[place] = least_cycles_by_chunks(choice, machine, products[place], expansions)
            lengths = _chunk_lengths(choice, machine)
            for chunk_bytes, bound in zip(lengths.tolist(), bounds[place](lengths, 1.0).tolist(), strict=True):
                if bound <= least * error:
                    heappush(queue, (bound, place, -chunk_bytes, None))
        elif chunked is None:
            chunked = _with_chunks(choice, -order)
            bound = bounds[place](np.array(-order), share_of_conflicts(chunked, machine))
            heappush(queue, (float(bound), place, order, chunked))
        else:
            found = [(cycles(mapping, machine), mapping) for mapping in _with_slots(chunked, machine)]
            estimates[place, order] = found
            least = min([least, *(estimate for estimate, _ in found)])
    return _ranked(shape, [item for key in sorted(estimates) for item in estimates[key]], machine)[0]


def _least_products(choice: LinearMapping, machine: Machine) -> float:
    """Return how long products of every completed form of a choice take at least."""
    return least_matrix_cycles(choice, machine) if _has_padding(choice) else matrix_cycles(choice, machine)


def ranked_mappings(shape: LinearShape, machine: Machine) -> list[LinearMapping]:
    """Return all mappings, the one with the lowest estimated cost first; UnsupportedError as `choose_linear`.

    Of those that the estimate cannot tell from the best, one with a resident x comes first, if there is any. One with
    more slots waits less for what the estimate leaves out, as does one of computed operands whose last chunk is whole;
    of a packed weight, whose buffers are large, and a resident x the one that expands least on a PE catches up soonest
    with what was loaded ahead, and the one that takes the least local memory leaves it to other operations of the
    launch. For the sake of these chunks are shorter, too, where they take much of it.
    """
    return _ranked(shape, [(cycles(mapping, machine), mapping) for mapping in candidates(shape, machine)], machine)


def _ranked(shape: LinearShape, estimates: list[tuple[float, LinearMapping]], machine: Machine) -> list[LinearMapping]:
    if not estimates:
        what = f"no tiling of a {shape.rows} x {shape.inputs} by {shape.inputs} x {shape.outputs} product fits"
        raise UnsupportedError(what, where="mapping", help="pe.local_memory_bytes is too small for one tile")
    least = min(estimate for estimate, _ in estimates)
    least_resident = min((estimate for estimate, mapping in estimates if mapping.resident), default=math.inf)
    is_resident = least_resident <= least * (1 + RESIDENT_ERROR)
    least = least_resident if is_resident else least

    def rank(item: tuple[float, LinearMapping]) -> tuple[float, int, float, int, int]:
        estimate, mapping = item
        is_expanded = shape.packed is not None and mapping.resident
        is_near = estimate <= least * (1 + (EXPANDED_ERROR if is_expanded else ESTIMATE_ERROR))
        if not is_near or mapping.resident < is_resident:
            return (estimate, 0, 0.0, mapping.local_bytes, mapping.chunks)
        if is_expanded:
            outputs = mapping.output_rounds * mapping.tile_outputs
            return (0.0, -min(mapping.weight_slots, PREFERRED_SLOTS), outputs, mapping.local_bytes, mapping.chunks)
        if shape.is_computed:
            ends_short = not mapping.first_chunk_bytes and mapping.pe_k_bytes % mapping.chunk_bytes > 0
            slots = 2 * min(mapping.weight_slots, PREFERRED_SLOTS) - ends_short
        else:
            slots = mapping.weight_slots
        return (0.0, -slots, round(estimate, 3), mapping.local_bytes, mapping.chunks)

    ranked = sorted(estimates, key=rank)
    shorter = _in_shorter_chunks(ranked, machine)
    return [mapping for _, mapping in sorted(ranked, key=lambda item: item != shorter)]


def _in_shorter_chunks(
    ranked: list[tuple[float, LinearMapping]], machine: Machine
) -> tuple[float, LinearMapping] | None:
    """Return what had better come first if that takes too much local memory: the same tiles in shorter whole chunks."""
    most_bytes = LARGEST_SHARE * machine.pe.local_memory_bytes
    least, first = min(estimate for estimate, _ in ranked), ranked[0][1]
    if not first.streams_constants or first.local_bytes <= most_bytes:
        return None
    for estimate, mapping in ranked:
        is_whole = mapping.pe_k_bytes % mapping.chunk_bytes == 0
        has_slots = mapping.streams_constants and mapping.weight_slots >= first.weight_slots
        is_small = mapping.local_bytes <= most_bytes and estimate <= least * (1 + ROOM_ERROR)
        if _tiles(mapping) == _tiles(first) and is_whole and has_slots and is_small:
            return estimate, mapping
    return None


def _tiles(mapping: LinearMapping) -> tuple[int, ...]:
    """Return what mappings have in common that differ in chunks only."""
    return mapping.tile_rows, mapping.tile_outputs, mapping.bands, mapping.k_parts, mapping.row_shares


def candidates(shape: LinearShape, machine: Machine) -> Iterator[LinearMapping]:
    """Yield all mappings that fit, some of them only if they may have the lowest cost."""
    for choice in _choices(shape, machine):
        yield from _completed(choice, machine)


def _choices(shape: LinearShape, machine: Machine) -> Iterator[LinearMapping]:
    """Yield tiles and parts of the grid, K in one chunk."""
    streamed = () if shape.rounded_from else streamed_tilings(shape, machine)
    for choice in (*_resident(shape, machine), *streamed):
        if not _has_stored_gap(choice):
            yield replace(choice, core_b_loads_x=_may_load_x(choice, machine))


def _may_load_x(choice: LinearMapping, machine: Machine) -> bool:
    """Tell whether core B may load x, which no longer keeps PEs of a row in step.

    It has no time for it where every block of K is a command of its own. And bands that read one weight must not drift
    apart where DRAM takes longest (found by trying; the estimate does not know).
    """
    has_time = machine.matrix.max_repeat_blocks > 1
    return has_time and (choice.bands == 1 or matrix_cycles(choice, machine) > loading_cycles(choice, machine))


def _completed(choice: LinearMapping, machine: Machine) -> Iterator[LinearMapping]:
    """Yield a choice with every useful split of K."""
    for chunk_bytes in _chunk_lengths(choice, machine).tolist():
        yield from _with_slots(_with_chunks(choice, chunk_bytes), machine)


def _has_padding(mapping: LinearMapping) -> bool:
    """Tell whether the matrix engine holds rows of x that are not there."""
    return mapping.instruction == "mml" and mapping.tile_rows % mapping.block_rows > 0


def _swapped(mapping: LinearMapping, machine: Machine) -> Iterator[LinearMapping]:
    """Yield the mapping with the matrix engine's operands swapped, where that leaves out rows of padding in time."""
    if _has_padding(mapping) and multiplies_long(mapping, machine):
        swapped = replace(mapping, is_swapped=True)
        if not swapped.streams_constants:
            swapped = replace(swapped, early_chunks=0)
        if swapped.local_bytes <= machine.pe.local_memory_bytes:
            yield swapped


def _has_stored_gap(mapping: LinearMapping) -> bool:
    """Tell whether a whole tile is stored as padding although no row of a computed [N, K] is there for it."""
    if mapping.shape.factor != "rows":
        return False
    outputs, padded = mapping.shape.outputs, padded_outputs(mapping.shape)
    return any(outputs <= mapping.first_output(tile) < padded for tile in range(mapping.output_tiles))


def _resident(shape: LinearShape, machine: Machine) -> Iterator[LinearMapping]:
    if not may_be_resident(shape, machine):
        return
    k_bytes = round_up(shape.inputs * shape.dtype.bytes, machine.matrix.block_k_bytes)
    held = machine.matrix.block_rows
    grid_rows, grid_columns = machine.grid.rows, machine.grid.columns
    instruction, largest = machine.matrix_instruction(shape.dtype.name), machine.accumulator.banks // shape.parts * held
    for tile in range(COLUMN_STEP, min(largest, round_up(shape.outputs, 32)) + 1, COLUMN_STEP):
        tiles = -(-padded_outputs(shape) // tile)
        rounds = -(-tiles // (grid_rows * grid_columns))
        rows, columns = smallest_rectangle(-(-tiles // rounds), grid_rows, grid_columns)
        rounds = -(-tiles // (rows * columns))
        yield LinearMapping(
            shape, instruction, True, rows, columns, held, tile_rows=shape.rows, tile_outputs=tile, chunks=1,
            chunk_bytes=k_bytes, k_bytes=k_bytes, row_rounds=1, output_rounds=rounds, x_slots=1, weight_slots=1,
        )  # fmt: skip


def _chunk_lengths(choice: LinearMapping, machine: Machine) -> npt.NDArray[np.int64]:
    """Return the useful lengths of a chunk's rows in bytes, the longest first."""
    block, k_bytes = _chunk_step(choice, machine), choice.pe_k_bytes
    fewest = -(-k_bytes // _maximum_chunk_bytes(choice))
    smallest = SMALLEST_COMPUTED_CHUNK_BYTES if choice.shape.is_computed else SMALLEST_CHUNK_BYTES
    wanted = np.arange(fewest, max(fewest, k_bytes // smallest) + 1)
    lengths = np.unique(-(k_bytes // -wanted // block) * block)[::-1]
    if choice.shares_slots:
        return _alike(choice, lengths, machine)
    if choice.k_parts == 1:
        return lengths
    return lengths[[_with_chunks(choice, length).k_parts == choice.k_parts for length in lengths.tolist()]]


def _alike(choice: LinearMapping, lengths: npt.NDArray[np.int64], machine: Machine) -> npt.NDArray[np.int64]:
    """Return the lengths with which chunks are about as long as those of other operations that share their slots.

    That is a turn of all channels of DRAM at least, if as many as are preferred have their share of memory, and if a
    tile has as many.
    """
    most = machine.pe.local_memory_bytes // LARGEST_EARLY_PART // PREFERRED_SLOTS
    turn = machine.dram.channels * machine.dram.interleave_bytes
    least = min(most, turn, choice.weight_chunk_bytes // (PREFERRED_SLOTS - 1))
    sizes = np.array([_with_chunks(choice, length).weight_chunk_bytes for length in lengths.tolist()])
    short = sizes <= most
    if not short.any():
        return lengths[-1:]
    long_enough = short & (sizes >= least)
    return lengths[long_enough] if long_enough.any() else lengths[short][:1]


def _with_chunks(choice: LinearMapping, chunk_bytes: int) -> LinearMapping:
    chunks = -(-choice.pe_k_bytes // chunk_bytes)
    is_packed_in_parts = choice.k_parts > 1 and not choice.shape.is_computed
    part_bytes = chunks * chunk_bytes if is_packed_in_parts else choice.k_part_bytes
    first_bytes = 0
    if choice.is_single and choice.k_parts == 1 and chunks - 1 >= LEAST_CHUNKS_BEHIND_FIRST:
        first_bytes = choice.k_bytes - (chunks - 1) * chunk_bytes
    return replace(
        choice, chunks=chunks, chunk_bytes=chunk_bytes, k_part_bytes=part_bytes, first_chunk_bytes=first_bytes
    )


def _with_slots(chunked: LinearMapping, machine: Machine) -> Iterator[LinearMapping]:
    """Yield the mappings of a choice whose K is cut so."""
    if _has_whole_groups(chunked) and _has_whole_parts(chunked):
        for mapping in _slotted(chunked, machine):
            yield mapping
            yield from _swapped(mapping, machine)


def _slotted(chunked: LinearMapping, machine: Machine) -> Iterator[LinearMapping]:
    """Yield a mapping with the most slots that fit, whole chunks and parts of them."""
    x_slot_bytes, weight_slot_bytes = chunked.x_slot_bytes, chunked.weight_chunk_bytes
    for slots in range(_wanted_slots(chunked, machine), 1, -1):
        x_slots = 1 if chunked.resident else min(slots, STREAMED_X_SLOTS) if chunked.streams_constants else slots
        if x_slots * x_slot_bytes + slots * weight_slot_bytes > machine.pe.local_memory_bytes:
            continue
        early = min(EARLY_CHUNKS, slots) if _lets_x_pass(chunked, machine) else 0
        mapping = replace(chunked, x_slots=x_slots, weight_slots=slots, early_chunks=early)
        parted = [*_in_parts(mapping, machine)]
        if mapping.local_bytes <= machine.pe.local_memory_bytes:
            parted.insert(0, mapping)
        if parted:
            yield from parted
            return


def _lets_x_pass(chunked: LinearMapping, machine: Machine) -> bool:
    """Tell whether weights had better wait for x: it may come behind something short, and products take longest.

    A residual is added to what ends a branch: behind other products, during which all slots fill.
    """
    is_behind_products = chunked.shape.has_residual or not chunked.streams_constants
    return not is_behind_products and matrix_cycles(chunked, machine) > loading_cycles(chunked, machine)


def _in_parts(mapping: LinearMapping, machine: Machine) -> Iterator[LinearMapping]:
    """Yield the mapping with its chunks expanded in parts: then products start early on what is loaded in one go."""
    packed = mapping.shape.packed
    if packed is None or packed.block is None or not mapping.resident or mapping.k_bytes % mapping.chunk_bytes:
        return
    for expansions in EXPANSIONS:
        parted = replace(mapping, expansions=expansions)
        step = math.lcm(machine.matrix.block_k_bytes, packed.block * mapping.shape.dtype.bytes)
        is_whole = mapping.chunk_bytes % (expansions * step) == 0
        if is_whole and parted.local_bytes <= machine.pe.local_memory_bytes:
            yield parted


def _maximum_chunk_bytes(choice: LinearMapping) -> int:
    """Return the most bytes of a chunk's rows: packed ones are as long in memory as others; parts of K are short."""
    if choice.k_parts > 1:
        return MAXIMUM_PART_CHUNK_BYTES
    packed = choice.shape.packed
    return MAXIMUM_CHUNK_BYTES * (choice.shape.dtype.bits // packed.dtype.bits if packed else 1)


def _wanted_slots(chunked: LinearMapping, machine: Machine) -> int:
    """Return how many chunks of the weight should be on their way."""
    if chunked.shape.is_computed and not chunked.resident:
        return max(PREFERRED_SLOTS, PREFERRED_SLOTS * SMALLEST_CHUNK_BYTES // chunked.chunk_bytes)
    if not (chunked.resident and chunked.loads_early):
        return PREFERRED_SLOTS
    slot_bytes = chunked.weight_chunk_bytes
    early_cycles = EXPANDED_EARLY_CYCLES if chunked.shape.packed else EARLY_CYCLES
    early_bytes = early_cycles * machine.dram_bytes_per_cycle / chunked.pe_count
    most = machine.pe.local_memory_bytes // LARGEST_EARLY_PART // slot_bytes
    return max(PREFERRED_SLOTS, min(math.ceil(early_bytes / slot_bytes) + 1, most, MAX_SLOTS))


def _chunk_step(choice: LinearMapping, machine: Machine) -> int:
    """Return what the bytes of a chunk's rows are a multiple of: blocks of K, and of scales unless those are long.

    With a gate short chunks pay, since nothing hides the expansion of the first.
    """
    block_bytes = machine.matrix.block_k_bytes
    packed = choice.shape.packed
    if packed is None or packed.block is None or choice.shape.gate:
        return block_bytes
    step = math.lcm(block_bytes, packed.block * choice.shape.dtype.bytes)
    return step if step <= min(choice.k_bytes, MAXIMUM_CHUNK_BYTES) else block_bytes


def _has_whole_groups(mapping: LinearMapping) -> bool:
    """Tell whether no chunk but a single one cuts a block of elements that share a scale, other than into chunks."""
    block = mapping.shape.packed.block if mapping.shape.packed else None
    inputs = mapping.chunk_inputs
    return block is None or mapping.chunks == 1 or inputs % block == 0 or block % inputs == 0


def _has_whole_parts(mapping: LinearMapping) -> bool:
    """Tell whether scales and zero points of two weights lie behind one another without a gap."""
    if mapping.shape.parts == 1 or mapping.shape.packed is None:
        return True
    scales = mapping.tile_outputs * mapping.groups
    sizes = (scales * mapping.shape.dtype.bytes, scales if mapping.shape.packed.has_zero_points else 0)
    return not any(size % AUXILIARY_ALIGNMENT_BYTES for size in sizes)
