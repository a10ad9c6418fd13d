"""Every command's fast form against its plain twin, bit for bit, on random operands; and the element types' tables."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa import columns as col
from isa.dtypes import BY_CODE, DTYPES, FP8E4M3, FP16, FP32, INT4, INT8, INT32, Dtype
from isa.memory_map import DRAM_BASE, SRAM_BASE
from isa.sparsity import compress, compressed_row_bytes, expand
from isa.table import BY_NAME, BY_OPCODE, INSTRUCTIONS, Instruction, Kind, Timing
from simulator.meaning import codes
from simulator.meaning.dispatch import PLAIN, execute, execute_plain
from simulator.meaning.tables import make_tables

BLOCK_K_BYTES, BANK_ROWS, BANK_COLUMNS, REGION_BYTES = 32, 32, 48, 4096
LOCAL_BYTES, MEMORY_BYTES = 3 * REGION_BYTES, 8192
TABLES = make_tables(BLOCK_K_BYTES, BANK_ROWS, BANK_COLUMNS, LOCAL_BYTES)
COMMANDS = [instruction for instruction in INSTRUCTIONS if instruction.is_command]
ASCENDING = np.resize(np.array([4, 8, 12, 9, 13, 14], np.uint8), 16)
"""Codes of two places in a group of four, by any 4 bits."""
ADDRESSABLE = [dtype for dtype in DTYPES if dtype is not INT4]
SPECIAL_WORDS = np.array(
    [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 1, 0x80000001, 0x7F7FFFFF], np.uint32
)


@dataclass
class Memories:
    """What a command can change."""

    local: npt.NDArray[np.uint8]
    sram: npt.NDArray[np.uint8]
    dram: npt.NDArray[np.uint8]
    banks: npt.NDArray[np.float32]
    link: npt.NDArray[np.float32]

    def copy(self) -> Memories:
        return Memories(*(array.copy() for array in vars(self).values()))


def random_memories(random: np.random.Generator) -> Memories:
    """All bit patterns, moderate numbers, and infinities, NaNs, zeros and subnormals, mixed."""

    def words(count: int) -> npt.NDArray[np.uint32]:
        kinds = random.integers(0, 4, count)
        patterns = random.integers(0, 1 << 32, count, dtype=np.uint64).astype(np.uint32)
        numbers = random.normal(0, 30, count).astype(np.float32).view(np.uint32)
        return np.choose(kinds, [patterns, numbers, numbers, random.choice(SPECIAL_WORDS, count)]).astype(np.uint32)

    local = words(LOCAL_BYTES // 4).view(np.uint8)
    sram, dram = (random.integers(0, 256, MEMORY_BYTES, dtype=np.uint8) for _ in range(2))
    banks = words(4 * BANK_ROWS * BANK_COLUMNS).view(np.float32).reshape(4, BANK_ROWS, BANK_COLUMNS)
    link = words(BANK_ROWS * BANK_COLUMNS).view(np.float32).reshape(BANK_ROWS, BANK_COLUMNS)
    return Memories(local, sram, dram, banks, link)


def run_both(fields, values, addresses, memories: Memories) -> tuple[int, Memories]:
    """Execute the fast and the plain form; return the code and what is left, after checking that both agree."""
    fast, plain = memories.copy(), memories.copy()
    code = execute(fields, values, *addresses, *vars(fast).values(), TABLES)
    assert execute_plain(fields, values, *addresses, *vars(plain).values(), TABLES) == code
    if code == codes.OK:
        for name, array in vars(fast).items():
            other = vars(plain)[name]
            if array.dtype == np.float32:  # the payload of a NaN in a bank is not visible to programs
                both_nan = np.isnan(array) & np.isnan(other)
                array, other = (np.where(both_nan, np.float32(0), each).view(np.uint32) for each in (array, other))
            np.testing.assert_array_equal(array, other, err_msg=name)
    return code, fast


def pick_dtype(draw, instruction: Instruction, slot: str) -> Dtype:
    if instruction.timing is Timing.SIMD and slot != "d0":
        return draw(st.sampled_from(DTYPES))
    if instruction.timing is Timing.MATRIX:
        return draw(st.sampled_from([dtype for dtype in ADDRESSABLE if dtype is not INT32]))
    return draw(st.sampled_from(ADDRESSABLE))


@st.composite
def commands(draw, instruction: Instruction):
    """Return (fields, values, addresses): a legal command; operand i stays within region i of local memory."""
    fields, values = np.zeros(18, dtype=np.int64), np.zeros(8, dtype=np.int64)
    fields[col.OPCODE] = instruction.opcode
    for operand in instruction.operands:
        column = col.INDEX[operand.slot]
        if operand.kind is Kind.DTYPE:
            fields[column] = pick_dtype(draw, instruction, operand.slot).code
        elif operand.kind is Kind.CHOICE:
            fields[column] = draw(st.integers(0, len(operand.choices) - 1))
        elif operand.kind is Kind.FLOAT:
            number = draw(st.floats(width=32))
            fields[column] = np.float32(number).view(np.int32) if number == number else 0x7FC00000
        elif operand.name == "group":
            fields[column] = draw(st.integers(-1, 14))
        elif operand.slot == "bank":
            fields[column] = draw(st.integers(0, 3))
    rows, columns = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    values[0], values[6], values[7] = draw(st.integers(0, 3)), rows, columns
    addresses = [-1, -1, -1]
    for index, name in enumerate(("out", "a", "b")):
        if name in instruction.by_name:
            addresses[index] = REGION_BYTES * index + 4 * draw(st.integers(0, 16))
            if f"{name}_pitch" in instruction.by_name:
                values[2 * index + 1] = 4 * draw(st.integers(26, 32))
    if instruction.name == "vlimit":
        values[4], values[5] = draw(st.integers(-5, 12)), draw(st.integers(-2, 3))
    for operand in instruction.operands:
        if operand.name in ("address", "source"):
            slot = int(operand.slot[1:])
            values[slot] = draw(st.sampled_from([SRAM_BASE, DRAM_BASE])) + draw(st.integers(0, 100))
            values[slot + 1] = draw(st.integers(0, 128))
    if instruction.name == "dma_copy":
        values[2] = (SRAM_BASE + DRAM_BASE) - values[0] // SRAM_BASE * SRAM_BASE
    return fields, values, tuple(addresses)


def put_indices(instruction: Instruction, addresses, memories: Memories, random: np.random.Generator) -> None:
    """Give gather and scatter indices of which few lead outside."""
    operand = {"dma_gather": 1, "dma_scatter": 2}.get(instruction.name)
    if operand is not None:
        indices = random.integers(-1 if random.random() < 0.1 else 0, 62, 12).astype(np.int32)
        memories.local[addresses[operand] : addresses[operand] + 48] = indices.view(np.uint8)


def put_places(instruction: Instruction, fields, values, address: int, memories: Memories) -> None:
    """Give a compressed operand places that ascend, whatever bits they were."""
    if instruction.name == "mml_sparse":
        dtype = BY_CODE[int(fields[col.D1])]
        elements = int(values[0]) * BLOCK_K_BYTES // dtype.bytes
        for row in range(int(values[7])):
            start = address + row * int(values[5])
            codes_of_row = memories.local[start:][elements // 2 * dtype.bytes : compressed_row_bytes(elements, dtype)]
            codes_of_row[:] = ASCENDING[codes_of_row & 15] | ASCENDING[codes_of_row >> 4] << 4


def declared_range(instruction: Instruction, fields, values, address: int) -> npt.NDArray[np.bool_]:
    """Return which bytes of local memory the instruction's row allows to change."""
    allowed = np.zeros(LOCAL_BYTES, dtype=bool)
    if address < 0:
        return allowed
    slot = next((each.slot for each in instruction.operands if each.kind is Kind.DTYPE), None)
    size = BY_CODE[int(fields[col.INDEX[slot]])].bytes if slot else 1
    rows, columns = int(values[6]), int(values[7])
    shapes = {"transpose": (columns, rows), "colsum": (1, columns), "acc_range": (rows, 8)}
    shapes |= dict.fromkeys(("rowsum", "rowmax", "rowmin", "rowprod"), (rows, 1))
    rows, columns = shapes.get(instruction.name, (rows, columns))
    for row in range(rows):
        start = address + row * int(values[1])
        allowed[start : start + columns * size] = True
    return allowed


