"""Operands of a queued command: how many bytes they touch, where they lie, and when they may be touched."""

from __future__ import annotations

from isa import columns as col
from simulator import codes
from simulator import hardware as hw
from simulator import state as st
from simulator import traits as tr
from simulator.hardware import Hardware
from simulator.jit import inlined_kernel
from simulator.state import Code, Integers, Scalar, State

OUT, A, B = range(3)


@inlined_kernel
def _row_bytes(code: Scalar, values: Integers, element: Scalar, block_k_bytes: Scalar, group: Scalar) -> Scalar:
    """Return the bytes per row that a bytes code means; an element of 0 bytes is half a byte."""
    if code == tr.R7_ELEMENTS:
        return values[7] * element if element > 0 else (values[7] + 1) // 2
    if code == tr.GROUPS:
        count = (values[7] + group - 1) // group
        return count * element if element > 0 else (count + 1) // 2
    if code == tr.FROM_R7:
        return values[7]
    if code == tr.ONE_ELEMENT:
        return element
    if code == tr.K_BLOCKS:
        return values[0] * block_k_bytes
    if code == tr.COMPRESSED:
        size = max(element, 1)
        elements = values[0] * block_k_bytes // size
        return (elements // 2 + ((elements + 7) // 8 + size - 1) // size) * size
    if code == tr.R6_ELEMENTS:
        return values[6] * element
    if code == tr.INDICES:
        return 4 * values[6]
    if code == tr.PAIR:
        return 8
    return 4


@inlined_kernel
def measure(hardware: Hardware, traits: Integers, fields: Integers, values: Integers, extents: Integers) -> None:
    """Fill extents with (rows, bytes per row) of out, a and b; rows are 0 for an absent operand."""
    row = traits[fields[col.OPCODE]]
    for operand in range(3):
        base = tr.OUT_ROWS + 3 * operand
        rows_code = row[base]
        if rows_code == tr.NONE:
            extents[2 * operand] = 0
            extents[2 * operand + 1] = 0
            continue
        element = hardware.numbers[hw.ELEMENT_BYTES + fields[col.D0 + row[base + 2]]]
        group = max(fields[col.IMMEDIATE], 1)
        size = _row_bytes(row[base + 1], values, element, hardware.numbers[hw.BLOCK_K_BYTES], group)
        rows = 1
        if rows_code == tr.FROM_R6:
            rows = values[6]
        elif rows_code == tr.FROM_R7:
            rows = values[7]
        if operand > 0 and row[tr.SPREAD_OPERAND] == operand:
            if fields[col.MODE] == 1:
                rows = 1
            elif fields[col.MODE] == 2:
                size = max(element, 1)
        extents[2 * operand] = rows
        extents[2 * operand + 1] = size


@inlined_kernel
def place_of_slot(index: Scalar, slots: Scalar) -> Scalar:
    """Return `index % slots`, without a division for the usual counts."""
    return index & (slots - 1) if slots & (slots - 1) == 0 else index % slots


@inlined_kernel
def place(
    code: Code, state: State, pe: Scalar, fields: Integers, values: Integers, extents: Integers, operand: Scalar
) -> tuple[Scalar, Scalar, Scalar]:
    """Return (error, local address, ready time or -1 if it must wait) of a buffer operand."""
    rows, size = extents[2 * operand], extents[2 * operand + 1]
    buffer = fields[col.C0 + operand]
    offset = values[2 * operand]
    pitch = values[2 * operand + 1] if rows > 1 else 0
    base, slot_bytes, slots = code.buffers[buffer, 0], code.buffers[buffer, 1], code.buffers[buffer, 2]
    state.scratch[st.ERROR_DETAIL] = buffer
    state.scratch[st.ERROR_EXTRA] = offset
    if pitch < 0:
        state.scratch[st.ERROR_DETAIL] = pitch
        return codes.NEGATIVE_PITCH, 0, 0
    if offset < 0 or offset >= slot_bytes * slots:
        return codes.OUTSIDE_BUFFER, 0, 0
    slot = offset // slot_bytes if offset >= slot_bytes else 0
    inner = offset - slot * slot_bytes
    if pitch > slot_bytes or inner + (rows - 1) * pitch + size > slot_bytes:
        return codes.LEAVES_SLOT, 0, 0
    if operand == OUT:
        index = state.buffer[pe, buffer, st.PUSHED] + slot
        ready = 0
        if index >= slots:
            ready = (
                state.buffer[pe, buffer, st.POP_TIME + place_of_slot(index, slots)]
                if state.buffer[pe, buffer, st.POPPED] > index - slots
                else -1
            )
    else:
        index = state.buffer[pe, buffer, st.POPPED] + slot
        ready = (
            state.buffer[pe, buffer, st.PUSH_TIME + place_of_slot(index, slots)]
            if state.buffer[pe, buffer, st.PUSHED] > index
            else -1
        )
    return codes.OK, base + place_of_slot(index, slots) * slot_bytes + inner, ready
