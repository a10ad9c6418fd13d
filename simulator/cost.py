"""What a program costs, for a compiler that measures instead of estimating."""

from __future__ import annotations

from isa.program import Program
from simulator.simulator import Simulator


def simulated_cycles(program: Program) -> float:
    """Return the cycles of all launches, without starting them; for a program without symbolic dims."""
    return float(sum(operation.cycles for operation in Simulator(program).profile().operations))
