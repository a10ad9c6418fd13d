"""The examples do what they say: the hand-written matrix product on many shapes, and `run_kernel` with its mistakes."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from isa.assembly import parse_assembly
from isa.errors import ProgramError, SimulationError
from isa.machine import PRESETS, load_machine
from isa.memory_map import SRAM_BASE
from simulator import run_kernel
from tests.naive import run_launch

EXAMPLES = Path(__file__).parents[1] / "examples"
DOUBLE = parse_assembly("""
.kernel double
.args x y count
.buffer block 64 2
.buffer doubled 64 2
.core A
    arg r1, 0
    arg r3, 2
    li r4, 1
    li r5, 64
    loop r3, end
    dma_in block, r0, r0, r1, r0, r4, r5, none
    push block, 1
    addi r1, r1, 64
end:
    halt
.core B
    arg r2, 1
    arg r3, 2
    li r4, 1
    li r5, 64
    li r6, 16
    loop r3, end
    vadd doubled, r0, r0, block, r0, r0, block, r0, r0, r4, r6, fp32, fp32, fp32, full
    pop block, 1
    push doubled, 1
    dma_out r2, r0, doubled, r0, r0, r4, r5
    pop doubled, 1
    addi r2, r2, 64
end:
    halt
""")[0]


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _matrices(m: int, n: int, k: int):
    random = np.random.default_rng(m + n + k)
    return [random.normal(size=shape).astype(np.float16) for shape in ((m, k), (n, k))]


@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(32, 32, 32), (64, 64, 96), (96, 160, 32), (160, 96, 224), (32, 1216, 64), (832, 32, 96), (704, 1120, 320)],
)
def test_the_matmul_example_agrees_with_numpy(m: int, n: int, k: int) -> None:
    """Any multiples of 32: one trip and many, odd and even counts of tiles, tiles that are half empty."""
    a, b = _matrices(m, n, k)
    result = _load("matmul").multiply(a, b, load_machine("mtia-2i"))
    expected = a.astype(np.float32) @ b.astype(np.float32).T
    np.testing.assert_allclose(result.outputs["c"].astype(np.float32), expected, rtol=2e-3, atol=2e-3 * np.sqrt(k))
    assert result.report.useful_macs == result.report.issued_macs == m * n * k


@pytest.mark.parametrize("machine", [name for name in PRESETS if name != "mtia-2i"])
def test_the_matmul_example_runs_on_other_machines(machine: str) -> None:
    """The kernel asks the launch for its place and the blocks of a step; blocks have 32 rows."""
    a, b = _matrices(192, 256, 160)
    outputs = _load("matmul").multiply(a, b, load_machine(machine)).outputs
    np.testing.assert_allclose(
        outputs["c"].astype(np.float32), a.astype(np.float32) @ b.astype(np.float32).T, atol=0.05
    )


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_the_matmul_example_is_free_of_races(seed: int | None) -> None:
    """An interpreter without time, in any order of events, gives the simulator's bits."""
    m, n, k = 96, 192, 96
    a, b = _matrices(m, n, k)
    machine, example = load_machine("mtia-2i"), _load("matmul")
    sram = np.concatenate([a.view(np.uint8).ravel(), b.view(np.uint8).ravel(), np.zeros(2 * m * n, np.uint8)])
    addresses = SRAM_BASE, SRAM_BASE + a.nbytes, SRAM_BASE + a.nbytes + b.nbytes
    kernel = example.matmul_kernel()
    run_launch(kernel, 2, 3, (*addresses, m, n, k, 2), sram, np.zeros(1, np.uint8), machine, seed)
    expected = example.multiply(a, b, machine).outputs["c"]
    np.testing.assert_array_equal(sram[a.nbytes + b.nbytes :].view(np.float16).reshape(m, n), expected)


def test_the_matmul_example_keeps_the_matrix_engines_busy() -> None:
    """Broadcasts and eight steps of lead hide the memory's latency; the DMA ports are the limit."""
    a, b = _matrices(1024, 1024, 512)
    report = _load("matmul").multiply(a, b, load_machine("mtia-2i")).report
    assert 0.7 < report.operations[0].utilization["dpe"] <= 1


def test_the_matmul_script_prints_its_timing(monkeypatch, capsys) -> None:
    """As a person runs it."""
    monkeypatch.setattr(sys, "argv", ["matmul.py", "96", "64", "160"])
    _load("matmul").main()
    printed = capsys.readouterr().out
    assert "c[96, 64] = a[96, 160] @ b[64, 160].T" in printed and "DPE utilization" in printed


