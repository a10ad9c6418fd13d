"""Words and instructions: round trips over the whole table, and refusal of every word without meaning."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isa import columns
from isa.encoding import CANONICAL_NAN, check_words, decode, decode_all, encode, words_of
from isa.errors import AssemblyError
from isa.table import BY_NAME, INSTRUCTIONS, SLOTS, Kind
from tests.isa.strategies import instructions, operands_of


def _equal(left: object, right: object) -> bool:
    both_nan = isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right)
    return both_nan or left == right


@given(instructions())
def test_decode_gives_back_what_encode_got(case):
    name, operands = case
    instruction, decoded = decode(*encode(name, operands))
    assert instruction is BY_NAME[name]
    assert decoded.keys() == operands.keys()
    assert all(_equal(decoded[key], operands[key]) for key in operands)


@given(st.lists(instructions(), max_size=4))
def test_columns_become_the_words_they_came_of(cases):
    words = np.array([encode(*case) for case in cases], dtype=np.uint64).reshape(-1, 2)
    assert columns.encode_columns(columns.decode_columns(words)).tolist() == words.tolist()


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda one: one.name)
def test_every_operand_reaches_its_own_column(instruction):
    for operand in instruction.operands:
        operands = {one.name: words_of(one)[0] if words_of(one) else 0 for one in instruction.operands}
        operands[operand.name] = words_of(operand)[-1] if words_of(operand) else 1
        row = columns.decode_columns(np.array([encode(instruction.name, operands)], dtype=np.uint64))[0]
        filled = {columns.NAMES[index] for index in np.flatnonzero(row)}
        assert filled == {"opcode", operand.slot}


@given(st.data())
def test_columns_hold_signed_immediates(data):
    value = data.draw(st.integers(-(1 << 31), (1 << 31) - 1))
    words = np.array([encode("li", {"destination": 3, "value": value})] * 2, dtype=np.uint64)
    assert columns.decode_columns(words)[:, columns.IMMEDIATE].tolist() == [value, value]


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_a_random_word_is_refused_or_encodes_to_itself(low, high):
    try:
        instruction, operands = decode(low, high)
    except AssemblyError:
        return
    assert encode(instruction.name, operands) == (low, high)


@given(st.data(), st.sampled_from(INSTRUCTIONS), st.integers(0, 127))
def test_a_flipped_bit_gives_another_instruction_or_is_refused(data, instruction, bit):
    low, high = encode(instruction.name, data.draw(operands_of(instruction)))
    word = (low | high << 64) ^ (1 << bit)
    flipped = word & ((1 << 64) - 1), word >> 64
    try:
        other, operands = decode(*flipped)
    except AssemblyError:
        return
    assert encode(other.name, operands) == flipped


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda one: one.name)
def test_bits_outside_the_operands_are_refused(instruction):
    operands = {one.name: words_of(one)[0] if words_of(one) else 0 for one in instruction.operands}
    low, high = encode(instruction.name, operands)
    used = {one.slot for one in instruction.operands} | {"opcode"}
    for slot, (lowest, width) in SLOTS.items():
        for bit in range(lowest, lowest + width) if slot not in used else ():
            word = (low | high << 64) | (1 << bit)
            with pytest.raises(AssemblyError, match="reserved bits" if slot == "reserved" else f"unused slot {slot}"):
                decode(word & ((1 << 64) - 1), word >> 64)


def test_codes_without_meaning_are_refused():
    low, high = encode("coord", {"destination": 1, "which": "columns"})
    with pytest.raises(AssemblyError, match="coord: which has no code 7"):
        decode(low | 4 << SLOTS["mode"][0], high)
    with pytest.raises(AssemblyError, match="unknown opcode 0x00"):
        decode(0, 0)


def test_the_only_nan_is_the_canonical_one():
    operands = {one.name: words_of(one)[0] if words_of(one) else 0 for one in BY_NAME["vadds"].operands}
    low, high = encode("vadds", operands | {"value": -math.nan})
    assert high >> 32 == CANONICAL_NAN
    with pytest.raises(AssemblyError, match="NaN other than"):
        decode(low, high | 1 << 32)


def test_values_that_are_equal_but_encode_differently_are_told_apart():
    operands = {one.name: words_of(one)[0] if words_of(one) else 0 for one in BY_NAME["vadds"].operands}
    zeros = [encode("vadds", operands | {"value": zero})[1] >> 32 for zero in (0.0, -0.0, 0.0)]
    assert zeros == [0, 1 << 31, 0]
    encode("push", {"buffer": 0, "value": 1})
    with pytest.raises(AssemblyError, match="must be an integer"):
        encode("push", {"buffer": 0, "value": True})


def test_a_bad_word_is_told_with_its_index():
    good = encode("halt", {})
    with pytest.raises(AssemblyError, match="unknown opcode 0xff") as caught:
        check_words(np.array([good, good, (255, 0)], dtype=np.uint64))
    assert caught.value.where == "instruction 2"
    assert [one.name for one, _ in decode_all(np.array([good, good], dtype=np.uint64))] == ["halt", "halt"]


@pytest.mark.parametrize(
    ("name", "operands", "message"),
    [
        ("hlt", {}, "unknown instruction 'hlt'\n  help: did you mean 'halt'?"),
        ("li", {"destination": 1}, "li needs the operand 'value'\n  help: write: li destination, value"),
        ("halt", {"x": 1}, "halt has no operand 'x'\n  help: write: halt"),
        ("li", {"destination": 32, "value": 0}, "destination = 32 is outside 0..31"),
        ("li", {"destination": -1, "value": 0}, "destination = -1 is outside 0..31"),
        ("li", {"destination": 1, "value": 1 << 31}, "value = 2147483648 is outside -2147483648..2147483647"),
        ("li", {"destination": 1, "value": 1.5}, "value must be an integer, not 1.5"),
        ("li", {"destination": True, "value": 1}, "destination must be an integer, not True"),
        (
            "coord",
            {"destination": 1, "which": "rowz"},
            "which cannot be 'rowz'\n  help: did you mean 'row'? one of: row, column, rows, columns",
        ),
    ],
)
def test_wrong_operands_are_told(name, operands, message):
    with pytest.raises(AssemblyError) as caught:
        encode(name, operands)
    assert str(caught.value) == message


def test_floats_that_do_not_fit_are_refused():
    float_users = [one for one in INSTRUCTIONS if any(operand.kind is Kind.FLOAT for operand in one.operands)]
    for instruction in float_users:
        operands = {one.name: words_of(one)[0] if words_of(one) else 0 for one in instruction.operands}
        with pytest.raises(AssemblyError, match="does not fit a 32-bit float"):
            encode(instruction.name, operands | {"value": 1e39})
        with pytest.raises(AssemblyError, match="must be a number"):
            encode(instruction.name, operands | {"value": "1"})
