"""Published results of other devices in the figures of a sweep: joules and dollars per 10^6 tokens, with caveats.

The same assumptions price them and our points: power at the server's plug, server, facility, energy. What differs is
said in every row: batch, precision, limits of latency, where power was measured, whose margin is in the price.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from isa.machine import Machine
from sweeps.cost import (
    CostAssumptions,
    cost_assumptions,
    cost_of,
    dollars_per_million,
    host_share,
    joules_per_million,
    ownership_of,
    owning,
    server_watts,
)
from sweeps.sourced_figures import read_toml

DEVICES_PER_SERVER = 8
"""Of all published systems with several devices."""
Unit = Literal["tokens", "samples"]


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One device at work: rates and power are those of one device with its part of the server.

    `per_second` and `plug_watts` while it works; `dollars_per_million` with the rest of the time paid for.
    `price_dollars` is what was assumed for the device, `caveats` what keeps rows from being like for like.
    """

    device: str
    workload: str
    unit: Unit
    precision: str
    per_second: float
    plug_watts: float
    power_basis: str
    price_dollars: float
    joules_per_million: float
    dollars_per_million: float
    source: str
    caveats: tuple[str, ...]


class _Values(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Device(_Values):
    """A device that results were published of."""

    label: str
    tdp_watts: float = Field(gt=0)
    price_dollars: tuple[float, float]
    source: str


class PublishedResult(_Values):
    """A result of a system: `per_second` and `plug_watts` are those of all `devices` together."""

    device: str
    devices: int = Field(gt=0)
    workload: str
    unit: Unit = "tokens"
    precision: str
    per_second: float = Field(gt=0)
    plug_watts: float | None = Field(default=None, gt=0)
    source: str
    caveats: tuple[str, ...]


class PublishedResults(_Values):
    """All of `published_results.toml`."""

    devices: Mapping[str, Device]
    caveats: Mapping[str, str]
    results: tuple[PublishedResult, ...]


@functools.cache
def published_results() -> PublishedResults:
    """Return the results of `published_results.toml`."""
    return PublishedResults.model_validate(read_toml("published_results.toml"))


def published_rows(assumptions: CostAssumptions | None = None) -> tuple[ComparisonRow, ...]:
    """Return every published result under these assumptions, in the order of the file."""
    a = assumptions or cost_assumptions()
    return tuple(_row(result, a) for result in published_results().results)


def _row(result: PublishedResult, a: CostAssumptions) -> ComparisonRow:
    known = published_results()
    device = known.devices[result.device]
    host_watts = a.host_watts / DEVICES_PER_SERVER
    design_watts = server_watts(device.tdp_watts, host_watts, a)
    watts = result.plug_watts / result.devices if result.plug_watts else design_watts
    price = sum(device.price_dollars) / len(device.price_dollars)
    rate = result.per_second / result.devices
    owned = owning(price, a.host_dollars / DEVICES_PER_SERVER, watts, design_watts, a)
    return ComparisonRow(
        device=device.label,
        workload=result.workload,
        unit=result.unit,
        precision=result.precision,
        per_second=rate,
        plug_watts=watts,
        power_basis="measured at the plug" if result.plug_watts else "TDP",
        price_dollars=price,
        joules_per_million=joules_per_million(rate, watts),
        dollars_per_million=dollars_per_million(rate, owned.total, a),
        source=result.source,
        caveats=tuple(known.caveats[caveat] for caveat in result.caveats),
    )


def row_of_machine(
    machine: Machine,
    workload: str,
    per_second: float,
    average_watts: float,
    assumptions: CostAssumptions | None = None,
    *,
    unit: Unit = "tokens",
    precision: str = "",
) -> ComparisonRow:
    """Return a simulated run of a machine beside published ones; `average_watts` is chip and DRAM at work."""
    a = assumptions or cost_assumptions()
    watts = server_watts(average_watts, host_share(machine, a) * a.host_watts, a)
    owned = ownership_of(machine, average_watts, a)
    return ComparisonRow(
        device=machine.name,
        workload=workload,
        unit=unit,
        precision=precision,
        per_second=per_second,
        plug_watts=watts,
        power_basis="simulated",
        price_dollars=cost_of(machine, a).chip_dollars,
        joules_per_million=joules_per_million(per_second, watts),
        dollars_per_million=dollars_per_million(per_second, owned.total, a),
        source="simulated by this program",
        caveats=SIMULATED_CAVEATS,
    )


SIMULATED_CAVEATS = (
    "one chip on its own: no queue of requests, no batching over time, no network",
    "energy figures are fitted to two chips: totals good to about 10 % there, less elsewhere",
    "price is a model's: parts, development and an assumed margin",
)
