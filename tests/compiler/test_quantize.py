"""`--quantize` on a real export: how far the logits move, how many bytes are left, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import compiler.cli
from benchmarks.onnx_cases import dims_of, runs_of
from compiler import compile_model
from compiler.quantize import Quantization, quantization
from isa.errors import ModelError, UnsupportedError
from isa.machine import preset
from isa.program import Program
from models import build
from simulator import Simulator
from tests.compiler.graphs import small_machine

FOLDER = Path(__file__).resolve().parents[1] / "data" / "onnx"


@pytest.mark.parametrize(
    ("scheme", "group_size", "mean"),
    [("int8", None, 0.03), ("fp8", None, 0.1), ("int4", None, 0.28), ("int4", 128, 0.3)],
)
def test_logits_stay_near_those_of_the_float_model(scheme: str, group_size: int | None, mean: float) -> None:
    """Logits have a standard deviation of 1.24; the weights are random, which no 4-bit type represents well."""
    run = next(runs_of(FOLDER, "hf_legacy_past"))
    step = run.steps[0]
    machine = small_machine("mtia-300" if scheme == "fp8" else "mtia-2i")
    program = compile_model(
        step.graph, machine=machine, dims=dict(dims_of(run, 0)), quantize=scheme, group_size=group_size
    )
    logits = Simulator(program).run(step.inputs).outputs[step.output].astype(np.float32)
    assert 0.5 * mean < np.abs(logits - step.expected).mean() < mean


def constant_bytes(program: Program) -> int:
    return sum(storage.bytes for storage in program.storages if storage.role == "constant")


def test_weights_that_are_absent_are_quantized_too() -> None:
    """Timing needs no weights; an 8B model has the bytes of its scheme, the table of embeddings included."""
    model = build("llama-3-8b", weights="absent", dtype="float16")
    dims = {"batch": 1, "sequence": 1, "past": 0}
    weights, table, whole = 7.5e9, 128256 * 4096 * 2, constant_bytes(compile_model(model, dims=dims))
    machine = preset("mtia-2i").with_changes({"matrix.rate_by_dtype.fp8": 1.0})
    for scheme, group_size, bits in (("int8", None, 8), ("fp8", None, 8), ("int4", 32, 4.5), ("int4", 128, 4.125)):
        program = compile_model(model, machine, dims=dims, quantize=scheme, group_size=group_size)
        assert constant_bytes(program) == pytest.approx(weights * bits / 8 + table, rel=0.01)
        assert constant_bytes(program) < 0.54 * whole


def test_words_become_a_choice() -> None:
    assert quantization(None) is None
    assert quantization("int8") == Quantization("int8")
    assert quantization("fp8") == Quantization("fp8")
    assert quantization("int4") == Quantization("int4", 32)
    assert quantization("int4", 128) == Quantization("int4", 128)


@pytest.mark.parametrize(
    ("scheme", "group_size", "message"),
    [
        (None, 32, "a group size without int4 weights"),
        ("int8", 32, "a group size for int8 weights"),
        ("fp8", 32, "a group size for fp8 weights"),
        ("int4", 24, "24 is no size of groups"),
        ("int4", 0, "0 is no size of groups"),
        ("int3", None, "no scheme 'int3'"),
    ],
)
def test_impossible_choices_are_refused(scheme: str | None, group_size: int | None, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        quantization(scheme, group_size)
    assert caught.value.help


def test_a_machine_without_int8_says_so() -> None:
    """What its matrix engine has instead, and what to do; weights alone can still be integers."""
    model = build("llama-tiny", weights="absent", dtype="float16")
    with pytest.raises(UnsupportedError) as caught:
        compile_model(model, "mtia-300", dims={"batch": 1, "sequence": 1, "past": 0}, quantize="int8")
    what, help = str(caught.value).splitlines()
    assert what == "--quantize int8: the matrix engine of mtia-300 multiplies fp8, fp16, bf16, not int8"
    assert "use --quantize fp8," in help and "--quantize int4" in help and "matrix.rate_by_dtype.int8" in help
    compile_model(model, "mtia-300", dims={"batch": 1, "sequence": 1, "past": 0}, quantize="int4")


def test_a_machine_without_fp8_says_so() -> None:
    """It is sent to int8 where there is that, else to the model as it is."""
    model, dims = build("llama-tiny", weights="absent", dtype="float16"), {"batch": 1, "sequence": 1, "past": 0}
    for changes, what, help in (
        ({}, "int8, fp16, bf16, not fp8", "use --quantize int8, "),
        ({"matrix.rate_by_dtype.int8": 0.0}, "fp16, bf16, not fp8", "leave it out, "),
    ):
        with pytest.raises(UnsupportedError) as caught:
            compile_model(model, preset("mtia-2i").with_changes(changes), dims=dims, quantize="fp8")
        first, second = str(caught.value).splitlines()
        assert first == f"--quantize fp8: the matrix engine of mtia-2i multiplies {what}"
        assert help in second and "--quantize int4" in second and "matrix.rate_by_dtype.fp8" in second


def test_a_file_with_integer_products_names_the_operation() -> None:
    """Nobody asked for int8 there, so the advice is about the file."""
    machine = small_machine(**{"matrix.rate_by_dtype.int8": 0.0})
    with pytest.raises(UnsupportedError, match="not int8\n  help: export with the weights alone quantized") as caught:
        compile_model(FOLDER / "hf_legacy_past_int8dyn" / "model.onnx", machine, dims={"batch": 1, "seq": 1, "past": 0})
    assert "MatMul" in caught.value.where


def test_the_command_line_quantizes(capsys: pytest.CaptureFixture[str]) -> None:
    """The fused linears have a format, and x is rounded once for all that read it."""
    arguments = ["llama-tiny", "--dim", "sequence=1", "--quantize", "int8", "--print-after", "quantize_weights"]
    assert compiler.cli.main([*arguments, "--stop-after", "quantize_weights"]) == 0
    text = capsys.readouterr().out
    assert text.count("= linear(") == text.count("WeightFormat(bits=8, block=None, is_computed=True, is_float=False)")
    assert 0 < text.count("= quantize(") < text.count("= linear(")
