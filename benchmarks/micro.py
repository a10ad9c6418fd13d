"""A roofline by simulation: matrix products of growing size, each compiled and timed, against what the chip allows.

    python benchmarks/micro.py                                         all presets, up to 4096 x 4096 x 4096
    python benchmarks/micro.py --machine mtia-2i --machine my-chip.toml
    python benchmarks/micro.py --picture docs/roofline.svg             the same as a picture (.svg or .png)

Products are `a[M, K] @ b[K, N]` in fp16, b being a weight in DRAM; K = N. Intensity is the useful flop per DRAM byte
that the program moved; the bound is the lesser of the peak and intensity x deliverable DRAM bandwidth. Time is that of
the kernels, without the launch of the job before them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click

from benchmarks.validate import product, timed
from isa.command_line import run_command
from isa.errors import ToolError
from isa.machine import PRESETS, Machine, load_machine
from isa.whole_file import check_writable, replacing

NAME = "benchmarks/micro.py"
DTYPE = "fp16"
ROWS = tuple(1 << power for power in range(13))
SIZE = 4096
WIDTH = 100
"""Columns of the table where there is no terminal."""


@dataclass(frozen=True)
class Point:
    """One product on one machine."""

    machine: Machine
    rows: int
    size: int
    seconds: float
    dram_bytes: int
    bound_by: str

    @property
    def flop(self) -> int:
        """Useful operations, two per multiply-accumulate."""
        return 2 * self.rows * self.size * self.size

    @property
    def achieved(self) -> float:
        """Useful operations per second."""
        return self.flop / self.seconds

    @property
    def intensity(self) -> float:
        """Useful operations per byte of DRAM traffic."""
        return self.flop / self.dram_bytes

    @property
    def bound(self) -> float:
        """Operations per second that peak and DRAM allow at this intensity."""
        return roofline(self.machine, self.intensity)

    @property
    def ratio(self) -> float:
        """Achieved part of the bound."""
        return self.achieved / self.bound


def roofline(machine: Machine, intensity: float) -> float:
    """Return the operations per second that a machine allows at an intensity in flop per DRAM byte."""
    return min(2 * machine.peak_macs_per_second(DTYPE), intensity * machine.dram_deliverable_bytes_per_second)


def point(machine: Machine, rows: int, size: int) -> Point:
    """Compile a product, time it, and return where it lies."""
    report = timed(product(rows, size, size, weights=True), machine)
    cycles = sum(operation.cycles for operation in report.operations)
    longest = max(report.operations, key=lambda operation: operation.cycles)
    return Point(machine, rows, size, cycles / machine.cycles_per_second, report.dram_bytes, longest.bound_by)


def sweep(machine: Machine, rows: Sequence[int], size: int) -> Iterator[Point]:
    """Yield the points of a machine."""
    for count in rows:
        yield point(machine, count, size)


COLUMNS = ("M", "time us", "TFLOP/s", "flop/byte", "bound TFLOP/s", "of bound", "bound by")


def cells(item: Point) -> tuple[str, ...]:
    """Return a row of the table."""
    return (
        f"{item.rows}", f"{item.seconds * 1e6:.2f}", f"{item.achieved / 1e12:.3f}", f"{item.intensity:.2f}",
        f"{item.bound / 1e12:.3f}", f"{item.ratio:.1%}", item.bound_by,
    )  # fmt: skip


def title(machine: Machine, size: int) -> str:
    """Return the line above a table: the machine, its two roofs, and whether it exists."""
    peak, rate = 2 * machine.peak_macs_per_second(DTYPE) / 1e12, machine.dram_deliverable_bytes_per_second / 1e9
    mark = ", projected" if machine.projected else ""
    return f"{machine.name}{mark}: {DTYPE}, K = N = {size}; peak {peak:.1f} TFLOP/s, DRAM {rate:,.1f} GB/s"


def print_table(points: Sequence[Point]) -> None:
    """Print the points of one machine: a table in a terminal, plain aligned text anywhere else."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, **({} if sys.stdout.isatty() else {"width": WIDTH}))
    console.print(title(points[0].machine, points[0].size), style="bold", highlight=False, soft_wrap=True)
    table = Table() if console.is_terminal else Table(box=None)
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if number == len(COLUMNS) - 1 else "right", no_wrap=True)
    for item in points:
        table.add_row(*cells(item))
    console.print(table)
    console.print()


