"""The sections of a machine description: one frozen pydantic class per part of the chip.

Each field says its unit, its meaning and what it shapes: `code` fields decide which programs are valid (a program runs
only on machines that agree in them), `time` fields decide only cycles and joules, `label` fields are for people.
Nothing here reads files or knows a preset; consistency between fields is checked by `consistency_problems` methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Shapes = Literal["code", "time", "label"]


_LIMITS: dict[str, dict[str, float]] = {
    "ns": {"le": 1e7}, "cycles": {"le": 1_000_000}, "bytes/cycle": {"le": 1_000_000},
    "elements/cycle": {"le": 1_000_000}, "bytes/s": {"ge": 1e6, "le": 1e16},
    "bytes": {"le": 1 << 48},
}  # fmt: skip
"""By unit: what a field may be at most and at least, so that times stay numbers that a launch can be simulated in."""


def described(description: str, *, shapes: Shapes, unit: str = "", **bounds: Any) -> Any:
    """Return a required pydantic field with its meaning, unit, what it shapes, and its bounds (`gt`, `ge`, `le`...)."""
    limits = {**_LIMITS.get(unit, {}), **bounds}
    if "gt" in limits and "ge" in limits:
        del limits["gt"]
    return Field(description=description, json_schema_extra={"unit": unit, "shapes": shapes}, **limits)


class Section(BaseModel):
    """A frozen group of fields; no unknown keys, no silent conversion between types, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def consistency_problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field name, sentence) for every rule between fields that does not hold."""
        return iter(())


def dtype_family(dtype: str) -> str:
    """Return the name under which the sections of a machine keep a dtype's numbers."""
    return "fp8" if dtype.startswith("fp8") else dtype


LEAST_RATE = 1 / 64
"""Below it a rate is no rate but a mistake."""


class PerDtype(Section):
    """One number per dtype of the matrix engine; `fp8e4m3` and `fp8e5m2` share `fp8`."""

    int8: float = Field(ge=0)
    fp8: float = Field(ge=0)
    fp16: float = Field(ge=0)
    bf16: float = Field(ge=0)
    fp32: float = Field(ge=0)

    def __getitem__(self, dtype: str) -> float:
        """Return the number for a dtype name; KeyError if the matrix engine does not know the dtype."""
        key = dtype_family(dtype)
        if key not in _FAMILIES:
            raise KeyError(dtype)
        return float(getattr(self, key))

    def get(self, dtype: str, default: float = 0.0) -> float:
        """Return the number for a dtype name, or `default` if the matrix engine does not know it."""
        return self[dtype] if dtype_family(dtype) in _FAMILIES else default


_FAMILIES = frozenset(PerDtype.model_fields)


class Grid(Section):
    """The array of processing elements."""

    rows: int = described("rows of processing elements", shapes="code", gt=0, le=256)
    columns: int = described("columns of processing elements", shapes="code", gt=0, le=256)


class ProcessingElement(Section):
    """What a processing element has besides its units: local memory, circular buffers, two scalar cores."""

    local_memory_bytes: int = described("local memory of one PE", unit="bytes", shapes="code", gt=0)
    local_memory_bytes_per_cycle: int = described(
        "local-memory bandwidth of one PE, reads and writes together", unit="bytes/cycle", shapes="time", gt=0
    )
    circular_buffers: int = described("circular buffers per PE", shapes="code", gt=0, le=64)
    registers: int = described("integer registers per scalar core", shapes="code", ge=16, le=32)
    command_queue_depth: int = described("commands a unit can hold before its issuer stalls", shapes="time", gt=0)
    scalar_cycles_per_instruction: int = described(
        "cycles of one scalar instruction", unit="cycles", shapes="time", gt=0
    )
    command_issue_cycles: int = described(
        "cycles a scalar core needs to issue one command", unit="cycles", shapes="time", gt=0
    )
    operand_write_cycles: int = described(
        "cycles to write one register operand of a command before it is issued; 0: contexts keep them",
        unit="cycles",
        shapes="time",
        ge=0,
    )
    branch_cycles: int = described("extra cycles of a taken branch", unit="cycles", shapes="time", ge=0)


_SPARSE_BLOCK_BYTES = 16
"""Four elements of the widest dtype."""