def test_every_command_has_a_plain_twin() -> None:
    assert {instruction.name for instruction in COMMANDS} == PLAIN.keys()


@pytest.mark.parametrize("name", [instruction.name for instruction in COMMANDS])
def test_fast_and_plain_forms_leave_the_same_bits(name: str) -> None:
    instruction = BY_NAME[name]

    @settings(max_examples=60, deadline=None)
    @given(commands(instruction), st.integers(0, 1 << 32))
    def check(command, seed: int) -> None:
        fields, values, addresses = command
        random = np.random.default_rng(seed)
        memories = random_memories(random)
        put_indices(instruction, addresses, memories, random)
        put_places(instruction, fields, values, addresses[2], memories)
        code, after = run_both(fields, values, addresses, memories)
        assert code in (codes.OK, codes.ROW_OUTSIDE_MEMORY)
        changed = after.local != memories.local
        assert not np.any(changed & ~declared_range(instruction, fields, values, addresses[0]))
        writes_memory = name in ("dma_out", "dma_scatter", "dma_copy")
        assert writes_memory or (
            np.array_equal(after.sram, memories.sram) and np.array_equal(after.dram, memories.dram)
        )

    check()


def command_of(name: str, rows: int, columns: int, a: Dtype = FP32, out: Dtype = FP32, **slots: int):
    """Return (fields, values, addresses) of a simple command: dense rows, out in region 0, a in 1, b in 2."""
    fields, values = np.zeros(18, dtype=np.int64), np.zeros(8, dtype=np.int64)
    fields[col.OPCODE] = BY_NAME[name].opcode
    fields[col.D0], fields[col.D1], fields[col.D2] = out.code, a.code, a.code
    values[1], values[3], values[5] = columns * out.bytes, columns * a.bytes, columns * a.bytes
    values[6], values[7] = rows, columns
    for slot, value in slots.items():
        if slot.startswith("r"):
            values[int(slot[1:])] = value
        else:
            fields[col.INDEX[slot]] = value
    operands = BY_NAME[name].by_name
    addresses = tuple(REGION_BYTES * index if each in operands else -1 for index, each in enumerate(("out", "a", "b")))
    return fields, values, addresses


