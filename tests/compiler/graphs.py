"""Fused graphs written by hand, compiled and run on the simulator, for tests of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest

from compiler.emit import emit
from compiler.graph import Attributes, Constant, Graph, NoAttributes, Operation, Value
from compiler.legalize import legalize
from compiler.mapping import map_graph
from compiler.placement import place
from isa.affine import Dim
from isa.machine import Machine, preset
from isa.program import Program
from isa.program_checks import verify_program
from simulator import Simulator
from simulator.device import Device
from tests.simulator.kernels import poison_local_memories

Array = npt.NDArray[np.generic]

SMALL_GRID = {"grid.rows": 2, "grid.columns": 3}


def small_machine(name: str = "mtia-2i", **changes: object) -> Machine:
    """Return a preset with 2 x 3 PEs, so that tests are quick and loops make several trips."""
    return preset(name).with_changes({**SMALL_GRID, **changes})


@dataclass
class GraphWriter:
    """Collects values, constants and operations of a graph; `dtype` is that of floats on the host."""

    dtype: str = "float16"
    values: dict[str, Value] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)

    def input(self, name: str, shape: tuple[Dim, ...], dtype: str | None = None) -> str:
        """Declare an input."""
        self.values[name] = Value(name, shape, dtype or self.dtype)
        self.inputs.append(name)
        return name

    def constant(self, name: str, array: Array) -> str:
        """Declare a constant."""
        self.constants[name] = Constant(Value(name, array.shape, str(array.dtype)), array)
        return name

    def add(
        self,
        kind: str,
        inputs: tuple[str | None, ...],
        name: str,
        shape: tuple[Dim, ...],
        attributes: Attributes | None = None,
        dtype: str | None = None,
    ) -> str:
        """Add an operation with one output of its own name, of the writer's dtype unless one is given."""
        self.values[name] = Value(name, shape, dtype or self.dtype)
        self.operations.append(Operation(kind, f"{name}_op", inputs, (name,), attributes or NoAttributes()))
        return name

    def add_many(
        self,
        kind: str,
        inputs: tuple[str | None, ...],
        names: tuple[str, ...],
        shape: tuple[Dim, ...],
        attributes: Attributes,
        dtype: str = "float16",
    ) -> tuple[str, ...]:
        """Add an operation with several outputs of one shape."""
        for name in names:
            self.values[name] = Value(name, shape, dtype)
        self.operations.append(Operation(kind, f"{names[0]}_op", inputs, names, attributes))
        return names

    def graph(self, *outputs: str, symbols: Mapping[str, tuple[int, int]] | None = None) -> Graph:
        """Return the graph."""
        return Graph(
            "test", tuple(self.inputs), outputs, self.values, self.constants, tuple(self.operations), symbols or {}
        )


def compile_graph(graph: Graph, machine: Machine, dtype: str = "fp16") -> Program:
    """Return the checked program of a fused graph."""
    program = emit(place(map_graph(legalize(graph), machine, dtype)))
    verify_program(program)
    return program


def run_graph(graph: Graph, machine: Machine, inputs: Mapping[str, Array], dtype: str = "fp16") -> dict[str, Array]:
    """Compile and run; with and without random delays the outputs must be the same bits."""
    simulator = Simulator(compile_graph(graph, machine, dtype))
    outputs = simulator.run(inputs).outputs
    delayed = simulator.run(inputs, jitter_cycles=200, jitter_seed=7).outputs
    for name, array in outputs.items():
        np.testing.assert_array_equal(array, delayed[name])
    return dict(outputs)


class _DirtyDevice(Device):
    """Memory in which everything that the program itself must write holds garbage."""

    def clear(self) -> None:
        super().clear()
        for storage in self._program.storages:
            if storage.role in ("scratch", "output"):
                self._range(storage.name).fill(0x5A)


def check_padding(graph: Graph, machine: Machine, inputs: Mapping[str, Array], dtype: str = "fp16") -> None:
    """Run with garbage in memory and NaN in local memories: results stay the same, rows of outputs end with zeros."""
    program = compile_graph(graph, machine, dtype)
    expected = Simulator(program).run(inputs).outputs
    simulator = Simulator(program)
    with patch("simulator.simulator.Device", _DirtyDevice), pytest.MonkeyPatch.context() as monkeypatch:
        poison_local_memories(monkeypatch)
        results = simulator.run(inputs).outputs
    device = simulator._device
    assert device is not None
    regions = map_graph(legalize(graph), machine, dtype).regions
    for name in graph.outputs:
        np.testing.assert_array_equal(results[name], expected[name])
        region = regions[name]
        if region.storage == name:
            rows = device._range(name)[: region.rows * region.pitch_bytes].reshape(region.rows, region.pitch_bytes)
            assert not rows[:, region.columns * region.dtype.bytes :].any(), f"padding of {name}"