class Matrix(Section):
    """The matrix engine (DPE): one tile makes `block_rows` dot products of `block_k_bytes` per cycle."""

    tiles: int = described("tiles that work on one block side by side", shapes="time", gt=0)
    block_rows: int = described("rows of an operand block", unit="rows", shapes="code", gt=0, le=256)
    block_k_bytes: int = described("bytes of K in an operand block", unit="bytes", shapes="code", ge=4, le=1024)
    rate_by_dtype: PerDtype = described(
        "multiply rate relative to the one the operand width allows; 0 means the dtype is not supported", shapes="code"
    )
    operand_fill_bytes_per_cycle: int = described(
        "rate at which an operand is read from local memory", unit="bytes/cycle", shapes="time", gt=0
    )
    fill_cycles: int = described("pipeline fill before the first result", unit="cycles", shapes="time", ge=0)
    max_repeat_blocks: int = described(
        "blocks that one command walks with auto-increment", unit="blocks", shapes="code", gt=0
    )
    sparsity_2_4: bool = described("`mml_sparse` multiplies weights compressed 2:4 at twice the rate", shapes="code")

    def consistency_problems(self) -> Iterator[tuple[str, str]]:
        if self.block_k_bytes & (self.block_k_bytes - 1):
            yield (
                "block_k_bytes",
                f"must be a power of two to hold whole elements of every dtype, not {self.block_k_bytes}",
            )
        if self.sparsity_2_4 and self.block_k_bytes < _SPARSE_BLOCK_BYTES:
            yield (
                "sparsity_2_4",
                f"needs block_k_bytes of {_SPARSE_BLOCK_BYTES} or more: a block holds whole groups of 4 of every dtype",
            )
        rates = {name: self.rate_by_dtype[name] for name in PerDtype.model_fields}
        if not any(rates.values()):
            yield "rate_by_dtype", "at least one dtype needs a rate above 0"
        if any(0 < rate < LEAST_RATE for rate in rates.values()):
            yield "rate_by_dtype", f"a rate must be 0 or at least {LEAST_RATE:g}"


class Accumulator(Section):
    """The reduction engine (RE): accumulator banks and the neighbour network that adds them up."""

    banks: int = described("independent accumulator banks", shapes="code", gt=0, le=64)
    rows: int = described("rows of a bank", unit="rows", shapes="code", gt=0, le=256)
    columns: int = described("columns of a bank", unit="elements", shapes="code", gt=0, le=256)
    drain_elements_per_cycle: int = described(
        "accumulators read or written per cycle", unit="elements/cycle", shapes="time", gt=0
    )
    latency_cycles: int = described("latency of a drain or preload", unit="cycles", shapes="time", ge=0)
    link_latency_cycles: int = described(
        "latency of one neighbour link of the reduction network", unit="cycles", shapes="time", ge=0
    )
    reduction_network: bool = described("neighbours can add their banks", shapes="code")


class Simd(Section):
    """The SIMD engine (SE): element-wise arithmetic and functions by lookup table."""

    elements_per_cycle: int = described("element operations per cycle", unit="elements/cycle", shapes="time", gt=0)
    lut_elements_per_cycle: int = described("table functions per cycle", unit="elements/cycle", shapes="time", gt=0)
    rate_by_dtype: PerDtype = described("rate of a dtype relative to these two; above 0", shapes="time")
    multiply_adds_per_cycle: int = described(
        "fp32 multiply-adds of `vmml` per cycle", unit="elements/cycle", shapes="time", gt=0
    )
    latency_cycles: int = described("pipeline latency of a command", unit="cycles", shapes="time", ge=0)
    max_accumulate_rows: int = described("rows one row-accumulate command can sum", unit="rows", shapes="code", gt=0)

    def consistency_problems(self) -> Iterator[tuple[str, str]]:
        if self.lut_elements_per_cycle > self.elements_per_cycle:
            yield (
                "lut_elements_per_cycle",
                f"{self.lut_elements_per_cycle} is more than elements_per_cycle = {self.elements_per_cycle}",
            )
        if self.multiply_adds_per_cycle > self.elements_per_cycle:
            yield (
                "multiply_adds_per_cycle",
                f"{self.multiply_adds_per_cycle} is more than elements_per_cycle = {self.elements_per_cycle}",
            )


class Layout(Section):
    """The memory layout unit (MLU): copies, transposes, concatenation."""

    bytes_per_cycle: int = described("bytes moved per cycle", unit="bytes/cycle", shapes="time", gt=0)
    latency_cycles: int = described("pipeline latency of a command", unit="cycles", shapes="time", ge=0)


