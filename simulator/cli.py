"""simulate-program: run a program file on inputs, or time it without any.

Everything is imported where it is needed: `--help` is quick.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from isa.command_line import by_name, note, run_command, size
from isa.errors import SimulationError
from isa.progress import Progress
from isa.whole_file import check_writable, replacing, write_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from isa.program import Entry
    from simulator.report import Report
    from simulator.simulator import Simulator

    Array = npt.NDArray[np.generic]

NAME = "simulate-program"
_INPUTS_HELP = "make it with numpy.savez(FILE, NAME=ARRAY, ...)"
_DAMAGE = (ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
_STARTING = "starting the simulator (the first start compiles its kernels)"


@click.command(NAME, context_settings={"max_content_width": 100})
@click.argument("program")
@click.option(
    "--machine",
    metavar="NAME|FILE.toml",
    help="A machine other than the program's own, with other rates, latencies or energies.",
)
@click.option(
    "--frequency-mhz", type=float, metavar="MHZ", help="Clock of the chip, with the voltage that its [dvfs] has there."
)
@click.option("--inputs", metavar="IN.npz", help="Execute on these arrays; without, the program is only timed.")
@click.option("--outputs", metavar="OUT.npz", help="Write the outputs to this file.")
@click.option(
    "--dim",
    "dims",
    multiple=True,
    type=size,
    metavar="NAME=VALUE",
    help="Size of an open dim, for timing; a run takes it from its inputs. May be repeated.",
)
@click.option(
    "--indices", metavar="DISTRIBUTION", help="Rows of tables that timing touches: uniform (default) or zipf:POWER."
)
@click.option("--json", metavar="FILE", help="Write the report to this file.")
def command(
    program: str,
    machine: str | None,
    frequency_mhz: float | None,
    inputs: str | None,
    outputs: str | None,
    dims: Sequence[tuple[str, int]],
    indices: str | None,
    json: str | None,
) -> None:
    """Run the program file PROGRAM, as compile-model writes it, and print the report.

    With --inputs it computes the model's outputs, else it is timed. Results go to stdout, all else to stderr.
    """
    if outputs and not inputs:
        raise click.UsageError("--outputs needs --inputs: without inputs a program is only timed")
    if dims and inputs:
        raise click.UsageError("--dim is for timing: with --inputs, sizes are those of the arrays")
    if indices and inputs:
        raise click.UsageError("--indices is for timing: with --inputs, indices are those of the arrays")
    sizes = by_name(dims)
    for path in (outputs, json):
        if path:
            check_writable(path)
    from simulator.simulator import Simulator

    simulator = Simulator(program, machine)
    if frequency_mhz is not None:
        simulator = Simulator(simulator.program, simulator.machine.at_frequency(frequency_mhz))
    report = _run(simulator, inputs, outputs) if inputs else _profile(simulator, sizes, indices or "uniform")
    if json:
        write_text(json, report.to_json() + "\n")
    click.echo(str(report), nl=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(command, NAME, arguments)


def _profile(simulator: Simulator, dims: Mapping[str, Any], indices: str) -> Report:
    with Progress("simulating launches", _STARTING) as progress:
        return simulator.profile(dims=dims, progress=progress.step, indices=indices)


def _run(simulator: Simulator, inputs: str, outputs: str | None) -> Report:
    arrays = read_arrays(inputs, simulator.entry())
    with Progress("executing launches", _STARTING) as progress:
        result = simulator.run(arrays, progress=progress.step)
    if outputs:
        write_arrays(outputs, result.outputs)
    else:
        names = ", ".join(f"{name}{list(array.shape)} {array.dtype}" for name, array in result.outputs.items())
        note(f"outputs: {names}; --outputs OUT.npz keeps them")
    return result.report


def read_arrays(path: str, entry: Entry) -> dict[str, Array]:
    """Return the arrays of an .npz file; SimulationError if it is none, or holds objects (nothing is unpickled).

    NumPy's files know no bfloat16 or fp8: elements without a type are taken for what the input is declared as.
    """
    try:
        with open(path, "rb") as file:
            arrays = _unpacked(file)
    except FileNotFoundError as error:
        raise SimulationError("no such file", where=path, help=_INPUTS_HELP) from error
    except OSError as error:
        raise SimulationError(f"cannot be read: {error.strerror or error}", where=path, help=_INPUTS_HELP) from error
    except _DAMAGE as error:
        raise SimulationError(f"not a sound .npz file: {error}", where=path, help=_INPUTS_HELP) from error
    return {name: _typed(array, name, entry) for name, array in arrays.items()}


def _unpacked(file: BinaryIO) -> dict[str, Array]:
    import numpy as np

    if not zipfile.is_zipfile(file):
        raise ValueError("it is no archive")
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        return {name: np.asarray(archive[name]) for name in archive.files}


def _typed(array: Array, name: str, entry: Entry) -> Array:
    from isa.packing import host_dtype

    declared = {port.name: port.host_dtype for port in entry.inputs}.get(name)
    if declared is None or array.dtype.kind != "V" or array.dtype.itemsize != host_dtype(declared).itemsize:
        return array
    return array.view(host_dtype(declared))


def write_arrays(path: str, arrays: Mapping[str, Array]) -> None:
    """Write an .npz file; unlike numpy.savez it takes any name. SimulationError if it cannot be written."""
    from numpy.lib.format import write_array

    try:
        with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    write_array(_as_any(member), array, allow_pickle=False)
    except OSError as error:
        raise SimulationError(f"cannot be written: {error.strerror}", where=path) from error


def _as_any(member: Any) -> Any:
    """NumPy's annotations ask for more than the file it really needs."""
    return member


if __name__ == "__main__":
    raise SystemExit(main())
