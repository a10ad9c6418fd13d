"""Clean-up of a graph: constants evaluated away, no-ops dropped, equal operations merged, dead ones removed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from compiler.evaluate import FLOAT_DTYPES
from compiler.graph import Constant, Graph, OnnxAttributes, Operation, SizesAttributes, Value, reads
from compiler.shape_inference import analyse

# Constants up to this size are merged when their bytes are equal.
MERGED_BYTES = 1 << 20


def fold_constants(graph: Graph) -> Graph:
    """Replace values that depend on constants and sizes only; what is left of symbols becomes `sizes` operations."""
    facts = analyse(graph)
    constants, operations = dict(graph.constants), []
    for operation in graph.operations:
        contents = [facts[name].content if name else None for name in operation.outputs]
        is_output = any(name in graph.outputs for name in operation.outputs)
        if operation.kind != "onnx" or is_output or any(content is None for content in contents):
            operations.append(operation)
            continue
        for name, content in zip(operation.outputs, contents, strict=True):
            assert name is not None and content is not None
            if content.dtype == object:
                operations.append(Operation("sizes", name, (), (name,), SizesAttributes(tuple(content.reshape(-1)))))
            else:
                constants[name] = Constant(Value(name, content.shape, str(content.dtype)), content)
    values = {name: value for name, value in graph.values.items() if name not in constants}
    return remove_dead(dataclasses.replace(graph, constants=constants, operations=tuple(operations), values=values))


def drop_no_operations(graph: Graph) -> Graph:
    """Remove Identity, Dropout, Casts between float types or to the same type, and Concats of one tensor."""
    no_operations = [operation for operation in graph.operations if _is_no_operation(graph, operation)]
    return drop_values(graph, {operation.outputs[0] or "": operation.inputs[0] or "" for operation in no_operations})


def drop_values(graph: Graph, same_as: Mapping[str, str]) -> Graph:
    """Read an earlier value instead of each one that is the same; graph outputs keep their names."""
    substitution: dict[str, str] = {}
    operations = []
    for operation in graph.operations:
        inputs = tuple(substitution.get(name, name) if name else None for name in operation.inputs)
        operations.append(dataclasses.replace(operation, inputs=inputs))
        for name in operation.outputs:
            if name is not None and name in same_as:
                substitution[name] = substitution.get(same_as[name], same_as[name])
    graph = dataclasses.replace(graph, operations=tuple(operations))
    return remove_dead(_rename_outputs(graph, substitution))


def _is_no_operation(graph: Graph, operation: Operation) -> bool:
    attributes = operation.attributes
    if not isinstance(attributes, OnnxAttributes):
        return False
    if attributes.op_type == "Cast":
        before, after = (graph.value(name or "").dtype for name in (operation.inputs[0], operation.outputs[0]))
        return before == after or (before in FLOAT_DTYPES and after in FLOAT_DTYPES)
    if attributes.op_type == "Dropout":
        is_training = len(operation.inputs) > 2 and operation.inputs[2] is not None
        return not is_training and len([name for name in operation.outputs if name]) == 1
    return attributes.op_type == "Identity" or (attributes.op_type == "Concat" and len(operation.inputs) == 1)


def _rename_outputs(graph: Graph, substitution: dict[str, str]) -> Graph:
    """Let the producer of a substituted graph output write it under the output's own name."""
    produced = {name for operation in graph.operations for name in operation.outputs if name}
    renamed: dict[str, str] = {}
    for output in graph.outputs:
        source = substitution.get(output)
        if source in produced and source not in graph.outputs and source not in renamed:
            renamed[source] = output
    operations = []
    for operation in graph.operations:
        if any(output in renamed.values() for output in operation.outputs):
            continue
        inputs = tuple(renamed.get(name, name) if name else None for name in operation.inputs)
        outputs = tuple(renamed.get(name, name) if name else None for name in operation.outputs)
        operations.append(dataclasses.replace(operation, inputs=inputs, outputs=outputs))
    return dataclasses.replace(graph, operations=tuple(operations))


def merge_equal(graph: Graph) -> Graph:
    """Merge equal small constants and operations with equal inputs, so that layers share one mask and one table."""
    substitution = _equal_constants(graph)
    seen: dict[object, Operation] = {}
    operations = []
    for operation in graph.operations:
        inputs = tuple(substitution.get(name, name) if name else None for name in operation.inputs)
        operation = dataclasses.replace(operation, inputs=inputs)
        key = _operation_key(operation)
        original = seen.setdefault(key, operation)
        is_output = any(name in graph.outputs for name in operation.outputs)
        if original is operation or is_output:
            operations.append(operation)
            continue
        for name, kept in zip(operation.outputs, original.outputs, strict=True):
            if name and kept:
                substitution[name] = kept
    return remove_dead(dataclasses.replace(graph, operations=tuple(operations)))


def _equal_constants(graph: Graph) -> dict[str, str]:
    substitution: dict[str, str] = {}
    seen: dict[object, str] = {}
    for name, constant in graph.constants.items():
        source = constant.source
        if not isinstance(source, np.ndarray) or source.nbytes > MERGED_BYTES:
            continue
        digest = hashlib.sha256(np.ascontiguousarray(source).tobytes()).digest()
        substitution[name] = seen.setdefault((constant.value.shape, constant.value.dtype, digest), name)
    return substitution


def _operation_key(operation: Operation) -> object:
    attributes = operation.attributes
    if not isinstance(attributes, OnnxAttributes):
        return (operation.kind, operation.inputs, attributes, len(operation.outputs))
    items = tuple((name, _hashable(value)) for name, value in sorted(attributes.attributes, key=lambda item: item[0]))
    present = tuple(name is not None for name in operation.outputs)
    return (attributes.domain, attributes.op_type, items, operation.inputs, present)


def _hashable(value: object) -> object:
    if isinstance(value, np.ndarray):
        return (value.shape, str(value.dtype), value.tobytes())
    return value if isinstance(value, (int, float, str, tuple)) else id(value)


def remove_dead(graph: Graph) -> Graph:
    """Drop operations, constants and values that no output needs."""
    needed = set(graph.outputs)
    kept: list[Operation] = []
    for operation in reversed(graph.operations):
        if any(name in needed for name in operation.outputs):
            outputs = operation.outputs
            kept.append(dataclasses.replace(operation, outputs=outputs))
            needed.update(reads(operation))
    kept.reverse()
    return restricted(graph, kept)


def restricted(graph: Graph, operations: Iterable[Operation]) -> Graph:
    """Return the graph with these operations, and only the values and constants they use."""
    operations = tuple(operations)
    used = {name for operation in operations for name in (*reads(operation), *operation.outputs) if name}
    used |= {*graph.inputs, *graph.outputs}
    constants = {name: constant for name, constant in graph.constants.items() if name in used}
    values = {name: value for name, value in graph.values.items() if name in used and name not in constants}
    return dataclasses.replace(graph, operations=operations, constants=constants, values=values)
