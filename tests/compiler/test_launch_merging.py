"""Merged launches: the bits of separate ones, at any delays; PEs meet where they must and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st_

import models
from compiler import compile_model
from compiler.buffer_overlay import overlaid
from compiler.buffer_sharing import allocate
from compiler.kernel_bodies import Body, can_join
from compiler.kernel_builder import BuiltKernel
from compiler.kernel_joining import A_IS_DONE, B_IS_DONE, join_kernels, uses_banks_early
from compiler.launch_merging import MOST_LAYERS, _Group, _Merger, _repeats
from isa.assembly import parse_assembly
from isa.encoding import decode_all
from isa.errors import SimulationError
from isa.kernel import Buffer, Kernel, KernelPart, bytes_of, local_bytes
from isa.machine import preset
from isa.program import LaunchPart, Program
from simulator import Simulator
from simulator import state as st
from simulator.launcher import Launcher
from tests.compiler.graphs import SMALL_GRID
from tests.simulator.llamas import inputs_for

MACHINE = preset("mtia-2i")
MOST_BYTES = MACHINE.pe.local_memory_bytes
CASES = [("llama-tiny", 1, 77), ("llama-tiny-wide", 9, 20), ("llama-tiny-odd", 1, 33)]


def _llama(name: str, machine: str, sequence: int, *, separate: bool, **changes: object) -> Program:
    return compile_model(
        models.build(name, 0, "float32"), preset(machine).with_changes({**SMALL_GRID, **changes}),
        dims={"batch": 1, "sequence": sequence, "past": (0, 128)}, separate_launches=separate,
    )  # fmt: skip


@pytest.mark.parametrize("machine", ["mtia-v1", "mtia-2i", "mtia-300"])
@pytest.mark.parametrize(("name", "sequence", "past"), CASES)
def test_the_outputs_are_those_of_separate_launches(machine: str, name: str, sequence: int, past: int) -> None:
    """Bit by bit, also when commands take longer at random: nobody reads what is not there, or overwrites too early."""
    merged, separate = (_llama(name, machine, sequence, separate=separate) for separate in (False, True))
    assert len(merged.entries[0].launches) < len(separate.entries[0].launches) / 2
    inputs = inputs_for(merged, past)
    expected = Simulator(separate).run(inputs).outputs
    simulator = Simulator(merged)
    for seed in range(3):
        outputs = simulator.run(inputs, jitter_cycles=2000 * seed, jitter_seed=seed).outputs
        for key, array in expected.items():
            np.testing.assert_array_equal(outputs[key], array)


SEVERAL = [
    # machine, model, local memory if it is less, layers of a launch at least
    ("mtia-2i", "llama-tiny", None, 2),
    ("mtia-300", "llama-tiny-wide", None, 2),
    ("hbm-concept", "llama-tiny-wide", None, 2),
    ("hbm-concept", "llama-tiny-wide", 163840, 1),
    ("mtia-v1", "llama-tiny-odd", None, 1),
]


@pytest.mark.parametrize(("machine", "name", "memory", "layers"), SEVERAL)
def test_layers_without_a_past_share_launches(machine: str, name: str, memory: int | None, layers: int) -> None:
    """Bit by bit as in launches of their own: keys are read where they are made, weights come ahead of operations."""
    changes = {} if memory is None else {"pe.local_memory_bytes": memory}
    on = preset(machine).with_changes({**SMALL_GRID, **changes})
    dims = {"batch": 2, "sequence": 77, "past": 0}
    merged, separate = (
        compile_model(models.build(name, 0, "float32"), on, dims=dims, separate_launches=separate)
        for separate in (False, True)
    )
    assert max(launch.operation.count("o_proj") for launch in merged.entries[0].launches) >= layers
    inputs = inputs_for(merged, 0)
    expected = Simulator(separate).run(inputs).outputs
    for seed in range(2):
        outputs = Simulator(merged).run(inputs, jitter_cycles=2000 * seed, jitter_seed=seed).outputs
        for key, array in expected.items():
            np.testing.assert_array_equal(outputs[key], array)


def test_without_meeting_the_outputs_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps results in order is the meeting: the test above can fail."""
    inputs = inputs_for(_llama("llama-tiny", "mtia-2i", 1, separate=True), 77)
    expected = Simulator(_llama("llama-tiny", "mtia-2i", 1, separate=True)).run(inputs).outputs["logits"]
    monkeypatch.setattr(_Merger, "_conflict", lambda *_: False)
    racing = Simulator(_llama("llama-tiny", "mtia-2i", 1, separate=False))
    try:
        outputs = racing.run(inputs, jitter_cycles=2000, jitter_seed=1).outputs["logits"]
    except SimulationError:
        return
    assert not np.array_equal(outputs, expected)


