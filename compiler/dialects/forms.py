"""The form (see `layout`) of every value of a graph, in one ordered sweep over its ONNX operations."""

from __future__ import annotations

import dataclasses

import numpy as np

from compiler.dialects import layout
from compiler.dialects.layout import Form
from compiler.dialects.rewrite import Rewriter, integer, is_onnx, onnx_attributes
from compiler.dialects.subgraph import Subgraph
from compiler.evaluate import FLOAT_DTYPES
from compiler.fold import drop_values
from compiler.graph import Graph, Operation
from compiler.shape_call import Call, Fact
from compiler.shape_rules import slice_ranges
from compiler.symbols import Contradiction, Solver, Undecided

_RESHAPES = ("Reshape", "Unsqueeze", "Squeeze", "Flatten")


class Forms:
    """Maps each value to its form; a value that is no arrangement of another one is its own source."""

    def __init__(self, rewriter: Rewriter, subgraph: Subgraph) -> None:
        self._rewriter, self._subgraph = rewriter, subgraph
        self._forms: dict[str, Form] = {}
        for operation in rewriter.graph.operations:
            for name, form in zip(operation.outputs, self._of_operation(operation), strict=False):
                if name is not None and form is not None:
                    self._forms[name] = form

    def __getitem__(self, name: str) -> Form:
        return self._forms.get(name) or layout.whole(name, self._rewriter.graph.value(name).shape)

    def _of_operation(self, operation: Operation) -> list[Form | None]:
        if operation.kind != "onnx" or not self._is_data(operation.outputs[0]):
            return []
        shape = self._rewriter.graph.value(operation.outputs[0] or "").shape
        if is_onnx(operation, *_RESHAPES):
            return [layout.reshaped(self._input(operation), shape)]
        if is_onnx(operation, "Transpose"):
            order = onnx_attributes(operation).get("perm", tuple(reversed(range(len(shape)))))
            return [layout.transposed(self._input(operation), order)]  # type: ignore[arg-type]
        if is_onnx(operation, "Tile") and not self._repeats_single(operation):
            return []
        if is_onnx(operation, "Expand", "Tile"):
            return [
                layout.expanded(
                    self._input(operation), self._rewriter.graph.value(operation.inputs[0] or "").shape, shape
                )
            ]
        if is_onnx(operation, "Neg"):
            return [layout.scaled(self._input(operation), -1.0)]
        if is_onnx(operation, "Slice"):
            return [self._slice(operation)]
        if is_onnx(operation, "Gather"):
            return [self._gather(operation)]
        if is_onnx(operation, "Split"):
            return self._split(operation)
        if is_onnx(operation, "Concat"):
            axis = integer(operation, "axis", 0) % len(shape)
            return [layout.joined([self[name] for name in operation.inputs if name], axis)]
        return [self._arithmetic(operation)] if len(operation.inputs) == 2 else []

    def _is_data(self, name: str | None) -> bool:
        """Tell whether a value depends on activations (masks, positions and tables have no form)."""
        return name is not None and not self._subgraph.is_evaluable(name)

    def _repeats_single(self, operation: Operation) -> bool:
        """Tell whether a Tile only repeats axes of size 1, as Expand does."""
        values = self._rewriter.graph.value
        before, after = (values(name or "").shape for name in (operation.inputs[0], operation.outputs[0]))
        return all(old in (1, new) for old, new in zip(before, after, strict=True))

    def _input(self, operation: Operation) -> Form:
        return self[operation.inputs[0] or ""]

    def _slice(self, operation: Operation) -> Form | None:
        graph = self._rewriter.graph
        facts = [self._fact(name) for name in operation.inputs]
        try:
            ranges = slice_ranges(Call(onnx_attributes(operation), facts, 1, Solver(graph.symbols), operation.name))
        except (Undecided, Contradiction):
            return None
        form: Form | None = self._input(operation)
        shape = list(graph.value(operation.inputs[0] or "").shape)
        for axis, start, size in ranges:
            form = layout.sliced(form, axis, start, size, shape[axis]) if form is not None else None
        return form

    def _fact(self, name: str | None) -> Fact | None:
        if name is None:
            return None
        value = self._rewriter.graph.value(name)
        return Fact(value.shape, value.dtype, self._rewriter.array(name))

    def _gather(self, operation: Operation) -> Form | None:
        """A Gather of one element of an axis: a slice, and its axis squeezed away if the index is a scalar."""
        graph = self._rewriter.graph
        shape, index = graph.value(operation.inputs[0] or "").shape, self._rewriter.array(operation.inputs[1])
        if index is None or index.size != 1 or index.ndim > 1:
            return None
        axis = integer(operation, "axis", 0) % len(shape)
        place = int(index.reshape(-1)[0])
        start = shape[axis] + place if place < 0 else place
        form = layout.sliced(self._input(operation), axis, start, 1, shape[axis])
        if form is None or index.ndim == 1:
            return form
        return dataclasses.replace(form, dims=(*form.dims[:axis], *form.dims[axis + 1 :]))

    def _split(self, operation: Operation) -> list[Form | None]:
        graph = self._rewriter.graph
        shape = graph.value(operation.inputs[0] or "").shape
        axis = integer(operation, "axis", 0) % len(shape)
        forms: list[Form | None] = []
        start = 0
        for name in operation.outputs:
            size = graph.value(name or "").shape[axis]
            forms.append(layout.sliced(self._input(operation), axis, start, size, shape[axis]))
            start = start + size  # type: ignore[assignment]
        return forms

    def _arithmetic(self, operation: Operation) -> Form | None:
        left, right = operation.inputs[0] or "", operation.inputs[1] or ""
        if is_onnx(operation, "Mul"):
            return self._product(left, right) if self._is_data(left) else self._product(right, left)
        if is_onnx(operation, "Div"):
            divisor = self._rewriter.scalar(right)
            return layout.scaled(self[left], 1.0 / divisor) if divisor else None
        if is_onnx(operation, "Add", "Sub") and self._is_data(left) and self._is_data(right):
            other = self[right] if is_onnx(operation, "Add") else layout.scaled(self[right], -1.0)
            return layout.added(self[left], other)
        return None

    def _product(self, data: str, factor: str) -> Form | None:
        graph = self._rewriter.graph
        if self._is_data(factor) or len(graph.value(factor).shape) > len(graph.value(data).shape):
            return None
        number = self._rewriter.scalar(factor)
        return layout.scaled(self[data], number) if number is not None else layout.multiplied(self[data], factor)


def cancel_layout(graph: Graph) -> Graph:
    """Drop chains of reshapes and transposes that give back the value they started from."""
    rewriter = Rewriter(graph)
    forms = Forms(rewriter, Subgraph(graph))
    substitution: dict[str, str] = {}
    for operation in graph.operations:
        name = operation.outputs[0] or ""
        if operation.kind != "onnx" or not name or graph.values[name].dtype not in FLOAT_DTYPES:
            continue
        form = forms[name]
        if form.source == name or form.scale is None or not np.isclose(form.scale, 1.0, rtol=1e-7):
            continue
        shape = graph.value(form.source).shape
        if graph.values[name].shape == shape and form.dims == layout.source_dims(shape):
            substitution[name] = form.source
    return drop_values(graph, substitution)
