"""What the loading and the multiplying core of a linear kernel share: arguments, buffers, and the walk over tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from compiler.kernel_builder import EARLY, ZERO, BufferHandle, Coordinate, CoreBuilder, Register
from compiler.linear_mapping import LinearMapping
from compiler.linear_shape import LinearShape
from compiler.packing import ROW_ALIGNMENT_BYTES
from isa.machine import Machine

ARGUMENTS = (
    "x", "x_pitch", "weight", "out", "out_pitch", "rows", "k_bytes", "out_bytes", "chunks", "row_rounds",
    "output_tiles", "initial", "initial_pitch",
)  # fmt: skip
"""Addresses, pitches, `rows` of x, bytes of K and of a result row that hold data or zeros, counts; `initial` is the
bias (fp32, one row of whole tiles) or the residual (rows of the result)."""
PACKED_ARGUMENTS = ("scales", "zero_points")
"""Addresses of what a packed weight is expanded with, in chunks like the weight."""
ACTIVATED_ARGUMENTS = ("outputs",)
"""With an activation that does not keep zeros: the outputs that are no padding."""
SCALED_ARGUMENTS = ("scales",)
ROW_SCALE_ARGUMENTS = ("row_scales", "row_scales_pitch")
"""Addresses of the fp32 scales of operands of a byte: one row of whole tiles for the columns, and those of the rows of
x unless the kernel makes them."""
RESULT_ARGUMENTS = {step: (step, f"{step}_pitch") for step in ("multiplier", "residual")}
"""Addresses and pitches of what results are multiplied by, and of what is added to them on the way out."""
COMPUTED_ARGUMENTS = ("weight_pitch", "inputs", "outputs")
"""With a computed second operand: the pitch of its rows, its rows and columns that hold data or are needed as zeros."""


@dataclass(frozen=True, slots=True)
class Buffers:
    """The circular buffers of a linear kernel."""

    x: BufferHandle
    weight: BufferHandle
    initial: BufferHandle
    out: BufferHandle
    factor: BufferHandle
    """The weight as it is multiplied: where a packed one is expanded to, or [K, N] is turned to, else `weight`."""
    activation: tuple[BufferHandle, ...]
    """What the accumulators held; what it became, if that passes a gate or its padding must be made zero again."""
    scales: BufferHandle | None = None
    zero_points: BufferHandle | None = None
    shifted: BufferHandle | None = None
    """A packed weight without its zero points, between the two steps of the expansion."""
    turned_result: BufferHandle | None = None
    """Results with a row per output, before they are turned."""
    begun: BufferHandle | None = None
    """A word for core A: the first chunk of x is there."""
    zeros: BufferHandle | None = None
    """A row of zeros, where accumulators start from bias or residual at one of several neighbours."""
    turned_residual: BufferHandle | None = None
    """The residual with a row per output."""
    results_like: Mapping[str, BufferHandle] = field(default_factory=dict)
    """The tile's part of a multiplier, and of a residual that is added on the way out."""


def arguments_of(shape: LinearShape) -> tuple[str, ...]:
    """Return the names of the kernel's arguments."""
    activated = ACTIVATED_ARGUMENTS if shape.activation == "sigmoid" and not shape.finish else ()
    packed = PACKED_ARGUMENTS if shape.packed else COMPUTED_ARGUMENTS if shape.is_computed else ()
    scaled = SCALED_ARGUMENTS if shape.is_scaled else ()
    row_scales = ROW_SCALE_ARGUMENTS if shape.is_scaled and not shape.rounded_from else ()
    early = () if shape.is_computed else (EARLY,)
    results_like = (name for step in shape.results_like for name in RESULT_ARGUMENTS[step])
    return (*ARGUMENTS, *early, *activated, *packed, *scaled, *row_scales, *results_like)


