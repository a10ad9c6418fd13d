"""Loops over bags of rows, as exporters write nn.EmbeddingBag, -> one reduction over all rows.

A loop is not matched by its spelling but interpreted: sizes, offsets and conditions are numbers once the dims are
bound, and of the float data only is followed which rows of what an iteration reduces. If the iterations reduce one
bag of the same size after the other, the loop is `ReduceSum(Reshape(rows, [bags, rows per bag, -1]), axis 1)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from compiler.dialects.rewrite import Rewriter, integer, is_onnx, onnx_attributes
from compiler.evaluate import BAD_ARGUMENTS, MEANINGS, evaluate
from compiler.graph import Body, Graph, OnnxAttributes, Operation
from compiler.shape_call import Fact
from compiler.shape_inference import facts_so_far
from compiler.symbols import Undecided

MOST_ITERATIONS = 1 << 16
"""Longer loops are not followed."""
_REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax")


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor that is not known: a value of the outer graph, or an operation on such, row by row."""

    op_type: str
    arguments: tuple[_Tensor | tuple[int, ...] | str, ...]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows `start` to `end` of a tensor."""

    tensor: _Tensor
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Reduced:
    """One row: the reduction of some rows, with or without the axis of length 1."""

    op_type: str
    rows: _Rows
    keeps_axis: bool


_Item = np.ndarray | _Tensor | _Rows | _Reduced | tuple["_Item", ...]
"""What is known of a value: its elements, what it is of float data, or the items of a sequence."""


class _NotBags(Exception):
    """The loop does something else."""


def unroll_bags(graph: Graph) -> Graph:
    """Replace the loops that reduce bags of equal size; others stay, to be refused."""
    if not any(is_onnx(operation, "Loop") for operation in graph.operations):
        return graph
    facts = facts_so_far(graph)
    rewriter = Rewriter(graph)
    for operation in graph.operations:
        loop = rewriter.producer(operation.inputs[0], "Loop") if is_onnx(operation, "ConcatFromSequence") else operation
        if loop is None or not is_onnx(loop, "Loop"):
            continue
        name = operation.inputs[0] if loop is not operation else None
        try:
            items = _Interpreter(rewriter, facts).run(loop, name)
            rewriter.replace(operation, _replacement(rewriter, facts, operation, items))
        except (_NotBags, Undecided, *BAD_ARGUMENTS):
            continue
    return rewriter.build()


class _Interpreter:
    """Runs a loop with what is known of the values around it."""

    def __init__(self, rewriter: Rewriter, facts: Mapping[str, Fact]) -> None:
        self.rewriter, self.facts = rewriter, facts

    def run(self, loop: Operation, sequence: str | None) -> tuple[_Item, ...]:
        """Return the elements of the sequence `sequence`, or of the only scan output, that the loop makes."""
        body = onnx_attributes(loop).get("body")
        assert isinstance(body, Body)
        inputs = [*loop.inputs, None, None][: max(len(loop.inputs), 2)]
        limit = self._whole(inputs[0]) if inputs[0] else MOST_ITERATIONS
        goes_on = bool(self._whole(inputs[1])) if inputs[1] else True
        carried: list[_Item] = [self._outer(name or "") for name in inputs[2:]]
        scanned: list[list[_Item]] = [[] for _ in body.outputs[1 + len(carried) :]]
        for iteration in range(limit):
            if not goes_on:
                break
            given = (np.int64(iteration), np.bool_(True), *carried)
            scope: dict[str, _Item] = dict(zip(body.inputs, map(_as_item, given), strict=False))
            condition, *results = self._body(body, scope)
            goes_on = bool(_array(condition))
            carried = results[: len(carried)]
            for kept, result in zip(scanned, results[len(carried) :], strict=True):
                kept.append(result)
        else:
            if inputs[0] is None:
                raise _NotBags("a loop without end")
        if sequence is None:
            (only,) = scanned
            return tuple(only)
        items = carried[loop.outputs.index(sequence)]
        if not isinstance(items, tuple):
            raise _NotBags("no sequence")
        return items

    def _whole(self, name: str | None) -> int:
        return int(_array(self._outer(name or "")))

    def _outer(self, name: str) -> _Item:
        """Return a value of the graph around the loop."""
        if name in self.facts and self.facts[name].content is not None:
            content = np.asarray(self.facts[name].content)
            if content.dtype != object and content.dtype.kind in "iub":
                return content
        if self.rewriter.producer(name, "SequenceEmpty"):
            return ()
        return _Tensor("value", (name,))

    def _body(self, body: Body, scope: dict[str, _Item]) -> list[_Item]:
        scope.update({name: np.asarray(constant.load()) for name, constant in body.constants.items()})
        for operation in body.operations:
            results = self._operation(operation, scope)
            scope.update((name, item) for name, item in zip(operation.outputs, results, strict=False) if name)
        return [self._look_up(name, scope) for name in body.outputs]

    def _look_up(self, name: str, scope: Mapping[str, _Item]) -> _Item:
        return scope[name] if name in scope else self._outer(name)

    def _operation(self, operation: Operation, scope: Mapping[str, _Item]) -> list[_Item]:
        attributes = onnx_attributes(operation)
        items = [self._look_up(name, scope) if name else None for name in operation.inputs]
        if attributes.op_type == "If":
            branch = attributes.get("then_branch" if _array(items[0]) else "else_branch")
            assert isinstance(branch, Body)
            return self._body(branch, dict(scope))
        if all(item is None or isinstance(item, np.ndarray) for item in items) and attributes.op_type in MEANINGS:
            return list(evaluate(attributes, items, {}))  # type: ignore[arg-type]
        return [_on_data(operation, items)]


def _as_item(value: object) -> _Item:
    return np.asarray(value) if isinstance(value, np.generic) else value  # type: ignore[return-value]


def _array(item: _Item | None) -> np.ndarray:
    if not isinstance(item, np.ndarray):
        raise _NotBags("a number that depends on data")
    return item


def _integers(item: _Item | None) -> tuple[int, ...]:
    return tuple(int(element) for element in _array(item).reshape(-1))


def _on_data(operation: Operation, items: list[_Item | None]) -> _Item:
    """Return what an operation makes of rows of float data."""
    op_type = onnx_attributes(operation).op_type
    first = items[0]
    second = items[1] if len(items) > 1 else None
    if op_type == "SequenceInsert" and isinstance(first, tuple) and second is not None and len(items) == 2:
        return (*first, second)
    if op_type in ("Identity", "Cast") and first is not None:
        return first
    if op_type == "Slice" and isinstance(first, _Tensor):
        return _slice(first, items)
    is_of_rows = op_type == "Gather" and integer(operation, "axis", 0) == 0
    if is_of_rows and isinstance(first, _Tensor) and isinstance(second, _Rows):
        return dataclasses.replace(second, tensor=_Tensor("Gather", (first, second.tensor)))
    if isinstance(first, _Rows):
        return _of_rows(operation, op_type, first, second)
    if op_type == "Div" and isinstance(first, _Reduced) and first.op_type == "ReduceSum":
        return _mean(first, _integers(second))
    raise _NotBags(op_type)


def _mean(total: _Reduced, divisor: tuple[int, ...]) -> _Reduced:
    if divisor != (total.rows.end - total.rows.start,):
        raise _NotBags("a sum divided by something else than its length")
    return dataclasses.replace(total, op_type="ReduceMean")


def _of_rows(operation: Operation, op_type: str, first: _Rows, second: _Item | None) -> _Item:
    if op_type == "Unsqueeze" and 0 not in _integers(second):
        return dataclasses.replace(first, tensor=_Tensor("Unsqueeze", (first.tensor, _integers(second))))
    if op_type == "Mul" and isinstance(second, _Rows) and second == dataclasses.replace(first, tensor=second.tensor):
        return dataclasses.replace(first, tensor=_Tensor("Mul", (first.tensor, second.tensor)))
    axes = onnx_attributes(operation).integers("axes") if second is None else _integers(second)
    if op_type in _REDUCTIONS and axes == (0,):
        return _Reduced(op_type, first, bool(integer(operation, "keepdims", 1)))
    raise _NotBags(op_type)


def _slice(tensor: _Tensor, items: list[_Item | None]) -> _Rows:
    (start,), (end,) = _integers(items[1]), _integers(items[2])
    axes = _integers(items[3]) if len(items) > 3 and items[3] is not None else (0,)
    steps = _integers(items[4]) if len(items) > 4 and items[4] is not None else (1,)
    if axes != (0,) or steps != (1,) or not 0 <= start < end:
        raise _NotBags("a slice that is no bag")
    return _Rows(tensor, start, end)


def _replacement(
    rewriter: Rewriter, facts: Mapping[str, Fact], operation: Operation, items: tuple[_Item, ...]
) -> list[Operation]:
    """Return the operations that reduce all bags at once."""
    stacked = not is_onnx(operation, "ConcatFromSequence") or integer(operation, "new_axis", 0) == 1
    first = items[0] if items else None
    if not isinstance(first, _Reduced) or first.keeps_axis == stacked or len(operation.outputs) != 1:
        raise _NotBags("no bags")
    size = first.rows.end - first.rows.start
    for index, item in enumerate(items):
        rows = _Rows(first.rows.tensor, index * size, (index + 1) * size)
        if item != _Reduced(first.op_type, rows, first.keeps_axis):
            raise _NotBags("bags of different sizes")
    if _length(first.rows.tensor, facts) != len(items) * size:
        raise _NotBags("rows that no bag holds")
    return _emit(rewriter, operation, first, len(items), size)


def _length(tensor: _Tensor, facts: Mapping[str, Fact]) -> object:
    """Return how many rows a tensor has."""
    (*_, last) = tensor.arguments
    if tensor.op_type == "value":
        return facts[str(last)].shape[0]
    return _length(last if isinstance(last, _Tensor) else tensor.arguments[0], facts)  # type: ignore[arg-type]


def _emit(rewriter: Rewriter, operation: Operation, reduced: _Reduced, bags: int, size: int) -> list[Operation]:
    operations: list[Operation] = []

    def add(op_type: str, inputs: list[str], output: str | None = None, **attributes: object) -> str:
        name = output or rewriter.fresh(f"{operation.name}.{op_type}", (), "unknown")
        described = OnnxAttributes("", op_type, tuple(sorted(attributes.items())))
        origin = f"{operation.name}.{len(operations)}"
        operations.append(Operation("onnx", origin, tuple(inputs), (name,), described))
        return name

    def made(argument: _Tensor | tuple[int, ...] | str) -> str:
        if isinstance(argument, str):
            return argument
        if isinstance(argument, tuple):
            return rewriter.constant(f"{operation.name}.axes", np.array(argument, np.int64))
        inputs = [made(part) for part in argument.arguments]
        return inputs[0] if argument.op_type == "value" else add(argument.op_type, inputs)

    rows = made(reduced.rows.tensor)
    shape = rewriter.constant(f"{operation.name}.bags", np.array([bags, size, -1], np.int64))
    parts = add("Reshape", [rows, shape])
    axes = rewriter.constant(f"{operation.name}.axis", np.array([1], np.int64))
    add(reduced.op_type, [parts, axes], operation.outputs[0], keepdims=0)
    return operations
