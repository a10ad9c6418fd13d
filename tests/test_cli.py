"""The two command lines when all goes well, and what they share: exit codes, progress, files that appear whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import compiler.cli
import compiler.pipeline
import isa.progress
import simulator.cli
from compiler import compile_model
from isa.container import save_program
from isa.errors import ToolError
from isa.machine import preset
from isa.whole_file import replacing, write_text
from models import build
from simulator import Simulator

ROOT = Path(__file__).resolve().parents[1]
TINY = ["llama-tiny", "--dim", "sequence=4"]
JSON_KEYS = {"machine", "latency_seconds", "cycles", "energy_joules", "average_power_watts", "utilization",
             "dram_bytes", "sram_bytes", "macs", "commands", "ops"}  # fmt: skip
UNITS = {"dpe", "se", "mlu", "fi", "local_memory", "sram", "noc", "dram"}


def _subprocess(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, text=True, check=False, **options)


def test_compile_then_simulate_gives_the_report_of_both_at_once(tmp_path, capsys):
    """-o and simulate-program end in the same JSON as --simulate; JSON has the promised keys."""
    program, one, two = (str(tmp_path / name) for name in ("x.program", "one.json", "two.json"))
    arguments = [*TINY, "--dim", "past=0..32", "-o", program, "--simulate", "--json", one]
    assert compiler.cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert "dim past is open: timed at 32, the end of its range" in captured.err
    assert f"wrote {program}: {os.stat(program).st_size:,} bytes" in captured.err
    assert simulator.cli.main([program, "--dim", "past=32", "--json", two]) == 0
    assert capsys.readouterr().out == captured.out
    values = json.loads(Path(one).read_text())
    assert values == json.loads(Path(two).read_text())
    assert values.keys() >= JSON_KEYS
    assert values["utilization"].keys() >= UNITS
    assert values["dims"] == {"past": 32}
    launches = Simulator(program).entry().launches
    assert len(values["launches"]) == len(launches)
    assert [op["operation"] for op in values["ops"]] == [part.operation for launch in launches for part in launch.parts]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "two.json", "x.program"]


@pytest.mark.parametrize(("dtype", "host"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_a_run_from_files_gives_the_outputs_of_the_library(tmp_path, capsys, dtype, host):
    """Outputs can be fed back as inputs, in bfloat16 too, which NumPy's files do not know."""
    model = build("llama-tiny", weights=0, dtype="float16" if dtype == "fp16" else "bfloat16")
    program = compile_model(model, dtype=dtype, dims={"batch": 1, "sequence": 2, "past": (0, 8)})
    save_program(program, tmp_path / "x.program")
    arrays = {"input_ids": np.array([[3, 5]])}
    arrays |= {port.name: np.zeros((1, 2, 0, 16), host) for port in program.entries[0].inputs[1:]}
    for step in range(2):
        files = [str(tmp_path / f"{name}{step}.npz") for name in ("in", "out")]
        simulator.cli.write_arrays(files[0], arrays)
        assert simulator.cli.main([str(tmp_path / "x.program"), "--inputs", files[0], "--outputs", files[1]]) == 0
        assert f"past = {2 * step}" in capsys.readouterr().out
        expected = Simulator(program).run(arrays).outputs
        written = dict(np.load(files[1], allow_pickle=False))
        assert written.keys() == expected.keys()
        for name, array in expected.items():
            assert array.dtype == host
            assert written[name].tobytes() == array.tobytes()
        caches = {name.replace("present", "past_key_values"): expected[name] for name in expected if name != "logits"}
        arrays = {"input_ids": np.array([[7, 9]]), **caches}


def test_outputs_are_named_if_nobody_keeps_them(tmp_path, capsys):
    """Without --outputs, stderr says what was computed."""
    program = compile_model(build("llama-tiny", weights=0), dims={"batch": 1, "sequence": 1, "past": 0})
    save_program(program, tmp_path / "x.program")
    empty = {port.name: np.zeros((1, 2, 0, 16), np.float16) for port in program.entries[0].inputs[1:]}
    np.savez(tmp_path / "in.npz", input_ids=np.array([[1]]), **empty)
    assert simulator.cli.main([str(tmp_path / "x.program"), "--inputs", str(tmp_path / "in.npz")]) == 0
    assert "outputs: logits[1, 1, 512] float16" in capsys.readouterr().err


