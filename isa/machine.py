"""The hardware description: `Machine`, its presets, digests and derived figures.

A machine is a frozen tree of sections (`isa.machine_sections`), read from TOML and written back, checked as a whole
when it is made. Programs hold the whole machine; `code_digest` says which machines a program is valid for,
`timing_digest` which give the same cycles and joules. Compiler and simulator ask fields, never names of machines.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from isa.errors import MachineError
from isa.machine_sections import (
    LEAST_RATE,
    Accumulator,
    Control,
    Dma,
    Dram,
    DramTiming,
    Energy,
    Grid,
    Layout,
    Matrix,
    Noc,
    PerDtype,
    ProcessingElement,
    Section,
    Shapes,
    Simd,
    Sram,
    described,
    dtype_family,
)
from isa.memory_map import BANK_FOLDS, CACHE_SECTORS, MOST_CACHE_LINES, interleave_period_bytes
from isa.network import Network, network_of
from isa.power_sections import Dvfs, EnergyUncertainty
from isa.table import BY_NAME, Kind

_PRESET_FOLDER = Path(__file__).parent / "presets"
PRESETS: tuple[str, ...] = tuple(sorted(path.stem for path in _PRESET_FOLDER.glob("*.toml")))
MOST_PES, MOST_MESH_ROUTERS = 4096, 1024
"""Larger grids would take minutes to find the routes of."""
MOST_GAPS = 4096
"""A gap between tensors in DRAM is at most this part of it."""
_REGISTERS_READ = {
    name: sum(operand.kind is Kind.REGISTER for operand in row.operands) for name, row in BY_NAME.items()
}
_BYTES_PER_ELEMENT = {"int8": 1, "fp8": 1, "fp16": 2, "bf16": 2, "fp32": 4}


@dataclass(frozen=True, slots=True)
class MachineField:
    """One number of the description: dotted path, Python type name, unit, meaning, and what it shapes."""

    path: str
    type_name: str
    unit: str
    description: str
    shapes: Shapes


class Machine(Section):
    """A chip: grid of processing elements, shared SRAM, DRAM, network, control core, and its energy figures."""

    name: str = described("name of the machine", shapes="label", min_length=1)
    projected: bool = described("figures are a projection, not a published chip", shapes="label")
    process_nm: float = described("silicon process", unit="nm", shapes="label", gt=0)
    frequency_mhz: float = described("clock of the PEs", unit="MHz", shapes="time", ge=1, le=1e5)
    voltage_volts: float = described("supply voltage of the logic", unit="V", shapes="time", gt=0)
    tdp_watts: float = described("thermal design power", unit="W", shapes="label", gt=0)
    tdp_includes_dram: bool = described("its DRAM devices are in tdp_watts and typical_watts", shapes="label")
    typical_watts: float = described("power of a typical sustained load", unit="W", shapes="label", gt=0)
    peak_power_window_us: float = described(
        "span over which power is averaged to find its peak", unit="us", shapes="time", gt=0
    )
    grid: Grid
    pe: ProcessingElement
    matrix: Matrix
    accumulator: Accumulator
    simd: Simd
    layout: Layout
    dma: Dma
    noc: Noc
    sram: Sram
    dram: Dram
    dram_timing: DramTiming
    control: Control
    energy: Energy
    energy_uncertainty: EnergyUncertainty
    dvfs: Dvfs

    @staticmethod
    def from_toml(source: str | Path) -> Machine:
        """Read a TOML file (a path) or TOML text (a str with a newline); MachineError lists every problem."""
        from isa import machine_file

        return machine_file.read(source)

    @staticmethod
    def from_dict(values: Mapping[str, Any], where: str = "machine") -> Machine:
        """Check plain nested values, e.g. from a program file; MachineError lists every problem."""
        from isa import machine_file

        return machine_file.check(values, where)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values of str, int, float, bool and tuples of float, as `from_dict` takes them."""
        return self.model_dump(mode="python")

    def to_toml(self) -> str:
        """Return TOML text that `from_toml` reads back to an equal machine."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())

    def with_changes(self, changes: Mapping[str, Any]) -> Machine:
        """Return a machine with the fields at dotted paths replaced, e.g. `{"pe.local_memory_bytes": 524288}`."""
        from isa import machine_file

        return machine_file.check(machine_file.changed(self.to_dict(), changes), "changes")

    def at_frequency(self, frequency_mhz: float) -> Machine:
        """Return the machine at another clock in MHz, with the voltage that `dvfs` gives there.

        What the description gives per second or in ns stays as it is. MachineError for a clock outside of the points.
        """
        voltage = self.dvfs.voltage_at(frequency_mhz)
        if voltage is None:
            lowest, highest = self.dvfs.frequencies_mhz[0], self.dvfs.frequencies_mhz[-1]
            reach = f"its points reach from {lowest:g} to {highest:g} MHz"
            if lowest == highest:
                reach = f"its only point is at {lowest:g} MHz"
            raise MachineError(
                f"{self.name} cannot run at {frequency_mhz:g} MHz: {reach}",
                where="dvfs.frequencies_mhz",
                help="give the machine more points in [dvfs], or set frequency_mhz and voltage_volts",
            )
        return self.with_changes({"frequency_mhz": frequency_mhz, "voltage_volts": voltage})

    def consistency_problems(self) -> Iterator[tuple[str, str]]:
        """Yield (dotted path, sentence) for every rule that does not hold, in the sections too."""
        for section_name in type(self).model_fields:
            section = getattr(self, section_name)
            if isinstance(section, Section):
                for field_name, sentence in section.consistency_problems():
                    yield f"{section_name}.{field_name}", sentence
        if self.typical_watts > self.tdp_watts:
            yield "typical_watts", f"{self.typical_watts} is more than tdp_watts = {self.tdp_watts}"
        if self.matrix.block_rows > min(self.accumulator.rows, self.accumulator.columns):
            bank = f"{self.accumulator.rows} x {self.accumulator.columns}"
            yield "matrix.block_rows", f"a result of {self.matrix.block_rows} rows does not fit a bank of {bank}"
        for axis in ("rows", "columns"):
            size, cluster = getattr(self.grid, axis), getattr(self.noc, f"cluster_{axis}")
            if size % cluster:
                yield f"noc.cluster_{axis}", f"{cluster} does not divide grid.{axis} = {size}"
        if any(self.simd.rate_by_dtype[name] < LEAST_RATE for name in PerDtype.model_fields):
            yield "simd.rate_by_dtype", f"every rate must be at least {LEAST_RATE:g}"
        yield from self._cache_problems()
        if self.pe_count > MOST_PES:
            yield "grid.rows", f"{self.grid.rows} x {self.grid.columns} PEs are more than {MOST_PES}"
        routers = self.pe_count // (self.noc.cluster_rows * self.noc.cluster_columns)
        if self.noc.topology == "mesh" and routers > MOST_MESH_ROUTERS:
            yield (
                "noc.topology",
                f"a mesh of {routers} routers is more than {MOST_MESH_ROUTERS}: share them in clusters",
            )
        double_buffered = 4 * self.matrix.block_rows * self.matrix.block_k_bytes
        if self.pe.local_memory_bytes < double_buffered:
            yield (
                "pe.local_memory_bytes",
                f"{self.pe.local_memory_bytes} does not hold two double-buffered operand blocks of {double_buffered}",
            )

    def _cache_problems(self) -> Iterator[tuple[str, str]]:
        line = self.sram.cache_line_bytes
        if self.dram_period_bytes % line:
            period = f"the {self.dram_period_bytes} after which DRAM addresses meet the same banks"
            yield "sram.cache_line_bytes", f"{line} does not divide {period}"
        if line > CACHE_SECTORS * self.dram.access_bytes:
            accesses = f"{CACHE_SECTORS} accesses of dram.access_bytes = {self.dram.access_bytes}"
            yield "sram.cache_line_bytes", f"{line} is more than {accesses}: a sector is one access"
        if self.dram.bytes // line >= MOST_CACHE_LINES:
            yield "sram.cache_line_bytes", f"{line} splits dram.bytes into more than {MOST_CACHE_LINES} lines"

    @model_validator(mode="after")
    def _is_consistent(self) -> Machine:
        problems = tuple(self.consistency_problems())
        if problems:
            text = "; ".join(f"{path}: {sentence}" for path, sentence in problems)
            raise PydanticCustomError("inconsistent", "{text}", {"text": text, "problems": problems})
        return self

    @property
    def code_digest(self) -> str:
        """Sha256 over the fields that shape code: a program runs on every machine with an equal code digest."""
        return self._digest("code")

    @property
    def timing_digest(self) -> str:
        """Sha256 over the fields that shape only cycles and joules."""
        return self._digest("time")

    def _digest(self, shapes: Shapes) -> str:
        values = {field.path: self.value(field.path) for field in machine_fields() if field.shapes == shapes}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def value(self, path: str) -> Any:
        """Return the value at a dotted path of `machine_fields()`."""
        return functools.reduce(getattr, path.split("."), self)

    @property
    def pe_count(self) -> int:
        """Processing elements: grid.rows x grid.columns."""
        return self.grid.rows * self.grid.columns

    @property
    def cycles_per_second(self) -> float:
        """Clock in Hz: frequency_mhz x 1e6."""
        return self.frequency_mhz * 1e6

    @property
    def cycle_ns(self) -> float:
        """Length of a cycle in ns: 1000 / frequency_mhz."""
        return 1000.0 / self.frequency_mhz

    def matrix_instruction(self, dtype: str) -> str:
        """Name of the instruction that multiplies blocks of a dtype: fp32 needs vector lanes if the DPE lacks it."""
        return "vmml" if dtype == "fp32" and not self.matrix.rate_by_dtype.fp32 else "mml"

    def issue_cycles(self, instruction: str) -> int:
        """Cycles that a core spends on issuing a command: it writes the register operands, then it goes."""
        return self.pe.command_issue_cycles + _REGISTERS_READ[instruction] * self.pe.operand_write_cycles

    def peak_macs_per_cycle(self, dtype: str) -> float:
        """Multiply-accumulates of one PE per cycle by `matrix_instruction`.

        mml: tiles x block_rows x (block_k_bytes / bytes of dtype) x rate; vmml: simd.multiply_adds_per_cycle. KeyError
        if the matrix engine does not know the dtype.
        """
        if self.matrix_instruction(dtype) == "vmml":
            return float(self.simd.multiply_adds_per_cycle)
        matrix = self.matrix
        elements = matrix.block_k_bytes // _BYTES_PER_ELEMENT[dtype_family(dtype)]
        return matrix.tiles * matrix.block_rows * elements * matrix.rate_by_dtype[dtype]

    def peak_macs_per_second(self, dtype: str) -> float:
        """Multiply-accumulates of the chip per second: pe_count x peak_macs_per_cycle x cycles_per_second."""
        return self.pe_count * self.peak_macs_per_cycle(dtype) * self.cycles_per_second

    def sparse_peak_macs_per_second(self, dtype: str) -> float:
        """As `peak_macs_per_second`, with 2:4 weights and K counted dense.

        With `matrix.sparsity_2_4` twice the dense peak, half of which is multiplied; else the dense peak.
        """
        is_faster = self.matrix.sparsity_2_4 and self.matrix_instruction(dtype) == "mml"
        return self.peak_macs_per_second(dtype) * (2 if is_faster else 1)

    @property
    def peak_simd_elements_per_second(self) -> float:
        """Element operations of the chip: pe_count x simd.elements_per_cycle x cycles_per_second."""
        return self.pe_count * self.simd.elements_per_cycle * self.cycles_per_second

    @property
    def total_local_memory_bytes(self) -> int:
        """Local memory of all PEs: pe_count x pe.local_memory_bytes."""
        return self.pe_count * self.pe.local_memory_bytes

    @property
    def local_memory_bytes_per_second(self) -> float:
        """Local-memory bandwidth of one PE: pe.local_memory_bytes_per_cycle x cycles_per_second."""
        return self.pe.local_memory_bytes_per_cycle * self.cycles_per_second

    @property
    def sram_bytes_per_second(self) -> float:
        """Shared-SRAM bandwidth of the chip: sram.bytes_per_cycle x cycles_per_second."""
        return self.sram.bytes_per_cycle * self.cycles_per_second

    def cache_bytes(self, used_bytes: int) -> int:
        """SRAM that caches DRAM beside a program that uses so much: whole sets of what is left, in whole steps."""
        step, set_bytes = self.sram.cache_step_bytes, self.sram.cache_line_bytes * self.sram.cache_ways
        left = max(self.sram.bytes - -(-used_bytes // step) * step, 0) if step else 0
        return left // set_bytes * set_bytes

    @property
    def network(self) -> Network:
        """The routers of the grid and the links between them."""
        noc = self.noc
        return network_of(noc.topology, self.grid.rows // noc.cluster_rows, self.grid.columns // noc.cluster_columns)

    @property
    def mean_hops(self) -> float:
        """Hops between a port and a router on average over both."""
        rows, columns = self.network.rows, self.network.columns
        if self.noc.topology == "crossbar":
            return (rows + columns + 2) / 4
        return (columns + 1) / 2 + (rows - 1 / rows) / 3

    def launch_ns(self, pe_count: int, *, replaces: bool) -> float:
        """Time to start a launch on so many PEs, on idle ones or replacing the launch before: see `control`."""
        control = self.control
        base = control.launch_replace_ns if replaces else control.launch_ns
        return base + (0.0 if control.queue_broadcast else (pe_count - 1) * control.descriptor_ns)

    @property
    def dram_deliverable_bytes_per_second(self) -> float:
        """DRAM bandwidth that a stream can reach: peak x dram_timing.refresh_efficiency x dram.ecc_efficiency."""
        return self.dram.bytes_per_second * self.dram_timing.refresh_efficiency * self.dram.ecc_efficiency

    @property
    def dram_period_bytes(self) -> int:
        """Distance after which addresses meet the same channels and banks again, and all rows are others."""
        dram, banks = self.dram, self.dram_timing.banks
        units_per_row = max(1, dram.row_bytes // dram.interleave_bytes)
        units = math.lcm(banks**BANK_FOLDS, banks * units_per_row)
        channels = interleave_period_bytes(dram.channels, dram.interleave_bytes)
        return math.lcm(channels, units * dram.channels * dram.interleave_bytes, dram.row_bytes)

    @property
    def dram_alignment_bytes(self) -> int:
        """Where tensors start: at multiples of `dram_period_bytes`, so that equal layers take equal time.

        Where gaps of that size would cost memory, equal layers only meet the same channels.
        """
        is_small = self.dram_period_bytes <= self.dram.bytes // MOST_GAPS
        channels = interleave_period_bytes(self.dram.channels, self.dram.interleave_bytes)
        return self.dram_period_bytes if is_small else channels

    @property
    def dram_bytes_per_cycle(self) -> float:
        """Deliverable DRAM bandwidth per PE cycle: dram_deliverable_bytes_per_second / cycles_per_second."""
        return self.dram_deliverable_bytes_per_second / self.cycles_per_second


@functools.cache
def machine_fields() -> tuple[MachineField, ...]:
    """Every number of a machine in the order of the classes."""
    return tuple(_fields_of(Machine, "", None))


def _fields_of(section: type[Section], prefix: str, around: MachineField | None) -> Iterator[MachineField]:
    for name, info in section.model_fields.items():
        path = f"{prefix}{name}"
        annotation = info.annotation
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        unit, shapes = str(extra.get("unit", "")), extra.get("shapes", "label")
        is_list = get_origin(annotation) is tuple
        type_name = "tuple" if is_list else annotation.__name__ if isinstance(annotation, type) else "str"
        field = MachineField(path, type_name, unit, info.description or "", shapes)  # type: ignore[arg-type]
        if annotation is PerDtype:
            yield from _fields_of(PerDtype, f"{path}.", field)
        elif isinstance(annotation, type) and issubclass(annotation, Section):
            yield from _fields_of(annotation, f"{path}.", None)
        elif around is not None:
            yield MachineField(path, type_name, around.unit, f"{around.description}, {name}", around.shapes)
        else:
            yield field


@functools.cache
def preset(name: str) -> Machine:
    """Return the machine of a preset; an unknown name is a MachineError that lists `PRESETS`."""
    from isa import machine_file

    if name not in PRESETS:
        raise machine_file.unknown_preset(name, PRESETS)
    return Machine.from_toml(preset_path(name))


def preset_path(name: str) -> Path:
    """Return the TOML file of a preset."""
    return _PRESET_FOLDER / f"{name}.toml"


def load_machine(name_or_path: str | Path) -> Machine:
    """Return the preset of that name, or read the TOML file if the argument ends in `.toml` or names a folder part."""
    text = str(name_or_path)
    is_file = text.endswith(".toml") or "/" in text or Path(text).is_file()
    return Machine.from_toml(Path(text)) if is_file else preset(text)
