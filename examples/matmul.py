"""A matrix multiplication written by hand in assembly (`matmul.asm`), run on NumPy arrays with its timing.

python examples/matmul.py [M N K]        multiples of 32; 1024 1024 1024 if not given
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isa import Kernel, load_machine, parse_assembly
from isa.machine import Machine
from simulator import Result, run_kernel

TILE, STEP_BYTES = 64, 64
"""Side of a tile of the result, and bytes of K in a step; blocks of K have 32 or 64."""
Matrix = npt.NDArray[np.float16]


def matmul_kernel() -> Kernel:
    """Read the kernel."""
    path = Path(__file__).with_name("matmul.asm")
    return parse_assembly(path.read_text(), path.name)[0]


def _largest_divisor(number: int, limit: int) -> int:
    return max(divisor for divisor in range(1, limit + 1) if number % divisor == 0)


def multiply(a: Matrix, b: Matrix, machine: Machine) -> Result:
    """Run c = a @ b.T on as many PEs as divide the tiles of c evenly; sizes are multiples of 32."""
    (m, k), n = a.shape, len(b)
    rows = _largest_divisor(-(-m // TILE), machine.grid.rows)
    columns = _largest_divisor(-(-n // TILE), machine.grid.columns)
    numbers = {"m": m, "n": n, "k": k, "blocks": STEP_BYTES // machine.matrix.block_k_bytes}
    return run_kernel(
        matmul_kernel(), {"a": a, "b": b}, {"c": ((m, n), "float16")}, numbers,
        machine=machine, rows=rows, columns=columns, useful_macs=m * n * k,
    )  # fmt: skip


def main() -> None:
    """Multiply random matrices, compare with NumPy, and print what it cost."""
    m, n, k = (int(word) for word in sys.argv[1:4]) if len(sys.argv) > 1 else (1024, 1024, 1024)
    if m % 32 or n % 32 or k % 32 or min(m, n, k) <= 0:
        sys.exit("sizes must be positive multiples of 32")
    random = np.random.default_rng(0)
    a, b = (random.normal(size=shape).astype(np.float16) for shape in ((m, k), (n, k)))
    machine = load_machine("mtia-2i")
    result = multiply(a, b, machine)
    exact = a.astype(np.float32) @ b.astype(np.float32).T
    error = np.abs(result.outputs["c"].astype(np.float32) - exact).max() / np.abs(exact).max()
    report = result.report
    operation = report.operations[0]
    print(f"c[{m}, {n}] = a[{m}, {k}] @ b[{n}, {k}].T in fp16 on {machine.name}, operands in shared SRAM")
    print(f"  largest error against NumPy   {error:.1e} of the largest element")
    microseconds = operation.cycles * machine.cycle_ns / 1000
    print(f"  kernel                        {operation.cycles:,} cycles = {microseconds:.1f} us")
    print(f"  DPE utilization               {operation.utilization['dpe']:.1%}, bound by {operation.bound_by}")
    print(f"  energy                        {operation.energy_joules * 1e3:.3f} mJ")
    if error > 1e-3:
        sys.exit("the result differs from NumPy")


if __name__ == "__main__":
    main()
