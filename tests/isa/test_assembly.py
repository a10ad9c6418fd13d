"""Kernels as text: round trips, and messages with line, caret and help."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from isa.assembly import MAX_ERRORS, parse_assembly, print_kernel
from isa.errors import AssemblyError
from tests.isa.sample_programs import copy_kernel
from tests.isa.strategies import kernels


@given(kernels())
@settings(max_examples=60, deadline=None)
def test_printing_and_parsing_are_inverse(kernel):
    text = print_kernel(kernel)
    assert parse_assembly(text) == [kernel]
    assert print_kernel(parse_assembly(text)[0]) == text


def test_the_canonical_text():
    assert print_kernel(copy_kernel()).splitlines()[:10] == [
        ".kernel copy_rows",
        ".args source target trips",
        ".buffer tile 64 2",
        "",
        ".core A",
        "    arg r1, 0  ; source",
        "    arg r2, 1  ; target",
        "    arg r3, 2  ; trips",
        "    li r4, 1",
        "    li r5, 64",
    ]


def test_spaces_comments_hex_and_several_kernels_are_read():
    text = """
    ; nothing yet
    .kernel one
    .core A
    again:li r1,0x10;sixteen
      addi  r1 , r1, -0X1
      jump again
      halt
    .kernel two
    .core B
    stop: halt"""
    one, two = parse_assembly(text)
    assert print_kernel(one).splitlines()[2:7] == [
        ".core A",
        "L0:",
        "    li r1, 16",
        "    addi r1, r1, -1",
        "    jump L0",
    ]
    assert two.core_a.tolist() == two.core_b.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            ".kernel k\n.core A\n    dma_im tile, r0\n",
            "file.s:3:5: unknown instruction 'dma_im'\n        dma_im tile, r0\n        ^^^^^^\n"
            "  help: did you mean 'dma_in'?",
        ),
        (
            ".kernel k\n.core A\n    li r32, 1\n",
            "file.s:3:8: destination must be one of r0..r31, not 'r32'\n        li r32, 1\n           ^^^\n"
            "  help: write: li destination, value",
        ),
        (
            ".kernel k\n.core A\n    li r1\n",
            "file.s:3:5: li has 2 operands, not 1\n        li r1\n        ^^\n  help: write: li destination, value",
        ),
        (
            ".kernel k\n.core A\n    halt r1\n",
            "file.s:3:10: halt has 0 operands, not 1\n        halt r1\n             ^^\n  help: write: halt",
        ),
        (
            ".kernel k\n.buffer tile 64 2\n.core A\n    push tle, 1\n",
            "file.s:4:10: buffer: unknown buffer 'tle'\n        push tle, 1\n             ^^^\n"
            "  help: did you mean 'tile'? buffers: tile",
        ),
        (
            ".kernel k\n.core A\nloop:\n    jump loo\n",
            "file.s:4:10: target: unknown label 'loo'\n        jump loo\n             ^^^\n"
            "  help: did you mean 'loop'? labels: loop",
        ),
        (
            ".kernel k\n.core A\n    coord r1, rowz\n",
            "file.s:3:15: which cannot be 'rowz'\n        coord r1, rowz\n                  ^^^^\n"
            "  help: did you mean 'row'? one of: row, column, rows, columns",
        ),
        (
            ".kernel k\n.core A\n\tli r1 r2\n",
            "file.s:3:8: this line cannot be read\n     li r1 r2\n           ^\n"
            "  help: operands are separated by commas: NAME a, b, c",
        ),
        (
            ".kernel k\n.core A\n    li r1,\n",
            "file.s:3:11: this line cannot be read\n        li r1,\n              ^\n"
            "  help: operands are separated by commas: NAME a, b, c",
        ),
        (
            ".kernel k\n.bufer t 64 2\n",
            "file.s:2:1: unknown directive '.bufer'\n    .bufer t 64 2\n    ^^^^^^\n"
            "  help: did you mean '.buffer'? one of: .kernel, .args, .buffer, .core, .part",
        ),
        (
            ".kernel k\n.buffer t 64\n",
            "file.s:2:1: .buffer has 2 words\n    .buffer t 64\n    ^^^^^^^\n"
            "  help: write: .buffer NAME SLOT_BYTES SLOTS [BASE_BYTES]",
        ),
        (
            ".kernel k\n.buffer t 64 none\n",
            "file.s:2:14: 'none' is no positive integer\n    .buffer t 64 none\n                 ^^^^\n"
            "  help: write: .buffer NAME SLOT_BYTES SLOTS [BASE_BYTES]",
        ),
        (
            ".core A\n",
            "file.s:1:1: .core outside of a kernel\n    .core A\n    ^^^^^\n  help: begin a kernel with .kernel NAME",
        ),
        (
            ".kernel k\n    halt\n",
            "file.s:2:5: an instruction outside of code\n        halt\n        ^^^^\n"
            "  help: begin the code with .core A or .core B",
        ),
        (
            ".kernel k\nstart:\n",
            "file.s:2:1: a label outside of code\n    start:\n    ^^^^^\n"
            "  help: begin the code with .core A or .core B",
        ),
        (".kernel k\n.core A\na:\na:\n", "file.s:4:1: the label 'a' is there twice\n    a:\n    ^"),
        (".kernel k\n.args a a\n", "file.s:2:9: the name 'a' is there twice\n    .args a a\n            ^"),
        (
            ".kernel k\n.core C\n",
            "file.s:2:7: there is no core 'C'\n    .core C\n          ^\n  help: the cores are A and B",
        ),
        (
            ".kernel k\n.core A\n.core A\n",
            "file.s:3:7: the code of core A is there twice\n    .core A\n          ^",
        ),
        (
            ".kernel k\n.part a\n",
            "file.s:2:1: .part outside of code\n    .part a\n    ^^^^^\n  help: begin the code with .core A or .core B",
        ),
        (
            ".kernel k\n.core A\n.part a\nhalt\n.core B\nhalt\n",
            "file.s:1:9: the cores have other parts\n    .kernel k\n            ^\n"
            "  help: write the same .part lines in .core A and .core B",
        ),
        (
            ".kernel 1k\n",
            "file.s:1:9: '1k' is no name\n    .kernel 1k\n            ^^\n"
            "  help: names are letters, digits, '_' and '.'",
        ),
    ],
)
def test_a_mistake_is_shown(text, message):
    with pytest.raises(AssemblyError) as caught:
        parse_assembly(text, "file.s")
    assert str(caught.value) == message


def test_all_mistakes_of_a_text_are_told_in_order():
    text = ".kernel k\n.core A\n    jump nowhere\n    hlt\n    li r1, x\n.bufer\n"
    with pytest.raises(AssemblyError) as caught:
        parse_assembly(text, "file.s")
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines if line.startswith("file.s")] == [
        "file.s:3:10",
        "file.s:4:5",
        "file.s:5:12",
        "file.s:6:1",
    ]
    assert lines[-1] == "4 errors"


def test_a_flood_of_mistakes_is_cut():
    with pytest.raises(AssemblyError) as caught:
        parse_assembly(".kernel k\n.core A\n" + "hlt\n" * 50, "file.s")
    assert str(caught.value).count("unknown instruction") == MAX_ERRORS
    assert str(caught.value).endswith(f"50 errors (the first {MAX_ERRORS} are shown)")
