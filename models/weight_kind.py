"""The two choices every model builder offers: where weights come from, and their element type."""

from __future__ import annotations

from typing import Literal

ElementType = Literal["float32", "float16", "bfloat16"]
Weights = Literal["absent"] | int