def test_the_demo_checks_logits(monkeypatch, capsys) -> None:
    """The demo passes as it is, and fails when the limit is beyond what fp16 can hold."""
    demo = _load("demo")
    assert demo.check_logits()
    assert "PASS" in capsys.readouterr().out
    monkeypatch.setattr(demo, "TOLERANCE", 1e-6)
    assert not demo.check_logits()
    assert "FAIL" in capsys.readouterr().out


def test_the_demo_times_the_full_size_model(capsys) -> None:
    """Both phases are near their DRAM bound, never below it."""
    _load("demo").time_full_size()
    printed = capsys.readouterr().out
    ratios = [float(ratio) for ratio in re.findall(r"latency is ([\d.]+) x that", printed)]
    assert len(ratios) == 2
    assert 1 <= ratios[0] <= 2 and 1 <= ratios[1] <= 1.5


@pytest.mark.parametrize("memory", ["sram", "dram"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_run_kernel_takes_arrays_and_numbers(memory: str, count: int) -> None:
    """Arrays are addresses, numbers are numbers; outputs are zero where the kernel writes nothing."""
    x = np.arange(64, dtype=np.float32).reshape(4, 16)
    result = run_kernel(DOUBLE, {"x": x}, {"y": ((4, 16), "float32")}, {"count": count}, memory=memory)
    np.testing.assert_array_equal(result.outputs["y"][:count], 2 * x[:count])
    np.testing.assert_array_equal(result.outputs["y"][count:], 0)
    moved = result.report.sram_bytes if memory == "sram" else result.report.dram_bytes
    assert moved == 2 * 64 * count


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arguments": {}}, "kernel double: launch arguments without a value: count"),
        ({"arguments": {"count": 1, "cuont": 1}}, "no argument 'cuont'\n  help: did you mean 'count'?"),
        ({"arguments": {"count": 1, "x": 1}}, "'x' is given twice"),
        ({"inputs": {"x": np.zeros(16)}}, "array 'x' has element type float64, which no unit has"),
    ],
)
def test_mistakes_in_run_kernel_are_told(changes, message: str) -> None:
    """Names and element types are checked before anything runs."""
    right = {"inputs": {"x": np.zeros(16, np.float32)}, "outputs": {"y": ((16,), "float32")}, "arguments": {"count": 1}}
    with pytest.raises(SimulationError) as caught:
        run_kernel(DOUBLE, **right | changes)
    assert message in str(caught.value)


def test_a_kernel_that_does_not_fit_is_told() -> None:
    """More PEs than the grid has."""
    with pytest.raises(ProgramError, match="double"):
        run_kernel(DOUBLE, {"x": np.zeros(16, np.float32)}, {"y": ((16,), "float32")}, {"count": 1}, rows=9)


def test_a_kernel_in_fp8_has_a_report() -> None:
    """Peak, energy and model utilization know the two fp8 formats under the one name that machines have for them."""
    (kernel,) = parse_assembly("""
.kernel multiply
.args x y
.buffer a 1024 1
.buffer b 1024 1
.buffer c 4096 1
.core A
    arg r1, 0
    li r4, 32
    li r5, 1024
    li r6, 1
    dma_in a, r0, r0, r1, r0, r6, r5, none
    push a, 1
    dma_in b, r0, r0, r1, r0, r6, r5, none
    push b, 1
    halt
.core B
    arg r2, 1
    li r3, 128
    li r4, 32
    li r6, 1
    li r7, 4096
    mml bank0, a, r0, r4, b, r0, r4, r4, r4, r6, fp8e4m3, set
    acc_drain c, r0, r3, bank0, r4, r4, fp32
    push c, 1
    dma_out r2, r0, c, r0, r0, r6, r7
    pop c, 1
    halt
""")
    machine = load_machine("mtia-2i").with_changes({"matrix.rate_by_dtype.fp8": 1.0})
    ones = np.full((32, 32), 0x38, dtype=np.uint8)  # 1.0 in e4m3
    result = run_kernel(kernel, {"x": ones.view(np.int8)}, {"y": ((32, 32), "float32")}, machine=machine,
                        useful_macs=32**3)  # fmt: skip
    assert (result.outputs["y"] == 32).all()
    assert 0 < result.report.model_utilization <= 1
    assert result.report.energy_parts_joules["matrix"] > 0
