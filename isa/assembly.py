"""Kernels as text and back, for people and tests; `docs/isa.md` shows the form.

.kernel NAME                    begins a kernel
.args a b c                     names its launch arguments
.buffer NAME SLOT_BYTES SLOTS [BASE_BYTES]   adds a circular buffer, behind the one before it or where it says
.core A                         begins the code of a core; a core without code only halts
.part NAME                      in both cores, begins the code of the next of several operations
label: mml bank0, x, r1, ...    operands stand in table order: registers r0..r31, banks bank0.., buffers by name,
                                dtype and choice words, integers (decimal or 0x), floats, labels; `;` comments
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, cast

import numpy as np

from isa.encoding import decode_all, encode, encode_operand, instruction_named, operand_list
from isa.errors import AssemblyError, did_you_mean
from isa.kernel import NAME_PATTERN, Buffer, Kernel, KernelPart, Words
from isa.table import SLOTS, Instruction, Kind, Operand

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

Value = int | float | str
MAX_ERRORS = 20

_REGISTERS = (Kind.REGISTER, Kind.RESULT)
_BUFFERS = (Kind.READ, Kind.WRITE, Kind.PRODUCE, Kind.CONSUME)
_BANKS = (Kind.BANK_READ, Kind.BANK_WRITE)
_INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?|inf|nan)")
_DIRECTIVES = {".kernel": "NAME", ".args": "NAMES", ".buffer": "NAME SLOT_BYTES SLOTS [BASE_BYTES]", ".core": "A|B",
               ".part": "NAME"}  # fmt: skip
_LEAST_SIZES = (1, 1, 0)
"""Of the bytes of a slot, the slots and the place of a buffer."""


def parse_assembly(text: str, name: str = "assembly") -> list[Kernel]:
    """Return the kernels of a text; `name` is the file in messages.

    Raises one AssemblyError with up to 20 mistakes, each with its line, a caret and help.
    """
    reader = _Reader(name)
    for number, line in enumerate(text.splitlines(), start=1):
        reader.read_line(number, line)
    return reader.finish()


def print_kernel(kernel: Kernel) -> str:
    """Return the canonical text of a kernel; `parse_assembly` reads an equal kernel from it."""
    lines = [f".kernel {kernel.name}"]
    if kernel.arguments:
        lines.append(f".args {' '.join(kernel.arguments)}")
    lines += [_print_buffer(buffer) for buffer in kernel.buffers]
    starts_a, starts_b = ([(getattr(part, core), part.name) for part in kernel.parts] for core in ("core_a", "core_b"))
    for core, words, starts in (("A", kernel.core_a, starts_a), ("B", kernel.core_b, starts_b)):
        lines += ["", f".core {core}", *_print_code(kernel, words, starts)]
    return "\n".join(lines) + "\n"


def _word_counts(directive: str) -> range:
    """Return how many words may follow a directive; the last one may be left out if it stands in brackets."""
    words = _DIRECTIVES[directive].split()
    return range(len(words) - words[-1].startswith("["), len(words) + 1)


def _print_buffer(buffer: Buffer) -> str:
    base = "" if buffer.base_bytes is None else f" {buffer.base_bytes}"
    return f".buffer {buffer.name} {buffer.slot_bytes} {buffer.slots}{base}"


def print_instruction(kernel: Kernel, words: Words, pc: int) -> str:
    """Return one instruction of a core's code as text, a branch target as its instruction number."""
    instruction, values = decode_all(words[pc : pc + 1])[0]
    label = {pc + 1 + int(values["target"]): f"@{pc + 1 + int(values['target'])}"} if "target" in values else {}
    operands = (_print_value(kernel, operand, values[operand.name], pc, label) for operand in instruction.operands)
    return f"{instruction.name} {', '.join(operands)}".rstrip()