def compute(name: str, a, b=None, out: Dtype = FP32, **slots: int):
    """Run a command on host arrays (2-D) and return its output as the host array type of `out`."""
    memories = random_memories(np.random.default_rng(0))
    a_dtype = next(dtype for dtype in DTYPES if dtype.numpy == a.dtype)
    fields, values, addresses = command_of(name, *a.shape, a_dtype, out, **slots)
    memories.local[REGION_BYTES : REGION_BYTES + a.nbytes] = np.ascontiguousarray(a).view(np.uint8).ravel()
    if b is not None:
        memories.local[2 * REGION_BYTES : 2 * REGION_BYTES + b.nbytes] = np.ascontiguousarray(b).view(np.uint8).ravel()
    code, after = run_both(fields, values, addresses, memories)
    assert code == codes.OK
    return after.local[: a.size * out.bytes].view(out.numpy).reshape(a.shape)


@pytest.mark.parametrize("dtype", [dtype for dtype in ADDRESSABLE if dtype.bits <= 16], ids=lambda dtype: dtype.name)
def test_every_code_widens_exactly_and_survives_a_round_trip(dtype: Dtype) -> None:
    every = np.arange(1 << dtype.bits).astype(f"u{dtype.bytes}").view(dtype.numpy).reshape(-1, 256)
    for block in every:
        wide = compute("vcast", block[None])
        np.testing.assert_array_equal(wide, block[None].astype(np.float32))
        back = compute("vcast", wide, out=dtype)
        expected = np.where(np.isnan(wide), np.array(np.nan).astype(dtype.numpy), block) if dtype.is_float else block
        np.testing.assert_array_equal(
            back.view(np.uint8), expected.astype(dtype.numpy)[None].view(np.uint8).reshape(1, -1)
        )


