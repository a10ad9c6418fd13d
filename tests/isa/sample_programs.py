"""Small valid programs for tests of the container and of the program checks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from isa.affine import Affine
from isa.encoding import encode
from isa.kernel import Buffer, Kernel, KernelPart
from isa.machine import preset
from isa.memory_map import DRAM_BASE, SRAM_BASE
from isa.program import (
    Absent,
    Argument,
    Cast,
    Constant,
    Entry,
    Equality,
    GroupScales,
    Inline,
    Interleave,
    Joined,
    Launch,
    LaunchPart,
    Pad,
    Port,
    Program,
    Quantize,
    Reference,
    Requirement,
    Reshape,
    RoundedMacs,
    Shift,
    Source,
    Storage,
    Take,
    Touch,
    Transpose,
)

HALT = np.array([encode("halt", {})], dtype=np.uint64)
TWO_PARTS = 1
"""Number of the kernel that has them."""
WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def copy_kernel(name: str = "copy_rows") -> Kernel:
    """Core A moves `trips` tiles from memory to memory through one buffer."""
    dma: dict[str, Any] = {"address_pitch": 0, "rows": 4, "row_bytes": 5}
    code = [
        encode("arg", {"destination": 1, "value": 0}),
        encode("arg", {"destination": 2, "value": 1}),
        encode("arg", {"destination": 3, "value": 2}),
        encode("li", {"destination": 4, "value": 1}),
        encode("li", {"destination": 5, "value": 64}),
        encode("loop", {"left": 3, "target": 6}),
        encode("dma_in", {"out": 0, "out_offset": 0, "out_pitch": 0, "address": 1, "broadcast": "none", **dma}),
        encode("push", {"buffer": 0, "value": 1}),
        encode("dma_out", {"a": 0, "a_offset": 0, "a_pitch": 0, "address": 2, **dma}),
        encode("pop", {"buffer": 0, "value": 1}),
        encode("addi", {"destination": 1, "left": 1, "value": 64}),
        encode("addi", {"destination": 2, "left": 2, "value": 64}),
        encode("halt", {}),
    ]
    words = np.array(code, dtype=np.uint64)
    return Kernel(name, ("source", "target", "trips"), (Buffer("tile", 64, 2),), words, HALT)


def two_part_kernel() -> Kernel:
    """The same code, begun for one operation and ended for another."""
    return replace(copy_kernel("two"), parts=(KernelPart("first", 0, 0), KernelPart("second", 12, 0)))


def constants(reference_path: str) -> tuple[Constant, ...]:
    """One constant per kind of source and of step."""
    steps = (Transpose((1, 0)), Pad((4, 4)), Take(1, range(3, -1, -1)), Take(0, (0, 2)), Reshape((8,)), Cast("bf16"))
    return (
        Constant("weights", Inline(WEIGHTS), (3, 4), "float32", steps),
        Constant("table", Reference(reference_path, 16, 32), (4, 4), "bfloat16"),
        Constant("later", Absent(), (16,), "float32"),
        Constant("codes", Inline(np.arange(16, dtype=np.uint8)), (2, 16), "uint4", (Shift(-8, "int4"),)),
        Constant("integers", Inline(WEIGHTS), (3, 4), "float32", (Quantize("int8", 2),)),
        Constant("scales", Inline(WEIGHTS), (3, 4), "float32", (GroupScales("int8", 2),)),
        Constant(
            "joined",
            Joined(1, (3, 1), (Inline(WEIGHTS[:, :3]), Inline(WEIGHTS[:, 3:]))),
            (3, 4),
            "float32",
            (Transpose((1, 0)),),
        ),
        Constant("both", Inline(WEIGHTS), (3, 4), "float32", (), Interleave(0, 2, 16)),
        Constant("both", Inline(-WEIGHTS), (3, 4), "float32", (), Interleave(1, 2, 16)),
    )


def sample_program(reference_path: str = "/nowhere/model.data", **changes: Any) -> Program:
    """A program with two entries, runtime symbols and every kind of constant."""
    storages = (
        Storage("x", "sram", SRAM_BASE, 4096, "input"),
        Storage("y", "sram", SRAM_BASE + 4096, 4096, "output"),
        Storage("weights", "dram", DRAM_BASE, 64, "constant"),
        Storage("table", "dram", DRAM_BASE + 64, 64, "constant"),
        Storage("later", "dram", DRAM_BASE + 128, 64, "constant"),
        Storage("codes", "dram", DRAM_BASE + 192, 64, "constant"),
        Storage("integers", "dram", DRAM_BASE + 256, 64, "constant"),
        Storage("scales", "dram", DRAM_BASE + 320, 64, "constant"),
        Storage("both", "dram", DRAM_BASE + 384, 96, "constant"),
        Storage("joined", "dram", DRAM_BASE + 512, 64, "constant"),
        Storage("cache", "dram", DRAM_BASE + 4096, 1 << 16, "state"),
    )
    trips = Affine.symbol("past") + 1
    entry = Entry(
        "decode",
        {"past": (0, 63)},
        (Port("x", "x", 0, (trips, 16), (64, 4), "fp32", "float32"),),
        (Port("y", "y", 0, (trips, 16), (64, 4), "fp32", "float32"),),
        (_launch("first", 0, "x", "cache", trips), _launch("second", 1, "cache", "y", trips, waits=(0,))),
        (Equality(trips, Affine.symbol("past") + 1, "node 'attention'"),),
        (Requirement("x", 0, 9, "rows beyond `past` are ignored"),),
    )
    prefill = Entry("prefill", {}, (), (), (_launch("only", 7, "x", "y", 64, kernel=TWO_PARTS),))
    parts: dict[str, Any] = {
        "machine": preset("mtia-v1"),
        "kernels": (copy_kernel(), two_part_kernel()),
        "storages": storages,
        "constants": constants(reference_path),
        "entries": (entry, prefill),
    }
    return Program(**{**parts, **changes})


def one_constant(
    source: Source, shape: tuple[int, ...], dtype: str, steps: tuple[Any, ...], room: int = 4096
) -> Program:
    """A program with nothing but one constant in a storage of `room` bytes."""
    storage = Storage("weights", "dram", DRAM_BASE, room, "constant")
    constant = Constant("weights", source, shape, dtype, steps)
    return Program(preset("mtia-v1"), (), (storage,), (constant,), ())


def _launch(
    name: str, event: int, source: str, target: str, trips: Any, waits: tuple[int, ...] = (), kernel: int = 0
) -> Launch:
    arguments = (Argument(0, source), Argument(0, target), Argument(trips))
    touches = (Touch(source, trips, is_written=False),)
    part = LaunchPart(f"node {name}", trips, 3, (RoundedMacs(2, trips, 32),), touches)
    parts = (part, LaunchPart("node behind it")) if kernel == TWO_PARTS else (part,)
    return Launch(name, kernel, 0, 0, 1, 2, arguments, waits, event, parts)
