"""Making device bytes from the source of a constant: read, arrange, cast or quantize, pack nibbles."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from isa import dtypes
from isa.dtypes import Dtype
from isa.errors import ProgramError
from isa.packing_steps import Cast, GroupScales, PackStep, Pad, Quantize, Reshape, Shift, Take, Transpose
from isa.program import Absent, Constant, Inline, Joined, Program, Reference

HOST_DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
    "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn", "int4", "uint4",
)  # fmt: skip
"""Element types a source or a host array can have."""

_NIBBLES = ("int4", "uint4")
_HELD_IN_BYTES = {"int4": "int8", "uint4": "uint8"}
_CAST_ELEMENTS = 1 << 16
"""Floats that are cast at a time: temporaries that stay in the processor's cache."""


@cache
def host_dtype(name: str) -> np.dtype[Any]:
    """Return the array type of a host type name; 4-bit integers are held one element per byte."""
    name = _HELD_IN_BYTES.get(name, name)
    if hasattr(np, name):
        return np.dtype(name)
    import ml_dtypes

    kind: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return kind


def byte_length(shape: tuple[int, ...], dtype: str) -> int:
    """Return the bytes that C-order elements of a host type take; 4-bit elements are packed in pairs."""
    count = math.prod(shape)
    return (count + 1) // 2 if dtype in _NIBBLES else count * host_dtype(dtype).itemsize


def packed_layout(constant: Constant) -> tuple[tuple[int, ...], str]:
    """Return (shape, host type name) after all steps; raises ValueError if a step does not fit."""
    shape, dtype = constant.source_shape, constant.source_dtype
    if dtype not in HOST_DTYPES:
        raise ValueError(f"unknown source type {dtype!r}")
    for index, step in enumerate(constant.steps):
        try:
            shape = step.shape_after(shape)
        except ValueError as error:
            raise ValueError(f"step {index}: {error}") from error
        if isinstance(step, GroupScales):
            dtype = "float32"
        elif isinstance(step, Cast | Shift | Quantize):
            dtype = dtypes.BY_NAME[step.dtype].host
    return shape, dtype


def packed_bytes(constant: Constant) -> int:
    """Return how many bytes `device_bytes` gives; raises ValueError if a step does not fit."""
    return byte_length(*packed_layout(constant))


def device_bytes(constant: Constant, program: Program) -> npt.NDArray[np.uint8]:
    """Return the flat uint8 bytes that lie at the constant's storage; raises ProgramError if the data is not there.

    Without steps the result is a read-only view of the (memory-mapped) source.
    """
    where = f"constant '{constant.storage}'"
    try:
        shape, dtype = packed_layout(constant)
    except ValueError as error:
        raise ProgramError(str(error), where=where) from error
    source = constant.source
    if isinstance(source, Joined):
        shapes = source.shapes(constant.source_shape)
        parts = [_loaded(*part, constant, where) for part in zip(source.sources, shapes, strict=True)]
        arrays = [_elements(part, shape, constant.source_dtype) for part, shape in zip(parts, shapes, strict=True)]
        result = _pack(np.concatenate(arrays, source.axis), constant, dtype)
    else:
        result = _loaded(source, constant.source_shape, constant, where)
        if constant.steps:
            result = _pack(_elements(result, constant.source_shape, constant.source_dtype), constant, dtype)
    room = program.storage_by_name[constant.storage].bytes // (constant.interleave.parts if constant.interleave else 1)
    if len(result) > room:
        raise ProgramError(f"{len(result)} bytes of shape {shape} do not fit a storage of {room}", where=where)
    return result


def put(constant: Constant, data: npt.NDArray[np.uint8], memory: npt.NDArray[np.uint8]) -> None:
    """Write the bytes of a constant to the memory of its storage."""
    if constant.interleave is None:
        memory[: len(data)] = data
        return
    part, parts, block_bytes = constant.interleave
    memory[: parts * len(data)].reshape(-1, parts, block_bytes)[:, part] = data.reshape(-1, block_bytes)


def _loaded(
    source: Inline | Reference | Absent, shape: tuple[int, ...], constant: Constant, where: str
) -> npt.NDArray[np.uint8]:
    """Return the bytes of an array of the constant's type; raises ProgramError if they are not there."""
    if isinstance(source, Absent):
        help = "compile the model with its weights; without them a program can only be timed"
        raise ProgramError("the program has no data for it", where=where, help=help)
    found = _map_reference(source, where) if isinstance(source, Reference) else source.array
    needed = byte_length(shape, constant.source_dtype)
    if len(found) != needed:
        raise ProgramError(f"the source has {len(found)} bytes, its shape and type say {needed}", where=where)
    return found


def _map_reference(reference: Reference, where: str) -> npt.NDArray[np.uint8]:
    end = reference.offset + reference.length
    try:
        with open(reference.path, "rb") as file:
            size = file.seek(0, 2)
    except OSError as error:
        help = "the program refers to the model's data file; put it back or compile again"
        raise ProgramError(f"cannot read {reference.path}: {error.strerror}", where=where, help=help) from error
    if end > size:
        raise ProgramError(f"{reference.path} has {size} bytes, the program needs {end}", where=where)
    if reference.length == 0:
        return np.zeros(0, dtype=np.uint8)
    mapped = np.memmap(reference.path, dtype=np.uint8, mode="r", offset=reference.offset, shape=(reference.length,))
    return np.asarray(mapped)


