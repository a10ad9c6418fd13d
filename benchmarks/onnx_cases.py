"""Every case of a folder of exported models, compiled and executed on the simulated chip, against its references.

    python benchmarks/onnx_cases.py FOLDER [--case NAME ...] [--dtype fp32 --dtype fp16 ...] [--machine mtia-v1]

FOLDER has one folder per case: ONNX files, `ref.npz` with the inputs and outputs of each step, and `meta.json` with the
runs. Dims are bound as a user would: batch and sequence to the sizes of the run, a cache that grows to a range. Steps
with a cache read back what our own run before gave. A row compares all steps of a run where there is no padding.

Float models must be within a tolerance of the reference; those of fp16 models were computed partly in fp16, so that
no type is closer to them than fp16 is. Quantized ones round activations, so that a value on a boundary moves single
outputs visibly: their mean difference counts. Where the folder has the exact arithmetic on quantized weights, that is
the reference, steps read the caches it was given, and it counts like a float model. Chosen tokens must be equal
wherever the reference's two best differ by more than twice the tolerance. A case that cannot be compiled is a row with
its error. The exit code is 1 if a row fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compiler import compile_model
from compiler.graph import Graph
from compiler.onnx_import import load_onnx
from isa.affine import Affine, symbols_of
from isa.errors import ToolError
from simulator import Simulator

Array = npt.NDArray[Any]
Dims = tuple[tuple[str, int | tuple[int, int]], ...]

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 0.15}
"""Largest difference of a float model."""
QUANTIZED_MEAN_TOLERANCE = {"fp32": 0.05, "fp16": 0.05, "bf16": 0.1}
"""Largest mean difference of a quantized model; ONNX Runtime itself moves logits by up to 0.13 where it rounds."""
QUANTIZED_MARGIN = 0.15
"""Difference of logits that rounded activations explain, for the comparison of tokens."""
QUANTIZED_OPERATORS = (
    "MatMulNBits", "MatMulInteger", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear", "QLinearMatMul",
    "GatherBlockQuantized", "ConvInteger",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One execution of a graph: inputs, the reference of the first output, and which input is which earlier output."""

    graph: Path
    inputs: Mapping[str, Array]
    output: str
    expected: Array
    reference_dtype: str
    fed_back: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """A sequence of steps of a case."""

    case: str
    name: str
    is_quantized: bool
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Row:
    """What came of a run in one element type; `error` tells why it could not be executed."""

    case: str
    run: str
    dtype: str
    largest: float = 0.0
    mean: float = 0.0
    equal_tokens: int = 0
    tokens: int = 0
    clear_mismatches: int = 0
    tolerance: float = 0.0
    is_quantized: bool = False
    error: str = ""

    @property
    def passes(self) -> bool:
        """The verdict."""
        if self.error or self.clear_mismatches:
            return False
        if self.is_quantized:
            return self.mean <= QUANTIZED_MEAN_TOLERANCE[self.dtype]
        return self.largest <= self.tolerance


def runs_of(folder: Path, case: str) -> Iterator[Run]:
    """Yield the runs of a case."""
    meta = json.loads((folder / case / "meta.json").read_text())
    operators = {name for graph in meta["graphs"].values() for name in graph["ops"]}
    is_quantized = any(name.rpartition("::")[2] in QUANTIZED_OPERATORS for name in operators)
    reference = dict(np.load(folder / case / "ref.npz"))
    for run in meta["runs"]:
        steps: list[Step] = []
        outputs: dict[str, Array] = {}
        for index, described in enumerate(run["steps"]):
            prefix = f"{run['name']}.s{index}"
            inputs = {name: reference[f"{prefix}.in.{name}"] for name in described["inputs"]}
            fed_back = _fed_back(inputs, outputs)
            outputs = {name: reference[f"{prefix}.out.{name}"] for name in described["outputs"]}
            first = next(iter(described["outputs"]))
            expected = reference.get(f"{prefix}.exact", outputs[first])
            if f"{prefix}.exact" in reference:
                fed_back, is_quantized = {}, False
            graph, computed_in = folder / case / described["graph"], expected.dtype.name
            steps.append(Step(graph, inputs, first, expected.astype(np.float32), computed_in, fed_back))
        yield Run(case, run["name"], is_quantized, tuple(steps))


def _fed_back(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, str]:
    """Return which earlier output each float input is, told by the reference's own arrays."""
    found = {}
    for name, array in inputs.items():
        for output, before in outputs.items():
            is_cache = array.dtype.kind == "f" and array.shape == before.shape and array.ndim > 2
            if is_cache and np.array_equal(array, before):
                found[name] = output
    return found


def dims_of(run: Run, index: int) -> Dims:
    """Return the dims that a user gives for a step: sizes, and a range for a cache that grows over the run's steps."""
    steps = [step for step in run.steps if step.graph == run.steps[index].graph]
    names = [_dims(step) for step in steps]
    present = _dims(run.steps[index])
    tokens = {name for name, size in present.items() if not size.is_cache}
    growing = {n for n, size in present.items() if size.is_cache and len({other[n].size for other in names}) > 1}
    growing -= tokens
    largest = max((other[name].size for other in names for name in growing), default=0)
    dims: dict[str, int | tuple[int, int]] = {}
    for name, size in present.items():
        if name in growing and size.size:
            dims[name] = (0, largest + 1)
        elif not _follows(name, growing, names):
            dims[name] = size.size
    return tuple(sorted(dims.items()))


