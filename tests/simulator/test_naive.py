"""The plain interpreter computes what hand-written kernels are meant to, in any order, and finds broken contracts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from isa.assembly import parse_assembly, print_kernel
from isa.kernel import verify
from isa.machine import Machine, preset
from isa.memory_map import BASES
from isa.program import Argument, Entry, Launch, LaunchPart, Program, Storage
from simulator.device import Device
from simulator.launcher import Launcher
from tests.naive import run_launch
from tests.naive_parts import ContractViolationError, DeadlockError
from tests.simulator.hand_kernels import CASES, MEMORY_BYTES, Case


@pytest.fixture(scope="module")
def machine() -> Machine:
    return preset("mtia-2i").with_changes({"pe.command_queue_depth": 4})


def run(case: Case, machine: Machine, seed: int | None = None):
    sram, dram = (np.zeros(MEMORY_BYTES, dtype=np.uint8) for _ in range(2))
    check = case.prepare(sram, dram)
    run_launch(case.kernel, case.rows, case.columns, case.arguments, sram, dram, machine, seed)
    return check


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_values_are_right_in_any_order(name: str, seed: int | None, machine: Machine) -> None:
    verify(CASES[name].kernel, machine)
    run(CASES[name], machine, seed)()


def edited(name: str, old: str, new: str) -> Case:
    text = print_kernel(CASES[name].kernel)
    assert old in text
    return replace(CASES[name], kernel=parse_assembly(text.replace(old, new, 1))[0])


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("matmul", "    push left, 1\n", ""),
        ("matmul", "    push result, 1\n", ""),
        ("chain", "    signal 3\n", ""),
        ("chain", "bank0, r5, r3, east", "bank0, r5, r3, west"),
        ("lookup", "    push bag, 1\n", ""),
    ],
)
def test_a_missing_step_is_a_deadlock_or_a_violation(name: str, old: str, new: str, machine: Machine) -> None:
    with pytest.raises((DeadlockError, ContractViolationError)):
        run(edited(name, old, new), machine)


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("matmul", "dma_in right, r0, r6", "dma_in left, r0, r5", "leaves its slot"),
        ("matmul", "dma_out r1, r5, result", "dma_out r1, r5, left", "two consumers"),
        ("lookup", "li r9, 32\n", "li r9, 33\n", "multiple"),
        ("lookup", "    arg r8, 1", "    li r8, 64", "outside"),
        ("matmul", "r1, r5, r7, r6, row", "r2, r5, r7, r6, row", "different addresses"),
    ],
)
def test_broken_contracts_are_found(name: str, old: str, new: str, sentence: str, machine: Machine) -> None:
    with pytest.raises(ContractViolationError, match=sentence):
        run(edited(name, old, new), machine)


def program_of(case: Case, machine: Machine) -> Program:
    """A program of one launch on two memories that hold state."""
    storages = tuple(Storage(space, space, BASES[space], MEMORY_BYTES, "state") for space in ("sram", "dram"))
    arguments = tuple(Argument(value, None) for value in case.arguments)
    launch = Launch("launch", 0, 0, 0, case.rows, case.columns, arguments, (), 0, (LaunchPart("test"),))
    return Program(machine, (case.kernel,), storages, (), (Entry("main", {}, (), (), (launch,)),))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_the_sequencer_leaves_the_same_memories_at_any_speed(name: str, seed: int, machine: Machine) -> None:
    case = CASES[name]
    program = program_of(case, machine)
    device = Device(program)
    case.prepare(device.sram, device.dram)
    sram, dram = device.sram.copy(), device.dram.copy()
    launcher = Launcher(program, machine, device, jitter_cycles=500 * min(seed, 1), jitter_seed=seed)
    launcher.run(program.entries[0].launches[0], {})
    run_launch(
        CASES[name].kernel, CASES[name].rows, CASES[name].columns, CASES[name].arguments, sram, dram, machine, seed
    )
    np.testing.assert_array_equal(device.sram, sram)
    np.testing.assert_array_equal(device.dram, dram)
