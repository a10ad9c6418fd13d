"""What `make demo` shows: a real exporter's Llama with checked logits, then Llama-3-8B timed at full size.

Exits with 1 if a logit is further than TOLERANCE from the reference, or a token differs.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import models
from compiler import compile_model
from simulator import Report, Simulator

CASE = Path(__file__).parents[1] / "tests" / "data" / "onnx" / "hf_dynamo_past"
RUN = "b1"
DECODE_STEPS = 4
TOLERANCE = 2e-2
"""Largest difference of a logit in fp16."""
MODEL = "llama-3-8b"
MACHINE = "mtia-2i"
Array = npt.NDArray[Any]


def of_step(reference: Mapping[str, Array], step: int, side: str) -> dict[str, Array]:
    """Return the reference's inputs (`in`) or outputs (`out`) of a step by name."""
    prefix = f"{RUN}.s{step}.{side}."
    return {key.removeprefix(prefix): array for key, array in reference.items() if key.startswith(prefix)}


def check_logits() -> bool:
    """Prefill and decode greedily with our own cache and tokens; return whether all agrees with the reference."""
    print(f"1. {CASE.name}: Llama with 2 layers, exported by torch.onnx from transformers, run on {MACHINE} in fp16")
    reference = dict(np.load(CASE / "ref.npz"))
    first = of_step(reference, 0, "in")
    prompt = first["input_ids"].shape[1]
    start = time.perf_counter()
    prefill = Simulator(compile_model(CASE / "prefill.onnx", MACHINE, dims={"batch": 1, "seq": prompt}))
    decode = Simulator(
        compile_model(CASE / "decode.onnx", MACHINE, dims={"batch": 1, "seq": 1, "past": (0, prompt + DECODE_STEPS)})
    )
    print(f"   compiled prefill.onnx and decode.onnx, past = 0..{prompt + DECODE_STEPS}, in {_seconds(start)}")
    print("   executing; the first time, the simulator's own code is compiled too, for about 40 s", flush=True)
    start = time.perf_counter()
    simulator, inputs, difference, tokens, expected = prefill, first, 0.0, [], []
    for step in range(1 + DECODE_STEPS):
        outputs = simulator.run(inputs).outputs
        logits, exact = outputs["logits"][0], of_step(reference, step, "out")["logits"][0]
        difference = max(difference, float(np.abs(logits.astype(np.float64) - exact).max()))
        tokens.append(int(logits[-1].argmax()))
        expected.append(int(exact[-1].argmax()))
        simulator, inputs = decode, _next_inputs(outputs, tokens[-1], prompt + step)
    is_right = difference <= TOLERANCE and tokens == expected
    print(f"   executed prefill of {prompt} tokens and {DECODE_STEPS} decode steps in {_seconds(start)}")
    print(f"   largest logit difference to the reference  {difference:.4f} (limit {TOLERANCE})")
    print(f"   greedy tokens, ours                        {tokens}")
    print(f"   greedy tokens, reference                   {expected}")
    print(f"   {'PASS' if is_right else 'FAIL'}\n")
    return is_right


def _next_inputs(outputs: Mapping[str, Array], token: int, past: int) -> dict[str, Array]:
    """Return the inputs of the decode step that appends `token` behind `past` others."""
    cache = {name.replace("present", "past_key_values"): array for name, array in outputs.items() if name != "logits"}
    ids, positions = np.array([[token]]), np.array([[past]])
    return {"input_ids": ids, "position_ids": positions, "attention_mask": np.ones((1, past + 1), np.int64), **cache}


def time_full_size() -> None:
    """Compile and time prefill and decode of the full model; graph and sizes only, no weights."""
    print(f"2. {MODEL} at full size on {MACHINE}: all 32 layers and the LM head, 16-bit weights, batch 1")
    model = models.build(MODEL, weights="absent", dtype="float16")
    for title, dims, sizes in (
        ("prefill of 512 tokens", {"batch": 1, "sequence": 512, "past": 0}, {}),
        ("decode of one token at past 2048", {"batch": 1, "sequence": 1, "past": (0, 4096)}, {"past": 2048}),
    ):
        start = time.perf_counter()
        program = compile_model(model, MACHINE, dims=dims)
        print(f"   {title}: compiled in {_seconds(start)}, ", end="", flush=True)
        start = time.perf_counter()
        report = Simulator(program).profile(**sizes)
        print(f"simulated in {_seconds(start)}")
        _print_report(report)


def _print_report(report: Report) -> None:
    bound = report.dram_bound_seconds
    busy = ", ".join(f"{name} {report.utilization[name]:.0%}" for name in ("dram", "dpe", "fi", "noc", "sram"))
    print(f"     latency      {report.latency_seconds * 1e3:.1f} ms ({report.cycles:,} cycles)")
    print(f"     DRAM bound   {bound * 1e3:.1f} ms for {report.dram_bytes / 1e9:.2f} GB; "
          f"latency is {report.latency_seconds / bound:.2f} x that")  # fmt: skip
    low, high = report.energy_band_joules
    print(f"     energy       {report.energy_joules:.2f} J ({low:.1f} to {high:.1f} J); on average "
          f"{report.chip_power_watts:.1f} W in the chip, {report.dram_power_watts:.1f} W in the DRAM")  # fmt: skip
    print(f"     utilization  {busy}; useful MACs / peak {report.model_utilization:.1%}")
    print(f"     launches     {len(report.launches)}, of which {report.simulated_launches} differ and were simulated")


def _seconds(start: float) -> str:
    return f"{time.perf_counter() - start:.1f} s"


def main() -> None:
    """Run both parts."""
    start = time.perf_counter()
    is_right = check_logits()
    time_full_size()
    scale = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    print(f"\n{_seconds(start)} and {peak / 1e9:.1f} GB of memory in all")
    sys.exit(not is_right)


if __name__ == "__main__":
    main()
