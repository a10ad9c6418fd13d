"""Seeded weights in a file beside the graph are those of the graph that holds them itself."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

import models.seeded_files
from models import ElementType, build
from models.seeded_files import save_seeded


@pytest.mark.parametrize("name", ["llama-tiny", "llama-tiny-odd"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_those_of_build(
    name: str, dtype: ElementType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tied and untied models, written in many small blocks."""
    monkeypatch.setattr(models.seeded_files, "_BLOCK_ELEMENTS", 1000)
    stored = onnx.load(save_seeded(name, tmp_path, 5, dtype)).graph.initializer
    held = build(name, 5, dtype).graph.initializer
    for ours, theirs in zip(stored, held, strict=True):
        assert ours.name == theirs.name
        assert numpy_helper.to_array(ours).tobytes() == numpy_helper.to_array(theirs).tobytes()
