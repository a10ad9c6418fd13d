"""A Llama of a billion parameters executed by the simulator: a prompt, then one token with the cache of that run.

    python benchmarks/one_billion.py [--dtype fp16|bf16|fp32] [--model NAME]

Weights are seeded and lie in a temporary file as fp32 (5 GB), memory-mapped by both sides. ONNX Runtime computes the
reference in fp32, in a process of its own. Prints seconds, GMAC/s of the simulator, differences of logits, agreement
of greedy tokens, and the peak memory of the process that simulates (mapped pages of the file included).
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler import DTYPES, compile_model
from models import config_of, list_models
from models.seeded_files import save_seeded
from simulator import Simulator

SEED, PROMPT = 7, 16
Array = npt.NDArray[Any]
Arrays = dict[str, Array]


def empty_cache(name: str) -> Arrays:
    """Return a cache of length 0 for every layer."""
    config = config_of(name)
    shape = (1, config.kv_heads, 0, config.head_dim)
    parts = ((layer, part) for layer in range(config.layers) for part in ("key", "value"))
    return {f"past_key_values.{layer}.{part}": np.zeros(shape, np.float32) for layer, part in parts}


def cache_of(outputs: Arrays) -> Arrays:
    """Return the outputs of a run as the cache of the next."""
    return {name.replace("present", "past_key_values"): array for name, array in outputs.items() if "present" in name}


def reference(path: str, prompt: Array, cache: Arrays) -> tuple[Array, Array]:
    """Return ONNX Runtime's logits of the prompt, and of the token that the prompt's last logits choose."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    first = dict(zip(names, session.run(None, {"input_ids": prompt, **cache}), strict=True))
    token = first["logits"][:, -1:].argmax(-1)
    second = dict(zip(names, session.run(None, {"input_ids": token, **cache_of(first)}), strict=True))
    return first["logits"], second["logits"]


def simulate(path: Path, dtype: str, inputs: Arrays, title: str) -> Arrays:
    """Compile, load and run one step; print what each took."""
    start = time.perf_counter()
    past = inputs["past_key_values.0.key"].shape[2]
    dims = {"batch": 1, "sequence": inputs["input_ids"].shape[1], "past": past}
    program = compile_model(path, dtype=dtype, dims=dims)
    compiled = time.perf_counter()
    simulator = Simulator(program)
    simulator.load()
    loaded = time.perf_counter()
    result = simulator.run(inputs)
    end = time.perf_counter()
    print(
        f"{title:10} compile {compiled - start:6.1f} s   load {loaded - compiled:6.1f} s   run {end - loaded:6.1f} s   "
        f"{result.report.useful_macs / (end - loaded) / 1e9:6.2f} GMAC/s   on the chip "
        f"{result.report.latency_seconds * 1e3:.2f} ms",
        flush=True,
    )
    return dict(result.outputs)


def compare(title: str, ours: Array, theirs: Array) -> None:
    """Print how far logits are apart, and how many greedy tokens agree."""
    difference = np.abs(ours.astype(np.float32) - theirs)
    best = np.sort(theirs, axis=-1)
    clear = best[..., -1] - best[..., -2] > 2 * difference.max()
    agree = ours.argmax(-1) == theirs.argmax(-1)
    print(
        f"{title:10} logits {np.abs(theirs).max():.2f} at most, difference {difference.max():.2e} at most, "
        f"{difference.mean():.2e} mean; tokens agree {agree.sum()} of {agree.size}, "
        f"{agree[clear].sum()} of {clear.sum()} where they are clear"
    )


def main(arguments: Sequence[str]) -> None:
    """Run both steps and their reference."""
    parser = argparse.ArgumentParser(description="Execute a Llama of a billion parameters.")
    parser.add_argument("--dtype", default="fp16", choices=DTYPES)
    parser.add_argument("--model", default="llama-3.2-1b", choices=list_models())
    options = parser.parse_args(arguments)
    prompt = np.random.default_rng(SEED).integers(0, config_of(options.model).vocabulary, (1, PROMPT))
    cache = empty_cache(options.model)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = save_seeded(options.model, Path(folder), SEED, "float32")
        print(f"{options.model} in {options.dtype}, {PROMPT} tokens, then 1")
        print(f"build      {time.perf_counter() - start:.1f} s", flush=True)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            start = time.perf_counter()
            expected = pool.apply(reference, (str(path), prompt, cache))
        print(f"reference  {time.perf_counter() - start:.1f} s (ONNX Runtime, loading included)", flush=True)
        first = simulate(path, options.dtype, {"input_ids": prompt, **cache}, "prefill")
        token = expected[0][:, -1:].argmax(-1)
        second = simulate(path, options.dtype, {"input_ids": token, **cache_of(first)}, "decode")
    compare("prefill", first["logits"], expected[0])
    compare("decode", second["logits"], expected[1])
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main(sys.argv[1:])
