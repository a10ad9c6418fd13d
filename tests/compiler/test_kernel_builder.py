"""The kernel builder: registers, constants, loops, and what it refuses."""

from __future__ import annotations

import pytest

from compiler.kernel_builder import KernelBuilder, Register
from isa.assembly import print_kernel
from isa.errors import AssemblyError, UnsupportedError
from tests.compiler.graphs import small_machine


def _builder(**changes: object) -> KernelBuilder:
    return KernelBuilder("k", small_machine(**changes), arguments=("source", "rows"))


def test_constants_and_arguments_come_first_and_once() -> None:
    """Ints become registers that the prologue loads once; zero is r0."""
    builder = _builder()
    tile, core = builder.buffer("tile", 100, 2), builder.core_a
    with core.loop(core.argument("rows")):
        for _ in range(2):
            core.emit("dma_in", out=tile, address=core.argument("source"), rows=1, row_bytes=96)
            core.push(tile)
    kernel = builder.build()
    assert kernel.buffers[0].slot_bytes == 128
    text = print_kernel(kernel)
    assert text.count("arg ") == 2 and text.count("li ") == 2
    assert text.count("dma_in") == 2 and text.count("loop") == 1


def test_scratch_is_never_what_a_constant_holds() -> None:
    """A register lent before is not given to a constant later: the prologue runs before the lending."""
    core = _builder().core_a
    with core.scratch() as lent:
        core.copy(7, lent)
    assert core.constant(99) != lent
    with core.scratch() as again:
        assert again == lent


def test_constants_take_turns_with_a_lent_register() -> None:
    """Where none is left for good, a constant is loaded anew before each command that reads it, and nothing else is."""
    builder = _builder(**{"pe.registers": 16})
    core = builder.core_a
    with core.scratch():
        kept = [core.register() for _ in range(14)]
    for value in (5, 6, 5):
        core.increase(kept[0], 0)
        core.emit("add", destination=kept[0], left=value, right=kept[1])
    lines = [line.split() for line in print_kernel(builder.build()).splitlines() if " r1, 5" in line or "li" in line]
    assert [line[-1] for line in lines] == ["5", "6", "5"] and len({line[1] for line in lines}) == 1


def test_registers_run_out() -> None:
    """More values than registers is an error, not a wrong kernel."""
    core = _builder(**{"pe.registers": 16}).core_a
    with pytest.raises(UnsupportedError, match="more registers than a scalar core has"):
        for value in range(1, 17):
            core.constant(value)


def test_branches_go_to_the_end_of_their_block() -> None:
    """`when_less` jumps behind its block; at the end of a loop body that is the next trip."""
    builder = _builder()
    core = builder.core_a
    with core.loop(core.argument("rows")), core.when_less(core.argument("rows"), 5):
        core.increase(core.register(), 1)
    assert builder.build().core_a.shape[1] == 2


@pytest.mark.parametrize(
    ("name", "operands", "error", "message"),
    [
        ("vaddd", {}, AssemblyError, "unknown instruction 'vaddd'"),
        ("lw", {"a": 0}, ValueError, "lw needs the operand 'destination'"),
        ("fence", {"value": 1}, ValueError, "fence has no operand value"),
        ("li", {"destination": Register(1), "value": 1 << 40}, AssemblyError, "outside"),
    ],
)
def test_wrong_operands(name: str, operands: dict[str, object], error: type[Exception], message: str) -> None:
    """The table judges names and values."""
    builder = _builder()
    with pytest.raises(error, match=message):
        builder.core_a.emit(name, **operands)  # type: ignore[arg-type]
        builder.build()


def test_large_constants_are_refused() -> None:
    """A constant has 32 bits; larger numbers are launch arguments."""
    with pytest.raises(ValueError, match="does not fit 32 bits"):
        _builder().core_a.constant(1 << 31)
