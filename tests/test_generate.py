"""The text of examples/generate.py: its greedy tokens are ONNX Runtime's, bad options one sentence."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest

from models import read_checkpoint
from models.tokenizer import read_tokenizer

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDER = EXAMPLES / "tiny_llama"
PROMPT, COUNT = "She had never been so happy", 32
SIZE_LIMIT_BYTES = 2_000_000


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """Return the example as a module."""
    specification = importlib.util.spec_from_file_location("generate", EXAMPLES / "generate.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["generate"] = module
    specification.loader.exec_module(module)
    return module


def _tokens_of_onnx_runtime(prompt: list[int]) -> list[int]:
    checkpoint = read_checkpoint(FOLDER)
    model = checkpoint.model("float32")
    onnx.load_external_data_for_model(model, str(checkpoint.base))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    shape = (1, checkpoint.config.kv_heads, 0, checkpoint.config.head_dim)
    feeds = {name: np.zeros(shape, np.float32) for name in names if name != "input_ids"}
    ids, tokens = np.array([prompt]), []
    for _ in range(COUNT):
        outputs = dict(
            zip(
                (value.name for value in session.get_outputs()),
                session.run(None, {"input_ids": ids, **feeds}),
                strict=True,
            )
        )
        tokens.append(int(outputs.pop("logits")[0, -1].argmax()))
        feeds = {name.replace("present", "past_key_values"): array for name, array in outputs.items()}
        ids = np.array([tokens[-1:]])
    return tokens


def test_greedy_tokens_are_those_of_onnx_runtime(generate: ModuleType) -> None:
    """In fp32, prefill and every decode step of one program."""
    prompt = read_tokenizer(FOLDER / "tokenizer.json").encode(PROMPT)
    generator = generate.Generator(FOLDER, "mtia-2i", "fp32", len(prompt), COUNT)
    steps = list(generator.tokens(prompt, COUNT, 0.0, 0))
    assert [step.token for step in steps] == _tokens_of_onnx_runtime(prompt)
    assert all(step.report.energy_joules > 0 for step in steps)


def test_the_command_prints_text_and_cost(generate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Samples are those of the seed; the text begins with the prompt."""
    arguments = ["--prompt", PROMPT, "--tokens", "8", "--temperature", "0.7", "--seed", "3"]
    texts = []
    for _ in range(2):
        generate.main(arguments)
        texts.append(capsys.readouterr().out.split("\n\n")[0])
    assert texts[0] == texts[1]
    assert texts[0].startswith(PROMPT) and len(texts[0]) > len(PROMPT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "日"], "no token for '日'"),
        (["--tokens", "0"], "--tokens is 0"),
        (["--tokens", "257"], "--tokens is 257"),
        (["--temperature", "-1"], "from 0 on"),
        (["--machine", "mtia-3i"], "did you mean"),
    ],
)
def test_wrong_options_are_one_sentence(generate: ModuleType, arguments: list[str], message: str) -> None:
    """No traceback, nothing printed as text."""
    with pytest.raises(SystemExit, match=message):
        generate.main(arguments)


def test_the_shipped_model_is_small_and_whole() -> None:
    """Below 2 MB with its tokenizer, which reads back what it writes."""
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < SIZE_LIMIT_BYTES
    tokenizer = read_tokenizer(FOLDER / "tokenizer.json")
    assert len(tokenizer.tokens) == read_checkpoint(FOLDER).config.vocabulary
    text = "It is a truth universally acknowledged, that a single man\nmust be in want of a wife."
    assert tokenizer.decode(tokenizer.encode(text)) == text
