"""Random kernels that are valid by construction: stages linked by circular buffers, each on a core drawn at random.

Every trip of a loop runs the same stages in the same order on both cores, so nothing can deadlock; every value has one
consumer, and what nobody reads goes to a place of its own in shared memory, so every difference can be seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.kernel_builder import BufferHandle, CoreBuilder, KernelBuilder, Register, round_up
from isa.dtypes import BY_NAME
from isa.machine import Machine
from isa.memory_map import DRAM_BASE, SRAM_BASE
from tests.simulator.kernels import Images, Job, zeros

REGION_BYTES = 16384
"""Bytes of source data per element type at the start of both memories; results come after all regions."""
REGIONS = ("fp32", "fp16", "bf16", "int8", "int32", "indices", "places")
RESULTS = len(REGIONS) * REGION_BYTES
RESULT_BYTES, MEMORY_BYTES = 4096, 1 << 20
FLOATS = ("fp32", "fp16", "bf16")
FACTOR_TYPES = {"mml": ("fp16", "bf16"), "mml_sparse": ("fp16", "bf16"), "vmml": FLOATS}
ASCENDING = np.array([4, 8, 12, 9, 13, 14], np.uint8)
"""Codes of two places in a group of four."""
BINARY = ("vadd", "vsub", "vmul", "vdiv", "vmax", "vmin", "vselect", "vless", "vequal", "vpow", "vexpsub")
BY_CONSTANT = ("vadds", "vmuls", "vmaxs", "vmins")
GROUPED = ("vsubg", "vmulg")
UNARY = (
    "vcast", "vabs", "vrecip", "vsqrt", "vrsqrt", "vexp", "vsigmoid", "vtanh", "vsilu", "vfloor", "vround", "vlog",
    "vsin", "vcos", "vatan", "verf",
)  # fmt: skip
REDUCTIONS = ("rowsum", "rowmax", "rowmin", "colsum", "rowprod")
CHAINS = {"east": ("column", "west"), "west": ("column", "east"), "south": ("row", "north"), "north": ("row", "south")}
OPPOSITE_END = ("west", "north")


def source_images(seed: int) -> Images:
    """Return memories with small numbers of every element type, rows of indices 0..7, and places of kept elements."""
    rng = np.random.default_rng(seed)
    images = zeros(MEMORY_BYTES, MEMORY_BYTES)
    for memory in (images.sram, images.dram):
        for place, name in enumerate(REGIONS):
            region = memory[place * REGION_BYTES : (place + 1) * REGION_BYTES]
            if name == "indices":
                region.view(np.int32)[:] = np.concatenate([rng.permutation(8) for _ in range(REGION_BYTES // 32)])
            elif name == "places":
                region[:] = rng.choice(ASCENDING, REGION_BYTES) | rng.choice(ASCENDING, REGION_BYTES) << 4
            elif name in FLOATS:
                dtype = BY_NAME[name].numpy
                region.view(dtype)[:] = rng.normal(0, 2, REGION_BYTES // dtype.itemsize).astype(dtype)
            else:
                dtype = BY_NAME[name].numpy
                region.view(dtype)[:] = rng.integers(-90, 90, REGION_BYTES // dtype.itemsize)
    return images


@dataclass(frozen=True)
class Block:
    """A value in the slots of a buffer: rows x columns elements at an offset and a pitch."""

    buffer: BufferHandle
    rows: int
    columns: int
    dtype: str
    offset: int
    pitch: int

    @property
    def row_bytes(self) -> int:
        return self.columns * BY_NAME[self.dtype].bytes


@dataclass(frozen=True)
class Code:
    """One core: its builder, registers that every command loads anew, and what it knows of trip and place."""

    number: int
    builder: CoreBuilder
    operands: tuple[Register, ...]
    trip: Register
    pe: Register
    word: Register

    def emit(self, name: str, **operands: Register | BufferHandle | int | float | str) -> None:
        """Emit a command; integers of register operands are loaded into the eight operand registers."""
        free = iter(self.operands)
        loaded: dict[str, Register | BufferHandle | int | float | str] = {}
        for key, value in operands.items():
            is_number = isinstance(value, int) and key not in ("value", "bank", "group")
            loaded[key] = self.builder.copy(value, next(free)) if is_number and value else value
        self.builder.emit(name, **loaded)


class RandomKernel:
    """Draws one kernel from a seed."""

    def __init__(self, seed: int, machine: Machine) -> None:
        self.choose = random.Random(seed)
        self.rows, self.columns = self.choose.choice([(1, 1), (1, 3), (2, 1), (2, 2), (2, 3)])
        self.trips = self.choose.choice([0, 1, 2, 3, 5])
        self.machine = machine
        self.builder = KernelBuilder(f"random{seed}", machine, ("sram", "dram", "trips"))
        self.codes = tuple(self._code(number) for number in range(2))
        self.link_core = self.choose.randrange(2)
        self.pool: list[Block] = []
        self.results = 0
        self.blocks = 0
        self.signals = 0

    def _code(self, number: int) -> Code:
        core = (self.builder.core_a, self.builder.core_b)[number]
        row, column, columns = (core.coordinate(which) for which in ("row", "column", "columns"))
        registers = [core.register() for _ in range(11)]
        pe = core.add(core.multiply(row, columns, registers[9]), column, registers[9])
        return Code(number, core, tuple(registers[:8]), registers[8], pe, registers[10])

    def job(self, stages: int) -> Job:
        """Return the kernel with that many stages, results stored, on its rectangle."""
        kinds: tuple[Callable[[Code], None], ...] = (
            self.load, self.load, self.gather, self.unary, self.unary,
            self.constant, self.binary, self.binary, self.grouped, self.limit,
            self.reduce, self.transpose, self.copy, self.fill, self.product, self.product, self.chain, self.synchronize,
            self.word, self.copy_between_memories, self.scatter, self.unary,
        )  # fmt: skip
        plan = [self.choose.choice(kinds) for _ in range(stages)]
        heads = [code.builder.loop(code.builder.argument("trips")) for code in self.codes]
        for head in heads:
            head.__enter__()
        for stage in plan:
            stage(self.choose.choice(self.codes))
        while self.pool:
            self.store(self.choose.choice(self.codes), self.pool.pop())
        for code, head in zip(self.codes, heads, strict=True):
            code.builder.increase(code.trip, 1)
            head.__exit__(None, None, None)
        arguments = (SRAM_BASE, DRAM_BASE, self.trips)
        return Job(self.builder.build(), self.machine, arguments, self.rows, self.columns)

    # --- values ------------------------------------------------------------------------------------------------

    def block(self, rows: int, columns: int, dtype: str) -> Block:
        """Declare a buffer for a value, with gaps at random."""
        size = BY_NAME[dtype].bytes
        offset = 4 * self.choose.randrange(3)
        pitch = round_up(columns * size, 4) + 4 * self.choose.randrange(3)
        self.blocks += 1
        buffer = self.builder.buffer(f"block{self.blocks}", offset + rows * pitch, self.choose.randint(1, 3))
        return Block(buffer, rows, columns, dtype, offset, pitch)

    def size(self) -> tuple[int, int]:
        return self.choose.randint(1, 7), self.choose.choice([1, 3, 8, 16, 33])

    def produced(self, code: Code, block: Block) -> None:
        code.builder.push(block.buffer)
        self.pool.append(block)

    def take(self) -> Block:
        """Return a value that nobody has read yet, at times a new one."""
        if not self.pool or self.choose.random() < 0.2:
            self.load(self.choose.choice(self.codes))
        return self.pool.pop(self.choose.randrange(len(self.pool)))

    def address(self, code: Code, place: int, step: int, pe_step: int, group: str = "none") -> Register:
        """Return a register with the address of this trip's and PE's source rows, in SRAM or DRAM."""
        core, register = code.builder, code.operands[7]
        base = core.argument(self.choose.choice(("sram", "dram")))
        core.multiply(code.trip, step, register)
        core.add(register, base, register)
        core.add(register, place, register) if place else None
        index = {"none": code.pe, "row": core.coordinate("row"), "column": core.coordinate("column")}.get(group)
        if index is not None:
            core.multiply(index, pe_step, code.operands[6])
            core.add(register, code.operands[6], register)
        return register

    def result(self, code: Code) -> Register:
        """Return a register with the address of a place that nothing else writes."""
        pes = self.rows * self.columns
        place = RESULTS + self.results * 5 * pes * RESULT_BYTES // 4
        self.results += 1
        return self.address(code, place, pes * RESULT_BYTES // 4, RESULT_BYTES // 4)

    @staticmethod
    def out(block: Block) -> dict[str, BufferHandle | int]:
        return {"out": block.buffer, "out_offset": block.offset, "out_pitch": block.pitch}

    @staticmethod
    def read(block: Block, name: str = "a") -> dict[str, BufferHandle | int]:
        return {name: block.buffer, f"{name}_offset": block.offset, f"{name}_pitch": block.pitch}

    # --- stages ------------------------------------------------------------------------------------------------

    def load(self, code: Code, shape: tuple[int, int, str] | None = None) -> Block:
        rows, columns, dtype = shape or (*self.size(), self.choose.choice(REGIONS[:5]))
        block = self.block(rows, columns, dtype)
        group = self.choose.choice(["none", "none", "row", "column", "all"])
        region = REGIONS.index(dtype) * REGION_BYTES
        address = self.address(code, region, 128, 512, group)
        pitch = round_up(block.row_bytes, 4) + 8
        code.emit("dma_in", **self.out(block), address=address, address_pitch=pitch, rows=rows,
                  row_bytes=block.row_bytes, broadcast=group)  # fmt: skip
        self.produced(code, block)
        return block

    def load_compressed(self, code: Code, shape: tuple[int, int, str]) -> Block:
        """Load rows of elements, and behind each of them the places where they were in rows twice as long."""
        rows, k, dtype = shape
        size = BY_NAME[dtype].bytes
        block = self.block(rows, k // 2 + -(-k // 8 // size), dtype)
        for name, offset, row_bytes in ((dtype, 0, k // 2 * size), ("places", k // 2 * size, -(-k // 8))):
            address = self.address(code, REGIONS.index(name) * REGION_BYTES, 128, 512)
            code.emit("dma_in", out=block.buffer, out_offset=block.offset + offset, out_pitch=block.pitch,
                      address=address, address_pitch=row_bytes, rows=rows, row_bytes=row_bytes,
                      broadcast="none")  # fmt: skip
        self.produced(code, block)
        return block

    def indices(self, code: Code, count: int) -> Block:
        """Load `count` different indices 0..7 into the first row of a block."""
        block = self.block(1, count, "int32")
        address = self.address(code, REGIONS.index("indices") * REGION_BYTES, 32, 320)
        code.emit("dma_in", **self.out(block), address=address, address_pitch=0, rows=1, row_bytes=4 * count,
                  broadcast="none")  # fmt: skip
        code.builder.push(block.buffer)
        return block

    def gather(self, code: Code) -> None:
        rows, columns = self.size()
        dtype = self.choose.choice(FLOATS)
        indices, block = self.indices(self.choose.choice(self.codes), rows), self.block(rows, columns, dtype)
        address = self.address(code, REGIONS.index(dtype) * REGION_BYTES, 256, 256)
        code.emit("dma_gather", **self.out(block), a=indices.buffer, a_offset=indices.offset, address=address,
                  address_pitch=round_up(block.row_bytes, 4), rows=rows, row_bytes=block.row_bytes)  # fmt: skip
        code.builder.pop(indices.buffer)
        self.produced(code, block)

    def scatter(self, code: Code) -> None:
        block = self.take()
        indices = self.indices(self.choose.choice(self.codes), block.rows)
        address = self.result(code)
        code.emit("dma_scatter", address=address, address_pitch=RESULT_BYTES // 4 // 8, **self.read(block),
                  b=indices.buffer, b_offset=indices.offset, rows=block.rows,
                  row_bytes=min(block.row_bytes, RESULT_BYTES // 4 // 8))  # fmt: skip
        code.builder.pop(block.buffer)
        code.builder.pop(indices.buffer)

    def store(self, code: Code, block: Block) -> None:
        address = self.result(code)
        pitch = min(block.row_bytes, RESULT_BYTES // 4 // 8)
        code.emit("dma_out", address=address, address_pitch=pitch, **self.read(block), rows=block.rows, row_bytes=pitch)
        code.builder.pop(block.buffer)

    def copy_between_memories(self, code: Code) -> None:
        core, target = code.builder, code.operands[6]
        core.add(self.result(code), 0, target)
        core.add(core.argument(self.choose.choice(("sram", "dram"))), self.choose.randrange(64), code.operands[7])
        rows, size = self.choose.randint(1, 4), self.choose.randint(1, 60)
        code.emit("dma_copy", address=target, address_pitch=size, source=code.operands[7], source_pitch=96, rows=rows,
                  row_bytes=size)  # fmt: skip

    def unary(self, code: Code) -> None:
        a = self.take()
        out = self.block(a.rows, a.columns, self.choose.choice(FLOATS))
        name = self.choose.choice((*UNARY, "vspread"))
        spread = {"spread": self.choose.choice(["full", "row", "column"])} if name == "vspread" else {}
        code.emit(name, **self.out(out), **self.read(a), rows=a.rows, columns=a.columns,
                  out_dtype=out.dtype, a_dtype=a.dtype, **spread)  # fmt: skip
        code.builder.pop(a.buffer)
        self.produced(code, out)

    def constant(self, code: Code) -> None:
        a = self.take()
        out = self.block(a.rows, a.columns, self.choose.choice((*FLOATS, "int8", "int32")))
        code.emit(self.choose.choice(BY_CONSTANT), **self.out(out), **self.read(a), rows=a.rows, columns=a.columns,
                  out_dtype=out.dtype, a_dtype=a.dtype, value=self.choose.uniform(-3, 3))  # fmt: skip
        code.builder.pop(a.buffer)
        self.produced(code, out)

    def limit(self, code: Code) -> None:
        a = self.take()
        out = self.block(a.rows, a.columns, self.choose.choice(FLOATS))
        code.emit("vlimit", **self.out(out), **self.read(a), first=self.choose.randint(0, 9), step=1, rows=a.rows,
                  columns=a.columns, out_dtype=out.dtype, a_dtype=a.dtype, value=-1.0)  # fmt: skip
        code.builder.pop(a.buffer)
        self.produced(code, out)

    def binary(self, code: Code) -> None:
        a = self.take()
        spread = self.choose.choice(["full", "row", "column", "same"])
        shapes = {"row": (1, a.columns), "column": (a.rows, 1)}
        b = a if spread == "same" else self.load(self.choose.choice(self.codes), (
            *shapes.get(spread, (a.rows, a.columns)), self.choose.choice(REGIONS[:5])))  # fmt: skip
        if b is not a:
            self.pool.remove(b)
        out = self.block(a.rows, a.columns, self.choose.choice(FLOATS))
        name = self.choose.choice(BINARY)
        value = {"value": 0.5} if name in ("vselect", "vexpsub") else {}
        code.emit(name, **self.out(out), **self.read(a), **self.read(b, "b"), rows=a.rows, columns=a.columns,
                  out_dtype=out.dtype, a_dtype=a.dtype, b_dtype=b.dtype, spread="full" if b is a else spread,
                  **value)  # fmt: skip
        for block in (a,) if b is a else (a, b):
            code.builder.pop(block.buffer)
        self.produced(code, out)

    def grouped(self, code: Code) -> None:
        """Scale or shift by groups of columns; bytes are read as pairs of int4."""
        a = self.take()
        columns, dtype = (2 * a.columns, "int4") if a.dtype == "int8" else (a.columns, a.dtype)
        group = self.choose.randint(1, 5)
        b = self.load(self.choose.choice(self.codes), (a.rows, -(-columns // group), self.choose.choice(FLOATS)))
        self.pool.remove(b)
        out = self.block(a.rows, columns, self.choose.choice(FLOATS))
        code.emit(self.choose.choice(GROUPED), **self.out(out), **self.read(a), **self.read(b, "b"), rows=a.rows,
                  columns=columns, out_dtype=out.dtype, a_dtype=dtype, b_dtype=b.dtype, group=group)  # fmt: skip
        for block in (a, b):
            code.builder.pop(block.buffer)
        self.produced(code, out)

    def reduce(self, code: Code) -> None:
        a, name = self.take(), self.choose.choice(REDUCTIONS)
        shape = (1, a.columns) if name == "colsum" else (a.rows, 1)
        out = self.block(*shape, self.choose.choice(FLOATS))
        code.emit(name, **self.out(out), **self.read(a), rows=a.rows, columns=a.columns, out_dtype=out.dtype,
                  a_dtype=a.dtype)  # fmt: skip
        code.builder.pop(a.buffer)
        self.produced(code, out)

    def transpose(self, code: Code) -> None:
        a = self.take()
        out = self.block(a.columns, a.rows, a.dtype)
        code.emit("transpose", **self.out(out), **self.read(a), rows=a.rows, columns=a.columns, a_dtype=a.dtype)
        code.builder.pop(a.buffer)
        self.produced(code, out)

    def copy(self, code: Code) -> None:
        a = self.take()
        out = self.block(a.rows, a.columns, a.dtype)
        code.emit("copy", **self.out(out), **self.read(a), rows=a.rows, row_bytes=a.row_bytes)
        code.builder.pop(a.buffer)
        self.produced(code, out)

    def fill(self, code: Code) -> None:
        out = self.block(*self.size(), self.choose.choice(FLOATS))
        code.emit("fill", **self.out(out), rows=out.rows, columns=out.columns, out_dtype=out.dtype, value=1.25)
        self.produced(code, out)

    def bank(self, code: Code) -> int:
        """Return a bank of this core: a bank belongs to one."""
        return code.number * 4 + self.choose.randrange(4)

    def product(self, code: Code) -> None:
        """Set or preload a bank, multiply once or twice on either unit, maybe subtract, write the bank or a range."""
        is_integer, bank = self.choose.random() < 0.3, self.bank(code)
        rows, columns = self.choose.randint(1, 7), self.choose.randint(1, 9)
        mode = "set"
        if self.choose.random() < 0.4 and not is_integer:
            self.spread(code, "acc_load", bank, (rows, columns), "row", "fp32")
            mode = "add"
        for accumulate in (mode, "add")[: self.choose.randint(1, 2)]:
            instruction = self.choose.choice(("mml", "mml_sparse") if is_integer else ("mml_sparse", "mml", "vmml"))
            dtype = "int8" if is_integer else self.choose.choice(FACTOR_TYPES[instruction])
            self.multiply(code, instruction, dtype, {"bank": bank, "accumulate": accumulate}, rows, columns)
        if not is_integer and self.choose.random() < 0.3:
            spread = self.choose.choice(("full", "row", "column"))
            self.spread(code, "acc_sub", bank, (rows, columns), spread, self.choose.choice(REGIONS[:5]))
        self.drain(code, bank, rows, columns, "int32" if is_integer else self.choose.choice(FLOATS))

    def spread(self, code: Code, name: str, bank: int, size: tuple[int, int], spread: str, dtype: str) -> None:
        """Load a block, a row or a column, and set a bank to it or subtract it."""
        rows, columns = 1 if spread == "row" else size[0], 1 if spread == "column" else size[1]
        a = self.load(self.choose.choice(self.codes), (rows, columns, dtype))
        self.pool.remove(a)
        code.emit(name, bank=bank, **self.read(a), rows=size[0], columns=size[1], a_dtype=dtype, spread=spread)
        code.builder.pop(a.buffer)

    def multiply(self, code: Code, instruction: str, dtype: str, bank: dict[str, Any], rows: int, columns: int) -> None:
        """Load two factors and multiply them into a bank."""
        k_blocks = self.choose.randint(1, 3)
        k = k_blocks * self.machine.matrix.block_k_bytes // BY_NAME[dtype].bytes
        a = self.load(self.choose.choice(self.codes), (rows, k, dtype))
        load = self.load_compressed if instruction == "mml_sparse" else self.load
        b = load(self.choose.choice(self.codes), (columns, k, dtype))
        self.pool.remove(a)
        self.pool.remove(b)
        code.emit(instruction, **bank, **self.read(a), **self.read(b, "b"), rows=rows, columns=columns,
                  k_blocks=k_blocks, a_dtype=dtype)  # fmt: skip
        code.builder.pop(a.buffer)
        code.builder.pop(b.buffer)

    def drain(self, code: Code, bank: int, rows: int, columns: int, dtype: str) -> None:
        if dtype != "int32" and self.choose.random() < 0.3:
            out = self.block(rows, 2, "fp32")
            code.emit("acc_range", **self.out(out), bank=bank, rows=rows, columns=columns)
        else:
            out = self.block(rows, columns, dtype)
            code.emit("acc_drain", **self.out(out), bank=bank, rows=rows, columns=columns, out_dtype=dtype)
        self.produced(code, out)

    def chain(self, code: Code) -> None:
        """Add up what all PEs of a row or column hold, from one end to the other."""
        code = self.codes[self.link_core]
        core, bank, to = code.builder, self.bank(code), self.choose.choice(tuple(CHAINS))
        axis, back = CHAINS[to]
        a = self.load(self.choose.choice(self.codes), (*self.size(), "fp32"))
        a = Block(a.buffer, a.rows, min(a.columns, 32), a.dtype, a.offset, a.pitch)
        self.pool.pop()
        code.emit("acc_load", bank=bank, **self.read(a), rows=a.rows, columns=a.columns, a_dtype="fp32", spread="full")
        core.pop(a.buffer)
        place, last = core.coordinate(axis), code.operands[7]
        core.add(core.coordinate(f"{axis}s"), -1, last)
        first_end, other_end = (last, 0) if to in OPPOSITE_END else (0, last)
        ends = {0: lambda: core.when_less(0, place), last: lambda: core.when_less(place, last)}
        with ends[first_end]():
            code.emit("acc_add", bank=bank, rows=a.rows, columns=a.columns, direction=back)
        with ends[other_end]():
            code.emit("acc_send", bank=bank, rows=a.rows, columns=a.columns, direction=to)
        self.drain(code, bank, a.rows, a.columns, "fp32")

    def synchronize(self, code: Code) -> None:
        """Meet, drain, or let the other core wait for this one."""
        kind = self.choose.choice(["barrier", "fence", "signal"])
        if kind == "signal" and self.signals < 16:
            code.builder.emit("signal", value=self.signals)
            self.codes[1 - code.number].builder.emit("wait", value=self.signals)
            self.signals += 1
        elif kind != "signal":
            code.builder.emit(kind)

    def word(self, code: Code) -> None:
        """Load an index into a register and limit a block's rows by it."""
        index, a = self.indices(self.choose.choice(self.codes), 2), self.take()
        core = code.builder
        core.emit("lw", destination=code.word, a=index.buffer, a_offset=core.copy(index.offset + 4, code.operands[0]))
        core.pop(index.buffer)
        out = self.block(a.rows, a.columns, self.choose.choice(FLOATS))
        code.emit("vlimit", **self.out(out), **self.read(a), first=code.word, step=self.choose.randint(0, 2),
                  rows=a.rows, columns=a.columns, out_dtype=out.dtype, a_dtype=a.dtype, value=7.0)  # fmt: skip
        core.pop(a.buffer)
        self.produced(code, out)
