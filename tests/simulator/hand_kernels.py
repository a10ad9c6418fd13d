"""Small kernels by hand that use every mechanism of the machine; each with its launch and what it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isa.assembly import parse_assembly
from isa.kernel import Kernel
from isa.memory_map import DRAM_BASE, SRAM_BASE

Bytes = npt.NDArray[np.uint8]
MEMORY_BYTES = 1 << 16

MATMUL = """
; c[64, 64] = a[64, 96] @ b[64, 96].T in fp16 on 2 x 2 PEs, three trips over K of 32 elements
.kernel matmul
.args a b c
.buffer left 2048 2
.buffer right 2048 2
.buffer result 4096 1
.core A
  arg r1, 0
  arg r2, 1
  coord r3, row
  coord r4, column
  muli r3, r3, 6144     ; 32 rows of 192 bytes
  muli r4, r4, 6144
  add r1, r1, r3
  add r2, r2, r4
  li r5, 192            ; pitch in memory
  li r6, 64             ; bytes per row in a slot
  li r7, 32
  li r8, 3
  loop r8, done
  dma_in left, r0, r6, r1, r5, r7, r6, row
  push left, 1
  dma_in right, r0, r6, r2, r5, r7, r6, column
  push right, 1
  addi r1, r1, 64
  addi r2, r2, 64
done:
  halt
.core B
  li r6, 64
  li r7, 32
  li r8, 2
  mml bank1, left, r0, r6, right, r0, r6, r7, r7, r8, fp16, set
  pop left, 1
  pop right, 1
  li r9, 2
  loop r9, summed
  mml bank1, left, r0, r6, right, r0, r6, r7, r7, r8, fp16, add
  pop left, 1
  pop right, 1
summed:
  li r10, 128           ; bytes per row of the result
  acc_drain result, r0, r10, bank1, r7, r7, fp32
  push result, 1
  arg r1, 2
  coord r3, row
  coord r4, column
  muli r3, r3, 8192     ; 32 rows of 256 bytes
  muli r4, r4, 128
  add r1, r1, r3
  add r1, r1, r4
  li r5, 256
  dma_out r1, r5, result, r0, r10, r7, r10
  pop result, 1
  halt
"""

CHAIN = """
; each PE of a row adds its block of int-valued floats to what its west neighbour sends; the last one writes the sum
.kernel chain
.args source target
.buffer block 512 1
.buffer total 512 1
.buffer scaled 512 1
.core A
  arg r1, 0
  coord r2, column
  muli r2, r2, 256
  add r1, r1, r2
  li r3, 16
  li r4, 64
  li r5, 4
  dma_in block, r0, r4, r1, r4, r5, r4, none
  push block, 1
  barrier
  signal 3
  halt
.core B
  wait 3
  li r3, 16
  li r4, 64
  li r5, 4
  acc_load bank0, block, r0, r4, r5, r3, fp32, full
  pop block, 1
  coord r6, column
  beq r6, r0, first
  acc_add bank0, r5, r3, west
first:
  coord r7, columns
  addi r7, r7, -1
  beq r6, r7, last
  acc_send bank0, r5, r3, east
  halt
last:
  acc_drain total, r0, r4, bank0, r5, r3, fp32
  push total, 1
  vmuls scaled, r0, r4, total, r0, r4, r5, r3, fp32, fp32, 0.5
  pop total, 1
  push scaled, 1
  arg r1, 1
  dma_out r1, r4, scaled, r0, r4, r5, r4
  pop scaled, 1
  halt
"""

LOOKUP = """
; a bag per PE: the first word says how many rows, then their indices; the sum of the rows in bf16
.kernel lookup
.args bags table target
.buffer bag 64 1
.buffer indices 64 1
.buffer rows 512 1
.buffer sum 64 2
.core A
  arg r1, 0
  coord r2, row
  muli r3, r2, 64
  add r1, r1, r3
  li r4, 64
  li r5, 1
  dma_in bag, r0, r4, r1, r4, r5, r4, none
  push bag, 1
  lw r6, bag, r0
  pop bag, 1
  addi r1, r1, 4
  muli r7, r6, 4
  dma_in indices, r0, r4, r1, r4, r5, r7, none
  push indices, 1
  arg r8, 1
  li r9, 32
  dma_gather rows, r0, r9, indices, r0, r8, r9, r6, r9
  pop indices, 1
  push rows, 1
  li r10, 16
  colsum sum, r0, r9, rows, r0, r9, r6, r10, bf16, bf16
  pop rows, 1
  push sum, 1
  arg r11, 2
  muli r12, r2, 32
  add r11, r11, r12
  dma_out r11, r9, sum, r0, r9, r5, r9
  pop sum, 1
  halt
"""


@dataclass(frozen=True)
class Case:
    """A launch: `prepare(sram, dram)` fills memories and returns a check of what they hold afterwards."""

    kernel: Kernel
    rows: int
    columns: int
    arguments: tuple[int, ...]
    prepare: Callable[[Bytes, Bytes], Callable[[], None]]


def _prepare_matmul(sram: Bytes, dram: Bytes) -> Callable[[], None]:
    random = np.random.default_rng(7)
    a, b = (random.integers(-8, 9, (64, 96)).astype(np.float16) for _ in range(2))
    dram[: a.nbytes] = a.view(np.uint8).ravel()
    sram[: b.nbytes] = b.view(np.uint8).ravel()

    def check() -> None:
        c = dram[16384:][: 64 * 256].view(np.float32).reshape(64, 64)
        np.testing.assert_array_equal(c, a.astype(np.float32) @ b.astype(np.float32).T)

    return check


def _prepare_chain(sram: Bytes, dram: Bytes) -> Callable[[], None]:
    blocks = np.arange(3 * 64, dtype=np.float32).reshape(3, 4, 16)
    sram[: blocks.nbytes] = blocks.view(np.uint8).ravel()

    def check() -> None:
        np.testing.assert_array_equal(dram[:256].view(np.float32).reshape(4, 16), blocks.sum(0) / 2)

    return check


def _prepare_lookup(sram: Bytes, dram: Bytes) -> Callable[[], None]:
    table = np.arange(20 * 16, dtype=np.float32).reshape(20, 16) % 32
    dram[: 20 * 32] = (table.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).ravel()
    bags = np.zeros((2, 16), dtype=np.int32)
    bags[0, :4], bags[1, :6] = [3, 0, 19, 5], [5, 7, 7, 1, 2, 3]
    sram[: bags.nbytes] = bags.view(np.uint8).ravel()

    def check() -> None:
        expected = np.stack([table[[0, 19, 5]].sum(0), table[[7, 7, 1, 2, 3]].sum(0)])
        words = dram[32768 : 32768 + 64].view(np.uint16).astype(np.uint32) << 16
        np.testing.assert_array_equal(words.view(np.float32).reshape(2, 16), expected)

    return check


def _kernel(text: str) -> Kernel:
    return parse_assembly(text)[0]


CASES = {
    "matmul": Case(_kernel(MATMUL), 2, 2, (DRAM_BASE, SRAM_BASE, DRAM_BASE + 16384), _prepare_matmul),
    "chain": Case(_kernel(CHAIN), 1, 3, (SRAM_BASE, DRAM_BASE), _prepare_chain),
    "lookup": Case(_kernel(LOOKUP), 2, 1, (SRAM_BASE, DRAM_BASE, DRAM_BASE + 32768), _prepare_lookup),
}
