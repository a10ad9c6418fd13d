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
def locate(
    code: Code, state: State, buffer: Scalar, offset: Scalar, rows: Scalar, size: Scalar, pitch: Scalar
) -> tuple[Scalar, Scalar, Scalar]:
    """Return (error, slot, bytes behind its start) of rows in a buffer, counted from where the buffer stands."""
    slot_bytes, slots = code.buffers[buffer, 1], code.buffers[buffer, 2]
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
    return codes.OK, slot, inner


@inlined_kernel
def locate_operand(
    code: Code, state: State, fields: Integers, record: Integers, operand: Scalar
) -> tuple[Scalar, Scalar, Scalar]:
    """Return (error, slot, bytes behind its start) of an operand of a command."""
    offset, pitch = record[st.R_VALUES + 2 * operand], record[st.R_VALUES + 2 * operand + 1]
    rows, size = record[st.R_EXTENTS + 2 * operand], record[st.R_EXTENTS + 2 * operand + 1]
    return locate(code, state, fields[col.C0 + operand], offset, rows, size, pitch if rows > 1 else 0)


@inlined_kernel
def ready_time(code: Code, state: State, pe: Scalar, buffer: Scalar, slot: Scalar, is_out: Scalar) -> Scalar:
    """Return when a slot of a buffer, counted from where it stands, may be written or read, or -1 if that must wait."""
    row, slots = state.buffer[pe, buffer], code.buffers[buffer, 2]
    if is_out:
        index = row[st.PUSHED] + slot
        if index < slots:
            return 0
        return row[st.POP_TIME + 2 * place_of_slot(index, slots)] if row[st.POPPED] > index - slots else -1
    index = row[st.POPPED] + slot
    return row[st.PUSH_TIME + 2 * place_of_slot(index, slots)] if row[st.PUSHED] > index else -1


@inlined_kernel
def address(
    code: Code, state: State, pe: Scalar, buffer: Scalar, slot: Scalar, inner: Scalar, is_out: Scalar
) -> Scalar:
    """Return the local address of a byte of a slot, counted from where its buffer stands."""
    index = state.buffer[pe, buffer, st.PUSHED if is_out else st.POPPED] + slot
    return code.buffers[buffer, 0] + place_of_slot(index, code.buffers[buffer, 2]) * code.buffers[buffer, 1] + inner


@inlined_kernel
def address_of(code: Code, state: State, pe: Scalar, record: Integers, operand: Scalar) -> Scalar:
    """Return the local address of an operand of a command that may start, -1 of an absent one."""
    buffer, slot = record[st.R_OPERANDS + 2 * operand], record[st.R_OPERANDS + 2 * operand + 1]
    return address(code, state, pe, buffer, slot, record[st.R_INNER + operand], operand == OUT) if buffer >= 0 else -1
