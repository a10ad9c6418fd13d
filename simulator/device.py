"""The simulated chip's memory contents, and the edge where host arrays become device bytes and back.

The edge does layout and element type only: int64 becomes int32, floats are rounded to the device type, rows get their
pitch. Everything else is done by the program's own commands.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from isa.affine import evaluate
from isa.dtypes import BY_NAME
from isa.errors import SimulationError
from isa.memory_map import BASES
from isa.packing import device_bytes, host_dtype, put
from isa.program import Entry, Port, Program

Array = npt.NDArray[np.generic]


class Device:
    """SRAM and DRAM bytes of one program, constants loaded once."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.sram = np.zeros(max(program.bytes_of("sram"), 1), dtype=np.uint8)
        self.dram = np.zeros(max(program.bytes_of("dram"), 1), dtype=np.uint8)
        for constant in program.constants:
            put(constant, device_bytes(constant, program), self._range(constant.storage))

    def _range(self, name: str) -> npt.NDArray[np.uint8]:
        storage = self._program.storage_by_name[name]
        memory = self.sram if storage.space == "sram" else self.dram
        first = storage.address - BASES[storage.space]
        return memory[first : first + storage.bytes]

    def clear(self) -> None:
        """Zero everything but the constants, so that a run does not depend on the one before."""
        constants = {constant.storage for constant in self._program.constants}
        for storage in self._program.storages:
            if storage.name not in constants:
                self._range(storage.name).fill(0)

    def _view(self, port: Port, bindings: Mapping[str, int]) -> Array:
        shape = tuple(evaluate(dim, bindings) for dim in port.shape)
        dtype = BY_NAME[port.device_dtype].numpy
        window = self._range(port.storage)[port.offset_bytes :]
        return np.ndarray(shape, dtype, buffer=window.data, strides=port.strides_bytes)

    def write_inputs(self, entry: Entry, inputs: Mapping[str, Array], bindings: Mapping[str, int]) -> int:
        """Copy host arrays to their storages; return the bytes the host link moves."""
        moved = 0
        for port in entry.inputs:
            view = self._view(port, bindings)
            array = inputs[port.name]
            if view.dtype.kind == "i" and array.size and (array.min() < -(2**31) or array.max() >= 2**31):
                raise SimulationError(f"input '{port.name}' has values outside 32 bits")
            with np.errstate(over="ignore"):  # what the device type cannot hold becomes infinite, as in masks
                view[...] = array.astype(view.dtype)
            moved += view.nbytes
        return moved

    def read_outputs(self, entry: Entry, bindings: Mapping[str, int]) -> tuple[dict[str, Array], int]:
        """Return the outputs as host arrays, and the bytes the host link moves."""
        outputs, moved = {}, 0
        for port in entry.outputs:
            view = self._view(port, bindings)
            outputs[port.name] = np.array(view, order="C").astype(host_dtype(port.host_dtype))
            moved += view.nbytes
        return outputs, moved
