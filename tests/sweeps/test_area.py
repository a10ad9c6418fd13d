"""Areas: published dies within 10 %, sums, growth with every resource, and a figure behind every number."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis.strategies import permutations, sampled_from

from isa.errors import MachineError
from isa.machine import PRESETS, Machine, preset
from sweeps import area
from sweeps.area import area_of, die_count, die_mm2, mega_gates, tile_mm2
from sweeps.area_document import area_document
from sweeps.area_figures import AreaFigures, area_figures
from sweeps.sourced_figures import Figure

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "area_and_cost.md"
PUBLISHED_MM2 = {"mtia-v1": 369, "mtia-2i": 420}
"""ISCA'25 Table 2: 19.3 x 19.1 and 25.6 x 16.4 mm."""
PUBLISHED_MEGA_GATES = {"mtia-v1": 1120, "mtia-2i": 2350}
"""ISCA'25 Table 2."""
REPORTED_DIES = {"mtia-v1": 1, "mtia-2i": 1, "mtia-300": 1, "mtia-400": 2, "mtia-500": 4}
"""ISCA'25, ISCA'26; compute chiplets of Meta's roadmap of 2026 by way of the press."""
RESOURCES = (
    "grid.rows", "grid.columns", "pe.local_memory_bytes", "pe.local_memory_bytes_per_cycle", "pe.circular_buffers",
    "pe.command_queue_depth", "matrix.tiles", "matrix.block_k_bytes", "matrix.operand_fill_bytes_per_cycle",
    "accumulator.banks", "accumulator.rows", "accumulator.columns", "accumulator.drain_elements_per_cycle",
    "simd.elements_per_cycle", "layout.bytes_per_cycle", "dma.bytes_per_cycle", "dma.outstanding",
    "noc.row_link_bytes_per_cycle", "noc.column_link_bytes_per_cycle", "sram.bytes", "sram.slices",
    "sram.bytes_per_cycle", "dram.channels", "dram.bytes_per_second", "control.host_bytes_per_second",
)  # fmt: skip
FEATURES = ("matrix.sparsity_2_4", "accumulator.reduction_network", "dma.indexed")
KINDS = {kind: preset("mtia-2i").with_changes({"dram.kind": kind}) for kind in ("DDR5-4800", "GDDR6-16000")}


@pytest.mark.parametrize("name", PUBLISHED_MM2)
def test_published_dies_come_out_within_a_tenth(name: str) -> None:
    """One set of figures for both processes."""
    assert die_mm2(preset(name)) == pytest.approx(PUBLISHED_MM2[name], rel=0.1)


@pytest.mark.parametrize("name", PUBLISHED_MEGA_GATES)
def test_published_gate_counts_come_out_within_an_eighth(name: str) -> None:
    """A check that is independent of areas: the logic of both chips in gates."""
    assert mega_gates(preset(name)) == pytest.approx(PUBLISHED_MEGA_GATES[name], rel=1 / 8)


def test_the_multipliers_of_a_known_engine() -> None:
    """MTIA 2i: 2048 int8 and 1024 fp16 multipliers per PE, 4 blocks of 1 KB in each of two tiles, sparse, 1.35 GHz."""
    engines = area_of(preset("mtia-2i"))[0]
    kilo_gates = 1.1 * (2048 * 1.0 + 1024 * 6.3) + 2 * 4 * 1024 * 0.064 + 128 * 1.0
    assert engines.name == "matrix engines"
    assert engines.mega_gates == pytest.approx(64 * kilo_gates / 1e3 * 1.15 * 1.35**0.25)
    assert engines.mm2 == pytest.approx(engines.mega_gates * 4 / (137.6 * 0.32))


def test_the_cells_of_a_known_memory() -> None:
    """128 MiB more of the shared SRAM at 5 nm: 8 bits of 0.021 um2 at 40 %, and tags of 8 bytes per KB."""
    machine, more = preset("mtia-2i"), 1 << 27
    larger = machine.with_changes({"sram.bytes": machine.sram.bytes + more})
    cells = (more + more / 1024 * 8) * 8 * 0.021e-6 / 0.40
    assert die_mm2(larger) - die_mm2(machine) == pytest.approx(cells / (1 - 0.20))


@pytest.mark.parametrize("machine", [*map(preset, PRESETS), *KINDS.values()], ids=lambda machine: machine.dram.kind)
def test_every_machine_has_a_die_of_plausible_blocks(machine: Machine) -> None:
    """Blocks are named once, positive, sourced, and sum up to the die; each die fits the reticle."""
    blocks = area_of(machine)
    assert len({block.name for block in blocks}) == len(blocks)
    assert all(block.mm2 > 0 and block.source and math.isfinite(block.mm2) for block in blocks)
    assert die_mm2(machine) == pytest.approx(sum(block.mm2 for block in blocks))
    assert die_mm2(machine) / die_count(machine) <= 858
    assert 0 < tile_mm2(machine) * machine.pe_count < die_mm2(machine)


