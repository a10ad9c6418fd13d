"""The header of a safetensors file: names, element types, shapes and places of its tensors; the data stay on disk.

The file is 8 bytes with the header's length, the header in JSON, then the data without gaps or overlaps. All of it is
checked, since files come from anywhere and copies of large files are often cut short.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from models.checkpoint_error import CheckpointError
from models.stored_tensor import StoredTensor
from models.weight_kind import ElementType

_LARGEST_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_ELEMENT_TYPES: dict[str, tuple[ElementType, int]] = {
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
}


def read_header(path: Path, location: str) -> dict[str, StoredTensor]:
    """Return the tensors of a file by name, to be found at `location`; CheckpointError if the header is wrong."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if size_bytes < 8 or header_bytes > min(size_bytes - 8, _LARGEST_HEADER_BYTES):
                what = f"not a safetensors file, or truncated: a header of {header_bytes} bytes in {size_bytes} bytes"
                raise _damaged(path, what)
            text = file.read(header_bytes)
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise CheckpointError(what, where=str(path), help="check the file, or the target of the link") from None
    rows = _rows(path, text)
    tensors = {name: _tensor(path, location, name, row, 8 + header_bytes) for name, row in rows.items()}
    _check_places(path, tensors, 8 + header_bytes, size_bytes)
    return tensors


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(what, where=str(path), help="copy or download the file again")


def _rows(path: Path, text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    try:
        rows = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"the header is damaged: {error}") from None
    if not isinstance(rows, dict):
        raise _damaged(path, "the header is no table of tensors")
    rows.pop("__metadata__", None)
    return rows


def _tensor(path: Path, location: str, name: str, row: Any, data_start: int) -> StoredTensor:
    keys = row if isinstance(row, Mapping) else {}
    dtype, shape, place = keys.get("dtype"), keys.get("shape"), keys.get("data_offsets")
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(place) or len(place) != 2:
        raise _damaged(path, f"the header is damaged: tensor {name!r} needs dtype, shape and data_offsets")
    if dtype not in _ELEMENT_TYPES:
        help = f"known element types: {', '.join(_ELEMENT_TYPES)}; save the model in one of them"
        raise CheckpointError(f"tensor {name!r} has element type {dtype}", where=str(path), help=help)
    element_type, element_bytes = _ELEMENT_TYPES[dtype]
    start, end = place
    if end - start != math.prod(shape) * element_bytes:
        what = f"tensor {name!r} has {end - start} bytes, but {dtype}{shape} needs {math.prod(shape) * element_bytes}"
        raise _damaged(path, what)
    return StoredTensor(location, element_type, tuple(shape), data_start + start, end - start)


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_places(path: Path, tensors: Mapping[str, StoredTensor], data_start: int, size_bytes: int) -> None:
    """Check that the tensors fill the file from the header to the end."""
    end = data_start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset_bytes, item[1].length_bytes)):
        if tensor.offset_bytes != end:
            fault = "overlaps the one before it" if tensor.offset_bytes < end else "leaves a gap before it"
            raise _damaged(path, f"the header is damaged: tensor {name!r} {fault}")
        end += tensor.length_bytes
    if end != size_bytes:
        fault = "truncated" if end > size_bytes else "damaged"
        raise _damaged(path, f"the file is {fault}: {size_bytes} bytes instead of {end}")
