"""Text <-> token ids by byte-pair encoding over characters, as `tokenizer.json` of a checkpoint directory says.

Reads the form that examples/train_tiny_llama.py writes, which the `tokenizers` package reads too: a Split pattern, then
BPE inside each piece, no unknown token. It is not a reader for every tokenizer of the world.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

Pair = tuple[str, str]


@dataclass(frozen=True)
class Tokenizer:
    """Tokens by id, the merges in order of their rank, and the pattern whose matches are encoded one by one."""

    tokens: tuple[str, ...]
    merges: tuple[Pair, ...]
    pattern: str
    _pieces: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    @cached_property
    def _ranks(self) -> dict[Pair, int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; ValueError that names characters which no token has."""
        strange = sorted({character for character in text if character not in self._ids})
        if strange:
            raise ValueError(f"the tokenizer has no token for {' '.join(map(repr, strange))}")
        return [number for piece in re.findall(self.pattern, text) for number in self._encoded(piece)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return "".join(self.tokens[number] for number in ids)

    def _encoded(self, piece: str) -> tuple[int, ...]:
        if piece not in self._pieces:
            parts = list(piece)
            while best := min((pair for pair in pairwise(parts) if pair in self._ranks),
                              key=self._ranks.__getitem__, default=None):  # fmt: skip
                parts = merged(parts, best)
            self._pieces[piece] = tuple(self._ids[part] for part in parts)
        return self._pieces[piece]

    def to_json(self) -> str:
        """Return the text of a `tokenizer.json`."""
        content: dict[str, Any] = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Split", "pattern": {"Regex": self.pattern}, "behavior": "Isolated", "invert": False
            },
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "vocab": self._ids, "merges": [list(pair) for pair in self.merges]},
        }  # fmt: skip
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"


def merged(parts: Sequence[str], pair: Pair) -> list[str]:
    """Return the parts with every occurrence of the pair, from the left, as one."""
    result: list[str] = []
    for part in parts:
        # What was joined is longer than its left half, so it cannot be taken for a half again.
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return result


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json` of the form above; ValueError that says what is different in another one."""
    try:
        content = json.loads(path.read_text("utf-8"))
        model, split = content["model"], content["pre_tokenizer"]
        if model["type"] != "BPE" or split["type"] != "Split":
            raise ValueError(f"{path}: only BPE behind a Split pattern is read, not {model['type']}, {split['type']}")
        vocabulary = sorted(model["vocab"].items(), key=lambda item: int(item[1]))
        merges = tuple((left, right) for left, right in model["merges"])
        pattern = str(split["pattern"]["Regex"])
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a tokenizer of character BPE: {error}") from error
    return Tokenizer(tuple(token for token, _ in vocabulary), merges, pattern)
