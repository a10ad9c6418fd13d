"""compile-model: an ONNX file, a checkpoint or the name of a known model -> a program; on request its time and energy.

The one place where compiler, models and simulator meet. Everything is imported where it is needed: `--help` is quick.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler import DTYPES
from isa.command_line import by_name, note, run_command, size_or_range
from isa.errors import ModelError, did_you_mean
from isa.progress import Progress
from isa.whole_file import check_writable, write_text

if TYPE_CHECKING:
    from compiler.autotune import Autotuner
    from compiler.graph import Graph
    from compiler.pipeline import Level, Options
    from isa.program import Program

NAME = "compile-model"


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    model: str
    machine: str
    dims: Mapping[str, int | tuple[int, int]]
    dtype: str
    quantize: str | None
    group_size: int | None
    output: str | None
    simulate: bool
    indices: str | None
    json: str | None
    emit: str | None
    print_after: tuple[str, ...]
    stop_after: str | None
    ignore_capacity: bool
    separate_launches: bool
    autotune: int | None

    def check(self) -> None:
        """Raise UsageError for options that do not go together, ToolError for files that cannot be written."""
        if self.json and not self.simulate:
            raise click.UsageError("--json is the report of --simulate: give both")
        if self.indices and not self.simulate:
            raise click.UsageError("--indices is for --simulate: give both")
        if self.stop_after and (self.output or self.simulate or self.emit):
            raise click.UsageError("--stop-after does not go with -o, --simulate or --emit, which need later passes")
        for path in (self.output, self.json):
            if path:
                check_writable(path)


def _list_models(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from models import list_models

    click.echo("\n".join(list_models()))
    context.exit()


def _list_machines(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from isa.machine import PRESETS, preset

    for machine in map(preset, PRESETS):
        mark = ", projected" if machine.projected else ""
        grid = f"{machine.grid.rows} x {machine.grid.columns} PEs at {machine.frequency_mhz:g} MHz"
        click.echo(f"{machine.name:<14}{grid}, {machine.dram.bytes / 1e9:.1f} GB of DRAM{mark}")
    context.exit()


@click.command(NAME, context_settings={"max_content_width": 100})
@click.argument("model")
@click.option("--machine", default="mtia-2i", show_default=True, metavar="NAME|FILE.toml", help="The chip.")
@click.option(
    "--dim",
    "dims",
    multiple=True,
    type=size_or_range,
    metavar="NAME=VALUE|NAME=LOW..HIGH",
    help="Size of a named dim, or the range of a cache length that stays open. May be repeated.",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="fp16",
    show_default=True,
    help="Element type of weights and activations. fp32 multiplies on the SIMD engine: slow, to check correctness.",
)
@click.option(
    "--quantize",
    type=click.Choice(["int8", "fp8", "int4"]),
    help="Quantize the weights of linears: int8 or fp8 (activations too, row by row), or int4 in groups along K.",
)
@click.option("--group-size", type=int, metavar="N", help="Elements of K that share a scale in int4.  [default: 32]")
@click.option("-o", "--output", metavar="OUT", help="Write the program to this file.")
@click.option("--simulate", is_flag=True, help="Time the program and print the report; no weights are needed.")
@click.option(
    "--indices", metavar="DISTRIBUTION", help="Rows of tables that --simulate touches: uniform (default) or zipf:POWER."
)
@click.option("--json", metavar="FILE", help="Write the report of --simulate to this file.")
@click.option("--emit", type=click.Choice(["graph", "mapped", "asm", "program"]), help="Print this level to stdout.")
@click.option("--print-after", multiple=True, metavar="PASS", help="Print what a pass has made. May be repeated.")
@click.option("--stop-after", metavar="PASS", help="End after this pass and print what it has made.")
@click.option("--ignore-capacity", is_flag=True, help="Time a model that does not fit the memories; marks the report.")
@click.option(
    "--autotune",
    type=int,
    metavar="N",
    help="Simulate the N best mappings of each linear and large product; take the fastest.",
)
@click.option(
    "--separate-launches", is_flag=True, help="One launch per operation: slower, and nothing is loaded ahead."
)
@click.option(
    "--list-models",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_models,
    help="Print the names of known models.",
)
@click.option(
    "--list-machines",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_machines,
    help="Print the machines that come with this.",
)
def command(dims: Sequence[tuple[str, int | tuple[int, int]]], **options: Any) -> None:
    """Compile MODEL, an ONNX file, a checkpoint directory or a known name, for a machine.

    A checkpoint directory has the config.json and safetensors files of a Llama. Llamas have the dims batch (default 1),
    sequence and past (default 0), other known models batch. Known models have no weights: they can be timed.
    Results go to stdout, all else to stderr.
    """
    request = Request(dims=by_name(dims), **options)
    request.check()
    program = _compiled(request)
    if program is not None:
        _deliver(request, program)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(command, NAME, arguments)


def _compiled(request: Request) -> Program | None:
    """Run the passes, printing what was asked for; None if they end before there is a program."""
    from compiler import check_dtype
    from compiler.mapping import by_estimate
    from compiler.pipeline import BACK, FRONT, Options, run_passes
    from compiler.quantize import quantization
    from isa.machine import load_machine
    from isa.program import Program

    passes = (*FRONT, *BACK)
    names = [item.name for item in passes]
    printers = _printers(request, names, FRONT[-1].name)
    machine = load_machine(request.machine)
    check_dtype(request.dtype, machine)
    weights = quantization(request.quantize, request.group_size)
    choose = by_estimate if request.autotune is None else _autotuner(request.autotune).choose
    start = time.perf_counter()
    with Progress(f"compiling {request.model}") as progress:

        def observe(name: str, level: Level) -> None:
            progress.step(names.index(name) + 1, len(names))
            for title, text in printers.get(name, ()):
                click.echo(f"{title}{text(level)}")

        graph, dims = _imported(request)
        options = Options(
            machine, request.dtype, dims, request.ignore_capacity, weights, request.separate_launches, choose
        )
        last = request.stop_after or _last_pass(request, printers, names)
        level = run_passes(passes, graph, options, observe=observe, stop_after=last).level
    if not isinstance(level, Program):
        return None
    note(_summary(level, options, request.model, time.perf_counter() - start))
    return level


def _autotuner(count: int) -> Autotuner:
    from compiler.autotune import Autotuner
    from simulator.cost import simulated_cycles

    return Autotuner(count, simulated_cycles)


Printers = dict[str, list[tuple[str, "Callable[[Level], str]"]]]


def _printers(request: Request, names: Sequence[str], last_of_front: str) -> Printers:
    """Return, by pass, what to print after it: (title, text of the level)."""
    printers: Printers = {}
    stops = [request.stop_after] if request.stop_after else []
    for name in dict.fromkeys((*request.print_after, *stops)):
        if name not in names:
            hint = did_you_mean(name, names)
            raise click.UsageError(f"there is no pass '{name}'; {hint} passes: {', '.join(names)}")
        printers[name] = [(f"# after {name}\n", _text)]
    if request.emit:
        name = {"graph": last_of_front, "mapped": "place"}.get(request.emit, names[-1])
        printers.setdefault(name, []).append(("", _assembly if request.emit == "asm" else _text))
    return printers


def _last_pass(request: Request, printers: Printers, names: Sequence[str]) -> str | None:
    """Return the pass after which nothing is left to do, if only texts are wanted; None for the last of all."""
    if request.output or request.simulate or not printers:
        return None
    return max(printers, key=names.index)


def _text(level: Level) -> str:
    from isa.program import Program
    from isa.program_text import print_program

    return print_program(level).rstrip("\n") if isinstance(level, Program) else str(level)


def _assembly(level: Level) -> str:
    from isa.assembly import print_kernel
    from isa.program import Program

    assert isinstance(level, Program)
    return "\n".join(print_kernel(kernel) for kernel in level.kernels).rstrip("\n")


def _imported(request: Request) -> tuple[Graph, Mapping[str, int | tuple[int, int]]]:
    """Return the graph of a file, directory or known name, and the dims with the defaults of known models."""
    from compiler.checkpoint_import import DEFAULT_DIMS, ELEMENT_TYPES, load_checkpoint
    from compiler.onnx_import import import_model, load_onnx
    from models import build, default_dims, list_models

    model = request.model
    if model in list_models():
        source = build(model, "absent", ELEMENT_TYPES[request.dtype])
        return import_model(source, None, model), {**default_dims(model), **request.dims}
    if Path(model).is_dir():
        return load_checkpoint(Path(model), request.dtype), {**DEFAULT_DIMS, **request.dims}
    if model.endswith(".onnx") or os.sep in model or Path(model).exists():
        return load_onnx(Path(model)), request.dims
    names = list_models()
    help = f"{did_you_mean(model, names)} known models: {', '.join(names)}; or give the path of an ONNX file".strip()
    raise ModelError(f"no model '{model}'", help=help)


def _summary(program: Program, options: Options, model: str, seconds: float) -> str:
    code = sum(kernel.core_a.nbytes + kernel.core_b.nbytes for kernel in program.kernels)
    constants = sum(storage.bytes for storage in program.storages if storage.role == "constant")
    launches = sum(len(entry.launches) for entry in program.entries)
    return (
        f"compiled {model} for {options.machine.name} in {seconds:.1f} s: {len(program.kernels)} kernels, {launches} "
        f"launches, {code:,} bytes of code, {constants:,} bytes of constants"
    )


def _deliver(request: Request, program: Program) -> None:
    if request.output:
        from isa.container import save_program

        save_program(program, request.output)
        note(f"wrote {request.output}: {os.stat(request.output).st_size:,} bytes")
    if request.simulate:
        _simulate(request, program)
    elif not request.output and not request.emit:
        note("nothing was written: -o OUT keeps the program, --simulate times it")


def _simulate(request: Request, program: Program) -> None:
    from simulator.simulator import Simulator

    simulator = Simulator(program)
    dims = {name: high for name, (_, high) in simulator.entry().symbols.items()}
    for name, high in dims.items():
        note(f"dim {name} is open: timed at {high}, the end of its range; --dim {name}=VALUE times another")
    with Progress("simulating launches", "starting the simulator (the first start compiles its kernels)") as progress:
        report = simulator.profile(dims=dims, progress=progress.step, indices=request.indices or "uniform")
    if request.json:
        write_text(request.json, report.to_json() + "\n")
    click.echo(str(report), nl=False)


if __name__ == "__main__":
    raise SystemExit(main())
