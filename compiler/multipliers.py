"""`linear * multiplier (+ residual)`: a linear and what is made of its result element by element -> one linear.

The sums are then multiplied, and added to, before they are rounded: neither result in between is stored. Left apart are
linears with a gate, a residual of their own, or operands of a byte, whose sums get scales on the way out; results that
something else reads; constants and tensors of other shapes, which are broadcast; and what is estimated to be slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from compiler.dialects.rewrite import Rewriter, operands
from compiler.graph import Graph, LinearAttributes, Operation, PointwiseAttributes, Step
from compiler.legalize import RECIPES
from compiler.linear_cost import cycles
from compiler.linear_search import choose_linear
from compiler.linear_shape import LinearShape
from compiler.shaping import MULTIPLIER, RESIDUAL, input_at, linear_shape
from isa.affine import Affine
from isa.dtypes import BY_NAME, Dtype
from isa.errors import UnsupportedError
from isa.machine import Machine

PRODUCT, SUM = (Step("vmul", (0, 1)),), RECIPES["add"]


def fuse_multipliers(graph: Graph, machine: Machine, dtype: str, *, only_faster: bool = True) -> Graph:
    """Return the graph with linears that multiply their results; by estimate `only_faster` ones, or all."""
    finder = _Finder(graph, machine, BY_NAME[dtype], only_faster)
    for product in graph.operations:
        if _is_recipe(product, PRODUCT):
            finder.fuse(product)
    return finder.rewriter.build()


class _Finder:
    def __init__(self, graph: Graph, machine: Machine, dtype: Dtype, only_faster: bool) -> None:
        self.graph, self.machine, self.dtype, self.only_faster = graph, machine, dtype, only_faster
        self.rewriter = Rewriter(graph)

    def fuse(self, product: Operation) -> None:
        """Put a linear in the place of a product or the addition to it, if one gains; the first of several that do."""
        for linear, multiplier in self._factors(product):
            for last, residual in (*self._additions(product), (product, None)):
                inputs = [*linear.inputs, *(None,) * (MULTIPLIER + 1 - len(linear.inputs))]
                inputs[MULTIPLIER], inputs[RESIDUAL] = multiplier, residual
                fused = replace(linear, name=last.name, inputs=tuple(inputs), outputs=last.outputs)
                if self._gains(linear, fused):
                    self.rewriter.replace(last, [fused])
                    return

    def _factors(self, product: Operation) -> list[tuple[Operation, str]]:
        """Return the linears that may do a product, each with its other operand, the last one first."""
        found = [
            (self.rewriter.producers[own], other)
            for own, other in operands(product)
            if self._may_multiply(own) and self._is_alike(product, own, other)
        ]
        return sorted(found, key=lambda item: self.rewriter.position(item[0]), reverse=True)

    def _may_multiply(self, result: str) -> bool:
        """Tell whether a value is made by a linear that has none of what excludes a multiplier."""
        linear = self.rewriter.producers.get(result)
        if linear is None or not isinstance(linear.attributes, LinearAttributes):
            return False
        return linear.attributes.gate is None and input_at(linear, RESIDUAL) is None

    def _additions(self, product: Operation) -> Iterator[tuple[Operation, str]]:
        """Yield the addition that is the only reader of a product, with what it adds."""
        result = product.outputs[0] or ""
        addition = self.rewriter.sole_consumer(result)
        if addition is None or not _is_recipe(addition, SUM, "add") or self.rewriter.is_replaced(addition):
            return
        other = next(other for own, other in operands(addition) if own == result)
        if self._is_alike(addition, result, other):
            yield addition, other

    def _is_alike(self, reader: Operation, own: str, other: str) -> bool:
        """Tell whether an operation alone reads a value, and with it a computed one of the same shape."""
        shapes = [self.graph.value(name).shape for name in (own, other)]
        is_computed = other not in self.graph.constants and shapes[0] == shapes[1]
        return is_computed and own != other and self.rewriter.sole_consumer(own) is reader

    def _gains(self, linear: Operation, fused: Operation) -> bool:
        """Tell whether the machine has a kernel for a fused linear that is not slower than what it replaces."""
        names = (linear.inputs[0], linear.outputs[0])
        if any(isinstance(dim, Affine) for name in names for dim in self.graph.value(name or "").shape):
            return False
        apart, together = (linear_shape(self.graph, op, self.dtype) for op in (linear, fused))
        if apart.is_scaled or not self.machine.peak_macs_per_cycle(apart.dtype.name):
            return False
        try:
            took, takes = (cycles(choose_linear(shape, self.machine), self.machine) for shape in (apart, together))
        except UnsupportedError:
            return False
        return not self.only_faster or takes <= took + self._saved_cycles(together)

    def _saved_cycles(self, shape: LinearShape) -> float:
        """Return the least that is saved: launches that read two tensors and write one, for each that results meet."""
        saved, machine = len(shape.results_like), self.machine
        passed_bytes = 3 * saved * shape.rows * shape.outputs * shape.out_dtype.bytes
        launches = saved * machine.control.launch_replace_ns / machine.cycle_ns
        return passed_bytes / machine.sram.bytes_per_cycle + launches


def _is_recipe(op: Operation, steps: tuple[Step, ...], kind: str = "") -> bool:
    return op.kind == kind or (isinstance(op.attributes, PointwiseAttributes) and op.attributes.steps == steps)
