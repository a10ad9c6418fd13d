"""Packing of constants against the obvious NumPy."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isa import dtypes
from isa.dtypes import DTYPES
from isa.errors import ProgramError
from isa.packing import HOST_DTYPES, byte_length, cast, device_bytes, host_dtype, packed_bytes, put
from isa.program import (
    Cast,
    GroupScales,
    Inline,
    Interleave,
    Joined,
    Pad,
    Quantize,
    Reference,
    Reshape,
    Shift,
    Take,
    Transpose,
)
from tests.isa.sample_programs import one_constant

FLOATS = hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))


def _packed(array, *steps, dtype=None, shape=None):
    program = one_constant(Inline(array), shape or array.shape, dtype or array.dtype.name, steps)
    result = device_bytes(program.constants[0], program)
    assert result.dtype == np.uint8 and result.ndim == 1
    assert len(result) == packed_bytes(program.constants[0])
    return result


@given(st.data(), hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
def test_layout_steps_are_what_numpy_does(data, shape):
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    axes = tuple(data.draw(st.permutations(range(len(shape)))))
    expected = array.transpose(axes)
    room = tuple(size + data.draw(st.integers(0, 2)) for size in expected.shape)
    expected = np.pad(expected, [(0, new - old) for old, new in zip(expected.shape, room, strict=True)])
    axis = data.draw(st.integers(0, len(shape) - 1))
    indices = tuple(data.draw(st.lists(st.integers(0, room[axis] - 1), max_size=4)))
    expected = expected.take(np.array(indices, dtype=np.int64), axis=axis)
    steps = (Transpose(axes), Pad(room), Take(axis, indices), Reshape((expected.size,)))
    assert _packed(array, *steps).tobytes() == expected.tobytes()


@given(st.integers(1, 9), st.data())
def test_a_range_takes_what_its_indices_take(size, data):
    array = np.arange(3 * size, dtype=np.int8).reshape(3, size)
    first, last = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    step = data.draw(st.sampled_from([1, 2, 3])) * (1 if first <= last else -1)
    indices = range(first, last + (1 if step > 0 else -1), step)
    assert _packed(array, Take(1, indices)).tobytes() == array[:, list(indices)].tobytes()


def test_blocks_of_rows_and_columns_are_made_by_two_reshapes():
    matrix = np.arange(8 * 6, dtype=np.float32).reshape(8, 6)
    packed = _packed(matrix, Reshape((2, 4, 2, 3)), Transpose((0, 2, 1, 3)), Cast("bf16"))
    blocks = [matrix[r : r + 4, c : c + 3] for r in (0, 4) for c in (0, 3)]
    assert packed.tobytes() == np.stack(blocks).astype(ml_dtypes.bfloat16).tobytes()


@pytest.mark.parametrize(("dtype", "high"), [("int4", 7), ("int8", 127)])
def test_quantized_floats_are_the_nearest_multiples_of_their_scales(dtype, high):
    matrix = np.random.default_rng(3).normal(size=(5, 24)).astype(np.float32)
    matrix[2, 8:16] = 0
    scales = _packed(matrix, GroupScales(dtype, 8)).view(np.float32).reshape(5, 3)
    groups = matrix.reshape(5, 3, 8).astype(np.float64)
    np.testing.assert_allclose(scales, np.abs(groups).max(-1) / high, rtol=1e-6)
    packed = _packed(matrix, Quantize(dtype, 8))
    integers = _packed(packed, Cast("fp32"), dtype=dtype, shape=(5, 3, 8)).view(np.float32).reshape(5, 3, 8)
    assert np.abs(integers).max() == high
    assert np.all(np.abs(integers * scales[..., None] - groups) <= scales[..., None] * 0.50001)


@given(FLOATS)
def test_floats_become_e4m3_of_their_group(values):
    """The largest magnitude of a group is 448 of its scale; zeros stay zeros, a NaN makes its group NaN."""
    groups = np.concatenate([values, np.zeros(4 + -len(values) % 4, np.float32)]).astype(np.float32).reshape(-1, 4)
    groups = groups[np.isfinite(groups).all(-1) | np.isnan(groups).any(-1)]
    scales = _packed(groups, GroupScales("fp8e4m3", 4)).view(np.float32)
    largest = np.abs(groups).max(-1)
    assert np.array_equal(scales, largest / np.float32(448), equal_nan=True)
    result = _packed(groups, Quantize("fp8e4m3", 4)).view(ml_dtypes.float8_e4m3fn).reshape(-1, 4)
    divided = groups / np.where(scales == 0, np.float32(1), scales)[:, None]
    expected = np.clip(divided, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    assert np.array_equal(result.astype(np.float32), expected.astype(np.float32), equal_nan=True)
    whole = np.isfinite(largest) & (largest > 1e-30)
    assert (np.abs(result[whole].astype(np.float32)).max(-1) == 448).all()


def test_unsigned_codes_become_signed_ones():
    codes = np.arange(16, dtype=np.uint8)
    packed = _packed(codes[0::2] | codes[1::2] << 4, Shift(-8, "int4"), dtype="uint4", shape=(16,))
    back = _packed(packed, Cast("int8"), dtype="int4", shape=(16,))
    assert back.view(np.int8).tolist() == list(range(-8, 8))
    assert _packed(codes, Shift(-128, "int8")).view(np.int8).tolist() == list(range(-128, -112))


def test_without_steps_nothing_is_copied():
    array = np.arange(5, dtype=np.float32)
    program = one_constant(Inline(array), (5,), "float32", ())
    assert np.shares_memory(device_bytes(program.constants[0], program), array)
    assert array.flags.writeable


@given(FLOATS)
def test_float_casts_round_to_nearest_even_with_one_nan(values):
    for dtype in (dtypes.FP16, dtypes.BF16, dtypes.FP8E5M2):
        with np.errstate(over="ignore", invalid="ignore"):
            expected = values.astype(dtype.numpy)
        expected[np.isnan(values)] = np.float32(np.nan).astype(dtype.numpy)
        assert cast(values, dtype).tobytes() == expected.tobytes()


@given(FLOATS)
def test_fp8e4m3_saturates(values):
    result = cast(values, dtypes.FP8E4M3).astype(np.float32)
    assert np.array_equal(np.isnan(result), np.isnan(values))
    number = ~np.isnan(values)
    expected = np.clip(values[number], -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(result[number], expected)


@given(FLOATS)
def test_integer_casts_round_and_saturate(values):
    for dtype in (dtypes.INT4, dtypes.INT8, dtypes.INT32):
        low, high = -(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1) - 1
        exact = [0 if np.isnan(v) else max(low, min(high, round(float(v)) if np.isfinite(v) else v)) for v in values]
        assert cast(values, dtype).tolist() == [int(number) for number in exact]


@pytest.mark.parametrize("name", ["bool", "int8", "uint8", "int16", "uint16", "uint32", "int64", "uint64"])
def test_integers_saturate_from_every_integer_type(name):
    limits = np.array([0, 1] if name == "bool" else [np.iinfo(name).min, 0, 7, np.iinfo(name).max], dtype=name)
    for dtype in (dtypes.INT4, dtypes.INT8, dtypes.INT32):
        low, high = -(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1) - 1
        assert cast(limits, dtype).tolist() == [max(low, min(high, int(value))) for value in limits]


def test_wide_numbers_go_through_fp32():
    values = np.array([1 + 2**-8 + 2**-40, 2.0**200, -(2.0**-200)], dtype=np.float64)
    expected = values[:1].astype(np.float32).astype(ml_dtypes.bfloat16)
    assert cast(values, dtypes.BF16)[:1].tobytes() == expected.tobytes()
    assert np.isinf(cast(values, dtypes.FP32)[1]) and cast(values, dtypes.FP32)[2] == 0


def test_every_pair_of_types_is_cast():
    for source in HOST_DTYPES:
        for target in DTYPES:
            packed = _packed(
                np.zeros(byte_length((6,), source), dtype=np.uint8), Cast(target.name), dtype=source, shape=(6,)
            )
            assert len(packed) == 6 * target.bits // 8 and not packed.any()


@given(st.lists(st.integers(-8, 7), max_size=9))
def test_nibbles_are_packed_low_first(values):
    array = np.array(values, dtype=np.int8)
    low, high = array[0::2], np.append(array, np.int8([0] * (len(array) % 2)))[1::2]
    expected = ((low & 15) | (high << 4)).astype(np.uint8)
    packed = _packed(array, Cast("int4"))
    assert packed.tolist() == expected.tolist()
    unpacked = _packed(packed, Cast("int8"), dtype="int4", shape=(len(values),))
    assert unpacked.view(np.int8).tolist() == values


@given(st.lists(st.integers(0, 15), min_size=2, max_size=8))
def test_unsigned_nibbles_are_read_unsigned(values):
    packed = np.array([low | high << 4 for low, high in zip(values[0::2], values[1::2], strict=False)], dtype=np.uint8)
    count = 2 * len(packed)
    unpacked = _packed(packed, Cast("fp32"), dtype="uint4", shape=(count,))
    assert unpacked.view(np.float32).tolist() == values[:count]


def test_sizes_of_host_types():
    assert byte_length((3, 3), "int4") == 5
    assert byte_length((3, 3), "bfloat16") == 18
    assert byte_length((), "int64") == 8
    assert all(host_dtype(name).itemsize for name in HOST_DTYPES)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Transpose((0, 0)),), "step 0: axes (0, 0) are no permutation of the 2 axes of (2, 3)"),
        ((Reshape((6,)), Reshape((4,))), "step 1: cannot reshape (6,) to (4,)"),
        ((Reshape((-1,)),), "step 0: cannot reshape (2, 3) to (-1,)"),
        ((Pad((2, 2)),), "step 0: cannot pad (2, 3) to (2, 2)"),
        ((Pad((6,)),), "step 0: cannot pad (2, 3) to (6,)"),
        ((Cast("fp7"),), "step 0: unknown device type 'fp7'"),
        ((Shift(1, "int32"),), "step 0: cannot shift to 'int32'; int4 or int8"),
        ((Quantize("fp16", 3),), "step 0: cannot quantize to 'fp16'; int4 or int8 or fp8e4m3"),
        ((GroupScales("int4", 2),), "step 0: the last axis of (2, 3) is not whole groups of 2"),
        ((Take(2, (0,)),), "step 0: (2, 3) has no axis 2"),
        ((Take(1, range(4)),), "step 0: indices 0..3 are outside axis 1 of (2, 3)"),
        ((Take(1, (-1,)),), "step 0: indices -1..-1 are outside axis 1 of (2, 3)"),
    ],
)
def test_a_step_that_does_not_fit_is_told(steps, message):
    with pytest.raises(ProgramError) as caught:
        _packed(np.zeros((2, 3), dtype=np.float32), *steps)
    assert str(caught.value) == f"constant 'weights': {message}"


def test_sizes_that_do_not_fit_are_told(tmp_path):
    array = np.zeros(4, dtype=np.float32)
    program = one_constant(Inline(array), (5,), "float32", ())
    with pytest.raises(ProgramError, match="the source has 16 bytes, its shape and type say 20"):
        device_bytes(program.constants[0], program)
    program = one_constant(Inline(array), (4,), "float32", (Pad((99,)),), room=64)
    with pytest.raises(ProgramError, match=r"396 bytes of shape \(99,\) do not fit a storage of 64"):
        device_bytes(program.constants[0], program)


def test_a_referenced_source_is_read_at_its_offset(tmp_path):
    np.arange(100, dtype=np.uint8).tofile(tmp_path / "data")
    program = one_constant(Reference(str(tmp_path / "data"), 7, 6), (2, 3), "uint8", (Transpose((1, 0)),))
    assert device_bytes(program.constants[0], program).tolist() == [7, 10, 8, 11, 9, 12]
    program = one_constant(Reference(str(tmp_path / "data"), 100, 0), (0, 3), "uint8", ())
    assert device_bytes(program.constants[0], program).tolist() == []


def _in_pairs(codes):
    padded = np.append(codes.reshape(-1), np.zeros(codes.size % 2, np.uint8)).reshape(-1, 2)
    return padded[:, 0] | padded[:, 1] << 4


@pytest.mark.parametrize("dtype", ["float16", "int4", "uint4"])
@pytest.mark.parametrize("axis", [0, 1])
def test_joined_sources_are_one_array(axis, dtype, tmp_path):
    """Along either axis, inside and in a file, with four-bit elements that end in the middle of a byte."""
    whole = np.random.default_rng(axis).integers(0, 8, (5, 7)).astype("float16" if dtype == "float16" else "uint8")
    parts = np.split(whole, [2], axis)
    data = [_in_pairs(part) if dtype != "float16" else np.ascontiguousarray(part) for part in parts]
    data[1].tofile(tmp_path / "data")
    sources = (Inline(data[0]), Reference(str(tmp_path / "data"), 0, data[1].nbytes))
    joined = Joined(axis, tuple(part.shape[axis] for part in parts), sources)
    steps = (Pad((6, 8)),)
    program, alone = (
        one_constant(source, (5, 7), dtype, steps)
        for source in (joined, Inline(_in_pairs(whole) if dtype != "float16" else whole))
    )
    found = device_bytes(program.constants[0], program)
    assert found.tolist() == device_bytes(alone.constants[0], alone).tolist()


def test_constants_take_turns_in_a_storage():
    first, second = np.arange(8, dtype=np.uint8), np.arange(100, 108, dtype=np.uint8)
    memory = np.full(20, 255, np.uint8)
    for part, array in enumerate((first, second)):
        program = one_constant(Inline(array), (8,), "uint8", ())
        constant = replace(program.constants[0], interleave=Interleave(part, 2, 4))
        put(constant, device_bytes(constant, program), memory)
    assert memory[:16].tolist() == [0, 1, 2, 3, 100, 101, 102, 103, 4, 5, 6, 7, 104, 105, 106, 107]
    assert memory[16:].tolist() == [255] * 4