def test_long_launches_stay_apart() -> None:
    """Where a start is a small part of a launch, reports tell operations apart: all large products of a prefill."""
    dims = {"batch": 1, "sequence": 2048, "past": 0}
    program = compile_model(models.build("llama-3-8b", "absent"), "mtia-2i", dims=dims)
    for launch in program.entries[0].launches:
        assert sum("_proj" in name for name in launch.operation.split("+")) <= 1


@pytest.mark.parametrize("bytes_", [96 * 1024, 128 * 1024, 384 * 1024])
def test_merged_kernels_fit(bytes_: int) -> None:
    """Local memory and the number of buffers limit what is merged."""
    program = _llama("llama-tiny-wide", "mtia-2i", 1, separate=False, **{"pe.local_memory_bytes": bytes_})
    for kernel in program.kernels:
        assert local_bytes(kernel) <= bytes_
        assert len(kernel.buffers) <= program.machine.pe.circular_buffers


def test_counts_are_kept() -> None:
    """MACs and touched bytes of a merged launch are the sums of its parts; what they wait for is the one before."""
    merged, separate = (_llama("llama-tiny", "mtia-2i", 1, separate=separate) for separate in (False, True))
    past = {"past": 50}
    reports = [Simulator(program).profile(**past) for program in (merged, separate)]
    assert reports[0].useful_macs == reports[1].useful_macs
    assert reports[0].issued_macs == reports[1].issued_macs
    assert reports[0].lower_bounds_seconds == pytest.approx(reports[1].lower_bounds_seconds)
    launches = merged.entries[0].launches
    assert [launch.waits for launch in launches] == [(), *((index,) for index in range(len(launches) - 1))]


def test_layers_share_a_launch() -> None:
    """Short ones several, but so many at most, as code grows with them; long ones one. All run a few kernels."""
    dims = {"batch": 1, "sequence": 128, "past": 0}
    for machine, most in (("mtia-300", MOST_LAYERS), ("mtia-2i", 1)):
        program = compile_model(models.build("llama-3.2-1b", "absent"), machine, dims=dims)
        launches = program.entries[0].launches
        assert max(launch.operation.count("o_proj") for launch in launches) == most and len(program.kernels) < 8
        assert ("o_proj" in launches[0].operation) == (most > 1), "short layers begin behind what comes before them"
        assert not any(launch.operation.endswith("layernorm/RMSNormalization") for launch in launches)


def test_repeats() -> None:
    """Four launches and more that come again at once are a layer; fewer are not."""
    (launch, *_) = _llama("llama-tiny", "mtia-2i", 1, separate=True).entries[0].launches
    assert _repeats([replace(launch, kernel=int(kernel)) for kernel in "01234123412345"]) == dict.fromkeys(
        range(5, 14), 4
    )
    assert _repeats([replace(launch, kernel=int(kernel)) for kernel in "0123123124"]) == {}


def _kernel(text: str) -> Kernel:
    (kernel,) = parse_assembly(text)
    return kernel


