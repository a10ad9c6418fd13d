"""How a `linear` is spread over the grid: what a choice is. `linear_cost` estimates it, `linear_search` finds the best.

Two ways, both output-stationary (accumulators stay until K is done):

* resident: the few rows of x fit in local memory of every PE; weight tiles are dealt over all PEs and streamed once.
* streamed: rows of PEs split the rows of x, columns of PEs split the outputs. A chunk of x is read once per row of PEs
  and a chunk of the weight once per column of PEs; every PE makes the same number of trips, because broadcasts are
  collective, and only the store of tiles beyond the edge is left out. On a grid that is not square it may be the other
  way round (`is_turned`): 16 blocks of rows leave a third of 12 rows of PEs idle, but a ninth of 6 columns. Or all PEs
  split the outputs (`is_flat`) and no weight passes two PEs' ports; a chunk of x is read once per row of PEs. Rows of
  PEs may also take turns with as many `bands` of rows of x: PEs of different bands read the same weight, the later one
  from the cache, and less of x passes their ports.

Neighbours along the axis that splits the rows may split K too (`k_part_bytes`), of a constant only in a flat mapping:
each has a part of K for the tile of all of them, reads its part of the weight for itself, and they add their sums over
the reduction network. Or, where both operands are computed, neighbours along the axis that splits the outputs have the
same outputs and split the rows again (`row_shares`), so that 12 x 6 PEs work as 4 x 18: each reads its rows of x for
itself.

In either the matrix engine may hold rows of the weight and stream those of x (`is_swapped`): it takes the time of
a whole block of held rows, but only that of the streamed ones that are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from compiler.kernel_builder import round_up
from compiler.linear_shape import LinearShape
from isa.dtypes import FP32, Dtype
from isa.network import Mode

EXPANDED_SLOTS = 2
"""Chunks of a packed weight that are expanded at the same time."""
TURNED_SLOTS = 3
"""Chunks of a computed [K, N] that are turned at the same time."""
STREAMED_BLOCKS = 4
"""Blocks of rows of a tile up to which core B has registers for loading x; one less if it turns results, and if it
expands weights."""
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
    """All PEs of a band split the outputs."""
    bands: int = 1
    """Parts of the rows of x that rows of PEs take turns with, in a flat mapping."""
    is_swapped: bool = False
    """The matrix engine holds the weight and streams x: results are turned on their way out of the accumulators."""
    expansions: int = 1
    """Parts of a chunk of a packed weight that are expanded and multiplied one after the other, each some of its K."""
    last_tile_outputs: int = 0
    """Outputs of the tiles of the last round, if they are fewer than those of the others."""
    k_part_bytes: int = 0
    """K bytes per row that a PE multiplies, if neighbours split K: a multiple of a block, fewer in the last part."""
    early_chunks: int = 0
    """Chunks of the weight that core A loads before the first chunk of x is there; 0 if it need not wait for that."""
    core_b_loads_x: bool = False
    """Core B is to load chunks of x, if it has registers for that (`streams_constants`)."""
    first_chunk_bytes: int = 0
    """K bytes per row of the first chunk, if it is that which is short and asked for at once; 0 if the last one is."""
    row_shares: int = 1
    """Neighbours along the axis that splits the outputs that have the same outputs and split the rows among them."""

    @property
    def way(self) -> str:
        """The way it is spread, in a word."""
        if self.resident:
            return "resident"
        if self.bands > 1:
            return "banded"
        if self.is_flat and self.k_parts > 1:
            return "split"
        return "flat" if self.is_flat else "turned" if self.is_turned else "streamed"

    @property
    def pe_k_bytes(self) -> int:
        """K bytes per row that a PE multiplies, at most."""
        return self.k_part_bytes or self.k_bytes

    @property
    def k_parts(self) -> int:
        """Neighbours that split K and add their sums."""
        return -(-self.k_bytes // self.pe_k_bytes)

    @property
    def packed_chunks(self) -> int:
        """Chunks of a tile of the packed weight, those of all parts of K."""
        return self.chunks if self.shape.is_computed else self.chunks * self.k_parts

    @property
    def row_groups(self) -> int:
        """Places along the axis of the grid that splits the rows of x."""
        if self.is_flat:
            return self.bands
        return self.grid_columns if self.is_turned else self.grid_rows

    @property
    def row_parts(self) -> int:
        """Parts of the grid that the rows of x are split over."""
        return self.bands if self.is_flat else self.row_groups * self.row_shares // self.k_parts

    @property
    def output_parts(self) -> int:
        """Parts of the grid that the outputs are split over."""
        if self.is_flat:
            return self.pe_count // self.bands // self.k_parts
        return (self.grid_rows if self.is_turned else self.grid_columns) // self.row_shares

    @property
    def x_receivers(self) -> Mode:
        """PEs that work on the same part of x, and read it together."""
        if self.row_shares > 1:
            return "none"
        return "all" if self.resident else "row" if self.is_flat else "column" if self.is_turned else "row"

    @property
    def weight_receivers(self) -> Mode:
        """PEs that work on the same part of the weight, and read it together."""
        if self.resident or self.is_flat or self.k_parts > 1:
            return "none"
        return "row" if self.is_turned else "column"

    @property
    def uses_up_x(self) -> bool:
        """True if every PE has a tile, so that it multiplies a resident x."""
        return self.resident and self.output_tiles >= self.pe_count

    @property
    def loads_early(self) -> bool:
        """True if the first chunks of the weight can be loaded before x is there."""
        return not self.shape.is_computed

    @property
    def loads_constants(self) -> bool:
        """True if core A loads nothing else: core B has x and residual, and no scales of rows come with a tile."""
        gets_scales = self.shape.is_scaled and self.shape.rounded_from is None
        return self.streams_constants or (self.resident and self.loads_early and not gets_scales)

    @property
    def shares_slots(self) -> bool:
        """True if chunks of the weight are on their way beside those of other operations of a launch."""
        return self.resident and self.loads_constants

    @property
    def streams_constants(self) -> bool:
        """True if core B loads chunks of x, so that the weight does not wait for them, nor they for the weight.

        It counts the rows of each block in a register, and has none left for x where there are many blocks.
        """
        is_plain = self.core_b_loads_x and not self.resident and self.loads_early and not self.shape.is_scaled
        most_rows = (STREAMED_BLOCKS - self.is_swapped - (self.shape.packed is not None)) * self.block_rows
        return is_plain and self.row_rounds == 1 and self.tile_rows <= most_rows

    @property
    def output_tiles(self) -> int:
        """Tiles of the packed weight, those of padding included."""
        if self.resident:
            return -(-padded_outputs(self.shape) // self.tile_outputs)
        return self.output_parts * self.output_rounds

    @property
    def owners(self) -> tuple[int, ...]:
        """By block of rows the part of K whose PE gets the sums of all, rounds and stores them."""
        blocks = -(-self.tile_rows // self.block_rows)
        return tuple((2 * block + 1) * self.k_parts // (2 * blocks) for block in range(blocks))

    @property
    def starts_apart(self) -> bool:
        """True if accumulators start from bias or residual at the owner of their sums, and from zeros elsewhere."""
        return self.k_parts > 1 and self.shape.start is not None

    @property
    def is_uneven(self) -> bool:
        """True if tiles of the last round are smaller, so that all PEs get the same part of what is left for it."""
        return self.last_tile_outputs > 0

    @property
    def rounds_outputs(self) -> tuple[int, ...]:
        """Outputs of a PE's tile by round."""
        return (self.tile_outputs,) * (self.output_rounds - 1) + (self.last_tile_outputs or self.tile_outputs,)

    def first_output(self, tile: int) -> int:
        """Return the first output of a tile; tiles are dealt round by round."""
        whole = self.output_parts * (self.output_rounds - 1) if self.is_uneven else tile
        return min(tile, whole) * self.tile_outputs + max(0, tile - whole) * self.last_tile_outputs

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
    def part_bytes(self) -> int:
        """Bytes per row of what is multiplied at a time: a chunk, or a part of it."""
        return self.chunk_bytes // self.expansions

    @property
    def part_inputs(self) -> int:
        """Elements of K in a part."""
        return self.part_bytes // self.shape.dtype.bytes

    @property
    def expanded_part_bytes(self) -> int:
        """Bytes of a part of the weight as the matrix engine reads it, if that is not how it lies in memory."""
        return self.tile_columns * self.part_bytes if self.shape.packed else 0

    @property
    def is_single(self) -> bool:
        """True if every PE has one tile of two computed operands: nothing hides its first loads and last stores."""
        is_dealt = self.resident or self.is_flat
        return self.shape.is_computed and not is_dealt and self.row_rounds * self.output_rounds == 1

    @property
    def turned_chunk_bytes(self) -> int:
        """Bytes of one block of a computed [K, N] as the matrix engine reads it."""
        return self.tile_outputs * self.chunk_bytes if self.shape.factor == "columns" else 0

    @property
    def column_blocks(self) -> tuple[tuple[int, int], ...]:
        """First outputs of the blocks of a tile, and how many: about as many where each accumulator is stored alone."""
        blocks = -(-self.tile_outputs // self.block_rows)
        width = -(-self.tile_outputs // blocks) if self.stores_banks else self.block_rows
        return tuple(
            (part + start, min(width, self.tile_outputs - start))
            for part in range(0, self.tile_columns, self.tile_outputs)
            for start in range(0, self.tile_outputs, width)
        )

    @property
    def turned_slot_bytes(self) -> int:
        """Bytes of a block of columns of a computed [K, N] as the matrix engine reads it."""
        return self.column_blocks[0][1] * self.chunk_bytes if self.turned_chunk_bytes else 0

    @property
    def needed_outputs(self) -> int:
        """Outputs that the second operand has: whole tiles, its rows, or its columns with their padding."""
        if self.shape.factor == "tiles":
            return self.output_tiles * self.tile_outputs
        return self.shape.outputs if self.shape.factor == "rows" else padded_outputs(self.shape)

    @property
    def is_ragged(self) -> bool:
        """True if a tile of a computed operand is not multiplied as a whole."""
        return self.is_uneven or self.needed_outputs < self.output_tiles * self.tile_outputs

    @property
    def has_whole_rows(self) -> bool:
        """True if every PE has a single tile, full of rows."""
        return self.is_single and self.row_parts * self.tile_rows == self.shape.rows

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weight with its scales and zero points."""
        if self.is_uneven:
            return self.output_parts * sum(self.rounds_outputs) * self.chunks * self.chunk_bytes
        chunk_bytes = self.weight_chunk_bytes + self.scale_chunk_bytes + self.zero_point_chunk_bytes
        return self.output_tiles * self.packed_chunks * chunk_bytes

    @property
    def x_slot_bytes(self) -> int:
        """Bytes of a slot for x: all of K when it is resident, else a chunk."""
        return self.tile_rows * (self.k_bytes if self.resident else self.chunk_bytes)

    @property
    def turns_results(self) -> bool:
        """True if the layout unit turns results, and the residual; those of one row lie the same either way."""
        return self.is_swapped and self.tile_rows > 1

    @property
    def stores_blocks(self) -> bool:
        """True if results are stored by blocks of rows, the first ones while products of the last ones are made.

        Scales, and activations that make something of zeros, take a whole tile at a time.
        """
        return bool(self.shape.finish) or not (self.shape.is_scaled or self.shape.activation)

    @property
    def stored_rows(self) -> int:
        """Rows that are drained and stored at a time, at most."""
        return min(self.tile_rows, self.block_rows) if self.stores_blocks else self.tile_rows

    @property
    def stores_banks(self) -> bool:
        """True if what an accumulator holds is stored by itself: of a single tile, whose store nothing else hides."""
        return self.shape.is_computed and not self.is_swapped and self.row_rounds * self.output_rounds == 1

    @property
    def stored_outputs(self) -> int:
        """Outputs that are stored at a time, at most."""
        return min(self.tile_outputs, self.block_rows) if self.stores_banks else self.tile_outputs

    @property
    def out_slots(self) -> int:
        """Slots for what is stored at a time: those of two tiles."""
        return 2 * -(-self.tile_rows // self.stored_rows) * -(-self.tile_outputs // self.stored_outputs)

    @property
    def turned_result_pitch_bytes(self) -> int:
        """Bytes from output to output of results that are to be turned."""
        has_sums = self.shape.is_scaled or self.activation_bytes
        return _turned_pitch_bytes(self.stored_rows, FP32 if has_sums else self.shape.out_dtype)

    @property
    def turned_result_bytes(self) -> int:
        """Bytes of results between accumulators and layout unit, as many rows as are stored at a time."""
        return self.tile_columns * self.turned_result_pitch_bytes if self.turns_results else 0

    @property
    def turned_result_slots(self) -> int:
        """Slots of these: two where one is filled while the other is turned."""
        return 1 if self.stored_rows == self.tile_rows else 2

    @property
    def turned_residual_pitch_bytes(self) -> int:
        """Bytes from output to output of a turned tile of the residual."""
        return _turned_pitch_bytes(self.tile_rows, self.shape.out_dtype)

    @property
    def turned_residual_bytes(self) -> int:
        """Bytes of a tile of the residual as accumulators start from it; integers are scaled before it is added."""
        is_turned = self.turns_results and self.shape.start == "residual" and not self.shape.is_scaled
        return self.tile_outputs * self.turned_residual_pitch_bytes if is_turned else 0

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

    @cached_property
    def local_bytes(self) -> int:
        """Local memory of the buffers."""
        tile = self.tile_rows * self.tile_outputs
        start = self.initial_row_bytes
        if self.shape.start == "bias":
            start = 2 * self.tile_columns * 4
        if self.shape.start == "residual":
            start = 2 * tile * self.shape.out_dtype.bytes
        if self.starts_apart:
            start += round_up(self.initial_row_bytes, 64)
        shifted = self.expanded_part_bytes if self.zero_point_chunk_bytes else 0
        scaled = 2 * (self.tile_rows * 64 + self.tile_columns * 4) + 3 * tile * self.shape.parts * 4
        scaled += self.initial_row_bytes
        turned_slots = TURNED_SLOTS * len(self.column_blocks)
        buffers = (
            self.x_slots * round_up(self.x_slot_bytes, 32), self.weight_slots * self.weight_chunk_bytes,
            self.out_slots * round_up(self.stored_rows * self.stored_outputs * self.shape.out_dtype.bytes, 32), start,
            self.weight_slots * self.scale_chunk_bytes,
            self.weight_slots * self.zero_point_chunk_bytes, EXPANDED_SLOTS * self.expanded_part_bytes + shifted,
            scaled if self.shape.is_scaled else 0, turned_slots * round_up(self.turned_slot_bytes, 32),
            self.turned_result_slots * self.turned_result_bytes, 2 * self.turned_residual_bytes,
            self.tile_rows * (self.raw_row_bytes + 2 * FP32.bytes),
            len(self.shape.results_like) * self.finish_slots * tile * self.shape.out_dtype.bytes,
        )  # fmt: skip
        activation = zip(self.activation_slots, self.activation_bytes, strict=True)
        return sum(round_up(size, 64) for size in buffers) + sum(
            slots * round_up(size, 64) for slots, size in activation
        )

    @property
    def activation_bytes(self) -> tuple[int, ...]:
        """Bytes of what lies in fp32 between accumulators and result: tiles, one more where zeros do not stay zeros.

        Gate and factor of a tile that is not scaled, and always the gate's function, take a block of rows at a time, as
        does what each step of `finish` begins with.
        """
        tile = self.tile_rows * self.tile_outputs * 4
        block = min(self.block_rows, self.tile_rows) * self.tile_outputs * 4
        if self.shape.finish:
            return (block,) * len(self.shape.finish)
        if self.shape.gate:
            return (self.shape.parts * (tile if self.shape.is_scaled else block), block)
        return {None: (), "sigmoid": (tile, tile)}.get(self.shape.activation, (tile,))

    @property
    def activation_slots(self) -> tuple[int, ...]:
        """Slots of these: two where one is filled while the other is read; `finish` begins with all of a tile at most.

        Then accumulators need not wait for its steps before they are drained.
        """
        if self.shape.finish:
            return (-(-self.tile_rows // self.block_rows), *(1,) * (len(self.shape.finish) - 1))
        is_by_blocks = self.shape.gate and not self.shape.is_scaled and self.tile_rows > self.block_rows
        return (2 if is_by_blocks else 1,) * len(self.activation_bytes)

    @property
    def finish_slots(self) -> int:
        """Slots for a tile of what results meet: one where it is loaded behind the chunks of its tile."""
        return 2 if self.resident or self.streams_constants else 1


def _turned_pitch_bytes(rows: int, dtype: Dtype) -> int:
    """Return the bytes from output to output where each has so many rows, at an address that every unit can reach."""
    return round_up(rows * dtype.bytes, 32)


def padded_outputs(shape: LinearShape) -> int:
    """Return the outputs that are written: up to the padded row of the result."""
    return round_up(shape.outputs, 64 // shape.out_dtype.bytes)
