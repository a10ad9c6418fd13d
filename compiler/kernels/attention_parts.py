"""How the parts of an item join their results over the reduction network.

The PEs of an item are a chain of neighbours. Each has, for its keys, the maximum m, the sum of weights and the weighted
sum of values of every row; one without keys has the maximum of a hidden key and zeros.

1. Maxima. Part p puts m into column p of a bank of zeros. Going down the chain every part adds its bank, which gathers
   all columns in the last one; that goes back up the chain. Now all know the largest, M.
2. Sums. Every part multiplies its sums with exp(m - M), and they are added going down the chain. The last part divides
   and stores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from compiler.attention_mapping import FP32_BYTES, AttentionTile
from compiler.kernel_builder import ZERO, BufferHandle, CoreBuilder, Register
from compiler.kernels.attention_softmax import HIDDEN, Softmax
from compiler.kernels.attention_walk import AttentionBuffers, PartBuffers, loaded
from isa.machine import Machine

_DOWN, _UP = ("east", "west", "south"), ("west", "east", "north")
"""Where the next and the previous PE may be; their numbers are the codes below."""
_ALONG, _AGAINST, _ACROSS = range(3)


class Joiner(Softmax):
    """Core B at the end of an item that several PEs share."""

    def __init__(self, tile: AttentionTile, machine: Machine, core: CoreBuilder, buffers: AttentionBuffers) -> None:
        super().__init__(tile, machine, core, buffers)
        if tile.parts > 1:
            self._down, self._up, self._last = core.register(), core.register(), core.register()

    @property
    def _own(self) -> PartBuffers:
        assert self.buffers.parts is not None
        return self.buffers.parts

    def prepare_parts(self) -> None:
        """Find out where the neighbours in the chain are: rows run east and west in turn, and meet at their ends."""
        core = self.core
        core.add(self.parts, -1, self._last)
        with core.scratch() as odd, core.scratch() as column, core.scratch() as end:
            core.load_coordinate("row", odd)
            core.compute("and", odd, core.copy(1, end), odd)
            core.load_coordinate("column", column)
            core.load_coordinate("columns", end)
            core.increase(end, -1)
            for target, is_even_end in ((self._down, False), (self._up, True)):
                core.copy(odd, target)
                with core.when_equal(odd, ZERO), core.when_equal(column, ZERO if is_even_end else end):
                    core.copy(_ACROSS, target)
                with core.when_less(ZERO, odd), core.when_equal(column, end if is_even_end else ZERO):
                    core.copy(_ACROSS, target)

    def join(self) -> None:
        """Join the results of the parts of an item; the last one stores them."""
        core = self.core
        with core.when_at_least(self.begin, self.end):
            self._stand_in()
        self._gather_maxima()
        self._rescale()
        self._add_up()
        with core.when_equal(self.part, self._last), core.scratch() as address:
            self.load_out_address(address)
            self.divide(self.buffers.product, self.buffers.sums)
            self.write_out(address, self.rows)

    def _stand_in(self) -> None:
        """Make up the result of no keys."""
        core, buffers, depth = self.core, self.buffers, self.shape.padded_head_dim
        self.dense("vadds", buffers.maximum, self._own.zeros, value=HIDDEN)
        self.dense("vcast", buffers.weight, self._own.zeros)
        with loaded(core, depth * FP32_BYTES, depth) as (pitch, columns):
            self.wide("vcast", buffers.output, self._own.zeros, pitch, columns)
        for buffer in (buffers.maximum, buffers.weight, buffers.output):
            core.push(buffer)

    def _gather_maxima(self) -> None:
        """Leave the maxima of all parts as columns in `maxima`."""
        core, own, columns = self.core, self._own, self.parts
        with loaded(core, self.machine.accumulator.columns * FP32_BYTES, FP32_BYTES) as (pitch, dense):
            self.wide(
                "vmul", own.spots, own.place, pitch, columns, b=self.buffers.maximum, b_pitch=dense, b_dtype="fp32",
                spread="column",
            )  # fmt: skip
            core.push(own.spots)
            self.wide("vcast", own.spots, own.zeros, pitch, columns)
            core.push(own.spots)
            self._load(0, own.spots, pitch, columns)
            core.pop(own.spots)
            self._load(1, own.spots, pitch, columns)
            core.pop(own.spots)
        self._pass_down(0, columns, lambda: None)
        with core.when_less(self.part, self._last):
            self._link("acc_add", 1, columns, "down")
            with core.when_less(ZERO, self.part):
                self._link("acc_send", 1, columns, "up")
            self.drain(1, own.maxima, 0, self.machine.accumulator.columns, columns)
        with core.when_equal(self.part, self._last):
            with core.when_less(ZERO, self.part):
                self._link("acc_send", 0, columns, "up")
            self.drain(0, own.maxima, 0, self.machine.accumulator.columns, columns)
        core.push(own.maxima)

    def _rescale(self) -> None:
        """Leave this part's sums, relative to the largest maximum of all, in `share` and `share_sum`."""
        core, buffers, own, depth = self.core, self.buffers, self._own, self.shape.padded_head_dim
        pitch = self.machine.accumulator.columns * FP32_BYTES
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
        self.dense("vmul", own.share_sum, buffers.weight, b=buffers.rescale)
        self.move(own.share, buffers.output)
        self.move(own.share_sum, buffers.weight)
        core.pop(buffers.rescale)

    def _add_up(self) -> None:
        """Add the sums of all parts; the last one has them in `product` and `sums`."""
        core, buffers, own = self.core, self.buffers, self._own
        depth, width, banks = self.shape.padded_head_dim, self.shape.block_rows, self.machine.accumulator.banks
        for index, first in enumerate([*range(0, depth, width), depth]):
            is_sum, bank = first == depth, index % banks
            source, row = (own.share_sum, 1) if is_sum else (own.share, depth)
            offset = 0 if is_sum else first * FP32_BYTES
            with loaded(core, row * FP32_BYTES, min(width, depth - first) or 1, offset) as (pitch, columns, start):
                self._load(bank, source, pitch, columns, start)
                self._pass_down(bank, columns, self._drain_of(bank, index, is_sum, columns))
        core.pop(own.share)
        core.pop(own.share_sum)
        with core.when_equal(self.part, self._last):
            core.push(buffers.product)
            core.push(buffers.sums)

    def _drain_of(self, bank: int, index: int, is_sum: bool, columns: Register) -> Callable[[], None]:
        if is_sum:
            return lambda: self.drain(bank, self.buffers.sums, 0, 1, columns)
        return lambda: self.drain(bank, self.buffers.product, index, self.shape.padded_head_dim, columns)

    def _load(
        self, bank: int, source: BufferHandle, pitch: Register, columns: Register, offset: Register = ZERO
    ) -> None:
        self.core.emit(
            "acc_load", bank=bank, a=source, a_offset=offset, a_pitch=pitch, rows=self.rows, columns=columns,
            a_dtype="fp32",
        )  # fmt: skip

    def _pass_down(self, bank: int, columns: Register, at_the_end: Callable[[], None]) -> None:
        """Add the bank of the part before this one, and send the sum on to the next, if there are such parts."""
        core = self.core
        with core.when_less(ZERO, self.part):
            self._link("acc_add", bank, columns, "up")
        with core.when_less(self.part, self._last):
            self._link("acc_send", bank, columns, "down")
        with core.when_equal(self.part, self._last):
            at_the_end()

    def _link(self, name: str, bank: int, columns: Register, way: Literal["down", "up"]) -> None:
        """Emit a command on the link to the next or the previous part, wherever that is."""
        core, code, directions = self.core, *((self._down, _DOWN) if way == "down" else (self._up, _UP))
        for number in (_ALONG, _AGAINST, _ACROSS):
            with loaded(core, number) as (value,), core.when_equal(code, value):
                core.emit(name, bank=bank, rows=self.rows, columns=columns, direction=directions[number])