class Dma(Section):
    """The fabric interface (FI) of one PE: transfers between shared memories and local memory."""

    bytes_per_cycle: int = described("port width of one PE to the network", unit="bytes/cycle", shapes="time", gt=0)
    outstanding: int = described("transfers in flight of one command queue", shapes="time", gt=0, le=64)
    issue_cycles: int = described("cycles between starts of two transfers", unit="cycles", shapes="time", ge=0)
    alignment_bytes: int = described("addresses and strides are multiples of this", unit="bytes", shapes="code", gt=0)
    broadcast_reads: bool = described("one read can be delivered to a row or column of PEs", shapes="code")
    indexed: bool = described("gather and scatter by row index in hardware", shapes="code")
    memory_to_memory: bool = described("prefetch from DRAM to shared SRAM", shapes="code")

    def consistency_problems(self) -> Iterator[tuple[str, str]]:
        if self.alignment_bytes & (self.alignment_bytes - 1):
            yield "alignment_bytes", f"must be a power of two, not {self.alignment_bytes}"


class Noc(Section):
    """The network between PEs and the shared memories."""

    topology: Literal["crossbar", "mesh"] = described(
        "crossbars on the sides, or 2D mesh with X-then-Y routes", shapes="time"
    )
    cluster_rows: int = described("rows of PEs that share a router", shapes="time", gt=0)
    cluster_columns: int = described("columns of PEs that share a router", shapes="time", gt=0)
    row_link_bytes_per_cycle: int = described(
        "link along a row of routers, one direction", unit="bytes/cycle", shapes="time", gt=0
    )
    column_link_bytes_per_cycle: int = described(
        "link along a column of routers, one direction", unit="bytes/cycle", shapes="time", gt=0
    )
    request_latency_ns: float = described("fixed part of a request's way", unit="ns", shapes="time", ge=0)
    hop_latency_cycles: int = described("latency of one hop", unit="cycles", shapes="time", ge=0)


class Sram(Section):
    """The shared on-chip memory, in slices at the edges of the grid."""

    bytes: int = described("capacity of all slices", unit="bytes", shapes="code", gt=0)
    slices: int = described("independent slices", shapes="time", gt=0)
    interleave_bytes: int = described("addresses change slice after this many bytes", unit="bytes", shapes="time", gt=0)
    banks: int = described("banks of a slice", shapes="time", gt=0, le=64)
    bank_interleave_bytes: int = described(
        "addresses within a slice change bank after this many bytes", unit="bytes", shapes="time", gt=0
    )
    access_bytes: int = described("smallest access of a bank", unit="bytes", shapes="time", gt=0)
    bytes_per_cycle: float = described("bandwidth of all slices together", unit="bytes/cycle", shapes="time", ge=1)
    latency_ns: float = described("access latency without the network", unit="ns", shapes="time", ge=0)
    cache_step_bytes: int = described(
        "SRAM that a program does not use caches DRAM, in steps of this size; 0: never",
        unit="bytes",
        shapes="time",
        ge=0,
    )
    cache_line_bytes: int = described(
        "line of the cache; its 16 sectors are fetched one by one", unit="bytes", shapes="time", ge=16
    )
    cache_ways: int = described("lines that a set of the cache holds", shapes="time", gt=0, le=64)

    @property
    def has_cache(self) -> bool:
        """True if a program always leaves a step of it to cache DRAM."""
        return 0 < self.cache_step_bytes < self.bytes

    def consistency_problems(self) -> Iterator[tuple[str, str]]:
        if self.bytes % (self.slices * self.interleave_bytes):
            unit = self.slices * self.interleave_bytes
            yield "bytes", f"{self.bytes} is not a multiple of slices x interleave_bytes = {unit}"
        if self.cache_step_bytes and self.bytes % self.cache_step_bytes:
            yield "cache_step_bytes", f"{self.cache_step_bytes} does not divide bytes = {self.bytes}"
        if self.cache_line_bytes & (self.cache_line_bytes - 1):
            yield "cache_line_bytes", f"must be a power of two, not {self.cache_line_bytes}"
        if self.bank_interleave_bytes % self.access_bytes:
            what = f"{self.bank_interleave_bytes} is not a multiple of access_bytes = {self.access_bytes}"
            yield "bank_interleave_bytes", what
        if self.interleave_bytes % (self.banks * self.bank_interleave_bytes):
            row = f"banks x bank_interleave_bytes = {self.banks * self.bank_interleave_bytes}"
            yield "interleave_bytes", f"{self.interleave_bytes} is not a multiple of {row}"


