"""Writes `docs/isa.md` from the instruction table; `python -m isa.manual > docs/isa.md` renews it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from isa import dtypes, table
from isa.encoding import operand_list, words_of
from isa.kernel import BASE_ALIGNMENT_BYTES, SLOT_ALIGNMENT_BYTES
from isa.kernel_checks import MAX_LOOP_DEPTH, SEMAPHORES
from isa.table import SLOTS, Instruction, Kind, Operand

_INTRODUCTION = """\
# The instruction set

This page is generated from `isa/table.py` by `python -m isa.manual`.

A *kernel* is code for the two scalar cores A and B of one processing element (PE); in a *launch*, every PE of a
rectangle of the grid runs it. The cores compute addresses and trip counts, and issue *commands*: each core has one
in-order queue per unit. A pair (core, unit) is a *stream*. Different streams run at the same time; only circular
buffers (`docs/circular_buffers.md`), accumulator banks, semaphores, `fence` and `barrier` order them.

| unit | does |
| --- | --- |
| CORE | integer arithmetic, branches, synchronization; executed by the scalar core itself |
| FI | fabric interface: transfers between SRAM or DRAM and local memory |
| MLU | memory layout unit: copies and transposes in local memory |
| DPE | dot-product engine: matrix multiplication into accumulator banks |
| RE | reduction engine: accumulator banks, and links to the neighbours |
| SE | SIMD engine: element-wise arithmetic, functions, reductions |
"""

_FORMAT = """\
## Format

Every instruction is 128 bits, two little-endian 64-bit words (low, high). A bit outside the operands of an instruction
must be 0; the decoder refuses unknown opcodes, codes without meaning, and float immediates that are a NaN other than
`0x7fc00000`.
"""

_ROLES = """\
In commands the slots have fixed roles:

| slots | role |
| --- | --- |
| `c0`, `d0`, `r0`, `r1` | output: buffer, element type, offset (or address), row pitch |
| `c1`, `d1`, `r2`, `r3` | operand a: buffer, element type, offset (or address), row pitch |
| `c2`, `d2`, `r4`, `r5` | operand b: buffer, element type, offset (or address), row pitch |
| `r6`, `r7` | rows; columns or bytes per row |
| `mode`, `bank`, `immediate` | one of a few words; accumulator bank; constant |

Register slots hold a register's number, never a value. Offsets and pitches are in bytes. An offset counts from the
slot that the buffer's pointer is at; a block of rows stays inside one slot. A pitch of 0 repeats one row. With
`spread` = `row`, operand b (a, for `acc_load`) is one row that serves all rows; with `column` it is one column that
serves all columns; with `full` it has all elements.

Below each instruction stand its operands in the order of the text, with slot and kind; without a kind, an operand is
a register that is read.
"""

_CORES = """\
## Cores

* A core has the 64-bit signed integer registers r0..r31 (`pe.registers` of them); r0 is always 0. Arithmetic wraps.
* A target is relative to the next instruction: `target = pc + 1 + immediate`.
* `loop` runs the instructions up to its target, the *body*, as often as a register says. Bodies nest, up to {depth}
  deep; a body has at least one instruction. A branch may leave bodies (they are over then) but not enter one; a branch
  from a body to its own end begins the next trip.
* A launch ends when every core has reached `halt` and all commands are complete. The last instruction of the code is
  `halt`.
* Buffers are carved from local memory in their order, each at a multiple of {base} bytes; a slot is a multiple of
  {slot} bytes. Registers, buffers, banks and the {semaphores} semaphores of a PE do not outlive a launch.
* Commands on a bank start in the order in which they were issued, and wait for the end of those that other units (DPE,
  SE, RE) were given before. A bank belongs to one core at a time: before the
  other core uses it, a semaphore or a buffer must tell that no command of the first is on it any more.
* What a launch writes to SRAM or DRAM is visible to launches that wait for its event, not within the launch.
* A `dma_in` with `broadcast` is one transfer of all PEs of the row, the column or the launch: each issues the same
  command (address, shape) on the same core in the same order; it waits for space in all of them.

## Text

Operands stand in the order of this page. Buffers, dtypes and choices are words; banks are `bank0`..; `;` begins a
comment. A core that has no code only halts. In the code of both cores, `.part NAME` begins that of the next operation,
where a kernel is of several: reports tell them apart.

```
.kernel copy_rows
.args source target trips
.buffer tile 64 2

.core A
    arg r1, 0
    arg r2, 1
    arg r3, 2
    li r4, 1
    li r5, 64
    loop r3, end
    dma_in tile, r0, r0, r1, r0, r4, r5, none
    push tile, 1
    addi r1, r1, 64
end:
    halt

.core B
    arg r2, 1
    arg r3, 2
    li r4, 1
    li r5, 64
    loop r3, end
    dma_out r2, r0, tile, r0, r0, r4, r5
    pop tile, 1
    addi r2, r2, 64
end:
    halt
```
"""

_NUMBERS = """\
## Numbers