def test_weights_and_dims_of_an_onnx_file(tmp_path, capsys):
    """A file has no default dims; nothing asked for means nothing written, and a word about it."""
    (tmp_path / "model.onnx").write_bytes(build("llama-tiny", weights=0).SerializeToString())
    dims = [option for dim in ("batch=1", "sequence=4", "past=0..8") for option in ("--dim", dim)]
    assert compiler.cli.main([str(tmp_path / "model.onnx"), *dims]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "nothing was written" in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("level", "first"),
    [("graph", "graph llama-tiny("), ("mapped", "mapped llama-tiny on mtia-2i, fp16"), ("asm", ".kernel "),
     ("program", "program for mtia-2i")],
)  # fmt: skip
def test_emit_prints_a_level(capsys, level, first):
    """Each level to stdout, the same text each time."""
    texts = []
    for _ in range(2):
        assert compiler.cli.main([*TINY, "--emit", level]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith(first)
    assert texts[0] == texts[1]


def test_a_graph_can_be_emitted_of_a_model_that_does_not_fit(capsys):
    """--emit ends where nothing later is needed."""
    assert compiler.cli.main(["llama-3.1-405b", "--dim", "sequence=1", "--emit", "graph"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("graph llama-3.1-405b(")
    assert captured.err == "" or "compiling" in captured.err


def test_print_after_and_stop_after(capsys):
    """Passes are printed in their order; the last one is not printed twice."""
    assert compiler.cli.main([*TINY, "--print-after", "map", "--print-after", "legalize", "--stop-after", "map"]) == 0
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("#")]
    assert titles == ["# after legalize", "# after map"]


def test_ignored_capacity_marks_the_report(tmp_path, capsys):
    """A model larger than DRAM is refused, or timed with a note on the report."""
    small = preset("mtia-2i").with_changes({"dram.bytes": 262144})
    (tmp_path / "small.toml").write_text(small.to_toml())
    arguments = [*TINY, "--machine", str(tmp_path / "small.toml"), "--simulate"]
    assert compiler.cli.main(arguments) == 1
    assert "DRAM" in capsys.readouterr().err
    assert compiler.cli.main([*arguments, "--ignore-capacity"]) == 0
    assert "note                capacity was ignored" in capsys.readouterr().out


def test_another_machine_of_equal_code_changes_only_time(tmp_path, capsys):
    """simulate-program --machine takes a machine with other rates."""
    program, reports = str(tmp_path / "x.program"), []
    assert compiler.cli.main([*TINY, "-o", program]) == 0
    slow = preset("mtia-2i").with_changes({"frequency_mhz": 675.0, "name": "half"})
    (tmp_path / "half.toml").write_text(slow.to_toml())
    for machine in ([], ["--machine", str(tmp_path / "half.toml")]):
        assert simulator.cli.main([program, *machine, "--json", str(tmp_path / "x.json")]) == 0
        reports.append(json.loads((tmp_path / "x.json").read_text()))
    capsys.readouterr()
    assert [report["machine"] for report in reports] == ["mtia-2i", "half"]
    assert reports[0]["commands"] == reports[1]["commands"]
    assert reports[0]["latency_seconds"] != reports[1]["latency_seconds"]


def test_frequency_takes_the_voltage_along(tmp_path, capsys):
    """simulate-program --frequency-mhz is the machine at that clock, which needs less energy for each product."""
    program, file = str(tmp_path / "x.program"), tmp_path / "x.json"
    assert compiler.cli.main([*TINY, "-o", program]) == 0
    assert simulator.cli.main([program, "--frequency-mhz", "1175", "--json", str(file)]) == 0
    capsys.readouterr()
    expected = Simulator(program, preset("mtia-2i").at_frequency(1175)).profile()
    assert json.loads(file.read_text()) == json.loads(expected.to_json())
    assert expected.energy_parts_joules["matrix"] < Simulator(program).profile().energy_parts_joules["matrix"]


def test_lists(capsys):
    """Known models and machines, one a line, without a model on the command line."""
    assert compiler.cli.main(["--list-models"]) == 0
    assert "llama-3-8b" in capsys.readouterr().out.splitlines()
    assert compiler.cli.main(["--list-machines"]) == 0
    assert "mtia-2i       8 x 8 PEs at 1350 MHz, 137.4 GB of DRAM\n" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["compiler.cli", "simulator.cli"])
def test_help_imports_nothing_heavy(module):
    """--help of the real entry points is quick, because it loads nothing that is slow to load."""
    code = (
        f"import sys; import {module}; code = {module}.main(['--help']);"
        "print(sorted({'numpy', 'onnx', 'numba', 'pydantic', 'rich', 'networkx'} & set(sys.modules)), code)"
    )
    done = _subprocess("-c", code, capture_output=True)
    assert done.stdout.splitlines()[0].startswith("Usage: ")
    assert done.stdout.splitlines()[-1] == "[] 0"


@pytest.mark.parametrize("module", ["compiler.cli", "simulator.cli"])
def test_the_entry_points_exit_with_the_code(module, tmp_path):
    """python -m: refused input is 1, wrong use is 2, both without a traceback."""
    refused = _subprocess("-m", module, str(tmp_path / "absent.onnx"), capture_output=True)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: ")
    wrong = _subprocess("-m", module, "--no-such-option", capture_output=True)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("usage error: ")


def test_a_reader_that_goes_away_is_no_error():
    """`compile-model ... | head` ends like other tools do, without a traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    done = _subprocess("-m", "compiler.cli", *TINY, "--emit", "asm", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_full_disk_behind_stdout_is_an_error_and_no_bug():
    """Output that cannot be written ends in one line and exit code 1, without a traceback."""
    with open("/dev/full", "w") as full:
        done = _subprocess("-m", "compiler.cli", *TINY, "--emit", "asm", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: the output cannot be written: No space left on device"
    assert "Traceback" not in done.stderr


def test_a_closed_stdout_is_no_failure(monkeypatch):
    """Python has no stdout if the shell closed it; the work is done all the same."""
    monkeypatch.setattr(sys, "stdout", None)
    assert compiler.cli.main([*TINY, "--emit", "asm"]) == 0


@pytest.mark.parametrize(
    ("failure", "code", "last_line"),
    [
        (KeyboardInterrupt(), 130, "interrupted: nothing was left half-written"),
        (ValueError("surprise"), 70, "  help: this is a bug of ours: please report it with the command line and the "
                                     "lines above"),
        (ToolError("too odd", where="here"), 1, "error: here: too odd"),
    ],
    ids=["interrupt", "bug", "refusal"],
)  # fmt: skip
def test_exit_codes(monkeypatch, capsys, failure, code, last_line):
    """An interrupt is 130, our bug is 70 and shows the traceback, refused input is 1 and shows none."""

    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(compiler.pipeline, "run_passes", fail)
    assert compiler.cli.main(TINY) == code
    told = capsys.readouterr().err
    assert told.splitlines()[-1] == last_line
    assert ("Traceback" in told) == (code == 70)


def test_progress_is_silent_for_quick_work_and_talks_during_long_work(monkeypatch, capsys):
    """A line on stderr after the quiet time, with counts as soon as there are some."""
    with isa.progress.Progress("working") as progress:
        progress.step(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(isa.progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(isa.progress, "LINE_SECONDS", 0.01)
    told = ""
    with isa.progress.Progress("working", "waking up") as progress:
        for done in range(3):
            wanted = f"working: {done} of 2 ...\n" if done else "waking up ...\n"
            progress.step(done, 2 if done else 0)
            deadline = time.monotonic() + 10
            while wanted not in told and time.monotonic() < deadline:
                told += capsys.readouterr().err
            assert wanted in told
        progress.step(5, None)
        deadline = time.monotonic() + 10
        while "working: 5 ...\n" not in told and time.monotonic() < deadline:
            told += capsys.readouterr().err
        assert "working: 5 ...\n" in told


def test_progress_draws_a_bar_on_a_terminal(monkeypatch, capsys):
    """On a terminal the bar names the work and leaves nothing behind; work that fails stops it too."""
    monkeypatch.setattr(isa.progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    told = ""
    with pytest.raises(ToolError), isa.progress.Progress("working") as progress:
        progress.step(1, 2)
        deadline = time.monotonic() + 20
        while "1/2" not in told and time.monotonic() < deadline:
            told += capsys.readouterr().err
        raise ToolError("stop")
    assert "working" in told
    assert "1/2" in told


def test_files_appear_whole_or_not_at_all(tmp_path):
    """A failure in the middle keeps the old content; links are followed; a pipe is written to, not replaced."""
    path, link, pipe = tmp_path / "x.json", tmp_path / "link", tmp_path / "pipe"
    write_text(path, "old")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"half of it")
        raise KeyError
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["x.json"])
    link.symlink_to(path)
    write_text(link, "new")
    assert (path.read_text(), link.is_symlink()) == ("new", True)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    write_text(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
