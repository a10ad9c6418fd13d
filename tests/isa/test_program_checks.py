"""The check of a whole program finds every kind of mistake, and tells where it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from isa.affine import Affine
from isa.errors import ProgramError
from isa.memory_map import DRAM_BASE, SRAM_BASE
from isa.program import (
    Absent,
    Argument,
    Cast,
    Equality,
    Inline,
    Interleave,
    Joined,
    Reference,
    Requirement,
    RoundedMacs,
    Storage,
    Touch,
)  # fmt: skip
from isa.program_checks import verify_program
from tests.isa.sample_programs import copy_kernel, sample_program, two_part_kernel

GOOD = sample_program()
UNKNOWN = Affine.symbol("nowhere")


def _storages(**changes):
    """The good storages, one of them (by name) changed."""
    return tuple(replace(one, **changes.get(one.name, {})) for one in GOOD.storages)


def _entry(**changes):
    return (replace(GOOD.entries[0], **changes),)


def _port(**changes):
    return _entry(inputs=(replace(GOOD.entries[0].inputs[0], **changes),))


def _launches(**changes):
    """The good launches, the second one changed."""
    first, second = GOOD.entries[0].launches
    return _entry(launches=(first, replace(second, **changes)))


def _constants(index, **changes):
    return tuple(replace(one, **changes) if at == index else one for at, one in enumerate(GOOD.constants))


def _part(**changes):
    """The good launches, what the second one does changed."""
    (part,) = GOOD.entries[0].launches[1].parts
    return _launches(parts=(replace(part, **changes),))


PORT, SECOND = "entry 'decode': input 'x': ", "entry 'decode': launch 1 'second': "
PART = f"{SECOND}part 'node second': "


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernels": (copy_kernel(), copy_kernel())}, "the kernel 'copy_rows' is defined 2 times"),
        (
            {"kernels": (replace(copy_kernel(), buffers=()),)},
            "kernel 'copy_rows': core A, instruction 6 (dma_in): out is",
        ),
        ({"storages": (*GOOD.storages, GOOD.storages[0])}, "the storage 'x' is defined 2 times"),
        ({"storages": _storages(x={"address": 64})}, "storage 'x': addresses 0x40..0x1040 are outside the sram of"),
        (
            {"storages": _storages(x={"bytes": 1 << 40})},
            "storage 'x': addresses 0x10000000000..0x20000000000 are outside",
        ),
        ({"storages": _storages(x={"bytes": -1})}, "storage 'x': addresses"),
        (
            {"storages": _storages(x={"address": SRAM_BASE + 1})},
            "storage 'x': the address 0x10000000001 is not a multiple",
        ),
        ({"storages": _storages(cache={"address": DRAM_BASE + 64})}, "storage 'later' overlaps storage 'cache'"),
        (
            {"storages": _storages(x={"role": "state"}, y={"address": SRAM_BASE + 64})},
            "storage 'y' overlaps storage 'x'",
        ),
        ({"constants": GOOD.constants[1:]}, "storage 'weights': its role is constant, but no constant fills it"),
        ({"constants": (*GOOD.constants, GOOD.constants[0])}, "the constant of storage 'weights' is defined 2 times"),
        ({"constants": GOOD.constants[:-1]}, "the constants of storage 'both' do not take turns that fill it"),
        (
            {"constants": _constants(7, interleave=None)},
            "the constants of storage 'both' do not take turns that fill it",
        ),
        (
            {"constants": _constants(8, interleave=Interleave(0, 2, 16))},
            "the constant of storage 'both part 0' is defined 2 times",
        ),
        (
            {"constants": _constants(8, interleave=Interleave(1, 2, 32))},
            "constant 'both': 48 bytes are not whole blocks of 32",
        ),
        (
            {"storages": _storages(both={"bytes": 95})},
            "constant 'both': 48 bytes of each of 2 do not fit its storage of 95",
        ),
        (
            {"constants": _constants(6, source=Joined(1, (3, 2), (Absent(), Absent())))},
            "constant 'joined': 2 sources of (3, 2) along axis 1 do not make the shape (3, 4)",
        ),
        (
            {"constants": _constants(6, source=Joined(2, (4,), (Inline(np.zeros(48, np.uint8)),)))},
            "constant 'joined': 1 sources of (4,) along axis 2 do not make the shape (3, 4)",
        ),
        (
            {"constants": _constants(6, source=Joined(1, (4,), (Inline(np.zeros(47, np.uint8)),)))},
            "constant 'joined': the source has 47 bytes, its shape and type say 48",
        ),
        ({"constants": _constants(2, storage="lost")}, "constant 'lost': there is no such storage"),
        ({"storages": _storages(later={"role": "scratch"})}, "constant 'later': its storage has the role scratch"),
        ({"constants": _constants(0, source_shape=(4, 4))}, "constant 'weights': the source has 48 bytes, its shape"),
        (
            {"constants": _constants(0, source_shape=(-1, 4))},
            "constant 'weights': the shape (-1, 4) has a negative size",
        ),
        ({"constants": _constants(0, steps=(Cast("x"),))}, "constant 'weights': step 0: unknown device type 'x'"),
        ({"constants": _constants(2, source_shape=(17,))}, "constant 'later': 68 bytes do not fit its storage of 64"),
        (
            {"constants": _constants(1, source=Reference("x", -1, 32))},
            "constant 'table': the source is at offset -1 of",
        ),
        ({"entries": GOOD.entries * 2}, "the entry 'decode' is defined 2 times"),
        ({"entries": _entry(symbols={"past": (5, 4)})}, "entry 'decode': the symbol 'past' has the range 5..4"),
        ({"entries": _entry(symbols={"past x": (0, 4)})}, "entry 'decode': the symbol 'past x' has the range 0..4"),
        ({"entries": _entry(equalities=(Equality(UNKNOWN, 1, "x"),))}, "an equality uses the unknown symbol 'nowhere'"),
        (
            {"entries": _entry(requirements=(Requirement("z", 0, 1, "x"),))},
            "a requirement names the input 'z', which does not",
        ),
        (
            {"entries": _entry(requirements=(Requirement("x", 5, 4, "x"),))},
            "the input 'x' must be in 5..4, which is empty",
        ),
        ({"entries": _entry(inputs=GOOD.entries[0].inputs * 2)}, "the input 'x' is defined 2 times"),
        ({"entries": _port(storage="lost")}, f"{PORT}there is no storage 'lost'"),
        ({"entries": _port(device_dtype="fp7")}, f"{PORT}unknown device type 'fp7'"),
        ({"entries": _port(host_dtype="fp32")}, f"{PORT}unknown host type 'fp32'"),
        ({"entries": _port(strides_bytes=(4,))}, f"{PORT}2 sizes, 1 strides"),
        ({"entries": _port(shape=(UNKNOWN, 16))}, f"{PORT}the shape uses the unknown symbol 'nowhere'"),
        ({"entries": _port(shape=(Affine.symbol("past") - 1, 16))}, f"{PORT}a size of (past - 1, 16) can be negative"),
        ({"entries": _port(offset_bytes=4)}, f"{PORT}it needs bytes 4..4100 of a storage of 4096"),
        ({"entries": _port(strides_bytes=(-64, 4))}, f"{PORT}it needs bytes -4032..64 of a storage of 4096"),
        ({"entries": _launches(kernel=2)}, f"{SECOND}kernel 2 of 2"),
        ({"entries": _launches(rows=0)}, f"{SECOND}0 x 2 PEs at row 0, column 0"),
        ({"entries": _launches(column=7)}, f"{SECOND}1 x 2 PEs at row 0, column 7 do not fit a grid of 8 x 8"),
        ({"entries": _launches(arguments=())}, f"{SECOND}0 arguments, the kernel takes 3"),
        (
            {"entries": _launches(arguments=(Argument(0, "lost"), Argument(0), Argument(UNKNOWN)))},
            f"{SECOND}argument 'source': there is no storage 'lost'",
        ),
        (
            {"entries": _launches(arguments=(Argument(0), Argument(0), Argument(UNKNOWN)))},
            f"{SECOND}argument 'trips' uses the unknown symbol 'nowhere'",
        ),
        (
            {"entries": _launches(arguments=(Argument(65 * Affine.symbol("past") + 2, "x"), Argument(0), Argument(0)))},
            f"{SECOND}argument 'source': offsets 2..4097 of a storage of 4096 bytes",
        ),
        ({"entries": _part(useful_macs=UNKNOWN)}, f"{PART}a count of MACs uses the unknown symbol 'nowhere'"),
        ({"entries": _part(issued_macs=UNKNOWN)}, f"{PART}a count of MACs uses the unknown symbol 'nowhere'"),
        (
            {"entries": _part(touches=(Touch("x", UNKNOWN, is_written=True),))},
            f"{PART}a count of bytes uses the unknown symbol 'nowhere'",
        ),
        (
            {"entries": _part(touches=(Touch("lost", 1, is_written=True),))},
            f"{PART}it touches the storage 'lost', which does not exist",
        ),
        (
            {"entries": _part(useful_macs=3 - Affine.symbol("past"))},
            f"{PART}the count -1*past + 3 of MACs can be negative",
        ),
        (
            {"entries": _part(touches=(Touch("x", -1, is_written=True),))},
            f"{PART}the count -1 of bytes can be negative",
        ),
        (
            {"entries": _part(rounded_macs=(RoundedMacs(1, 2, 0),))},
            f"{PART}MACs are 1 x a size rounded up to a multiple of 0",
        ),
        ({"entries": _launches(parts=())}, f"{SECOND}0 parts, the kernel has 1"),
        ({"kernels": (copy_kernel(), replace(two_part_kernel(), parts=()))}, "2 parts, the kernel has 1"),
        ({"entries": _launches(signals=0)}, "entry 'decode': the event '0' is defined 2 times"),
        (
            {"entries": _launches(waits=(3,))},
            "entry 'decode': launch 1 'second' waits for event 3, which nothing signals",
        ),
        ({"entries": _launches(waits=(1,))}, "entry 'decode': the events 1 <- 1 wait for each other"),
    ],
)
def test_a_mistake_is_found(changes, message):
    with pytest.raises(ProgramError) as caught:
        verify_program(replace(GOOD, **changes), "here")
    assert message in caught.value.what
    assert caught.value.where == "here"


def test_a_good_program_passes():
    verify_program(GOOD)


def test_too_large_storages_pass_only_if_capacity_is_ignored():
    huge = Storage("huge", "dram", DRAM_BASE + (1 << 20), 1 << 50, "scratch")
    program = replace(GOOD, storages=(*GOOD.storages, huge))
    with pytest.raises(ProgramError, match="storage 'huge': addresses"):
        verify_program(program)
    verify_program(replace(program, capacity_ignored=True))


def test_scratch_may_share_memory():
    shared = tuple(Storage(f"s{index}", "sram", SRAM_BASE + 8192, 64, "scratch") for index in range(3))
    verify_program(replace(GOOD, storages=(*GOOD.storages, *shared)))


def test_an_unknown_entry_is_told_with_the_known_ones():
    assert GOOD.entry("prefill") is GOOD.entries[1]
    with pytest.raises(ProgramError) as caught:
        GOOD.entry("decod")
    assert str(caught.value) == "no entry 'decod'\n  help: did you mean 'decode'? entries: decode, prefill"