* An operand is widened to fp32: exactly, except int32, which is rounded to nearest even.
* Arithmetic is fp32 with one rounding (nearest even) per operation; subnormal numbers are kept.
* A result is rounded to nearest even when it is stored. Integers saturate, fp8e4m3 saturates to 448, the other float
  types overflow to infinity. A NaN is stored as the positive quiet NaN of its type, or as 0 in an integer type.
* Maximum and minimum give NaN if an operand is NaN; of two zeros they give the second operand.
* Sums go in ascending order of rows or columns, from 0, one rounding per addition.
* `mml` adds products to the bank in ascending k: `bank = fl32(bank + a * b)`; the product itself is rounded to fp32
  first, which changes nothing for types of 16 bits or less unless it is subnormal or too large. With int8 operands
  the bank holds int32, and sums wrap. `vmml` does the same for operands of any type widened to fp32, always in fp32.
* `mml_sparse` is `mml` over the elements that b keeps. The others add nothing, whatever stands in a beside them: no NaN
  for an infinity or NaN of a, and a sum of -0 stays. Kept zeros are multiplied like any number. Places of a group that
  do not ascend are an error.
* Functions are defined by fp32 operations alone, in the order their text gives; no library decides their bits.
* Commands that move bytes (transfers, `copy`, `transpose`, and `acc_load`, `acc_drain` with int32) change no bits.
"""

_GROUPS = (
    ("Scalar core", table.SCALAR),
    ("Synchronization", table.SYNCHRONIZATION),
    ("Transfers", table.TRANSFERS),
    ("Layout", table.LAYOUT),
    ("Matrix multiplication", table.MATRIX),
    ("Accumulators", table.ACCUMULATOR),
    ("SIMD", table.SIMD),
)


def manual() -> str:
    """Return the text of `docs/isa.md`."""
    cores = _CORES.format(
        depth=MAX_LOOP_DEPTH, base=BASE_ALIGNMENT_BYTES, slot=SLOT_ALIGNMENT_BYTES, semaphores=SEMAPHORES
    )
    parts = [_INTRODUCTION, _FORMAT, *_picture(), _ROLES, cores, _NUMBERS, *_dtype_lines(), *_summary()]
    for title, instructions in _GROUPS:
        parts += [f"## {title}\n"]
        parts += [line for instruction in instructions for line in _section(instruction)]
    return "\n".join(parts).rstrip() + "\n"


def _picture() -> Iterator[str]:
    """Yield the slots from the lowest bit of each word, as boxes with their first bits below."""
    yield "```"
    for word, start in (("low", 0), ("high", 64)):
        slots = sorted((bit, width, name) for name, (bit, width) in SLOTS.items() if start <= bit < start + 64)
        boxes = [f" {name} " for _, _, name in slots]
        edge = "+" + "+".join("-" * len(box) for box in boxes) + "+"
        bits = " ".join(str(bit).ljust(len(box)) for (bit, _, _), box in zip(slots, boxes, strict=True))
        yield f"{word} word, first bit of each slot below it"
        yield from (edge, "|" + "|".join(boxes) + "|", edge, f" {bits}".rstrip())
        yield from ("",) if word == "low" else ()
    yield "```\n"
    yield "| slot | bits | width |\n| --- | --- | --- |"
    for name, (bit, width) in sorted(SLOTS.items(), key=lambda item: item[1]):
        yield f"| `{name}` | {bit}..{bit + width - 1} | {width} |"
    yield ""


def _dtype_lines() -> Iterator[str]:
    yield "| element type | code | bits | meaning |\n| --- | --- | --- | --- |"
    for dtype in dtypes.DTYPES:
        yield f"| `{dtype.name}` | {dtype.code} | {dtype.bits} | {dtype.doc} |"
    yield ""


def _summary() -> Iterator[str]:
    yield "## All instructions\n"
    yield "| opcode | instruction | unit | timing class | meaning |\n| --- | --- | --- | --- | --- |"
    for one in sorted(table.INSTRUCTIONS, key=lambda one: one.opcode):
        meaning = one.formula.replace("|", "\\|")
        yield f"| `{one.opcode:#04x}` | `{one.name}` | {one.unit.name} | {one.timing.name.lower()} | `{meaning}` |"
    yield ""


def _section(instruction: Instruction) -> Iterator[str]:
    unit, timing = instruction.unit.name, instruction.timing.name.lower()
    yield f"### `{instruction.name}`\n"
    facts = f"Opcode `{instruction.opcode:#04x}`, unit {unit}, timing class {timing}. {instruction.doc}"
    yield textwrap.fill(facts, 120) + "\n"
    yield f"```\n{operand_list(instruction)}\n{instruction.formula}\n```\n"
    if instruction.operands:
        yield textwrap.fill("; ".join(_operand_text(one) for one in instruction.operands) + ".", 120) + "\n"


def _operand_text(operand: Operand) -> str:
    """Return name, slot and kind; a register that is read goes without saying."""
    kind = "" if operand.kind is Kind.REGISTER else f" {operand.kind.value}"
    text = f"`{operand.name}` `{operand.slot}`{kind}"
    return f"{text}: {', '.join(f'`{word}`' for word in words_of(operand))}" if operand.kind is Kind.CHOICE else text


if __name__ == "__main__":
    print(manual(), end="")