STORE = """
.kernel store
.args target
.buffer tile 64 1
.core A
    li r2, 1
    li r3, 16
    fill tile, r0, r0, r2, r3, fp32, 1.0
    push tile, 1
    halt
.core B
    arg r1, 0
    coord r4, rows
    li r2, 1
    li r3, 64
    dma_out r1, r0, tile, r0, r0, r2, r3
    pop tile, 1
    halt
"""
LOAD = """
.kernel load
.args source
.buffer tile 64 1
.core A
    arg r1, 0
    li r2, 1
    li r3, 64
    dma_in tile, r0, r0, r1, r0, r2, r3, row
    push tile, 1
    halt
.core B
    pop tile, 1
    halt
"""


def _joined(bodies: list[Body]) -> Kernel:
    return join_kernels(bodies, allocate(bodies, MACHINE.pe), MACHINE.pe.registers)


def _names(words: object) -> list[str]:
    return [instruction.name for instruction, _ in decode_all(words)]  # type: ignore[arg-type]


def test_bodies_meet_once() -> None:
    """Core B drains, meets and signals; core A waits; buffers and arguments are numbered on."""
    joined = _joined([Body(_kernel(STORE), (1, 3), False), Body(_kernel(LOAD), (2, 3), True)])
    assert joined.name == "store.load" and joined.arguments == ("target.0", "source.1")
    assert [buffer.name for buffer in joined.buffers] == ["tile.0", "tile.1"]
    assert joined.parts == (KernelPart("store", 0, 0), KernelPart("load", 7, 9)), "each begins where it begins to wait"
    core_a, core_b = decode_all(joined.core_a), decode_all(joined.core_b)
    assert _names(joined.core_a).count("wait") == 1 and _names(joined.core_b).count("barrier") == 1
    assert [operands["value"] for instruction, operands in core_b if instruction.name == "signal"] == [B_IS_DONE]
    assert next(operands for instruction, operands in core_a if instruction.name == "dma_in")["out"] == 1
    assert "signal" not in _names(joined.core_a)


def test_a_smaller_rectangle_is_guarded() -> None:
    """PEs outside skip the body, and the rows it sees are its own."""
    joined = _joined([Body(_kernel(STORE), (1, 3), False), Body(_kernel(LOAD), (2, 3), True)])
    assert _names(joined.core_b)[:3] == ["coord", "li", "bge"]
    rows = [operands for instruction, operands in decode_all(joined.core_b) if instruction.name == "li"]
    assert rows[0] == {"destination": 2, "value": 1}
    assert {"destination": 4, "value": 1} in rows


def test_a_core_a_that_stores_meets_too() -> None:
    """Then its core B waits for it as well."""
    store = _kernel(STORE)
    body = Kernel("swapped", store.arguments, store.buffers, store.core_b, store.core_a)
    joined = _joined([Body(body, (2, 3), False), Body(_kernel(LOAD), (2, 3), True)])
    signalled = [
        operands["value"] for instruction, operands in decode_all(joined.core_a) if instruction.name == "signal"
    ]
    assert signalled == [A_IS_DONE]
    waited = [operands["value"] for instruction, operands in decode_all(joined.core_b) if instruction.name == "wait"]
    assert waited == [A_IS_DONE]


def test_a_core_a_that_multiplies_meets() -> None:
    """It would use accumulators while core B of a body before does: what two cores ask of one has no order."""
    program = _llama("llama-tiny", "mtia-2i", 9, separate=True)
    store, load = (_kernel(text) for text in (STORE, LOAD))
    attention = next(kernel for kernel in program.kernels if kernel.name.startswith("attention"))
    assert uses_banks_early(attention) and not uses_banks_early(load)
    linear = next(kernel for kernel in program.kernels if kernel.name.startswith("linear"))
    launch = replace(program.entries[0].launches[0], parts=(LaunchPart("x"),))
    merger = _Merger(replace(program, kernels=(store, load, attention, linear)))
    group = merger._extended(_Group((), ()), replace(launch, kernel=0))
    assert not merger._extended(group, replace(launch, kernel=1)).bodies[-1].meets
    assert not merger._extended(group, replace(launch, kernel=2)).bodies[-1].meets
    group = merger._extended(group, replace(launch, kernel=3))
    assert not merger._extended(group, replace(launch, kernel=1)).bodies[-1].meets
    assert merger._extended(group, replace(launch, kernel=2)).bodies[-1].meets
    assert not merger._extended(_Group((), ()), replace(launch, kernel=2)).bodies[-1].meets


