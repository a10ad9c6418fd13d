"""How close compiled programs come to what the chip can do: `python benchmarks/roofline.py`.

    python benchmarks/roofline.py                                    all workloads on the four machines
    python benchmarks/roofline.py --machine mtia-2i --workload gemm  those whose name has the word in it
    python benchmarks/roofline.py --markdown > docs/roofline.md      all, as the page of the docs (without seconds)

Achieved is simulated time; of single operations without the job launch, of models with it. The bound is the time at the
matrix engines' peak (`dpe`) or the greatest lower bound of `simulator.bounds`; the ratio is bound over achieved. Asked
is a ratio on mtia-2i, and at most ten points less elsewhere than mtia-2i reaches.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import onnx
from onnx import TensorProto, helper

import models
from benchmarks.gather_bound import gathered_bytes_per_second
from benchmarks.validate import product
from compiler import compile_model
from isa.errors import ToolError
from isa.machine import Machine, preset
from simulator import Report, Simulator

REFERENCE = "mtia-2i"
MACHINES = (REFERENCE, "mtia-v1", "mtia-300", "hbm-concept")
TOLERANCE = 0.10


@dataclass(frozen=True)
class Workload:
    """A row: `asked` is the least ratio on the reference machine.

    `resource` is `dpe`, `roofline` or `gather`: what all PEs reach that fetch random rows of 256 bytes as fast as they
    can (`benchmarks.gather_bound`). Of a single operation launches are not counted; only those of kernels named
    `kernel...` count, if that is given.
    """

    name: str
    asked: float
    model: Callable[[], onnx.ModelProto]
    dims: Mapping[str, int] = field(default_factory=dict)
    resource: str = "roofline"
    is_model: bool = False
    quantize: str | None = None
    kernel: str = ""


@dataclass(frozen=True)
class Row:
    """What came out."""

    workload: Workload
    machine: str
    bound_seconds: float
    resource: str
    achieved_seconds: float
    compile_seconds: float

    @property
    def ratio(self) -> float:
        """Bound over achieved."""
        return self.bound_seconds / self.achieved_seconds


def attention(tokens: int, heads: int = 32, kv_heads: int = 8, head_dim: int = 128) -> onnx.ModelProto:
    """Return causal attention of one sequence; keys and values are inputs."""
    widths = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim, "y": heads * head_dim}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT16, [1, tokens, width])
        for name, width in widths.items()
    }
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=heads, kv_num_heads=kv_heads, is_causal=1)
    graph = helper.make_graph([node], "attention", [values[name] for name in "qkv"], [values["y"]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def _gemm(asked: float, rows: int, outputs: int, inputs: int) -> Workload:
    name = f"gemm {rows}^3" if rows == outputs == inputs else f"gemm {rows} x {outputs} x {inputs}"
    return Workload(f"{name} from SRAM", asked, lambda: product(rows, outputs, inputs, weights=False), resource="dpe")


def _llama(name: str, asked: float, sequence: int, past: int, batch: int = 1, quantize: str | None = None) -> Workload:
    what = f"prefill {sequence}" if sequence > 1 else f"decode batch {batch} past {past}"
    bits = f" {quantize}" if quantize else ""
    dims = {"batch": batch, "sequence": sequence, "past": past}
    return Workload(
        f"{name} {what}{bits}", asked, lambda: models.build(name, "absent"), dims, is_model=True, quantize=quantize
    )


WORKLOADS = (
    _gemm(0.75, 512, 512, 512), _gemm(0.88, 1024, 1024, 1024), _gemm(0.92, 2048, 2048, 2048),
    _gemm(0.93, 4096, 4096, 4096), _gemm(0.80, 2000, 3000, 1000),
    Workload("fc 512 x 26592 x 2048", 0.95, lambda: product(512, 26592, 2048, weights=True)),
    _llama("llama-3-8b", 0.92, 1, 2048), _llama("llama-3-8b", 0.90, 1, 2048, quantize="int8"),
    _llama("llama-3-8b", 0.85, 1, 2048, quantize="int4"), _llama("llama-3-8b", 0.85, 1, 1024, batch=64),
    _llama("llama-3-8b", 0.85, 512, 0), _llama("llama-3-8b", 0.85, 2048, 0), _llama("llama-3-8b", 0.85, 8192, 0),
    Workload("attention 8192 causal", 0.60, lambda: attention(8192), resource="dpe", kernel="attention"),
    Workload("dlrm-dcnv2 embedding bags, batch 2048", 0.85, lambda: models.build("dlrm-dcnv2", "absent"),
             {"batch": 2048}, resource="gather", kernel="embedding_bag"),
    _llama("llama-3.2-1b", 0.80, 128, 0), _llama("llama-3.2-1b", 0.80, 1, 128),
)  # fmt: skip


def byte_dtype(machine: Machine) -> str:
    """Return the eight-bit type that a machine multiplies: int8, or fp8 where it has none."""
    return "int8" if machine.matrix.rate_by_dtype.int8 else "fp8"


def quantization(workload: Workload, machine: Machine) -> str | None:
    """Return the type of the weights, of eight bits that which the machine multiplies."""
    return byte_dtype(machine) if workload.quantize == "int8" else workload.quantize


def measure(workload: Workload, machine: Machine) -> Row:
    """Compile and time a workload."""
    start = time.perf_counter()
    program = compile_model(
        workload.model(), machine, dims=dict(workload.dims), quantize=quantization(workload, machine),
        separate_launches=bool(workload.kernel),
    )  # fmt: skip
    compiled = time.perf_counter() - start
    report = Simulator(program).profile()
    achieved = report.latency_seconds if workload.is_model else operation_seconds(report, machine, workload.kernel)
    if workload.resource == "dpe":
        bound, limit = report.lower_bounds_seconds["dpe"], "dpe"
    elif workload.resource == "gather":
        moved = sum(item.dram_bytes for item in report.operations if item.kernel.startswith(workload.kernel))
        bound, limit = moved / gathered_bytes_per_second(machine), "gather"
    else:
        bound, limit = report.lower_bound_seconds, report.lower_bound_resource
    return Row(workload, machine.name, bound, limit, achieved, compiled)


def operation_seconds(report: Report, machine: Machine, kernel: str) -> float:
    """Return the time of the launches of kernels whose names start so, without job launches."""
    cycles = sum(item.cycles for item in report.operations if item.kernel.startswith(kernel))
    return cycles / machine.cycles_per_second


def asked_of(row: Row, reference: float | None) -> float:
    """Return the ratio that is asked of a row."""
    if row.machine == REFERENCE or reference is None:
        return row.workload.asked
    return reference - TOLERANCE


def shown(row: Row, asked: float) -> str:
    """Return a line of the table."""
    times = f"{row.bound_seconds * 1e3:10.4f} {row.resource:6} {row.achieved_seconds * 1e3:10.4f}"
    return (
        f"{row.workload.name:40} {row.machine:11} {times} {row.ratio:7.1%} {asked:7.1%} {row.compile_seconds:7.2f} "
        f"{verdict(row, asked)}"
    ).rstrip()


def verdict(row: Row, asked: float) -> str:
    """Say if a ratio falls short."""
    return "" if row.ratio >= asked else "MISSED"


def in_markdown(row: Row, asked: float) -> str:
    """Return a line of the table in Markdown, without what differs from run to run."""
    times = f"{row.bound_seconds * 1e3:.4g} ms | {row.resource} | {row.achieved_seconds * 1e3:.4g} ms"
    name = row.workload.name + (
        f" ({quantization(row.workload, preset(row.machine))})" if row.workload.quantize else ""
    )
    return f"| {name} | {row.machine} | {times} | {row.ratio:.1%} | {asked:.1%} | {verdict(row, asked)} |"


def rows(machines: Sequence[str], word: str) -> Iterator[tuple[Row, float] | str]:
    """Yield rows with what is asked of them; a sentence for what a machine cannot run."""
    for workload in WORKLOADS:
        if word not in workload.name:
            continue
        reference: float | None = None
        for name in machines:
            try:
                row = measure(workload, preset(name))
            except ToolError as error:
                yield f"{workload.name}, {name}: {error}"
                continue
            yield row, asked_of(row, reference)
            reference = row.ratio if name == REFERENCE else reference


_INTRODUCTION = """# How close programs come to the roofline