def _pack(array: npt.NDArray[Any], constant: Constant, final_dtype: str) -> npt.NDArray[np.uint8]:
    for step in constant.steps:
        array = _apply(step, array)
    flat = _contiguous(array).reshape(-1)
    return _pack_nibbles(flat.view(np.uint8)) if final_dtype in _NIBBLES else flat.view(np.uint8)


def _contiguous(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the array in C order.

    Tiles of a transposed matrix are first copied as they lie in memory: reading them across would touch one cache line
    per element, at distances that fall into the same few sets of the cache.
    """
    if array.flags.c_contiguous or array.ndim < 3:
        return np.ascontiguousarray(array)
    result = np.empty(array.shape, array.dtype)
    for tile, source in zip(result, array, strict=True):
        tile[...] = source.copy(order="K")
    return result


def _elements(source: npt.NDArray[np.uint8], shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    if dtype not in _NIBBLES:
        return source.view(host_dtype(dtype)).reshape(shape)
    nibbles = np.stack([source & 15, source >> 4], axis=-1).reshape(-1)[: math.prod(shape)]
    if dtype == "int4":
        nibbles = (nibbles ^ 8) - np.uint8(8)
    return nibbles.view(host_dtype(dtype)).reshape(shape)


def _pack_nibbles(elements: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    pairs = np.zeros((len(elements) + 1) // 2 * 2, dtype=np.uint8)
    pairs[: len(elements)] = elements & 15
    return (pairs[0::2] | (pairs[1::2] << 4)).astype(np.uint8, copy=False)


def _apply(step: PackStep, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    match step:
        case Transpose(axes):
            return array.transpose(axes)
        case Reshape(shape):
            return array.reshape(shape)
        case Pad(shape) if shape == array.shape:
            return array
        case Pad(shape):
            padded = np.zeros(shape, dtype=array.dtype)
            padded[tuple(slice(size) for size in array.shape)] = array
            return padded
        case Take(axis, range() as indices):
            first = (slice(None),) * axis
            stop = indices.stop if indices.stop >= 0 else None
            return array[(*first, slice(indices.start, stop, indices.step))]
        case Take(axis, indices):
            return array.take(indices, axis=axis)
        case Cast(name):
            return cast(array, dtypes.BY_NAME[name])
        case Shift(value, name):
            return cast(array.astype(np.int64) + value, dtypes.BY_NAME[name])
        case Quantize(name, group):
            return _quantize(array, dtypes.BY_NAME[name], group)
        case GroupScales(name, group):
            return _group_scales(array, dtypes.BY_NAME[name], group)[..., 0]


def _group_scales(array: npt.NDArray[Any], dtype: Dtype, group: int) -> npt.NDArray[np.float32]:
    """Return float32[..., groups, 1]: what a 1 of each group is worth; 0 where all elements are 0."""
    groups = array.reshape(*array.shape[:-1], -1, group)
    largest = np.maximum(groups.max(-1, keepdims=True), -groups.min(-1, keepdims=True)).astype(np.float32)
    scales: npt.NDArray[np.float32] = largest / np.float32(dtype.largest)
    return scales


@np.errstate(invalid="ignore")
def _quantize(array: npt.NDArray[Any], dtype: Dtype, group: int) -> npt.NDArray[Any]:
    """Return elements divided by their scales, rounded as a store does; a NaN is the integer 0, or stays a NaN."""
    scales = _group_scales(array, dtype, group)
    divided = array.reshape(*array.shape[:-1], -1, group).astype(np.float32) / np.where(scales == 0, 1, scales)
    return cast(divided.reshape(array.shape), dtype)


@np.errstate(over="ignore", invalid="ignore")
def cast(array: npt.NDArray[Any], dtype: Dtype) -> npt.NDArray[Any]:
    """Return the array in a device type: integers saturate, floats go through fp32 and round to nearest even.

    NaN becomes the canonical quiet NaN, or 0 in an integer type. int4 is held one element per byte.
    """
    target = host_dtype(dtype.host)
    if array.dtype == target and dtype.name != "int4":
        return array
    if not dtype.is_float:
        return _to_integer(array, dtype, target)
    result = np.empty(array.shape, target)
    source, flat = array.reshape(-1), result.reshape(-1)
    for start in range(0, len(source), _CAST_ELEMENTS):
        piece = slice(start, start + _CAST_ELEMENTS)
        flat[piece] = _to_float(source[piece], dtype, target)
    return result


def _to_float(array: npt.NDArray[Any], dtype: Dtype, target: np.dtype[Any]) -> npt.NDArray[Any]:
    values = array.astype(np.float32, copy=False)
    if dtype is dtypes.FP8E4M3:
        values = np.clip(values, np.float32(-dtype.largest), np.float32(dtype.largest))
    result = values.astype(target)
    is_nan = np.isnan(values)
    if is_nan.any():
        result[is_nan] = np.array(np.nan, dtype=np.float32).astype(target)
    return result


def _to_integer(array: npt.NDArray[Any], dtype: Dtype, target: np.dtype[Any]) -> npt.NDArray[Any]:
    low, high = -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1
    if array.dtype.kind == "u":
        return np.minimum(array.astype(np.uint64), np.uint64(high)).astype(target)
    if array.dtype.kind in "ib":
        return np.clip(array.astype(np.int64), low, high).astype(target)
    values = np.rint(array.astype(np.float32)).astype(np.float64)
    return np.clip(np.nan_to_num(values, nan=0.0, posinf=high, neginf=low), low, high).astype(target)
