"""The report for people: a page of at most 80 columns and 24 lines, then a table of operations."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from simulator.operation_names import shared_name, short_names
from simulator.report import OperationReport, Report

COLUMNS = 80
_LABEL, _NAME = 20, 26
_LEAST_SHARE = 0.0005
"""Operations that take less of the time are shown together."""
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"),
             (1e-9, "n"))  # fmt: skip


def render(report: Report) -> str:
    """Return the report as plain text; equal reports give equal text."""
    rows = [*_headline(report), *_traffic(report), *_work(report)]
    rows += [("note", note) for note in report.notes]
    lines = [line for label, text in rows for line in _wrapped(label, text)]
    return "\n".join([*lines, "", *_table(report)]) + "\n"


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, COLUMNS, initial_indent=label.ljust(_LABEL), subsequent_indent=" " * _LABEL, break_on_hyphens=False
    )


def quantity(value: float, unit: str) -> str:
    """Return a value with four digits and an SI prefix: 0.0931, "s" -> "93.10 ms"."""
    if abs(value) < _PREFIXES[-1][0] * 0.99995:
        return f"0 {unit}" if value == 0 else f"{value:.3g} {unit}"
    scale, prefix = _prefix(value)
    return f"{_fixed(value / scale, 4)} {prefix}{unit}"


def _prefix(value: float) -> tuple[float, str]:
    """Return the (scale, SI prefix) that leaves 1 to 999 of a value; the smallest one of values below all."""
    return next((pair for pair in _PREFIXES if abs(value) >= pair[0] * 0.99995), _PREFIXES[-1])


def _fixed(value: float, digits: int) -> str:
    """Return a number with that many digits, and all that stand before the point."""
    return f"{value:.{max(0, digits - _integer_digits(value))}f}"


def _integer_digits(value: float) -> int:
    return len(str(int(abs(value) * 1.00005)))


def _percent(part: float, whole: float = 1.0) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _headline(report: Report) -> Iterator[tuple[str, str]]:
    dims = ", ".join(f"{name} = {size}" for name, size in report.dims.items())
    yield "machine", f"{report.machine}, entry {report.entry}" + (f", {dims}" if dims else "")
    yield "latency", f"{quantity(report.latency_seconds, 's')} = {report.cycles:,} cycles"
    yield "lower bound", _lower_bound(report)
    launching = f"{report.launch_cycles:,} cycles to start {len(report.launches)} launches"
    yield "job launch", f"{launching} ({_percent(report.launch_cycles, report.cycles)})"
    yield "host link", f"{quantity(report.host_link_seconds, 's')} for inputs and outputs, not part of the latency"
    yield "energy", _energy(report)
    yield "of it", _shares(report.energy_parts_joules, report.energy_joules)
    yield "average power", _average_power(report)
    yield "peak power", _peak_power(report)


def _lower_bound(report: Report) -> str:
    share = _percent(report.share_of_bound)
    return f"{quantity(report.lower_bound_seconds, 's')} by {report.lower_bound_resource}, {share} of the latency"


def _energy(report: Report) -> str:
    scale, prefix = _prefix(report.energy_joules)
    band = " to ".join(_fixed(joules / scale, 3) for joules in report.energy_band_joules)
    dram = quantity(report.dram_energy_joules, "J")
    return f"{quantity(report.energy_joules, 'J')} ({band} {prefix}J), of it {dram} in the DRAM"


def _average_power(report: Report) -> str:
    dram, tdp = f"{report.dram_power_watts:.1f} W in the DRAM", f"{report.tdp_watts:g} W TDP"
    if report.tdp_includes_dram:
        return f"{report.average_power_watts:.1f} W of {tdp}, {dram}"
    return f"{report.chip_power_watts:.1f} W in the chip of {tdp}, {dram}"


def _peak_power(report: Report) -> str:
    where = "chip and DRAM" if report.tdp_includes_dram else "the chip"
    window = f"{report.peak_window_seconds * 1e6:.4g} us"
    share = f"{100 * report.peak_power_watts / report.tdp_watts:.0f} % of TDP"
    return f"{report.peak_power_watts:.1f} W in {where} over {window} ({share})"


def _shares(parts: Mapping[str, float], whole: float) -> str:
    """Return the parts of at least a thousandth, largest first; what the others take together is `other`."""
    large = {name: value for name, value in parts.items() if value >= whole / 1000}
    ordered = sorted(large.items(), key=lambda item: (-item[1], item[0]))
    if len(large) < len(parts):
        ordered.append(("other", whole - sum(large.values())))
    return ", ".join(f"{name} {_percent(value, whole)}" for name, value in ordered).replace(" %", "%")


def _traffic(report: Report) -> Iterator[tuple[str, str]]:
    read, written = quantity(report.dram_read_bytes, "B"), quantity(report.dram_written_bytes, "B")
    yield "DRAM", f"{quantity(report.dram_bytes, 'B')}: {read} read, {written} written"
    deliverable, peak = report.dram_deliverable_bytes_per_second, report.dram_peak_bytes_per_second
    for name, rate in (("deliverable", deliverable), ("peak", peak)):
        bound = report.dram_bytes / rate
        ratio = f", latency is {report.latency_seconds / bound:.2f} x that" if bound else ""
        yield f"at {name} rate", f"{quantity(bound, 's')} at {quantity(rate, 'B/s')}{ratio}"
    delivered, taken = quantity(report.cache_hit_bytes, "B"), quantity(report.cache_filled_bytes, "B")
    if report.cache_bytes:
        size = f"{quantity(report.cache_bytes, 'B')} of SRAM, {delivered} delivered, {taken} taken in"
        yield "DRAM cache", f"{size}; SRAM delivers {_percent(report.sram_hit_rate)} of all reads"
    yield "SRAM, NoC", f"{quantity(report.sram_bytes, 'B')} at the SRAM, {quantity(report.noc_bytes, 'B')} on the NoC"


def _work(report: Report) -> Iterator[tuple[str, str]]:
    padding = _percent(report.issued_macs - report.useful_macs, report.issued_macs)
    useful, issued = quantity(report.useful_macs, ""), quantity(report.issued_macs, "")
    yield "MACs", f"{useful.strip()} useful, {issued.strip()} issued, padding {padding}"
    yield "model utilization", f"{_percent(report.model_utilization)} (useful MACs over peak)"
    shares = ", ".join(f"{name} {100 * share:.1f}%" for name, share in report.utilization.items())
    yield "unit utilization", shares
    yield "commands", f"{report.commands:,} started, {report.instructions:,} scalar instructions"
    reused = len(report.launches) - report.simulated_launches
    yield "simulation", f"{report.simulated_launches} launches simulated, {reused} equal to one of them and reused"


@dataclass(frozen=True, slots=True)
class _Group:
    """Operations of one name, but for the number of their layer; `count` of them."""

    name: str
    count: int
    cycles: int
    lower_bound_cycles: float
    lower_bound_resource: str
    bound_by: str
    dram_bytes: int


def _groups(report: Report) -> Iterator[_Group]:
    """Yield groups by falling time; those that take next to none come last, as one."""
    by_name: dict[str, list[OperationReport]] = {}
    for operation in report.operations:
        by_name.setdefault(shared_name(operation.operation, operation.kernel), []).append(operation)
    time = {name: sum(row.cycles for row in rows) for name, rows in by_name.items()}
    shown = [name for name in by_name if time[name] >= _LEAST_SHARE * report.cycles]
    for name in sorted(shown, key=lambda name: (-time[name], name)):
        yield _group(name, by_name[name])
    others = [name for name in by_name if name not in shown]
    if others:
        name = others[0] if len(others) == 1 else f"({len(others)} others)"
        yield _group(name, [row for other in others for row in by_name[other]])


def _group(name: str, rows: list[OperationReport]) -> _Group:
    return _Group(
        name, len({row.operation for row in rows}), sum(row.cycles for row in rows),
        sum(row.lower_bound_cycles for row in rows),
        _most((row.lower_bound_resource, row.lower_bound_cycles) for row in rows),
        _most((row.bound_by, row.cycles) for row in rows), sum(row.dram_bytes for row in rows),
    )  # fmt: skip


def _most(weighted: Iterable[tuple[str, float]]) -> str:
    """Return the word with the largest sum."""
    sums: dict[str, float] = {}
    for word, weight in weighted:
        sums[word] = sums.get(word, 0) + weight
    return min(sums, key=lambda word: (-sums[word], word))


def _table(report: Report) -> Iterator[str]:
    yield f"{'operation':<{_NAME}}{'n':>4}{'time':>10}{'share':>8}{'of bound':>10}{'busiest':>13}{'DRAM':>8}"
    seconds_per_cycle = report.latency_seconds / report.cycles if report.cycles else 0.0
    groups = list(_groups(report))
    for name, group in zip(short_names([group.name for group in groups], _NAME), groups, strict=True):
        time, share = quantity(group.cycles * seconds_per_cycle, "s"), _percent(group.cycles, report.cycles)
        reached = _percent(group.lower_bound_cycles, group.cycles) if group.lower_bound_cycles else "-"
        busiest = group.bound_by.replace("local_memory", "local")
        resource = group.lower_bound_resource if group.lower_bound_cycles else ""
        yield (f"{name:<{_NAME}}{group.count:>4}{time:>10}{share:>8}{reached:>9} {resource:<5} {busiest:<7}"
               f"{quantity(group.dram_bytes, 'B'):>9}").rstrip()  # fmt: skip
    time = quantity(report.launch_cycles * seconds_per_cycle, "s")
    share = _percent(report.launch_cycles, report.cycles)
    yield f"{'(job launch)':<{_NAME}}{len(report.launches):>4}{time:>10}{share:>8}"
    if any(group.lower_bound_cycles > 1.0005 * group.cycles for group in groups):
        yield "over 100 % of bound: a part of it was done while the operation before it lasted"
