"""Checks of a whole program: kernels on its machine, addresses, constants, ports, launches and their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from isa import dtypes
from isa.affine import Affine, Dim, symbols_of
from isa.kernel_checks import problems_of as kernel_problems
from isa.memory_map import BASES, DRAM_BASE, SRAM_BASE, Space
from isa.packing import HOST_DTYPES, byte_length, packed_bytes
from isa.problems import duplicates, raise_problems
from isa.program import (
    Absent,
    Constant,
    Entry,
    Inline,
    Interleave,
    Joined,
    Launch,
    LaunchPart,
    Port,
    Program,
    Reference,
    Storage,
)  # fmt: skip

_LASTING = ("constant", "state")
_LARGEST_BYTES: dict[Space, int] = {"sram": DRAM_BASE - SRAM_BASE, "dram": (1 << 63) - DRAM_BASE}


def verify_program(program: Program, where: str = "program") -> None:
    """Raise one ProgramError that tells every rule the program breaks (the first 20)."""
    raise_problems(_problems(program), where)


def bounds(value: Dim, symbols: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Return the least and greatest value of a dim over symbol ranges (low, high); KeyError for unknown symbols."""
    expression = Affine.of(value)
    ends = [sorted((factor * symbols[name][0], factor * symbols[name][1])) for name, factor in expression.terms]
    return expression.constant + sum(low for low, _ in ends), expression.constant + sum(high for _, high in ends)


def _problems(program: Program) -> Iterator[str]:
    yield from duplicates("kernel", (kernel.name for kernel in program.kernels))
    for kernel in program.kernels:
        yield from _named(f"kernel '{kernel.name}'", kernel_problems(kernel, program.machine))
    yield from duplicates("storage", (storage.name for storage in program.storages))
    for storage in program.storages:
        yield from _named(f"storage '{storage.name}'", _storage_problems(storage, program))
    yield from _overlaps(program.storages)
    yield from duplicates("constant of storage", (_filled(constant) for constant in program.constants))
    yield from _incomplete(program.constants)
    for constant in program.constants:
        yield from _named(f"constant '{constant.storage}'", _constant_problems(constant, program))
    yield from duplicates("entry", (entry.name for entry in program.entries))
    for entry in program.entries:
        yield from _named(f"entry '{entry.name}'", _entry_problems(entry, program))


def _named(name: str, problems: Iterable[str]) -> Iterator[str]:
    return (f"{name}: {problem}" for problem in problems)


def _capacity(space: Space, program: Program) -> int:
    return program.machine.sram.bytes if space == "sram" else program.machine.dram.bytes


def _storage_problems(storage: Storage, program: Program) -> Iterator[str]:
    capacity = _capacity(storage.space, program)
    room = _LARGEST_BYTES[storage.space] if program.capacity_ignored else capacity
    start, end = storage.address - BASES[storage.space], storage.address + storage.bytes
    if start < 0 or storage.bytes < 0 or start + storage.bytes > room:
        yield f"addresses {storage.address:#x}..{end:#x} are outside the {storage.space} of {capacity} bytes"
    if storage.address % program.machine.dma.alignment_bytes:
        yield f"the address {storage.address:#x} is not a multiple of {program.machine.dma.alignment_bytes} bytes"
    if storage.role == "constant" and storage.name not in program.constant_by_storage:
        yield "its role is constant, but no constant fills it"


def _overlaps(storages: tuple[Storage, ...]) -> Iterator[str]:
    """Yield pairs that share memory although one of them lasts (constant or state)."""
    furthest: dict[bool, Storage] = {}
    for storage in sorted((one for one in storages if one.bytes > 0), key=lambda one: (one.address, one.name)):
        is_lasting = storage.role in _LASTING
        for other_lasts, other in furthest.items():
            if (is_lasting or other_lasts) and storage.address < other.address + other.bytes:
                yield f"storage '{storage.name}' overlaps storage '{other.name}'"
        before = furthest.get(is_lasting)
        if before is None or storage.address + storage.bytes > before.address + before.bytes:
            furthest[is_lasting] = storage


def _filled(constant: Constant) -> str:
    """Return what a constant fills alone: a storage or its share of one."""
    return f"{constant.storage} part {constant.interleave.part}" if constant.interleave else constant.storage


