"""Where the bytes of a weight are."""

from __future__ import annotations

from dataclasses import dataclass

from models.weight_kind import ElementType


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in row-major order in a file; `location` is relative to a folder that its reader knows."""

    location: str
    element_type: ElementType
    shape: tuple[int, ...]
    offset_bytes: int
    length_bytes: int
