"""Placement: what lives together never overlaps, memory is reused, and too large a model is refused with figures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from compiler.graph import Graph, LinearAttributes
from compiler.in_place import shared_places
from compiler.legalize import legalize
from compiler.mapped import MappedGraph, MappedStorage
from compiler.mapping import map_graph
from compiler.onnx_import import import_model
from compiler.pipeline import BACK, FRONT, Options, run_passes
from compiler.placement import place, verify_placement
from isa.dtypes import FP16
from isa.errors import ModelError
from isa.machine import preset
from isa.memory_map import BASES, interleave_period_bytes
from tests.compiler.graphs import GraphWriter, small_machine

MACHINE = small_machine()


def _mapped(storages: list[MappedStorage], **changes: object) -> MappedGraph:
    graph = Graph("test", (), (), {}, {}, ())
    machine = small_machine(**changes)
    return MappedGraph(graph, machine, FP16, {}, {}, {}, {storage.name: storage for storage in storages}, ())


ranges = st.tuples(st.integers(1, 40_000_000), st.integers(0, 20), st.integers(0, 10))


@settings(max_examples=60, deadline=None)
@given(st.lists(ranges, max_size=30))
def test_no_overlap(sizes: list[tuple[int, int, int]]) -> None:
    """Any live ranges get addresses inside a memory, aligned, apart from all that live at the same time."""
    storages = [
        MappedStorage(f"s{index}", size, "scratch", first, first + length)
        for index, (size, first, length) in enumerate(sizes)
    ]
    placed = place(_mapped(storages))
    verify_placement(placed.storages.values())
    for storage in placed.storages.values():
        assert storage.space is not None and storage.address is not None
        assert storage.address % 4096 == 0
        end = storage.address + storage.bytes - BASES[storage.space]
        assert end <= (MACHINE.sram.bytes if storage.space == "sram" else MACHINE.dram.bytes)


def test_memory_is_reused() -> None:
    """A tensor takes the place of one that is dead."""
    storages = [MappedStorage(f"s{index}", 1 << 20, "scratch", index, index + 1) for index in range(10)]
    addresses = {storage.address for storage in place(_mapped(storages)).storages.values()}
    assert len(addresses) == 2


def test_what_does_not_fit_in_sram_goes_to_dram() -> None:
    """A tensor larger than SRAM lies in DRAM, smaller ones beside it stay."""
    sizes = {"large": MACHINE.sram.bytes + 1, "small": 4096}
    storages = [MappedStorage(name, size, "scratch", 0, 1) for name, size in sizes.items()]
    placed = place(_mapped(storages)).storages
    assert {name: storage.space for name, storage in placed.items()} == {"large": "dram", "small": "sram"}


@pytest.mark.parametrize("machine_name", ["mtia-2i", "mtia-v1", "mtia-300"])
@pytest.mark.parametrize(
    ("model", "dims"),
    [
        ("llama-3.2-1b", {"batch": 1, "sequence": 128, "past": 0}),
        ("llama-3.2-1b", {"batch": 64, "sequence": 1, "past": 1024}),
        ("dlrm-dcnv2", {"batch": 2048}),
    ],
)
def test_models_take_no_more_sram_than_lives_at_once(machine_name: str, model: str, dims: dict[str, int]) -> None:
    """Offsets of real models are the best there can be: they end where the most bytes that live together end."""
    options = Options(preset(machine_name), dims=dims)
    graph = import_model(models.build(model, "absent"), None, model)
    placed = run_passes((*FRONT, *BACK), graph, options, stop_after="place").level
    assert isinstance(placed, MappedGraph)
    sram = options.machine.sram
    alignment = interleave_period_bytes(sram.slices, sram.interleave_bytes)
    lives = [(group[0], max(item.last for item in group)) for group in shared_places(placed)]
    assert all(storage.space == "sram" for storage, _ in lives)
    most = max(
        sum(-(-storage.bytes // alignment) * alignment for storage, last in lives if storage.first <= time <= last)
        for time in {storage.first for storage, _ in lives}
    )
    taken = max((storage.address or 0) - BASES["sram"] + storage.bytes for storage, _ in lives)
    assert taken <= most


def test_large_tensors_share_dram() -> None:
    """Tensors that SRAM cannot hold take each other's place in DRAM, behind the constants."""
    large = MACHINE.sram.bytes + 1
    storages = [MappedStorage("weights", 1000, "constant", -1, 9, "dram")]
    storages += [MappedStorage(f"s{index}", large, "scratch", index, index + 1) for index in range(8)]
    placed = place(_mapped(storages)).storages
    addresses = {placed[f"s{index}"].address for index in range(8)}
    assert len(addresses) == 2 and min(addresses) >= BASES["dram"] + 1000  # type: ignore[type-var, operator]


def test_verify_finds_an_overlap() -> None:
    """Two live storages at one address are a fault."""
    both = [MappedStorage(name, 64, "scratch", 0, 1, "sram", BASES["sram"]) for name in "ab"]
    with pytest.raises(AssertionError, match="a and b overlap"):
        verify_placement(both)


def test_too_large_a_model_is_refused() -> None:
    """The error gives the bytes that are needed, by role, and those there are; the flag lets it pass."""
    weights = MappedStorage("weights", MACHINE.dram.bytes + 1, "constant", -1, 1, "dram")
    with pytest.raises(ModelError) as caught:
        place(_mapped([weights]))
    assert str(caught.value) == (
        "test needs 137.44 GB of DRAM (constants 137.44 GB, caches 0.00 GB, activations and gaps 0.00 GB), "
        "mtia-2i has 137.44 GB\n"
        "  help: choose a machine with more memory or a smaller model, or pass --ignore-capacity to time it anyway"
    )
    assert place(_mapped([weights]), ignore_capacity=True).storages["weights"].space == "dram"


def test_live_ranges_of_views_extend_what_they_view() -> None:
    """A tensor lives as long as its slices are read."""
    from compiler.graph import SliceAttributes

    writer = GraphWriter()
    writer.input("x", (1, 4, 64))
    writer.constant("w", np.zeros((64, 64), np.float16))
    writer.add("linear", ("x", "w", None, None), "y", (1, 4, 64), LinearAttributes(False))
    writer.add("slice", ("y",), "part", (1, 4, 32), SliceAttributes(2, 32, 32))
    writer.add("add", ("x", "x"), "z", (1, 4, 64))
    writer.add("mul", ("part", "part"), "end", (1, 4, 32))
    mapped = map_graph(legalize(writer.graph("end", "z")), MACHINE, "fp16")
    assert "part" not in mapped.storages
    assert (mapped.storages["y"].first, mapped.storages["y"].last) == (0, 3)