def _incomplete(constants: tuple[Constant, ...]) -> Iterator[str]:
    """Yield storages that constants fill together but do not agree about, or do not fill."""
    turns: dict[str, list[Interleave | None]] = {}
    for constant in constants:
        turns.setdefault(constant.storage, []).append(constant.interleave)
    for storage, together in turns.items():
        given = [turn for turn in together if turn is not None]
        if not given:
            continue
        parts = sorted(turn.part for turn in given)
        agree = len({turn[1:] for turn in given}) == 1 and len(given) == len(together)
        if not agree or parts != list(range(given[0].parts)):
            yield f"the constants of storage '{storage}' do not take turns that fill it"


def _constant_problems(constant: Constant, program: Program) -> Iterator[str]:
    storage = program.storage_by_name.get(constant.storage)
    if storage is None:
        yield "there is no such storage"
        return
    if storage.role != "constant":
        yield f"its storage has the role {storage.role}"
    if min(constant.source_shape, default=0) < 0:
        yield f"the shape {constant.source_shape} has a negative size"
        return
    try:
        size = packed_bytes(constant)
    except ValueError as error:
        yield str(error)
        return
    turn = constant.interleave
    if turn and (turn.block_bytes < 1 or size % turn.block_bytes):
        yield f"{size} bytes are not whole blocks of {turn.block_bytes}"
    if size * (turn.parts if turn else 1) > storage.bytes:
        yield f"{size} bytes{f' of each of {turn.parts}' if turn else ''} do not fit its storage of {storage.bytes}"
    if not isinstance(constant.source, Joined):
        yield from _source_problems(constant.source, constant.source_shape, constant.source_dtype)
        return
    axis, sizes, sources = constant.source.axis, constant.source.sizes, constant.source.sources
    is_axis = 0 <= axis < len(constant.source_shape) and min(sizes, default=0) >= 0
    if not is_axis or sum(sizes) != constant.source_shape[axis] or len(sizes) != len(sources):
        yield f"{len(sources)} sources of {sizes} along axis {axis} do not make the shape {constant.source_shape}"
        return
    for source, shape in zip(sources, constant.source.shapes(constant.source_shape), strict=True):
        yield from _source_problems(source, shape, constant.source_dtype)


def _source_problems(source: Inline | Reference | Absent, shape: tuple[int, ...], dtype: str) -> Iterator[str]:
    needed = byte_length(shape, dtype)
    length = (
        len(source.array) if isinstance(source, Inline) else source.length if isinstance(source, Reference) else None
    )
    if length is not None and length != needed:
        yield f"the source has {length} bytes, its shape and type say {needed}"
    if isinstance(source, Reference) and (source.offset < 0 or not source.path):
        yield f"the source is at offset {source.offset} of '{source.path}'"


def _entry_problems(entry: Entry, program: Program) -> Iterator[str]:
    for name, (low, high) in entry.symbols.items():
        if not (name.isidentifier() and 0 <= low <= high):
            yield f"the symbol '{name}' has the range {low}..{high}"
            return
    used = [dim for equality in entry.equalities for dim in (equality[0], equality[1])]
    yield from _unknown_symbols("an equality", used, entry)
    for kind, ports in (("input", entry.inputs), ("output", entry.outputs)):
        yield from duplicates(kind, (port.name for port in ports))
        for port in ports:
            yield from _named(f"{kind} '{port.name}'", _port_problems(port, entry, program))
    inputs = {port.name for port in entry.inputs}
    for requirement in entry.requirements:
        if requirement.input not in inputs:
            yield f"a requirement names the input '{requirement.input}', which does not exist"
        if requirement.low > requirement.high:
            yield f"the input '{requirement.input}' must be in {requirement.low}..{requirement.high}, which is empty"
    for index, launch in enumerate(entry.launches):
        yield from _named(f"launch {index} '{launch.name}'", _launch_problems(launch, entry, program))
    yield from _order_problems(entry)


def _unknown_symbols(what: str, dims: Iterable[Dim], entry: Entry) -> list[str]:
    unknown = sorted({name for dim in dims for name in symbols_of(dim)} - entry.symbols.keys())
    return [f"{what} uses the unknown symbol '{name}'" for name in unknown]


def _port_problems(port: Port, entry: Entry, program: Program) -> Iterator[str]:
    storage = program.storage_by_name.get(port.storage)
    unknown = _unknown_symbols("the shape", port.shape, entry)
    yield from unknown
    if storage is None:
        yield f"there is no storage '{port.storage}'"
    if port.device_dtype not in dtypes.BY_NAME:
        yield f"unknown device type '{port.device_dtype}'"
    if port.host_dtype not in HOST_DTYPES:
        yield f"unknown host type '{port.host_dtype}'"
    if len(port.shape) != len(port.strides_bytes):
        yield f"{len(port.shape)} sizes, {len(port.strides_bytes)} strides"
    elif storage and not unknown and port.device_dtype in dtypes.BY_NAME:
        yield from _extent_problems(port, entry, storage)


