"""Recipes that turn quantized weights of a model, or floats to be quantized, into the bytes the kernels want."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.graph import Constant as GraphConstant
from compiler.graph import WeightFormat
from compiler.kernel_builder import round_up
from compiler.linear_mapping import LinearMapping
from compiler.packing import ROW_ALIGNMENT_BYTES, described
from compiler.shape_inference import int_shape
from isa.dtypes import BY_NAME, FP8E4M3, FP32, INT8, Dtype
from isa.program import Cast, Constant, GroupScales, PackStep, Pad, Quantize, Reshape, Shift, Take, Transpose


def stored_dtype(weight_format: WeightFormat) -> Dtype:
    """Return the type that weights of a format have in memory."""
    return FP8E4M3 if weight_format.is_float else BY_NAME[f"int{weight_format.bits}"]


class _Steps:
    """Steps so far, and the shape they make of a matrix."""

    def __init__(self, constant: GraphConstant, transposed: bool) -> None:
        shape = int_shape(constant.value.shape)
        self.constant, self.steps = constant, list[PackStep]()
        self.rows, self.columns = shape[-2:]
        self._is_transposed = transposed

    def transpose(self) -> None:
        """Put the outputs first, if they are not."""
        if self._is_transposed:
            self.steps.append(Transpose((1, 0)))
            self.rows, self.columns = self.columns, self.rows

    def fit(self, rows: int, columns: int) -> None:
        """Cut or fill up with zeros."""
        if columns < self.columns:
            self.steps.append(Take(1, range(columns)))
        if (rows, columns) != (self.rows, min(columns, self.columns)):
            self.steps.append(Pad((rows, columns)))
        self.rows, self.columns = rows, columns

    def done(self, storage: str) -> Constant:
        """Return the constant."""
        return described(self.constant, storage, self.steps)


def _signed(constant: GraphConstant, dtype: Dtype) -> PackStep:
    """Return the step that makes signed integers: unsigned codes lose their middle."""
    source = constant.value.dtype
    bits = 4 if source.endswith("int4") else 8
    return Shift(-(1 << (bits - 1)) if source.startswith("u") else 0, dtype.name)


def _floats(steps: _Steps, block: int | None) -> int:
    """Begin with floats to be quantized, whole blocks of them in each row; return the elements of a block."""
    steps.steps.append(Cast(FP32.name))
    steps.transpose()
    group = block or steps.columns
    steps.fit(steps.rows, round_up(steps.columns, group))
    return group


def pack_integers(
    constant: GraphConstant, storage: str, mapping: LinearMapping, rows_are_outputs: bool, weight_format: WeightFormat
) -> Constant:
    """Order [K, N] (or [N, K]) as [output tile][K chunk][tile outputs][chunk inputs] of the format's type."""
    steps, dtype = _Steps(constant, not rows_are_outputs), stored_dtype(weight_format)
    if weight_format.is_computed:
        group = _floats(steps, weight_format.block)
        steps.steps.append(Quantize(dtype.name, group))
    else:
        steps.steps.append(_signed(constant, dtype))
        steps.transpose()
    steps.fit(mapping.output_tiles * mapping.tile_outputs, mapping.chunks * mapping.chunk_inputs)
    steps.steps += _tiles(mapping, mapping.chunk_inputs)
    return steps.done(storage)


def _tiles(mapping: LinearMapping, columns: int) -> Sequence[PackStep]:
    return (
        Reshape((mapping.output_tiles, mapping.tile_outputs, mapping.chunks, columns)),
        Transpose((0, 2, 1, 3)),
    )


def pack_block_scales(
    constant: GraphConstant, storage: str, mapping: LinearMapping, rows_are_outputs: bool, weight_format: WeightFormat
) -> Constant:
    """Order scales like `pack_integers` does: [output tile][K chunk][tile outputs][scales of a chunk]."""
    steps = _Steps(constant, not rows_are_outputs)
    if weight_format.is_computed:
        group = _floats(steps, weight_format.block)
        steps.steps.append(GroupScales(stored_dtype(weight_format).name, group))
        steps.columns //= group
    else:
        steps.steps.append(Cast(FP32.name))
        steps.transpose()
    return _auxiliary(steps, storage, mapping, mapping.shape.dtype, mapping.scale_chunk_bytes // mapping.shape.parts)


def pack_zero_points(constant: GraphConstant, storage: str, mapping: LinearMapping, rows_are_outputs: bool) -> Constant:
    """Order zero points like the scales, as int8."""
    steps = _Steps(constant, not rows_are_outputs)
    steps.steps.append(_signed(constant, INT8))
    steps.transpose()
    return _auxiliary(steps, storage, mapping, INT8, mapping.zero_point_chunk_bytes // mapping.shape.parts)


def _auxiliary(steps: _Steps, storage: str, mapping: LinearMapping, dtype: Dtype, chunk_bytes: int) -> Constant:
    """Give each chunk the scales or zero points of its own groups; a group of several chunks is repeated."""
    assert mapping.shape.packed is not None
    block = mapping.shape.packed.block
    indices = [
        (chunk * mapping.chunk_inputs) // block + group if block else 0
        for chunk in range(mapping.chunks)
        for group in range(mapping.groups)
    ]
    steps.fit(mapping.output_tiles * mapping.tile_outputs, max(indices) + 1)
    if indices != list(range(len(indices))):
        steps.steps.append(Take(1, tuple(indices)))
    steps.steps += [*_tiles(mapping, mapping.groups), Cast(dtype.name)]
    elements, room = mapping.tile_outputs * mapping.groups, chunk_bytes // dtype.bytes
    shape = (mapping.output_tiles, mapping.chunks)
    steps.steps += [Reshape((*shape, elements)), Pad((*shape, room))]
    return steps.done(storage)


def pack_column_scales(
    constant: GraphConstant, storage: str, mapping: LinearMapping, rows_are_outputs: bool, weight_format: WeightFormat
) -> Constant:
    """One fp32 row of a scale per output, zeros at its end."""
    steps = _Steps(constant, not rows_are_outputs)
    if weight_format.is_computed:
        group = _floats(steps, None)
        steps.steps.append(GroupScales(stored_dtype(weight_format).name, group))
    else:
        steps.steps.append(Cast(FP32.name))
        steps.transpose()
    outputs = mapping.output_tiles * mapping.tile_outputs
    steps.steps += [Reshape((steps.rows,)), Pad((outputs,))]
    return steps.done(storage)


def pack_integer_rows(constant: GraphConstant, storage: str, columns: int, dtype: Dtype) -> Constant:
    """A table of integers: `columns` of each row as int4 or int8, rows padded."""
    steps = _Steps(constant, transposed=False)
    steps.steps.append(_signed(constant, dtype))
    steps.fit(steps.rows, integer_row_bytes(columns, dtype) * 8 // dtype.bits)
    return steps.done(storage)


def integer_row_bytes(columns: int, dtype: Dtype) -> int:
    """Return the bytes of a padded row of a table of integers."""
    return round_up(dtype.row_bytes(columns), ROW_ALIGNMENT_BYTES)
