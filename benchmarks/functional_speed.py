"""How fast the simulator executes matrix products on one core: GMAC/s of the command itself and of a whole launch.

    python benchmarks/functional_speed.py

A command multiplies two operands of 32 rows by as much K as one slot of a linear kernel holds; the launch is the
`feed_forward` product of llama-3.2-1b on mtia-2i, transfers, sequencing and all. Times are the best of several.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from compiler.emit import emit
from compiler.graph import Constant, Graph, LinearAttributes, Operation, Value
from compiler.legalize import legalize
from compiler.mapping import map_graph
from compiler.placement import place
from isa import columns as col
from isa.dtypes import BY_NAME
from isa.machine import Machine, preset
from isa.table import BY_NAME as INSTRUCTIONS
from simulator import Simulator
from simulator.meaning.dispatch import execute
from simulator.meaning.tables import make_tables

BLOCK, K_BYTES, ROW_COUNTS = 32, 2048, (1, 16, 32)
REPEATS, TRIES = 50, 5
LAUNCH_ROWS, INPUTS, OUTPUTS = (1, 16, 128), 2048, 8192


def best_seconds(action: Callable[[], object]) -> float:
    """Return the shortest of several runs."""
    action()
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def command_rate(machine: Machine, dtype: str, rows: int) -> float:
    """Return GMAC/s of the command that multiplies a dtype, without the sequencer."""
    element, size = BY_NAME[dtype], BLOCK * K_BYTES
    local = np.zeros(2 * size, np.uint8)
    numbers = np.random.default_rng(0).integers(-9, 9, 2 * size // element.bytes)
    local[:] = numbers.astype(element.numpy).view(np.uint8)
    matrix, accumulator = machine.matrix, machine.accumulator
    tables = make_tables(matrix.block_k_bytes, accumulator.rows, accumulator.columns, len(local))
    fields, values = np.zeros(len(col.NAMES), np.int64), np.zeros(8, np.int64)
    name = "mml" if dtype == "int8" else machine.matrix_instruction(dtype)
    fields[[col.OPCODE, col.D1]] = INSTRUCTIONS[name].opcode, element.code
    values[[0, 3, 5, 6, 7]] = K_BYTES // matrix.block_k_bytes, K_BYTES, K_BYTES, rows, BLOCK
    banks, memory = np.zeros((1, BLOCK, BLOCK), np.float32), np.zeros(1, np.uint8)

    def run() -> None:
        for _ in range(REPEATS):
            execute(fields, values, -1, 0, size, local, memory, memory, banks, banks[0], tables)

    return REPEATS * rows * BLOCK * (K_BYTES // element.bytes) / best_seconds(run) / 1e9


def launch_rate(machine: Machine, dtype: str, rows: int) -> float:
    """Return GMAC/s of a full-size linear, from inputs in device memory to outputs."""
    weight = (np.arange(INPUTS * OUTPUTS, dtype=np.int64) % 61 - 30).reshape(OUTPUTS, INPUTS).astype(np.float32) / 64
    host = weight.dtype.name
    values = {"x": Value("x", (1, rows, INPUTS), host), "y": Value("y", (1, rows, OUTPUTS), host)}
    constants = {"weight": Constant(Value("weight", weight.shape, host), weight)}
    attributes = LinearAttributes(weight_rows_are_outputs=True)
    product = Operation("linear", "product", ("x", "weight", None, None), ("y",), attributes)
    graph = Graph("linear", ("x",), ("y",), values, constants, (product,), {})
    simulator = Simulator(emit(place(map_graph(legalize(graph), machine, dtype))))
    inputs = {"x": np.ones((1, rows, INPUTS), np.float32)}
    return rows * INPUTS * OUTPUTS / best_seconds(lambda: simulator.run(inputs)) / 1e9


def main() -> None:
    """Print the table."""
    machine = preset("mtia-2i")
    print("GMAC/s on one core   " + "".join(f"{f'{rows} rows':>10}" for rows in ROW_COUNTS))
    for dtype in ("fp16", "bf16", "int8", "fp32"):
        rates = (command_rate(machine, dtype, rows) for rows in ROW_COUNTS)
        print(f"command, {dtype:12}" + "".join(f"{rate:10.2f}" for rate in rates), flush=True)
    print(f"{INPUTS} x {OUTPUTS} linear   " + "".join(f"{f'{rows} rows':>10}" for rows in LAUNCH_ROWS))
    for dtype in ("fp16", "bf16", "fp32"):
        rates = (launch_rate(machine, dtype, rows) for rows in LAUNCH_ROWS)
        print(f"launch, {dtype:13}" + "".join(f"{rate:10.2f}" for rate in rates), flush=True)


if __name__ == "__main__":
    main()