def _print_code(kernel: Kernel, words: Words, starts: list[tuple[int, str]]) -> Iterator[str]:
    code = decode_all(words)
    targets = {pc + 1 + int(values["target"]) for pc, (_, values) in enumerate(code) if "target" in values}
    labels = {target: f"L{index}" for index, target in enumerate(sorted(targets))}
    for pc, (instruction, values) in enumerate(code):
        yield from (f".part {name}" for start, name in starts if start == pc)
        if pc in labels:
            yield f"{labels[pc]}:"
        words_in_order = (_print_value(kernel, one, values[one.name], pc, labels) for one in instruction.operands)
        text = f"    {instruction.name} {', '.join(words_in_order)}".rstrip()
        is_named = instruction.name == "arg" and 0 <= int(values["value"]) < len(kernel.arguments)
        yield f"{text}  ; {kernel.arguments[int(values['value'])]}" if is_named else text
    yield from (f".part {name}" for start, name in starts if start >= len(code))
    if len(code) in labels:
        yield f"{labels[len(code)]}:"


def _print_value(kernel: Kernel, operand: Operand, value: Value, pc: int, labels: dict[int, str]) -> str:
    if operand.kind in _REGISTERS:
        return f"r{value}"
    if operand.kind in _BANKS:
        return f"bank{value}"
    if operand.kind in _BUFFERS:
        return kernel.buffers[int(value)].name
    if operand.kind is Kind.LABEL:
        return labels[pc + 1 + int(value)]
    return str(np.float32(value)) if operand.kind is Kind.FLOAT else str(value)


@dataclass(frozen=True, slots=True)
class _Mistake:
    """One thing wrong with the text: where (from 1), how many characters, and what to do."""

    line: int
    column: int
    length: int
    what: str
    help: str


