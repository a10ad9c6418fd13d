"""The printed form of a program: entries, ports, launches, memory and constants; code is printed by `isa.assembly`."""

from __future__ import annotations

from collections.abc import Iterator

from isa.program import Absent, Argument, Constant, Entry, Inline, Joined, Launch, LaunchPart, Port, Program, Reference


def print_program(program: Program) -> str:
    """Return a listing with one line per thing, in the order of the program."""
    return "\n".join(_lines(program)) + "\n"


def _lines(program: Program) -> Iterator[str]:
    mark = ", capacity ignored" if program.capacity_ignored else ""
    yield f"program for {program.machine.name}{mark}"
    for number, kernel in enumerate(program.kernels):
        instructions = len(kernel.core_a) + len(kernel.core_b)
        yield f"kernel {number}: {kernel.name}({', '.join(kernel.arguments)}), {instructions} instructions"
        yield from (f"  part {part.name} from A {part.core_a}, B {part.core_b}" for part in kernel.parts)
    for storage in program.storages:
        yield f"storage {storage.name}: {storage.space} {storage.address:#x}, {storage.bytes} bytes, {storage.role}"
    for constant in program.constants:
        yield _constant(constant)
    for entry in program.entries:
        yield from _entry(program, entry)


def _constant(constant: Constant) -> str:
    source = constant.source
    if isinstance(source, Joined):
        parts = zip(source.sizes, source.sources, strict=True)
        origin = f"along axis {source.axis} " + " and ".join(f"{size}: {_origin(part)}" for size, part in parts)
    else:
        origin = _origin(source)
    steps = "".join(f", {step}" for step in constant.steps)
    turn = constant.interleave
    place = f", block {turn.part} of {turn.parts} of {turn.block_bytes} bytes" if turn else ""
    return f"constant {constant.storage}: {constant.source_dtype}{list(constant.source_shape)}, {origin}{steps}{place}"


def _origin(source: Inline | Reference | Absent) -> str:
    if isinstance(source, Absent):
        return "absent"
    if isinstance(source, Inline):
        return f"{len(source.array)} bytes inside"
    return f"{source.length} bytes at {source.offset} of {source.path}"


def _entry(program: Program, entry: Entry) -> Iterator[str]:
    ranges = ", ".join(f"{name} in {low}..{high}" for name, (low, high) in sorted(entry.symbols.items()))
    yield f"entry {entry.name}({ranges})"
    yield from (f"  input {_port(port)}" for port in entry.inputs)
    yield from (f"  output {_port(port)}" for port in entry.outputs)
    yield from (f"  equal {left} == {right} ({origin})" for left, right, origin in entry.equalities)
    yield from (f"  required {name} in {low}..{high}: {reason}" for name, low, high, reason, *_ in entry.requirements)
    for number, launch in enumerate(entry.launches):
        yield f"  launch {number}: {_launch(program, launch)}"
        yield from (f"    part {_part(part)}" for part in launch.parts)


def _port(port: Port) -> str:
    shape = ", ".join(str(dim) for dim in port.shape)
    return f"{port.name}: {port.host_dtype}[{shape}] as {port.device_dtype} in {port.storage}+{port.offset_bytes}"


def _launch(program: Program, launch: Launch) -> str:
    rectangle = f"{launch.rows} x {launch.columns} PEs at ({launch.row}, {launch.column})"
    arguments = ", ".join(_argument(argument) for argument in launch.arguments)
    waits = f" after {', '.join(str(event) for event in launch.waits)}" if launch.waits else ""
    kernel = program.kernels[launch.kernel].name
    return f"{launch.name} = {kernel}({arguments}) on {rectangle}{waits} signals {launch.signals}"


def _part(part: LaunchPart) -> str:
    rounded = "".join(f" + {one.factor} x {one.size} up to {one.multiple}" for one in part.rounded_macs)
    touches = "".join(
        f", {'writes' if touch.is_written else 'reads'} {touch.bytes} of {touch.storage}" for touch in part.touches
    )
    return f"{part.operation}: {part.useful_macs} useful MACs, {part.issued_macs}{rounded} issued{touches}"


def _argument(argument: Argument) -> str:
    if argument.storage is None:
        return str(argument.expression)
    return f"{argument.storage}+{argument.expression}"
