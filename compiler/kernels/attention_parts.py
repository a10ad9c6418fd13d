"""How the parts of an item join their results over the reduction network.

The PEs of an item are a chain of neighbours, the root in its middle. Each has, for its keys, the maximum m, the sum of
weights and the weighted sum of values of every row; one without keys has the maximum of a hidden key and zeros.

1. Maxima. Part p puts m into column p of a bank of zeros. On the way to the root every part adds what it gets to its
   bank, which gathers all columns at the root; that goes back to the ends. Now all know the largest, M.
2. Sums. Every part multiplies its sums with exp(m - M), and they are added on the way to the root. It divides and
   stores.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from compiler.attention_mapping import FP32_BYTES, AttentionTile
from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, Register
from compiler.kernels.attention_softmax import HIDDEN, Softmax
from compiler.kernels.attention_walk import AttentionBuffers, PartBuffers, loaded
from isa.machine import Machine

_DIRECTIONS = ("north", "east", "south", "west")
"""Their index is the code of a neighbour; -1 is none."""
_NORTH, _EAST, _SOUTH, _WEST, _NOBODY = 0, 1, 2, 3, -1
_PIECE_ROWS = 16
"""Rows of an accumulator that travel at once, about: what is behind them need not wait for all."""


class Joiner(Softmax):
    """Core B at the end of an item that several PEs share."""

    def __init__(self, tile: AttentionTile, machine: Machine, core: CoreBuilder, buffers: AttentionBuffers) -> None:
        super().__init__(tile, machine, core, buffers)
        if tile.parts > 1:
            self._inner, self._outer, self._second = core.register(), core.register(), core.register()
            """Codes of the neighbour towards the root, of that away from it, and of the other such one of the root."""

    @property
    def _own(self) -> PartBuffers:
        assert self.buffers.parts is not None
        return self.buffers.parts

    def prepare_parts(self) -> None:
        """Find out where the neighbours in the chain are."""
        core = self.core
        self._fill_tables()
        with core.scratch() as end, core.scratch() as root:
            core.add(self.parts, -1, end)
            core.compute("div", self.parts, core.copy(2, root), root)
            self._find_neighbours(self._outer, self._inner)
            core.copy(_NOBODY, self._second)
            with core.when_less(root, self.part), core.scratch() as outer:
                core.copy(self._inner, outer)
                core.copy(self._outer, self._inner)
                core.copy(outer, self._outer)
                with core.when_equal(self.part, end):
                    core.copy(_NOBODY, self._outer)
            with core.when_equal(root, self.part):
                with core.when_less(self.part, end):
                    core.copy(self._inner, self._second)
                core.copy(_NOBODY, self._inner)
            with core.when_equal(self.part, ZERO):
                core.copy(_NOBODY, self._outer)

    def _find_neighbours(self, before: Register, after: Register) -> None:
        """Emit the codes of those with the numbers before and after: rows run east and west in turn."""
        core = self.core
        with core.scratch() as odd, core.scratch() as column, core.scratch() as end:
            core.load_coordinate("row", odd)
            core.compute("and", odd, core.copy(1, end), odd)
            core.load_coordinate("column", column)
            core.load_coordinate("columns", end)
            core.increase(end, -1)
            with core.when_equal(odd, ZERO):
                self._choose(before, column, ZERO, _NORTH, _WEST)
                self._choose(after, column, end, _SOUTH, _EAST)
            with core.when_less(ZERO, odd):
                self._choose(before, column, end, _NORTH, _EAST)
                self._choose(after, column, ZERO, _SOUTH, _WEST)

    def _choose(self, target: Register, column: Register, edge: Register, at_edge: int, elsewhere: int) -> None:
        self.core.copy(elsewhere, target)
        with self.core.when_equal(column, edge):
            self.core.copy(at_edge, target)

    def _fill_tables(self) -> None:
        """Write the tables of zeros, and of the one that marks this PE's part."""
        core, own, width = self.core, self._own, self.machine.matrix.block_rows
        for buffer in (own.zeros, own.place):
            with loaded(core, buffer.slot_bytes // FP32_BYTES) as (count,):
                core.emit("fill", out=buffer, rows=1, columns=count, out_dtype="fp32", value=0.0)
        with core.scratch() as offset, loaded(core, width * FP32_BYTES, 1) as (pitch, one):
            core.multiply(self.part, FP32_BYTES, offset)
            core.emit(
                "fill", out=own.place, out_offset=offset, out_pitch=pitch, rows=self.rows, columns=one,
                out_dtype="fp32", value=1.0,
            )  # fmt: skip
        core.push(own.zeros)
        core.push(own.place)

    def join(self) -> None:
        """Join the results of the parts of an item, after `gather_maxima`; the root stores them."""
        core, buffers, total = self.core, self.buffers, self._own.total
        self._rescale()
        self._add_up()
        with self._at_the_root(), core.scratch() as address:
            core.push(total)
            self.load_out_address(address)
            with loaded(core, self._sums_offset) as (offset,):
                self.dense("vrecip", buffers.column, total, a_offset=offset)
            core.push(buffers.column)
            self.multiply_out(total)
            self.write_out(address, self.rows)

    @property
    def _sums_offset(self) -> int:
        """Bytes in `share` before the sums of weights."""
        return (self.tile.share_rows(self.machine) - 1) * self.machine.matrix.block_rows * FP32_BYTES

    def _at_the_root(self) -> AbstractContextManager[None]:
        return self.core.when_less(self._inner, ZERO)

    def stand_in(self) -> None:
        """Make up the result of no keys."""
        core, buffers, depth = self.core, self.buffers, self.shape.padded_head_dim
        self.dense("vadds", buffers.maximum, self._own.zeros, value=HIDDEN)
        self.dense("vcast", buffers.weight, self._own.zeros)
        with loaded(core, depth * FP32_BYTES, depth) as (pitch, columns):
            self.wide("vcast", buffers.output, self._own.zeros, pitch, columns)
        for buffer in (buffers.maximum, buffers.weight, buffers.output):
            core.push(buffer)

    def gather_maxima(self) -> None:
        """Leave the maxima of all parts as columns in `maxima`; the last values need not be there yet."""
        core, own, columns = self.core, self._own, self.parts
        with loaded(core, self.machine.matrix.block_rows * FP32_BYTES, FP32_BYTES) as (pitch, dense):
            self.wide(
                "vmul", own.spots, own.place, pitch, columns, b=self.buffers.maximum, b_pitch=dense, b_dtype="fp32",
                spread="column",
            )  # fmt: skip
            core.push(own.spots)
            self.wide("vcast", own.spots, own.zeros, pitch, columns)
            core.push(own.spots)
            for bank in self.banks.joins:
                self._load(bank, own.spots, pitch, columns)
                core.pop(own.spots)
        gathered, all_of_them = self.banks.joins
        self._pass_in(gathered, self.rows, columns)
        wide = self.machine.matrix.block_rows
        with self._at_the_root():
            for outer in (self._outer, self._second):
                self._link("acc_send", gathered, self.rows, columns, outer)
            self.drain(gathered, own.maxima, 0, wide, columns)
        with core.when_at_least(self._inner, ZERO):
            self._link("acc_add", all_of_them, self.rows, columns, self._inner)
            self._link("acc_send", all_of_them, self.rows, columns, self._outer)
            self.drain(all_of_them, own.maxima, 0, wide, columns)
        core.push(own.maxima)

    def _rescale(self) -> None:
        """Leave this part's sums, relative to the largest maximum of all, in `share` and `share_sum`."""
        core, buffers, own, depth = self.core, self.buffers, self._own, self.shape.padded_head_dim
        pitch = self.machine.matrix.block_rows * FP32_BYTES
        with loaded(core, FP32_BYTES, pitch) as (dense, wide):
            core.emit(
                "rowmax", out=buffers.column, out_pitch=dense, a=own.maxima, a_pitch=wide, rows=self.rows,
                columns=self.parts, out_dtype="fp32", a_dtype="fp32",
            )  # fmt: skip
        self.move(buffers.column, own.maxima)
        self.dense("vexpsub", buffers.rescale, buffers.maximum, b=buffers.column, value=self.late_scale)
        self.move(buffers.rescale, buffers.maximum)
        core.pop(buffers.column)
        with loaded(core, depth * FP32_BYTES, depth, FP32_BYTES) as (pitch_register, columns, dense):
            self.wide(
                "vmul", own.share, buffers.output, pitch_register, columns, b=buffers.rescale, b_pitch=dense,
                b_dtype="fp32", spread="column",
            )  # fmt: skip
        with loaded(core, self._sums_offset) as (offset,):
            self.dense("vmul", own.share, buffers.weight, b=buffers.rescale, out_offset=offset)
        self.move(own.share, buffers.output)
        core.pop(buffers.weight)
        core.pop(buffers.rescale)

    def _add_up(self) -> None:
        """Add the sums of all parts; they lie in rows of the accumulator's width. The root has them in `total`."""
        core, own, banks = self.core, self._own, (*self.banks.joins, *self.banks.values)
        rows, width = self.tile.share_rows(self.machine), self.machine.matrix.block_rows
        pieces = -(-rows // min(_PIECE_ROWS, width))
        for piece in range(pieces):
            first, last = rows * piece // pieces, rows * (piece + 1) // pieces
            bank, row_bytes = banks[piece % len(banks)], width * FP32_BYTES
            with loaded(core, first * row_bytes, row_bytes, last - first, width) as (offset, pitch, count, columns):
                self._load(bank, own.share, pitch, columns, offset, count)
                self._pass_in(bank, count, columns)
                with self._at_the_root():
                    core.emit(
                        "acc_drain", out=own.total, out_offset=offset, out_pitch=pitch, bank=bank, rows=count,
                        columns=columns, out_dtype="fp32",
                    )  # fmt: skip
        core.pop(own.share)

    def _load(
        self,
        bank: int,
        source: BufferHandle,
        pitch: Register,
        columns: Register,
        offset: Register = ZERO,
        rows: Register | None = None,
    ) -> None:
        self.core.emit(
            "acc_load", bank=bank, a=source, a_offset=offset, a_pitch=pitch, rows=rows or self.rows, columns=columns,
            a_dtype="fp32",
        )  # fmt: skip

    def _pass_in(self, bank: int, rows: Register, columns: Register) -> None:
        """Add the banks of the neighbours away from the root, and send the sum on towards it."""
        for outer in (self._outer, self._second):
            self._link("acc_add", bank, rows, columns, outer)
        self._link("acc_send", bank, rows, columns, self._inner)

    def _link(self, name: str, bank: int, rows: Register, columns: Register, neighbour: Register) -> None:
        """Emit a command on the link to a neighbour, if there is one."""
        core = self.core
        with core.when_at_least(neighbour, ZERO):
            for code, direction in enumerate(_DIRECTIONS):
                with loaded(core, code) as (value,), core.when_equal(neighbour, value):
                    core.emit(name, bank=bank, rows=rows, columns=columns, direction=direction)