class Walk:
    """What both cores share: the loops over tiles, and where this PE's tiles start."""

    def __init__(self, mapping: LinearMapping, machine: Machine, core: CoreBuilder, buffers: Buffers) -> None:
        self.mapping, self.machine, self.core, self.buffers = mapping, machine, core, buffers
        self.tile_bytes = mapping.tile_outputs * mapping.shape.out_dtype.bytes
        self.k_part: Register | None = None
        """Number of this PE's part of K, if neighbours split it."""
        axes: tuple[tuple[Coordinate, Coordinate], ...] = (("row", "rows"), ("column", "columns"))
        self.row_axis, self.output_axis = reversed(axes) if mapping.is_turned else axes
        if mapping.k_parts > 1:
            self.k_part = core.load_coordinate(self.row_axis[0], core.register())
            with core.scratch() as parts:
                core.compute("rem", self.k_part, core.copy(mapping.k_parts, parts), self.k_part)
        self.index, self.stride = self._place()
        self.row_start = core.register()
        """First row of x of the tile; beyond the last row for a tile of padding."""
        self.first_row = self.row_start if mapping.has_whole_rows else core.register()
        self.tile_rows = core.register()
        self.out_offset = core.register()
        """Byte offset of the tile in a row of the result."""
        self.width: Register | int = core.register() if mapping.is_uneven else mapping.tile_outputs
        """Outputs of the tile, those beyond the last one included."""

    def _place(self) -> tuple[Register, Register]:
        """Return the first output tile of this PE and the distance to its next."""
        core, shares = self.core, self.mapping.row_shares
        if not (self.mapping.resident or self.mapping.is_flat):
            if shares == 1:
                index = core.coordinate(self.output_axis[0])
                return index, ZERO if self.mapping.is_single else core.coordinate(self.output_axis[1])
            index, stride = (core.load_coordinate(which, core.register()) for which in self.output_axis)
            for number in (index, stride):
                self._divide(number, shares)
            return index, stride
        index, stride, bands = core.register(), core.register(), self.mapping.bands
        with core.scratch() as columns:
            core.load_coordinate("columns", columns)
            core.load_coordinate("row", index)
            core.load_coordinate("rows", stride)
            turns = bands * self.mapping.k_parts
            if turns > 1:
                core.compute("div", index, turns, index)
                core.compute("div", stride, turns, stride)
            core.multiply(index, columns, index)
            core.multiply(stride, columns, stride)
            core.increase(index, core.load_coordinate("column", columns))
        return index, stride

    def own_k(self, argument: str, part: int, into: Register) -> Register:
        """Set `into` to how much of K this PE has, of all that an argument says, where a part has so much at most."""
        core = self.core
        core.load_argument(argument, into)
        if self.k_part is not None:
            with core.scratch() as limit:
                core.subtract(into, core.multiply(self.k_part, part, limit), into)
                core.minimum(into, core.copy(part, limit), into)
        return into

    def own_chunks(self, into: Register) -> Register:
        """Set `into` to the chunks of this PE's part of K."""
        if self.k_part is None:
            return self.core.load_argument("chunks", into)
        core, chunk_bytes = self.core, self.mapping.chunk_bytes
        core.increase(self.own_k("k_bytes", self.mapping.k_part_bytes, into), chunk_bytes - 1)
        return core.compute("div", into, chunk_bytes, into)

    @property
    def loads_initial_late(self) -> bool:
        """Tell whether core B loads what accumulators start from: behind the first weights it would come too late."""
        mapping, shape = self.mapping, self.mapping.shape
        is_scaled_there = shape.is_scaled and shape.rounded_from is None
        return mapping.streams_constants or (mapping.resident and not is_scaled_there)

    def _broadcast(self, receivers: str) -> str:
        """Return how a read for several PEs is broadcast."""
        return receivers if self.machine.dma.broadcast_reads else "none"

    def tiles(self) -> Iterator[None]:
        """Loop over all tiles of this PE, with those of one weight or those of one x behind each other."""
        if self.mapping.is_single:
            self.core.multiply(self.index, self.tile_bytes, self.out_offset)
            self._begin_outputs()
            self._find_first_rows()
            self._find_rows()
            self._begin_rows()
            yield
            return
        if self.mapping.keeps_weight and not self.mapping.streams_constants:
            self._begin_outputs()
            for _ in self.output_tiles():
                for _ in self.row_tiles():
                    self._begin_rows()
                    yield
                self._end_outputs()
            return
        for _ in self.row_tiles():
            self._begin_rows()
            self._begin_outputs()
            for _ in self.output_tiles():
                yield
                self._end_outputs()

    def _begin_rows(self) -> None:
        """Make what depends on a tile's rows."""

    def _begin_outputs(self) -> None:
        """Make what depends on a tile's outputs, for the first ones."""

    def _end_outputs(self) -> None:
        """Move it to the next outputs."""

    def row_tiles(self) -> Iterator[None]:
        """Loop over tiles of rows; sets `first_row` and `tile_rows`, both valid also in a tile of padding."""
        core, mapping = self.core, self.mapping
        self._find_first_rows()
        if mapping.streams_constants:  # in a single round
            self._find_rows()
            yield
            return
        with ExitStack() as body:
            with core.scratch() as rounds:
                body.enter_context(core.loop(core.load_argument("row_rounds", rounds)))
            self._find_rows()
            yield
            with core.scratch() as step:
                if mapping.resident or mapping.is_flat:
                    core.copy(mapping.bands * mapping.tile_rows, step)
                else:
                    core.multiply(self._row_parts(step), mapping.tile_rows, step)
                core.increase(self.row_start, step)

    def _find_first_rows(self) -> None:
        """Set the first row of x of this PE's first tile."""
        core, mapping = self.core, self.mapping
        if mapping.resident or mapping.is_flat:
            self._find_band(self.row_start)
        else:
            core.multiply(self._row_part(self.row_start), mapping.tile_rows, self.row_start)

    def _find_rows(self) -> None:
        """Set `first_row` and `tile_rows`."""
        core = self.core
        if self.mapping.has_whole_rows:
            core.copy(self.mapping.tile_rows, self.tile_rows)
            return
        with core.scratch() as last:
            core.load_argument("rows", self.tile_rows)
            core.minimum(self.row_start, core.subtract(self.tile_rows, 1, last), self.first_row)
        core.subtract(self.tile_rows, self.first_row, self.tile_rows)
        core.minimum(self.tile_rows, self.mapping.tile_rows, self.tile_rows)

    def _row_part(self, into: Register) -> Register:
        """Set `into` to the number of the part of the rows that this PE has."""
        core, mapping = self.core, self.mapping
        self._divide(core.load_coordinate(self.row_axis[0], into), mapping.k_parts)
        if mapping.row_shares > 1:
            with core.scratch() as share, core.scratch() as shares:
                core.copy(mapping.row_shares, shares)
                core.compute("rem", core.load_coordinate(self.output_axis[0], share), shares, share)
                core.multiply(into, mapping.row_shares, into)
                core.increase(into, share)
        return into

    def _row_parts(self, into: Register) -> Register:
        """Set `into` to the number of parts of the rows."""
        core, mapping = self.core, self.mapping
        self._divide(core.load_coordinate(self.row_axis[1], into), mapping.k_parts)
        return into if mapping.row_shares == 1 else core.multiply(into, mapping.row_shares, into)

    def _divide(self, number: Register, divisor: int) -> None:
        """Divide a register by a constant."""
        if divisor > 1:
            with self.core.scratch() as register:
                self.core.compute("div", number, self.core.copy(divisor, register), number)

    def _find_band(self, row_start: Register) -> None:
        """Set the first row of x of this PE's band."""
        core, bands = self.core, self.mapping.bands
        if bands == 1:
            core.copy(0, row_start)
            return
        core.compute("rem", core.load_coordinate("row", row_start), bands, row_start)
        core.multiply(row_start, self.mapping.tile_rows, row_start)

    def output_tiles(self) -> Iterator[None]:
        """Loop over output tiles of this PE; keeps `out_offset`."""
        core = self.core
        core.multiply(self.index, self.tile_bytes, self.out_offset)
        if isinstance(self.width, Register):
            core.copy(self.mapping.tile_outputs, self.width)
        with ExitStack() as body:
            with core.scratch() as trips:
                body.enter_context(core.loop(self.count_output_tiles(trips)))
            yield
            with core.scratch() as step:
                core.multiply(self.stride, self.tile_bytes, step)
                core.increase(self.out_offset, step)
            if isinstance(self.width, Register):
                self._begin_last_round(self.width)

    def _begin_last_round(self, width: Register) -> None:
        """Move the tile to where it is in the last round, if this begins: there tiles are smaller."""
        core, mapping = self.core, self.mapping
        with core.scratch() as place, ExitStack() as inside:
            core.subtract(core.load_argument("output_tiles", place), self.stride, place)
            core.multiply(place, self.tile_bytes, place)
            inside.enter_context(core.when_at_least(self.out_offset, place))
            missing = mapping.tile_outputs - mapping.last_tile_outputs
            core.multiply(self.index, missing * mapping.shape.out_dtype.bytes, place)
            core.subtract(self.out_offset, place, self.out_offset)
            core.copy(mapping.last_tile_outputs, width)

    @contextmanager
    def in_first_tile(self) -> Iterator[None]:
        """Run the block in the first of a PE's tiles of outputs."""
        with self.core.scratch() as step:
            self.core.multiply(self.stride, self.tile_bytes, step)
            with self.core.when_less(self.out_offset, step):
                yield

    def find_first_chunk(self, x_row: Register, address: Register, left: Register) -> None:
        """Point at the first chunk of x, of this PE's part of K; `left` are the bytes of its rows from there on."""
        core, part_bytes = self.core, self.mapping.k_part_bytes
        if address is not x_row:
            core.copy(x_row, address)
        if self.k_part is not None:
            core.increase(address, core.multiply(self.k_part, part_bytes, left))
        self.own_k("k_bytes", part_bytes, left)

    def load_x(self, address: Register, left: Register) -> None:
        """Load a chunk of x; the address moves to the next."""
        core, chunk_bytes = self.core, self.mapping.chunk_bytes
        with core.scratch() as size, core.scratch() as pitch, core.scratch() as out_pitch:
            core.minimum(left, core.copy(chunk_bytes, out_pitch), size)
            self._load_bytes_of_x(address, size, pitch, out_pitch)
        core.increase(address, chunk_bytes)
        core.increase(left, -chunk_bytes)

    def load_first_of_x(self, address: Register, size: int) -> None:
        """Load so many bytes of each row of x; the address moves on."""
        core = self.core
        with core.scratch() as row_bytes, core.scratch() as pitch, core.scratch() as out_pitch:
            core.copy(size, row_bytes)
            self._load_bytes_of_x(address, row_bytes, pitch, core.copy(self.mapping.chunk_bytes, out_pitch))
        core.increase(address, size)

    def _load_bytes_of_x(self, address: Register, size: Register, pitch: Register, out_pitch: Register) -> None:
        """Load `size` bytes of each row of x; sets `pitch`."""
        core = self.core
        core.emit(
            "dma_in", out=self.buffers.x, out_pitch=out_pitch, address=address,
            address_pitch=core.load_argument("x_pitch", pitch), rows=self.tile_rows, row_bytes=size,
            broadcast=self._broadcast(self.mapping.x_receivers),
        )  # fmt: skip
        core.push(self.buffers.x)

    def find_x(self, x_row: Register) -> None:
        """Point at the first row of x of the tile."""
        core = self.core
        core.multiply(self.first_row, core.load_argument("x_pitch", x_row), x_row)
        with core.scratch() as base:
            core.increase(x_row, core.load_argument("x", base))

    def width_bytes(self, into: Register) -> Register | int:
        """Return the bytes of the tile in a row of the result, in a register if they are not always the same."""
        if isinstance(self.width, int):
            return self.tile_bytes
        return self.core.multiply(self.width, self.mapping.shape.out_dtype.bytes, into)

    def count_output_tiles(self, count: Register) -> Register:
        """Set `count` to the output tiles of this PE."""
        core = self.core
        core.load_argument("output_tiles", count)
        core.subtract(count, self.index, count)
        core.increase(count, self.stride)
        core.increase(count, -1)
        return core.compute("div", count, self.stride, count)

    def _load_start(self) -> None:
        """Load what a tile starts from."""
        if self.mapping.shape.start == "bias":
            self._load_columns(self.buffers.initial, "initial")
        elif self.mapping.shape.start == "residual":
            self._load_residual()

    def _load_finish(self) -> None:
        """Load what a tile's results meet, if it is no padding."""
        if self.buffers.results_like:
            with self._inside():
                for step, buffer in self.buffers.results_like.items():
                    self._load_like_result(buffer, *RESULT_ARGUMENTS[step])

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Run the block for tiles that are not beyond the last row or column."""
        core = self.core
        with ExitStack() as inside:
            for place, name in ((self.row_start, "rows"), (self.out_offset, "out_bytes")):
                with core.scratch() as limit:
                    inside.enter_context(core.when_less(place, core.load_argument(name, limit)))
            yield

    def _load_columns(self, buffer: BufferHandle, name: str) -> None:
        """Load the tile's part of a row of one fp32 number per column, whose address is an argument."""
        core = self.core
        with core.scratch() as address:
            core.multiply(self.out_offset, 4 * self.mapping.shape.parts, address)
            core.compute("div", address, self.mapping.shape.out_dtype.bytes, address)
            with core.scratch() as base:
                core.increase(address, core.load_argument(name, base))
            core.emit("dma_in", out=buffer, address=address, rows=1, row_bytes=self.mapping.tile_columns * 4)
        core.push(buffer)

    def _load_residual(self) -> None:
        """Load the tile's part of the residual that accumulators start from."""
        self._load_like_result(self.buffers.initial, "initial", "initial_pitch")
        if self.buffers.turned_residual is not None:
            self._turn_residual(self.buffers.turned_residual)

    def _load_like_result(self, buffer: BufferHandle, name: str, pitch_name: str) -> None:
        """Read the tile's part of a tensor like the result, whose address and pitch are arguments.

        A tile of padding reads some other part, which is not stored. A row of the result is aligned, so that its last
        tile has at least what divides alignment and tile.
        """
        core = self.core
        with core.scratch() as offset, core.scratch() as size, core.scratch() as address, core.scratch() as pitch:
            core.load_argument("out_bytes", size)
            least = math.gcd(self.tile_bytes, ROW_ALIGNMENT_BYTES)
            core.minimum(self.out_offset, core.subtract(size, least, offset), offset)
            core.minimum(core.subtract(size, offset, size), self.tile_bytes, size)
            core.multiply(self.first_row, core.load_argument(pitch_name, pitch), address)
            core.increase(address, offset)
            core.increase(address, core.load_argument(name, offset))
            core.emit(
                "dma_in", out=buffer, out_pitch=self.tile_bytes, address=address, address_pitch=pitch,
                rows=self.tile_rows, row_bytes=size,
            )  # fmt: skip
        core.push(buffer)

    def _turn_residual(self, turned: BufferHandle) -> None:
        """Make a row per output of the tile's part of the residual."""
        core, pitch_bytes = self.core, self.mapping.turned_residual_pitch_bytes
        with core.scratch() as out_pitch, core.scratch() as pitch, core.scratch() as columns:
            core.emit(
                "transpose", out=turned, out_pitch=core.copy(pitch_bytes, out_pitch),
                a=self.buffers.initial, a_pitch=core.copy(self.tile_bytes, pitch), rows=self.tile_rows,
                columns=core.copy(self.mapping.tile_outputs, columns), a_dtype=self.mapping.shape.out_dtype.name,
            )  # fmt: skip
        core.push(turned)
        core.pop(self.buffers.initial)