class Dram(Section):
    """The off-chip memory."""

    kind: str = described("type and data rate", shapes="label")
    bytes: int = described("capacity", unit="bytes", shapes="code", gt=0)
    channels: int = described("independent channels", shapes="time", gt=0)
    interleave_bytes: int = described(
        "addresses change channel after this many bytes", unit="bytes", shapes="time", gt=0
    )
    bytes_per_second: float = described("peak bandwidth of all channels", unit="bytes/s", shapes="time", gt=0)
    ecc_efficiency: float = described("share left by error correction in the controller", shapes="time", gt=0, le=1)
    access_bytes: int = described("smallest transfer that uses whole bursts", unit="bytes", shapes="time", gt=0)
    row_bytes: int = described("row that one activation opens", unit="bytes", shapes="time", gt=0)
    latency_ns: float = described("idle read latency at the controller", unit="ns", shapes="time", ge=0)

    def consistency_problems(self) -> Iterator[tuple[str, str]]:
        if self.bytes % (self.channels * self.interleave_bytes):
            unit = self.channels * self.interleave_bytes
            yield "bytes", f"{self.bytes} is not a multiple of channels x interleave_bytes = {unit}"
        if self.interleave_bytes % self.access_bytes:
            yield (
                "interleave_bytes",
                f"{self.interleave_bytes} is not a multiple of access_bytes = {self.access_bytes}",
            )


class DramTiming(Section):
    """What banks, row activations, refresh and the direction of the bus cost in one DRAM channel."""

    burst_bytes: int = described("bytes of one burst", unit="bytes", shapes="time", gt=0)
    bank_groups: int = described("groups that banks fall into", shapes="time", gt=0, le=16)
    banks: int = described("banks of all groups", shapes="time", gt=0, le=64)
    activate_to_read_ns: float = described("tRCD: activation to the first access", unit="ns", shapes="time", ge=0)
    precharge_ns: float = described("tRP: closing a row", unit="ns", shapes="time", ge=0)
    precharge_all_ns: float = described("tRPab: closing all rows before a refresh", unit="ns", shapes="time", ge=0)
    row_cycle_ns: float = described("tRC: activation to activation of a bank", unit="ns", shapes="time", ge=0)
    activate_spacing_ns: float = described("tRRD: activation to activation", unit="ns", shapes="time", ge=0)
    four_activates_ns: float = described("tFAW: window of four activations", unit="ns", shapes="time", ge=0)
    same_group_burst_ns: float = described("tCCD_L: bursts of one bank group", unit="ns", shapes="time", ge=0)
    read_to_precharge_ns: float = described("tRTP", unit="ns", shapes="time", ge=0)
    write_to_precharge_ns: float = described("tCWL + burst + tWR", unit="ns", shapes="time", ge=0)
    read_latency_ns: float = described(
        "tCL: a queue entry is free when its data are there", unit="ns", shapes="time", ge=0
    )
    read_to_write_ns: float = described("first beat of a read to that of a write", unit="ns", shapes="time", ge=0)
    write_to_read_ns: float = described("first beat of a write to that of a read", unit="ns", shapes="time", ge=0)
    command_ns: float = described(
        "command on a bus that rows and columns share; 0: own buses", unit="ns", shapes="time", ge=0
    )
    row_commands: int = described("commands that closing and opening a row take on it", shapes="time", ge=0)
    refresh: Literal["all_bank", "per_bank", "none"] = described("how rows are refreshed", shapes="time")
    refresh_interval_ns: float = described("tREFI: between refreshes of all banks", unit="ns", shapes="time", gt=0)
    refresh_ns: float = described("tRFCab", unit="ns", shapes="time", ge=0)
    bank_refresh_interval_ns: float = described(
        "tREFIpb: between refreshes of one bank each", unit="ns", shapes="time", gt=0
    )
    bank_refresh_ns: float = described("tRFCpb", unit="ns", shapes="time", ge=0)
    queue_entries: int = described("bursts that the controller reorders", shapes="time", gt=0, le=128)
    write_batch: int = described("writes that are kept back and sent together", shapes="time", gt=0)

    @property
    def refresh_block_ns(self) -> float:
        """Time that one refresh takes from the channel: an open row ends, all close, refresh, and one opens.

        Of a single bank only its closing holds up the others: tRP.
        """
        if self.refresh == "per_bank":
            return self.precharge_ns
        opened = self.read_to_precharge_ns + self.precharge_all_ns + self.activate_to_read_ns
        return 0.0 if self.refresh == "none" else opened + self.refresh_ns

    @property
    def refresh_period_ns(self) -> float:
        """Time between two refreshes that the channel sees."""
        return self.bank_refresh_interval_ns if self.refresh == "per_bank" else self.refresh_interval_ns

    @property
    def refresh_efficiency(self) -> float:
        """Share of time that refresh leaves."""
        return 1 - self.refresh_block_ns / self.refresh_period_ns

    def consistency_problems(self) -> Iterator[tuple[str, str]]:
        if self.banks % self.bank_groups:
            yield "banks", f"{self.banks} is not a multiple of bank_groups = {self.bank_groups}"
        if self.refresh_block_ns >= self.refresh_period_ns:
            what = f"a refresh takes {self.refresh_block_ns:g} of {self.refresh_period_ns:g} ns: nothing is left"
            yield "refresh_interval_ns" if self.refresh == "all_bank" else "bank_refresh_interval_ns", what


