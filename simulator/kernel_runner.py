"""`run_kernel(kernel, inputs, outputs)`: run one kernel on host arrays, without a model or a compiler.

The arrays become storages of a one-launch program, so everything is timed, checked and reported as in a whole model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from isa import dtypes
from isa.errors import SimulationError, did_you_mean
from isa.kernel import Kernel
from isa.machine import Machine, load_machine
from isa.memory_map import BASES, Space
from isa.program import Argument, Entry, Launch, LaunchPart, Port, Program, Role, Storage
from isa.program_checks import verify_program
from simulator.simulator import Result, Simulator

Array = npt.NDArray[np.generic]
Described = tuple[tuple[int, ...], str]
_ALIGNMENT_BYTES = 256


def run_kernel(
    kernel: Kernel,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Described],
    arguments: Mapping[str, int] | None = None,
    *,
    machine: Machine | str = "mtia-2i",
    rows: int = 1,
    columns: int = 1,
    memory: Space = "sram",
    useful_macs: int = 0,
) -> Result:
    """Run a kernel on rows x columns PEs and return its outputs with the report.

    Each launch argument of the kernel is the address of the array of that name, or the number that `arguments` gives
    it. `outputs` says (shape, NumPy or ml_dtypes name). Arrays lie in C order in `memory`, inputs first, outputs zero
    before. `useful_macs` is only for the report's model utilization. Raises SimulationError for arrays or arguments
    that do not fit, ProgramError for a kernel that the machine cannot run.
    """
    chosen = machine if isinstance(machine, Machine) else load_machine(machine)
    numbers = dict(arguments or {})
    arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    described: dict[str, Described] = {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
    _check_names(kernel, described, outputs, numbers)
    storages = _storages(described | dict(outputs), set(described), memory)
    launch = Launch(
        name=kernel.name, kernel=0, row=0, column=0, rows=rows, columns=columns,
        arguments=tuple(_argument(name, numbers) for name in kernel.arguments), waits=(), signals=0,
        parts=(LaunchPart(kernel.name, useful_macs),),
    )  # fmt: skip
    entry = Entry(
        kernel.name, {}, tuple(_port(name, *shape) for name, shape in described.items()),
        tuple(_port(name, *shape) for name, shape in outputs.items()), (launch,),
    )  # fmt: skip
    program = Program(chosen, (kernel,), storages, (), (entry,))
    verify_program(program, f"kernel {kernel.name}")
    return Simulator(program).run(arrays)


def _check_names(
    kernel: Kernel, inputs: Mapping[str, Described], outputs: Mapping[str, Described], numbers: Mapping[str, int]
) -> None:
    known = [*inputs, *outputs, *numbers]
    twice = sorted({name for name in known if known.count(name) > 1})
    if twice:
        raise SimulationError(f"'{twice[0]}' is given twice", where=f"kernel {kernel.name}")
    for name in known:
        if name not in kernel.arguments:
            help = f"{did_you_mean(name, kernel.arguments)} arguments: {', '.join(kernel.arguments)}".strip()
            raise SimulationError(f"the kernel has no argument '{name}'", where=f"kernel {kernel.name}", help=help)
    missing = [name for name in kernel.arguments if name not in known]
    if missing:
        raise SimulationError(
            f"launch arguments without a value: {', '.join(missing)}", where=f"kernel {kernel.name}",
            help="give an input or output array of that name, or a number in `arguments`",
        )  # fmt: skip


def _argument(name: str, numbers: Mapping[str, int]) -> Argument:
    return Argument(numbers[name]) if name in numbers else Argument(0, name)


def _element(name: str, dtype: str) -> dtypes.Dtype:
    found = dtypes.of_host(dtype)
    if found is None or found is dtypes.INT4:
        known = ", ".join(one.host for one in dtypes.DTYPES if one is not dtypes.INT4)
        raise SimulationError(
            f"array '{name}' has element type {dtype}, which no unit has", help=f"convert to: {known}"
        )
    return found


def _storages(described: Mapping[str, Described], inputs: set[str], memory: Space) -> tuple[Storage, ...]:
    """Lay the arrays one after another."""
    storages, address = [], BASES[memory]
    for name, (shape, dtype) in described.items():
        size = int(np.prod(shape, dtype=np.int64)) * _element(name, dtype).bytes
        role: Role = "input" if name in inputs else "output"
        storages.append(Storage(name, memory, address, size, role))
        address += -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    return tuple(storages)


def _port(name: str, shape: Sequence[int], dtype: str) -> Port:
    element = _element(name, dtype)
    strides, pitch = [], element.bytes
    for size in reversed(shape):
        strides.append(pitch)
        pitch *= size
    return Port(name, name, 0, tuple(shape), tuple(reversed(strides)), element.name, dtype)
