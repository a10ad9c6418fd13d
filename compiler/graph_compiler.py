"""Programs of one graph for many machines: those that look the same to the compiler share what it made."""

from __future__ import annotations

from dataclasses import replace

from compiler import check_dtype
from compiler.graph import Graph
from compiler.pipeline import BACK, Options, run_passes
from compiler.quantize import quantization
from isa.machine import Machine
from isa.program import Program
from isa.reuse import Kept

KEPT_PROGRAMS = 16


class GraphCompiler:
    """Compiles a graph of `fuse_model` as `compile_graph` does; what is left out of its arguments is as there.

    The last `KEPT_PROGRAMS` programs are kept. One of them serves every machine that has the same in all fields that
    were read to make it: it is the program that would be made again.
    """

    def __init__(
        self, graph: Graph, dtype: str = "fp16", *, quantize: str | None = None, group_size: int | None = None
    ) -> None:
        self._graph, self._dtype, self._quantization = graph, dtype, quantization(quantize, group_size)
        self._programs = Kept[Program](KEPT_PROGRAMS)

    def program(self, machine: Machine) -> Program:
        """Return the program for a machine; raises a ToolError as `compile_graph` does."""
        return replace(self._programs.result(None, machine, self._made), machine=machine)

    def _made(self, machine: Machine) -> Program:
        check_dtype(self._dtype, machine)
        level = run_passes(BACK, self._graph, Options(machine, self._dtype, quantization=self._quantization)).level
        assert isinstance(level, Program)
        return level
