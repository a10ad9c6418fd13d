"""What a profile takes for the indices that it does not have: `uniform`, or `zipf:POWER` like `zipf:1.05`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from isa.errors import SimulationError

SEED = 0
"""Draws start from this."""
LARGEST_POWER = 10.0


@dataclass(frozen=True, slots=True)
class IndexDistribution:
    """Chance of a row: equal for all if `power_milli` is 0, else proportional to rank^-(power_milli / 1000)."""

    power_milli: int = 0

    def __str__(self) -> str:
        return f"zipf:{self.power_milli / 1000:g}" if self.power_milli else "uniform"


def parse_distribution(text: str) -> IndexDistribution:
    """Return the distribution of a text; SimulationError if it is none."""
    if text == "uniform":
        return IndexDistribution()
    match = re.fullmatch(r"zipf:(\d+(?:\.\d{1,3})?)", text)
    if match and 0 < float(match[1]) <= LARGEST_POWER:
        return IndexDistribution(round(float(match[1]) * 1000))
    help = f"give uniform, or zipf:POWER with a power up to {LARGEST_POWER:g} and at most 3 decimals, like zipf:1.05"
    raise SimulationError(f"'{text}' is no distribution of indices", help=help)
