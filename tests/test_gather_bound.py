"""Look-ups of embeddings against the rate at which random rows can come at best."""

from __future__ import annotations

import pytest

from benchmarks.gather_bound import dram_bytes_per_second, gathered_bytes_per_second
from compiler import compile_model
from isa.machine import preset
from models import build
from simulator import Simulator

SHARES = {"mtia-2i": 0.95, "mtia-v1": 0.9, "mtia-300": 0.95, "hbm-concept": 0.95}


@pytest.mark.parametrize("name", SHARES)
def test_a_look_up_is_bound_by_random_rows(name: str) -> None:
    """All tables of DLRM-DCNv2 for a batch of 2048: at least this share of what PEs reach that only fetch."""
    machine = preset(name)
    bound = gathered_bytes_per_second(machine)
    assert bound <= dram_bytes_per_second(machine) <= 1.01 * machine.dram_deliverable_bytes_per_second
    program = compile_model(build("dlrm-dcnv2", "absent"), machine, dims={"batch": 2048}, ignore_capacity=True)
    bags = next(one for one in Simulator(program).profile().operations if one.kernel.startswith("embedding_bag"))
    reached = bags.dram_bytes / (bags.cycles / machine.cycles_per_second)
    assert SHARES[name] * bound < reached < 1.03 * bound
