"""A whole model on machines that nobody built: its outputs stay those of onnxruntime, or the machine is refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from compiler import compile_model
from isa.errors import UnsupportedError
from isa.machine import Machine, preset
from models import MODELS, build
from simulator import Simulator

MODEL = "llama-tiny-odd"
LONGEST_PAST = 70
TOLERANCE = {"fp16": 2e-2, "fp32": 1e-4}
BATCH = 3
Array = npt.NDArray[Any]

SQUARE_BLOCKS = ("matrix.block_rows", "accumulator.rows", "accumulator.columns")
CHANGES: dict[str, dict[str, Any]] = {
    "few PEs, no power of two": {"grid.rows": 3, "grid.columns": 5},
    "one PE": {"grid.rows": 1, "grid.columns": 1},
    "small local memory": {"pe.local_memory_bytes": 65536},
    "one bank": {"accumulator.banks": 1},
    "one command per block": {"matrix.max_repeat_blocks": 1},
    "plain DMA": {"dma.broadcast_reads": False, "dma.indexed": False},
    "blocks longer than a head": {"matrix.block_k_bytes": 64},
    "short blocks": {"matrix.block_k_bytes": 16},
    "flat blocks": dict.fromkeys(SQUARE_BLOCKS, 16) | {"matrix.block_k_bytes": 64},
    "small blocks": dict.fromkeys(SQUARE_BLOCKS, 8),
    "blocks of no power of two": dict.fromkeys(SQUARE_BLOCKS, 24),
    "large blocks": dict.fromkeys(SQUARE_BLOCKS, 64),
    "banks larger than a block": {"matrix.block_rows": 16},
    "odd counts of slices and channels": {
        "dram.channels": 3, "dram.bytes": 3 << 28, "sram.slices": 7, "sram.bytes": 7 << 24,
        "sram.cache_step_bytes": 0,
    },
    "activations in DRAM": {"sram.bytes": 1 << 16, "sram.cache_step_bytes": 0},
}  # fmt: skip
MACHINES = {name: preset("mtia-2i").with_changes(changes) for name, changes in CHANGES.items()} | {
    "mtia-300": preset("mtia-300"),
    "mtia-300, small": preset("mtia-300").with_changes({"grid.rows": 4, "grid.columns": 3}),
}
"""Nobody built those with changes; MTIA 300 has a mesh, blocks of 64 bytes and no int8."""


@cache
def _reference() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(build(MODEL, 0, "float32").SerializeToString())


def _inputs(sequence: int, past: int) -> dict[str, Array]:
    config, rng = MODELS[MODEL], np.random.default_rng(past)
    inputs: dict[str, Array] = {"input_ids": rng.integers(0, config.vocabulary, (BATCH, sequence))}
    for layer in range(config.layers):
        for part in ("key", "value"):
            shape = (BATCH, config.kv_heads, past, config.head_dim)
            inputs[f"past_key_values.{layer}.{part}"] = rng.standard_normal(shape).astype(np.float32)
    return inputs


@pytest.mark.parametrize(("sequence", "dtype"), [(1, "fp16"), (1, "fp32"), (21, "fp16"), (21, "fp32")])
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES.keys())
def test_outputs_do_not_depend_on_the_machine(machine: Machine, sequence: int, dtype: str) -> None:
    """Decode and chunked prefill after several pasts give onnxruntime's logits and caches on any machine."""
    dims: dict[str, int | tuple[int, int]] = {"batch": BATCH, "sequence": sequence, "past": (0, LONGEST_PAST)}
    simulator = Simulator(compile_model(build(MODEL, 0, "float32"), machine, dtype, dims))
    for past in (0, 7, LONGEST_PAST):
        inputs = _inputs(sequence, past)
        result = simulator.run(inputs)
        names = [output.name for output in _reference().get_outputs()]
        for name, expected in zip(names, _reference().run(None, inputs), strict=True):
            np.testing.assert_allclose(result.outputs[name], expected, rtol=0, atol=TOLERANCE[dtype], err_msg=name)
        for operation in result.report.operations:
            assert operation.issued_macs == operation.stated_macs >= operation.useful_macs, operation.operation


def test_blocks_that_rows_cannot_hold_are_refused() -> None:
    """Rows are padded to 64 bytes: a machine with longer blocks of K is told so, not computed wrongly."""
    machine = preset("mtia-2i").with_changes({"matrix.block_k_bytes": 128})
    with pytest.raises(UnsupportedError, match="blocks with 128 bytes of K; rows are padded to 64 bytes"):
        compile_model(build(MODEL), machine, dims={"batch": 1, "sequence": 1, "past": 0})


def test_rows_of_dram_cost_energy_by_their_size() -> None:
    """Rows of half the size are opened more often by a stream; nothing else about the run changes."""
    program = compile_model(build("llama-tiny"), dims={"batch": 1, "sequence": 1, "past": 0})
    machine = program.machine
    smaller = machine.with_changes({"dram.row_bytes": machine.dram.row_bytes // 2})
    before, after = (Simulator(program, chosen).profile() for chosen in (machine, smaller))
    assert before.cycles == after.cycles and before.dram_read_bytes == after.dram_read_bytes
    assert before.energy_parts_joules["dram_device"] < after.energy_parts_joules["dram_device"]