Generated by `python benchmarks/roofline.py --markdown > docs/roofline.md`. Sixteen bits unless stated. *Bound* is the
time at the matrix engines' peak (`dpe`), of look-ups at the rate at which random rows can be gathered, else the
greatest lower bound: useful products at the peak, activations through SRAM, weights and caches once through DRAM.
*Achieved* is simulated time, of single operations without the job launch, of models with it. *Asked* is a ratio on
mtia-2i, and ten points less than mtia-2i reaches elsewhere. Every report states the bound of the program and of each
kernel.

| workload | machine | bound | by | achieved | ratio | asked | |
|---|---|---|---|---|---|---|---|"""


_LATENCIES = """
Latencies bound small products. A GEMM of a single block, as compiled, takes a PE *one block* cycles from the first
command to the last stored byte; one of 512^3 that had nothing else before and behind its products, which all PEs
shared evenly at their peak, would reach *at most*:

| machine | one block | 512^3 at peak | at most |
|---|---|---|---|"""


def latencies_in_markdown(machines: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the table of latencies."""
    for machine in map(preset, machines):
        rows, inputs = machine.matrix.block_rows, machine.matrix.block_k_bytes // 2
        report = Simulator(compile_model(product(rows, rows, inputs, weights=False), machine)).profile()
        block = operation_seconds(report, machine, "") * machine.cycles_per_second
        peak = machine.peak_macs_per_cycle("fp16")
        products = 512**3 / peak / machine.pe_count
        most = products / (products + block - rows * rows * inputs / peak)
        yield f"| {machine.name} | {block:,.0f} cycles | {products:,.0f} cycles | {most:.1%} |"


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="How close compiled programs come to the roofline.")
    parser.add_argument(
        "--machine", action="append", help=f"a preset; may be repeated (default: {', '.join(MACHINES)})"
    )
    parser.add_argument("--workload", default="", help="only workloads whose name has this in it")
    parser.add_argument("--markdown", action="store_true", help="print the page docs/roofline.md")
    options = parser.parse_args(arguments)
    if options.markdown:
        print(_INTRODUCTION)
    else:
        print(
            f"{'workload':40} {'machine':11} {'bound ms':>10} {'':6} {'achieved ms':>11} {'ratio':>6} asked   compile s"
        )
    for item in rows(options.machine or MACHINES, options.workload):
        show = in_markdown if options.markdown else shown
        print(item if isinstance(item, str) else show(*item), flush=True)
    if options.markdown:
        print(_LATENCIES, *latencies_in_markdown(options.machine or MACHINES), sep="\n")
    else:
        print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main(sys.argv[1:])
