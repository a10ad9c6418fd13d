"""sweep-machines: evaluate many machines against models, and look at what came out.

Everything is imported where it is needed: `--help` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from isa.command_line import note, run_command
from isa.progress import Progress
from isa.whole_file import check_writable

if TYPE_CHECKING:
    from sweeps.coordinator import Advance
    from sweeps.points import SweepTable
    from sweeps.running import SweepStatus

NAME = "sweep-machines"
_STORE = "sweeps.sqlite"
_Decorated = Callable[..., Any]

_store = click.option("--store", default=_STORE, show_default=True, metavar="FILE", help="Where results are kept.")
_sweep = click.option("--sweep", "name", metavar="NAME", help="A sweep of the store; without, the latest one.")


def _where(function: _Decorated) -> _Decorated:
    workers = click.option(
        "--workers", type=click.IntRange(0), metavar="N",
        help="Local processes; default: one per CPU. 0: no other process.",
    )  # fmt: skip
    dask = click.option("--dask", metavar="ADDRESS", help="A dask scheduler in place of local processes.")
    return workers(dask(function))


@click.group(NAME, context_settings={"max_content_width": 100})
def command() -> None:
    """Sweep machines over the parameters of a file, and show the best ones.

    Results are kept in a store as they come: a sweep that was interrupted, or killed, goes on where it was.
    """


@command.command("run")
@click.argument("file")
@_store
@_where
def run_sweep(file: str, store: str, workers: int | None, dask: str | None) -> None:
    """Run the sweep of FILE to its end, or from where it was interrupted; print the Pareto front."""
    from sweeps.running import run
    from sweeps.sweep_file import read_sweep

    sweep = read_sweep(file)
    _check_place(workers, dask)
    with _Meter(sweep.name) as meter:
        table = run(sweep, store, workers=workers, dask=dask, observe=meter.observe)
    _print_front(table)


@command.command("resume")
@_store
@_sweep
@_where
@click.option("--retry-failed", is_flag=True, help="Try again what failed.")
def resume_sweep(store: str, name: str | None, workers: int | None, dask: str | None, retry_failed: bool) -> None:
    """Go on with a sweep of the store; its file is not needed."""
    from sweeps.running import resume

    _check_place(workers, dask)
    with _Meter(name or "") as meter:
        table = resume(store, name, workers=workers, dask=dask, observe=meter.observe, retry_failed=retry_failed)
    _print_front(table)


@command.command("status")
@_store
def show_status(store: str) -> None:
    """Tell how the sweeps of the store stand, also while one runs."""
    from sweeps.running import status

    found = status(store)
    for sweep in found.sweeps:
        click.echo(_status_line(sweep))
    runs = ", ".join(f"{count} {kind}" for kind, count in sorted(found.runs.items())) or "none"
    click.echo(f"runs in the store: {runs}")
    click.echo("a sweep is running" if found.is_being_written else "no sweep is running")


@command.command("pareto")
@_store
@_sweep
@click.option("--csv", metavar="FILE", help="Write all points to this file.")
@click.option("--parquet", metavar="FILE", help="Write all points to this file, typed.")
def show_front(store: str, name: str | None, csv: str | None, parquet: str | None) -> None:
    """Print the Pareto front of a sweep with its knee, and how it compares with the base machine."""
    from sweeps.reporting import report
    from sweeps.running import load_table

    for path in (csv, parquet):
        if path:
            check_writable(path)
    report(store, name, csv=csv, parquet=parquet)
    _print_front(load_table(store, name))


@command.command("report")
@_store
@_sweep
@click.option("-o", "--output", default="sweep.html", show_default=True, metavar="FILE", help="The page.")
def write_report(store: str, name: str | None, output: str) -> None:
    """Write a page that shows a sweep: front, parameters that matter, limits. It needs no network."""
    from sweeps.reporting import report

    check_writable(output)
    report(store, name, html=output)
    note(f"wrote {output}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(command, NAME, arguments)


def _check_place(workers: int | None, dask: str | None) -> None:
    if workers is not None and dask is not None:
        raise click.UsageError("--workers are processes of this computer, --dask is a cluster: give one of them")


def _print_front(table: SweepTable) -> None:
    from sweeps.tables import terminal_text

    click.echo(terminal_text(table, is_colour=sys.stdout.isatty()), nl=False)


def _status_line(sweep: SweepStatus) -> str:
    done = sum(sweep.points.values())
    of_total = f" of {sweep.total}" if sweep.total is not None else ""
    kinds = ", ".join(f"{count} {status}" for status, count in sorted(sweep.points.items()))
    version = "" if sweep.is_of_this_version else "; of another version of the tool: `resume` computes it again"
    return f"{sweep.name}: {done}{of_total} points" + (f" ({kinds})" if kinds else "") + version


class _Meter(Progress):
    """Progress of a sweep: points per second, time left, size of the front."""

    def __init__(self, name: str) -> None:
        starting = "starting workers (the first start compiles the simulator's kernels)"
        super().__init__(f"sweep {name}".rstrip(), starting)
        self._first: Advance | None = None

    def observe(self, advance: Advance) -> None:
        """Take where the sweep stands; points of before this run do not count for the speed."""
        first = self._first = self._first or advance
        points, seconds = advance.done - first.done, advance.seconds - first.seconds
        texts = [f"front of {advance.front}"]
        if points > 0 and seconds > 0:
            texts.insert(0, f"{points / seconds:.3g} points/s")
            if advance.total is not None:
                texts.insert(1, f"{_duration((advance.total - advance.done) * seconds / points)} left")
        self.step(advance.done, advance.total, ", ".join(texts))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


if __name__ == "__main__":
    raise SystemExit(main())
