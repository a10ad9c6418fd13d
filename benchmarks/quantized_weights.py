"""What quantized weights gain a Llama: the tables of docs/quantization.md.

python benchmarks/quantized_weights.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from benchmarks.roofline import byte_dtype
from compiler import compile_model
from isa.machine import Machine, preset
from simulator import Report, Simulator

MODEL, MACHINES = "llama-3-8b", ("mtia-2i", "mtia-300")
PAST, PREFILL = 2048, 512
GROUPS = (32, 128)


def forms(machine: Machine) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the words for each form of the weights that a machine takes, and the options of the compiler."""
    yield "fp16", {}
    byte = byte_dtype(machine)
    yield byte, {"quantize": byte}
    for group in GROUPS:
        yield f"int4, groups of {group}", {"quantize": "int4", "group_size": group}


def timed(machine: Machine, options: dict[str, object], sequence: int, past: int) -> Report:
    """Return the profile of so many tokens behind so many."""
    dims = {"batch": 1, "sequence": sequence, "past": past}
    return Simulator(compile_model(models.build(MODEL, "absent"), machine, dims=dims, **options)).profile()


def table(machine: Machine) -> Iterator[str]:
    """Yield the lines of the table of a machine: milliseconds, and 10^9 bytes that one token reads."""
    yield "| weights | decode | DRAM read | DRAM alone | prefill of 512 |"
    yield "| --- | --- | --- | --- | --- |"
    for words, options in forms(machine):
        decode, prefill = timed(machine, options, 1, PAST), timed(machine, options, PREFILL, 0)
        times = [
            report * 1e3 for report in (decode.latency_seconds, decode.dram_bound_seconds, prefill.latency_seconds)
        ]
        token, alone, prompt = (f"{time:.3g} ms" for time in times)
        yield f"| {words} | {token} | {decode.dram_read_bytes / 1e9:.2f} GB | {alone} | {prompt} |"


if __name__ == "__main__":
    for name in MACHINES:
        print(f"{name}:\n", *table(preset(name)), "", sep="\n")