@pytest.mark.parametrize("dtype", ADDRESSABLE, ids=lambda dtype: dtype.name)
def test_ties_round_to_even_and_the_ends_overflow(dtype: Dtype) -> None:
    if dtype.bits <= 16:
        known = np.sort(np.arange(1 << dtype.bits).astype(f"u{dtype.bytes}").view(dtype.numpy).astype(np.float32))
        known = known[np.isfinite(known)]
        middle = ((known[:-1].astype(np.float64) + known[1:]) / 2).astype(np.float32)
    else:
        middle = np.array([0.5, 1.5, 2.5, 4194303.5, 8388607.5, 2147483520, 1e-45], np.float32)
    ends = np.array([np.inf, 3e38, 65519.9, 65520, 61440, 464, 465, 2**31, 127.5, 128.5, 1e-45, 0], np.float32)
    around = [np.nextafter(middle, np.float32(towards)) for towards in (-np.inf, np.inf)]
    numbers = np.concatenate([middle, *around, ends, -ends, [np.float32(np.nan)]]).astype(np.float32)
    for start in range(0, len(numbers), 1024):
        compute("vcast", numbers[None, start : start + 1024], out=dtype)


def test_saturation_and_canonical_nans() -> None:
    numbers = np.array([[1e9, -1e9, np.nan, 448, np.inf]], np.float32)
    assert compute("vcast", numbers, out=INT8).tolist() == [[127, -128, 0, 127, 127]]
    assert compute("vcast", numbers, out=INT32).tolist() == [[10**9, -(10**9), 0, 448, 2**31 - 1]]
    assert compute("vcast", numbers, out=FP8E4M3).view(np.uint8).tolist() == [[0x7E, 0xFE, 0x7F, 0x7E, 0x7E]]
    negative_nan = np.array([[0xFFC12345]], np.uint32).view(np.float32)
    assert compute("vcast", negative_nan).view(np.uint32).tolist() == [[0x7FC00000]]


def test_groups_of_nibbles_are_shifted_and_scaled() -> None:
    memories = random_memories(np.random.default_rng(4))
    memories.local[REGION_BYTES:][:6] = [0x21, 0xF8, 0x07, 0x43, 0x65, 0x0A]
    memories.local[2 * REGION_BYTES :][:24].view(np.float32)[:] = [1, 10, 100, -1, 0.5, 2]
    slots = {"r3": 3, "r5": 12, "r7": 5, "immediate": 2}
    for name, expected in (
        ("vsubg", [[0, 1, -18, -11, -93], [4, 5, 4.5, 5.5, -8]]),
        ("vmulg", [[1, 2, -80, -10, 700], [-3, -4, 2.5, 3, -12]]),
    ):
        fields, values, addresses = command_of(name, 2, 5, out=FP32, **slots)
        fields[col.D1] = INT4.code
        code, after = run_both(fields, values, addresses, memories)
        assert code == codes.OK
        assert after.local[:40].view(np.float32).reshape(2, 5).tolist() == expected


def test_exp_of_a_scaled_difference_rounds_each_step() -> None:
    numbers = np.array([[3, 1, -1e30, np.inf], [0.5, 0.25, 1e-3, -7]], np.float32)
    half = int(np.float32(0.5).view(np.int32))
    result = compute("vexpsub", numbers, np.array([[3], [0.5]], np.float32), mode=2, immediate=half, r5=4)
    steps = (numbers - np.array([[3], [0.5]], np.float32)) * np.float32(0.5)
    np.testing.assert_array_equal(result, compute("vexp", steps))
    assert result[0, [0, 2, 3]].tolist() == [1, 0, np.inf] and result[1, 0] == 1


def test_exp_is_accurate_everywhere() -> None:
    numbers = np.linspace(-87.3, 88.7, 200_000, dtype=np.float32)
    from simulator.meaning.functions import EXP_ERROR_ULPS, exponential_plain

    exact = np.exp(numbers.astype(np.float64))
    errors = np.abs(exponential_plain(numbers) - exact) / np.spacing(exact.astype(np.float32))
    assert EXP_ERROR_ULPS - 0.2 < errors.max() <= EXP_ERROR_ULPS
    ends = np.array([[-1e30, -np.inf, -104.5, 0.0, 88.8, 1e30, np.inf]], np.float32)
    assert compute("vexp", ends).tolist() == [[0.0, 0.0, 0.0, 1.0, np.inf, np.inf, np.inf]]
    assert np.isnan(compute("vexp", np.array([[np.nan]], np.float32)))
    assert compute("vexp", np.array([[-100.0]], np.float32))[0, 0] == pytest.approx(np.exp(-100.0), abs=1.5e-45)


