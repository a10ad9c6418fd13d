"""Bad input, told once: every mistake ends in one clear error (a golden), the right exit code, and no half file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import compiler.cli
import simulator.cli
from compiler import compile_model
from compiler.kinds import GENERIC_KINDS, SUPPORTED_KINDS
from compiler.pipeline import BACK, FRONT
from isa.container import save_program
from isa.machine import preset
from models import build, list_models

COMPILE, SIMULATE = compiler.cli.main, simulator.cli.main
SMALL = ("llama-tiny", "--dim", "sequence=4")


class Unwelcome:
    """An object that would make a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder,)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models, machines, programs and inputs, most of them wrong."""
    folder = tmp_path_factory.mktemp("bad")
    _write_models(folder)
    _write_machines(folder)
    _write_programs(folder)
    _write_inputs(folder)
    return folder


def _write_models(folder: Path) -> None:
    whole = build("llama-tiny", weights=0).SerializeToString()
    (folder / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "text.onnx").write_text("this is text\n")
    (folder / "empty.onnx").write_bytes(b"")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    filters = helper.make_tensor_value_info("filters", TensorProto.FLOAT, [4, 3, 3, 3])
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, [1, 4, 6, 6])
    node = helper.make_node("Conv", ["image", "filters"], ["result"], name="first_convolution")
    graph = helper.make_graph([node], "picture", [image, filters], [result])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), folder / "convolution.onnx")


def _write_machines(folder: Path) -> None:
    text = preset("mtia-2i").to_toml()
    (folder / "misspelt.toml").write_text(text.replace("ecc_efficiency", "ecc_eficiency"))
    (folder / "broken.toml").write_text(text.replace("[grid]", "[grid"))
    changed = preset("mtia-2i").with_changes({"pe.local_memory_bytes": 524288})
    (folder / "other.toml").write_text(changed.to_toml())


def _write_programs(folder: Path) -> None:
    model = build("llama-tiny", weights=0)
    program = compile_model(model, dims={"batch": 1, "sequence": 4, "past": (0, 32)})
    save_program(program, folder / "good.program")
    timing_only = compile_model(build("llama-tiny"), dims={"batch": 1, "sequence": 4, "past": (0, 32)})
    save_program(timing_only, folder / "no_weights.program")
    whole = (folder / "good.program").read_bytes()
    (folder / "truncated.program").write_bytes(whole[:-100])
    (folder / "stub.program").write_bytes(whole[:10])
    (folder / "text.program").write_text("this is text, and there is more of it than the preamble of a program\n" * 2)
    header_bytes = int.from_bytes(whole[12:20], "little")
    for name, position in (("header", 200), ("code", 64 + -(-header_bytes // 64) * 64)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        (folder / f"{name}.program").write_bytes(bytes(damaged))


def _write_inputs(folder: Path) -> None:
    cache = np.zeros((1, 2, 8, 16), np.float16)
    good: dict[str, np.ndarray[Any, Any]] = {"input_ids": np.arange(4, dtype=np.int64).reshape(1, 4)}
    good |= {f"past_key_values.{layer}.{part}": cache for layer in range(2) for part in ("key", "value")}
    changes: Mapping[str, Mapping[str, Any]] = {
        "good": {},
        "missing": {"input_ids": None, "past_key_values.1.value": None},
        "unknown": {"input_idx": np.zeros(1)},
        "type": {"input_ids": np.zeros((1, 4), np.float32)},
        "shape": {"input_ids": np.zeros((1, 5), np.int64)},
        "rank": {"input_ids": np.zeros(4, np.int64)},
        "lengths": {"past_key_values.1.value": np.zeros((1, 2, 9, 16), np.float16)},
        "long": {name: np.zeros((1, 2, 33, 16), np.float16) for name in good if name != "input_ids"},
        "objects": {"input_ids": np.array([Unwelcome(folder / "unpickled")], dtype=object)},
    }
    for name, change in changes.items():
        arrays = {key: array for key, array in {**good, **change}.items() if array is not None}
        np.savez(folder / f"{name}.npz", **arrays)
    (folder / "text.npz").write_text("this is text\n")
    (folder / "file").write_text("in the way\n")


@dataclass(frozen=True)
class Case:
    """Arguments in which FOLDER stands for the folder of bad files, and what must come of them."""

    name: str
    main: Callable[[list[str]], int]
    arguments: tuple[str, ...]
    exit_code: int = 1


def _run_case(name: str, inputs: str, *more: str) -> Case:
    return Case(name, SIMULATE, ("FOLDER/good.program", "--inputs", f"FOLDER/{inputs}.npz", *more))


CASES = (
    Case("model_missing", COMPILE, ("FOLDER/absent.onnx",)),
    Case("model_is_a_folder", COMPILE, ("FOLDER",)),
    Case("model_truncated", COMPILE, ("FOLDER/truncated.onnx",)),
    Case("model_text", COMPILE, ("FOLDER/text.onnx",)),
    Case("model_empty", COMPILE, ("FOLDER/empty.onnx",)),
    Case("model_unknown_name", COMPILE, ("llama-3-8B", "--dim", "sequence=1")),
    Case("model_unsupported_op", COMPILE, ("FOLDER/convolution.onnx",)),
    Case("model_larger_than_dram", COMPILE, ("llama-3.1-405b", "--dim", "sequence=1", "-o", "FOLDER/out/x")),
    Case("dim_unbound", COMPILE, ("llama-tiny",)),
    Case("dim_misspelt", COMPILE, (*SMALL, "--dim", "sequense=4")),
    Case("dim_sequence_range", COMPILE, ("llama-tiny", "--dim", "sequence=1..4")),
    Case("machine_unknown", COMPILE, (*SMALL, "--machine", "mtia-2")),
    Case("machine_missing", COMPILE, (*SMALL, "--machine", "FOLDER/absent.toml")),
    Case("machine_misspelt_key", COMPILE, (*SMALL, "--machine", "FOLDER/misspelt.toml")),
    Case("machine_no_toml", COMPILE, (*SMALL, "--machine", "FOLDER/broken.toml")),
    Case("output_without_folder", COMPILE, (*SMALL, "-o", "FOLDER/absent/x.program")),
    Case("output_below_a_file", COMPILE, (*SMALL, "-o", "FOLDER/file/x.program")),
    Case("output_is_a_folder", COMPILE, (*SMALL, "--simulate", "--json", "FOLDER/out")),
    Case("usage_dim", COMPILE, ("llama-tiny", "--dim", "sequence=four"), 2),
    Case("usage_dim_empty_range", COMPILE, ("llama-tiny", "--dim", "past=9..3"), 2),
    Case("usage_dim_twice", COMPILE, (*SMALL, "--dim", "sequence=5"), 2),
    Case("usage_json_alone", COMPILE, (*SMALL, "--json", "FOLDER/out/x.json"), 2),
    Case("usage_unknown_pass", COMPILE, (*SMALL, "--print-after", "fuse_norm"), 2),
    Case("usage_stop_and_output", COMPILE, (*SMALL, "--stop-after", "map", "-o", "FOLDER/out/x"), 2),
    Case("program_missing", SIMULATE, ("FOLDER/absent.program",)),
    Case("program_truncated", SIMULATE, ("FOLDER/truncated.program",)),
    Case("program_stub", SIMULATE, ("FOLDER/stub.program",)),
    Case("program_text", SIMULATE, ("FOLDER/text.program",)),
    Case("program_damaged_header", SIMULATE, ("FOLDER/header.program",)),
    Case("program_damaged_code", SIMULATE, ("FOLDER/code.program",)),
    Case("program_for_another_machine", SIMULATE, ("FOLDER/good.program", "--machine", "FOLDER/other.toml")),
    Case("frequency_out_of_range", SIMULATE, ("FOLDER/good.program", "--frequency-mhz", "1400")),
    Case("profile_dim_unbound", SIMULATE, ("FOLDER/good.program",)),
    Case("profile_dim_misspelt", SIMULATE, ("FOLDER/good.program", "--dim", "pasd=3")),
    Case("profile_dim_out_of_range", SIMULATE, ("FOLDER/good.program", "--dim", "past=33")),
    Case("run_without_weights", SIMULATE, ("FOLDER/no_weights.program", "--inputs", "FOLDER/good.npz")),
    _run_case("inputs_absent", "absent"),
    _run_case("inputs_text", "text"),
    _run_case("inputs_objects", "objects"),
    _run_case("inputs_missing", "missing"),
    _run_case("inputs_unknown", "unknown"),
    _run_case("inputs_type", "type"),
    _run_case("inputs_shape", "shape"),
    _run_case("inputs_rank", "rank"),
    _run_case("inputs_lengths_differ", "lengths"),
    _run_case("inputs_too_long", "long"),
    _run_case("outputs_without_folder", "good", "--outputs", "FOLDER/absent/x.npz"),
    Case("usage_outputs_alone", SIMULATE, ("FOLDER/good.program", "--outputs", "FOLDER/out/x.npz"), 2),
    Case("usage_dim_and_inputs", SIMULATE,
         ("FOLDER/good.program", "--inputs", "FOLDER/good.npz", "--dim", "past=8"), 2),
    Case("usage_range_in_a_run", SIMULATE, ("FOLDER/good.program", "--dim", "past=0..8"), 2),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_ends_in_one_clear_error(case: Case, folder: Path, capsys, golden) -> None:
    """The message is the golden one, nothing is on stdout, and no file is left behind."""
    (folder / "out").mkdir(exist_ok=True)
    before = sorted(path.name for path in folder.iterdir())
    code = case.main([argument.replace("FOLDER", str(folder)) for argument in case.arguments])
    captured = capsys.readouterr()
    assert code == case.exit_code
    assert captured.out == ""
    assert "Traceback" not in captured.err
    # Lines before the error tell of progress, which depends on how busy the computer is.
    kinds = ("error: ", "usage error: ")
    lines = _lasting(captured.err.replace(str(folder), "FOLDER")).splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if line.startswith(kinds))
    assert sum(line.startswith(kinds) for line in lines) == 1
    golden(f"errors/{case.name}.txt", "".join(lines[first:]))
    assert sorted(path.name for path in folder.iterdir()) == before
    assert list((folder / "out").iterdir()) == []


def _lasting(text: str) -> str:
    """Return the text without what grows with the project: lists of models, passes and operations, sizes of files."""
    kinds = [kind for kind in SUPPORTED_KINDS if kind not in GENERIC_KINDS]
    lists = {"MODELS": list_models(), "PASSES": [item.name for item in (*FRONT, *BACK)], "KINDS": kinds}
    for word, names in lists.items():
        text = text.replace(", ".join(names), word)
    return re.sub(r"\d+ bytes instead of \d+", "M bytes instead of N", text)


def test_every_golden_error_has_its_case() -> None:
    """No golden file outlives its case."""
    names = {path.stem for path in (Path(__file__).parent / "golden" / "errors").iterdir()}
    assert names == {case.name for case in CASES}
