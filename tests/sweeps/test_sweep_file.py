"""Sweep files: what they mean, and that all that is wrong with one is told at once, with lines and hints."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from isa.errors import ToolError
from isa.machine import preset
from models import build
from sweeps.points import Objective
from sweeps.sweep_file import SweepError, from_definition, read_sweep
from tests.sweeps.sweep_texts import TINY


def _told(text: str) -> str:
    with pytest.raises(SweepError) as caught:
        read_sweep(text)
    return str(caught.value)


def test_a_file_becomes_a_sweep() -> None:
    """Base machine with changes, values of ranges, expressions, sizes that a phase implies, goals of figures."""
    sweep = read_sweep(TINY)
    assert sweep.base == preset("mtia-2i").with_changes({"grid.rows": 2, "grid.columns": 2})
    sram, width, dram, frequency = sweep.parameters
    assert sram.values == (2**25, 2**26, 2**27, 2**28) and sram.is_ordered
    assert width.label == "width" and [path for path, _ in width.sets] == ["grid.columns"]
    assert (dram.values, frequency.label) == ((2e9, 204.8e9), "frequency")
    assert [one.text for one in sweep.machine_constraints] == ["area_mm2 <= 0.88 * base.area_mm2"]
    assert len(sweep.figure_constraints) == 1
    decode, ranking = sweep.workloads
    assert dict(decode.dims) == {"batch": 2, "sequence": 1, "past": 30} and decode.tokens == 2
    assert dict(ranking.dims) == {"batch": 16} and ranking.tokens == 16
    assert sweep.objectives[0] == Objective("decode.latency_seconds", "minimize", "s")


def test_a_stored_definition_gives_the_same_sweep() -> None:
    """Without the file, and whatever happens to presets."""
    sweep = read_sweep(TINY)
    again = from_definition(sweep.definition)
    assert again == sweep and again.digest == sweep.digest


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("values = [1, 2.5, true, 'x']", (1, 2.5, True, "x")),
        ("range = { start = 2, stop = 11, step = 3 }", (2, 5, 8, 11)),
        ("range = { start = 0.1, stop = 0.4, step = 0.1 }", (0.1, 0.2, 0.3, 0.4)),
        ("log_range = { start = 1, stop = 100, factor = 4 }", (1, 4, 16, 64)),
        ("log_range = { start = 1, stop = 100, count = 3 }", (1, 10, 100)),
        ("log_range = { start = 1.0, stop = 8.0, count = 4 }", (1.0, 2.0, 4.0, 8.0)),
        ("log_range = { start = 1, stop = 4, count = 9 }", (1, 2, 3, 4)),
    ],
)
def test_values(given: str, values: tuple[object, ...]) -> None:
    """Lists and ranges; whole numbers stay whole, floats lose the noise of adding."""
    sweep = read_sweep(TINY.replace("values = [2, 4, 8]", given))
    assert sweep.parameters[1].values == values


def test_all_problems_are_told_at_once() -> None:
    """Of every table, each with its line, and with the nearest name."""
    text = TINY
    for old, new in {
        'path = "sram.bytes"': 'path = "sram.bytess"',
        "grid.rows = 2": "grid.rowz = 2",
        '"grid.columns" = "width"': '"grid.columns" = "widht * 2"',
        "values = [1100, 1350]": "values = [1100, 1700]",
        '"area_mm2 <= 0.88 * base.area_mm2"': '"area_mm <= base.area_mm2"',
        'model = "dlrm-tiny"': 'model = "dlrm-tinny"',
        'phase = "decode"': 'phase = "prefil"',
        'figure = "area_mm2"': 'figure = "aera_mm2"',
        'kind = "random"': 'kind = "randon"',
        "points = 12": "pionts = 18\n\n[cost]\nwafer_dollar = 3",
    }.items():
        assert old in text
        text = text.replace(old, new)
    told = _told(text)
    line_of = {line: number for number, line in enumerate(text.splitlines(), 1)}
    for line, hint in {
        'path = "sram.bytess"': "did you mean 'sram.bytes'?",
        "grid.rowz = 2": "did you mean 'grid.rows'?",
        'set = { "grid.columns" = "widht * 2" }': "did you mean 'width'?",
        "values = [1100, 1700]": "1700 is not in 1100..1350 MHz",
        'expression = "area_mm <= base.area_mm2"': "did you mean 'area_mm2'?",
        'model = "dlrm-tinny"': "did you mean 'dlrm-tiny'?",
        'phase = "prefil"': "must be 'prefill' or 'decode'",
        'figure = "aera_mm2"': "did you mean 'area_mm2'?",
        'kind = "randon"': "'random'",
        "pionts = 18": "did you mean 'points'?",
        "wafer_dollar = 3": "unknown key",
    }.items():
        (row,) = [row for row in told.splitlines() if f":{line_of[line]}:" in row and hint in row]
        assert row.startswith("  sweep text:")


def test_what_is_wrong_in_a_row_hides_nothing_else() -> None:
    """Its names are checked too, and those that use them are right; no base machine hides no value."""
    text = TINY
    for old, new in {
        'machine = "mtia-2i"': 'machine = "mtia-2j"',
        "values = [2, 4, 8]": 'values = []\nwhen = "grid.rowz > 1"',
        "area_mm2 <= 0.88": "area_mm2 <= width * 0.88",
        "values = [2e9, 204.8e9]": "values = [2e9, -1]",
        'model = "llama-tiny"': 'model = "lama-tiny"',
        'phase = "decode"': 'phase = "decod"',
        'figure = "decode.energy_per_token_joules"': 'figure = "decode.energy_per_token_joule"\ngoal = "less"',
    }.items():
        assert old in text
        text = text.replace(old, new)
    told = _told(text)
    for message in (
        "machine: unknown machine", "parameters.1.values: must not be empty", "did you mean 'grid.rows'?",
        "parameters.2.values: must be greater", "did you mean 'llama-tiny'?", "must be 'prefill' or 'decode'",
        "did you mean 'decode.energy_per_token_joules'?", "objectives.1.goal: must be",
    ):  # fmt: skip
        assert message in told
    assert told.startswith("sweep text: 8 problems")


def test_nothing_is_told_of_rows_that_are_not_there() -> None:
    """That there are none is one problem."""
    assert _told("name = 'x'\nmachine = 'mtia-2i'\n").startswith("sweep text: 3 problems")
    assert _told("name = 'x'\nmachine = 'mtia-2i'\nparameters = 5\n").count("parameters") == 1


def test_paths_that_a_parameter_sets_may_be_nested() -> None:
    """As those of changes may."""
    nested = TINY.replace('set = { "grid.columns" = "width" }', 'set = { grid.columns = "width" }')
    assert read_sweep(nested).parameters == read_sweep(TINY).parameters


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("values = [2, 4, 8]", "values = [2, 2]", "a value is there twice"),
        ("values = [2, 4, 8]", "", "a parameter needs one of values, range and log_range"),
        ("values = [2, 4, 8]", "range = { start = 1, stop = 2, step = 1e-9 }", "10000 are possible"),
        ("values = [2, 4, 8]", "range = { start = 2, stop = 1, step = 1 }", "has 0 values"),
        ("factor = 2 }", "factor = 2, count = 3 }", "either factor or count"),
        ('name = "width"', 'name = "sram"', "'sram' is no free name"),
        ('name = "width"', 'name = "width"\npath = "sram.slices"', "either a path, or a name"),
        ('path = "dram.bytes_per_second"', 'path = "sram.bytes"', "'sram.bytes' is a parameter already"),
        ("values = [2e9, 204.8e9]", "values = [2e9, 'fast', -3.0]", "must be greater than"),
        ("values = [2e9, 204.8e9]", "values = [2e9, 'fast', -3.0]", "must be a valid number, not 'fast'"),
        ('name = "ranking"', 'name = "decode"', "'decode' is a workload already"),
        ("batch = 16\n", "batch = 16\ndims = { past = 3 }\n", "dlrm-tiny has no dim 'past'"),
        ("batch = 16\n", "batch = 16\nlayers = 2\n", "dlrm-tiny has no decoder layers"),
        ("batch = 16\n", "batch = 16\nindices = 'zipf'\n", "'zipf' is no distribution of indices"),
        ('phase = "decode"\n', "", "the size of 'sequence' is missing"),
        ("past = 30\n", "", "decode needs `past`"),
        ("points = 12", "", "the sampler random never ends by itself"),
        ('machine = "mtia-2i"', 'machine = "mtia-2j"', "did you mean 'mtia-2i'?"),
        ("grid.rows = 2", "grid.rows = 3000", "must be less than or equal to 256"),
        ('figure = "decode.energy_per_token_joules"', 'figure = "decode.latency_seconds"', "is an objective already"),
        ('"area_mm2 <= 0.88 * base.area_mm2"', '"area_mm2 <= __import__(1)"', "no function '__import__'"),
        ('name = "tiny"', 'nmae = "tiny"', "unknown key"),
        ('name = "tiny"', 'name = ""', "name: must not be empty"),
        ("values = [2, 4, 8]", "values = []", "parameters.1.values: must not be empty"),
        ("values = [2, 4, 8]", "values = 2", "must be a list, not 2"),
        ("values = [2, 4, 8]", "values = [2, [4]]", "values.1: must be a number, a text, true or false, not"),
        ("values = [2, 4, 8]", "range = { start = nan, stop = 1, step = 1 }", "range.start: must be a number, not nan"),
        ("values = [2, 4, 8]", "range = { start = -1e308, stop = 1e308, step = 1 }", "10000 are possible"),
        ("start = 33554432, stop", "start = 1e-300, stop = 1e300, factor = 2 } # ", "too large a multiple"),
        ("start = 33554432, stop", "start = 1.5, stop = 2, factor = 2 } # ", "parameters.0.log_range: must be a valid"),
        ("[budget]", "[[budget]]", "must be a table"),
    ],
)  # fmt: skip
def test_what_is_refused(old: str, new: str, message: str) -> None:
    """Each alone."""
    assert old in TINY
    assert message in _told(TINY.replace(old, new, 1))


def test_no_file_and_no_toml(tmp_path: Path) -> None:
    """Two clear errors."""
    with pytest.raises(SweepError, match="no such sweep file"):
        read_sweep(tmp_path / "none.toml")
    with pytest.raises(SweepError, match="this is not TOML") as caught:
        read_sweep("name = 'x'\nmachine = \n")
    assert caught.value.where == "sweep text:2"


def test_models_and_machines_lie_beside_the_file(tmp_path: Path) -> None:
    """Their paths are relative to the sweep file; the digest of a model is part of the sweep."""
    onnx.save(build("dlrm-tiny"), tmp_path / "model.onnx")
    (tmp_path / "chip.toml").write_text(preset("mtia-v1").to_toml())
    text = TINY.replace('"dlrm-tiny"', '"model.onnx"').replace('"mtia-2i"', '"chip.toml"')
    text = text.replace("values = [1100, 1350]", "values = [800]")
    (tmp_path / "sweep.toml").write_text(text)
    sweep = read_sweep(tmp_path / "sweep.toml")
    assert sweep.base.name == "mtia-v1"
    workload = sweep.workloads[1]
    assert Path(workload.model) == (tmp_path / "model.onnx").resolve() and len(workload.digest) == 64
    onnx.save(build("dlrm-tiny", dtype="float32"), tmp_path / "model.onnx")
    with pytest.raises(ToolError, match="the model is another one than when the sweep began"):
        from sweeps.workloads import graph_of

        graph_of(workload)


def test_a_stored_sweep_knows_its_models_without_their_files(tmp_path: Path) -> None:
    """By the digests of then: another model under the same path is another sweep."""
    onnx.save(build("dlrm-tiny"), tmp_path / "model.onnx")
    (tmp_path / "sweep.toml").write_text(TINY.replace('"dlrm-tiny"', '"model.onnx"'))
    sweep = read_sweep(tmp_path / "sweep.toml")
    onnx.save(build("dlrm-tiny", dtype="float32"), tmp_path / "model.onnx")
    assert read_sweep(tmp_path / "sweep.toml").digest != sweep.digest
    (tmp_path / "model.onnx").unlink()
    again = from_definition(sweep.definition)
    assert again == sweep and again.digest == sweep.digest
