"""The event queue: a binary heap of (time, id), ties in order of id, so that a run is the same in every process."""

from __future__ import annotations

from simulator.jit import inlined_kernel
from simulator.state import HEAP_SIZE, Integers, Scalar, State


@inlined_kernel
def _before(heap: Integers, i: Scalar, j: Scalar) -> Scalar:
    return heap[i, 0] < heap[j, 0] or (heap[i, 0] == heap[j, 0] and heap[i, 1] < heap[j, 1])


@inlined_kernel
def _swap(heap: Integers, i: Scalar, j: Scalar) -> None:
    time, identity = heap[i, 0], heap[i, 1]
    heap[i, 0], heap[i, 1] = heap[j, 0], heap[j, 1]
    heap[j, 0], heap[j, 1] = time, identity


@inlined_kernel
def schedule(state: State, time: Scalar, identity: Scalar) -> None:
    """Add an event; each id has at most one at a time."""
    heap, child = state.heap, state.scratch[HEAP_SIZE]
    heap[child, 0], heap[child, 1] = time, identity
    state.scratch[HEAP_SIZE] += 1
    while child > 0:
        parent = (child - 1) >> 1
        if not _before(heap, child, parent):
            break
        _swap(heap, child, parent)
        child = parent


@inlined_kernel
def next_event(state: State) -> tuple[Scalar, Scalar]:
    """Remove and return the earliest (time, id)."""
    heap = state.heap
    time, identity = heap[0, 0], heap[0, 1]
    state.scratch[HEAP_SIZE] -= 1
    size = state.scratch[HEAP_SIZE]
    heap[0, 0], heap[0, 1] = heap[size, 0], heap[size, 1]
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= size:
            break
        if child + 1 < size and _before(heap, child + 1, child):
            child += 1
        if not _before(heap, child, parent):
            break
        _swap(heap, child, parent)
        parent = child
    return time, identity
