"""Where the bytes of external ONNX tensors are: checked references, never the bytes themselves.

`onnx` would read the files eagerly and trusts their paths; weights can be larger than memory and a model file can come
from anywhere, so keys, path, offset and length are checked here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.graph import NIBBLES, FileReference, Value, dtype_of
from isa.errors import ModelError

if TYPE_CHECKING:
    import onnx

KNOWN_KEYS = frozenset({"location", "offset", "length", "checksum"})


def external_reference(tensor: onnx.TensorProto, value: Value, base: Path | None, name: str) -> FileReference | None:
    """Return where a tensor's bytes are, or None if the file is absent; raises ModelError if they cannot be right."""
    where = f"{name}: tensor {tensor.name!r}"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    unknown = sorted(set(entries) - KNOWN_KEYS)
    if unknown or "location" not in entries:
        what = (
            f"external data with unknown keys {', '.join(unknown)}" if unknown else "external data without a location"
        )
        raise ModelError(what, where=where, help=f"known keys: {', '.join(sorted(KNOWN_KEYS))}")
    path = _path_inside(base, entries["location"], where)
    elements = math.prod(int(dim) for dim in tensor.dims)
    needed = (elements + 1) // 2 if value.dtype in NIBBLES else elements * dtype_of(value.dtype).itemsize
    offset, length = _number(entries, "offset", 0, where), _number(entries, "length", needed, where)
    if length != needed:
        what = f"external data has {length} bytes, but {value.dtype}{list(value.shape)} needs {needed}"
        raise ModelError(what, where=where, help="export the model again")
    if path is None or not path.exists():
        return None
    size = path.stat().st_size
    if offset + length > size:
        what = f"external data ends at byte {offset + length}, but {path.name} has {size} bytes"
        raise ModelError(what, where=where, help="the file is truncated: copy it again")
    return FileReference(path, offset, length)


def _path_inside(base: Path | None, location: str, where: str) -> Path | None:
    if base is None:
        return None
    folder = base.resolve()
    path = (folder / location).resolve()
    if Path(location).is_absolute() or not path.is_relative_to(folder):
        what = f"external data lies outside the model's folder: {location!r}"
        raise ModelError(what, where=where, help="keep the weights beside the model file")
    return path


def _number(entries: dict[str, str], key: str, default: int, where: str) -> int:
    text = entries.get(key, str(default))
    if not text.isdecimal():
        raise ModelError(f"external data with {key} {text!r}", where=where, help="it must be a number of bytes")
    return int(text)
