"""Writes `docs/area_and_cost.md` from the figures and presets; `python -m sweeps.area_document` prints it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from pydantic import BaseModel

from isa.machine import PRESETS, Machine, preset
from sweeps.area import area_of, die_count, die_mm2, mega_gates, tile_mm2
from sweeps.area_figures import ProcessFigures, area_figures
from sweeps.cost import cost_assumptions, cost_of, dies_per_wafer, negative_binomial_yield, ownership_of
from sweeps.cost_assumptions import CostAssumptions, assumption_sources
from sweeps.published import SIMULATED_CAVEATS, published_results, published_rows
from sweeps.scaling import ScalingRules, peak_watts, scaling_figures
from sweeps.sourced_figures import Figure, unit_of

_SECONDS_PER_YEAR = 365.25 * 24 * 3600
_H100_MM2 = 814

_INTRODUCTION = """\
# Area and cost

This page is generated from `sweeps/*.toml` and the presets by `python -m sweeps.area_document`.

`sweeps.area` gives the silicon of a [machine](machine.md) block by block, `sweeps.cost` what making and owning it
costs, `sweeps.scaling` what its size does to leakage, clock and wires, `sweeps.published` results of other devices in
the same figures. All ask fields of the machine; one set of figures holds for all machines. Confidence is *published*
(read in the named source), *derived* (arithmetic from that), *recalled* (from memory), *assumed* (judged) or *fitted*.

```python
from isa.machine import preset
from sweeps.area import area_of, die_mm2
from sweeps.cost import cost_assumptions, cost_of, ownership_of

machine = preset("mtia-2i").with_changes({"sram.bytes": 320 * 1024 * 1024})
assumptions = cost_assumptions({"energy_dollars_per_kilowatt_hour": 0.12, "cooling": "liquid"})
print(die_mm2(machine), [(block.name, block.mm2, block.confidence) for block in area_of(machine)])
print(cost_of(machine, assumptions).chip_dollars, ownership_of(machine, 65.0, assumptions).total)
```

A sweep file overrides assumptions in its `[cost]` table by the names below; all that is wrong there is told at once.
"""
_WORTH = """\
## What the areas are worth

Four figures are fitted (`logic_utilisation`, `top_level_share`, `test_and_control`, `clock_exponent`) and about forty
gate counts are judged, against two published dies and two published gate counts. Agreement with those four is a
calibration and no validation: expect totals of chips like them within about 10 %, any single block within about 40 %,
and differences between two machines that differ in one resource to be as good as that block.

MTIA 300 is the one published die that nothing was fitted to, and the model is a quarter below it. Not modelled are its
sixteen message engines, the second vector core of each PE, TF32 and stochastic rounding, a spare row of six PEs (about
4 % of the die) and the links to two network chiplets; its process is second-hand. Take areas of the projected chips
after it, whose fields follow it, as lower bounds in the same way. Silicon above the reticle is split into equal dies:
two for MTIA 400 and four for MTIA 500, as many compute chiplets as reported; I/O and network chiplets and stacks of
HBM are not in these areas.

No public figure was found for the PHY of LPDDR5, so that of DDR5 stands for it; nor for the gates of any block of these
chips. Die photographs by way of LLMCompass, memory dies of AMD and open cores stand behind what is not assumed.
"""
_FORMULAS = """\
mm2 of a block = copies x (gates x 4 transistors / (`logic_density` x `logic_utilisation`) + bits x `sram_bit` /
efficiency + analog). Gates of logic at the clock of the PEs are multiplied by (highest clock of the chip / 1
GHz)^`clock_exponent`, all gates by `test_and_control`. int8 has multipliers of its own; dtypes of floating point share
those of the largest. The top level is `top_level_share` of the die. A process between two of the table lies on a
straight line of logarithms; outside of them there is an error.
"""
_SCALING = """\
## What size does to energy

