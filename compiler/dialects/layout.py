"""What a value is in terms of another one: the algebra of reshapes, transposes, slices and rotations.

A `Form` says that a value holds the elements of its `source` in another arrangement, times numbers and factors. Each
dim of the value is a list of atoms, outermost first; an atom is a factor of an axis of the source (`stride` elements
apart), a broadcast, or the join of a Concat. Dims of size 1 have no atoms. The algebra is exact, so two spellings of
the same arrangement have equal forms, whatever chain of Reshape, Transpose, Unsqueeze, Expand, Slice or Split made
them.

    x[B, S, 64] -> Reshape [B, S, 4, 16] -> Transpose  is  [(0), (2: 4 of stride 16), (1), (2: 16 of stride 1)]

A Slice that cuts an axis into equal parts picks one part of an atom; a Concat of such parts joins them again. So a
rotation of pairs ends up as two joined pieces of two terms each, `x0*c - x1*s` and `x1*c + x0*s`, in every spelling.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from isa.affine import Affine, Dim

BROADCAST, JOIN = -1, -2


@dataclass(frozen=True, slots=True)
class Atom:
    """`size` steps of `stride` elements along an axis of the source; or a broadcast, or a join."""

    axis: int
    stride: int
    size: Dim


Dims = tuple[tuple[Atom, ...], ...]


@dataclass(frozen=True, slots=True)
class Factor:
    """A tensor that was multiplied in when the form had these dims (the factor broadcasts against them)."""

    value: str
    dims: Dims


@dataclass(frozen=True, slots=True)
class Term:
    """`scale * factor * source[picks]`; a pick fixes the index of an atom."""

    scale: float = 1.0
    factor: Factor | None = None
    picks: tuple[tuple[Atom, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Form:
    """A value as an arrangement of `source`; with more than one piece, a join atom in `dims` selects the piece."""

    source: str
    dims: Dims
    pieces: tuple[tuple[Term, ...], ...] = ((Term(),),)

    @property
    def scale(self) -> float | None:
        """The factor if this is only a scaled arrangement of the whole source, else None."""
        if len(self.pieces) != 1 or len(self.pieces[0]) != 1:
            return None
        (term,) = self.pieces[0]
        return term.scale if term.factor is None and not term.picks else None


def source_dims(shape: Sequence[Dim]) -> Dims:
    """Return the dims of a value in terms of itself."""
    return tuple(() if size == 1 else (Atom(axis, 1, size),) for axis, size in enumerate(shape))


def whole(source: str, shape: Sequence[Dim]) -> Form:
    """Return the form of a value in terms of itself."""
    return Form(source, source_dims(shape))


def regroup(atoms: Sequence[Atom], target: Sequence[Dim]) -> Dims | None:
    """Distribute atoms, outermost first, over dims of the target sizes; None if an atom would be cut unevenly."""
    queue, result = deque(atoms), []
    for size in target:
        taken: list[Atom] = []
        needed: Dim = size
        while needed != 1:
            if not queue:
                return None
            fitted = _fit(queue.popleft(), needed)
            if fitted is None:
                return None
            outer, inner, needed = fitted
            taken.append(outer)
            if inner is not None:
                queue.appendleft(inner)
        result.append(tuple(taken))
    return merged(tuple(result)) if not queue else None


def _fit(atom: Atom, needed: Dim) -> tuple[Atom, Atom | None, Dim] | None:
    """Return (the part taken, the part left, how much is still needed)."""
    if atom.size == needed:
        return atom, None, 1
    if isinstance(atom.size, Affine) or atom.size == 0:
        return None
    quotient = Affine.of(needed).divide_exactly(atom.size)
    if quotient is not None:
        return atom, None, quotient
    if isinstance(needed, Affine) or needed == 0 or atom.size % needed or atom.axis == JOIN:
        return None
    inner = atom.size // needed
    return Atom(atom.axis, atom.stride * inner, needed), Atom(atom.axis, atom.stride, inner), 1


def merged(dims: Dims) -> Dims:
    """Join neighbouring atoms that walk along the same axis without a gap, so that equal arrangements are equal."""
    return tuple(_merged(atoms) for atoms in dims)


def _merged(atoms: tuple[Atom, ...]) -> tuple[Atom, ...]:
    result: list[Atom] = []
    for atom in atoms:
        last = result[-1] if result else None
        if last and last.axis == atom.axis >= 0 and last.stride == atom.stride * atom.size:
            result[-1] = Atom(atom.axis, atom.stride, last.size * atom.size)
        else:
            result.append(atom)
    return tuple(result)


def reshaped(form: Form, shape: Sequence[Dim]) -> Form | None:
    """Return the form after a Reshape, Unsqueeze, Squeeze or Flatten to `shape`."""
    dims = regroup([atom for atoms in form.dims for atom in atoms], shape)
    return None if dims is None else dataclasses.replace(form, dims=dims)


def transposed(form: Form, order: Sequence[int]) -> Form:
    """Return the form after a Transpose."""
    return dataclasses.replace(form, dims=tuple(form.dims[axis] for axis in order))


def expanded(form: Form, before: Sequence[Dim], after: Sequence[Dim]) -> Form:
    """Return the form after an Expand from one shape to another."""
    missing = len(after) - len(before)
    dims: list[tuple[Atom, ...]] = []
    for axis, size in enumerate(after):
        old = before[axis - missing] if axis >= missing else 1
        kept = form.dims[axis - missing] if axis >= missing else ()
        dims.append(kept if old == size else (Atom(BROADCAST, 1, size),))
    return dataclasses.replace(form, dims=tuple(dims))


def sliced(form: Form, axis: int, start: Dim, size: Dim, full: Dim) -> Form | None:
    """Return the form of `full` elements cut to [start, start + size) if that is one of several equal parts."""
    if size == full:
        return form
    if isinstance(start, Affine) or isinstance(size, Affine) or isinstance(full, Affine):
        return None
    if size == 0 or full % size or start % size:
        return None
    parts = regroup(form.dims[axis], (full // size, size))
    if parts is None or len(parts[0]) != 1:
        return None
    (outer,), inner = parts
    dims = (*form.dims[:axis], inner, *form.dims[axis + 1 :])
    if outer.axis == JOIN:
        return dataclasses.replace(form, dims=dims, pieces=(form.pieces[start // size],))
    if outer.axis == BROADCAST:
        return dataclasses.replace(form, dims=dims)
    pick = (outer, start // size)
    pieces = tuple(tuple(dataclasses.replace(t, picks=(*t.picks, pick)) for t in terms) for terms in form.pieces)
    return dataclasses.replace(form, dims=dims, pieces=pieces)


def joined(forms: Sequence[Form], axis: int) -> Form | None:
    """Return the form of a Concat of equally arranged parts of one source."""
    first = forms[0]
    if any(form.source != first.source or form.dims != first.dims or len(form.pieces) != 1 for form in forms):
        return None
    atoms = (Atom(JOIN, 1, len(forms)), *first.dims[axis])
    dims = (*first.dims[:axis], atoms, *first.dims[axis + 1 :])
    return Form(first.source, dims, tuple(form.pieces[0] for form in forms))


def scaled(form: Form, scale: float) -> Form:
    """Return the form times a number."""
    pieces = tuple(tuple(dataclasses.replace(t, scale=t.scale * scale) for t in terms) for terms in form.pieces)
    return dataclasses.replace(form, pieces=pieces)


def multiplied(form: Form, value: str) -> Form | None:
    """Return the form times a tensor; only one tensor can be multiplied in."""
    if any(term.factor is not None for terms in form.pieces for term in terms):
        return None
    factor = Factor(value, form.dims)
    pieces = tuple(tuple(dataclasses.replace(t, factor=factor) for t in terms) for terms in form.pieces)
    return dataclasses.replace(form, pieces=pieces)


def added(left: Form, right: Form) -> Form | None:
    """Return the sum of two forms of one source."""
    if left.source != right.source:
        return None
    if len(left.pieces) == 1 < len(right.pieces):
        return added(right, left)
    if len(right.pieces) == 1 < len(left.pieces):
        aligned = _aligned(right, left)
        if aligned is None:
            return None
        right = aligned
    if left.dims != right.dims or len(left.pieces) != len(right.pieces):
        return None
    pieces = tuple((*ours, *theirs) for ours, theirs in zip(left.pieces, right.pieces, strict=True))
    return dataclasses.replace(left, pieces=pieces)


def picked_atom(form: Form) -> Atom | None:
    """Return the atom of which all terms pick a part, None if there is no such single atom."""
    atoms = {pick[0] for terms in form.pieces for term in terms for pick in term.picks}
    return atoms.pop() if len(atoms) == 1 else None


def without_join(form: Form, atom: Atom) -> Dims:
    """Return the dims as they would be if the join were the atom it replaces."""
    return merged(tuple(tuple(atom if a.axis == JOIN else a for a in atoms) for atoms in form.dims))


def _aligned(form: Form, other: Form) -> Form | None:
    """Cut a form of one piece into the pieces of another."""
    atom = picked_atom(other)
    if atom is None or without_join(other, atom) != form.dims:
        return None
    pieces = tuple(
        tuple(dataclasses.replace(term, picks=(*term.picks, (atom, index))) for term in form.pieces[0])
        for index in range(len(other.pieces))
    )
    return Form(form.source, other.dims, pieces)
