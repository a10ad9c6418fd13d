"""Core B's share of a linear in fp32 between accumulators and the way out: activations, gates, multipliers."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache

from compiler.kernel_builder import ZERO, BufferHandle, OperandValue, Register
from compiler.kernels.linear_walk import Walk
from compiler.linear_shape import FinishStep
from isa.dtypes import FP32

ACTIVATIONS = {"relu": "vmaxs", "sigmoid": "vsigmoid", "tanh": "vtanh", "silu": "vsilu"}
LIMITS = {"relu": {"value": 0.0}}
"""Immediates of these instructions."""


class Finisher(Walk):
    """Makes results of sums."""

    block_rows: list[Register]
    """Valid rows of each block of rows of the tile."""

    def _take_step(self, step: FinishStep, source: BufferHandle, target: BufferHandle, block: int) -> None:
        """Emit a step on a block of rows of fp32; the last one rounds."""
        core, mapping = self.core, self.mapping
        dtype = mapping.shape.out_dtype if target is self.buffers.out else FP32
        with ExitStack() as lent:

            @cache
            def lend(number: int) -> Register:
                return core.copy(number, lent.enter_context(core.scratch())) if number else ZERO

            operands: dict[str, OperandValue] = {
                "out": target, "out_pitch": lend(mapping.tile_outputs * dtype.bytes), "out_dtype": dtype.name,
                "a": source, "a_pitch": lend(mapping.tile_outputs * FP32.bytes), "a_dtype": FP32.name,
                "rows": self.block_rows[block], "columns": lend(mapping.tile_outputs),
            }  # fmt: skip
            if step == "multiplier" or step == "residual":
                offset = lend(block * mapping.block_rows * self.tile_bytes)
                core.emit(
                    "vmul" if step == "multiplier" else "vadd", b=self.buffers.results_like[step], b_offset=offset,
                    b_pitch=lend(self.tile_bytes), b_dtype=mapping.shape.out_dtype.name, **operands,
                )  # fmt: skip
            else:
                core.emit(ACTIVATIONS[step], **operands, **LIMITS.get(step, {}))

    def _activate(self) -> None:
        """Make a tile of `out` from what is pushed for it, in fp32; beyond the last output it is zero again."""
        core, shape, out = self.core, self.mapping.shape, self.buffers.out
        assert shape.activation is not None
        raw, *later = self.buffers.activation
        columns, target, dtype = self.mapping.tile_outputs, *((later[0], FP32) if later else (out, shape.out_dtype))
        limit = LIMITS.get(shape.activation, {})
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
        limit = LIMITS.get(function, {})
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