`energy.leakage_watts`, `energy.uncore_watts`, energies per byte and `tdp_watts` are fields: a sweep that changes PEs or
SRAM would get leakage, clock and longer wires for free. `scaled_energy(machine, base)` gives what size changes relative
to the sweep's base machine; what the sweep sets itself stays. With primes for the machine:
"""
_SCALING_RULES = (
    (
        "`energy.leakage_watts`",
        "SRAM's part x bytes' / bytes + the rest x gates' / gates; SRAM's part is mW/MB x (shared + local)",
    ),
    ("`energy.uncore_watts`", "x (1 - c + c x gates' / gates), c = `clock_share`"),
    (
        "`energy.noc_per_byte_hop`",
        "router + (figure - router) x distance' / distance of routers; distance = side of a tile x PEs of a cluster",
    ),
    (
        "`energy.local_memory_read_per_byte`, `energy.local_memory_write_per_byte`",
        "x (capacity' / capacity)^`local_memory_exponent`",
    ),
    (
        "`energy.sram_read_per_byte`, `energy.sram_write_per_byte`",
        "x (1 - w + w x (bytes of a slice' / bytes of a slice)^0.5), w = `slice_wire_share`",
    ),
    ("`tdp_watts`, `typical_watts`", "x peak' / peak, the power of everything at its peak at once"),
)
_SCALING_WORTH = """\
Energies per multiply-accumulate, SIMD element, instruction and DRAM bit stay: they do not depend on size. A machine in
another process is refused, since its energies are no matter of size. The rules are physics with assumed shares: the
direction is certain, the slopes are good to about a factor of two.
"""
_COST = """\
## Cost