def plotting() -> Any:
    """Return matplotlib, set so that equal points give equal files; ToolError if it is not installed."""
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError as error:
        help = "pip install matplotlib, or the extra `plots` of this package"
        raise ToolError("needs matplotlib, which is not installed", where="--picture", help=help) from error
    matplotlib.use("agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tilewright", "font.size": 9})
    return importlib.import_module("matplotlib.pyplot")


def check_picture(path: str) -> None:
    """Raise ToolError before the sweep if there could be no picture after it."""
    if Path(path).suffix not in (".svg", ".png"):
        raise ToolError("is no kind of picture", where=path, help="end the name in .svg or .png")
    check_writable(path)
    plotting()


def write_picture(path: str, by_machine: Sequence[Sequence[Point]]) -> None:
    """Draw a roofline per machine with its points, and write it to a file that appears complete or not at all."""
    pyplot = plotting()
    figure, axes = pyplot.subplots(figsize=(8.5, 5.5), layout="constrained")
    intensities = [item.intensity for points in by_machine for item in points]
    low, high = min(intensities) / 2, max(intensities) * 2
    for number, points in enumerate(by_machine):
        machine, color = points[0].machine, f"C{number % 10}"
        ridge = 2 * machine.peak_macs_per_second(DTYPE) / machine.dram_deliverable_bytes_per_second
        corners = [low, *([ridge] if low < ridge < high else []), high]
        style = "--" if machine.projected else "-"
        axes.plot(corners, [roofline(machine, at) / 1e12 for at in corners], style, color=color, linewidth=1)
        label = machine.name + (" (projected)" if machine.projected else "")
        axes.plot([item.intensity for item in points], [item.achieved / 1e12 for item in points], "o", color=color,
                  markersize=4, label=label)  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="useful flop per DRAM byte", ylabel="TFLOP/s",
        title=f"a[M, {points[0].size}] @ b[{points[0].size}, {points[0].size}] in {DTYPE}: lines allow, points achieve",
    )  # fmt: skip
    axes.grid(visible=True, which="major", linewidth=0.3)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], frameon=False, loc="lower right")
    kind = Path(path).suffix[1:]
    metadata = {"Date": None} if kind == "svg" else None
    try:
        with replacing(path) as file:
            figure.savefig(file, format=kind, metadata=metadata, dpi=120)
    except OSError as error:
        raise ToolError(f"cannot be written: {error.strerror}", where=path) from error
    finally:
        pyplot.close(figure)


@click.command(NAME)
@click.option("--machine", "machines", multiple=True, metavar="NAME|FILE.toml", help="May be repeated.  [default: all]")
@click.option("--rows", multiple=True, type=click.IntRange(1), metavar="M", help="May be repeated.  [default: 1..4096]")
@click.option("--size", type=click.IntRange(1), default=SIZE, show_default=True, help="K and N.")
@click.option("--picture", metavar="FILE", help="Also draw the rooflines (.svg or .png); needs matplotlib.")
def command(machines: tuple[str, ...], rows: tuple[int, ...], size: int, picture: str | None) -> None:
    """Simulate matrix products of growing size and compare them with the roofline of the machine."""
    chosen = [load_machine(name) for name in machines or PRESETS]
    if picture:
        check_picture(picture)
    for machine in chosen:
        if not machine.matrix.rate_by_dtype[DTYPE]:
            help = "the sweep is in that type: give matrix.rate_by_dtype a rate above 0 for it"
            raise ToolError(f"the matrix engine does not multiply {DTYPE}", where=machine.name, help=help)
    by_machine = []
    for machine in sorted(chosen, key=lambda each: each.peak_macs_per_second(DTYPE)):
        by_machine.append(list(sweep(machine, rows or ROWS, size)))
        print_table(by_machine[-1])
    if picture:
        write_picture(picture, by_machine)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_command(command, NAME, arguments)


if __name__ == "__main__":
    sys.exit(main())
