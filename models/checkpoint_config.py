"""`config.json` of a checkpoint directory -> the sizes of the Llama graph, or what about it is no Llama.

Keys and defaults are those of transformers 5 (`LlamaConfig`, `MistralConfig`, `Qwen2Config`), and of its older
spelling with `rope_theta` and `rope_scaling` beside each other. Keys that do not change inference are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoint_error import CheckpointError
from models.llama_config import LlamaConfig, RopeScaling

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class _Table:
    """A JSON object with typed look-ups; the default of a key that must be there is None."""

    values: Mapping[str, Any]
    where: str

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._present(key, default)
        if type(value) is not int:
            raise self.wrong(key, "a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._present(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise self.wrong(key, "a finite number")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self._present(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def _present(self, key: str, default: object) -> object:
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise CheckpointError(f"there is no '{key}'", where=self.where, help="take the model's whole config.json")
        return value

    def wrong(self, key: str, kind: str) -> CheckpointError:
        what = f"'{key}' is {self.values[key]!r}, which is not {kind}"
        return CheckpointError(what, where=self.where, help="take the model's own config.json")


def read_config(folder: Path) -> LlamaConfig:
    """Read the configuration of a checkpoint directory; CheckpointError if it is damaged or describes no Llama."""
    path = folder / _FILE
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        files = sorted(file.name for file in folder.glob("*.onnx"))
        help = (
            f"give the path of a file: {', '.join(files)}" if files else "a checkpoint has config.json and safetensors"
        )
        raise CheckpointError("the directory has no config.json", where=str(folder), help=help) from None
    except OSError as error:
        help = "check the file, or the target of the link"
        raise CheckpointError(f"cannot be read: {error.strerror}", where=str(path), help=help) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"no JSON: {error}", where=str(path), help="copy or download the file again") from None
    if not isinstance(values, dict):
        raise CheckpointError("no JSON object", where=str(path), help="take the model's own config.json")
    table = _Table(values, str(path))
    architecture = _architecture(table)
    _check_plain(table, architecture)
    try:
        return _config(folder.resolve().name, table, architecture)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(str(error), where=str(path), help="take the model's own config.json") from None


def _config(name: str, table: _Table, architecture: str) -> LlamaConfig:
    heads, hidden = table.integer("num_attention_heads"), table.integer("hidden_size")
    rope = _rope(table)
    biased = table.flag("attention_bias") if architecture == "LlamaForCausalLM" else False
    return LlamaConfig(
        name=name,
        hidden=hidden,
        layers=table.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=table.integer("num_key_value_heads", heads),
        head_dim=table.integer("head_dim", hidden // max(heads, 1)),
        feed_forward=table.integer("intermediate_size"),
        vocabulary=table.integer("vocab_size"),
        context=table.integer("max_position_embeddings"),
        rope_theta=rope.number("rope_theta", table.number("rope_theta", 1e4)),
        rope_scaling=_rope_scaling(rope, table),
        norm_epsilon=table.number("rms_norm_eps", 1e-6),
        tied_embeddings=table.flag("tie_word_embeddings"),
        query_key_value_bias=biased or architecture == "Qwen2ForCausalLM",
        output_bias=biased,
        feed_forward_bias=table.flag("mlp_bias") if architecture == "LlamaForCausalLM" else False,
    )


def _architecture(table: _Table) -> str:
    found = table.values.get("architectures")
    if not isinstance(found, list) or len(found) != 1 or found[0] not in ARCHITECTURES:
        what = f"architectures {found!r}, which is no Llama that this reads"
        help = f"known: {', '.join(ARCHITECTURES)}; export others to ONNX and give that file"
        raise CheckpointError(what, where=table.where, help=help)
    return str(found[0])


def _check_plain(table: _Table, architecture: str) -> None:
    """Refuse what would change the graph: quantized weights, other activations, windows."""
    if table.values.get("quantization_config"):
        help = "take the checkpoint before its quantization, or export the model to ONNX"
        raise CheckpointError("the weights are quantized ('quantization_config')", where=table.where, help=help)
    activation = table.values.get("hidden_act", "silu")
    if activation != "silu":
        help = "only silu is the feed-forward of a Llama; export the model to ONNX"
        raise CheckpointError(f"'hidden_act' is {activation!r}", where=table.where, help=help)
    window = _window(table, architecture)
    context = table.integer("max_position_embeddings")
    if window is not None and window < context:
        help = (
            f'for at most {window} tokens in all the model is the same with "sliding_window": null and '
            f'"max_position_embeddings": {window} in a copy of config.json'
        )
        what = f"attention in a sliding window of {window} tokens, shorter than the context of {context}"
        raise CheckpointError(what, where=table.where, help=help)


def _window(table: _Table, architecture: str) -> int | None:
    """Return the length of the sliding window, None if every token sees all before it."""
    layer_types = table.values.get("layer_types")
    sliding = isinstance(layer_types, list) and "sliding_attention" in layer_types
    if architecture == "MistralForCausalLM":
        if "sliding_window" in table.values and table.values["sliding_window"] is None:
            return None
        return table.integer("sliding_window", 4096)  # the default of transformers where the key is missing
    if sliding or (architecture == "Qwen2ForCausalLM" and table.flag("use_sliding_window")):
        return table.integer("sliding_window", 4096)
    return None


def _rope(table: _Table) -> _Table:
    """Return the rotary parameters: `rope_scaling` of older files, `rope_parameters` of newer ones, or none."""
    rope = table.values.get("rope_scaling") or table.values.get("rope_parameters") or {}
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        what = f"rotary parameters that differ between layers or are no table: {rope!r}"
        raise CheckpointError(what, where=table.where, help="export the model to ONNX")
    factor = _Table(rope, table.where).number("partial_rotary_factor", table.number("partial_rotary_factor", 1.0))
    if factor != 1.0:
        what = f"only a part of each head is rotated ('partial_rotary_factor' is {factor})"
        raise CheckpointError(what, where=table.where, help="export the model to ONNX")
    return _Table(rope, table.where)


def _rope_scaling(rope: _Table, table: _Table) -> RopeScaling | None:
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(rope.number("factor"), kind="linear")
    if kind == "llama3":
        context = table.integer("original_max_position_embeddings", table.integer("max_position_embeddings"))
        return RopeScaling(
            rope.number("factor"),
            rope.number("low_freq_factor"),
            rope.number("high_freq_factor"),
            rope.integer("original_max_position_embeddings", context),
        )
    what = f"rotary scaling of type {kind!r}"
    raise CheckpointError(
        what, where=table.where, help="known types: default, linear, llama3; export the model to ONNX"
    )