WIDE = ("log", "sin", "cos", "atan", "erf")


@pytest.mark.parametrize("name", WIDE)
def test_wide_functions_are_accurate_everywhere(name: str) -> None:
    from simulator.meaning import wide_functions

    random = np.random.default_rng(4)
    numbers = np.concatenate((random.uniform(-30, 30, 100_000), 10.0 ** random.uniform(-38, 5, 100_000))).astype(
        np.float32
    )
    numbers = np.abs(numbers) if name == "log" else numbers
    exact = np.array([getattr(math, name)(number) for number in numbers.tolist()])
    errors = np.abs(getattr(wide_functions, f"{name}_plain")(numbers) - exact) / np.spacing(
        np.abs(exact).astype(np.float32)
    )
    assert errors.max() <= wide_functions.ERROR_ULPS
    ends = np.array([[-np.inf, -1.0, 0.0, np.inf, np.nan]], np.float32)
    expected = {
        "log": [np.nan, np.nan, -np.inf, np.inf, np.nan], "sin": [np.nan, np.sin(-1), 0.0, np.nan, np.nan],
        "cos": [np.nan, np.cos(1), 1.0, np.nan, np.nan], "erf": [-1.0, math.erf(-1), 0.0, 1.0, np.nan],
        "atan": [-np.pi / 2, -np.pi / 4, 0.0, np.pi / 2, np.nan],
    }  # fmt: skip
    np.testing.assert_allclose(compute(f"v{name}", ends)[0], expected[name], rtol=1e-7)


def test_powers_are_those_of_the_c_standard() -> None:
    random = np.random.default_rng(5)
    bases, exponents = (
        random.uniform(0, 20, 100_000).astype(np.float32),
        random.uniform(-25, 25, 100_000).astype(np.float32),
    )
    from simulator.meaning.wide_functions import ERROR_ULPS, pow_plain

    exact = np.power(bases.astype(np.float64), exponents.astype(np.float64))
    errors = np.abs(pow_plain(bases, exponents) - exact) / np.spacing(exact.astype(np.float32))
    assert errors[np.isfinite(errors)].max() <= ERROR_ULPS
    ends = np.array([-np.inf, -2.5, -2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 3.0, np.inf, np.nan], np.float32)
    left, right = (part.reshape(1, -1) for part in np.meshgrid(ends, [*ends, -3.0, 2.0, 5.0]))
    result = compute("vpow", left, right.astype(np.float32))
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(result, np.power(left.astype(np.float64), right).astype(np.float32), rtol=1e-7)


def test_comparisons_and_roundings() -> None:
    a, b = np.array([[1, 2, 3, np.nan, -0.0]], np.float32), np.array([[2, 2, 2, 2, 0.0]], np.float32)
    assert compute("vless", a, b).tolist() == [[1, 0, 0, 0, 0]]
    assert compute("vequal", a, b).tolist() == [[0, 1, 0, 0, 1]]
    halves = np.array([[-1.5, -0.5, 0.5, 2.5, np.inf]], np.float32)
    assert compute("vfloor", halves).tolist() == [[-2, -1, 0, 2, np.inf]]
    assert compute("vround", halves).tolist() == [[-2, 0, 0, 2, np.inf]]
    assert compute("vspread", halves, mode=2).tolist() == [[-1.5] * 5]
    assert compute("rowprod", a[:, :3])[0, 0] == 6


def test_matrix_products_are_what_a_person_expects() -> None:
    random = np.random.default_rng(1)
    a, b = (random.normal(size=(count, 48)).astype(np.float16) for count in (5, 7))
    memories = random_memories(random)
    for region, array in ((1, a), (2, b)):
        memories.local[region * REGION_BYTES :][: array.nbytes] = array.view(np.uint8).ravel()
    fields, values, addresses = command_of("mml", 5, 7, FP16, r0=3, r3=96, r5=96)
    before = memories.copy()
    _, after = run_both(fields, values, addresses, memories)
    np.testing.assert_allclose(after.banks[0, :5, :7], a.astype(np.float32) @ b.astype(np.float32).T, atol=1e-5)
    after.banks[0, :5, :7] = before.banks[0, :5, :7]
    np.testing.assert_array_equal(after.banks.view(np.uint32), before.banks.view(np.uint32))


