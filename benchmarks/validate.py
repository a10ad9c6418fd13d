"""Simulated figures beside published ones: `python benchmarks/validate.py` prints them, `--markdown` for the docs.

Every figure about a chip comes from a program that the compiler emitted, but for peaks. Nothing here is fitted: what
misses is shown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import onnx
from onnx import TensorProto, helper

import models
from benchmarks.dram_points import POINTS
from benchmarks.matrix_peak import macs_per_second
from benchmarks.memory_points import POINTS as PATTERNS
from benchmarks.power_points import ALL_UNITS, GEMM
from compiler import compile_model
from isa.dtypes import FP16, INT8
from isa.machine import PRESETS, Machine, preset
from simulator import Report, Simulator
from simulator.report import OperationReport

TWO_I = preset("mtia-2i")


@dataclass(frozen=True)
class Item:
    """One row: what is compared, where it is published, under which conditions, and both figures.

    `published` is a number with an error, or a bound such as `> 92` that holds or not.
    """

    name: str
    source: str
    conditions: str
    published: str
    simulated: float
    unit: str = "%"

    @property
    def verdict(self) -> str:
        """The relative error, or whether the bound holds."""
        sign, _, number = self.published.rpartition(" ")
        value = float(number)
        if not sign:
            return f"{(self.simulated / value - 1) * 100:+.1f} %"
        holds = self.simulated > value if sign == ">" else self.simulated < value
        return "holds" if holds else f"MISSED by {abs(self.simulated - value):.3g} {self.unit}"


def dram() -> Iterator[Item]:
    """One channel against Ramulator."""
    for point in POINTS:
        published = f"{point.measured * 100:.1f}"
        yield Item(point.memory, "Ramulator 2.1", point.conditions, published, point.simulated() * 100)


def peaks() -> Iterator[Item]:
    """What follows from the geometry, and what back-to-back products of 2:4 weights reach when simulated."""
    for name, dtype, published in (
        ("mtia-2i", "fp16", "177"), ("mtia-2i", "int8", "354"),
        ("mtia-v1", "fp16", "51.2"), ("mtia-v1", "int8", "102.4"),
    ):  # fmt: skip
        peak = 2 * preset(name).peak_macs_per_second(dtype) / 1e12
        yield Item(f"{name} peak {dtype}", "ISCA'25 Table 2", "dense", published, peak, "T/s")
    for dtype, published in ((FP16, "354"), (INT8, "708")):
        yield Item(f"mtia-2i peak {dtype.name} 2:4", "ISCA'25 Table 2", "weights 2:4, K counted dense; by hand",
                   published, 2 * macs_per_second(TWO_I, "mml_sparse", dtype) / 1e12, "T/s")  # fmt: skip
    yield Item("mtia-2i peak local memory", "ISCA'25 Table 2", "per PE", "1.0",
               TWO_I.local_memory_bytes_per_second / 1e12, "TB/s")  # fmt: skip
    for name, dtype, published in (("mtia-300", "fp8", "1120"), ("mtia-300", "fp16", "560")):
        peak = 2 * preset(name).peak_macs_per_second(dtype) / 1e12
        yield Item(f"{name} peak {dtype}", "ISCA'26 Table I", "dense", published, peak, "T/s")
    yield Item("mtia-300 peak local memory", "ISCA'26 Table I", "per PE", "1.9",
               preset("mtia-300").local_memory_bytes_per_second / 1e12, "TB/s")  # fmt: skip
    for name, dtype, published in (
        ("mtia-400", "fp8", "6000"), ("mtia-400", "bf16", "3000"), ("mtia-450", "fp8", "7000"),
        ("mtia-450", "bf16", "3500"), ("mtia-500", "fp8", "10000"), ("mtia-500", "bf16", "5000"),
    ):  # fmt: skip
        peak = 2 * preset(name).peak_macs_per_second(dtype) / 1e12
        yield Item(f"{name} peak {dtype}", "roadmap", "projected: geometry chosen to meet it", published, peak, "T/s")
    yield from bandwidths()


def bandwidths() -> Iterator[Item]:
    """Peaks of the shared memories: the machine's numbers, so they say only that the published ones were taken."""
    for name, source, sram, memory in (
        ("mtia-v1", "ISCA'25 Table 2", "0.8", "0.176"), ("mtia-2i", "ISCA'25 Table 2", "2.7", "0.2048"),
        ("mtia-300", "ISCA'26 Table I", "11.4", "6.1"), ("mtia-400", "roadmap", "", "9.2"),
        ("mtia-450", "roadmap", "", "18.4"), ("mtia-500", "roadmap", "", "27.6"),
    ):  # fmt: skip
        machine = preset(name)
        conditions = "projected: machine number" if machine.projected else "machine number"
        if sram:
            yield Item(f"{name} peak SRAM", source, conditions, sram, machine.sram_bytes_per_second / 1e12, "TB/s")
        yield Item(f"{name} peak DRAM", source, conditions, memory, machine.dram.bytes_per_second / 1e12, "TB/s")


