"""Text from a small Llama, token by token on the simulated chip: python examples/generate.py --prompt "It was"

The checkpoint is examples/tiny_llama, 0.9 million parameters trained on Jane Austen (examples/train_tiny_llama.py).
Every token comes from bytes that the program's commands wrote to the chip's memory; the host picks one from the logits.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler import compile_model
from isa.dtypes import BY_NAME
from isa.errors import ToolError
from models.checkpoint_config import read_config
from models.tokenizer import Tokenizer, read_tokenizer
from simulator import Report, Simulator

FOLDER = Path(__file__).parent / "tiny_llama"
DTYPES = ("fp32", "fp16", "bf16")
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One token, and what the chip took to make it."""

    token: int
    report: Report


class Generator:
    """The programs of one prompt length: a prefill, and one decode step for every length of the cache."""

    def __init__(self, folder: Path, machine: str, dtype: str, prompt_length: int, count: int) -> None:
        self.config, self.dtype = read_config(folder), BY_NAME[dtype].numpy
        longest = prompt_length + count
        self.prefill = self._simulator(folder, machine, dtype, prompt_length, 0)
        self.decode = self._simulator(folder, machine, dtype, 1, (prompt_length, longest))

    @staticmethod
    def _simulator(folder: Path, machine: str, dtype: str, sequence: int, past: int | tuple[int, int]) -> Simulator:
        dims = {"batch": 1, "sequence": sequence, "past": past}
        return Simulator(compile_model(folder, machine, dtype=dtype, dims=dims))

    def tokens(self, prompt: Sequence[int], count: int, temperature: float, seed: int) -> Iterator[Step]:
        """Yield `count` tokens after the prompt: the likeliest ones, or sampled if the temperature is above 0."""
        random = np.random.default_rng(seed)
        simulator, ids, cache = self.prefill, np.array([prompt]), self._empty_cache()
        for _ in range(count):
            result = simulator.run({"input_ids": ids, **cache})
            token = _chosen(result.outputs["logits"][0, -1].astype(np.float64), temperature, random)
            yield Step(token, result.report)
            simulator, ids, cache = self.decode, np.array([[token]]), _next_cache(result.outputs)

    def _empty_cache(self) -> dict[str, Array]:
        empty = np.zeros((1, self.config.kv_heads, 0, self.config.head_dim), self.dtype)
        return {
            f"past_key_values.{layer}.{part}": empty for layer in range(self.config.layers) for part in ("key", "value")
        }


def _next_cache(outputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name.replace("present", "past_key_values"): array for name, array in outputs.items() if name != "logits"}


def _chosen(logits: Array, temperature: float, random: np.random.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    powers = np.exp((logits - logits.max()) / temperature)
    return int(random.choice(len(logits), p=powers / powers.sum()))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write text with a small Llama on the simulated chip.")
    parser.add_argument("--prompt", default="It was a truth", help="the beginning of the text")
    parser.add_argument("--tokens", type=int, default=60, help="how many to write (default: %(default)s)")
    parser.add_argument("--machine", default="mtia-2i", help="a preset or a TOML file (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16", help="element type (default: %(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 takes the likeliest token (default), 0.7 samples"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: %(default)s)")
    return parser.parse_args(arguments)


def _encoded(tokenizer: Tokenizer, options: argparse.Namespace) -> list[int]:
    """Return the prompt's ids; ValueError with what to do about a prompt or a count that cannot be."""
    ids, context = tokenizer.encode(options.prompt), read_config(FOLDER).context
    if not ids:
        raise ValueError("the prompt is empty; give at least one character")
    if not 0 < options.tokens <= context - len(ids):
        raise ValueError(f"--tokens is {options.tokens}; after this prompt 1 to {context - len(ids)} fit the context")
    if not 0 <= options.temperature < float("inf") or options.seed < 0:
        raise ValueError("--temperature and --seed are numbers from 0 on")
    return ids


def generate(options: argparse.Namespace) -> None:
    """Print the text as it comes, then what the chip took."""
    tokenizer = read_tokenizer(FOLDER / "tokenizer.json")
    prompt = _encoded(tokenizer, options)
    start = time.perf_counter()
    generator = Generator(FOLDER, options.machine, options.dtype, len(prompt), options.tokens)
    compiled = time.perf_counter()
    print(options.prompt, end="", flush=True)
    steps = []
    for step in generator.tokens(prompt, options.tokens, options.temperature, options.seed):
        print(tokenizer.decode([step.token]), end="", flush=True)
        steps.append(step)
    done = time.perf_counter()
    print("\n")
    _print_cost(options, len(prompt), [step.report for step in steps])
    print(f"host: compiled in {compiled - start:.1f} s, simulated in {done - compiled:.1f} s")


def _print_cost(options: argparse.Namespace, prompt_length: int, reports: Sequence[Report]) -> None:
    prefill, decode = reports[0], reports[1:]
    cost = f"{prefill.latency_seconds * 1e6:.0f} us, {prefill.energy_joules * 1e3:.2f} mJ"
    for note in prefill.notes:
        print(f"note: {note}")
    print(f"{options.machine}, {options.dtype}: prompt of {prompt_length} tokens in {cost}")
    if decode:
        seconds = sum(report.latency_seconds for report in decode) / len(decode)
        joules = sum(report.energy_joules for report in decode) / len(decode)
        print(f"{len(decode)} tokens one by one: {1 / seconds:,.0f} tokens/s, {joules * 1e3:.2f} mJ/token")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a wrong option is one sentence and exit code 1."""
    try:
        generate(_arguments(arguments))
    except (ToolError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
