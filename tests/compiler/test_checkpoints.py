"""Checkpoint directories: logits against a Llama in float64 and ONNX Runtime, weights left in place, sizes of 8B."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from compiler import compile_model
from models import read_checkpoint
from simulator import Simulator
from tests.checkpoints import DTYPES, SMALL, llama_logits, weights_of, write_checkpoint
from tests.compiler.graphs import small_machine

LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 64}  # fmt: skip
CASES: dict[str, tuple[dict[str, Any], str, int]] = {
    "plain": (SMALL, "F16", 1),
    "llama-3.2": (SMALL | {"tie_word_embeddings": True, "rope_theta": 5e5, "head_dim": 32, "rope_scaling": LLAMA_3},
                  "BF16", 1),
    "newer spelling": (SMALL | {"rope_parameters": LLAMA_3 | {"rope_theta": 5e5}}, "F32", 3),
    "linear": (SMALL | {"rope_scaling": {"type": "linear", "factor": 4.0}, "attention_bias": True, "mlp_bias": True},
               "F32", 2),
    "qwen2": (SMALL | {"architectures": ["Qwen2ForCausalLM"], "rope_theta": 1e6, "sliding_window": 32,
                       "use_sliding_window": False}, "F16", 1),
    "mistral": (SMALL | {"architectures": ["MistralForCausalLM"], "sliding_window": 4096}, "F16", 5),
}  # fmt: skip
IDS = np.random.default_rng(7).integers(0, SMALL["vocab_size"], (2, 37))


def _written(folder: Path, case: str) -> tuple[Path, np.ndarray]:
    """Write a case and return its folder and exact logits, of the weights as they are stored."""
    config, dtype, shards = CASES[case]
    weights = weights_of(config)
    stored = {name: array.astype(DTYPES[dtype]).astype(np.float64) for name, array in weights.items()}
    return write_checkpoint(folder, config, weights, dtype, shards), llama_logits(config, stored, IDS)


def _empty_caches(config: dict[str, Any], dtype: Any) -> dict[str, np.ndarray]:
    width = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    empty = np.zeros((len(IDS), config["num_key_value_heads"], 0, width), dtype)
    layers = range(config["num_hidden_layers"])
    return {f"past_key_values.{layer}.{part}": empty for layer in layers for part in ("key", "value")}


@pytest.mark.parametrize("case", CASES)
def test_the_graph_of_a_checkpoint_agrees_in_onnx_runtime(tmp_path: Path, case: str) -> None:
    """Every architecture, rotary scaling, element type and count of files gives a valid graph with its weights."""
    folder, exact = _written(tmp_path, case)
    checkpoint = read_checkpoint(folder)
    model = checkpoint.model("float32")
    onnx.load_external_data_for_model(model, str(checkpoint.base))
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input_ids": IDS, **_empty_caches(CASES[case][0], np.float32)})
    np.testing.assert_allclose(logits, exact, atol=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_compiles_and_gives_its_logits(tmp_path: Path, case: str) -> None:
    """In fp16 the chip's logits are those of the float64 model within fp16's noise, prefill and decode."""
    folder, exact = _written(tmp_path, case)
    machine = small_machine("mtia-2i")
    prefill = compile_model(folder, machine, dims={"batch": 2, "sequence": 36, "past": 0})
    outputs = Simulator(prefill).run({"input_ids": IDS[:, :36], **_empty_caches(CASES[case][0], np.float16)}).outputs
    np.testing.assert_allclose(outputs["logits"].astype(np.float64), exact[:, :36], atol=2e-2)
    decode = compile_model(folder, machine, dims={"batch": 2, "sequence": 1, "past": (0, 64)})
    cache = {name.replace("present", "past_key_values"): array for name, array in outputs.items() if name != "logits"}
    outputs = Simulator(decode).run({"input_ids": IDS[:, 36:], **cache}).outputs
    np.testing.assert_allclose(outputs["logits"].astype(np.float64), exact[:, 36:], atol=2e-2)


def test_files_may_be_links_to_a_store(tmp_path: Path) -> None:
    """As in the cache of huggingface_hub: names in snapshots, bytes in blobs; the program is the same."""
    folder, _ = _written(tmp_path / "plain", "newer spelling")
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "main", tmp_path / "cache" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        (blobs / f"blob{number}").write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / f"blob{number}")
    dims = {"batch": 2, "sequence": 37, "past": 0}
    inputs = {"input_ids": IDS, **_empty_caches(SMALL, np.float16)}
    logits = [Simulator(compile_model(path, small_machine("mtia-2i"), dims=dims)).run(inputs).outputs["logits"]
              for path in (folder, snapshot)]  # fmt: skip
    np.testing.assert_array_equal(*logits)


def test_a_stored_head_is_used_even_if_the_configuration_ties_it(tmp_path: Path) -> None:
    """As transformers does if both are in the files and differ."""
    config = SMALL | {"tie_word_embeddings": True}
    folder = write_checkpoint(tmp_path, config, weights_of(SMALL))
    names = {tensor.name for tensor in read_checkpoint(folder).model().graph.initializer}
    assert "lm_head.weight" in names


_MEASURED = """
import resource, sys
from compiler import compile_model
program = compile_model(sys.argv[1], dims={"batch": 1, "sequence": 1, "past": (0, 4096)})
print(sum(storage.bytes for storage in program.storages), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_checkpoint_of_8b_compiles_without_reading_weights(tmp_path: Path) -> None:
    """Sparse files of 16 GB: the compiler's peak memory stays below 1 GB."""
    config = SMALL | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256,
                      "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192}  # fmt: skip
    layer = {f"model.layers.0.{name}": shape for name, shape in {
        "self_attn.q_proj.weight": [4096, 4096], "self_attn.k_proj.weight": [1024, 4096],
        "self_attn.v_proj.weight": [1024, 4096], "self_attn.o_proj.weight": [4096, 4096],
        "mlp.gate_proj.weight": [14336, 4096], "mlp.up_proj.weight": [14336, 4096],
        "mlp.down_proj.weight": [4096, 14336], "input_layernorm.weight": [4096],
        "post_attention_layernorm.weight": [4096]}.items()}  # fmt: skip
    shapes = {"model.embed_tokens.weight": [128256, 4096], "lm_head.weight": [128256, 4096]}
    shapes |= {"model.norm.weight": [4096]}
    shapes |= {name.replace(".0.", f".{number}."): shape for number in range(32) for name, shape in layer.items()}
    end, header = 0, {}
    for name, shape in shapes.items():
        place = [end, end := end + 2 * int(np.prod(shape))]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": place}
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (tmp_path / "config.json").write_text(json.dumps(config))
    # Linux counts the forking process's peak as the child's: a shell between keeps this one's out.
    command = ["sh", "-c", '"$@" && true', "sh", sys.executable, "-c", _MEASURED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    stored_bytes, peak = map(int, done.stdout.split())
    assert stored_bytes > end > 16e9
    assert peak * (1 if sys.platform == "darwin" else 1024) < 1e9
