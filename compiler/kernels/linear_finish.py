"""Core B's share of a linear in fp32 between accumulators and the way out: activations and gates."""

from __future__ import annotations

from compiler.kernel_builder import BufferHandle, Register
from compiler.kernels.linear_walk import Walk
from isa.dtypes import FP32

ACTIVATIONS = {"relu": "vmaxs", "sigmoid": "vsigmoid", "tanh": "vtanh", "silu": "vsilu"}


class Finisher(Walk):
    """Makes results of sums."""

    block_rows: list[Register]
    """Valid rows of each block of rows of the tile."""

    def _activate(self) -> None:
        """Make a tile of `out` from what is pushed for it, in fp32; beyond the last output it is zero again."""
        core, shape, out = self.core, self.mapping.shape, self.buffers.out
        assert shape.activation is not None
        raw, *later = self.buffers.activation
        columns, target, dtype = self.mapping.tile_outputs, *((later[0], FP32) if later else (out, shape.out_dtype))
        limit = {"value": 0.0} if shape.activation == "relu" else {}
        with core.scratch() as width, core.scratch() as raw_pitch:
            core.copy(columns, width)
            core.copy(columns * FP32.bytes, raw_pitch)
            core.emit(
                ACTIVATIONS[shape.activation], out=target, out_pitch=raw_pitch if dtype is FP32 else self.tile_bytes,
                a=raw, a_pitch=raw_pitch, rows=self.tile_rows, columns=width, out_dtype=dtype.name, a_dtype=FP32.name,
                **limit,
            )  # fmt: skip
        core.pop(raw)
        if later:
            core.push(target)
            self._clear_padding(target)
            core.pop(target)

    def _pass_gate(self, block: int, both_offset: int = 0, first_row: int = 0) -> None:
        """Make a block of rows of `out` from gate and factor: the gate's function in fp32, then their product."""
        core, mapping = self.core, self.mapping
        both, gate = self.buffers.activation
        function, rows = mapping.shape.gate, self.block_rows[block]
        assert function is not None
        limit = {"value": 0.0} if function == "relu" else {}
        with (
            core.scratch() as width, core.scratch() as both_pitch, core.scratch() as gate_pitch,
            core.scratch() as offset,
        ):  # fmt: skip
            core.copy(mapping.tile_outputs, width)
            core.copy(mapping.tile_columns * FP32.bytes, both_pitch)
            core.copy(mapping.tile_outputs * FP32.bytes, gate_pitch)
            core.emit(
                ACTIVATIONS[function], out=gate, out_pitch=gate_pitch, a=both, a_offset=core.copy(both_offset, offset),
                a_pitch=both_pitch, rows=rows, columns=width, out_dtype=FP32.name, a_dtype=FP32.name, **limit,
            )  # fmt: skip
            core.push(gate)
            self._multiply_gate(rows, first_row, both_offset, (width, both_pitch, gate_pitch, offset))
        core.pop(gate)

    def _multiply_gate(self, rows: Register, first_row: int, both_offset: int, lent: tuple[Register, ...]) -> None:
        """Emit the product of what passed the gate's function and the factor, which lies beside the gate."""
        core, mapping = self.core, self.mapping
        both, gate = self.buffers.activation
        width, both_pitch, gate_pitch, offset = lent
        core.copy(both_offset + mapping.tile_outputs * FP32.bytes, offset)
        with core.scratch() as out_offset:
            core.emit(
                "vmul", out=self.buffers.out, out_offset=core.copy(first_row * self.tile_bytes, out_offset),
                out_pitch=self.tile_bytes, a=gate, a_pitch=gate_pitch, b=both, b_offset=offset, b_pitch=both_pitch,
                rows=rows, columns=width, out_dtype=mapping.shape.out_dtype.name, a_dtype=FP32.name,
                b_dtype=FP32.name,
            )  # fmt: skip

    def _clear_padding(self, activated: BufferHandle) -> None:
        core, columns, out_dtype = self.core, self.mapping.tile_outputs, self.mapping.shape.out_dtype
        with core.scratch() as valid, core.scratch() as width:
            core.compute("div", self.out_offset, out_dtype.bytes, width)
            core.subtract(core.load_argument("outputs", valid), width, valid)
            core.copy(columns, width)
            with core.scratch() as pitch:
                core.copy(columns * FP32.bytes, pitch)
                core.emit(
                    "vlimit", out=self.buffers.out, out_pitch=self.tile_bytes, a=activated, a_pitch=pitch, first=valid,
                    rows=self.tile_rows, columns=width, out_dtype=out_dtype.name, a_dtype=FP32.name, value=0.0,
                )  # fmt: skip