class Control(Section):
    """The control core that launches jobs, and the host link."""

    launch_ns: float = described("launch of a job on idle PEs", unit="ns", shapes="time", ge=0)
    launch_replace_ns: float = described("launch that replaces the job before it", unit="ns", shapes="time", ge=0)
    queue_broadcast: bool = described("one work-queue descriptor reaches all PEs of a launch", shapes="time")
    descriptor_ns: float = described("descriptor for each further PE without broadcast", unit="ns", shapes="time", ge=0)
    host_bytes_per_second: float = described("host link, one direction", unit="bytes/s", shapes="time", gt=0)


class Energy(Section):
    """Energy per counted event and constant power, at a voltage and clock of reference."""

    reference_voltage_volts: float = described(
        "supply voltage of the logic at which the figures hold", unit="V", shapes="time", gt=0
    )
    reference_frequency_mhz: float = described("clock at which uncore_watts holds", unit="MHz", shapes="time", gt=0)
    mac_by_dtype: PerDtype = described("multiply-accumulate in the matrix engine", unit="pJ", shapes="time")
    fp32_add: float = described("fp32 add in the SIMD engine or an accumulator", unit="pJ", shapes="time", ge=0)
    fp32_multiply: float = described("fp32 multiply in the SIMD engine", unit="pJ", shapes="time", ge=0)
    sfu_lut: float = described("table function of one element", unit="pJ", shapes="time", ge=0)
    simd_overhead_per_64_bytes: float = described(
        "issue and registers per 64-byte vector", unit="pJ", shapes="time", ge=0
    )
    scalar_instruction: float = described("scalar instruction with its fetch", unit="pJ", shapes="time", ge=0)
    command: float = described("dispatch of a command", unit="pJ", shapes="time", ge=0)
    local_memory_read_per_byte: float = described("local-memory read", unit="pJ/byte", shapes="time", ge=0)
    local_memory_write_per_byte: float = described("local-memory write", unit="pJ/byte", shapes="time", ge=0)
    sram_read_per_byte: float = described("shared-SRAM read", unit="pJ/byte", shapes="time", ge=0)
    sram_write_per_byte: float = described("shared-SRAM write", unit="pJ/byte", shapes="time", ge=0)
    noc_per_byte_hop: float = described("router and wire of one hop", unit="pJ/byte/hop", shapes="time", ge=0)
    dram_device_per_bit: float = described("DRAM column access and I/O", unit="pJ/bit", shapes="time", ge=0)
    dram_activate_per_row: float = described("activation and precharge of a row", unit="pJ/row", shapes="time", ge=0)
    dram_phy_per_bit: float = described("PHY and controller on the chip", unit="pJ/bit", shapes="time", ge=0)
    host_per_bit: float = described("host link", unit="pJ/bit", shapes="time", ge=0)
    leakage_watts: float = described("leakage of logic and SRAM, hot", unit="W", shapes="time", ge=0)
    uncore_watts: float = described("clock tree, uncore and control core", unit="W", shapes="time", ge=0)
    dram_background_milliwatts_per_gigabyte: float = described(
        "DRAM background power with refresh", unit="mW/GB", shapes="time", ge=0
    )
    confidence: str = described("what the energy figures are worth", shapes="label")
