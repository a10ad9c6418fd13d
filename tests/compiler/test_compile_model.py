"""`compile_model`: files and models in memory, names of machines, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compiler import compile_graph, compile_model, fuse_model
from isa.errors import MachineError, ModelError, SimulationError, UnsupportedError
from isa.machine import preset, preset_path
from models import build
from simulator import Simulator

DIMS = {"batch": 1, "sequence": 3, "past": (0, 20)}


def _tiny() -> onnx.ModelProto:
    return build("llama-tiny", weights=0)


def test_files_and_models_give_the_same_program(tmp_path: Path) -> None:
    """A model compiles the same from a file, from memory, and for a machine by name or as a value."""
    path = tmp_path / "model.onnx"
    onnx.save(_tiny(), path)
    from_file = compile_model(path, machine=preset("mtia-2i"), dims=DIMS)
    from_memory = compile_model(_tiny(), machine="mtia-2i", dims=DIMS)
    assert from_file.kernels == from_memory.kernels and from_file.storages == from_memory.storages
    assert from_file.entries == from_memory.entries


@pytest.mark.parametrize(("dtype", "quantize"), [("fp16", None), ("bf16", "int8")])
def test_two_steps_give_the_program_of_one(dtype: str, quantize: str | None) -> None:
    """A graph that was fused once compiles for several machines as the model itself does."""
    graph = fuse_model(_tiny(), DIMS, dtype)
    for machine in (preset("mtia-2i"), preset("mtia-2i").with_changes({"grid.rows": 2, "grid.columns": 4})):
        both = compile_graph(graph, machine, dtype, quantize=quantize)
        assert both == compile_model(_tiny(), machine, dtype, DIMS, quantize=quantize)


def test_one_program_serves_every_past() -> None:
    """An open cache length stays a symbol of the entry; addresses and trip counts that need it are expressions."""
    (entry,) = compile_model(_tiny(), dims=DIMS).entries
    assert dict(entry.symbols) == {"past": (0, 20)}
    expressions = {str(item.expression) for launch in entry.launches for item in launch.arguments}
    assert "past" in expressions


@pytest.mark.parametrize(("dtype", "message"), [("fp64", "dtype 'fp64' is not supported"), ("int8", "dtype 'int8'")])
def test_unknown_dtype(dtype: str, message: str) -> None:
    """Other element types are refused, with those there are."""
    with pytest.raises(UnsupportedError, match=message) as caught:
        compile_model(_tiny(), dtype=dtype, dims=DIMS)
    assert "choose one of fp16, bf16, fp32" in str(caught.value)


def test_unknown_machine() -> None:
    """A misspelt machine is an error of the machine, before anything is compiled."""
    with pytest.raises(MachineError):
        compile_model(_tiny(), machine="mtia-2j", dims=DIMS)


def test_programs_do_not_depend_on_hash_seeds() -> None:
    """Two processes with different hash seeds compile equal programs."""
    code = (
        "import hashlib; from compiler import compile_model; from models import build; "
        f"program = compile_model(build('llama-tiny', weights=0), dims={DIMS!r}); "
        "text = repr((program.entries, program.storages, [kernel.core_b.tobytes() for kernel in program.kernels])); "
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    root = Path(__file__).parents[2]
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1


@pytest.mark.parametrize("token", [-1, 512, 1 << 40])
def test_tokens_outside_the_vocabulary_are_refused(token: int) -> None:
    """An id that chooses no row of the table is an error of the input; it never reads what lies beside the table."""
    simulator = Simulator(compile_model(_tiny(), dims={"batch": 1, "sequence": 3, "past": 0}))
    cache = np.zeros((1, 2, 0, 16), np.float16)
    inputs = {f"past_key_values.{layer}.{part}": cache for layer in (0, 1) for part in ("key", "value")}
    with pytest.raises(SimulationError, match=rf"input 'input_ids' holds {token}, which is not in 0\.\.511"):
        simulator.run({**inputs, "input_ids": np.array([[0, 511, token]])})


def test_outputs_have_the_type_that_the_file_declares() -> None:
    """Logits declared as fp32 come back as fp32, also where the nodes of the file compute them in fp16."""
    model = _tiny()
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    (entry,) = compile_model(model, dims=DIMS).entries
    assert [port.host_dtype for port in entry.outputs] == ["float32", *["float16"] * 4]


@pytest.mark.parametrize("size", ["1", 1.5, None, (0,), (5, 2), (0, 2.5), -1, range(3)])
def test_what_is_no_size_is_refused(size: Any) -> None:
    """A dim of another type or an empty range is an error of that dim."""
    with pytest.raises(ModelError, match=r"--dim past: .* is no size or range of sizes"):
        compile_model(_tiny(), dims={"batch": 1, "sequence": 1, "past": size})


def test_sizes_may_be_whole_numbers_of_numpy() -> None:
    """Sizes that were computed with NumPy are sizes; a machine may be the path of its file."""
    dims = {"batch": np.int64(1), "sequence": np.int32(3), "past": [np.int64(0), np.int64(20)]}
    program = compile_model(_tiny(), machine=preset_path("mtia-2i"), dims=dims)  # type: ignore[arg-type]
    assert program.entries == compile_model(_tiny(), dims=DIMS).entries


@pytest.mark.parametrize("size", ["3", 3.5, (0, 3)])
def test_a_profile_takes_whole_numbers(size: Any) -> None:
    """A size that is no whole number is an error, not a time of something else."""
    simulator = Simulator(compile_model(_tiny(), dims=DIMS))
    with pytest.raises(SimulationError, match=r"past = .* is no whole number"):
        simulator.profile(past=size)
    assert simulator.profile(dims={"past": 3}).cycles == simulator.profile(past=np.int64(3)).cycles


@pytest.mark.filterwarnings("error")
def test_inputs_beyond_the_device_type_become_infinite_without_a_warning() -> None:
    """A cache element that fp16 cannot hold is an infinity on the device; NumPy's warning is not for the user."""
    simulator = Simulator(compile_model(build("llama-tiny", 0, "float32"), dims={**DIMS, "sequence": 1}))
    inputs = {
        f"past_key_values.{layer}.{part}": np.full((1, 2, 1, 16), 1e9, np.float32)
        for layer in (0, 1)
        for part in ("key", "value")
    }
    outputs = simulator.run({**inputs, "input_ids": np.array([[1]])}).outputs
    assert np.isinf(outputs["present.0.key"][:, :, 0]).all()