def product(rows: int, outputs: int, inputs: int, *, weights: bool) -> onnx.ModelProto:
    """Return `a @ b` in fp16; b is a weight in DRAM, whose bytes are absent, or an input in SRAM."""
    a, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape)
        for name, shape in (("a", [rows, inputs]), ("y", [rows, outputs]))
    )
    tensor = onnx.TensorProto(name="b", data_type=TensorProto.FLOAT16, dims=[inputs, outputs])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="absent.data")
    b = helper.make_tensor_value_info("b", TensorProto.FLOAT16, [inputs, outputs])
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    graph = helper.make_graph([node], "product", [a] if weights else [a, b], [y], [tensor] if weights else [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def timed(model: onnx.ModelProto, machine: Machine, **dims: int) -> Report:
    """Return the profile of a model in fp16."""
    return Simulator(compile_model(model, machine, dims=dims)).profile()


def _seconds(report: Report, machine: Machine) -> float:
    """Time of the operations, without job launches."""
    return sum(operation.cycles for operation in report.operations) / machine.cycles_per_second


def _utilization(size: int, machine: Machine, *, weights: bool) -> float:
    """Percent of the matrix engine's peak."""
    seconds = _seconds(timed(product(size, size, size, weights=weights), machine), machine)
    return size**3 / machine.peak_macs_per_second("fp16") / seconds * 100


def _as_fast_as_sram(machine: Machine) -> Machine:
    """Return a machine whose DRAM has rate and latency of its SRAM, so that weights come as if they lay there."""
    return machine.with_changes(
        {
            "dram.bytes_per_second": machine.sram_bytes_per_second, "dram.latency_ns": machine.sram.latency_ns,
            "dram.ecc_efficiency": 1.0, "dram_timing.refresh": "none",
        }
    )  # fmt: skip


def products() -> Iterator[Item]:
    """Matrix products."""
    source = "ISCA'25 3.3"
    near = _as_fast_as_sram(TWO_I)
    yield Item("GEMM 2048^3 fp16", source, "activations in SRAM, weights at the rate and latency of SRAM", "> 92",
               _utilization(2048, near, weights=True), "% of peak")  # fmt: skip
    yield Item("GEMM 2048^3 fp16", source, "activations in SRAM, 8 MB of weights from DRAM", "> 92",
               _utilization(2048, TWO_I, weights=True), "% of peak")  # fmt: skip
    yield Item("GEMM 2048^3 fp16", source, "both operands computed, in SRAM", "> 92",
               _utilization(2048, TWO_I, weights=False), "% of peak")  # fmt: skip
    naive = near.with_changes({"matrix.max_repeat_blocks": 1, "pe.command_issue_cycles": 16})
    for size in (512, 1024, 2048, 4096):
        tuned, slower = (_utilization(size, machine, weights=True) for machine in (near, naive))
        what = f"GEMM {size}^3 as in the first row: a command per block, 16 cycles to issue; tuned: 100"
        yield Item("naive command issue", source, what, "< 100", slower / tuned * 100, "% of tuned")
    for ecc, conditions in ((0.87, "ECC on"), (1.0, "ECC off")):
        machine = TWO_I.with_changes({"dram.ecc_efficiency": ecc})
        seconds = _seconds(timed(product(512, 26592, 2048, weights=True), machine), machine)
        rate = 26592 * 2048 * 2 / seconds
        yield Item("FC 512 x 26592 x 2048", "ISCA'25 4.2", f"{conditions}; of deliverable DRAM bandwidth", "> 95",
                   rate / machine.dram_deliverable_bytes_per_second * 100)  # fmt: skip
        yield Item("FC 512 x 26592 x 2048", "ISCA'25 4.2", f"{conditions}; of raw DRAM peak", "> 95",
                   rate / machine.dram.bytes_per_second * 100)  # fmt: skip


def language_models() -> Iterator[Item]:
    """Llama in 16 bits, batch 1."""
    source = "ISCA'25, LLM remarks"
    for name, dims, published in (
        ("llama-2-7b", {"sequence": 2048, "past": 0}, "< 600"), ("llama-2-7b", {"sequence": 1, "past": 2048}, "> 60"),
        ("llama-3-8b", {"sequence": 1, "past": 2048}, "> 60"),
    ):  # fmt: skip
        report = timed(models.build(name, "absent"), TWO_I, batch=1, **dims)
        what = f"{dims['sequence']} tokens behind {dims['past']}, batch 1 (published: not said)"
        yield Item(f"{name} latency", source, what, published, report.latency_seconds * 1e3, "ms")
    times = [
        timed(models.build("llama-3-8b", "absent"), TWO_I.with_changes({"dram.ecc_efficiency": ecc}), batch=1,
              sequence=1, past=2048).latency_seconds
        for ecc in (0.87, 1.0)
    ]  # fmt: skip
    loss = (times[0] / times[1] - 1) * 100
    for bound in ("> 10", "< 15"):
        yield Item("ECC on against off", "ISCA'25 5.1", "llama-3-8b decode, longer by", bound, loss)


def network() -> Iterator[Item]:
    """SRAM and network against closed-form bounds; here an error is what a pattern takes above its bound."""
    for name in PRESETS:
        machine = preset(name)
        for point in PATTERNS:
            rate = point.bound_cycles(machine) / point.report(machine).operations[0].cycles
            yield Item(f"{name} SRAM and network", "closed form", point.name, "100", rate * 100, "% of bound")


def _hit_rate(operations: Sequence[OperationReport], apart: Sequence[OperationReport]) -> float:
    """Share of bytes that SRAM delivers to those operations that read DRAM at all, without some."""
    chosen = [each for each in operations if each not in apart and each.sram_hit_rate < 1]
    read = sum(each.dram_bytes / (1 - each.sram_hit_rate) for each in chosen)
    return 1 - sum(each.dram_bytes for each in chosen) / read


def recommendation() -> Iterator[Item]:
    """DLRM-DCNv2, batch 2048, rows drawn uniformly or by Zipf's law; v1 has no cache while a program uses its SRAM."""
    model = models.build("dlrm-dcnv2", "absent")
    source = "ISCA'25 4.2"
    seconds: dict[tuple[str, str], tuple[float, float]] = {}
    for name in ("mtia-2i", "mtia-v1"):
        simulator = Simulator(compile_model(model, preset(name), dims={"batch": 2048}))
        for indices in ("uniform", "zipf:1.05"):
            report = simulator.profile(indices=indices)
            bags = [operation for operation in report.operations if operation.kernel.startswith("embedding")]
            table_seconds = sum(operation.cycles for operation in bags) / preset(name).cycles_per_second
            seconds[name, indices] = report.latency_seconds, table_seconds
            if name == "mtia-2i" and indices == "uniform":
                what = "all other operations; every launch starts with an empty cache (published: production)"
                yield Item("SRAM hits, dense", source, what, "> 95", _hit_rate(report.operations, bags) * 100)
            if name == "mtia-2i":
                sparse = max(bags, key=lambda operation: operation.dram_bytes).sram_hit_rate * 100
                for bound in ("> 40", "< 60"):
                    yield Item("SRAM hits, sparse", source, f"embedding bags, {indices} (published: production)", bound,
                               sparse)  # fmt: skip
    for indices in ("uniform", "zipf:1.05"):
        (new, new_bags), (old, old_bags) = seconds["mtia-2i", indices], seconds["mtia-v1", indices]
        what = f"whole model, {indices} (published: evaluated models)"
        yield Item("2i over v1", "Meta 2024-04", what, "3", old / new, "x")
        for bound in ("> 2", "< 3"):
            yield Item("2i over v1, TBE", "Hot Chips 2024", f"embedding bags, {indices}", bound, old_bags / new_bags,
                       "x")  # fmt: skip


def power() -> Iterator[Item]:
    """Power of the chip alone. The mixes set the coefficients on v1 and 2i, so those rows are calibrations."""
    for name, source in (("mtia-2i", "ISCA'25 Table 2"), ("mtia-v1", "ISCA'25 Table 2")):
        machine = preset(name)
        for mix, dtype, published in ((GEMM, "int8", machine.typical_watts), (GEMM, "fp16", machine.typical_watts),
                                      (ALL_UNITS, "int8", machine.tdp_watts), (ALL_UNITS, "fp16", machine.tdp_watts),
                                      ):  # fmt: skip
            what = "typical power, load not said" if mix is GEMM else "TDP"
            role = "calibration" if (mix is GEMM) == (dtype == "int8") else "the same figures, other dtype"
            yield Item(f"{name} power", source, f"{mix.name}, {dtype} ({role}); published: {what}", f"{published:g}",
                       mix.watts(machine, dtype), "W")  # fmt: skip
        report = timed(product(2048, 2048, 2048, weights=True), machine)
        yield Item(f"{name} power", source, "GEMM 2048^3 fp16, compiled (prediction); published: TDP",
                   f"< {machine.tdp_watts:g}", report.peak_power_watts, "W")  # fmt: skip


def control() -> Iterator[Item]:
    """What launches cost in a program. Published are bounds, and the machine takes the bounds."""
    report = timed(models.build("llama-3-8b", "absent"), TWO_I, batch=1, sequence=1, past=2048)
    launch, others = report.launches[0].start_cycles, len(report.launches) - 1
    replaced = (report.launch_cycles - launch) / others
    yield Item("job launch", "ISCA'25 3.3", "the first launch of llama-3-8b decode; published: below", "1000",
               launch * TWO_I.cycle_ns, "ns")  # fmt: skip
    yield Item("job replace", "ISCA'25 3.3", f"mean of the {others} others; published: below", "500",
               replaced * TWO_I.cycle_ns, "ns")  # fmt: skip


def predictions() -> Iterator[str]:
    """Figures that nobody published, with the band that the uncertainty of the energy figures leaves."""
    yield "| what | machine | latency | energy | band | chip power | peak | DRAM power |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in PRESETS:
        machine = preset(name)
        for sequence, past in ((512, 0), (1, 2048)):
            report = timed(models.build("llama-3-8b", "absent"), machine, batch=1, sequence=sequence, past=past)
            low, high = report.energy_band_joules
            what = f"llama-3-8b, {sequence} tokens behind {past}" + (", projected" if machine.projected else "")
            dram_watts = report.average_power_watts - report.chip_power_watts
            yield (
                f"| {what} | {name} | {report.latency_seconds * 1e3:.4g} ms | {report.energy_joules:.4g} J |"
                f" {low:.3g} to {high:.3g} J | {report.chip_power_watts:.4g} W | {report.peak_power_watts:.4g} W |"
                f" {dram_watts:.3g} W |"
            )


SECTIONS: dict[str, Callable[[], Iterator[Item]]] = {
    "DRAM": dram, "SRAM and network": network, "Peaks": peaks, "Matrix products": products,
    "Language models": language_models, "Recommendation": recommendation, "Power": power, "Control": control,
}  # fmt: skip


def table(items: Sequence[Item]) -> str:
    """Return the rows as Markdown."""
    lines = ["| item | source | conditions | published | simulated | error |", "|---|---|---|---|---|---|"]
    for item in items:
        simulated = f"{item.simulated:.4g} {item.unit}"
        lines.append(
            f"| {item.name} | {item.source} | {item.conditions} | {item.published} | {simulated} | {item.verdict} |"
        )
    return "\n".join(lines)


_INTRODUCTION = """# Validation

Generated by `python benchmarks/validate.py --markdown > docs/validation.md`. Figures that are bounds hold or are
missed. Nothing is fitted to a workload but, where it says *calibration*, the power of two chips. What the models are:
[time](timing.md), [energy](energy.md). Not compared: kernels of which only a latency is published."""


def main() -> None:
    """Print all sections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print the page docs/validation.md")
    arguments = parser.parse_args()
    if arguments.markdown:
        print(_INTRODUCTION)
    for name, section in SECTIONS.items():
        items = list(section())
        print(f"\n## {name}\n\n{table(items)}")
        if name == "DRAM":
            errors = [abs(item.simulated / float(item.published) - 1) * 100 for item in items]
            print(f"\nMean absolute error {sum(errors) / len(errors):.1f} %, worst {max(errors):.1f} %.")
    print("\n## Predictions\n\nNothing is published for these, so nothing says how far off they are but the band.\n")
    for line in predictions():
        print(line)


if __name__ == "__main__":
    main()