* die = dies x (wafer + its test) / (dies per wafer x yield); dies per wafer = pi (d/2)^2 / S - pi d / sqrt(2 S)
  (Hennessy & Patterson); yield = (1 + area x density / alpha)^-alpha (Stapper's negative binomial), where
  `repaired_sram_share` of the shared SRAM's area does not count.
* package: with HBM or several dies on an interposer, whose losses take dies and stacks along.
* board by TDP with DRAM; development by chips made; margin = (`price_multiplier` - 1) x everything else.
* power at the plug = (accelerator / `regulator_efficiency` + its part of the host) / `supply_efficiency` / (1 - fans).
* ownership per second = (chip + host) / lifetime + facility by design power / its years + upkeep + energy, where energy
  = power at the plug x (`utilisation` + `idle_power_share` of the rest) x PUE x price. Interest is left out.
* tokens per dollar = throughput x `utilisation` / ownership per second.

Prices that nobody publishes are analysts' guesses: trust ratios of machines under equal assumptions, and absolute
dollars to about a factor of two.
"""
_COMPARISON = """\
## Beside published results

Rates and power are those of one device with its eighth of a server. Where power was measured, joules are the published
ones; otherwise they are an upper bound. Dollars are those of the same assumptions and the middle of the guessed prices.
A row of a sweep's own (`row_of_machine`) has the same columns, so that a reader sees both; the caveats belong to them.
"""


def area_document() -> str:
    """Return the text of `docs/area_and_cost.md`."""
    parts = [
        _INTRODUCTION, *_areas(), _FORMULAS, *_marginal(), *_area_figures(), *_scaling(), *_costs(), *_comparison(),
    ]  # fmt: skip
    return "\n".join(parts)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    names = list(head)
    yield _row(names)
    yield _row(["---"] * len(names))
    yield from map(_row, rows)
    yield ""


def _areas() -> Iterator[str]:
    yield _WORTH
    checks: list[tuple[str, str, float, float]] = [
        ("MTIA 1, die (19.3 x 19.1 mm; 373 in other sources)", "mm2", 369, die_mm2(preset("mtia-v1"))),
        ("MTIA 2i, die (25.6 x 16.4 mm)", "mm2", 420, die_mm2(preset("mtia-2i"))),
        ("MTIA 1, gates", "million", 1120, mega_gates(preset("mtia-v1"))),
        ("MTIA 2i, gates", "million", 2350, mega_gates(preset("mtia-2i"))),
        ("MTIA 300, compute die (25.6 x 31.4 mm), not fitted", "mm2", 804, die_mm2(preset("mtia-300"))),
        ("MTIA 300, gates, not fitted", "million", 7200, mega_gates(preset("mtia-300"))),
    ]
    rows = ((what, unit, f"{published:g}", f"{model:.0f}", f"{model / published - 1:+.1%}")
            for what, unit, published, model in checks)  # fmt: skip
    yield from _table(("figure", "unit", "published", "model", "difference"), rows)
    yield "Blocks, in mm2:\n"
    blocks = {name: {block.name: block for block in area_of(preset(name))} for name in PRESETS}
    names = dict.fromkeys(block for name in PRESETS for block in blocks[name])
    body = [(name, *(f"{blocks[one][name].mm2:.1f}" if name in blocks[one] else "" for one in PRESETS))
            for name in names]  # fmt: skip
    totals: list[tuple[str, Callable[[Machine], str]]] = [
        ("**all**", lambda machine: f"**{die_mm2(machine):.0f}**"),
        ("dies", lambda machine: str(die_count(machine))),
        ("mm2 of a PE's tile", lambda machine: f"{tile_mm2(machine):.2f}"),
        ("million gates", lambda machine: f"{mega_gates(machine):.0f}"),
    ]
    body += [(name, *(text(preset(one)) for one in PRESETS)) for name, text in totals]
    yield from _table(("block", *PRESETS), body)


def _marginal() -> Iterator[str]:
    """What a little more of a resource costs on MTIA 2i."""
    base = preset("mtia-2i")
    more: dict[str, Mapping[str, float | int]] = {
        "16 MiB of shared SRAM": {"sram.bytes": base.sram.bytes + (16 << 20), "sram.cache_step_bytes": 16 << 20},
        "64 KiB of local memory in every PE": {"pe.local_memory_bytes": base.pe.local_memory_bytes + (64 << 10)},
        "8 PEs (a row)": {"grid.rows": 9},
        "half as many multipliers again": {"matrix.tiles": 3},
        "4 channels of LPDDR5": {"dram.channels": 20, "dram.bytes": 160 << 30, "dram.bytes_per_second": 256e9},
        "links twice as wide": {"noc.row_link_bytes_per_cycle": 128, "noc.column_link_bytes_per_cycle": 128},
    }
    yield "What more of a resource takes on MTIA 2i, a part of the top level included:\n"
    grown = {what: die_mm2(base.with_changes(changes)) - die_mm2(base) for what, changes in more.items()}
    rows = ((what, f"{mm2:.1f}", f"{mm2 / die_mm2(base):.1%}") for what, mm2 in grown.items())
    yield from _table(("more", "mm2", "of the die"), rows)


def _area_figures() -> Iterator[str]:
    figures = area_figures()
    yield "### Figures of area\n"
    processes = ((f"{node} nm", name, figure) for node, group in sorted(figures.processes.items(), reverse=True)
                 for name, figure in group)  # fmt: skip
    rows = ((where, f"`{name}`", unit_of(ProcessFigures, name), *_sourced(figure)) for where, name, figure in processes)
    yield from _table(("process", "figure", "unit", "value", "confidence", "source"), rows)
    for group in (figures.gates, figures.memories, figures.analog, figures.floorplan):
        yield f"{type(group).__doc__}\n"
        yield from _figure_table(group)


def _figure_table(group: BaseModel) -> Iterator[str]:
    fields = type(group).model_fields
    rows = ((f"`{name}`", unit_of(type(group), name), fields[name].description or "", *_sourced(figure))
            for name, figure in group)  # fmt: skip
    return _table(("figure", "unit", "meaning", "value", "confidence", "source"), rows)


def _sourced(figure: Figure) -> tuple[str, str, str]:
    return f"{figure.value:,.10g}", figure.confidence, figure.source


def _scaling() -> Iterator[str]:
    yield _SCALING
    yield from _table(("field", "rule"), _SCALING_RULES)
    yield _SCALING_WORTH
    yield "The peak of everything, in W, against what the presets call TDP:\n"
    rows = ((name, f"{peak_watts(preset(name)):.0f}", f"{preset(name).tdp_watts:g}") for name in PRESETS)
    yield from _table(("machine", "peak", "TDP"), rows)
    figures = scaling_figures()
    leakage = sorted(figures.sram_milliwatts_per_megabyte.items(), reverse=True)
    yield from _table(
        ("process", "leakage of SRAM, mW/MB", "confidence", "source"),
        ((f"{node} nm", *_sourced(figure)) for node, figure in leakage),
    )
    assert isinstance(figures.rules, ScalingRules)
    yield from _figure_table(figures.rules)


def _costs() -> Iterator[str]:
    yield _COST
    a = cost_assumptions()
    yield "The presets under the default assumptions, in $; years at typical power:\n"
    lines: list[tuple[str, Callable[[Machine], float], str]] = [
        ("dies per wafer", lambda machine: cost_of(machine).dies_per_wafer, ".0f"),
        ("yield of a die", lambda machine: cost_of(machine).die_yield, ".0%"),
        *((f"{part}, $", _cost_part(part), ",.0f")
          for part in ("die", "package", "memory", "board", "development", "margin")),
        ("**module**, $", lambda machine: cost_of(machine).chip_dollars, ",.0f"),
        *((f"{part}, $ a year", _owned_part(part), ",.0f")
          for part in ("chip", "host", "facility", "upkeep", "energy", "total")),
    ]  # fmt: skip
    rows = ((name, *(format(value(preset(one)), how) for one in PRESETS)) for name, value, how in lines)
    yield from _table(("", *PRESETS), rows)
    dies, good = dies_per_wafer(_H100_MM2, a), negative_binomial_yield(_H100_MM2, a.defects_per_cm2_5nm, 3)
    yield (
        f"A check outside: of {_H100_MM2} mm2 (H100), {dies:.0f} dies come from a wafer (the press: 65), {good:.0%} of "
        f"them without a defect, ${a.wafer_dollars_5nm / dies / good:,.0f} each. The press says 55 usable, $200 to "
        "$300 each: GPUs sell dies with defects in some of their cores; of MTIA 2i no spare PEs are known.\n"
    )
    yield "### Assumptions\n"
    sources, fields = assumption_sources(), CostAssumptions.model_fields
    table = (
        (f"`{name}`", unit_of(CostAssumptions, name), fields[name].description or "", _plain(row.value), row.confidence,
         row.source)
        for name, row in sources.items()
    )  # fmt: skip
    yield from _table(("assumption", "unit", "meaning", "default", "confidence", "source"), table)


def _cost_part(part: str) -> Callable[[Machine], float]:
    return lambda machine: float(getattr(cost_of(machine), f"{part}_dollars"))


def _owned_part(part: str) -> Callable[[Machine], float]:
    return lambda machine: float(getattr(ownership_of(machine, machine.typical_watts), part)) * _SECONDS_PER_YEAR


def _plain(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.10g}"


def _comparison() -> Iterator[str]:
    yield _COMPARISON
    known = published_results()
    numbers = {text: str(number) for number, text in enumerate(known.caveats.values(), 1)}
    rows = (
        (row.device, row.workload, row.precision, f"{row.per_second:,.0f} {row.unit}", f"{row.plug_watts:,.0f}",
         row.power_basis, f"{row.joules_per_million:,.0f}", f"{row.dollars_per_million:.4f}",
         ", ".join(sorted((numbers[text] for text in row.caveats), key=int)), row.source)
        for row in published_rows()
    )  # fmt: skip
    measured = ("per second", "W", "power", "J per million", "$ per million")
    yield from _table(("device", "workload", "precision", *measured, "caveats", "source"), rows)
    yield from (f"{number}. {text}" for text, number in numbers.items())
    yield "\nOf a machine's own rows:\n"
    yield from (f"* {text}" for text in SIMULATED_CAVEATS)
    yield ""
    yield from _table(
        ("device", "price, $", "TDP, W", "source"),
        ((one.label, " to ".join(f"{price:,.0f}" for price in dict.fromkeys(one.price_dollars)), f"{one.tdp_watts:g}",
          one.source) for one in known.devices.values()),
    )  # fmt: skip


if __name__ == "__main__":
    print(area_document(), end="")
