"""Core B of a linear kernel with a packed weight: parts of chunks become what the matrix engine multiplies."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from compiler.kernel_builder import ZERO, BufferHandle, Register
from compiler.kernels.linear_walk import Walk
from isa.dtypes import INT8


class Expander(Walk):
    """Expands one part after the other, whatever becomes of those before."""

    unexpanded: Register
    """Parts of this PE's chunks whose expansion is not issued yet."""
    part: Register
    """Number of the next part in its chunk, if chunks have several."""

    def begin_expansion(self, scales: BufferHandle) -> None:
        """Count the parts, and expand the first."""
        core = self.core
        self.unexpanded = self.count_output_tiles(core.register())
        for name in ("row_rounds", "chunks"):
            with core.scratch() as factor:
                core.multiply(self.unexpanded, core.load_argument(name, factor), self.unexpanded)
        if self.mapping.expansions > 1:
            core.multiply(self.unexpanded, self.mapping.expansions, self.unexpanded)
            self.part = core.copy(0, core.register())
        self.expand_next(scales)

    def expand_next(self, scales: BufferHandle) -> None:
        """Expand a part, if there is one left."""
        core, mapping = self.core, self.mapping
        read = (self.buffers.weight, scales, *([self.buffers.zero_points] if self.buffers.zero_points else []))
        with core.when_less(0, self.unexpanded):
            self._expand(scales)
            core.increase(self.unexpanded, -1)
            if mapping.expansions == 1:
                self._pop_all(read)
                return
            core.increase(self.part, 1)
            with core.when_at_least(self.part, mapping.expansions):
                self._pop_all(read)
                core.copy(0, self.part)

    def _pop_all(self, buffers: Iterable[BufferHandle]) -> None:
        for buffer in buffers:
            self.core.pop(buffer)

    def _expand(self, scales: BufferHandle) -> None:
        """Turn a part of integers into the matrix engine's type: minus zero points, times scales."""
        mapping, buffers = self.mapping, self.buffers
        packed, dtype = mapping.shape.packed, mapping.shape.dtype
        assert packed is not None
        groups = mapping.groups // mapping.expansions
        source = (buffers.weight, packed.dtype.row_bytes(mapping.chunk_inputs), packed.dtype.name)
        source_step, scales_step = packed.dtype.row_bytes(mapping.part_inputs), groups * dtype.bytes
        if buffers.zero_points is not None and buffers.shifted is not None:
            zero_points = (buffers.zero_points, mapping.groups, INT8.name)
            self._by_group("vsubg", buffers.shifted, source, source_step, zero_points, groups)
            source, source_step = (buffers.shifted, mapping.part_bytes, dtype.name), 0
        scales_operand = (scales, mapping.groups * dtype.bytes, dtype.name)
        self._by_group("vmulg", buffers.factor, source, source_step, scales_operand, scales_step)
        if source[0] is not buffers.weight:
            self.core.pop(source[0])

    def _by_group(
        self,
        name: str,
        out: BufferHandle,
        a: tuple[BufferHandle, int, str],
        a_step: int,
        b: tuple[BufferHandle, int, str],
        b_step: int,
    ) -> None:
        """Emit a step of the expansion; a and b are (buffer, pitch, element type), whose parts are a step apart."""
        core, mapping = self.core, self.mapping
        numbers = (mapping.part_bytes, a[1], b[1], mapping.tile_columns, mapping.part_inputs)
        with ExitStack() as lent:
            registers = [core.copy(number, lent.enter_context(core.scratch())) for number in numbers]
            offsets = [self._part_offset(step, lent) for step in (a_step, b_step)]
            core.emit(
                name, out=out, out_pitch=registers[0], a=a[0], a_offset=offsets[0], a_pitch=registers[1], b=b[0],
                b_offset=offsets[1], b_pitch=registers[2], rows=registers[3], columns=registers[4],
                out_dtype=mapping.shape.dtype.name, a_dtype=a[2], b_dtype=b[2], group=mapping.group,
            )  # fmt: skip
        core.push(out)

    def _part_offset(self, step: int, lent: ExitStack) -> Register:
        """Return the byte offset of the part that is expanded, where parts are `step` bytes apart."""
        if self.mapping.expansions == 1 or step == 0:
            return ZERO
        return self.core.multiply(self.part, step, lent.enter_context(self.core.scratch()))