def test_broadcasts_along_a_row_need_the_whole_row() -> None:
    """A body that is narrower than the whole and broadcasts along rows is not joined."""
    assert can_join([Body(_kernel(STORE), (2, 3), False), Body(_kernel(LOAD), (1, 3), True)])
    assert not can_join([Body(_kernel(STORE), (2, 3), False), Body(_kernel(LOAD), (1, 2), True)])


def test_bodies_take_turns_with_a_buffer() -> None:
    """With the larger slots and more of them, where that saves memory and the same units write and read it."""
    text = LOAD.replace("    pop tile, 1", "    acc_load bank0, tile, r0, r0, r0, r0, int8, full\n    pop tile, 1")
    plain = _kernel(text)

    def body(slot_bytes: int, slots: int, shared: bool = True) -> Body:
        buffers = (replace(plain.buffers[0], slot_bytes=slot_bytes, slots=slots),)
        numbers = frozenset({0} if shared else ())
        kernel = BuiltKernel("load", plain.arguments, buffers, plain.core_a, plain.core_b, shared=numbers)
        return Body(kernel, (2, 3), False)

    room = MACHINE.pe
    whole = allocate([body(64, 2), body(96, 3), body(32, 1)], room)
    assert [(buffer.slot_bytes, buffer.slots) for buffer in whole.buffers] == [(96, 3)]
    assert whole.numbers == ((0,), (0,), (0,))
    assert len(allocate([body(64, 2), body(64, 2, shared=False)], room).buffers) == 2
    assert len(allocate([body(64, 60), body(6400, 1)], room).buffers) == 2  # together they would take more


