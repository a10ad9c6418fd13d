"""Where rows of x are rounded: by the linears of a decode step, by a launch of its own for many rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compiler import compile_model
from compiler.graph import Graph, LinearAttributes, QuantizeAttributes
from compiler.quantize import Quantization, quantize_weights
from compiler.round_in_linears import round_in_linears
from models import build
from tests.compiler.graphs import GraphWriter, small_machine


def _launches_that_round(machine: str, sequence: int, scheme: str) -> tuple[int, int]:
    """Return the launches with a part that only rounds rows, and those with linears that do it, of a small Llama."""
    dims = {"batch": 1, "sequence": sequence, "past": 0}
    program = compile_model(build("llama-tiny", "absent"), machine, dims=dims, quantize=scheme)
    names = [program.kernels[launch.kernel].name for launch in program.entries[0].launches]
    return sum("quantize" in name for name in names), sum("_rounded" in name for name in names)


@pytest.mark.parametrize(("machine", "scheme"), [("mtia-2i", "int8"), ("hbm-concept", "int8"), ("mtia-300", "fp8")])
def test_linears_of_a_decode_step_round_their_row(machine: str, scheme: str) -> None:
    """All of a small model, whose rows are short; in a long prefill none does."""
    alone, own = _launches_that_round(machine, 1, scheme)
    assert alone == 0 and own > 0
    alone, own = _launches_that_round(machine, 512, scheme)
    assert alone > 0 and own == 0


def _two_readers(rows: int, scheme: str = "int8") -> Graph:
    writer = GraphWriter()
    writer.input("x", (1, rows, 256))
    for name in ("a", "b"):
        writer.constant(f"{name}.weight", np.ones((96, 256), np.float16))
        writer.add("linear", ("x", f"{name}.weight", None, None), name, (1, rows, 96), LinearAttributes(True))
    return quantize_weights(writer.graph("a", "b"), Quantization(scheme))  # type: ignore[arg-type]


def test_both_readers_of_a_row_round_it() -> None:
    graph = round_in_linears(_two_readers(1), small_machine(), "fp16")
    assert [op.kind for op in graph.operations] == ["linear", "linear"]
    assert all(op.inputs[0] == "x" and op.inputs[6] is None for op in graph.operations)


def test_a_rounding_that_others_read_stays() -> None:
    """An output of the model, or an operation that is no linear, needs the numbers in memory."""
    graph = _two_readers(1)
    (rounding, *_) = graph.operations
    assert isinstance(rounding.attributes, QuantizeAttributes)
    shown = replace(graph, outputs=(*graph.outputs, rounding.outputs[0] or ""))
    assert round_in_linears(shown, small_machine(), "fp16").operations == shown.operations


def test_rows_that_no_pe_holds_stay_with_a_launch() -> None:
    graph = _two_readers(200)
    assert round_in_linears(graph, small_machine(), "fp16").operations == graph.operations


def test_the_way_through_memory_decides() -> None:
    """Where the way through memory takes no time, rows are rounded once; where it is long, by all readers."""
    graph = _two_readers(6)
    near = {"noc.request_latency_ns": 0.0, "noc.hop_latency_cycles": 0, "sram.latency_ns": 0.0}
    assert round_in_linears(graph, small_machine(**near), "fp16").operations == graph.operations
    far = small_machine(**{"sram.latency_ns": 2000.0})
    assert [op.kind for op in round_in_linears(graph, far, "fp16").operations] == ["linear", "linear"]