def test_a_package_has_the_dies_that_the_reticle_asks_for() -> None:
    """A large machine takes several dies, with a block for the links between them."""
    counts = {name: die_count(preset(name)) for name in PRESETS}
    links = {name: any(block.name == "links between dies" for block in area_of(preset(name))) for name in PRESETS}
    assert {name: counts[name] for name in REPORTED_DIES} == REPORTED_DIES
    assert {name: count > 1 for name, count in counts.items()} == links


@settings(max_examples=60, deadline=None)
@given(sampled_from(PRESETS), permutations(RESOURCES))
def test_more_of_a_resource_is_more_area(name: str, paths: Sequence[str]) -> None:
    """Twice as much of each alone, on each preset and on what becomes of it after another resource grew."""
    first, second = paths[:2]
    machine = preset(name)
    larger = _doubled(machine, first)
    assert die_mm2(machine) < die_mm2(larger) < die_mm2(_doubled(larger, second))


def _doubled(machine: Machine, path: str) -> Machine:
    values = {path: machine.value(path) * 2}
    if path == "matrix.block_k_bytes":
        values["pe.local_memory_bytes"] = machine.pe.local_memory_bytes * 2
    return machine.with_changes(values)


@pytest.mark.parametrize("path", FEATURES)
def test_a_feature_costs_area(path: str) -> None:
    """MTIA 2i has them all."""
    assert die_mm2(preset("mtia-2i").with_changes({path: False})) < die_mm2(preset("mtia-2i"))


def test_a_dtype_never_saves_area() -> None:
    """Without a dtype the multipliers are as large or smaller."""
    for name in PRESETS:
        for dtype in ("int8", "fp8", "fp16", "bf16"):
            changes = {f"matrix.rate_by_dtype.{dtype}": 0.0}
            assert die_mm2(preset(name).with_changes(changes)) <= die_mm2(preset(name))


def test_a_finer_process_is_smaller_down_to_what_does_not_shrink() -> None:
    """Between the processes of the table too; PHYs stay."""
    machines = [preset("mtia-2i").with_changes({"process_nm": nm}) for nm in (16, 10, 7, 6, 5, 4, 3, 2)]
    areas = [die_mm2(machine) for machine in machines]
    assert areas == sorted(areas, reverse=True)
    phys = {next(block.mm2 for block in area_of(machine) if block.name == "DRAM PHYs") for machine in machines}
    assert len(phys) == 1


def test_a_lower_clock_of_the_same_chip_is_the_same_chip() -> None:
    """`at_frequency` moves along the points of one die; a chip made for a higher clock is another, larger one."""
    machine = preset("mtia-2i")
    assert die_mm2(machine.at_frequency(1100)) == die_mm2(machine)
    assert die_mm2(machine.with_changes({"frequency_mhz": 1600})) > die_mm2(machine)


def test_names_decide_nothing() -> None:
    """Figures are asked of fields."""
    for name in PRESETS:
        assert die_mm2(preset(name).with_changes({"name": "another"})) == die_mm2(preset(name))


@pytest.mark.parametrize(
    ("changes", "where", "help"),
    [
        ({"process_nm": 28}, "process_nm", "table of processes"),
        ({"process_nm": 1.4}, "process_nm", "table of processes"),
        ({"dram.kind": "RLDRAM3"}, "dram.kind", "LPDDR, GDDR, DDR, HBM"),
    ],
)
def test_what_has_no_figures_is_refused(changes: dict[str, object], where: str, help: str) -> None:
    """One error that says which field."""
    with pytest.raises(MachineError) as caught:
        die_mm2(preset("mtia-2i").with_changes(changes))
    assert caught.value.where == where
    assert help in caught.value.help


def _figure_paths() -> Iterator[tuple[str, str]]:
    for section in ("gates", "memories", "analog", "floorplan"):
        for name in type(getattr(area_figures(), section)).model_fields:
            yield section, name


@pytest.mark.parametrize(("section", "name"), list(_figure_paths()))
def test_every_figure_counts(section: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No number of the file is idle: some machine's area moves with it."""
    fp32 = preset("mtia-2i").with_changes({"matrix.rate_by_dtype.fp32": 1.0})
    machines = [*map(preset, PRESETS), *KINDS.values(), fp32]
    before = [[(block.name, block.mm2) for block in area_of(machine)] for machine in machines]
    group = getattr(area_figures(), section)
    old: Figure = getattr(group, name)
    new = old.model_copy(update={"value": old.value * 0.5 if section == "floorplan" else old.value * 50})
    figures = area_figures().model_copy(update={section: group.model_copy(update={name: new})})
    assert isinstance(figures, AreaFigures)
    monkeypatch.setattr(area, "area_figures", lambda: figures)
    area_of.cache_clear()
    try:
        after = [[(block.name, block.mm2) for block in area_of(machine)] for machine in machines]
    finally:
        area_of.cache_clear()
    assert before != after


def test_the_document_is_current() -> None:
    """docs/area_and_cost.md is what figures and presets say; renew with `python -m sweeps.area_document`."""
    assert DOCUMENT.read_text(encoding="utf-8") == area_document()


def test_the_example_of_the_document_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the area of a larger MTIA 2i."""
    (code,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    exec(compile(code, str(DOCUMENT), "exec"), {})
    assert float(capsys.readouterr().out.split()[0]) > die_mm2(preset("mtia-2i"))