@dataclass(frozen=True)
class _Size:
    size: int
    is_cache: bool


def _dims(step: Step) -> dict[str, _Size]:
    """Return the named dims of a step's inputs; those of float inputs of four axes belong to caches."""
    found: dict[str, _Size] = {}
    graph = imported(step.graph)
    for input in graph.inputs:
        array = step.inputs[input]
        for dim, size in zip(graph.values[input].shape, array.shape, strict=True):
            for name in symbols_of(dim) if dim == Affine.symbol(str(dim)) else ():
                is_cache = array.ndim == 4 and array.dtype.kind == "f"
                found[name] = _Size(int(size), is_cache and (name not in found or found[name].is_cache))
    return found


@lru_cache(maxsize=8)
def imported(path: Path) -> Graph:
    """Return the graph of a file; raises ModelError if it cannot be read."""
    return load_onnx(path)


def _follows(name: str, growing: set[str], steps: Sequence[Mapping[str, _Size]]) -> bool:
    """Tell whether a dim is the growing one plus another one in every step, so that nobody needs to give it."""
    for past in growing - {name}:
        for other in steps[0].keys() - {name, past}:
            if all(step[name].size == step[past].size + step[other].size for step in steps):
                return True
    return False


@lru_cache(maxsize=8)
def simulator_of(graph: Path, machine: str, dtype: str, dims: Dims) -> Simulator:
    """Return the simulator of a compiled graph."""
    return Simulator(compile_model(graph, machine, dtype, dims=dict(dims)))


def evaluate(run: Run, dtype: str, machine: str = "mtia-2i") -> Row:
    """Execute all steps of a run and compare them; a ToolError becomes the row's error."""
    is_half = any(step.reference_dtype == "float16" for step in run.steps)
    tolerance = max(TOLERANCE[dtype], TOLERANCE["fp16"] if is_half else 0.0)
    margin = QUANTIZED_MARGIN if run.is_quantized else tolerance
    differences: list[Array] = []
    tokens = equal = mismatches = 0
    outputs: Mapping[str, Array] = {}
    for index, step in enumerate(run.steps):
        inputs = dict(step.inputs)
        inputs |= {name: outputs[output].astype(inputs[name].dtype) for name, output in step.fed_back.items()}
        try:
            outputs = simulator_of(step.graph, machine, dtype, dims_of(run, index)).run(inputs).outputs
        except ToolError as error:
            text = " ".join(str(error).split())
            return Row(run.case, run.name, dtype, is_quantized=run.is_quantized, error=f"step {index}: {text}")
        real = _is_real(inputs, step.expected)
        ours, theirs = outputs[step.output].astype(np.float32)[real], step.expected[real]
        differences.append(np.abs(ours - theirs).reshape(-1))
        if theirs.ndim == 2 and theirs.shape[-1] > 1:
            same = ours.argmax(-1) == theirs.argmax(-1)
            best = np.sort(theirs, axis=-1)
            mismatches += int((~same & (best[:, -1] - best[:, -2] > 2 * margin)).sum())
            tokens, equal = tokens + same.size, equal + int(same.sum())
    joined = np.concatenate(differences)
    largest, mean = float(joined.max()), float(joined.mean())
    return Row(run.case, run.name, dtype, largest, mean, equal, tokens, mismatches, tolerance, run.is_quantized)


def _is_real(inputs: Mapping[str, Array], output: Array) -> Any:
    """Return which rows of an output [batch, sequence, ...] belong to tokens that are not padding."""
    if output.ndim != 3:
        return np.ones(output.shape[:1], dtype=bool)
    masks = [array for name, array in inputs.items() if "mask" in name and array.ndim == 2]
    if not masks:
        return np.ones(output.shape[:2], dtype=bool)
    return masks[0][:, -output.shape[1] :] != 0


def shown(row: Row) -> str:
    """Return a row as a line of the table."""
    head = f"{row.case:28} {row.run:15} {row.dtype:5}"
    if row.error:
        return f"{head} {'error':>10} {row.error}"
    figures = f"{row.largest:10.2e} {row.mean:10.2e} {row.equal_tokens:7}/{row.tokens}"
    return f"{head} {figures:34} {'passes' if row.passes else 'FAILS'}{' (quantized)' if row.is_quantized else ''}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if a row fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", action="append", help="only this case; may be given several times")
    parser.add_argument("--dtype", action="append", choices=tuple(TOLERANCE), help="only this element type")
    parser.add_argument("--machine", default="mtia-2i", help="preset or TOML file")
    options = parser.parse_args(arguments)
    cases = options.case or sorted(path.parent.name for path in options.folder.glob("*/meta.json"))
    if not cases:
        parser.error(f"{options.folder} has no folder with a meta.json")
    print(f"{'case':28} {'run':15} {'dtype':5} {'largest':>10} {'mean':>10} {'tokens':>10}")
    failed = rows = 0
    for case in cases:
        for run in runs_of(options.folder, case):
            for dtype in options.dtype or TOLERANCE:
                row = evaluate(run, dtype, options.machine)
                rows, failed = rows + 1, failed + (not row.passes)
                print(shown(row), flush=True)
    print(f"{rows - failed} of {rows} pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
