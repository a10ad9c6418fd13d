"""The algebra of layouts against NumPy: a form says exactly where each element comes from."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.dialects import layout
from compiler.dialects.layout import JOIN, Atom, Form
from isa.affine import Affine

SHAPES = st.sampled_from([(2, 3, 8), (1, 4, 12), (2, 1, 6), (3, 5, 4), (1, 1, 16)])


def factorizations(total: int, rank: int) -> list[tuple[int, ...]]:
    """All shapes of a rank with a number of elements."""
    divisors = [size for size in range(1, total + 1) if total % size == 0]
    return [shape for shape in itertools.product(divisors, repeat=rank) if math.prod(shape) == total]


def elements(form: Form, source: tuple[int, ...]) -> np.ndarray:
    """Return the flat source index of each element of a plain form."""
    strides = [math.prod(source[axis + 1 :]) for axis in range(len(source))]
    result = np.zeros((), np.int64)
    for atoms in form.dims:
        index = np.zeros(1, np.int64)
        for atom in atoms:
            step = strides[atom.axis] * atom.stride if atom.axis >= 0 else 0
            index = (index[:, None] + step * np.arange(int(atom.size))).reshape(-1)  # type: ignore[arg-type]
        result = result[..., None] + index
    return result


@settings(max_examples=200, deadline=None)
@given(SHAPES, st.data())
def test_chains_of_reshapes_and_transposes(source: tuple[int, ...], data: st.DataObject) -> None:
    """As long as a form is given, it names the element that NumPy puts there; equal forms are equal arrays."""
    array = np.arange(math.prod(source)).reshape(source)
    form: Form | None = layout.whole("x", source)
    for _ in range(data.draw(st.integers(1, 4))):
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(array.ndim)))
            array, form = array.transpose(order), layout.transposed(form, order)
        else:
            shape = data.draw(st.sampled_from(factorizations(array.size, data.draw(st.integers(1, 4)))))
            array, form = array.reshape(shape), layout.reshaped(form, shape)
        if form is None:  # an axis would be cut unevenly: no claim is made
            return
        np.testing.assert_array_equal(elements(form, source), array)
    is_source = array.shape == source and np.array_equal(array.reshape(-1), np.arange(array.size))
    assert (form.dims == layout.source_dims(source)) == is_source


def test_a_transpose_across_an_uneven_cut_is_not_claimed() -> None:
    """Sizes that do not nest give no form rather than a wrong one."""
    assert layout.reshaped(layout.whole("x", (4, 6)), (3, 8)) is None
    swapped = layout.transposed(layout.whole("x", (4, 6)), (1, 0))
    assert layout.reshaped(swapped, (4, 6)) is None


def test_symbolic_sizes_pass_through() -> None:
    """Heads can be merged with a symbolic number of keys and be split again."""
    keys = Affine.symbol("past") + 1
    form = layout.whole("cache", (2, 4, keys, 16))
    merged = layout.reshaped(form, (8, keys, 16))
    assert merged is not None
    back = layout.reshaped(layout.transposed(merged, (0, 2, 1)), (2, 4, 16, keys))
    assert back is not None and back.dims == layout.transposed(form, (0, 1, 3, 2)).dims
    flat = layout.reshaped(form, (2, 4 * keys, 16))
    assert flat is not None and flat.dims[1] == (Atom(1, 1, 4), Atom(2, 1, keys))


def test_slices_that_are_no_equal_parts_have_no_form() -> None:
    """Only equal parts can be picked and joined."""
    form = layout.whole("x", (2, 3, 8))
    assert layout.sliced(form, 2, 4, 4, 8) is not None
    assert layout.sliced(form, 2, 2, 4, 8) is None
    assert layout.sliced(form, 2, 0, 3, 8) is None


def test_halves_joined_again() -> None:
    """Concat of the two halves remembers which piece is which."""
    form = layout.whole("x", (2, 3, 8))
    halves = [layout.sliced(form, 2, start, 4, 8) for start in (4, 0)]
    assert None not in halves
    joined = layout.joined([half for half in halves if half is not None], 2)
    assert joined is not None
    assert joined.dims[2] == (Atom(JOIN, 1, 2), Atom(2, 1, 4))
    assert [terms[0].picks[0][1] for terms in joined.pieces] == [1, 0]
    assert layout.without_join(joined, Atom(2, 4, 2)) == form.dims


def test_only_one_factor_per_term() -> None:
    """A product with two tensors is no rotation; it has no form."""
    form = layout.multiplied(layout.whole("x", (2, 8)), "cos")
    assert form is not None
    assert layout.multiplied(form, "sin") is None
