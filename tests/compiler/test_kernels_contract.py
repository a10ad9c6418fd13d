"""Emitted kernels under the naive interpreter: they keep every contract, and give the simulator's bits in any order."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.graph import LinearAttributes, RmsNormAttributes, RopeAttributes, SliceAttributes
from compiler.quantize import Quantization, Scheme, quantize_weights
from compiler.round_in_linears import move_into_readers
from isa.affine import evaluate
from isa.program import Program
from simulator import Simulator
from simulator.device import Device
from tests.compiler.graphs import Array, GraphWriter, compile_graph, small_machine
from tests.naive import Launch

COLUMNS, HIDDEN = 48, 40


def _program(tokens: int, machine: str, scheme: Scheme | None = None) -> Program:
    """Every kind of kernel but attention, on a few tokens."""
    rng = np.random.default_rng(tokens)
    writer = GraphWriter()
    writer.input("ids", (1, tokens), "int64")
    writer.input("positions", (1, tokens), "int64")
    writer.constant("table", rng.standard_normal((30, COLUMNS)).astype(np.float16))
    writer.constant("norm", rng.standard_normal(COLUMNS).astype(np.float32))
    angles = np.outer(np.arange(30), rng.random(8))
    writer.constant("cosines", np.cos(angles).astype(np.float32))
    writer.constant("sines", np.sin(angles).astype(np.float32))
    for name, shape in {"up": (COLUMNS, HIDDEN), "gate": (COLUMNS, HIDDEN), "down": (HIDDEN, COLUMNS)}.items():
        writer.constant(name, (rng.standard_normal(shape) / 6).astype(np.float16))
    writer.constant("bias", rng.standard_normal(HIDDEN).astype(np.float32))
    wide, narrow, plain = (1, tokens, COLUMNS), (1, tokens, HIDDEN), LinearAttributes(False)
    writer.add("embedding", ("ids", "table"), "rows", wide)
    writer.add("rms_norm", ("rows", "norm"), "normed", wide, RmsNormAttributes(1e-5))
    writer.add("rope", ("normed", "positions", "cosines", "sines"), "turned", wide, RopeAttributes(3, 16, True, None))
    writer.add("rope", ("turned", None, "cosines", "sines"), "halves", wide, RopeAttributes(3, 16, False, 2))
    writer.add("linear", ("halves", "up", "bias", None), "u", narrow, plain)
    writer.add("linear", ("halves", "gate", None, None), "g", narrow, plain)
    writer.add("swiglu", ("g", "u"), "s", narrow)
    writer.add("linear", ("s", "down", None, "rows"), "d", wide, plain)
    writer.add("slice", ("d",), "part", (1, tokens, 20), SliceAttributes(2, 16, 20))
    changes = {} if machine == "mtia-2i" else {"matrix.max_repeat_blocks": 1}
    graph = quantize_weights(writer.graph("d", "part"), Quantization(scheme) if scheme else None)
    if tokens <= 32:
        graph = move_into_readers(graph, [op for op in graph.operations if op.kind == "quantize"])
    return compile_graph(graph, small_machine(machine, **changes))


def _naively(program: Program, inputs: dict[str, Array], seed: int | None) -> dict[str, Array]:
    device, (entry,) = Device(program), program.entries
    device.write_inputs(entry, inputs, {})
    for launch in entry.launches:
        arguments = [
            evaluate(item.expression, {}) + (program.storage_by_name[item.storage].address if item.storage else 0)
            for item in launch.arguments
        ]
        kernel = program.kernels[launch.kernel]
        Launch(kernel, launch.rows, launch.columns, arguments, device.sram, device.dram, program.machine).run(seed)
    return device.read_outputs(entry, {})[0]


@pytest.mark.parametrize(
    ("machine", "scheme"), [("mtia-2i", None), ("mtia-v1", None), ("mtia-2i", "int8"), ("mtia-300", "fp8")]
)
@pytest.mark.parametrize(("tokens", "seed"), [(2, None), (2, 5), (35, 11)])
def test_kernels_under_the_naive_interpreter(
    machine: str, scheme: Scheme | None, tokens: int, seed: int | None
) -> None:
    """No contract is violated, nothing deadlocks, and every output is the same bit for bit."""
    rng = np.random.default_rng(tokens)
    inputs: dict[str, Array] = {name: rng.integers(0, 25, (1, tokens)) for name in ("ids", "positions")}
    program = _program(tokens, machine, scheme)
    expected = Simulator(program).run(inputs).outputs
    result = _naively(program, inputs, seed)
    for name, array in expected.items():
        np.testing.assert_array_equal(result[name], array)
    assert np.isfinite(result["d"]).all() and result["d"].any()
