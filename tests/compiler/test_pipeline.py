"""The driver of passes: order, facts, stopping, disabling, printing; and that compiling twice gives equal programs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compiler.graph import Graph, LinearAttributes, RmsNormAttributes
from compiler.mapped import MappedGraph
from compiler.pipeline import BACK, FACTS, FRONT, Level, Options, Pass, run_passes
from isa.errors import ModelError, UnsupportedError
from tests.compiler.graphs import GraphWriter, small_machine

OPTIONS = Options(small_machine())


def _graph() -> Graph:
    writer = GraphWriter()
    writer.input("x", (1, 4, 64))
    writer.constant("g", np.ones(64, np.float32))
    writer.constant("w", np.ones((64, 96), np.float16))
    writer.add("rms_norm", ("x", "g"), "n", (1, 4, 64), RmsNormAttributes(1e-5))
    writer.add("linear", ("n", "w", None, None), "y", (1, 4, 96), LinearAttributes(False))
    return writer.graph("y")


def test_back_end_in_order() -> None:
    """Every pass is observed, in order, and timed."""
    seen: list[str] = []
    outcome = run_passes(BACK, _graph(), OPTIONS, observe=lambda name, level: seen.append(name))
    assert seen == [item.name for item in BACK] == [timing.name for timing in outcome.timings]


def test_stop_after() -> None:
    """A stopped run gives the level of that pass."""
    level = run_passes(BACK, _graph(), OPTIONS, stop_after="map").level
    assert isinstance(level, MappedGraph)
    assert all(storage.address is None for storage in level.storages.values())


def test_a_disabled_pass_that_is_needed_is_named() -> None:
    """The fact that is missing is checked at the next door."""
    with pytest.raises(ModelError, match="pass 'emit' requires 'placed', which does not hold"):
        run_passes(BACK, _graph(), OPTIONS, disable=("place",))


def test_unknown_pass() -> None:
    """A misspelt pass name is an error with the nearest one."""
    with pytest.raises(ModelError, match="no pass 'plaze'") as caught:
        run_passes(BACK, _graph(), OPTIONS, stop_after="plaze")
    assert "did you mean 'place'?" in str(caught.value)


def test_names_and_facts() -> None:
    """Passes have a sentence each; only known facts are used; what is required is ensured by an earlier pass."""
    ensured: set[str] = set()
    for item in (*FRONT, *BACK):
        assert item.name and item.doc.endswith(".")
        assert {*item.requires, *item.ensures} <= FACTS.keys()
        assert set(item.requires) <= ensured
        ensured |= set(item.ensures)


def test_a_broken_pass_is_caught() -> None:
    """The level is verified after each pass."""

    def forget(level: Level, options: Options) -> Level:
        assert isinstance(level, Graph)
        return dataclasses.replace(level, operations=level.operations[1:])

    with pytest.raises(AssertionError, match="y_op reads n before it is made"):
        run_passes((Pass("forget", "Loses an operation.", forget),), _graph(), OPTIONS)


def test_unknown_kind() -> None:
    """An operation that no kernel serves is refused with the list of those that are."""
    writer = GraphWriter()
    writer.input("x", (1, 4, 64))
    writer.add("fft", ("x",), "y", (1, 4, 64))
    with pytest.raises(ModelError, match="pass 'quantize_weights' requires 'fused'"):
        run_passes(BACK, writer.graph("y"), OPTIONS)
    from compiler.emit import kernel_module

    with pytest.raises(UnsupportedError, match="no kernel for 'fft'"):
        kernel_module(writer.operations[0])


def test_same_input_same_program() -> None:
    """Compiling twice gives equal programs."""
    assert run_passes(BACK, _graph(), OPTIONS).level == run_passes(BACK, _graph(), OPTIONS).level
