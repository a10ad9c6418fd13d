"""The documents about the instruction set are current, and their programs are legal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isa.assembly import parse_assembly
from isa.encoding import operand_list
from isa.kernel import verify
from isa.machine import PRESETS, preset
from isa.manual import manual
from isa.table import INSTRUCTIONS

DOCS = Path(__file__).parents[2] / "docs"
LITMUS = re.findall(r"```asm\n(.*?)```", (DOCS / "circular_buffers.md").read_text(), flags=re.DOTALL)


def test_the_manual_is_current():
    assert (DOCS / "isa.md").read_text() == manual(), "run: python -m isa.manual > docs/isa.md"


def test_the_manual_has_every_instruction():
    text = manual()
    for instruction in INSTRUCTIONS:
        assert f"### `{instruction.name}`\n" in text
        assert f"\n{operand_list(instruction)}\n{instruction.formula}\n" in text


def test_the_program_of_the_manual_is_legal():
    (text,) = re.findall(r"```\n(\.kernel.*?)```", manual(), flags=re.DOTALL)
    (kernel,) = parse_assembly(text)
    for name in PRESETS:
        verify(kernel, preset(name))


@pytest.mark.parametrize("text", LITMUS, ids=lambda text: re.search(r"\.kernel (\w+)", text)[1])
def test_a_litmus_program_is_legal_and_says_what_to_expect(text):
    (kernel,) = parse_assembly(text)
    verify(kernel, preset("mtia-2i"))
    assert re.match(r"; launch: \d+ x \d+\n; expect: .+\n\.kernel", text)
    assert kernel.arguments == ("source", "target")