def test_buffers_lie_over_one_another_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of bodies that a meeting parts: fewer launches than one behind the other, the same bits at any delays."""
    changes = {"pe.local_memory_bytes": 163840}
    tight = _llama("llama-tiny-wide", "mtia-2i", 9, separate=False, **changes)
    with monkeypatch.context() as without:
        without.setattr("compiler.buffer_sharing.overlaid", lambda buffers, stretches: tuple(buffers))
        apart = _llama("llama-tiny-wide", "mtia-2i", 9, separate=False, **changes)
    assert len(tight.entries[0].launches) < len(apart.entries[0].launches)
    over = [kernel for kernel in tight.kernels if any(buffer.base_bytes is not None for buffer in kernel.buffers)]
    assert over and all(sum(buffer.bytes for buffer in kernel.buffers) > 163840 for kernel in over)
    assert all(local_bytes(kernel) <= 163840 for kernel in tight.kernels)
    inputs = inputs_for(tight, 20)
    separate = _llama("llama-tiny-wide", "mtia-2i", 9, separate=True, **{"pe.local_memory_bytes": 163840})
    expected = Simulator(separate).run(inputs).outputs
    for seed in range(3):
        outputs = Simulator(tight).run(inputs, jitter_cycles=2000 * seed, jitter_seed=seed).outputs
        for key, array in expected.items():
            np.testing.assert_array_equal(outputs[key], array)


@given(
    st_.lists(st_.tuples(st_.integers(1, 40), st_.integers(1, 4), st_.integers(0, 5), st_.integers(0, 5)), max_size=12)
)
def test_buffers_of_one_stretch_lie_apart(sizes: list[tuple[int, int, int, int]]) -> None:
    """Wherever the others lie; and together they take no more than one behind the other."""
    buffers = [Buffer(f"b{index}", 32 * units, slots) for index, (units, slots, _, _) in enumerate(sizes)]
    stretches = [{first, second} for _, _, first, second in sizes]
    placed = overlaid(buffers, stretches)
    for (left, mine), (right, other) in combinations(zip(placed, stretches, strict=True), 2):
        assert left.base_bytes is not None and right.base_bytes is not None
        apart = left.base_bytes + left.bytes <= right.base_bytes or right.base_bytes + right.bytes <= left.base_bytes
        assert apart or mine.isdisjoint(other)
    assert all(buffer.base_bytes is not None and buffer.base_bytes % 64 == 0 for buffer in placed)
    most = sum(-(-buffer.bytes // 64) * 64 for buffer in buffers)
    assert bytes_of(placed) <= most


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
@pytest.mark.parametrize(("name", "sequence", "past"), CASES)
def test_shared_buffers_are_empty_in_the_end(name: str, sequence: int, past: int, quantize: str | None) -> None:
    """What a kernel says others may use before and after it, it leaves as it found it, on every PE."""
    program = compile_model(
        models.build(name, 0, "float32"), preset("mtia-2i").with_changes(SMALL_GRID),
        dims={"batch": 1, "sequence": sequence, "past": (0, 128)}, quantize=quantize, separate_launches=True,
    )  # fmt: skip
    launcher = Launcher(program, program.machine, None, reuse=False)
    checked = 0
    for launch in program.entries[0].launches:
        launcher.run(launch, {"past": past})
        kernel = program.kernels[launch.kernel]
        assert isinstance(kernel, BuiltKernel)
        for number in kernel.shared:
            pushed, popped = (launcher._state.buffer[:, number, column] for column in (st.PUSHED, st.POPPED))
            assert np.array_equal(pushed, popped), f"{kernel.name}: {kernel.buffers[number].name}"
            checked += int(pushed.max() > 0)
    assert checked > 10


@pytest.mark.parametrize("quantize", [None, "int4"])
def test_weights_are_loaded_ahead(quantize: str | None) -> None:
    """Core A waits for fewer meetings than there are, begins a linear before attention, and fills all local memory."""
    options = {"dims": {"batch": 1, "sequence": 1, "past": 77}, "quantize": quantize}
    model, machine = models.build("llama-tiny-wide", 0, "float32"), MACHINE.with_changes(SMALL_GRID)
    merged, separate = (compile_model(model, machine, separate_launches=apart, **options) for apart in (False, True))
    slots = max(buffer.slots for kernel in separate.kernels for buffer in kernel.buffers)
    launches = [launch for launch in merged.entries[0].launches if len(launch.parts) > 5]
    for kernel in (merged.kernels[launch.kernel] for launch in launches):
        meetings, waits = _names(kernel.core_b).count("barrier"), _names(kernel.core_a).count("wait")
        assert 0 < waits < meetings and _names(kernel.core_b).count("signal") == meetings
        assert max(buffer.slots for buffer in kernel.buffers) > slots or local_bytes(kernel) > 0.8 * MOST_BYTES
    # Integers are expanded as slowly as they come here: what is urgent must not wait for them.
    jumps = [kernel for kernel in merged.kernels if _names(kernel.core_a).count("jump") == 3]
    assert launches and bool(jumps) == (quantize is None)


def test_keys_of_the_past_come_before_a_meeting() -> None:
    """The part of attention that core A runs before it waits loads nothing that a launch of the program writes."""
    program = _llama("llama-tiny", "mtia-2i", 1, separate=True)
    (kernel, *_) = [kernel for kernel in program.kernels if kernel.name.startswith("attention")]
    assert isinstance(kernel, BuiltKernel)
    early = decode_all(kernel.core_a)[: kernel.inputs_at]
    arguments = {kernel.arguments[int(operands["value"])] for row, operands in early if row.name == "arg"}
    assert {"k", "v", "past"} <= arguments and not {"q", "mask", "bias", "out"} & arguments
