"""Kernels: buffers in local memory, and everything the check against a machine must find."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import isa
from isa.assembly import parse_assembly
from isa.errors import ProgramError
from isa.kernel import Buffer, Kernel, KernelPart, buffer_bases, local_bytes, verify
from isa.machine import preset
from isa.memory_map import DRAM_BASE, SRAM_BASE, byte_index, space_of
from tests.isa.sample_programs import HALT, copy_kernel

MACHINE = preset("mtia-2i")
PLAIN = MACHINE.with_changes(
    {
        "dma.broadcast_reads": False,
        "dma.indexed": False,
        "dma.memory_to_memory": False,
        "accumulator.reduction_network": False,
        "matrix.rate_by_dtype.fp8": 0.0,
        "matrix.sparsity_2_4": False,
        "pe.registers": 16,
    }
)


def _problems(text, machine=MACHINE):
    (kernel,) = parse_assembly(text)
    with pytest.raises(ProgramError) as caught:
        verify(kernel, machine)
    assert caught.value.where == f"kernel '{kernel.name}'"
    return caught.value.what


def _code(body, head=""):
    return f".kernel k\n.args x\n.buffer tile 64 2\n{head}.core A\n{body}\n"


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 5)), max_size=6))
def test_buffers_lie_in_order_aligned_and_apart(sizes):
    buffers = tuple(Buffer(f"b{index}", 32 * units, slots) for index, (units, slots) in enumerate(sizes))
    kernel = Kernel("k", (), buffers, HALT, HALT)
    end = 0
    for buffer, base in zip(buffers, buffer_bases(kernel), strict=True):
        assert base % 64 == 0 and end <= base < end + 64
        end = base + buffer.bytes
    assert local_bytes(kernel) == end


def test_a_kernel_is_a_value():
    assert copy_kernel() == copy_kernel() and hash(copy_kernel()) == hash(copy_kernel())
    assert copy_kernel() != copy_kernel("other")
    words = HALT.copy()
    kernel = Kernel("k", (), (), words, HALT)
    words[0, 0] = 0
    assert kernel.core_a[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        kernel.core_a[0, 0] = 0


def test_a_good_kernel_passes():
    verify(copy_kernel(), MACHINE)
    verify(copy_kernel(), PLAIN)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("li r1, 1", "core A, instruction 0: the code does not end with halt"),
        ("again: jump again\nhalt", "core A, no way through the code ends at a halt"),
        ("jump end\nhalt\nend:", "core A, instruction 0: the target 2 is outside the code 0..1"),
        ("loop r1, end\nend: halt", "core A, instruction 0: the loop has no body"),
        (
            "loop r1, outer\nloop r1, inner\nli r1, 1\nouter: li r1, 1\ninner: halt",
            "core A, instruction 1: the loop body ends at 4, after the body around it at 3",
        ),
        (
            "jump inside\nloop r1, end\ninside: li r1, 1\nend: halt",
            "core A, instruction 0: the branch to 2 enters a loop body",
        ),
        ("arg r1, 1\nhalt", "core A, instruction 0 (arg): argument 1 of 1"),
        ("arg r1, -1\nhalt", "core A, instruction 0 (arg): argument -1 of 1"),
        ("push tile, -1\nhalt", "core A, instruction 0 (push): -1 slots"),
        ("signal 16\nhalt", "core A, instruction 0 (signal): semaphore 16 is outside 0..15"),
        ("acc_send bank40, r1, r1, north\nhalt", "core A, instruction 0 (acc_send): bank is bank 40, the machine has"),
        (
            "mml bank0, tile, r0, r0, tile, r0, r0, r1, r1, r1, int32, set\nhalt",
            "core A, instruction 0 (mml): the matrix engine has no rate for int32 (matrix.rate_by_dtype)",
        ),
        (
            "mml_sparse bank0, tile, r0, r0, tile, r0, r0, r1, r1, r1, fp8e5m2, set\nhalt",
            "core A, instruction 0 (mml_sparse): the matrix engine has no rate for fp8e5m2 (matrix.rate_by_dtype)",
        ),
    ],
)
def test_bad_code_is_refused(body, message):
    assert message in _problems(_code(body))


@pytest.mark.parametrize(
    "body",
    [
        "loop r1, end\nbeq r1, r0, end\nli r1, 1\nend: halt",
        "loop r1, end\nbeq r1, r0, out\nli r1, 1\nend: li r1, 1\nout: halt",
        "loop r1, end\nloop r1, end\nbeq r1, r0, end\nli r1, 1\nend: halt",
        "jump end\nloop r1, end\nli r1, 1\nend: halt",
    ],
)
def test_branches_may_leave_loops(body):
    verify(parse_assembly(_code(body))[0], MACHINE)


def test_loops_nest_eight_deep():
    def nested(depth):
        return "loop r1, end\n" * depth + "li r1, 1\nend: halt"

    verify(parse_assembly(_code(nested(8)))[0], MACHINE)
    assert "instruction 8: more than 8 loops nest" in _problems(_code(nested(9)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dma_in tile, r0, r0, r1, r0, r1, r1, row", "no broadcast reads (dma.broadcast_reads)"),
        ("dma_gather tile, r0, r0, tile, r0, r1, r0, r1, r1", "no indexed transfers (dma.indexed)"),
        ("dma_scatter r1, r0, tile, r0, r0, tile, r0, r1, r1", "no indexed transfers (dma.indexed)"),
        ("dma_copy r1, r0, r1, r0, r1, r1", "no transfers between memories (dma.memory_to_memory)"),
        ("acc_send bank0, r1, r1, north", "no reduction network (accumulator.reduction_network)"),
        ("acc_add bank0, r1, r1, north", "no reduction network (accumulator.reduction_network)"),
        ("mml bank0, tile, r0, r0, tile, r0, r0, r1, r1, r1, fp8e4m3, set", "no rate for fp8e4m3"),
        (
            "mml_sparse bank0, tile, r0, r0, tile, r0, r0, r1, r1, r1, fp16, set",
            "the machine has no 2:4 weight sparsity (matrix.sparsity_2_4)",
        ),
        ("li r16, 1", "destination is r16, the machine has 16 registers"),
    ],
)
def test_features_the_machine_lacks_are_refused(line, message):
    rich = MACHINE.with_changes(
        {
            "dma.broadcast_reads": True,
            "dma.indexed": True,
            "dma.memory_to_memory": True,
            "accumulator.reduction_network": True,
            "matrix.rate_by_dtype.fp8": 1.0,
        }
    )
    text = _code(f"{line}\nhalt")
    verify(parse_assembly(text)[0], rich)
    assert message in _problems(text, PLAIN)


def test_bad_buffers_and_names_are_refused():
    buffers = (Buffer("a", 48, 2), Buffer("a", 64, 0), Buffer("b c", 1 << 30, 1))
    with pytest.raises(ProgramError) as caught:
        verify(Kernel("k", ("x", "x"), buffers, HALT, np.zeros((0, 2), dtype=np.uint64)), MACHINE)
    assert caught.value.what.splitlines() == [
        "7 problems",
        "  'b c' is no name: letters, digits, '_' and '.'",
        "  the buffer 'a' is defined 2 times",
        "  buffer 'a': a slot of 48 bytes is not a positive multiple of 32",
        "  buffer 'a' has 0 slots",
        "  the argument 'x' is defined 2 times",
        "  core B, there is no code, not even a halt",
        f"  the buffers take {(1 << 30) + 128} bytes, local memory has {MACHINE.pe.local_memory_bytes}",
    ]
    many = tuple(Buffer(f"b{index}", 32, 1) for index in range(65))
    with pytest.raises(ProgramError, match=f"65 buffers, the machine has {MACHINE.pe.circular_buffers}"):
        verify(Kernel("k", (), many, HALT, HALT), MACHINE)


def test_words_without_meaning_and_foreign_buffers_are_refused():
    (kernel,) = parse_assembly(_code("push tile, 1\nhalt"))
    with pytest.raises(ProgramError, match=r"core A, instruction 0 \(push\): buffer is buffer 0, the kernel has 0"):
        verify(Kernel("k", (), (), kernel.core_a, HALT), MACHINE)
    words = np.array([(1, 0), (0xFF, 0)], dtype=np.uint64)
    with pytest.raises(ProgramError, match="core B, instruction 1: unknown opcode 0xff"):
        verify(Kernel("k", (), (), HALT, words), MACHINE)


def test_device_addresses_say_their_memory():
    assert [space_of(address) for address in (0, SRAM_BASE, DRAM_BASE - 1, DRAM_BASE)] == [None, "sram", "sram", "dram"]
    assert (byte_index(SRAM_BASE + 5), byte_index(DRAM_BASE)) == (5, 0)
    with pytest.raises(ValueError, match="address 0x5 lies in no memory"):
        byte_index(5)


def test_every_public_name_of_the_package_exists():
    for name in isa.__all__:
        assert getattr(isa, name) is not None
        assert name in dir(isa)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        isa.nothing  # noqa: B018


def test_importing_the_package_is_cheap():
    heavy = {"numpy", "pydantic", "lark", "numba", "onnx", "ml_dtypes"}
    check = f"import isa, sys; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([("a", 0, 0), ("b c", 1, 0)], "'b c' is no name: letters, digits, '_' and '.'"),
        ([("a", 1, 0)], "part 'a' is the first one and does not begin with the code"),
        ([("a", 0, 0), ("b", 2, 0)], "part 'b' begins at instruction 2 of core A, not in 0..1"),
        ([("a", 0, 0), ("b", 0, 1)], "part 'b' begins at instruction 1 of core B, not in 0..0"),
        ([("a", 0, 0), ("b", 1, 0), ("c", 0, 0)], "part 'c' begins at instruction 0 of core A, not in 1..1"),
        ([("a", 0, 0), ("b", -1, 0)], "part 'b' begins at instruction -1 of core A, not in 0..1"),
    ],
)
def test_parts_follow_each_other(parts, message):
    """Each begins where the one before does, or behind, and inside the code."""
    (kernel,) = parse_assembly(_code("addi r1, r1, 1\nhalt"))
    with pytest.raises(ProgramError) as caught:
        verify(replace(kernel, parts=tuple(KernelPart(*part) for part in parts)), MACHINE)
    assert message == caught.value.what


def test_a_kernel_is_of_one_operation_unless_it_says_more():
    """Parts are in what makes kernels equal."""
    kernel = Kernel("k", (), (), HALT, HALT)
    assert kernel.operation_parts == (KernelPart("k", 0, 0),)
    assert kernel != replace(kernel, parts=kernel.operation_parts)
    verify(replace(kernel, parts=(KernelPart("a", 0, 0), KernelPart("a", 0, 0))), MACHINE)