def _extent_problems(port: Port, entry: Entry, storage: Storage) -> Iterator[str]:
    """Yield if an element at the largest shape lies outside the storage."""
    sizes = [bounds(size, entry.symbols) for size in port.shape]
    if any(low < 0 for low, _ in sizes):
        yield f"a size of ({', '.join(map(str, port.shape))}) can be negative"
    if any(high == 0 for _, high in sizes):
        return
    steps = [(high - 1) * stride for (_, high), stride in zip(sizes, port.strides_bytes, strict=True)]
    first = port.offset_bytes + sum(step for step in steps if step < 0)
    element_bits = dtypes.BY_NAME[port.device_dtype].bits
    last = port.offset_bytes + sum(step for step in steps if step > 0) + (element_bits + 7) // 8
    if first < 0 or last > storage.bytes:
        yield f"it needs bytes {first}..{last} of a storage of {storage.bytes}"


def _launch_problems(launch: Launch, entry: Entry, program: Program) -> Iterator[str]:
    grid = program.machine.grid
    if launch.rows < 1 or launch.columns < 1 or launch.row < 0 or launch.column < 0:
        yield f"{launch.rows} x {launch.columns} PEs at row {launch.row}, column {launch.column}"
    if launch.row + launch.rows > grid.rows or launch.column + launch.columns > grid.columns:
        place = f"{launch.rows} x {launch.columns} PEs at row {launch.row}, column {launch.column}"
        yield f"{place} do not fit a grid of {grid.rows} x {grid.columns}"
    for part in launch.parts:
        yield from _named(f"part '{part.operation}'", _part_problems(part, entry, program))
    if not 0 <= launch.kernel < len(program.kernels):
        yield f"kernel {launch.kernel} of {len(program.kernels)}"
        return
    needed = len(program.kernels[launch.kernel].operation_parts)
    if len(launch.parts) != needed:
        yield f"{len(launch.parts)} parts, the kernel has {needed}"
    names = program.kernels[launch.kernel].arguments
    if len(names) != len(launch.arguments):
        yield f"{len(launch.arguments)} arguments, the kernel takes {len(names)}"
        return
    for name, argument in zip(names, launch.arguments, strict=True):
        unknown = _unknown_symbols(f"argument '{name}'", (argument.expression,), entry)
        yield from unknown
        if argument.storage is None or unknown:
            continue
        storage = program.storage_by_name.get(argument.storage)
        low, high = bounds(argument.expression, entry.symbols)
        if storage is None:
            yield f"argument '{name}': there is no storage '{argument.storage}'"
        elif low < 0 or high > storage.bytes:
            yield f"argument '{name}': offsets {low}..{high} of a storage of {storage.bytes} bytes"


def _part_problems(part: LaunchPart, entry: Entry, program: Program) -> Iterator[str]:
    macs = (part.useful_macs, part.issued_macs, *(rounded.size for rounded in part.rounded_macs))
    yield from _unknown_symbols("a count of MACs", macs, entry)
    yield from _unknown_symbols("a count of bytes", [touch.bytes for touch in part.touches], entry)
    counts = [("MACs", value) for value in macs] + [("bytes", touch.bytes) for touch in part.touches]
    for what, value in counts:
        if symbols_of(value) <= entry.symbols.keys() and bounds(value, entry.symbols)[0] < 0:
            yield f"the count {value} of {what} can be negative"
    for rounded in part.rounded_macs:
        if rounded.multiple < 1 or rounded.factor < 0:
            yield f"MACs are {rounded.factor} x a size rounded up to a multiple of {rounded.multiple}"
    for touch in part.touches:
        if touch.storage not in program.storage_by_name:
            yield f"it touches the storage '{touch.storage}', which does not exist"


def _order_problems(entry: Entry) -> Iterator[str]:
    """Yield if events are signalled twice, waited for but never signalled, or wait for each other in a circle."""
    yield from duplicates("event", (str(launch.signals) for launch in entry.launches))
    signalled = {launch.signals for launch in entry.launches}
    for index, launch in enumerate(entry.launches):
        for event in launch.waits:
            if event not in signalled:
                yield f"launch {index} '{launch.name}' waits for event {event}, which nothing signals"
    order = TopologicalSorter({launch.signals: launch.waits for launch in entry.launches})
    try:
        order.prepare()
    except CycleError as error:
        yield f"the events {' <- '.join(map(str, error.args[1]))} wait for each other"