@pytest.mark.parametrize("name", ["mml", "vmml", "mml_sparse"])
@pytest.mark.parametrize("dtype", [dtype for dtype in ADDRESSABLE if dtype is not INT32], ids=str)
def test_products_of_full_blocks(name: str, dtype: Dtype) -> None:
    """Shapes that are multiples of a vector, and shapes beside them, at any place and with any numbers."""
    random = np.random.default_rng(dtype.code)
    for rows, columns, blocks in itertools.product((1, 2, 3, 12, 13, 32), (8, 16, 17, 32), (1, 2, 3)):
        fields, values, _ = command_of(name, rows, columns, dtype, r0=blocks, mode=int(random.integers(2)))
        values[[3, 5]] = BLOCK_K_BYTES * blocks + dtype.bytes * random.integers(0, 5, 2)
        a, b = REGION_BYTES * np.arange(1, 3) + dtype.bytes * random.integers(0, 16, 2)
        memories = random_memories(random)
        put_places(BY_NAME[name], fields, values, int(b), memories)
        run_both(fields, values, (-1, int(a), int(b)), memories)


def test_integer_products_wrap_and_leave_unchanged() -> None:
    memories = random_memories(np.random.default_rng(2))
    memories.local[REGION_BYTES:] = 0x7F
    memories.banks.view(np.int32)[0] = 2**31 - 1
    fields, values, addresses = command_of("mml", 2, 3, INT8, r0=1, r3=32, r5=32, mode=1)
    _, after = run_both(fields, values, addresses, memories)
    total = 2**31 - 1 + 32 * 127 * 127 - 2**32
    assert after.banks.view(np.int32)[0, :2, :3].tolist() == [[total] * 3] * 2
    fields, values, addresses = command_of("acc_drain", 2, 3, out=INT32)
    _, drained = run_both(fields, values, addresses, after)
    assert drained.local[:24].view(np.int32).tolist() == [total] * 6


def test_maxima_are_subtracted_from_rows() -> None:
    """Of whatever type they are, int32 included, from the fp32 that a bank holds."""
    for host, dtype in ((np.float32, FP32), (np.int32, INT32)):
        memories = random_memories(np.random.default_rng(4))
        memories.local[REGION_BYTES : REGION_BYTES + 8] = np.array([3, -1], host).view(np.uint8)
        memories.banks[0, :2, :3] = [[1, 3, -np.inf], [-1, 0.25, 1e30]]
        _, after = run_both(*command_of("acc_sub", 2, 3, dtype, r3=4, mode=2), memories)
        assert after.banks[0, :2, :3].tolist() == [[-2, 0, -np.inf], [0, 1.25, np.float32(1e30)]]


