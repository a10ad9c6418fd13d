"""Einsum of one or two operands: sums over axes that only one has, then one product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compiler.dialects.rewrite import Rewriter, onnx_attributes
from compiler.generic.products import product
from compiler.generic.recipe import compute
from compiler.generic.rule import Replacement, Rule
from compiler.graph import Operation

_FIRST_HIDDEN_LETTER = 0x3B1
"""The axes of an ellipsis get Greek letters, which no equation has."""


@dataclass(frozen=True, slots=True)
class _Operand:
    """A value and a letter for each of its axes."""

    name: str
    letters: str


def _einsum(rewriter: Rewriter, operation: Operation) -> list[Operation] | None:
    """An operand with a letter twice (a diagonal) and sizes of 1 that stand for others have no form here."""
    new, output = Replacement(rewriter, operation), str(operation.outputs[0])
    names = [str(name) for name in operation.inputs]
    shapes = [new.shape(name) for name in names]
    letters = _letters(str(onnx_attributes(operation).get("equation", "")), [len(shape) for shape in shapes])
    if letters is None:
        return None
    *sources, target = letters
    sizes: dict[str, int] = {}
    for source, shape in zip(sources, shapes, strict=True):
        if any(sizes.setdefault(letter, size) != size for letter, size in zip(source, shape, strict=True)):
            return None
    if len(sources) > 2 or 0 in sizes.values() or any(len({*text}) != len(text) for text in letters):
        return None
    operands = [_Operand(name, source) for name, source in zip(names, sources, strict=True)]
    operands = [_summed(new, operand, [*sources[:place], *sources[place + 1 :], target], sizes)
                for place, operand in enumerate(operands)]  # fmt: skip
    found = operands[0] if len(operands) == 1 else _multiplied(new, operands[0], operands[1], target, sizes)
    order = [found.letters.index(letter) for letter in target]
    new.reshape(new.transpose(found.name, order), new.shape(output), output)
    return new.operations


def _letters(equation: str, ranks: Sequence[int]) -> list[str] | None:
    """Return the letters of the operands and of the result; None if their number is not that of the operands."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    sources = left.split(",")
    if len(sources) != len(ranks):
        return None
    hidden = [rank - len(source) + 3 if "..." in source else 0 for source, rank in zip(sources, ranks, strict=True)]
    names = "".join(chr(_FIRST_HIDDEN_LETTER + axis) for axis in range(max(hidden)))
    if not arrow:
        right = "..." + "".join(sorted(letter for letter in {*left} - {*",."} if left.count(letter) == 1))
    filled = [source.replace("...", names[len(names) - n :]) for source, n in zip(sources, hidden, strict=True)]
    return [*filled, right.replace("...", names)]


def _summed(new: Replacement, operand: _Operand, others: Sequence[str], sizes: dict[str, int]) -> _Operand:
    """Sum over the axes that nothing else has."""
    kept = "".join(letter for letter in operand.letters if any(letter in other for other in others))
    alone = [letter for letter in operand.letters if letter not in kept]
    if not alone:
        return operand
    outer, dtype = [sizes[letter] for letter in kept], new.value(operand.name).dtype
    order = [operand.letters.index(letter) for letter in (*kept, *alone)]
    rows = new.reshape(new.transpose(operand.name, order), [*outer, math.prod(sizes[letter] for letter in alone)])
    total = compute(new, lambda x: x.apply("rowsum"), [rows], dtype, shape=[*outer, 1])
    return _Operand(new.reshape(total, outer), kept)


def _multiplied(new: Replacement, left: _Operand, right: _Operand, target: str, sizes: dict[str, int]) -> _Operand:
    """Multiply two operands: letters of both are batches if the result has them, else summed over."""
    both = [letter for letter in left.letters if letter in right.letters]
    batch, inner = ([letter for letter in both if (letter in target) == is_kept] for is_kept in (True, False))
    rows, columns = ([letter for letter in own.letters if letter not in both] for own in (left, right))

    def grouped(operand: _Operand, *groups: list[str]) -> str:
        moved = new.transpose(operand.name, [operand.letters.index(letter) for group in groups for letter in group])
        return new.reshape(moved, [math.prod(sizes[letter] for letter in group) for group in groups])

    a, b = grouped(left, batch, rows, inner), grouped(right, batch, inner, columns)
    found = product(new, a, b, new.value(left.name).dtype)
    letters = "".join((*batch, *rows, *columns))
    return _Operand(new.reshape(found, [sizes[letter] for letter in letters]), letters)


RULES: dict[str, Rule] = {"Einsum": _einsum}