@dataclass(slots=True)
class _Code:
    """The statements of one core: (line number, mnemonic, values), where its labels point, and where parts begin."""

    statements: list[tuple[int, Token, list[Token]]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    parts: list[tuple[str, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Draft:
    """A kernel that is being read; `place` is where its name stands."""

    name: str
    place: tuple[int, Token]
    arguments: tuple[str, ...] = ()
    buffers: dict[str, Buffer] = field(default_factory=dict)
    cores: dict[str, _Code] = field(default_factory=dict)
    current: _Code | None = None


@cache
def _grammar() -> Lark:
    from lark import Lark

    return Lark.open("assembly.lark", rel_to=__file__, start="line", parser="lalr")


class _Reader:
    """Reads lines, keeps going after mistakes, and tells them all at the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: list[str] = []
        self.mistakes: list[_Mistake] = []
        self.kernels: list[Kernel] = []
        self.draft: _Draft | None = None

    def read_line(self, number: int, text: str) -> None:
        from lark.exceptions import UnexpectedInput

        self.lines.append(text)
        try:
            parts = cast("list[Tree[Token]]", _grammar().parse(text).children)
        except UnexpectedInput as error:
            is_end = getattr(getattr(error, "token", None), "type", "") == "$END"
            column = len(text.partition(";")[0].rstrip()) + 1 if is_end else error.column
            help = "operands are separated by commas: NAME a, b, c"
            self.mistakes.append(_Mistake(number, column, 1, "this line cannot be read", help))
            return
        for part in parts:
            tokens = cast("list[Token]", part.children)
            if part.data == "label":
                self._label(number, tokens[0])
            elif part.data == "directive":
                self._directive(number, tokens[0], tokens[1:])
            else:
                self._statement(number, tokens[0], tokens[1:])

    def finish(self) -> list[Kernel]:
        """Return the kernels, or raise all mistakes."""
        self._end_kernel()
        if self.mistakes:
            raise _error_of(self.mistakes, self.name, self.lines)
        return self.kernels

    def _wrong(self, line: int, token: Token, what: str, help: str = "") -> None:
        self.mistakes.append(_Mistake(line, token.column or 1, len(token), what, help))

    def _label(self, line: int, token: Token) -> None:
        if self.draft is None or self.draft.current is None:
            self._wrong(line, token, "a label outside of code", "begin the code with .core A or .core B")
        elif token in self.draft.current.labels:
            self._wrong(line, token, f"the label '{token}' is there twice")
        else:
            self.draft.current.labels[str(token)] = len(self.draft.current.statements)

    def _statement(self, line: int, name: Token, values: list[Token]) -> None:
        if self.draft is None or self.draft.current is None:
            self._wrong(line, name, "an instruction outside of code", "begin the code with .core A or .core B")
        else:
            self.draft.current.statements.append((line, name, values))

    def _directive(self, line: int, name: Token, values: list[Token]) -> None:
        if name not in _DIRECTIVES:
            hint = did_you_mean(name, _DIRECTIVES)
            self._wrong(line, name, f"unknown directive '{name}'", f"{hint} one of: {', '.join(_DIRECTIVES)}".strip())
        elif name != ".args" and len(values) not in _word_counts(name):
            self._wrong(line, name, f"{name} has {len(values)} words", f"write: {name} {_DIRECTIVES[name]}")
        elif name == ".kernel":
            self._end_kernel()
            name_of = self._new_name(line, values[0], [kernel.name for kernel in self.kernels])
            self.draft = _Draft(name_of, (line, values[0]))
        elif self.draft is None:
            self._wrong(line, name, f"{name} outside of a kernel", "begin a kernel with .kernel NAME")
        elif name == ".args":
            for value in values:
                self.draft.arguments += (self._new_name(line, value, self.draft.arguments),)
        elif name == ".buffer":
            self._buffer(self.draft, line, values)
        elif name == ".part":
            self._part(self.draft, line, name, values[0])
        else:
            self._core(self.draft, line, values[0])

    def _new_name(self, line: int, token: Token, known: tuple[str, ...] | list[str]) -> str:
        if not NAME_PATTERN.fullmatch(token):
            self._wrong(line, token, f"'{token}' is no name", "names are letters, digits, '_' and '.'")
        elif token in known:
            self._wrong(line, token, f"the name '{token}' is there twice")
        return str(token)

    def _buffer(self, draft: _Draft, line: int, values: list[Token]) -> None:
        name = self._new_name(line, values[0], list(draft.buffers))
        sizes = [int(value, 0) if _is_integer(value) else -1 for value in values[1:]]
        for value, size, least in zip(values[1:], sizes, _LEAST_SIZES, strict=False):
            if size < least:
                self._wrong(
                    line, value, f"'{value}' is no positive integer", f"write: .buffer {_DIRECTIVES['.buffer']}"
                )
        draft.buffers[name] = Buffer(name, *sizes)

    def _core(self, draft: _Draft, line: int, name: Token) -> None:
        if name not in ("A", "B"):
            self._wrong(line, name, f"there is no core '{name}'", "the cores are A and B")
        elif name in draft.cores:
            self._wrong(line, name, f"the code of core {name} is there twice")
        draft.current = draft.cores.setdefault(str(name), _Code())

    def _part(self, draft: _Draft, line: int, directive: Token, name: Token) -> None:
        if draft.current is None:
            self._wrong(line, directive, ".part outside of code", "begin the code with .core A or .core B")
        else:
            draft.current.parts.append((self._new_name(line, name, ()), len(draft.current.statements)))

    def _parts(self, draft: _Draft) -> tuple[KernelPart, ...]:
        """Return the parts, which both cores must name alike."""
        core_a, core_b = (draft.cores[name].parts if name in draft.cores else [] for name in ("A", "B"))
        if [name for name, _ in core_a] != [name for name, _ in core_b]:
            self._wrong(*draft.place, "the cores have other parts", "write the same .part lines in .core A and .core B")
            return ()
        return tuple(KernelPart(name, start, other) for (name, start), (_, other) in zip(core_a, core_b, strict=True))

    def _end_kernel(self) -> None:
        draft, self.draft = self.draft, None
        if draft is None:
            return
        core_a, core_b = (self._encode(draft, draft.cores.get(name)) for name in ("A", "B"))
        buffers, parts = tuple(draft.buffers.values()), self._parts(draft)
        self.kernels.append(Kernel(draft.name, draft.arguments, buffers, core_a, core_b, parts))

    def _encode(self, draft: _Draft, code: _Code | None) -> Words:
        words = [encode("halt", {})] if code is None else []
        for pc, (line, name, values) in enumerate(code.statements if code else ()):
            try:
                instruction = instruction_named(str(name))
            except AssemblyError as error:
                self._wrong(line, name, error.what, error.help)
                continue
            encoded = self._values(draft, code, line, name, instruction, values, pc)
            if encoded is not None:
                words.append(encode(instruction.name, encoded))
        return np.array(words, dtype=np.uint64).reshape(-1, 2)

    def _values(
        self, draft: _Draft, code: _Code | None, line: int, name: Token, row: Instruction, values: list[Token], pc: int
    ) -> dict[str, Value] | None:
        """Return the operand values of a statement, or None after telling what is wrong with them."""
        wanted = len(row.operands)
        if len(values) != wanted:
            place = values[wanted] if len(values) > wanted else name
            what = f"{row.name} has {wanted} operand{'s' * (wanted != 1)}, not {len(values)}"
            self._wrong(line, place, what, f"write: {operand_list(row)}")
            return None
        encoded: dict[str, Value] = {}
        labels = code.labels if code else {}
        for operand, token in zip(row.operands, values, strict=True):
            try:
                encoded[operand.name] = _value_of(operand, str(token), draft.buffers, labels, pc)
                encode_operand(operand, encoded[operand.name])
            except AssemblyError as error:
                help = error.help or f"write: {operand_list(row)}"
                self._wrong(line, token, error.what, help)
        return encoded if len(self.mistakes) == 0 else None


def _is_integer(text: str) -> bool:
    return _INTEGER.fullmatch(text) is not None


def _integer(text: str) -> int:
    return int(text, 16) if "x" in text.lower() else int(text)


def _value_of(operand: Operand, text: str, buffers: dict[str, Buffer], labels: dict[str, int], pc: int) -> Value:
    """Return the operand value a word stands for; AssemblyError if it is not of the operand's kind."""
    if operand.kind in _REGISTERS or operand.kind in _BANKS:
        return _numbered(operand, text, "r" if operand.kind in _REGISTERS else "bank")
    if operand.kind in _BUFFERS:
        return list(buffers).index(_known(operand, text, buffers, "buffer"))
    if operand.kind is Kind.LABEL:
        return labels[_known(operand, text, labels, "label")] - pc - 1
    if operand.kind is Kind.INTEGER:
        if not _is_integer(text):
            raise AssemblyError(f"{operand.name} must be an integer, not '{text}'")
        return _integer(text)
    if operand.kind is Kind.FLOAT:
        if not _FLOAT.fullmatch(text):
            raise AssemblyError(f"{operand.name} must be a number, not '{text}'")
        return float(text)
    return text


def _numbered(operand: Operand, text: str, prefix: str) -> int:
    count = 1 << SLOTS[operand.slot][1]
    number = text.removeprefix(prefix)
    if number == text or not (number.isascii() and number.isdigit()) or int(number) >= count:
        raise AssemblyError(f"{operand.name} must be one of {prefix}0..{prefix}{count - 1}, not '{text}'")
    return int(number)


def _known(operand: Operand, text: str, known: dict[str, Buffer] | dict[str, int], kind: str) -> str:
    if text not in known:
        names = ", ".join(known) or "none"
        help = f"{did_you_mean(text, known)} {kind}s: {names}".strip()
        raise AssemblyError(f"{operand.name}: unknown {kind} '{text}'", help=help)
    return text


def _error_of(mistakes: list[_Mistake], name: str, lines: list[str]) -> AssemblyError:
    """Return one error that shows up to MAX_ERRORS mistakes in the order of the lines."""
    ordered = sorted(mistakes, key=lambda one: (one.line, one.column))
    errors = [_shown(mistake, name, lines[mistake.line - 1]) for mistake in ordered[:MAX_ERRORS]]
    if len(ordered) == 1:
        return errors[0]
    more = f" (the first {MAX_ERRORS} are shown)" if len(ordered) > MAX_ERRORS else ""
    return AssemblyError("\n".join([*map(str, errors), f"{len(ordered)} errors{more}"]))


def _shown(mistake: _Mistake, name: str, line: str) -> AssemblyError:
    text = line.expandtabs(1)
    what = f"{mistake.what}\n    {text}\n    {' ' * (mistake.column - 1)}{'^' * mistake.length}"
    return AssemblyError(what, where=f"{name}:{mistake.line}:{mistake.column}", help=mistake.help)