def multiply_sparse(a, rows, bank, mode: int = 1) -> tuple[int, npt.NDArray[np.float32]]:
    """Multiply host rows with compressed rows, added to a bank of equal elements; return the code and the bank."""
    memories = random_memories(np.random.default_rng(5))
    memories.local[REGION_BYTES:][: a.nbytes] = a.view(np.uint8).ravel()
    memories.local[2 * REGION_BYTES :][: rows.size] = rows.ravel()
    memories.banks[0] = bank
    dtype = next(dtype for dtype in DTYPES if dtype.numpy == a.dtype)
    slots = {"r0": a[0].nbytes // BLOCK_K_BYTES, "r3": a[0].nbytes, "r5": rows.shape[1], "mode": mode}
    code, after = run_both(*command_of("mml_sparse", len(a), len(rows), dtype, **slots), memories)
    return code, after.banks[0, : len(a), : len(rows)]


def pruned(random: np.random.Generator, rows: int, elements: int, dtype: Dtype):
    """Return random weights of which at least two of every four are zero, of either sign."""
    weights = random.normal(0, 20, (rows, elements // 4, 4))
    order = np.argsort(random.random(weights.shape), axis=-1)
    return np.where(order < random.integers(0, 3, (rows, elements // 4, 1)), weights, weights * 0.0).reshape(
        rows, elements).astype(dtype.numpy)  # fmt: skip


@pytest.mark.parametrize("dtype", [dtype for dtype in ADDRESSABLE if dtype is not INT32], ids=str)
def test_sparse_products_are_those_of_mml_on_the_expanded_operand(dtype: Dtype) -> None:
    """Bit for bit, for numbers: products with zero change no sum that starts above zero."""
    random, elements = np.random.default_rng(7), 3 * BLOCK_K_BYTES // dtype.bytes
    a, b = random.normal(0, 20, (5, elements)).astype(dtype.numpy), pruned(random, 9, elements, dtype)
    rows = compress(b)
    memories = random_memories(random)
    for region, array in ((1, a), (2, expand(rows, dtype, elements))):
        memories.local[region * REGION_BYTES :][: array.nbytes] = array.view(np.uint8).ravel()
    _, dense = run_both(*command_of("mml", 5, 9, dtype, r0=3, r3=96, r5=96), memories)
    code, sparse = multiply_sparse(a, rows, 0.0, mode=0)
    assert code == codes.OK
    np.testing.assert_array_equal(sparse, dense.banks[0, :5, :9])


def test_what_is_not_kept_adds_nothing() -> None:
    """Neither the NaN of infinity times zero, nor a zero that would turn the sign of a sum."""
    a, b = np.full((1, 16), np.inf, np.float16), np.zeros((2, 16), np.float16)
    a[0, [2, 3, 13]], b[:, [2, 3]] = [10, 20, 30], [[1, 2], [3, 4]]
    b[1, 12:14] = 0.5, 1
    rows = compress(b)
    assert rows.shape == (2, 18) and rows[:, 16:].tolist() == [[0x4E, 0x44]] * 2
    code, bank = multiply_sparse(a, rows, 0.0)
    assert code == codes.OK and np.isnan(bank[0, 0])  # a kept zero is multiplied, here with infinity
    a[0, [4, 5, 8, 9, 12]] = 1
    code, bank = multiply_sparse(a, rows, 0.0)
    assert code == codes.OK and bank.tolist() == [[50, 110 + 0.5 + 30]]
    code, bank = multiply_sparse(np.zeros((1, 16), np.float16), compress(-np.abs(b)), -0.0)
    assert code == codes.OK and np.signbit(bank).all()


def test_places_that_do_not_ascend_are_a_code() -> None:
    a, rows = np.ones((1, 32), np.int8), compress(np.zeros((3, 32), np.int8))
    for first, second in itertools.product(range(4), repeat=2):
        rows[2, 18] = 0x40 | first | second << 2
        code, _ = multiply_sparse(a, rows, 0.0)
        assert code == (codes.OK if first < second else codes.NOT_ASCENDING)


def test_wrong_types_and_odd_places_are_codes() -> None:
    memories = random_memories(np.random.default_rng(3))
    for name in ("mml", "mml_sparse"):
        assert run_both(*command_of(name, 2, 2, INT32, r0=1), memories)[0] == codes.UNSUPPORTED_DTYPE
    fields, values, addresses = command_of("vexp", 2, 2)
    fields[col.D1] = INT4.code
    assert run_both(fields, values, addresses, memories)[0] == codes.UNSUPPORTED_DTYPE
    fields, values, addresses = command_of("vabs", 2, 2)
    assert run_both(fields, values, (0, REGION_BYTES + 2, -1), memories)[0] == codes.MISALIGNED
    values[1] = 9
    assert run_both(fields, values, addresses, memories)[0] == codes.MISALIGNED


def test_one_compilation_serves_everything() -> None:
    compute("vabs", np.ones((2, 2), np.float32))
    assert len(execute.signatures) == 1
    assert set(codes.SENTENCES) == {
        codes.NO_MEANING,
        codes.UNSUPPORTED_DTYPE,
        codes.MISALIGNED,
        codes.ROW_OUTSIDE_MEMORY,
        codes.NOT_ASCENDING,
        codes.TOO_LARGE,
    }
    assert all(instruction.opcode in BY_OPCODE for instruction in COMMANDS)
